"""diagnosis.csv of odiff_predict against what cases.csv knows."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from odiff.dataset import CaseRow, DatasetDescription
from odiff.errors import DatasetError
from odiff.inference.evaluate.tables import DiagnosisTable, Rows
from odiff.inference.output_folder import TABLE


def diagnosis_table(
    predictions: Path, rows: Mapping[str, CaseRow], expected: Collection[str], description: DatasetDescription
) -> tuple[DiagnosisTable | None, tuple[str, ...]]:
    """Probabilities beside the truth, and the names of `expected` cases with a known diagnosis but no row.

    Raises
    ------
    DatasetError
        diagnosis.csv lacks a diagnosis of dataset.json, or holds anything but probabilities.
    """
    path, labels = predictions / TABLE, description.diagnoses
    if not path.exists() or not labels:
        return None, ()
    found = read_probabilities(path, labels)
    known = {case for case, row in rows.items() if any(value is not None for value in row.diagnoses.values())}
    missing = tuple(f"diagnosis of {case}" for case in sorted((known & set(expected)) - set(found)))
    cases = tuple(sorted(known & set(found)))
    if not cases:
        return None, missing
    return table_of(cases, np.array([found[case] for case in cases]), rows, description), missing


def table_of(
    cases: tuple[str, ...], probability: np.ndarray, rows: Mapping[str, CaseRow], description: DatasetDescription
) -> DiagnosisTable:
    """A table of cases whose probabilities (cases, labels) are given, truth and groups from their rows."""
    truth = [[rows[case].diagnoses.get(label) for label in description.diagnoses] for case in cases]
    groups = {column: tuple(rows[case].groups.get(column) or "" for case in cases) for column in description.groups}
    known = Rows(cases, cases, tuple(rows[case].patient for case in cases), groups)
    return DiagnosisTable(known, description.diagnoses, np.array(truth, float), probability)


def read_probabilities(path: Path, labels: tuple[str, ...]) -> dict[str, list[float]]:
    """Probabilities by case, in the order of `labels`; a `DatasetError` names the cell that is none."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as fault:
        raise DatasetError(f"{path}: cannot be read ({fault}); predict again") from None
    for column in ("case", *labels):
        if column not in table.columns:
            raise DatasetError(
                f"{path}: has no column {column}; it is of another model, or dataset.json is another dataset's"
            )
    result: dict[str, list[float]] = {}
    for record in table.to_dict("records"):
        case = str(record["case"])
        if case in result:
            raise DatasetError(f"{path}: case {case} has two rows; keep one")
        result[case] = [_probability(path, case, label, str(record[label])) for label in labels]
    return result


def _probability(path: Path, case: str, label: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise DatasetError(f"{path}: case {case}: {label} is {cell!r}, expected a probability in 0..1; predict again")
    return value
