"""What pretraining is worth on the demo's phantom.

    odiff_demo -o FOLDER && python tests/benchmarks/pretraining.py FOLDER [--starts auto none] [--fractions 1.0 0.25]

Trains both tasks of every view and the fused model with ``--pretrained auto`` and ``none``, on shares of the labelled cases, and
scores them on the held-out cases as the demo does. Results go to FOLDER/pretraining/, so that a second call goes on.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from odiff.dataset import list_series
from odiff.geometry import VIEWS
from odiff.inference.demo.pipeline import DATASET, auroc_scores, dice_scores
from odiff.inference.demo.scores import read_held_out
from odiff.inference.predict import predict_folder
from odiff.inference.predictor import Predictor
from odiff.learning.asked import TrainOptions
from odiff.learning.context import open_context
from odiff.learning.run import RunSettings
from odiff.learning.stages import train_view


def trained(demo: Path, pretrained: str, fraction: float, seed: int) -> Path:
    """The results folder of one setting."""
    results = demo / "pretraining" / f"{pretrained}_{fraction:g}_{seed}"
    settings = RunSettings(seed, torch.device("cpu"), 0)
    for view in (*VIEWS, "fused"):
        model = demo / "results" / DATASET / "cpu_demo" / view / "pretrain" / "checkpoint_final.safetensors"
        start = "none" if pretrained == "none" else str(model)
        for task in ("segmentation", "diagnosis") if view != "fused" else ("diagnosis",):
            options = TrainOptions(task, "0", start, fraction)
            train_view(demo / "preprocessed", results, "1", view, options, settings)
    return results


def main() -> None:
    """Train, score, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--fractions", type=float, nargs="+", default=[1.0])
    parser.add_argument("--starts", nargs="+", choices=("auto", "none"), default=["auto", "none"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    test = arguments.demo / "raw" / DATASET
    series, _ = list_series(test / "imagesTs", ".nii.gz", VIEWS)
    table = pd.read_csv(test / "cases.csv", dtype={"case": str}).set_index("case")
    held_out = read_held_out(series, test / "labelsTs", dict(table["laterality"]))
    print("| pretrained | labels | Dice | AUROC | floor Dice | floor AUROC |\n|---|---|---|---|---|---|")
    for fraction in arguments.fractions:
        for pretrained in arguments.starts:
            results = trained(arguments.demo, pretrained, fraction, arguments.seed)
            context = open_context(arguments.demo / "preprocessed", results, "1")
            predictor, out = Predictor(context.results.path, label_fraction=fraction), results / "predictions"
            predict_folder(predictor, test / "imagesTs", out, cases_file=test / "cases.csv")
            dice = dice_scores(context, held_out, out, arguments.seed)
            auroc, _ = auroc_scores(context, held_out, predictor, out, table, arguments.seed)
            cells = (dice["model"], auroc["model"], dice["floor"], auroc["floor"])
            print(f"| {pretrained} | {fraction:g} | {' | '.join(f'{cell:.3f}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
