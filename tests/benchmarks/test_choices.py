"""A run at another learning rate keeps what the first one chose, and fuses its own networks."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from claim_parts.training import take_choices

from odiff.learning.asked import TrainOptions
from odiff.learning.pretrained import ResultsFolder
from odiff.learning.run import ORIGINS, RunSettings
from odiff.learning.stages import train_view

FEW = ("diagnosis.steps=2", "diagnosis.head_steps=3", "fusion.steps=3", "fusion.variant=auto", "fusion.tabular=false")
OPTIONS, SETTINGS = TrainOptions("diagnosis", "0", "none"), RunSettings(0, torch.device("cpu"), 0)
VIEWS = ("sagittal", "axial", "fused")


def test_choices_are_taken_over_and_models_are_not(planned, tmp_path):
    def train(results: Path, view: str, *changes: str) -> ResultsFolder:
        prepared, overrides = planned / "preprocessed", (*FEW, *changes)
        return train_view(prepared, results, "1", view, OPTIONS, SETTINGS, overrides).results

    for view in VIEWS:
        first = train(tmp_path / "first", view)
    done = first.task("fused", "diagnosis", "0")
    done.write_config(done.read_config() | {"variant": "concat"})  # as if it had been chosen
    second = ResultsFolder(tmp_path / "second" / first.path.relative_to(tmp_path / "first"))
    for view in VIEWS:
        take_choices(first.task(view, "diagnosis", "0"), second.task(view, "diagnosis", "0"))
        train(tmp_path / "second", view, "diagnosis.learning_rate=0.01")
    fused = second.task("fused", "diagnosis", "0").read_config()
    assert fused["variant"] == "concat"
    assert fused[ORIGINS] != done.read_config()[ORIGINS]
