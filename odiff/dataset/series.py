"""Image files and what their names say: ``<case>_<view>`` or ``<case>_<view>_<k>``."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from odiff.dataset.description import DatasetDescription


@dataclass(frozen=True)
class Series:
    """One acquired volume of a case in one view, and its mask where there is one."""

    case: str
    view: str
    index: int | None
    image: Path
    mask: Path | None = None

    @property
    def name(self) -> str:
        """``<case>_<view>`` or ``<case>_<view>_<k>``, unique in a dataset."""
        return f"{self.case}_{self.view}" if self.index is None else f"{self.case}_{self.view}_{self.index}"


def parse_name(name: str, views: Sequence[str]) -> tuple[str, str, int | None] | None:
    """Case, view and series number of a file name without its ending, read from the right; None where it does not fit."""
    match = re.fullmatch(rf"(.+)_({'|'.join(map(re.escape, views))})(?:_(\d+))?", name)
    if match is None:
        return None
    case, view, index = match.groups()
    return case, view, None if index is None else int(index)


def list_series(folder: Path, file_ending: str, views: Sequence[str]) -> tuple[tuple[Series, ...], tuple[Path, ...]]:
    """The series in a folder, sorted by name, and the files that are none.

    Hidden files and cases.csv are passed over; links to nowhere are not, so that whoever reads them says so.
    Names that parse alike (``a_axial_1`` and ``a_axial_01``) stay apart
    only by their file; the caller reports them.
    """
    found, other = [], []
    files = (
        sorted(path for path in folder.iterdir() if not path.is_dir() and not path.name.startswith("."))
        if folder.is_dir()
        else []
    )
    for path in files:
        if path.name == "cases.csv":
            continue
        parsed = parse_name(path.name[: -len(file_ending)], views) if path.name.endswith(file_ending) else None
        if parsed is None:
            other.append(path)
        else:
            found.append(Series(*parsed, path))
    return tuple(found), tuple(other)


def dataset_series(folder: Path, description: DatasetDescription) -> tuple[tuple[Series, ...], tuple[Path, ...]]:
    """Training series with their masks: from the explicit list where there is one, else from imagesTr and labelsTr."""
    if description.cases is not None:
        return listed_series(folder, description), ()
    ending = description.file_ending
    series, other = list_series(folder / "imagesTr", ending, description.views)
    return tuple(_with_mask(one, folder / "labelsTr" / one.image.name) for one in series), other


def mask_at(path: Path) -> Path | None:
    """The path of a mask, or of a link to one that is missing, which whoever reads it tells; None where there is nothing."""
    return path if path.exists() or path.is_symlink() else None


def _with_mask(series: Series, mask: Path) -> Series:
    return Series(series.case, series.view, series.index, series.image, mask_at(mask))


def listed_series(folder: Path, description: DatasetDescription) -> tuple[Series, ...]:
    """The explicit file list; several series of one view of a case are numbered in order."""
    entries = description.cases or ()
    alike = Counter((entry.case, entry.view) for entry in entries)
    seen: Counter[tuple[str, str]] = Counter()
    result = []
    for entry in entries:
        key = (entry.case, entry.view)
        mask = folder / entry.mask if entry.mask else None
        result.append(Series(*key, seen[key] if alike[key] > 1 else None, folder / entry.image, mask))
        seen[key] += 1
    return tuple(sorted(result, key=lambda series: series.name))
