"""cases.csv: one row per case; an empty cell is unknown."""

import csv
import math
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from odiff.dataset.description import DatasetDescription
from odiff.errors import DatasetError

LATERALITIES = ("L", "R")
BINARY = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}


@dataclass(frozen=True)
class CaseRow:
    """What cases.csv knows of one case; None is unknown."""

    case: str
    patient: str
    laterality: str | None = None
    diagnoses: dict[str, int | None] = field(default_factory=dict)
    groups: dict[str, str | None] = field(default_factory=dict)
    tabular: dict[str, float | str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class TableFault:
    """One cell or column that breaks the contract; `case` is None where it is not one row's."""

    case: str | None
    field: str
    value: str
    advice: str


def read_case_table(
    path: Path, description: DatasetDescription, *, require_labels: bool = True, skip: Collection[str] = ()
) -> dict[str, CaseRow]:
    """Rows by case name.

    Parameters
    ----------
    require_labels : whether every diagnosis needs its column; not so in an input folder of odiff_predict.
    skip : cases whose rows may be faulty.

    Raises
    ------
    DatasetError
        The first fault of `scan_case_table`.
    """
    rows, faults = scan_case_table(path, description, require_labels=require_labels)
    faults = [fault for fault in faults if fault.case is None or fault.case not in skip]
    if faults:
        first = faults[0]
        where = f"{path}: case {first.case}" if first.case else str(path)
        more = f" ({len(faults) - 1} more; odiff_verify_dataset lists all)" if len(faults) > 1 else ""
        raise DatasetError(f"{where}: {first.field} is {first.value!r}; {first.advice}{more}")
    return rows


def scan_case_table(
    path: Path, description: DatasetDescription, *, require_labels: bool = True
) -> tuple[dict[str, CaseRow], list[TableFault]]:
    """Rows that can be used, and every fault found on the way."""
    import pandas as pd  # slow to import, and prediction may have no table

    try:
        with warnings.catch_warnings():
            # of cells beyond the header, which are faults below
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
        header, *lines = _lines(path)
    except (OSError, UnicodeDecodeError, csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError) as fault:
        reason = str(fault).strip().splitlines()[0]
        return {}, [TableFault(None, "file", reason, "save it as comma-separated UTF-8 text with a header line")]
    faults = _column_faults(header, description, require_labels) + _surplus_cells(header, lines)
    table.columns = [str(column).strip() for column in table.columns]
    if any(fault.field == "column case" for fault in faults):
        return {}, faults
    rows: dict[str, CaseRow] = {}
    for record in table.to_dict("records"):
        cells = {str(key): str(value).strip() for key, value in record.items()}
        row, found = _parse_row(cells, description)
        faults += found
        if row.case in rows:
            faults.append(TableFault(row.case, "case", row.case, "this case has two rows; keep one"))
        elif row.case:
            rows[row.case] = row
    return rows, faults


def _lines(path: Path) -> list[list[str]]:
    """The cells of each line as written, the column names first: pandas renames the second of two alike, and drops surplus cells."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [[cell.strip() for cell in line] for line in csv.reader(file) if line]


def _surplus_cells(header: list[str], lines: list[list[str]]) -> list[TableFault]:
    """Cells with something in them that no column is for."""
    size = len(header)
    return [
        TableFault(None, f"row {number}", ",".join(line), f"it has {len(line)} cells and the header {size}: name the column, or delete it")
        for number, line in enumerate(lines, start=1) if any(line[size:])
    ]  # fmt: skip


def _column_faults(columns: list[str], description: DatasetDescription, require_labels: bool) -> list[TableFault]:
    wanted = ["case"]
    known = {"case", "patient", "laterality", *description.diagnoses, *description.tabular, *description.groups}
    if require_labels:
        wanted += ["patient", *description.diagnoses, *description.tabular, *description.groups]
    missing = [
        TableFault(None, f"column {name}", "missing", "add the column; leave cells empty where unknown")
        for name in wanted
        if name not in columns
    ]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    meant = {name.casefold(): name for name in known if name not in columns}
    almost = [
        TableFault(None, f"column {column}", "unknown", f"write it as {meant[column.casefold()]}")
        for column in columns
        if column not in known and column.casefold() in meant
    ]
    return [
        *missing,
        *(TableFault(None, f"column {name}", "twice", "keep one of the columns") for name in twice),
        *almost,
    ]


def _parse_row(cells: dict[str, str], description: DatasetDescription) -> tuple[CaseRow, list[TableFault]]:
    case = cells.get("case", "")
    faults: list[TableFault] = []
    if not case:
        faults.append(TableFault(None, "case", "", "a row has no case name; fill it in or delete the row"))
    laterality = cells.get("laterality") or None
    if laterality not in (None, *LATERALITIES):
        faults.append(TableFault(case, "laterality", str(laterality), "write L, R, or leave it empty"))
        laterality = None
    diagnoses = {name: _binary(case, name, cells.get(name, ""), faults) for name in description.diagnoses}
    tabular = {
        name: _tabular(case, name, kind, cells.get(name, ""), faults) for name, kind in description.tabular.items()
    }
    groups = {name: cells.get(name) or None for name in description.groups}
    return CaseRow(case, cells.get("patient") or case, laterality, diagnoses, groups, tabular), faults


def _binary(case: str, name: str, cell: str, faults: list[TableFault]) -> int | None:
    if cell and cell not in BINARY:
        faults.append(TableFault(case, name, cell, "write 1, 0, or leave it empty where unknown"))
    return BINARY.get(cell)


def _tabular(case: str, name: str, kind: str, cell: str, faults: list[TableFault]) -> float | str | None:
    if not cell or kind == "categorical":
        return cell or None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        faults.append(TableFault(case, name, cell, "write a number, or leave it empty where unknown"))
        return None
    return value


def default_rows(cases: Iterable[str], description: DatasetDescription) -> dict[str, CaseRow]:
    """Rows for cases that have none: each its own patient, everything unknown."""
    unknown = {name: None for name in description.diagnoses}
    return {
        case: CaseRow(
            case,
            case,
            None,
            dict(unknown),
            {n: None for n in description.groups},
            {n: None for n in description.tabular},
        )
        for case in cases
    }
