"""A cohort as a hospital's archive gives it: gaps in views, labels and masks, two series of one view."""

import csv
import json

import pytest

import odiff.api
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
