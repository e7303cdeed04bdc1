"""Which variant to use: ranked on the patients that all of them validated, the first two tested against each other."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from odiff.inference.evaluate.compare import compare_tables
from odiff.inference.evaluate.cross_validation import Variant
from odiff.inference.evaluate.summary import Table, samples_of
from odiff.metrics.classification import MACRO
from odiff.metrics.paired import Difference

RANKED_BY = {"segmentation": "dice", "diagnosis": "auroc"}
LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Ranked:
    """A variant and its macro score on the shared patients; None where it is not ranked, for the reason in `note`."""

    variant: Variant
    patients: int
    score: float | None
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """The variants of one task, best first, and the difference of the best to the runner-up."""

    task: str
    score: str
    patients: int
    ranked: tuple[Ranked, ...]
    difference: Difference | None

    @property
    def best(self) -> Variant | None:
        """The variant to use; None where no variant can be scored."""
        return self.ranked[0].variant if self.ranked and self.ranked[0].score is not None else None


def choose(variants: Sequence[Variant], task: str, repeats: int) -> Choice | None:
    """Rank the variants of a task by macro Dice or macro AUROC; None where none has the task.

    Variants that validated less than `LEAST_SHARE` of the patients of the one with most are listed, not ranked: they would
    shrink the patients that all are ranked on.
    """
    tables: list[tuple[Variant, Table]] = [
        (one, table) for one in variants if (table := getattr(one.evaluation, task)) is not None
    ]
    if not tables:
        return None
    most = max(table.rows.patient_count for _, table in tables)
    full = [(one, table) for one, table in tables if table.rows.patient_count >= LEAST_SHARE * most]
    shared = set.intersection(*(set(table.rows.patients) for _, table in full))
    scored = [Ranked(one, table.rows.patient_count, macro_on(table, shared, task)) for one, table in full]
    scored = [one if one.score is not None else _unranked(one, "too few patients to score") for one in scored]
    scored.sort(key=lambda one: -np.inf if one.score is None else one.score, reverse=True)
    left_out = [
        Ranked(one, table.rows.patient_count, None, f"validated {table.rows.patient_count} of {most} patients: train its other folds")
        for one, table in tables
        if table.rows.patient_count < LEAST_SHARE * most
    ]  # fmt: skip
    by_name = {one.name: table for one, table in full}
    return Choice(
        task, RANKED_BY[task], len(shared), (*scored, *left_out), _lead(scored, by_name, shared, task, repeats)
    )


def _unranked(one: Ranked, note: str) -> Ranked:
    return Ranked(one.variant, one.patients, None, note)


def macro_on(table: Table, patients: set[str], task: str) -> float | None:
    """The macro score of the rows of some patients; None where it cannot be computed."""
    kept = _rows_of(table, patients)
    if not len(kept):
        return None
    found = samples_of(table.take(kept), np.ones((1, len(kept)))).get(MACRO)
    return None if found is None or np.isnan(found[RANKED_BY[task]][0]) else float(found[RANKED_BY[task]][0])


def _rows_of(table: Table, patients: set[str]) -> np.ndarray:
    return np.flatnonzero([patient in patients for patient in table.rows.patients])


def _lead(
    ranked: Sequence[Ranked], tables: Mapping[str, Table], patients: set[str], task: str, repeats: int
) -> Difference | None:
    """Best minus runner-up."""
    scored = [one for one in ranked if one.score is not None][:2]
    if len(scored) < 2:
        return None
    best, second = (tables[one.variant.name].take(_rows_of(tables[one.variant.name], patients)) for one in scored)
    found = compare_tables(second, best, repeats, " and ".join(one.variant.name for one in scored))
    return found.differences.get(MACRO, {}).get(RANKED_BY[task])


def predict_commands(choices: Mapping[str, Choice], dataset: str, results: str | None) -> list[str]:
    """The odiff_predict calls that use the best variants: one where both tasks have the same plan, else one a task.

    Parameters
    ----------
    results : the folder that ``--results`` named; None where the environment does.
    """
    best = {task: choice.best for task, choice in choices.items() if choice.best is not None}
    plans = {variant.plan for variant in best.values()}
    common = ["odiff_predict", "-i", "IN", "-o", "OUT", "-d", dataset]
    ending = ["--results", results] if results else []
    commands = []
    for plan in sorted(plans):
        tasks = [task for task, variant in best.items() if variant.plan == plan]
        only = ["--task", tasks[0]] if len(plans) > 1 else []
        by = ["--diagnose-by", best["diagnosis"].view] if "diagnosis" in tasks else []
        target = [*common[:4], f"OUT_{tasks[0]}", *common[5:]] if len(plans) > 1 else common
        commands.append(shlex.join([*target, "-p", plan, *only, *by, *ending]))
    return commands
