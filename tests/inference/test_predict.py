"""Prediction, folder to folder and in memory, with models of a few steps."""

import csv
import gzip
import json
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from odiff.errors import CheckpointError, DatasetError, StorageError, UsageError
from odiff.geometry import read_mask, read_volume, same_grid
from odiff.inference.command import main, model_folder
from odiff.inference.postprocessing import write_postprocessing
from odiff.inference.predict import predict_folder
from odiff.inference.predictor import CaseImages, Predictor
from odiff.learning.asked import TrainOptions
from odiff.learning.calibration import StoredCalibration
from odiff.learning.run import RunSettings
from odiff.learning.stages import train_view
from odiff.metrics.calibration import identity
from odiff.training.checkpoint import read_checkpoint, save_checkpoint

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


def test_scans_are_never_overwritten_and_strange_files_never_taken_for_predictions(predictor, images, tmp_path):
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    (tmp_path / "link").symlink_to(images)
    for target in (images, images / ".." / "in", tmp_path / "link"):
        with pytest.raises(DatasetError, match="folder of the images"):
            predict_folder(predictor, images, target)
    assert {path.name: path.read_bytes() for path in images.iterdir()} == before
    shutil.copytree(images, tmp_path / "other")
    with pytest.raises(DatasetError, match="not written by odiff_predict"):
        predict_folder(predictor, images, tmp_path / "other")
    assert not (tmp_path / "other" / "predict.json").exists()


def test_a_broken_predict_json_says_what_to_do(predictor, images, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    file = target / "predict.json"
    now = {"model": predictor.models.identity, "step_size": predictor.step_size, "mirroring": False, "folder": ""}
    for content, word in (
        ("[1]", "expected an object"),
        (json.dumps(now | {"model": 1}), "model: expected str"),
        (json.dumps(now | {"cases": []}), "cases: expected"),
        (json.dumps(now | {"cases": {"a": {"laterality": "L"}}}), "'tabular' is missing"),
        (json.dumps(now | {"step_size": 0.25}), r"another step_size \(0.25, now"),
        ("{", "broken JSON"),
    ):
        file.write_text(content)
        with pytest.raises(DatasetError, match=f"{word}.*choose another -o"):
            predict_folder(predictor, images, target)
        assert file.read_text() == content
        assert list(target.iterdir()) == [file]


def test_what_was_made_of_another_laterality_or_less_is_made_anew(predictor, images, tmp_path):
    """A left knee is mirrored, so its masks too."""
    case = sorted({path.name.rsplit("_", 1)[0] for path in images.iterdir()})[0]
    (images / "cases.csv").unlink(missing_ok=True)
    good = (images / f"{case}_sagittal.nii.gz").read_bytes()
    (images / f"{case}_sagittal_1.nii.gz").write_bytes(b"damaged")
    first = predict_folder(predictor, images, tmp_path / "out")
    assert (first.segmented, first.diagnosed, len(first.failed)) == (2, 2, 1)
    (images / f"{case}_sagittal_1.nii.gz").write_bytes(good)
    second = predict_folder(predictor, images, tmp_path / "out")
    assert (second.segmented, second.diagnosed, second.skipped, second.failed) == (0, 1, 1, ())
    fused = tmp_path / "out" / "fused" / f"{case}_axial.nii.gz"
    fused.parent.mkdir()
    fused.touch()
    (images / "cases.csv").write_text(f"case,laterality\n{case},L\n")
    third = predict_folder(predictor, images, tmp_path / "out")
    assert (third.segmented, third.diagnosed, third.skipped) == (1, 1, 1) and not fused.exists()
    assert third.notes[0].startswith("cases.csv: no row for 1 of 2 cases")
    predict_folder(predictor, images, tmp_path / "fresh")
    folders = (tmp_path / "out", tmp_path / "fresh")
    one, other = ((folder / "diagnosis.csv").read_bytes() for folder in folders)
    assert one == other
    one, other = (read_mask(folder / f"{case}_axial.nii.gz").array for folder in folders)
    assert np.array_equal(one, other)
    assert predict_folder(predictor, images, tmp_path / "out").skipped == 2


def test_what_was_made_of_other_images_is_made_anew(predictor, images, tmp_path):
    case, other = sorted({path.name.rsplit("_", 1)[0] for path in images.iterdir()})
    target = tmp_path / "out"
    predict_folder(predictor, images, target)
    before = [read_mask(target / f"{one}_axial.nii.gz").array for one in (case, other)]
    fused = target / "fused" / f"{case}_axial.nii.gz"
    fused.parent.mkdir()
    fused.touch()
    shutil.copyfile(images / f"{other}_axial.nii.gz", images / f"{case}_axial.nii.gz")
    again = predict_folder(predictor, images, target)
    assert (again.segmented, again.diagnosed, again.skipped) == (1, 1, 1) and not fused.exists()
    found = read_mask(target / f"{case}_axial.nii.gz").array
    assert np.array_equal(found, before[1]) and not np.array_equal(found, before[0])
    shutil.copyfile(images / f"{other}_axial.nii.gz", images / f"{case}_axial_1.nii.gz")  # one more series of the view
    more = predict_folder(predictor, images, target)
    assert (more.segmented, more.diagnosed, more.skipped) == (1, 1, 1)
    (images / f"{case}_axial.nii.gz").write_bytes(b"damaged")
    assert len(predict_folder(predictor, images, target).failed) == 1 and not (target / f"{case}_axial.nii.gz").exists()
    assert len(predict_folder(predictor, images, target).failed) == 1


def test_predictions_of_before_images_were_noted_are_kept_until_one_changes(predictor, images, tmp_path):
    target = tmp_path / "out"
    predict_folder(predictor, images, target)
    content = json.loads((target / "predict.json").read_text())
    for one in content["cases"].values():
        del one["images"]
    (target / "predict.json").write_text(json.dumps(content))
    assert predict_folder(predictor, images, target).skipped == 2
    first, other, *_ = sorted(images.glob("*_axial.nii.gz"))
    shutil.copyfile(other, first)
    assert predict_folder(predictor, images, target).segmented == 1


def test_a_case_that_was_interrupted_is_made_anew_whatever_its_images_are_by_now(
    predictor, images, tmp_path, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("odiff.inference.output_folder.OutputFolder.add_diagnosis", interrupted)
        predict_folder(predictor, images, tmp_path / "out")
    first, other, *_ = sorted(images.glob("*_axial.nii.gz"))
    assert (tmp_path / "out" / first.name).exists()
    shutil.copyfile(other, first)
    assert predict_folder(predictor, images, tmp_path / "out").segmented == 2
    masks = [read_mask(tmp_path / "out" / one.name).array for one in (first, other)]
    assert np.array_equal(*masks)


def test_a_mask_that_odiff_did_not_write_is_kept_also_beside_those_it_did(predictor, images, tmp_path):
    target = tmp_path / "out"
    case = min(path.name for path in images.iterdir()).rsplit("_", 1)[0]
    aside = tmp_path / "aside"
    aside.mkdir()
    for path in images.glob(f"{case}_*"):
        path.rename(aside / path.name)
    predict_folder(predictor, images, target)
    for path in aside.iterdir():
        path.rename(images / path.name)
    corrected = target / f"{case}_axial.nii.gz"
    corrected.write_bytes(b"by hand")
    with pytest.raises(DatasetError, match=rf"{case}_axial.* not written by odiff_predict"):
        predict_folder(predictor, images, target)
    assert corrected.read_bytes() == b"by hand"


def test_no_diagnosis_of_an_earlier_image_stays_where_the_new_one_cannot_be_read(predictor, images, tmp_path):
    case, other = sorted({path.name.rsplit("_", 1)[0] for path in images.iterdir()})
    predict_folder(predictor, images, tmp_path / "out")
    for path in images.glob(f"{case}_*"):
        path.write_bytes(b"damaged")
    assert len(predict_folder(predictor, images, tmp_path / "out").failed) == 2
    assert [row["case"] for row in csv.DictReader((tmp_path / "out" / "diagnosis.csv").open())] == [other]


def test_a_scan_of_another_view_than_its_name_says_is_told(predictor, images, tmp_path):
    path = sorted(images.glob("*_axial.nii.gz"))[0]
    shutil.copy(path.with_name(path.name.replace("axial", "sagittal")), path)
    found = predict_folder(predictor, images, tmp_path / "out")
    assert len(found.failed) == 1 and "87 degrees from axial" in found.failed[0] and found.segmented == 1


def test_cases_segmented_as_right_joints_for_want_of_a_side_are_told(predictor, images, tmp_path):
    case, other = sorted({path.name.rsplit("_", 1)[0] for path in images.iterdir()})
    assert predictor.models.segmentation_plans["axial"].average_unknown_laterality
    (tmp_path / "cases.csv").write_text(f"case,patient,laterality\n{case},a,L\n{other},b,\n")
    known = predict_folder(predictor, images, tmp_path / "out", cases_file=tmp_path / "cases.csv")
    assert [note for note in known.notes if "laterality" in note] == [
        f"laterality unknown of 1 of 2 cases, {other} first: segmented as right joints; give L or R in the column "
        "laterality of cases.csv"
    ]
    without = predict_folder(predictor, images, tmp_path / "none")
    assert any(f"laterality unknown of 2 of 2 cases, {case} first" in note for note in without.notes)


def test_a_case_without_a_view_that_is_diagnosed_is_noted_and_not_counted_as_done(model, images, tmp_path):
    for path in images.glob("*_sagittal.nii.gz"):
        path.unlink()
    found = predict_folder(Predictor(model, tasks=("diagnosis",), diagnose_by="sagittal"), images, tmp_path / "out")
    assert (found.diagnosed, found.skipped) == (0, 0)
    assert any("2 cases without a view that is diagnosed (sagittal)" in note for note in found.notes)


def test_a_mean_of_views_has_no_calibration(model, images, tmp_path):
    moved = shutil.copytree(model, tmp_path / "no_fusion")
    shutil.rmtree(moved / "fused")
    loaded = Predictor(moved)
    one = StoredCalibration(loaded.plan.diagnoses, ("0",), 99, identity(len(loaded.plan.diagnoses)))
    loaded.models.calibration.update(sagittal=one, axial=one)
    views = ("sagittal", "axial")
    volumes = {view: (read_volume(sorted(images.glob(f"*_{view}.nii.gz"))[0]),) for view in views}
    assert not loaded.diagnose(CaseImages(volumes, "R")).is_calibrated
    assert loaded.diagnose(CaseImages({"axial": volumes["axial"]}, "R")).is_calibrated


def test_best_models_are_not_fused_nor_calibrated_by_what_was_learnt_on_final_ones(model, caplog):
    found = Predictor(model, checkpoint="best").models
    assert found.diagnosis and not found.fusion and not found.calibration
    assert "fusion and calibration were learnt on final models" in caplog.text
    with pytest.raises(UsageError, match="--checkpoint best"):
        Predictor(model, checkpoint="best", diagnose_by="fused")


def test_models_answer_as_they_were_trained_whatever_lies_beside_them(model, images, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    config = json.loads((model / "axial" / "segmentation" / "fold_0" / "config.json").read_text())
    config["plan"] |= {"labels": {}, "diagnoses": [], "left_right": []}
    (moved / "axial" / "pretrain").mkdir()  # of before there were labels
    (moved / "axial" / "pretrain" / "config.json").write_text(json.dumps(config))
    outcome = predict_folder(Predictor(moved), images, tmp_path / "out")
    assert (outcome.segmented, outcome.diagnosed) == (2, 2)


def test_a_fusion_of_networks_that_were_trained_again_is_refused(model, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    path = moved / "sagittal" / "diagnosis" / "fold_0" / "checkpoint_final.safetensors"
    checkpoint = read_checkpoint(path)
    name = next(iter(checkpoint.tensors))
    save_checkpoint(path, checkpoint.tensors | {name: checkpoint.tensors[name] + 1}, checkpoint.meta)
    with pytest.raises(CheckpointError, match=r"fused.*stands on the sagittal model as it was.*--restart"):
        Predictor(moved)
    assert Predictor(moved, diagnose_by="sagittal").can_diagnose()


def test_a_fusion_of_other_folds_than_its_views_is_left_out(model, tmp_path, caplog):
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    (moved / "fused" / "diagnosis" / "fold_0").rename(moved / "fused" / "diagnosis" / "fold_all")
    assert not Predictor(moved).models.fusion
    assert "predict with -f all" in caplog.text
    with pytest.raises(CheckpointError, match="no fold has the fusion and the networks of all its views"):
        Predictor(moved, diagnose_by="fused")


def test_a_plan_that_is_asked_for_is_never_replaced_by_another(tmp_path):
    (tmp_path / "Dataset001_Knee" / "cpu_demo").mkdir(parents=True)
    assert model_folder(tmp_path, "1", None).name == "cpu_demo"
    with pytest.raises(CheckpointError, match="no plan paper; there: cpu_demo"):
        model_folder(tmp_path, "1", "paper")
    (tmp_path / "Dataset001_Knee" / "default").mkdir()
    assert model_folder(tmp_path, "1", None).name == "default"


def test_units_of_length_are_those_of_the_image(predictor, images, tmp_path):
    """A NIfTI file in micrometres, as SimpleITK reads it: a thousand times the numbers of its header."""
    path = sorted(images.glob("*_axial.nii.gz"))[0]
    header = bytearray(gzip.decompress(path.read_bytes()))
    for offset in (
        *range(80, 92, 4),
        *range(268, 280, 4),
        *(280 + 16 * row + 4 * n for row in range(3) for n in range(4)),
    ):
        header[offset : offset + 4] = struct.pack("<f", 1000 * struct.unpack_from("<f", header, offset)[0])
    header[123] = 3
    path.write_bytes(gzip.compress(bytes(header)))
    predict_folder(predictor, images, tmp_path / "out")
    assert same_grid(read_volume(tmp_path / "out" / path.name).grid, read_volume(path).grid)


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
