"""Several looks at a case that share what is computed give what each of them gives alone."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from claim_parts.looks import diagnose, volumes_of

from odiff.inference.input_folder import by_case, case_rows, find_series
from odiff.inference.predictor import CaseImages, Predictor
from odiff.learning.asked import TrainOptions
from odiff.learning.run import RunSettings
from odiff.learning.stages import train_view

FEW = ("diagnosis.steps=2", "diagnosis.head_steps=3", "fusion.steps=3", "fusion.tabular=false")
LOOKS = {
    "fused": (None, ("sagittal", "axial")), "axial": ("axial", ("axial",)), "without_axial": (None, ("sagittal",)),
}  # fmt: skip
CPU = torch.device("cpu")


def test_looks_that_share_what_is_computed_are_those_of_predictors_alone(planned, tmp_path, in_float32):
    for view in ("sagittal", "axial", "fused"):
        options = TrainOptions("diagnosis", "0", "none")
        context = train_view(
            planned / "preprocessed", tmp_path, "1", view, options, RunSettings(0, CPU, 0), FEW
        )  # fmt: skip
    source = planned / "raw" / "Dataset001_Knee"
    model, images, table = context.results.path, source / "imagesTs", tmp_path / "cases.csv"
    cases = pd.read_csv(source / "cases.csv", dtype=str)
    cases.loc[cases["case"] == min(path.name for path in images.iterdir()).rsplit("_", 1)[0], "laterality"] = ""
    cases.to_csv(table, index=False)
    found = diagnose(model, images, table, LOOKS, 1.0, CPU)
    nobody_knows = set()
    for name, (by, views) in LOOKS.items():
        predictor = Predictor(model, tasks=("diagnosis",), diagnose_by=by)
        rows = case_rows(images, table, predictor.plan)
        for case, members in by_case(find_series(images, predictor.plan)):
            nobody_knows.add(rows[case].laterality is None)
            alone = predictor.diagnose(CaseImages(volumes_of(members, set(views)), rows[case].laterality))
            assert found[name][case] == pytest.approx(alone.probabilities, abs=1e-5)
    assert found["fused"] != found["without_axial"] and nobody_knows == {True, False}
