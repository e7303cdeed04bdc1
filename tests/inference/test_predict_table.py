"""The case table in training and prediction: with it, without it, and with parts of it."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit

from odiff.errors import CheckpointError, DatasetError
from odiff.geometry import read_volume
from odiff.inference.predict import predict_folder
from odiff.inference.predictor import CaseImages, Predictor
from odiff.learning import oof
from odiff.learning.asked import TrainOptions
from odiff.learning.context import open_context
from odiff.learning.run import RunSettings
from odiff.learning.stages import train_view
from odiff.plan import read_plan
from odiff.training.checkpoint import read_checkpoint, save_checkpoint

FEW = (
    "diagnosis.steps=1", "diagnosis.head_steps=2", "fusion.steps=1", "fusion.tabular_steps=20", "fusion.variant=gated",
    "fusion.tabular=true",
)  # fmt: skip
SETTINGS = RunSettings(0, torch.device("cpu"), 0)
COLUMNS = {"age": "continuous", "sex": "categorical", "injury": "categorical"}


def run(planned, results, view, few=FEW, settings=SETTINGS, **options):
    choices = TrainOptions("diagnosis", "0", "none", **options)
    return train_view(planned / "preprocessed", results, "1", view, choices, settings, few).results


@pytest.fixture(scope="module")
def trained(planned, tmp_path_factory):
    """One view alone under the fused model, and the table; copy it before writing to it."""
    results = tmp_path_factory.mktemp("results")
    run(planned, results, "axial")
    return run(planned, results, "fused")


@pytest.fixture(scope="module")
def leaning(trained, tmp_path_factory):
    """The same with a mix that leans on the table, as two steps of training would hardly find it."""
    folder = shutil.copytree(trained.path, tmp_path_factory.mktemp("leaning") / "cpu_demo")
    path = folder / "fused" / "tabular" / "fold_0" / "checkpoint_final.safetensors"
    checkpoint = read_checkpoint(path)
    torch.manual_seed(0)
    tensors = {**checkpoint.tensors, "weights.table.out.weight": torch.randn(8, 64)}
    save_checkpoint(path, tensors | {"weights.mix": torch.full((8,), 1.0)}, checkpoint.meta)
    return Predictor(folder)


@pytest.fixture()
def images(planned, tmp_path):
    """Two held-out knees in the axial view, without a table."""
    (tmp_path / "in").mkdir()
    for path in (planned / "raw" / "Dataset001_Knee" / "imagesTs").glob("*_axial.nii.gz"):
        shutil.copy(path, tmp_path / "in")
    return tmp_path / "in"


def rows_of(folder):
    return {row["case"]: row for row in csv.DictReader((folder / "diagnosis.csv").open())}


def test_the_planned_columns_are_those_of_the_dataset(planned):
    assert read_plan(planned / "preprocessed" / "Dataset001_Knee" / "plans.json").tabular == COLUMNS


def test_training_reports_the_share_of_each_label_and_scores_with_and_without_the_table(trained):
    folder = trained.task("fused", "tabular", "0").path
    config, mix = json.loads((folder / "config.json").read_text()), pd.read_csv(folder / "mix.csv")
    assert list(mix["label"]) == config["plan"]["diagnoses"] and mix["share_of_table"].between(0, 1).all()
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    assert set(summary["labels"]) == set(summary["labels_without_table"]) == {*mix["label"], "macro", "micro"}
    assert 0 < summary["cases_with_table"] <= summary["cases"]
    assert config["columns"] == COLUMNS


def test_a_second_call_leaves_the_stage_and_other_columns_are_refused(planned, trained, tmp_path):
    shutil.copytree(trained.path.parent, tmp_path / "results" / "Dataset001_Knee")
    path = tmp_path / "results/Dataset001_Knee/cpu_demo/fused/tabular/fold_0/checkpoint_final.safetensors"
    before = path.stat().st_mtime_ns
    run(planned, tmp_path / "results", "fused")
    assert path.stat().st_mtime_ns == before
    with pytest.raises(CheckpointError, match="columns"):
        run(planned, tmp_path / "results", "fused", (*FEW, 'tabular={"age": "continuous"}'))


def test_a_table_of_another_fusion_is_learnt_anew_and_neither_validated_nor_predicted_with(planned, trained, tmp_path):
    shutil.copytree(trained.path.parent, tmp_path / "results" / "Dataset001_Knee")
    table = tmp_path / "results/Dataset001_Knee/cpu_demo/fused/tabular/fold_0"
    shutil.copytree(table, tmp_path / "stale")
    more = (*FEW, "fusion.steps=3")
    results = run(planned, tmp_path / "results", "fused", more)
    assert table.with_name("fold_0.old-1").exists() and Predictor(results.path).table_columns == COLUMNS
    shutil.rmtree(table)
    shutil.move(tmp_path / "stale", table)
    with pytest.raises(CheckpointError, match="stands on the fusion model as it was"):
        run(planned, tmp_path / "results", "fused", more, validate_only=True)
    with pytest.raises(
        CheckpointError, match=r"stands on the fusion model as it was.* odiff_train Dataset001_Knee fused"
    ):
        Predictor(results.path)
    without = (*more, "fusion.tabular=false")
    run(planned, tmp_path / "results", "fused", without, replace(SETTINGS, restart=True))
    assert Predictor(results.path).table_columns == {}


def test_the_plan_can_leave_the_table_out(planned, trained, tmp_path):
    shutil.copytree(trained.path / "axial", tmp_path / "Dataset001_Knee" / "cpu_demo" / "axial")
    results = run(planned, tmp_path, "fused", (*FEW, "fusion.tabular=false"))
    assert not results.of_task("fused", "tabular").exists()
    assert Predictor(results.path).table_columns == {}


def test_prediction_mixes_where_the_table_has_a_row_and_says_so(leaning, images, tmp_path):
    first, second = sorted(path.name.removesuffix("_axial.nii.gz") for path in images.iterdir())
    predict_folder(leaning, images, tmp_path / "without")
    (images / "cases.csv").write_text(f"case,age,injury\n{first},71,bicycle\n{second},,\n")
    predict_folder(leaning, images, tmp_path / "with")
    without, found = rows_of(tmp_path / "without"), rows_of(tmp_path / "with")
    assert [row["tabular"] for row in without.values()] == ["no", "no"]
    assert (found[first]["tabular"], found[second]["tabular"]) == ("yes", "no")
    assert found[second] == without[second] and found[first] != without[first]
    model = leaning.models.tabular["0"]
    labels = leaning.plan.diagnoses
    images_alone = np.array([[float(without[first][name]) for name in labels]])
    mixed = model.mix(np.log(images_alone / (1 - images_alone)), [{"age": 71.0, "injury": "bicycle"}])
    assert [float(found[first][name]) for name in labels] == pytest.approx(expit(mixed[0]).tolist(), abs=1e-3)


def test_a_table_that_comes_later_has_the_case_diagnosed_again(leaning, images, tmp_path):
    predict_folder(leaning, images, tmp_path / "out")
    case = sorted(images.iterdir())[0].name.removesuffix("_axial.nii.gz")
    (tmp_path / "table.csv").write_text(f"case,sex\n{case},F\n")
    again = predict_folder(leaning, images, tmp_path / "out", cases_file=tmp_path / "table.csv")
    assert (again.diagnosed, again.skipped) == (1, 1)
    assert rows_of(tmp_path / "out")[case]["tabular"] == "yes"


def test_a_cell_that_is_no_number_is_named(leaning, images, tmp_path):
    (images / "cases.csv").write_text("case,age\nknee_00006,old\n")
    with pytest.raises(DatasetError, match="knee_00006: age is 'old'"):
        predict_folder(leaning, images, tmp_path / "out")


def test_predictions_with_the_table_have_a_calibration_of_their_own(planned, trained, images, tmp_path, monkeypatch):
    folder = shutil.copytree(trained.path, tmp_path / "results" / "Dataset001_Knee" / "cpu_demo")
    monkeypatch.setattr(oof, "MIN_CASES", 1)
    context = open_context(planned / "preprocessed", tmp_path / "results", "1")
    oof.collect_out_of_fold(context, "fused", "tabular")
    predictor = Predictor(folder)
    case = CaseImages({"axial": (read_volume(sorted(images.iterdir())[0]),)}, "L", {"age": 30.0})
    alone = CaseImages(case.volumes, "L")
    assert predictor.diagnose(case).is_calibrated and not predictor.diagnose(alone).is_calibrated
    oof.collect_out_of_fold(context, "fused")
    assert Predictor(folder).diagnose(alone).is_calibrated
