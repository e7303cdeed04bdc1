"""The three commands as a user types them, on the phantom."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from odiff import __version__

# The environment's own commands, else those on the path, as of an installation elsewhere.
PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
FEW = [
    "pretrain.steps=2", "segmentation.steps=2", "segmentation.head_steps=1", "diagnosis.steps=2", "diagnosis.head_steps=2",
    "fusion.steps=2",
]  # fmt: skip


def call(command, *arguments, roots):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("odiff_")}
    environment |= {f"odiff_{name}": str(roots / name) for name in ("raw", "preprocessed", "results")}
    return subprocess.run(
        [shutil.which(command, path=PLACES), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=roots,
        check=False,
    )


@pytest.fixture(scope="module")
def roots(tmp_path_factory, phantom_dataset):
    folder = tmp_path_factory.mktemp("roots")
    shutil.copytree(phantom_dataset, folder / "raw" / phantom_dataset.name)
    planned = call(
        "odiff_plan_and_preprocess", "-d", "1", "--preset", "cpu_demo", "--views", "sagittal", "axial", roots=folder
    )
    assert planned.returncode == 0, planned.stderr
    return folder


@pytest.mark.slow
def test_three_commands_go_from_raw_scans_to_segmentations_and_diagnoses(roots):
    for view in ("sagittal", "axial", "fused"):
        trained = call("odiff_train", "1", view, "--fold", "0", "--set", *FEW, roots=roots)
        assert trained.returncode == 0, trained.stderr
    results = roots / "results" / "Dataset001_Knee" / "cpu_demo"
    for run in (
        "sagittal/pretrain",
        "sagittal/segmentation/fold_0",
        "axial/diagnosis/fold_0",
        "fused/diagnosis/fold_0",
    ):
        assert (results / run / "checkpoint_final.safetensors").exists()
        assert (results / run / "progress.png").stat().st_size > 1000
        steps = [json.loads(line)["step"] for line in (results / run / "metrics.jsonl").read_text().splitlines()]
        assert steps == [1, 2]
    assert (results / "sagittal/pretrain/samples.png").stat().st_size > 1000

    images = roots / "raw" / "Dataset001_Knee" / "imagesTs"
    predicted = call("odiff_predict", "-i", images, "-o", roots / "out", "-d", "1", roots=roots)
    assert predicted.returncode == 0, predicted.stderr
    assert "view coronal: no trained model of the tasks asked for, skipped" in predicted.stdout
    for image in sorted(images.glob("*_sagittal.nii.gz")):
        given, found = sitk.ReadImage(str(image)), sitk.ReadImage(str(roots / "out" / image.name))
        assert found.GetSize() == given.GetSize()
        assert found.GetOrigin() == given.GetOrigin()
        assert found.GetSpacing() == given.GetSpacing()
        assert found.GetDirection() == given.GetDirection()
        assert set(np.unique(sitk.GetArrayFromImage(found))) <= set(range(12))
    rows = list(csv.DictReader((roots / "out" / "diagnosis.csv").open()))
    assert [row["case"] for row in rows] == ["knee_00006", "knee_00007"]
    assert all(0 <= float(row["ACL"]) <= 1 and row["views"] == "sagittal+axial" for row in rows)
    again = call("odiff_predict", "-i", images, "-o", roots / "out", "-d", "1", roots=roots)
    assert "0 series segmented, 0 cases diagnosed, 2 cases done before" in again.stdout


def test_a_second_planning_does_only_what_changed_and_says_so(roots):
    again = call(
        "odiff_plan_and_preprocess", "-d", "1", "--preset", "cpu_demo", "--views", "sagittal", "axial", roots=roots
    )
    assert again.returncode == 0
    assert "fingerprint: 0 series measured" in again.stdout
    assert "preprocess: 0 series done, 12 up to date" in again.stdout


MISTAKES = {
    "an unknown dataset": (("odiff_plan_and_preprocess", "-d", "7"), "Dataset001_Knee"),
    "an unknown preset": (("odiff_plan_and_preprocess", "-d", "1", "--preset", "defualt"), "did you mean 'default'"),
    "an unknown field": (("odiff_train", "1", "sagittal", "--set", "pretrain.stepz=3"), "did you mean 'steps'"),
    "an unknown view": (("odiff_train", "1", "saggital"), "invalid choice: 'saggital'"),
    "an unknown flag": (("odiff_train", "1", "sagittal", "--flod", "0"), "--flod"),
    "a view that was not planned": (("odiff_train", "1", "coronal"), "coronal"),
    "a fold that is not there": (
        ("odiff_train", "1", "sagittal", "--task", "diagnosis", "--fold", "9"),
        "folds 0 to 4",
    ),
    "a fold that is written otherwise": (
        ("odiff_train", "1", "sagittal", "--task", "diagnosis", "--fold", "00"),
        "folds 0 to 4",
    ),
    "a digit that is no number": (("odiff_train", "²", "sagittal"), "dataset ²: not found"),
    "training before planning": (("odiff_train", "2", "sagittal"), "odiff_plan_and_preprocess"),
    "predicting without a model": (("odiff_predict", "-i", ".", "-o", "out2", "-d", "9"), "odiff_train"),
    "no steps at all": (
        ("odiff_train", "1", "sagittal", "--set", "pretrain.steps=0"),
        "pretrain.steps must be at least 1",
    ),
    "a device that is not there": (("odiff_train", "1", "sagittal", "--device", "cuda:9"), "--device cuda:9"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_exit_code_two_and_no_traceback(roots, mistake):
    (command, *arguments), named = MISTAKES[mistake]
    done = call(command, *arguments, roots=roots)
    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_verbose_tells_what_runs_and_where_an_error_came_from(roots):
    done = call("odiff_plan_and_preprocess", "-d", "7", "--verbose", roots=roots)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and lines[0].startswith(f"odiff_plan_and_preprocess of odiff {__version__}, Python")
    assert "Traceback (most recent call last):" in lines and "find_dataset" in done.stderr
    assert lines[-1].startswith("odiff_plan_and_preprocess: error: dataset 7")


def test_a_folder_called_odiff_in_the_current_one_is_not_imported(roots):
    """As in a checkout of odiff, whose folder `odiff` lacks what is installed beside it."""
    shadow = roots / "odiff"
    shadow.mkdir()
    (shadow / "__init__.py").write_text("")
    try:
        done = call("odiff_verify_dataset", "1", roots=roots)
    finally:
        shutil.rmtree(shadow)
    assert done.returncode == 0, done.stderr
