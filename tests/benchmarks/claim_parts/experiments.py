"""The experiments: which arm learns from which patients, and the row that each leaves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from claim_parts.training import (
    FOLD,
    Job,
    Recipe,
    as_whole_numbers,
    dice,
    fine_tune,
    forget,
    plan_of,
    predict,
    pretrain,
    probabilities,
    seconds_of,
)
from odiff.geometry import VIEWS
from odiff.learning.context import FUSED
from odiff.learning.pretrained import ResultsFolder
from odiff.storage import read_json

SEEDS = (0, 1, 2)
RATES = (0.3, 1.0, 3.0)
FEW, ALL = 0.1, 1.0
SEGMENTED = ("sagittal",)
COMMON = ("fusion.tabular=false", "pretrain.probe_every=0")
DEFAULT = Recipe("default", "default", (), COMMON)
NONE = "none"


@dataclass(frozen=True)
class Experiment:
    """One fine-tuning of one seed and what it is scored on.

    `groups` are test sets. A diagnosis by several views is also scored by each alone, and with each missing.
    """

    job: Job
    task: str
    views: tuple[str, ...]
    groups: tuple[str, ...] = ("same",)

    @property
    def arm(self) -> str:
        """Who learnt, without the seed."""
        job = self.job
        return arm_name(job.cohort, self.task, self.views, job.recipe.name, job.pretrained, job.fraction)

    @property
    def name(self) -> str:
        """As its row is called."""
        return f"{self.arm}_seed{self.job.seed}"


def arm_name(cohort: str, task: str, views: Sequence[str], recipe: str, pretrained: str, fraction: float) -> str:
    """What learnt what from whom, as rows call it."""
    start = "scratch" if pretrained == NONE else f"from_{pretrained}"
    return f"{cohort}_{task}_{'-'.join(views)}_{recipe}_{start}_{fraction:g}"


def experiments() -> list[Experiment]:
    """All of them, those first that most claims need."""
    found = []
    for seed in SEEDS:
        for fraction in (FEW, ALL):
            for start in ("knee", NONE):
                job = Job("knee", DEFAULT, start, fraction, seed)
                found.append(Experiment(job, "diagnosis", VIEWS, ("same", "centre", "field")))
                found.append(Experiment(job, "segmentation", SEGMENTED))
            longer = Job("knee", replace(DEFAULT, name="twice"), NONE, fraction, seed, ("segmentation.steps*2",))
            found.append(Experiment(longer, "segmentation", SEGMENTED))
        for joint in ("ankle", "shoulder"):
            for start in ("knee", NONE):
                found.append(Experiment(Job(joint, DEFAULT, start, FEW, seed), "diagnosis", VIEWS))
    return found


def run(folder: Path, experiment: Experiment, rates: dict[str, float]) -> dict[str, Any]:
    """Train, predict and score; what the row holds beside its provenance.

    Parameters
    ----------
    rates : by arm, the factor on the learning rate that an earlier seed chose; where there is none, each of `RATES` is tried and
        the best on the validation patients taken.
    """
    job, tried = experiment.job, {}
    known = rates.get(experiment.arm)
    for rate in (known,) if known else RATES:
        results = fine_tune(folder, results_of(folder, experiment, rate), with_rate(folder, job, experiment.task, rate),
                            experiment.task, experiment.views)  # fmt: skip
        tried[rate] = (validation_score(results, experiment), results)
    rate = max(tried, key=lambda one: tried[one][0])
    results = tried[rate][1]
    row = {
        "arm": experiment.arm, "seed": job.seed, "rate": rate, "tried": {str(one): score for one, (score, _) in tried.items()},
        "seconds": seconds(folder, experiment, results), "scores": SCORE[experiment.task](folder, experiment, results),
    }  # fmt: skip
    for _, tried_results in tried.values():
        forget(tried_results)
    return row


def results_of(folder: Path, experiment: Experiment, rate: float) -> Path:
    """The results root of one rate of an experiment."""
    return folder / "results" / experiment.name / f"rate_{rate:g}"


def with_rate(folder: Path, job: Job, task: str, rate: float) -> Job:
    """The job with the learning rate of its fine-tuning, and any field written ``field*factor``, multiplied."""
    plan, changes = plan_of(folder, job), []
    for change in (*job.changes, f"{task}.learning_rate*{rate:g}"):
        field, sign, factor = change.partition("*")
        if sign:
            task_name, name = field.split(".")
            value = getattr(getattr(plan, task_name), name)
            change = f"{field}={type(value)(value * float(factor))}"
        changes.append(change)
    return replace(job, changes=tuple(changes))


def validation_score(results: ResultsFolder, experiment: Experiment) -> float:
    """Macro AUROC, or mean Dice, of the validation patients."""
    view = FUSED if experiment.task == "diagnosis" and len(experiment.views) > 1 else experiment.views[0]
    summary = read_json(
        results.task(view, experiment.task, FOLD).validation / "summary.json", ValueError, "train again"
    )
    if experiment.task == "segmentation":
        return float(summary["mean"]["mean"]["dice"])
    return float(summary["labels"]["macro"]["auroc"])


def seconds(folder: Path, experiment: Experiment, results: ResultsFolder) -> dict[str, float]:
    """Of the steps of pretraining and of fine-tuning, over the views."""
    job = experiment.job
    found = {"fine_tuning": sum(seconds_of(results.task(v, experiment.task, FOLD)) for v in experiment.views)}
    if job.pretrained != NONE:
        runs = [pretrain(folder, job.pretrained, job.recipe, view, job.seed) for view in experiment.views]
        found["pretraining"] = sum(map(seconds_of, runs))
    return {name: round(value, 1) for name, value in found.items()}


def score_diagnosis(folder: Path, experiment: Experiment, results: ResultsFolder) -> dict[str, Any]:
    """Probabilities by test group and by who looked: ``fused``, a view alone, ``without_<view>``."""
    cohort, views = experiment.job.cohort, experiment.views
    looks: dict[str, tuple[str | None, tuple[str, ...]]] = {"fused" if len(views) > 1 else views[0]: (None, views)}
    if len(views) > 1:
        looks |= {view: (view, (view,)) for view in views}
        looks |= {f"without_{view}": (None, tuple(one for one in views if one != view)) for view in views}
    found: dict[str, Any] = {}
    for group in experiment.groups:
        for name, (by, seen) in looks.items() if group == "same" else [next(iter(looks.items()))]:
            truth, probability, cases = probabilities(
                folder, cohort, group, predict(folder, results, cohort, group, "diagnosis", by, seen)
            )
            kept = found.setdefault(group, {"cases": cases, "truth": truth.astype(int).tolist()})
            if kept["cases"] != cases:
                raise RuntimeError(f"{experiment.name}: {group}, {name}: other cases than before")
            kept[name] = as_whole_numbers(probability)
    return found


def score_segmentation(folder: Path, experiment: Experiment, results: ResultsFolder) -> dict[str, Any]:
    """Dice of each structure by test group and file."""
    cohort, found = experiment.job.cohort, {}
    labels = plan_of(folder, experiment.job).labels
    for group in experiment.groups:
        predictions = predict(folder, results, cohort, group, "segmentation", None, experiment.views)
        scores = dice(folder, cohort, group, predictions, labels)
        found[group] = {"cases": list(scores), "dice": as_whole_numbers(np.array(list(scores.values())))}
    return found


SCORE = {"diagnosis": score_diagnosis, "segmentation": score_segmentation}
