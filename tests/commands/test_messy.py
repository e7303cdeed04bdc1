"""A cohort as a hospital's archive gives it: gaps in views, labels and masks, two series of one view."""

import csv
import json
import shutil
from dataclasses import replace

import pytest

import odiff.api
from odiff.errors import DatasetError
from odiff.experiment_planning.pipeline import plan_and_preprocess
from odiff.experiment_planning.verify import verify_dataset
from odiff.phantom import write_phantom_dataset

FEW = (
    "pretrain.steps=1", "segmentation.steps=1", "diagnosis.steps=1", "diagnosis.head_steps=1", "fusion.steps=1",
)  # fmt: skip


@pytest.mark.slow
def test_the_whole_job_on_a_messy_cohort(tmp_path):
    raw, preprocessed, results = (tmp_path / name for name in ("raw", "preprocessed", "results"))
    folder = raw / "Dataset003_Messy"
    write_phantom_dataset(folder, joint="knee", cases=10, seed=5, test_cases=4, masked_cases=6, size="tiny", messy=0.4)
    assert not verify_dataset(folder, processes=1).faults
    images = sorted((folder / "imagesTr").glob("*.nii.gz"))
    views = {"sagittal", "axial"}
    options = odiff.api.PlanningOptions(preset="cpu_demo", views=("sagittal", "axial"), processes=1)
    plan = odiff.api.plan(raw, preprocessed, "3", options)
    assert plan.average_unknown_laterality
    used = [path for path in images if views & set(path.name.removesuffix(".nii.gz").split("_"))]
    assert odiff.api.preprocess(raw, preprocessed, "3", options) == len(used)
    for view in ("sagittal", "axial", "fused"):
        odiff.api.train(preprocessed, results, "3", view, odiff.api.TrainOptions(fold="0"), overrides=FEW, device="cpu")
    stored = json.loads((results / "Dataset003_Messy/cpu_demo/axial/pretrain/config.json").read_text())
    assert stored["series"] == sum("axial" in path.name for path in images), "every series is a sample of its own"
    found = odiff.api.predict(
        results / "Dataset003_Messy" / "cpu_demo", folder / "imagesTs", tmp_path / "out", device="cpu"
    )
    assert found.segmented == sum(bool(views & set(p.name[:-7].split("_"))) for p in (folder / "imagesTs").iterdir())
    rows = {row["case"]: row for row in csv.DictReader((tmp_path / "out" / "diagnosis.csv").open())}
    for case, row in rows.items():
        there = {
            p.name[: -len(".nii.gz")].removeprefix(f"{case}_").split("_")[0]
            for p in (folder / "imagesTs").glob(f"{case}_*")
        }
        assert set(row["views"].split("+")) == there & views


def test_skip_bad_goes_on_without_the_cases_it_names(tmp_path, phantom_dataset):
    raw, preprocessed = tmp_path / "raw", tmp_path / "preprocessed"
    folder = shutil.copytree(phantom_dataset, raw / "Dataset001_Knee")
    broken = folder / "imagesTr" / "knee_00002_axial.nii.gz"
    broken.write_bytes(broken.read_bytes()[:300])
    said: list[str] = []
    options = odiff.api.PlanningOptions(preset="cpu_demo", views=("axial",), processes=1)
    with pytest.raises(DatasetError, match=r"knee_00002_axial(.|\n)*--skip-bad"):
        plan_and_preprocess(raw, preprocessed, "1", options, said.append)
    assert not list(preprocessed.rglob("*.b2nd"))
    plan_and_preprocess(raw, preprocessed, "1", replace(options, skip_bad=True), said.append)
    assert "skipping case knee_00002\n" in said
    assert len(list(preprocessed.rglob("knee_*_axial.json"))) == 5


def test_one_patient_alone_can_only_be_trained_on_whole(tmp_path):
    raw, preprocessed, results = (tmp_path / name for name in ("raw", "preprocessed", "results"))
    write_phantom_dataset(raw / "Dataset001_Knee", joint="knee", cases=1, seed=0, size="tiny")
    options = odiff.api.PlanningOptions(preset="cpu_demo", views=("axial",), processes=1)
    plan_and_preprocess(raw, preprocessed, "1", options, lambda _: None)
    fine_tune = odiff.api.TrainOptions("segmentation", None, "none")
    with pytest.raises(DatasetError, match=r"two patients or more.*--fold all"):
        odiff.api.train(preprocessed, results, "1", "axial", fine_tune, device="cpu")
    odiff.api.train(preprocessed, results, "1", "axial", replace(fine_tune, fold="all"), overrides=FEW, device="cpu")
