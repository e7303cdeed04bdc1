"""Tables to scores with intervals: overall and by group."""

from typing import Any

import numpy as np

from odiff.inference.evaluate.tables import DiagnosisTable, Evaluation, SegmentationTable
from odiff.metrics.bootstrap import REPEATS, draw_counts
from odiff.metrics.classification import MACRO, MICRO, Samples, sample_labels, score_labels, with_intervals
from odiff.metrics.structures import sample_structures

SEED = 0
LEAST_PATIENTS = 5

Table = SegmentationTable | DiagnosisTable


def samples_of(table: Table, counts: np.ndarray) -> Samples:
    """Every score of a table in each sample of `counts` (repeats, rows)."""
    if isinstance(table, SegmentationTable):
        return sample_structures(table.labels, table.values, counts)
    return sample_labels(table.labels, table.truth, table.probability, table.rows.patients, counts)


def draws_of(table: Table, repeats: int) -> np.ndarray:
    """Bootstrap samples of the patients of a table; tables of the same patients get the same samples."""
    return draw_counts(table.rows.patients, np.random.default_rng(SEED), repeats)


def summarise(evaluation: Evaluation, repeats: int = REPEATS) -> dict[str, Any]:
    """Scores with 95 % intervals of each task, and the same for every value of every group column."""
    summary: dict[str, Any] = {}
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for task, table in (("segmentation", evaluation.segmentation), ("diagnosis", evaluation.diagnosis)):
        if table is None:
            continue
        summary[task] = summarise_table(table, repeats)
        for column, values in table.rows.groups.items():
            for value in sorted(set(values) - {""}):
                kept = np.flatnonzero(np.asarray(values) == value)
                found = summarise_group(table.take(kept), repeats)
                groups.setdefault(column, {}).setdefault(value, {})[task] = found
    return {**summary, "groups": groups}


def summarise_group(table: Table, repeats: int) -> dict[str, Any]:
    """As `summarise_table`, or how many patients there are where these are fewer than `LEAST_PATIENTS`."""
    patients = table.rows.patient_count
    if patients < LEAST_PATIENTS:
        return {"patients": patients, "note": f"too few: a group is scored from {LEAST_PATIENTS} patients on"}
    return summarise_table(table, repeats)


def summarise_table(table: Table, repeats: int) -> dict[str, Any]:
    """Scores per label, macro and micro."""
    counted = {"patients": table.rows.patient_count, "rows": len(table.rows.names)}
    if isinstance(table, DiagnosisTable):
        rng = np.random.default_rng(SEED)
        scores = score_labels(table.labels, table.truth, table.probability, table.rows.patients, rng, repeats)
    else:
        point = samples_of(table, np.ones((1, len(table.rows.names))))
        drawn = samples_of(table, draws_of(table, repeats)) if table.rows.patient_count > 1 else {}
        scores = {name: with_intervals(one, drawn.get(name, {})) for name, one in point.items()}
    labels = {name: scores[name] for name in table.labels}
    return {**counted, "labels": labels, MACRO: scores[MACRO], MICRO: scores[MICRO]}
