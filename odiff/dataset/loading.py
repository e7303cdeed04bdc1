"""A dataset folder as cases; structural faults are errors here, voxels are left to odiff_verify_dataset."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from odiff.dataset.case_table import CaseRow, default_rows, read_case_table
from odiff.dataset.description import DatasetDescription, read_description
from odiff.dataset.series import Series, dataset_series
from odiff.errors import DatasetError

CASE_TABLE = "cases.csv"


@dataclass(frozen=True)
class Case:
    """One study: its series and what is known of it; None is unknown."""

    name: str
    patient: str
    laterality: str | None
    series: tuple[Series, ...]
    diagnoses: dict[str, int | None]
    groups: dict[str, str | None]
    tabular: dict[str, float | str | None]


@dataclass(frozen=True)
class Dataset:
    """The training cases of a dataset folder."""

    folder: Path
    description: DatasetDescription
    cases: tuple[Case, ...]
    warnings: tuple[str, ...]


def find_dataset(root: Path, wanted: str) -> Path:
    """The dataset folder in `root` that ``1``, ``001`` or ``Dataset001_Knee`` means.

    Raises
    ------
    DatasetError
        There is none, or more than one; the message lists what there is.
    """
    known = sorted(path for path in root.glob("Dataset*") if path.is_dir()) if root.is_dir() else []
    number = int(wanted) if re.fullmatch("[0-9]+", wanted) else None
    found = [path for path in known if path.name == wanted or (number is not None and _number(path.name) == number)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in known) or "no dataset folders"
    if found:
        raise DatasetError(
            f"dataset {wanted}: {', '.join(path.name for path in found)} share the number; give the full name"
        )
    raise DatasetError(f"dataset {wanted}: not found in {root}; there: {names}")


def _number(name: str) -> int | None:
    match = re.match(r"Dataset(\d+)_", name)
    return int(match.group(1)) if match else None


def load_dataset(folder: Path, skip: Collection[str] = ()) -> Dataset:
    """The description, the case table and the file names of a dataset folder, joined.

    Parameters
    ----------
    skip : names of cases to leave out, faults and all.

    Raises
    ------
    DatasetError
        dataset.json or cases.csv break the contract, there are no images, or two files stand for one series.
    """
    description = read_description(folder)
    series = tuple(one for one in dataset_series(folder, description)[0] if one.case not in skip)
    if not series:
        raise DatasetError(
            f"{folder / 'imagesTr'}: no images named <case>_<view>{description.file_ending} for the views {', '.join(description.views)}; "
            "odiff_verify_dataset says what is wrong with each file"
        )
    names = [one.name for one in series]
    for one, following in zip(sorted(names), sorted(names)[1:], strict=False):
        if one == following:
            raise DatasetError(f"{folder}: two files stand for the series {one}; rename one")
    of_case: dict[str, list[Series]] = {}
    for each in series:
        of_case.setdefault(each.case, []).append(each)
    rows, warnings = _rows(folder, description, sorted(of_case), skip)
    return Dataset(
        folder, description, tuple(join_case(rows[case], of_case[case]) for case in sorted(of_case)), warnings
    )


def join_case(row: CaseRow, series: Sequence[Series]) -> Case:
    """A table row and the series of its case."""
    return Case(row.case, row.patient, row.laterality, tuple(series), row.diagnoses, row.groups, row.tabular)


def _rows(
    folder: Path, description: DatasetDescription, cases: list[str], skip: Collection[str]
) -> tuple[dict[str, CaseRow], tuple[str, ...]]:
    path = folder / CASE_TABLE
    rows = default_rows(cases, description)
    if not path.exists():
        return rows, (f"{path}: not found: every case counts as its own patient, and no diagnosis is known",)
    return rows | read_case_table(path, description, skip=skip), ()
