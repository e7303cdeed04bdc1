"""predict.json: what the predictions of a folder were made with, and each case's of."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from odiff.data.tabular import Cell
from odiff.dataset import CaseRow, Series
from odiff.errors import DatasetError
from odiff.plan import from_plain, to_plain
from odiff.storage import read_json, size_and_time, write_json

FILE = "predict.json"
ADVICE = "choose another -o, or delete what is in this one"


@dataclass(frozen=True)
class MadeOf:
    """What a case's predictions depend on: laterality, the columns of the table, how many files failed, and its images.

    `images` holds size and time of each by name, and nothing where an earlier version predicted. Where `is_done` is false a call began
    to write what belongs to the case, and was interrupted.
    """

    laterality: str | None
    tabular: dict[str, Cell]
    unread: int = 0
    images: dict[str, str] = field(default_factory=dict)
    is_done: bool = True

    def changed_since(self, before: "MadeOf") -> frozenset[str]:
        """Names of the images that are new, changed or gone since."""
        if not before.images:
            return frozenset()
        names = {*self.images, *before.images}
        return frozenset(name for name in names if self.images.get(name) != before.images.get(name))


@dataclass(frozen=True)
class Provenance:
    """Weights and settings that all cases of a folder share; `folder` only tells where the weights lay, `cases` grows case by case."""

    model: str
    step_size: float
    mirroring: bool
    folder: str = field(compare=False)
    cases: dict[str, MadeOf] = field(default_factory=dict, compare=False)


def made_of(row: CaseRow | None, members: Sequence[Series]) -> MadeOf:
    """Of a row of cases.csv, where there is one, and the images of a case, none of which failed yet."""
    images = {one.image.name: size_and_time(one.image) for one in members}
    return MadeOf(row.laterality if row else None, dict(row.tabular) if row else {}, 0, images)


def read_provenance(path: Path) -> Provenance:
    """Read predict.json; a `DatasetError` where it is broken or holds something else."""
    content = read_json(path, DatasetError, ADVICE)
    try:
        return from_plain(Provenance, content, str(path), DatasetError)
    except DatasetError as fault:
        raise DatasetError(f"{fault}; {ADVICE}") from None


def write_provenance(path: Path, provenance: Provenance) -> None:
    """Write predict.json."""
    write_json(path, to_plain(provenance))


def check_same(path: Path, there: Provenance, now: Provenance) -> None:
    """Raise a `DatasetError` where predictions that are there were made with something else than those to come."""
    for name in (one.name for one in fields(now) if one.compare):
        before, value = getattr(there, name), getattr(now, name)
        if before != value:
            raise DatasetError(
                f"{path.parent}: holds predictions made with another {name} ({before!r}, now {value!r}); {ADVICE}"
            )
