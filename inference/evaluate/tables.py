"""What is scored, row by row: one series and structure, or one case and diagnosis; as arrays and as CSV."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from odiff.errors import DatasetError
from odiff.storage import write_text

SEGMENTATION_CASES, DIAGNOSIS_CASES = "segmentation_cases.csv", "diagnosis_cases.csv"
GROUP = "group_"
VIEW = "view"
ADVICE = "run odiff_evaluate on its predictions again"


@dataclass(frozen=True)
class Rows:
    """The series (segmentation) or cases (diagnosis) of a table; `groups` by column, "" where unknown."""

    names: tuple[str, ...]
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]

    def take(self, kept: np.ndarray) -> "Rows":
        """The rows with the numbers `kept`."""
        names, cases, patients = (tuple(part[row] for row in kept) for part in (self.names, self.cases, self.patients))
        groups = {column: tuple(values[row] for row in kept) for column, values in self.groups.items()}
        return Rows(names, cases, patients, groups)

    @property
    def patient_count(self) -> int:
        """How many patients the rows are of."""
        return len(set(self.patients))


@dataclass(frozen=True)
class SegmentationTable:
    """By score, (series, labels); NaN where a label has no such score, as thickness of a bone."""

    rows: Rows
    labels: tuple[str, ...]
    values: dict[str, np.ndarray]

    def take(self, kept: np.ndarray) -> "SegmentationTable":
        """The series with the numbers `kept`."""
        return SegmentationTable(
            self.rows.take(kept), self.labels, {name: value[kept] for name, value in self.values.items()}
        )


@dataclass(frozen=True)
class DiagnosisTable:
    """(cases, labels); truth is 1, 0, or NaN where unknown."""

    rows: Rows
    labels: tuple[str, ...]
    truth: np.ndarray
    probability: np.ndarray

    def take(self, kept: np.ndarray) -> "DiagnosisTable":
        """The cases with the numbers `kept`."""
        return DiagnosisTable(self.rows.take(kept), self.labels, self.truth[kept], self.probability[kept])


@dataclass(frozen=True)
class Evaluation:
    """What was scored of one set of predictions; None where a task has nothing."""

    segmentation: SegmentationTable | None
    diagnosis: DiagnosisTable | None


def segmentation_table(rows: Rows, scores: Sequence[Mapping[str, Mapping[str, float]]]) -> SegmentationTable:
    """A table from what `odiff.metrics.segmentation.score_case` found in each series."""
    labels = tuple(scores[0])
    names = dict.fromkeys(name for of_label in scores[0].values() for name in of_label)
    values = {
        name: np.array([[of_case[label].get(name, np.nan) for label in labels] for of_case in scores]) for name in names
    }
    return SegmentationTable(rows, labels, values)


def write_tables(folder: Path, evaluation: Evaluation) -> None:
    """Write segmentation_cases.csv and diagnosis_cases.csv, one row per name and label; one of what was not scored is removed."""
    for name in (SEGMENTATION_CASES, DIAGNOSIS_CASES):
        (folder / name).unlink(missing_ok=True)
    if (found := evaluation.segmentation) is not None:
        write_text(folder / SEGMENTATION_CASES, _long("series", found.rows, found.labels, found.values))
    if (diagnosed := evaluation.diagnosis) is not None:
        values = {"truth": diagnosed.truth, "probability": diagnosed.probability}
        write_text(folder / DIAGNOSIS_CASES, _long("name", diagnosed.rows, diagnosed.labels, values))


def _long(title: str, rows: Rows, labels: Sequence[str], values: Mapping[str, np.ndarray]) -> str:
    fixed: dict[str, Any] = {title: rows.names, "case": rows.cases, "patient": rows.patients}
    fixed |= {f"{GROUP}{column}": of_rows for column, of_rows in rows.groups.items()}
    table = pd.DataFrame({key: np.repeat(np.asarray(column, object), len(labels)) for key, column in fixed.items()})
    table["label"] = list(labels) * len(rows.names)
    for name, value in values.items():
        table[name] = value.ravel()
    return table.to_csv(index=False, float_format="%.6g")


def read_tables(folder: Path) -> Evaluation:
    """The tables that `write_tables` left in a folder.

    Raises
    ------
    DatasetError
        There are none, or one is damaged.
    """
    if not any((folder / name).exists() for name in (SEGMENTATION_CASES, DIAGNOSIS_CASES)):
        raise DatasetError(
            f"{folder}: holds no {SEGMENTATION_CASES} and no {DIAGNOSIS_CASES}; give the output folder of odiff_evaluate"
        )
    segmentation = diagnosis = None
    if (folder / SEGMENTATION_CASES).exists():
        segmentation = SegmentationTable(*_wide(folder / SEGMENTATION_CASES, "series"))
    if (folder / DIAGNOSIS_CASES).exists():
        rows, labels, values = _wide(folder / DIAGNOSIS_CASES, "name")
        if set(values) != {"truth", "probability"}:
            raise DatasetError(f"{folder / DIAGNOSIS_CASES}: lacks the columns truth and probability; {ADVICE}")
        diagnosis = DiagnosisTable(rows, labels, values["truth"], values["probability"])
    return Evaluation(segmentation, diagnosis)


def _wide(path: Path, title: str) -> tuple[Rows, tuple[str, ...], dict[str, np.ndarray]]:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        labels = tuple(dict.fromkeys(table["label"]))
        first = table.iloc[:: max(1, len(labels))]
        groups = {str(name)[len(GROUP) :]: tuple(first[name]) for name in table.columns if str(name).startswith(GROUP)}
        rows = Rows(tuple(first[title]), tuple(first["case"]), tuple(first["patient"]), groups)
        other = [c for c in table.columns if c not in (title, "case", "patient", "label") and not c.startswith(GROUP)]
        shape = (len(rows.names), len(labels))
        values = {name: np.array([float(c or "nan") for c in table[name]]).reshape(shape) for name in other}
    except (OSError, KeyError, ValueError, IndexError) as fault:
        raise DatasetError(f"{path}: cannot be read ({fault}); {ADVICE}") from None
    if not rows.names or list(table["label"]) != list(labels) * len(rows.names):
        raise DatasetError(f"{path}: does not hold every label of every {title} in order; {ADVICE}")
    return rows, labels, values
