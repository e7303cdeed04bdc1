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
from odiff.dataset import list_series
from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.geometry import VIEWS, read_mask, read_volume
from odiff.inference.predict import predict_folder
from odiff.inference.predictor import Predictor
from odiff.learning.context import FUSED
from odiff.learning.pretrained import ResultsFolder
from odiff.learning.run import RunSettings
from odiff.learning.stages import TrainOptions, train_view
from odiff.metrics.segmentation import score_case
from odiff.plan import Plan, read_plan
from odiff.training.run_folder import RunFolder

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


def prepare(folder: Path, cohort: str, recipe: Recipe, like: str | None = None) -> Path:
    """Plan and preprocess a cohort for a recipe, where that is missing; the root."""
    root, dataset = folder / f"preprocessed_{recipe.preset}", COHORTS[cohort].dataset
    if not (root / dataset / "splits_final.json").exists():
        options = PlanningOptions(
            preset=recipe.preset, overrides=recipe.planning, like=COHORTS[like].dataset if like else None
        )
        plan_and_preprocess(folder / "raw", root, dataset, options, lambda _: None)
        write_splits(root / dataset)
    return root


def like_of(job: Job) -> str | None:
    """The cohort whose network a job's plan takes over: all others have the knee's, from scratch too."""
    return "knee" if job.cohort != "knee" else None


def plan_of(folder: Path, job: Job) -> Plan:
    """The plan a job trains with."""
    return read_plan(prepare(folder, job.cohort, job.recipe, like_of(job)) / COHORTS[job.cohort].dataset / "plans.json")


def settings_of(seed: int) -> RunSettings:
    """One process, on the CPU."""
    return RunSettings(seed, torch.device("cpu"), 0)


def seconds_of(run: RunFolder) -> float:
    """How long the steps of a run took, without validation and loading."""
    return float(sum(line["seconds"] for line in run.read_metrics() if "seconds" in line))


def pretrain(folder: Path, cohort: str, recipe: Recipe, view: str, seed: int) -> RunFolder:
    """The pretraining of a view, trained where it is missing."""
    results = folder / "pretrained" / f"{recipe.name}_{seed}"
    context = train_view(
        prepare(folder, cohort, recipe), results, COHORTS[cohort].dataset, view, TrainOptions("pretrain"),
        settings_of(seed), recipe.changes,
    )  # fmt: skip
    return context.results.pretrain(view)


def fine_tune(folder: Path, results: Path, job: Job, task: str, views: Sequence[str]) -> ResultsFolder:
    """Fold 0 of a task for some views, and of their fusion where there are several and the task is diagnosis.

    What the views share is learnt from the cohort's own scans or not at all: features of another joint are tried alone.
    """
    root = prepare(folder, job.cohort, job.recipe, like_of(job))
    changes = (*job.recipe.changes, *job.changes)
    context = None
    for view in (*views, *((FUSED,) if task == "diagnosis" and len(views) > 1 else ())):
        start = "none"
        if job.pretrained != "none" and (view != FUSED or job.pretrained == job.cohort):
            start = str(pretrain(folder, job.pretrained, job.recipe, view, job.seed).checkpoint("final"))
        options = TrainOptions(task, FOLD, start, job.fraction)
        context = train_view(root, results, COHORTS[job.cohort].dataset, view, options, settings_of(job.seed), changes)
    assert context is not None
    return context.results


def predict(
    folder: Path, results: ResultsFolder, cohort: str, group: str, task: str, by: str | None = None, views: Sequence[str] = VIEWS
) -> Path:  # fmt: skip
    """Predict the test patients of a group from the files of some views; the folder of predictions."""
    source = group_folder(folder, cohort, group)
    seen = results.path / "predictions" / f"{group}_{task}_{by}_{'-'.join(views)}"
    (seen / "in").mkdir(parents=True, exist_ok=True)
    for path in sorted((source / "imagesTs").iterdir()):
        is_scored = task == "diagnosis" or (source / "labelsTs" / path.name).exists()
        if is_scored and path.name.rsplit("_", 1)[1].split(".")[0] in views:
            (seen / "in" / path.name).unlink(missing_ok=True)
            (seen / "in" / path.name).symlink_to(path.resolve())
    predictor = Predictor(results.path, tasks=(task,), diagnose_by=by, label_fraction=results.label_fraction)
    predict_folder(predictor, seen / "in", seen / "out", cases_file=source / "cases.csv")
    return seen / "out"


def probabilities(folder: Path, cohort: str, group: str, predictions: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Truth and probability (cases, labels) of the test patients of a group, and the patients."""
    table = pd.read_csv(group_folder(folder, cohort, group) / "cases.csv", dtype={"case": str})
    found = pd.read_csv(predictions / "diagnosis.csv", dtype={"case": str}).set_index("case")
    labels = [name for name in found.columns if name in table.columns]
    table = table.set_index("case").loc[sorted(found.index)]
    return table[labels].to_numpy(float), found.loc[table.index, labels].to_numpy(float), list(table.index)


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
