"""The demo: plan, pretrain, fine-tune, fuse, predict held-out cases, and compare."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from odiff.dataset import list_series
from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.geometry import VIEWS
from odiff.inference.demo.dataset import write_dataset
from odiff.inference.demo.memory import PeakMemory
from odiff.inference.demo.scores import (
    HeldOut,
    floor_probabilities,
    floor_segmentations,
    mean_dice,
    read_held_out,
    untrained_segmentations,
)
from odiff.inference.overlay import draw_overlay
from odiff.inference.predict import predict_folder
from odiff.inference.predictor import Predictor
from odiff.learning.asked import TrainOptions
from odiff.learning.context import Context, open_context
from odiff.learning.run import RunSettings
from odiff.learning.stages import train_view
from odiff.metrics.classification import label_score, macro_score
from odiff.network.diagnosis import FeatureChoice
from odiff.storage import write_json
from odiff.training.device import loading_processes

log = logging.getLogger(__name__)
DATASET = "Dataset001_Knee"
CPU = torch.device("cpu")
OVERLAYS = 3


@dataclass(frozen=True)
class DemoSettings:
    """How large the demo is; the defaults fit two CPU cores and 7 minutes."""

    cases: int = 150
    test_cases: int = 30
    masked_cases: int = 24
    seed: int = 0
    processes: int = 2
    device: torch.device = CPU
    overrides: tuple[str, ...] = ()


def run_demo(folder: Path, settings: DemoSettings, say: Callable[[str], object]) -> dict[str, Any]:
    """Do the whole job below `folder`; a second call goes on where an interrupted one stopped.

    Returns
    -------
    What results.json holds: mean Dice and macro AUROC of model, floor and untrained network, seconds, peak memory.
    """
    started = time.perf_counter()
    with PeakMemory() as memory:
        context = train_demo(folder, settings, say)
        test = folder / "raw" / DATASET
        predictor = Predictor(context.results.path, device=settings.device)
        predictions = folder / "predictions"
        predict_folder(predictor, test / "imagesTs", predictions, cases_file=test / "cases.csv")
        series, _ = list_series(test / "imagesTs", ".nii.gz", VIEWS)
        table = pd.read_csv(test / "cases.csv", dtype={"case": str}).set_index("case")
        held_out = read_held_out(series, test / "labelsTs", dict(table["laterality"]))
        dice = dice_scores(context, held_out, predictions, settings.seed)
        auroc, per_label = auroc_scores(context, held_out, predictor, predictions, table, settings.seed)
        draw_overlays(folder / "overlays", held_out, predictions, context)
    result = {
        "dice": dice,
        "auroc": auroc,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_memory_gb": round(memory.peak_gb, 2),
        "auroc_per_label": per_label,
    }
    write_json(folder / "results.json", result)
    return result


def train_demo(folder: Path, settings: DemoSettings, say: Callable[[str], object]) -> Context:
    """Write the phantom, plan, pretrain three views, fine-tune both tasks, fuse."""
    raw, preprocessed, results = (folder / name for name in ("raw", "preprocessed", "results"))
    if not (raw / DATASET / "dataset.json").exists():
        say(f"writing {settings.cases} + {settings.test_cases} phantom knees -> {raw / DATASET}\n")
        write_dataset(
            raw / DATASET, joint="knee", cases=settings.cases, seed=settings.seed, test_cases=settings.test_cases,
            masked_cases=settings.masked_cases, processes=settings.processes,
        )  # fmt: skip
    options = PlanningOptions(preset="cpu_demo", processes=settings.processes, overrides=settings.overrides)
    plan = plan_and_preprocess(raw, preprocessed, "1", options, say)
    run = RunSettings(settings.seed, settings.device, loading_processes(settings.device))
    for view in (*plan.views, "fused"):
        train_view(preprocessed, results, "1", view, TrainOptions(fold="0"), run)
    return open_context(preprocessed, results, "1")


def dice_scores(context: Context, held_out: list[HeldOut], predictions: Path, seed: int) -> dict[str, float]:
    """Mean Dice over structures, series and views."""
    from odiff.geometry import read_mask

    labels = context.plan.labels
    model = [read_mask(predictions / one.series.image.name).array for one in held_out]
    return {
        "model": round(mean_dice(held_out, model, labels), 4),
        "floor": round(mean_dice(held_out, floor_segmentations(context, held_out), labels), 4),
        "untrained": round(mean_dice(held_out, untrained_segmentations(context, held_out, seed), labels), 4),
    }


def auroc_scores(
    context: Context, held_out: list[HeldOut], predictor: Predictor, predictions: Path, table: pd.DataFrame, seed: int
) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    """Macro AUROC over diagnoses, and AUROC of each."""
    diagnoses = context.plan.diagnoses
    found = pd.read_csv(predictions / "diagnosis.csv", dtype={"case": str}).set_index("case")
    cases = sorted(found.index)
    truth = table.loc[cases, list(diagnoses)].to_numpy(float)
    probabilities = {
        "model": found.loc[cases, list(diagnoses)].to_numpy(float),
        "floor": floor_probabilities(context, held_out, cases),
        "untrained": untrained_probabilities(context, predictor, held_out, cases, seed),
    }
    per_label = {
        name: {who: _rounded(label_score("auroc", truth[:, k], p[:, k])) for who, p in probabilities.items()}
        for k, name in enumerate(diagnoses)
    }
    return {who: _rounded(macro_score("auroc", truth, p)) for who, p in probabilities.items()}, per_label


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def untrained_probabilities(
    context: Context, predictor: Predictor, held_out: list[HeldOut], cases: list[str], seed: int
) -> np.ndarray:
    """Mean logits over views of the same networks with random weights; (cases, labels)."""
    from odiff.data.preprocessing import prepare
    from odiff.learning.diagnose import build_diagnosis, volume_logits

    plan = context.plan
    torch.manual_seed(seed)
    logits = np.zeros((len(cases), len(plan.diagnoses)))
    for view, trained in predictor.models.diagnosis.items():
        choice: FeatureChoice = next(iter(trained.values())).choice
        network = build_diagnosis(plan, view, choice).eval()
        for one in held_out:
            if one.series.view == view:
                image = prepare(one.volume, None, plan.views[view], one.laterality == "L").image
                logits[cases.index(one.series.case)] += volume_logits(network, image, plan, view) / len(plan.views)
    return logits


def draw_overlays(folder: Path, held_out: list[HeldOut], predictions: Path, context: Context) -> None:
    """Truth and prediction over the image, for the first cases in every view."""
    from odiff.geometry import read_mask

    shown = sorted({one.series.case for one in held_out})[:OVERLAYS]
    for one in held_out:
        if one.series.case in shown:
            predicted = read_mask(predictions / one.series.image.name).array
            masks = {"truth": one.truth, "predicted": predicted}
            path = folder / f"{one.series.name}.png"
            draw_overlay(path, one.volume, one.series.view, masks, context.plan.labels, one.series.name)
