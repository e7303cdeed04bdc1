"""Every fusion trained and predicted, with all views and with one missing; segmentations joined in the patient's space."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from odiff.geometry import read_mask, read_volume, same_grid
from odiff.inference.command import main
from odiff.inference.predict import predict_folder
from odiff.inference.predictor import CaseImages, Predictor
from odiff.learning.asked import TrainOptions
from odiff.learning.gates import forget_gates
from odiff.learning.run import RunSettings
from odiff.learning.stages import train_view
from odiff.network.fusion import FUSIONS

FEW = (
    "segmentation.steps=2", "diagnosis.steps=2", "diagnosis.head_steps=3", "fusion.steps=3", "pretrain.steps=2",
)  # fmt: skip
SETTINGS = RunSettings(0, torch.device("cpu"), 0)


@pytest.fixture(scope="module")
def views(planned, tmp_path_factory):
    """Results with both tasks of the sagittal and the axial view, not fused yet."""
    results = tmp_path_factory.mktemp("fusions")
    for view in ("sagittal", "axial"):
        for task in ("segmentation", "diagnosis"):
            train_view(planned / "preprocessed", results, "1", view, TrainOptions(task, "0", "none"), SETTINGS, FEW)
    return results


def fused(planned, views, tmp_path, variant):
    shutil.copytree(views, tmp_path / "results")
    context = train_view(
        planned / "preprocessed", tmp_path / "results", "1", "fused", TrainOptions("diagnosis", "0"), SETTINGS,
        (*FEW, f"fusion.variant={variant}"),
    )  # fmt: skip
    return context.results


@pytest.mark.parametrize("variant", sorted(FUSIONS))
def test_every_fusion_trains_and_predicts_with_a_view_missing(planned, views, tmp_path, variant):
    results = fused(planned, views, tmp_path, variant)
    shutil.copytree(planned / "raw" / "Dataset001_Knee" / "imagesTs", tmp_path / "in")
    first = sorted((tmp_path / "in").glob("*_axial.nii.gz"))[0]
    first.unlink()
    predict_folder(Predictor(results.path), tmp_path / "in", tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "diagnosis.csv").open()))
    assert sorted(row["views"] for row in rows) == ["sagittal", "sagittal+axial"]
    assert all(0 < float(row["ACL"]) < 1 for row in rows)
    is_gated = variant.startswith("gated")
    for folder in (tmp_path / "out", results.task("fused", "diagnosis", "0").validation):
        assert (folder / "gate_weights.png").exists() == (folder / "gate_weights.csv").exists() == is_gated


def test_gate_weights_name_every_case_and_label_and_sum_to_one(planned, views, tmp_path):
    results = fused(planned, views, tmp_path, "gated")
    source = planned / "raw" / "Dataset001_Knee" / "imagesTs"
    predict_folder(Predictor(results.path), source, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "gate_weights.csv").open()))
    cases = {path.name.rsplit("_", 1)[0] for path in source.glob("*.nii.gz")}
    assert {row["case"] for row in rows} == cases
    assert len(rows) == len(cases) * 8
    assert all(float(row["sagittal"]) + float(row["axial"]) == pytest.approx(1, abs=1e-3) for row in rows)


def test_gate_weights_outlive_an_interruption(planned, views, tmp_path, monkeypatch):
    """Those of the first case are there when the second one's prediction is broken off, and the picture is of both afterwards."""
    results = fused(planned, views, tmp_path, "gated")
    source = planned / "raw" / "Dataset001_Knee" / "imagesTs"
    predictor, diagnose = Predictor(results.path), Predictor.diagnose
    done = []

    def broken_off(self, case):
        if done:
            raise KeyboardInterrupt
        done.append(case)
        return diagnose(self, case)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Predictor, "diagnose", broken_off)
        predict_folder(predictor, source, tmp_path / "out")
    table = tmp_path / "out" / "gate_weights.csv"
    assert len({row["case"] for row in csv.DictReader(table.open())}) == 1
    assert not table.with_suffix(".png").exists()
    predict_folder(predictor, source, tmp_path / "out")
    predict_folder(predictor, source, tmp_path / "whole")
    rows, wanted = (sorted(map(tuple, csv.reader((tmp_path / name / table.name).open()))) for name in ("out", "whole"))
    assert rows == wanted
    picture = table.with_suffix(".png")
    assert picture.stat().st_size > 1000
    picture.write_bytes(b"of fewer cases")
    (tmp_path / "out" / "diagnosis.csv").unlink()
    predict_folder(predictor, source, tmp_path / "out")
    assert picture.stat().st_size > 1000
    first, last = sorted({row[0] for row in rows} - {"case"})
    forget_gates(tmp_path / "out", first)
    assert {row["case"] for row in csv.DictReader(table.open())} == {last} and not picture.exists()
    forget_gates(tmp_path / "out", last)
    assert not table.exists()


def test_fused_segmentations_lie_on_the_grid_of_each_view(planned, views, tmp_path, capsys):
    source, out = planned / "raw" / "Dataset001_Knee" / "imagesTs", tmp_path / "out"
    model = views / "Dataset001_Knee" / "cpu_demo"
    command = ["-i", str(source), "-o", str(out), "-m", str(model), "--fuse-segmentation"]
    assert main(command) == 0
    written = sorted(path.name for path in (out / "fused").glob("*.nii.gz"))
    assert written == sorted(path.name for v in ("sagittal", "axial") for path in source.glob(f"*_{v}.nii.gz"))
    for name in written:
        fused_mask = read_mask(out / "fused" / name)
        assert same_grid(fused_mask.grid, read_volume(source / name).grid)
        assert set(np.unique(fused_mask.array)) <= set(range(12))
    assert main(command) == 0
    assert "0 fused segmentations" in capsys.readouterr().out


def test_a_case_without_any_fused_view_is_diagnosed_by_its_own(planned, views, tmp_path):
    model = Path("Dataset001_Knee") / "cpu_demo"
    shutil.copytree(views, tmp_path / "results")
    shutil.rmtree(tmp_path / "results" / model / "sagittal" / "diagnosis")
    options = TrainOptions("diagnosis", "0")
    context = train_view(planned / "preprocessed", tmp_path / "results", "1", "fused", options, SETTINGS, FEW)
    shutil.copytree(views / model / "sagittal" / "diagnosis", context.results.path / "sagittal" / "diagnosis")
    predictor = Predictor(context.results.path)
    path = sorted((planned / "raw" / "Dataset001_Knee" / "imagesTs").glob("*_sagittal.nii.gz"))[0]
    found = predictor.diagnose(CaseImages({"sagittal": (read_volume(path),)}, "R"))
    alone = Predictor(views / "Dataset001_Knee" / "cpu_demo", diagnose_by="sagittal")
    wanted = alone.diagnose(CaseImages({"sagittal": (read_volume(path),)}, "R"))
    assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-5)
