"""Prediction, folder to folder and in memory, with models of a few steps."""

import csv
import gzip
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from odiff.errors import CheckpointError, DatasetError, StorageError, UsageError
from odiff.geometry import read_volume
from odiff.inference.command import main, model_folder
from odiff.inference.postprocessing import write_postprocessing
from odiff.inference.predict import predict_folder
from odiff.inference.predictor import CaseImages, Predictor
from odiff.learning.run import RunSettings
from odiff.learning.stages import TrainOptions, train_view

FEW = (
    "segmentation.steps=2", "diagnosis.steps=2", "diagnosis.head_steps=2", "fusion.steps=2", "pretrain.steps=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(planned, tmp_path_factory):
    """A model folder with both tasks of the axial view, sagittal diagnosis in two folds, and their fusion in fold 0."""
    results = tmp_path_factory.mktemp("results")
    settings = RunSettings(0, torch.device("cpu"), 0)

    def run(view, task, fold):
        options = TrainOptions(task, fold, "none")
        return train_view(planned / "preprocessed", results, "1", view, options, settings, FEW)

    for view, task, fold in (
        ("axial", "segmentation", "0"), ("axial", "diagnosis", "0"), ("sagittal", "diagnosis", "0"),
        ("sagittal", "diagnosis", "1"),
    ):  # fmt: skip
        run(view, task, fold)
    return run("fused", "diagnosis", "0").results.path


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model)


@pytest.fixture
def images(planned, tmp_path):
    """Two cases, three views each."""
    shutil.copytree(planned / "raw" / "Dataset001_Knee" / "imagesTs", tmp_path / "in")
    return tmp_path / "in"


def test_outputs_are_named_as_inputs_and_lie_on_their_grids(predictor, images, tmp_path):
    outcome = predict_folder(predictor, images, tmp_path / "out")
    assert (outcome.segmented, outcome.diagnosed, outcome.failed) == (2, 2, ())
    written = sorted(p.name for p in (tmp_path / "out").glob("*.nii.gz"))
    assert written == sorted(p.name for p in images.glob("*_axial.nii.gz"))
    rows = list(csv.DictReader((tmp_path / "out" / "diagnosis.csv").open()))
    assert [row["views"] for row in rows] == ["sagittal+axial"] * 2
    assert {row["calibrated"] for row in rows} == {"no"}


def test_a_second_call_does_only_what_is_missing(predictor, images, tmp_path):
    predict_folder(predictor, images, tmp_path / "out")
    first = next((tmp_path / "out").glob("*_axial.nii.gz"))
    before = gzip.decompress(first.read_bytes())
    first.unlink()
    again = predict_folder(predictor, images, tmp_path / "out")
    assert (again.segmented, again.diagnosed, again.skipped) == (1, 0, 1)
    assert gzip.decompress(first.read_bytes()) == before


def test_predictions_of_two_models_are_never_mixed(model, predictor, images, tmp_path):
    predict_folder(predictor, images, tmp_path / "out")
    with pytest.raises(DatasetError, match="another step_size"):
        predict_folder(Predictor(model, step_size=1.0), images, tmp_path / "out")
    with pytest.raises(DatasetError, match="another model"):
        predict_folder(Predictor(model, folds=["0"]), images, tmp_path / "out")


def test_an_unreadable_file_is_named_and_the_others_are_predicted(model, images, tmp_path, capsys):
    broken = sorted(images.glob("*_axial.nii.gz"))[0]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:500])
    command = ["-i", str(images), "-o", str(tmp_path / "out"), "-m", str(model)]
    assert main(command) == 3
    assert broken.name in capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1
    rows = list(csv.DictReader((tmp_path / "out" / "diagnosis.csv").open()))
    assert [row["views"] for row in rows] == ["sagittal", "sagittal+axial"]
    broken.write_bytes(whole)
    assert main(command) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "diagnosis.csv").open()))
    assert [row["views"] for row in rows] == ["sagittal+axial"] * 2, "the case is diagnosed anew with the view mended"


def test_a_model_folder_is_enough(model, images, tmp_path):
    moved = shutil.copytree(model, tmp_path / "elsewhere")
    assert main(["-i", str(images), "-o", str(tmp_path / "out"), "-m", str(moved)]) == 0


def test_probabilities_are_saved_on_the_original_grid_and_agree_with_the_labels(predictor, images, tmp_path):
    predict_folder(predictor, images, tmp_path / "out", save_probabilities=True)
    path = sorted((tmp_path / "out").glob("*.npz"))[0]
    probabilities = np.load(path)["probabilities"].astype(np.float32)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(path.with_suffix(".nii.gz"))))
    assert probabilities.shape == (12, *labels.shape)
    assert np.allclose(probabilities.sum(axis=0), 1, atol=0.02)
    top = np.sort(probabilities, axis=0)
    clear = top[-1] - top[-2] > 0.05
    values = np.array(sorted(predictor.plan.labels.values()))
    assert (values[probabilities.argmax(axis=0)] == labels)[clear].mean() > 0.99


def test_a_predictor_gives_the_same_from_memory_as_from_files(predictor, images, tmp_path):
    predict_folder(predictor, images, tmp_path / "out")
    path = sorted(images.glob("*_axial.nii.gz"))[0]
    found = predictor.segment_image(sitk.ReadImage(str(path)), "axial")
    stored = sitk.ReadImage(str(tmp_path / "out" / path.name))
    assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(stored))
    assert np.allclose(found.GetOrigin(), stored.GetOrigin(), atol=1e-4)
    case = path.name.removesuffix("_axial.nii.gz")
    volumes = {view: (read_volume(images / f"{case}_{view}.nii.gz"),) for view in ("sagittal", "axial")}
    diagnosis = predictor.diagnose(CaseImages(volumes))
    rows = {row["case"]: row for row in csv.DictReader((tmp_path / "out" / "diagnosis.csv").open())}
    for name, value in diagnosis.probabilities.items():
        assert float(rows[case][name]) == pytest.approx(value, abs=2e-3)


def test_series_of_one_view_are_averaged_and_missing_views_masked(predictor, images):
    path = sorted(images.glob("*_axial.nii.gz"))[0]
    volume = read_volume(path)
    once = predictor.diagnose(CaseImages({"axial": (volume,)}, "R"))
    twice = predictor.diagnose(CaseImages({"axial": (volume, volume)}, "R"))
    assert once.views == ("axial",)
    for name, value in once.probabilities.items():
        assert twice.probabilities[name] == pytest.approx(value, abs=1e-3)


def test_unknown_laterality_averages_both_sides(predictor, images):
    volume = read_volume(sorted(images.glob("*_axial.nii.gz"))[0])
    left, right, unknown = (predictor.diagnose(CaseImages({"axial": (volume,)}, side)) for side in ("L", "R", None))
    assert not unknown.is_laterality_known
    for name, value in unknown.probabilities.items():
        low, high = sorted((left.probabilities[name], right.probabilities[name]))
        assert low - 1e-3 <= value <= high + 1e-3


def test_mistakes_name_what_to_do(model, predictor, images, tmp_path):
    with pytest.raises(UsageError, match="-f 7"):
        Predictor(model, folds=["7"])
    with pytest.raises(CheckpointError, match="odiff_train"):
        Predictor(tmp_path)
    with pytest.raises(CheckpointError, match="odiff_train 5"):
        model_folder(tmp_path, "5", "default")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty: no images named"):
        predict_folder(predictor, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(CheckpointError, match="view sagittal"):
        predictor.segment(read_volume(sorted(images.glob("*_axial.nii.gz"))[0]), "sagittal")
    assert main(["-i", str(images), "-o", str(tmp_path / "o"), "-m", str(model), "--step-size", "2"]) == 2


def test_small_components_are_dropped_where_the_evaluation_says_so(model, predictor, images, tmp_path):
    """Of the labels that postprocessing.json names for the view, and of no other."""
    moved = shutil.copytree(model, tmp_path / "cleaned")
    volume = read_volume(sorted(images.glob("*_axial.nii.gz"))[0])
    before = predictor.segment(volume, "axial")
    values = predictor.plan.labels
    pieces = {name: ndimage.label(before == value, np.ones((3, 3, 3)))[1] for name, value in values.items()}
    split = [name for name, count in pieces.items() if count > 1 and name != "background"]
    assert split, "the untrained model leaves specks"
    write_postprocessing(moved, {"axial": (split[0],)})
    cleaned = Predictor(moved)
    after, _ = cleaned.segment_with_probabilities(volume, "axial")
    assert np.array_equal(after, cleaned.segment(volume, "axial"))
    components, count = ndimage.label(before == values[split[0]], np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())[1:]
    assert count > 1 and (after == values[split[0]]).sum() == sizes[sizes == sizes.max()].sum()
    assert np.array_equal(after[after != before], np.zeros((after != before).sum()))
    assert set(before[after != before]) == {values[split[0]]}
    predict_folder(predictor, images, tmp_path / "out")
    with pytest.raises(DatasetError, match="another model"):
        predict_folder(cleaned, images, tmp_path / "out")
    write_postprocessing(moved, {"axial": ()})
    assert Predictor(moved).models.identity == predictor.models.identity


def test_one_task_or_one_view_of_diagnosis_can_be_asked_for(model, images, tmp_path):
    case = CaseImages(
        {view: (read_volume(sorted(images.glob(f"*_{view}.nii.gz"))[0]),) for view in ("sagittal", "axial")}, "R"
    )
    found = Predictor(model, diagnose_by="axial").diagnose(case)
    assert found.views == ("axial",)
    fused = Predictor(model, diagnose_by="fused").diagnose(case)
    assert fused.probabilities == pytest.approx(Predictor(model).diagnose(case).probabilities)
    assert Predictor(model, tasks=("segmentation",)).models.diagnosis == {}
    command = [
        "-i",
        str(images),
        "-o",
        str(tmp_path / "out"),
        "-m",
        str(model),
        "--task",
        "diagnosis",
        "--diagnose-by",
        "axial",
    ]
    assert main(command) == 0
    assert not list((tmp_path / "out").glob("*.nii.gz"))
    rows = list(csv.DictReader((tmp_path / "out" / "diagnosis.csv").open()))
    assert [row["views"] for row in rows] == ["axial"] * 2
    with pytest.raises(CheckpointError, match=r"no trained coronal diagnosis model.*odiff_train"):
        Predictor(model, diagnose_by="coronal")


def test_an_interrupted_write_leaves_no_half_file(predictor, images, tmp_path, monkeypatch):
    def full_disk(*_args, **_keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.raises(StorageError, match="disk is full"):
        predict_folder(predictor, images, tmp_path / "out")
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_prediction_starts_without_what_only_training_needs(tmp_path):
    """They take a second to import, as long as a small prediction."""
    slow = {"sklearn", "pandas", "matplotlib", "scipy.ndimage", "scipy.special", "blosc2", "acvl_utils"}
    code = f"import sys, odiff.inference.predict; print({slow} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout.strip() == "set()", found.stderr
