"""The functions do what the commands do."""

import shutil

import pytest

import odiff.api
from odiff.errors import OdiffError, PlanError

FEW = ("pretrain.steps=1", "segmentation.steps=1", "diagnosis.steps=1", "diagnosis.head_steps=1")


def test_from_raw_to_predictions_without_a_command(phantom_dataset, tmp_path):
    raw, preprocessed, results = (tmp_path / name for name in ("raw", "preprocessed", "results"))
    shutil.copytree(phantom_dataset, raw / phantom_dataset.name)
    options = odiff.api.PlanningOptions(preset="cpu_demo", views=("axial",), processes=1)
    seen = odiff.api.fingerprint(raw, preprocessed, "1", options)
    assert (seen.cases, list(seen.views)) == (6, ["axial"])
    with pytest.raises(PlanError, match="odiff_plan_and_preprocess"):
        odiff.api.preprocess(raw, preprocessed, "1", options)
    plan = odiff.api.plan(raw, preprocessed, "1", options)
    assert list(plan.views) == ["axial"]
    assert odiff.api.preprocess(raw, preprocessed, "1", options) == 6
    assert odiff.api.preprocess(raw, preprocessed, "1", options) == 0
    folder = odiff.api.train(
        preprocessed, results, "1", "axial", odiff.api.TrainOptions(fold="0"), overrides=FEW, device="cpu"
    )
    assert (folder / "diagnosis" / "fold_0" / "checkpoint_final.safetensors").exists()
    found = odiff.api.predict(folder.parent, raw / "Dataset001_Knee" / "imagesTs", tmp_path / "out", device="cpu")
    assert (found.segmented, found.diagnosed) == (2, 2)
    dataset = raw / "Dataset001_Knee"
    scores = odiff.api.evaluate(tmp_path / "out", dataset / "labelsTs", dataset, allow_missing=True)
    assert (scores["segmentation"]["rows"], scores["diagnosis"]["rows"]) == (2, 2)
    assert (tmp_path / "out" / "evaluation" / "summary.json").exists()


def test_mistakes_are_odiff_errors(tmp_path):
    for call in (odiff.api.fingerprint, odiff.api.plan, odiff.api.preprocess):
        with pytest.raises(OdiffError):
            call(tmp_path, tmp_path, "9")
    with pytest.raises(OdiffError):
        odiff.api.train(tmp_path, tmp_path, "9", "axial")
    with pytest.raises(OdiffError):
        odiff.api.predict(tmp_path / "none", tmp_path, tmp_path / "out")
