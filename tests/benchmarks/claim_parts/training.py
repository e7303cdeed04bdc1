"""Training one arm of a comparison, and what its models say of the test patients, by the functions behind the commands."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from claim_parts.cohorts import COHORTS, write_splits
from claim_parts.looks import Looks, diagnose
from odiff.dataset import list_series
from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.geometry import VIEWS, read_mask, read_volume
from odiff.inference.predict import predict_folder
from odiff.inference.predictor import Predictor
from odiff.learning.asked import TrainOptions
from odiff.learning.pretrained import ResultsFolder
from odiff.learning.run import ORIGINS, RunSettings
from odiff.learning.stages import train_view
from odiff.metrics.segmentation import score_case
from odiff.plan import Plan, read_plan
from odiff.training.run_folder import RunFolder
from odiff.vocabulary import FUSED

FOLD = "0"


@dataclass(frozen=True)
class Recipe:
    """A preset, what planning and training change of it, and the arm's name in file names."""

    name: str
    preset: str
    planning: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One fine-tuning: `pretrained` is ``none`` or the cohort whose scans the recipe was pretrained on."""

    cohort: str
    recipe: Recipe
    pretrained: str
    fraction: float
    seed: int
    changes: tuple[str, ...] = ()
    device: str = "cpu"


def prepare(folder: Path, cohort: str, recipe: Recipe, like: str | None = None, processes: int = 2) -> Path:
    """Plan and preprocess a cohort for a recipe, where that is missing; the root."""
    root, dataset = folder / f"preprocessed_{recipe.preset}", COHORTS[cohort].dataset
    if not (root / dataset / "splits_final.json").exists():
        if like:
            prepare(folder, like, recipe, None, processes)
        options = PlanningOptions(
            preset=recipe.preset, overrides=recipe.planning, like=COHORTS[like].dataset if like else None,
            processes=processes,
        )  # fmt: skip
        plan_and_preprocess(folder / "raw", root, dataset, options, lambda _: None)
        write_splits(root / dataset)
    return root


def like_of(job: Job) -> str | None:
    """The cohort whose network a job's plan takes over: all others have the knee's, from scratch too."""
    return "knee" if job.cohort != "knee" else None


def plan_of(folder: Path, job: Job) -> Plan:
    """The plan a job trains with."""
    return read_plan(prepare(folder, job.cohort, job.recipe, like_of(job)) / COHORTS[job.cohort].dataset / "plans.json")


def settings_of(job: Job) -> RunSettings:
    """One process, on the CPU or a GPU."""
    return RunSettings(job.seed, torch.device(job.device), 0)


def seconds_of(run: RunFolder) -> float:
    """How long the steps of a run took, without validation and loading."""
    return float(sum(line["seconds"] for line in run.read_metrics() if "seconds" in line))


def seconds_of_a_step(run: RunFolder) -> float:
    """The median over the steps of a run but its first."""
    return float(np.median([line["seconds"] for line in run.read_metrics() if "seconds" in line][1:]))


def results_folder(root: Path, cohort: str, recipe: Recipe, fraction: float = 1.0) -> ResultsFolder:
    """Where a cohort's models of a recipe lie below a results root."""
    return ResultsFolder(root / COHORTS[cohort].dataset / recipe.preset, fraction)


def pretrain(folder: Path, job: Job, view: str) -> RunFolder:
    """The pretraining of a view that a job starts from, trained where it is missing."""
    cohort, recipe = job.pretrained, job.recipe
    results = folder / "pretrained" / f"{recipe.name}_{job.seed}"
    run = results_folder(results, cohort, recipe).pretrain(view)
    if not run.is_trained():
        train_view(
            prepare(folder, cohort, recipe), results, COHORTS[cohort].dataset, view, TrainOptions("pretrain"),
            settings_of(job), recipe.changes,
        )  # fmt: skip
    return run


def fine_tune(
    folder: Path, results: Path, job: Job, task: str, views: Sequence[str], like: ResultsFolder | None = None
) -> ResultsFolder:
    """Fold 0 of a task for some views, and of their fusion where there are several and the task is diagnosis.

    What the views share is learnt from the cohort's own scans or not at all: features of another joint are tried alone.
    Blocks, time steps, poolings and fusions are those that a run at another learning rate, `like`, chose on pretrained features: the rate
    has no part in that.
    """
    root = prepare(folder, job.cohort, job.recipe, like_of(job))
    changes = (*job.recipe.changes, *job.changes)
    own = results_folder(results, job.cohort, job.recipe, job.fraction)
    for view in trained_views(task, views):
        if like and task == "diagnosis":
            take_choices(like.task(view, task, FOLD), own.task(view, task, FOLD))
        start = "none"
        if is_pretrained(job, view):
            start = str(pretrain(folder, job, view).checkpoint("final"))
        options = TrainOptions(task, FOLD, start, job.fraction)
        train_view(root, results, COHORTS[job.cohort].dataset, view, options, settings_of(job), changes)
    return own


def trained_views(task: str, views: Sequence[str]) -> tuple[str, ...]:
    """The views, and their fusion last where there are several and the task is diagnosis."""
    return (*views, *((FUSED,) if task == "diagnosis" and len(views) > 1 else ()))


def is_pretrained(job: Job, view: str) -> bool:
    """Whether a view starts from pretraining: what views share is not taken from another joint."""
    return job.pretrained != "none" and (view != FUSED or job.pretrained == job.cohort)


def take_choices(done: RunFolder, new: RunFolder) -> None:
    """Let a run that was not begun start from the configuration of another, whose choices it keeps as if it were resumed.

    Models that the other stood on are left out: a fusion at another learning rate joins networks of its own.
    """
    if not new.config.exists():
        new.path.mkdir(parents=True, exist_ok=True)
        new.write_config({key: value for key, value in done.read_config().items() if key != ORIGINS})


def segment(folder: Path, results: ResultsFolder, job: Job, group: str, view: str) -> Path:
    """Segment the test patients of a group that have masks; the folder of predictions."""
    source = group_folder(folder, job.cohort, group)
    seen = results.path / "predictions" / group
    (seen / "in").mkdir(parents=True, exist_ok=True)
    for path in sorted((source / "labelsTs").glob(f"*_{view}.nii.gz")):
        (seen / "in" / path.name).unlink(missing_ok=True)
        (seen / "in" / path.name).symlink_to((source / "imagesTs" / path.name).resolve())
    predictor = Predictor(
        results.path, tasks=("segmentation",), label_fraction=results.label_fraction, device=torch.device(job.device)
    )
    predict_folder(predictor, seen / "in", seen / "out", cases_file=source / "cases.csv")
    return seen / "out"


def diagnose_group(
    folder: Path, results: ResultsFolder, job: Job, group: str, looks: Looks
) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    """The test patients of a group, their truth (cases, labels), and probabilities (cases, labels) by look."""
    source = group_folder(folder, job.cohort, group)
    found = diagnose(
        results.path, source / "imagesTs", source / "cases.csv", looks, results.label_fraction, torch.device(job.device)
    )
    by_look = {name: pd.DataFrame.from_dict(rows, orient="index").sort_index() for name, rows in found.items()}
    table = pd.read_csv(source / "cases.csv", dtype={"case": str}).set_index("case")
    first = next(iter(by_look.values()))
    labels = list(first.columns)
    probabilities = {name: rows.loc[first.index, labels].to_numpy(float) for name, rows in by_look.items()}
    return list(first.index), table.loc[first.index, labels].to_numpy(float), probabilities


def group_folder(folder: Path, cohort: str, group: str) -> Path:
    """Where the test patients of a group lie."""
    return folder / "test" / COHORTS[cohort].dataset / group


def dice(truth: Path, predictions: Path, labels: dict[str, int]) -> dict[str, list[float]]:
    """Dice of each structure, in the order of `labels`, by file; `truth` holds masks of the same names."""
    found = {}
    for one in list_series(predictions, ".nii.gz", VIEWS)[0]:
        spacing = read_volume(truth / one.image.name).grid.spacing_zyx_mm
        scores = score_case(read_mask(one.image).array, read_mask(truth / one.image.name).array, labels, spacing)
        found[one.image.name] = [scores[name]["dice"] for name in labels if name != "background"]
    return found


def forget(results: ResultsFolder) -> None:
    """Delete the copies of predictions, whose numbers are in the row."""
    shutil.rmtree(results.path / "predictions", ignore_errors=True)


def as_whole_numbers(values: np.ndarray) -> Any:
    """Numbers between 0 and 1 as ten-thousandths, which keeps the rows small."""
    return np.rint(np.asarray(values) * 10000).astype(int).tolist()
