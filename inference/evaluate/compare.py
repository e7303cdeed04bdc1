"""Paired tests between evaluations: the difference of every score over the patients that both have."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from odiff.errors import DatasetError
from odiff.inference.evaluate.summary import Table, draws_of, samples_of
from odiff.inference.evaluate.tables import DiagnosisTable, Rows, SegmentationTable, read_tables
from odiff.metrics.paired import Difference, bootstrap_difference, wilcoxon_p
from odiff.plan import to_plain


@dataclass(frozen=True)
class Comparison:
    """By label, ``macro`` and ``micro``, then by score; `wilcoxon` holds p values of Dice by label and of their mean."""

    patients: int
    paired_by: str
    differences: dict[str, dict[str, Difference]]
    wilcoxon: dict[str, float]


def compare_folders(folders: Sequence[Path], repeats: int) -> list[dict[str, Any]]:
    """The first evaluation against each of the others, task by task.

    Raises
    ------
    DatasetError
        A folder holds no evaluation, or two share no task or no patient.
    """
    first = read_tables(folders[0])
    result = []
    for folder in folders[1:]:
        other = read_tables(folder)
        found: dict[str, Any] = {"first": str(folders[0]), "second": str(folder)}
        for task in ("segmentation", "diagnosis"):
            a, b = getattr(first, task), getattr(other, task)
            if a is not None and b is not None:
                found[task] = to_plain(compare_tables(a, b, repeats, f"{folders[0]} and {folder}: {task}"))
        if len(found) == 2:
            raise DatasetError(f"{folders[0]} and {folder}: no task was scored in both; compare folders of one task")
        result.append(found)
    return result


def compare_tables(first: Table, second: Table, repeats: int, where: str) -> Comparison:
    """Bootstrap differences over the shared patients, and Wilcoxon's test of Dice per patient.

    Raises
    ------
    DatasetError
        They share no patient or no label, or name a case's patient differently.
    """
    labels = [label for label in first.labels if label in second.labels]
    if not labels:
        raise DatasetError(f"{where}: they have no label in common")
    kept_a, kept_b, paired_by = shared_rows(first.rows, second.rows, where)
    a, b = (_of_labels(table.take(kept), labels) for table, kept in ((first, kept_a), (second, kept_b)))
    if isinstance(a, DiagnosisTable) and isinstance(b, DiagnosisTable) and paired_by == "name":
        _check_truth(a, b, where)
    points = [samples_of(table, np.ones((1, len(table.rows.names)))) for table in (a, b)]
    drawn = [samples_of(table, draws_of(table, repeats)) for table in (a, b)]
    differences: dict[str, dict[str, Difference]] = {}
    for label in (name for name in points[0] if name in points[1]):
        found = {
            score: bootstrap_difference(
                float(value[0]), float(points[1][label][score][0]), drawn[0][label][score], drawn[1][label][score]
            )
            for score, value in points[0][label].items()
            if score in points[1][label]
        }
        differences[label] = {score: one for score, one in found.items() if one is not None}
    tested = _wilcoxon(a, b) if isinstance(a, SegmentationTable) and isinstance(b, SegmentationTable) else {}
    return Comparison(a.rows.patient_count, paired_by, differences, tested)


def shared_rows(first: Rows, second: Rows, where: str) -> tuple[np.ndarray, np.ndarray, str]:
    """The numbers of the rows to compare: those of one name or, where no name is in both, of the patients in both.

    Raises
    ------
    DatasetError
        There are none, or a case is another patient's in the second.
    """
    patient_of = dict(zip(first.cases, first.patients, strict=True))
    for case, patient in zip(second.cases, second.patients, strict=True):
        if patient_of.get(case, patient) != patient:
            raise DatasetError(
                f"{where}: case {case} is of patient {patient_of[case]!r} in one and {patient!r} in the other; "
                "evaluate both with the same cases.csv"
            )
    for paired_by, ours, theirs in (("name", first.names, second.names), ("patient", first.patients, second.patients)):
        shared = set(ours) & set(theirs)
        if shared:
            position = {name: row for row, name in enumerate(theirs)}
            kept_a = [row for row, name in enumerate(ours) if name in shared]
            by_name = [position[ours[row]] for row in kept_a]
            kept_b = by_name if paired_by == "name" else [row for row, name in enumerate(theirs) if name in shared]
            return np.array(kept_a), np.array(kept_b), paired_by
    raise DatasetError(f"{where}: they have no patient in common; compare evaluations of the same cases")


def _check_truth(a: DiagnosisTable, b: DiagnosisTable, where: str) -> None:
    differs = np.argwhere((a.truth != b.truth) & ~(np.isnan(a.truth) & np.isnan(b.truth)))
    if len(differs):
        row, column = differs[0]
        raise DatasetError(
            f"{where}: case {a.rows.names[row]}: {a.labels[column]} is {a.truth[row, column]:g} in one and "
            f"{b.truth[row, column]:g} in the other; evaluate both with the same cases.csv"
        )


def _of_labels(table: Table, labels: Sequence[str]) -> Table:
    columns = [table.labels.index(label) for label in labels]
    if isinstance(table, DiagnosisTable):
        return DiagnosisTable(table.rows, tuple(labels), table.truth[:, columns], table.probability[:, columns])
    return SegmentationTable(table.rows, tuple(labels), {k: v[:, columns] for k, v in table.values.items()})


def _wilcoxon(a: SegmentationTable, b: SegmentationTable) -> dict[str, float]:
    """p values of Dice per patient, the mean over a patient's series, by label and as ``macro``."""
    differences = patient_means(b) - patient_means(a)
    columns = {**dict(zip(a.labels, differences.T, strict=True)), "macro": differences.mean(axis=1)}
    found = {label: wilcoxon_p(column) for label, column in columns.items()}
    return {label: p for label, p in found.items() if p is not None}


def patient_means(table: SegmentationTable) -> np.ndarray:
    """Mean Dice of each patient's series, patients in sorted order: (patients, labels)."""
    names, owner = np.unique(np.asarray(table.rows.patients), return_inverse=True)
    totals = np.zeros((len(names), len(table.labels)))
    np.add.at(totals, owner, table.values["dice"])
    return totals / np.bincount(owner)[:, None]
