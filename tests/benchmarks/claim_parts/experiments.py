"""The experiments: which arm learns from which patients, and the row that each leaves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from claim_parts.cohorts import COHORTS
from claim_parts.training import (
    FOLD,
    Job,
    Recipe,
    as_whole_numbers,
    diagnose_group,
    dice,
    fine_tune,
    forget,
    group_folder,
    is_pretrained,
    plan_of,
    pretrain,
    seconds_of,
    seconds_of_a_step,
    segment,
    trained_views,
)
from claim_parts.verdicts import Rows
from odiff.geometry import VIEWS
from odiff.learning.pretrained import ResultsFolder
from odiff.storage import read_json
from odiff.training.device import use_cores
from odiff.vocabulary import FUSED

SEEDS = (0, 1, 2)
# Factors on the plan's learning rate to try after the plan's own, each way from it.
LOWER, HIGHER = (0.3, 0.1, 0.03), (3.0, 10.0)
FEW, ALL = 0.1, 1.0
SEGMENTED = ("sagittal",)
COMMON = ("fusion.tabular=false", "pretrain.probe_every=0")
# A step takes .3 to .5 s on two cores; so many that all of it runs in a night.
STEPS = ("pretrain.steps=3000", "segmentation.steps=500", "diagnosis.steps=200")
DEFAULT = Recipe("default", "default", STEPS, COMMON)
# The paper's network and recipe on the default's grid: PAPER_SHORT sees as many samples as SHORT, PAPER_CLOCK takes as long as DEFAULT.
SHORT_STEPS, BATCH = 250, 4
SHORT = Recipe("short", "default", STEPS, (*COMMON, f"pretrain.steps={SHORT_STEPS}"))
PAPER_PLAN = ("limits.fixed_patch_zyx=[16,64,64]", f"limits.batch_size={BATCH}")
PAPER_SHORT = Recipe(
    "paper_short",
    "paper",
    PAPER_PLAN,
    ("fusion.tabular=false", f"pretrain.steps={SHORT_STEPS}", "pretrain.ema_after=100"),
)
PAPER_CLOCK = Recipe("paper_clock", "paper", PAPER_PLAN, ("fusion.tabular=false", "pretrain.ema_after=20"))
NONE = "none"
NNUNET, COUNTED = "nnunet", "nnunet_counted"
# How many steps of a kind are timed; the first, which prepares, is left out.
TIMED_STEPS = {"default": 21, "paper": 5, "segmentation": 21}
PRETRAIN = "pretrain"
Learnt = TypeVar("Learnt")


@dataclass(frozen=True)
class Experiment:
    """One training of one seed and what it is scored on.

    `task` is one of fine-tuning, `PRETRAIN`, or the clock's. `groups` are test sets. A diagnosis by several views is also
    scored by each alone, and with each missing.
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
    def is_of_cpu(self) -> bool:
        """Whether it stays on the CPU: nnU-Net, and the clock that tells how long it may take there."""
        return self.task == CLOCK.task or self.job.recipe.preset == NNUNET

    @property
    def name(self) -> str:
        """As its row is called."""
        return f"{self.arm}_seed{self.job.seed}"


CLOCK = Experiment(Job("knee", replace(DEFAULT, name="clock"), "knee", ALL, SEEDS[0]), "clock", SEGMENTED)


def arm_name(cohort: str, task: str, views: Sequence[str], recipe: str, pretrained: str, fraction: float) -> str:
    """What learnt what from whom, as rows call it."""
    start = "scratch" if pretrained == NONE else f"from_{pretrained}"
    return f"{cohort}_{task}_{'-'.join(views)}_{recipe}_{start}_{fraction:g}"


def experiments() -> list[Experiment]:
    """All of them, those first that most claims need."""
    found = [CLOCK]
    for recipe, views in (
        (DEFAULT, (*VIEWS, FUSED)),
        (SHORT, SEGMENTED),
        (PAPER_SHORT, SEGMENTED),
        (PAPER_CLOCK, SEGMENTED),
    ):
        jobs = [Job("knee", recipe, "knee", ALL, seed) for seed in SEEDS]
        found += [Experiment(job, PRETRAIN, (view,), ()) for job in jobs for view in views]
    for seed in SEEDS:
        for fraction in (FEW, ALL):
            for start in ("knee", NONE):
                job = Job("knee", DEFAULT, start, fraction, seed)
                found.append(Experiment(job, "diagnosis", VIEWS, ("same", "centre", "field")))
                found.append(Experiment(job, "segmentation", SEGMENTED))
            for name in (NNUNET, COUNTED):
                peer = Job("knee", Recipe(name, NNUNET), NONE, fraction, seed)
                found.append(Experiment(peer, "segmentation", SEGMENTED))
            longer = Job("knee", replace(DEFAULT, name="twice"), NONE, fraction, seed, ("segmentation.steps*2",))
            found.append(Experiment(longer, "segmentation", SEGMENTED))
        for recipe in (SHORT, PAPER_SHORT, PAPER_CLOCK):
            job = Job("knee", recipe, "knee", FEW, seed)
            found += [Experiment(job, task, SEGMENTED) for task in ("segmentation", "diagnosis")]
        # beside PAPER_CLOCK's, whose learning rate is searched for this view alone too
        found.append(Experiment(Job("knee", DEFAULT, "knee", FEW, seed), "diagnosis", SEGMENTED))
        for start in ("knee", NONE):
            found.append(Experiment(Job("atlas", DEFAULT, start, FEW, seed), "segmentation", SEGMENTED))
        for joint in ("ankle", "shoulder"):
            for start in ("knee", NONE):
                found.append(Experiment(Job(joint, DEFAULT, start, FEW, seed), "diagnosis", VIEWS))
    return found


def needs(experiment: Experiment) -> list[str]:
    """The names of the experiments that must be done before: its pretrainings and the clock."""
    job, found = experiment.job, []
    if job.recipe.preset == NNUNET or job.recipe.name == PAPER_CLOCK.name:
        found.append(CLOCK.name)
    if experiment.task in SCORE:
        if job.pretrained != NONE:
            before = Job(job.pretrained, job.recipe, job.pretrained, ALL, job.seed)
            starts = [view for view in trained_views(experiment.task, experiment.views) if is_pretrained(job, view)]
            found += [Experiment(before, PRETRAIN, (view,), ()).name for view in starts]
    return found


def run(folder: Path, experiment: Experiment, rows: Rows, rate_of_seed: int | None = None) -> dict[str, Any]:
    """Train, predict and score; what the row holds beside its provenance.

    Parameters
    ----------
    rows : those that are there, by arm and seed.
    rate_of_seed : the seed whose row's learning rate is taken over; without one it is searched.
    """
    if experiment.task == CLOCK.task:
        return {"arm": experiment.arm, "seed": experiment.job.seed, "seconds": seconds_of_steps(folder, experiment)}
    if experiment.job.recipe.preset == NNUNET:
        return run_nnunet(folder, experiment, rows, rate_of_seed)
    if experiment.job.recipe.name == PAPER_CLOCK.name:
        steps = plan_of(folder, replace(experiment.job, recipe=DEFAULT)).pretrain.steps
        experiment = replace(experiment, job=within_our_time(experiment.job, rows, steps))
    job = experiment.job
    if experiment.task == PRETRAIN:
        (view,) = experiment.views
        took = seconds_of(pretrain(folder, job, view))
        # what views share is learnt without steps, whose seconds are what a run keeps
        timed = {} if view == FUSED else {"pretraining": round(took, 1)}
        return {"arm": experiment.arm, "seed": job.seed, "seconds": timed}

    learnt: list[ResultsFolder] = []

    def attempt(rate: float) -> tuple[float, ResultsFolder]:
        changed, root = with_rate(folder, job, experiment.task, rate), results_of(folder, experiment, rate)
        results = fine_tune(folder, root, changed, experiment.task, experiment.views, next(iter(learnt), None))
        learnt.append(results)
        return validation_score(results, experiment), results

    row, results = best_rate(experiment, attempt, known_rate(rows, experiment, rate_of_seed))
    row |= {
        "seconds": seconds(folder, experiment, results), "scores": SCORE[experiment.task](folder, experiment, results),
    }  # fmt: skip
    forget(results)
    return row


def known_rate(rows: Rows, experiment: Experiment, seed: int | None) -> float | None:
    """The learning rate that the arm's row of a seed chose; None of no seed."""
    if seed is None:
        return None
    row = rows.get((experiment.arm, seed))
    if row is None:
        raise SystemExit(f"{experiment.arm}_seed{seed}: its row tells the learning rate to take over: run it first")
    return float(row["rate"])


def best_rate(
    experiment: Experiment, attempt: Callable[[float], tuple[float, Learnt]], known: float | None = None
) -> tuple[dict[str, Any], Learnt]:
    """The beginning of a row, and what `attempt` learnt at the rate with the best score on the validation patients.

    A `known` rate is the only one tried.
    From the plan's rate one goes down `LOWER` for as long as it gets better, and up `HIGHER`, where a lower one was not, for as long as it
    gets no worse: what has learnt nothing needs a higher one.
    """
    best = 1.0 if known is None else known
    tried: dict[float, tuple[float, Learnt]] = {best: attempt(best)}
    for way in (LOWER, HIGHER) if known is None else ():
        for rate in way:
            tried[rate] = attempt(rate)
            gain = tried[rate][0] - tried[best][0]
            if gain < 0 or (gain == 0 and way is LOWER):
                break
            if gain > 0:
                best = rate
        if best != 1:
            break
    scores = {f"{rate:g}": score for rate, (score, _) in tried.items()}
    return {"arm": experiment.arm, "seed": experiment.job.seed, "rate": best, "tried": scores}, tried[best][1]


def seconds_of_steps(folder: Path, experiment: Experiment) -> dict[str, float]:
    """The median of a step's seconds on one core: pretraining by either recipe, and segmentation by the default."""
    use_cores(1)
    job, (view,) = experiment.job, experiment.views
    found = {}
    for recipe in (DEFAULT, PAPER_SHORT):
        timed = replace(recipe, name=f"clock_{recipe.name}")
        timed = with_changes(timed, f"pretrain.steps={TIMED_STEPS[recipe.preset]}")
        found[recipe.preset] = seconds_of_a_step(pretrain(folder, replace(job, recipe=timed), view))
    short = replace(
        job, pretrained=NONE, recipe=with_changes(DEFAULT, f"segmentation.steps={TIMED_STEPS['segmentation']}")
    )
    results = fine_tune(folder, folder / "results" / experiment.name, short, "segmentation", (view,))
    return found | {"segmentation": seconds_of_a_step(results.task(view, "segmentation", FOLD))}


def with_changes(recipe: Recipe, *changes: str) -> Recipe:
    """The recipe, training changed."""
    return replace(recipe, changes=(*recipe.changes, *changes))


def within_our_time(job: Job, rows: Rows, steps: int) -> Job:
    """The paper's job with as many steps of pretraining as fit into the time of `steps` of the default's."""
    seconds = step_seconds(rows)
    return replace(
        job, recipe=with_changes(job.recipe, f"pretrain.steps={round(steps * seconds['default'] / seconds['paper'])}")
    )


def step_seconds(rows: Rows) -> dict[str, float]:
    """What the row of the clock says."""
    row = rows.get((CLOCK.arm, CLOCK.job.seed))
    if row is None:
        raise SystemExit(f"{CLOCK.name}: its row tells how long a step takes on the CPU: run it first")
    seconds: dict[str, float] = row["seconds"]
    return seconds


def run_nnunet(folder: Path, experiment: Experiment, rows: Rows, rate_of_seed: int | None) -> dict[str, Any]:
    """The row of nnU-Net, which may take as long as the steps of our arm take on the CPU, without or with its pretraining."""
    from claim_parts import nnunet

    job, (view,) = experiment.job, experiment.views
    like, seconds = replace(job, recipe=DEFAULT, pretrained="knee"), step_seconds(rows)
    plan = plan_of(folder, like)
    allowed = plan.segmentation.steps * seconds["segmentation"]
    if job.recipe.name == COUNTED:
        allowed += plan.pretrain.steps * seconds["default"]
    raw, labels = folder / "raw" / COHORTS[job.cohort].dataset, plan.labels

    def attempt(rate: float) -> tuple[float, tuple[Path, float]]:
        root = results_of(folder, experiment, rate)
        taken = nnunet.fine_tune(folder, root, like, view, rate, allowed)
        images = [raw / "imagesTr" / f"{name}.nii.gz" for name in nnunet.validation_series(root)]
        nnunet.predict(root, images, root / "validation", raw)
        return float(np.mean(list(dice(raw / "labelsTr", root / "validation", labels).values()))), (root, taken)

    row, (root, taken) = best_rate(experiment, attempt, known_rate(rows, experiment, rate_of_seed))
    found = {}
    for group in experiment.groups:
        test = group_folder(folder, job.cohort, group)
        images = [test / "imagesTs" / path.name for path in sorted((test / "labelsTs").glob(f"*_{view}.nii.gz"))]
        nnunet.predict(root, images, root / group, test)
        found[group] = as_row(dice(test / "labelsTs", root / group, labels))
    return row | {"seconds": {"fine_tuning": round(taken, 1), "allowed": round(allowed, 1)}, "scores": found}


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
    view = trained_views(experiment.task, experiment.views)[-1]
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
        runs = [pretrain(folder, job, view) for view in experiment.views]
        found["pretraining"] = sum(map(seconds_of, runs))
    return {name: round(value, 1) for name, value in found.items()}


def score_diagnosis(folder: Path, experiment: Experiment, results: ResultsFolder) -> dict[str, Any]:
    """Probabilities by test group and by who looked: ``fused``, a view alone, ``without_<view>``."""
    job, views = experiment.job, experiment.views
    looks: dict[str, tuple[str | None, tuple[str, ...]]] = {"fused" if len(views) > 1 else views[0]: (None, views)}
    if len(views) > 1:
        looks |= {view: (view, (view,)) for view in views}
        looks |= {f"without_{view}": (None, tuple(one for one in views if one != view)) for view in views}
    found: dict[str, Any] = {}
    for group in experiment.groups:
        wanted = looks if group == "same" else dict([next(iter(looks.items()))])
        cases, truth, by_look = diagnose_group(folder, results, job, group, wanted)
        found[group] = {"cases": cases, "truth": truth.astype(int).tolist()}
        found[group] |= {name: as_whole_numbers(probability) for name, probability in by_look.items()}
    return found


def score_segmentation(folder: Path, experiment: Experiment, results: ResultsFolder) -> dict[str, Any]:
    """Dice of each structure by test group and file."""
    cohort, found = experiment.job.cohort, {}
    labels = plan_of(folder, experiment.job).labels
    for group in experiment.groups:
        predictions = segment(folder, results, experiment.job, group, experiment.views[0])
        found[group] = as_row(dice(group_folder(folder, cohort, group) / "labelsTs", predictions, labels))
    return found


def as_row(scores: dict[str, list[float]]) -> dict[str, Any]:
    """Dice by file and structure as a row keeps it."""
    return {"cases": list(scores), "dice": as_whole_numbers(np.array(list(scores.values())))}


SCORE = {"diagnosis": score_diagnosis, "segmentation": score_segmentation}
