"""The paper's recipe and its variants on the phantom, at a size that two CPU cores finish in an hour.

    python tests/benchmarks/paper_recipes.py FOLDER [--only paper,default] [--json FILE]

FOLDER is filled on the first call and gone on with on later ones. Two arms learn from the same 120 knees (24 of them with masks):
``paper`` is the preset of that name with its patch cut to 16x64x64, 32 base channels and fewer steps of pretraining; ``default`` is
the preset cpu_demo. 100 knees of another seed are held out; intervals are 95 % from a bootstrap over them, one seed of training.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from claim_parts.training import dice

from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.geometry import VIEWS
from odiff.inference.fuse_views import fuse_folder
from odiff.inference.predict import predict_folder
from odiff.inference.predictor import Predictor
from odiff.learning.asked import TrainOptions
from odiff.learning.run import RunSettings
from odiff.learning.stages import train_view
from odiff.metrics.bootstrap import draw_counts
from odiff.metrics.classification import score_labels
from odiff.phantom import write_phantom_dataset
from odiff.training.device import use_cores

DATASET = "Dataset001_Knee"
SETTINGS = RunSettings(0, torch.device("cpu"), 0)
SMALL_PAPER = ("limits.fixed_patch_zyx=[16,64,64]", "network.base_channels=32", "limits.batch_size=1")
STEPS = ("pretrain.steps=300", "pretrain.ema_after=100", "segmentation.steps=450", "fusion.tabular=false")
FUSIONS = ("concat", "linear_concat", "linear_add", "cross_attention", "gated", "gated_stacked")


@dataclass(frozen=True)
class Arm:
    """One way to plan and train; `changes` are plan fields."""

    preset: str
    planning: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    pretrained: str = "auto"
    tasks: tuple[str, ...] = ("segmentation", "diagnosis")


DIAGNOSIS = ("diagnosis",)
ARMS = {
    "paper": Arm("paper", SMALL_PAPER, STEPS),
    "paper, from scratch": Arm("paper", SMALL_PAPER, STEPS, "none"),
    "paper, pooling local": Arm("paper", SMALL_PAPER, (*STEPS, "diagnosis.pooling=local"), tasks=DIAGNOSIS),
    "paper, pooling none": Arm("paper", SMALL_PAPER, (*STEPS, "diagnosis.pooling=none"), tasks=DIAGNOSIS),
    "paper, pooling attention": Arm("paper", SMALL_PAPER, (*STEPS, "diagnosis.pooling=attention"), tasks=DIAGNOSIS),
    "default": Arm("cpu_demo"),
    "default, from scratch": Arm("cpu_demo", pretrained="none"),
}


def main() -> None:
    """Train what is missing, score, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", help="names of arms, separated by ; (default: all)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    use_cores()
    write_cohorts(arguments.folder)
    wanted = arguments.only.split(";") if arguments.only else list(ARMS)
    rows = []
    print("| arm | fusion | macro AUROC (95 %) | Dice (95 %) | minutes |\n|---|---|---|---|---|")
    for name in wanted:
        for row in rows_of(arguments.folder, name, ARMS[name]):
            rows.append(row)
            print(
                f"| {row['arm']} | {row['fusion']} | {_cell(row['auroc'])} | {_cell(row['dice'])} | {row['minutes']} |",
                flush=True,
            )
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1))


def write_cohorts(folder: Path) -> None:
    """Training knees, and held-out ones of another seed."""
    if not (folder / "raw" / DATASET / "dataset.json").exists():
        write_phantom_dataset(folder / "raw" / DATASET, joint="knee", cases=120, seed=11, masked_cases=24, processes=2)
    if not (folder / "test" / "dataset.json").exists():
        write_phantom_dataset(folder / "test", joint="knee", cases=1, seed=12, test_cases=100, processes=2)


def rows_of(folder: Path, name: str, arm: Arm) -> Iterator[dict[str, Any]]:
    """Single views, every fusion, and fused segmentations of an arm."""
    prepared = folder / f"preprocessed_{arm.preset}"
    options = PlanningOptions(preset=arm.preset, overrides=arm.planning)
    plan_and_preprocess(folder / "raw", prepared, "1", options, lambda _: None)
    results = folder / "results" / name.replace(", ", "_").replace(" ", "_")
    started = time.perf_counter()
    for view in VIEWS:
        if arm.pretrained == "auto":
            share_pretraining(folder, arm, results, view)
            train_view(prepared, results, "1", view, TrainOptions("pretrain"), SETTINGS, arm.changes)
        for task in arm.tasks:
            train_view(prepared, results, "1", view, TrainOptions(task, "0", arm.pretrained), SETTINGS, arm.changes)
    minutes = round((time.perf_counter() - started) / 60, 1)
    for view in VIEWS:
        yield scored(folder, results, arm, name, view, minutes)
    for variant, code in fusions_of(name):
        changes = (*arm.changes, f"fusion.variant={variant}", f"fusion.code_cases={code}")
        again = RunSettings(0, torch.device("cpu"), 0, restart=True)
        options = TrainOptions("diagnosis", "0", "auto" if code else "none")
        train_view(prepared, results, "1", "fused", options, again, changes)
        yield scored(folder, results, arm, name, f"{variant}, shared code" if code else variant, minutes)


def fusions_of(name: str) -> list[tuple[str, int]]:
    """Variants of the fusion and the cases that the shared code counts for, 0 for none: alone first, then the default with it."""
    alone = [(variant, 0) for variant in (FUSIONS if name in ("paper", "default") else ("concat",))]
    return [*alone, ("cross_attention", 16)] if name == "default" else alone


def share_pretraining(folder: Path, arm: Arm, results: Path, view: str) -> None:
    """Arms of one preset that differ behind the pretraining start from the same one."""
    whole = folder / "results" / ("paper" if arm.preset == "paper" else "default")
    source, target = (root / DATASET / arm.preset / view / "pretrain" for root in (whole, results))
    if source.exists() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve(), target_is_directory=True)


def scored(folder: Path, results: Path, arm: Arm, name: str, fusion: str, minutes: float) -> dict[str, Any]:
    """Predict the held-out knees with one view, or with a fusion of all, and score them."""
    model, test = results / DATASET / arm.preset, folder / "test"
    out = results / "predictions" / fusion
    views = (fusion,) if fusion in VIEWS else VIEWS
    source = out / "in"
    source.mkdir(parents=True, exist_ok=True)
    for path in sorted((test / "imagesTs").iterdir()):
        if path.name.rsplit("_", 1)[1].split(".")[0] in views and not (source / path.name).exists():
            (source / path.name).symlink_to(path.resolve())
    predictor = Predictor(model)
    if fusion in VIEWS:
        predictor.models.fusion.clear()
    else:
        predictor.models.segmentation.clear()
    predict_folder(predictor, source, out / "out", cases_file=test / "cases.csv")
    row = {
        "arm": name,
        "fusion": fusion,
        "minutes": minutes,
        "auroc": auroc_of(test, out / "out", predictor),
        "dice": None,
    }
    if fusion in VIEWS and "segmentation" in arm.tasks:
        row["dice"] = dice_of(test, out / "out", predictor, views)
    if fusion == "concat" and "segmentation" in arm.tasks:
        fuse_folder(Predictor(model), source, out / "out", test / "cases.csv")
        row["dice"] = dice_of(test, out / "out" / "fused", predictor, views)
    return row


def auroc_of(test: Path, predictions: Path, predictor: Predictor) -> dict[str, Any]:
    """Macro AUROC with its interval, and that of each label."""
    labels = predictor.plan.diagnoses
    table = pd.read_csv(test / "cases.csv", dtype={"case": str}).set_index("case")
    found = pd.read_csv(predictions / "diagnosis.csv", dtype={"case": str}).set_index("case").sort_index()
    truth = table.loc[found.index, list(labels)].to_numpy(float)
    patients = [str(one) for one in table.loc[found.index, "patient"]]
    scores = score_labels(labels, truth, found[list(labels)].to_numpy(float), patients, np.random.default_rng(0))
    interval: Any = scores["macro"]["auroc_interval"]
    each = {label: scores[label]["auroc"] for label in labels}
    return {"value": scores["macro"]["auroc"], "low": interval[0], "high": interval[1], "each": each}


def dice_of(test: Path, predictions: Path, predictor: Predictor, views: tuple[str, ...]) -> dict[str, Any]:
    """Mean Dice over structures, series and `views`, with an interval over patients."""
    by_case: dict[str, list[float]] = {}
    for name, scores in dice(test / "labelsTs", predictions, predictor.plan.labels).items():
        case, view = name.split(".")[0].rsplit("_", 1)
        if view in views:
            by_case.setdefault(case, []).append(float(np.mean(scores)))
    means = np.array([np.mean(values) for values in by_case.values()])
    counts = draw_counts(sorted(by_case), np.random.default_rng(0), 1000)
    low, high = np.percentile(counts @ means / counts.sum(axis=1), (2.5, 97.5))
    return {"value": float(means.mean()), "low": float(low), "high": float(high)}


def _cell(score: dict[str, Any] | None) -> str:
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})" if score else ""


if __name__ == "__main__":
    main()
