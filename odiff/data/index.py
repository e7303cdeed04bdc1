"""What training knows of a dataset: the cases that were preprocessed, without touching the raw folder."""

from dataclasses import dataclass
from pathlib import Path

from odiff.errors import DatasetError
from odiff.plan import from_plain, to_plain
from odiff.storage import read_json, write_json

INDEX = "index.json"


@dataclass(frozen=True)
class PreparedSeries:
    """One preprocessed series; its arrays lie in the folder of its view under `name`."""

    name: str
    view: str
    is_masked: bool


@dataclass(frozen=True)
class PreparedCase:
    """One study with what is known of it; None is unknown."""

    name: str
    patient: str
    laterality: str | None
    series: tuple[PreparedSeries, ...]
    diagnoses: dict[str, int | None]
    groups: dict[str, str | None]
    tabular: dict[str, float | str | None]

    def of_view(self, view: str) -> tuple[PreparedSeries, ...]:
        """The series of one view."""
        return tuple(series for series in self.series if series.view == view)


@dataclass(frozen=True)
class PreparedDataset:
    """All preprocessed cases of a dataset, and the names of those that planning was told to skip."""

    name: str
    cases: tuple[PreparedCase, ...]
    skipped: tuple[str, ...] = ()


def write_index(folder: Path, dataset: PreparedDataset) -> None:
    """Write ``index.json`` into the preprocessed dataset folder."""
    write_json(folder / INDEX, to_plain(dataset))


def drop_index(folder: Path) -> None:
    """Remove it, before plan or arrays change: until it is written again training says that preprocessing is not finished."""
    (folder / INDEX).unlink(missing_ok=True)


def read_index(folder: Path) -> PreparedDataset:
    """Read ``index.json``; a `DatasetError` that names odiff_plan_and_preprocess where it is missing."""
    path = folder / INDEX
    content = read_json(
        path, DatasetError, f"preprocessing is not finished: run odiff_plan_and_preprocess -d {folder.name} again"
    )
    return from_plain(PreparedDataset, content, str(path), DatasetError)
