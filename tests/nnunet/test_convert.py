"""The same dataset and folds in nnU-Net's format, and back."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odiff.dataset import load_dataset, read_splits
from odiff.experiment_planning.nnunet.command import main
from odiff.experiment_planning.nnunet.layout import consecutive_labels
from odiff.experiment_planning.verify import verify_dataset
from odiff.geometry import read_mask, read_volume, same_grid, write_volume
from odiff.phantom import write_phantom_dataset

VIEWS = ("sagittal", "coronal", "axial")
UNKNOWN = 7


def with_odd_values(folder):
    """The same labels under other values, falling and far apart, and voxels to ignore."""
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    labels = content["segmentation"]["labels"]
    content["segmentation"] |= {"labels": {n: v and 300 - 10 * v for n, v in labels.items()}, "ignore_label": UNKNOWN}
    path.write_text(json.dumps(content))
    for file in [*(folder / "labelsTr").iterdir(), *(folder / "labelsTs").iterdir()]:
        mask = read_mask(file)
        values = np.where(mask.array == 0, 0, 300 - 10 * mask.array)
        values[0, :2] = UNKNOWN
        write_volume(file, values.astype(np.int16), mask.grid)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Roots with Dataset001_Knee, as an archive gives it, and Dataset002_Odd, the same under odd values; both converted."""
    root = tmp_path_factory.mktemp("cohort")
    knee = root / "raw" / "Dataset001_Knee"
    write_phantom_dataset(knee, joint="knee", cases=7, seed=6, test_cases=1, masked_cases=6, size="tiny", messy=0.3)
    with_odd_values(shutil.copytree(knee, root / "raw" / "Dataset002_Odd"))
    for number in "12":
        assert convert(root, "--to", root / "nn", "-d", number) == 0
    return root


@pytest.fixture
def copied(cohort, tmp_path):
    return shutil.copytree(cohort, tmp_path / "copy")


def convert(root, *arguments, into=None):
    roots = ("--raw", (into or root) / "raw", "--preprocessed", (into or root) / "pre")
    return main([*map(str, (*arguments, *roots)), "-np", "1"])


def raw_of(root, name):
    return root / "nn" / "nnUNet_raw" / name


@pytest.mark.parametrize(
    ("name", "numbers"), [("Dataset001_Knee", (110, 111, 112)), ("Dataset002_Odd", (120, 121, 122))]
)
def test_there_and_back_again_gives_the_same_images_masks_patients_and_folds(cohort, tmp_path, name, numbers):
    for number, view in zip(numbers, VIEWS, strict=True):
        source = raw_of(cohort, f"Dataset{number}_{name[11:]}{view.capitalize()}")
        assert convert(cohort, "--from", source, "--view", view, "-d", name, into=tmp_path) == 0
    assert not verify_dataset(tmp_path / "raw" / name, processes=1).faults
    given, found = (load_dataset(root / "raw" / name) for root in (cohort, tmp_path))
    assert found.description.labels == given.description.labels
    assert found.description.ignore_label == given.description.ignore_label
    masked = {one.name: one for case in given.cases for one in case.series if one.mask}
    back = {one.name: one for case in found.cases for one in case.series}
    assert back.keys() == masked.keys()
    for series, one in masked.items():
        assert back[series].image.read_bytes() == one.image.read_bytes()
        before, after = read_mask(one.mask), read_mask(back[series].mask)
        assert np.array_equal(after.array, before.array) and same_grid(after.grid, before.grid)
    people = {case.name: (case.patient, case.laterality) for case in given.cases}
    assert all(people[case.name] == (case.patient, case.laterality) for case in found.cases)
    patient_of = {case.name: case.patient for case in given.cases}
    cases = {one.case for one in masked.values()}
    old, new = (read_splits(root / "pre" / name / "splits_final.json", patient_of) for root in (cohort, tmp_path))
    assert new == [{part: [case for case in fold[part] if case in cases] for part in fold} for fold in old]


def test_only_masked_series_train_and_series_of_a_case_stay_in_one_fold(cohort):
    folder = raw_of(cohort, "Dataset110_KneeSagittal")
    images = {path.name.removesuffix("_0000.nii.gz") for path in (folder / "imagesTr").iterdir()}
    assert images == {path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").iterdir()}
    content = json.loads((folder / "dataset.json").read_text())
    assert content["numTraining"] == len(images) and content["channel_names"] == {"0": "MRI"}
    folds = json.loads((cohort / "nn" / "nnUNet_preprocessed" / folder.name / "splits_final.json").read_text())
    of_case = {name: one["case"] for name, one in content["odiff"]["cases"].items()}
    assert len(images) > len(set(of_case.values())), "the cohort has a case with two series"
    for fold in folds:
        assert {*fold["train"], *fold["val"]} == images
        assert not {of_case[name] for name in fold["train"]} & {of_case[name] for name in fold["val"]}


def test_images_take_no_room_and_only_masks_with_other_values_are_written_anew(cohort):
    for name, is_kept in (("Dataset001_Knee", True), ("Dataset002_Odd", False)):
        dataset = load_dataset(cohort / "raw" / name)
        one = next(one for case in dataset.cases for one in case.series if one.mask and one.view == "axial")
        folder = raw_of(cohort, f"Dataset{112 if is_kept else 122}_{name[11:]}Axial")
        assert (folder / "imagesTr" / f"{one.name}_0000.nii.gz").samefile(one.image)
        assert (folder / "labelsTr" / one.image.name).samefile(one.mask) == is_kept


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Dataset111_KneeCoronal", "Dataset122_OddAxial"])
def test_nnunet_itself_finds_nothing_wrong(cohort, name):
    integrity = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity")
    integrity.verify_dataset_integrity(str(raw_of(cohort, name)), 1)


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(1, 900), max_size=6), st.booleans())
@settings(max_examples=50)
def test_labels_become_consecutive_in_their_order_with_the_ignored_last(labels, has_ignored):
    labels = {"background": 0, **labels}
    found = consecutive_labels(labels, has_ignored)
    assert list(found.values()) == list(range(len(labels) + has_ignored))
    assert found["background"] == 0 and ("ignore" in found) == has_ignored
    names = [name for name in found if name != "ignore"]
    assert [labels[name] for name in names] == sorted(labels.values())


@pytest.mark.parametrize(("factor", "ignore_label"), [(1, None), (1, 12), (2, None)])
def test_slices_that_nobody_drew_on_are_ignored_by_nnunet_too_and_on_the_way_back(copied, factor, ignore_label):
    path = copied / "raw" / "Dataset001_Knee" / "dataset.json"
    content = json.loads(path.read_text())
    labels = {name: factor * value for name, value in content["segmentation"]["labels"].items()}
    content["segmentation"] = {"labels": labels, "sparse_slices": True, "ignore_label": ignore_label}
    path.write_text(json.dumps(content))
    masks = [
        one.mask for case in load_dataset(path.parent).cases for one in case.series if one.mask and one.view == "axial"
    ]
    for file in (*masks, *(path.parent / "labelsTs").iterdir()):
        mask = read_mask(file)
        mask.array[2] = 0
        file.unlink()
        write_volume(file, (factor * mask.array).astype(np.uint8), mask.grid)
    assert convert(copied, "--to", copied / "sparse", "-d", "1", "--view", "axial") == 0
    folder = copied / "sparse" / "nnUNet_raw" / "Dataset112_KneeAxial"
    assert json.loads((folder / "dataset.json").read_text())["labels"]["ignore"] == 12
    given, found = read_mask(masks[0]).array, read_mask(folder / "labelsTr" / masks[0].name).array
    drawn = (given > 0).any(axis=(1, 2))
    assert not drawn[2] and drawn.sum() > 3
    assert (found[~drawn] == 12).all() and np.array_equal(factor * found[drawn], given[drawn])
    assert convert(copied, "--from", folder, "-d", "Dataset003_Back") == 0
    back = load_dataset(copied / "raw" / "Dataset003_Back")
    assert back.description.labels == labels and back.description.ignore_label == factor * 11 + 1
    found = read_mask(copied / "raw" / "Dataset003_Back" / "labelsTr" / masks[0].name).array
    assert (found[~drawn] == factor * 11 + 1).all() and np.array_equal(found[drawn], given[drawn])


def foreign(folder, **changes):
    """A dataset of nnU-Net that odiff did not write: two cases."""
    rng = np.random.default_rng(0)
    write_phantom_dataset(folder.parent / "source", joint="knee", cases=1, seed=0, size="tiny")
    grid = read_volume(next((folder.parent / "source" / "imagesTr").glob("*_axial.nii.gz"))).grid
    for case in ("a_1", "b_axial_2"):
        write_volume(
            folder / "imagesTr" / f"{case}_0000.nii.gz", rng.normal(size=grid.shape_zyx).astype(np.float32), grid
        )
        write_volume(folder / "labelsTr" / f"{case}.nii.gz", rng.integers(0, 3, grid.shape_zyx).astype(np.uint8), grid)
    content = {
        "channel_names": {"0": "T1"}, "labels": {"background": 0, "bone": 1, "ignore": 2}, "numTraining": 2,
        "file_ending": ".nii.gz", **changes,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_a_dataset_of_nnunet_is_read_as_the_view_that_is_named(tmp_path):
    folder = foreign(tmp_path / "nnUNet_raw" / "Dataset007_Bone")
    splits = tmp_path / "nnUNet_preprocessed" / folder.name / "splits_final.json"
    splits.parent.mkdir(parents=True)
    folds = [{"train": ["a_1"], "val": ["b_axial_2"]}, {"train": ["b_axial_2"], "val": ["a_1"]}]
    splits.write_text(json.dumps(folds))
    assert convert(tmp_path, "--from", folder) == 2
    assert convert(tmp_path, "--from", folder, "--view", "coronal") == 0
    dataset = load_dataset(tmp_path / "raw" / folder.name)
    assert dataset.description.labels == {"background": 0, "bone": 1} and dataset.description.ignore_label == 2
    assert {(one.case, one.view) for c in dataset.cases for one in c.series} == {
        ("a_1", "coronal"),
        ("b_axial_2", "coronal"),
    }
    assert json.loads((tmp_path / "pre" / folder.name / "splits_final.json").read_text()) == folds
    assert convert(tmp_path, "--from", folder, "--view", "coronal") == 0, "a second call finds everything done"


NOT_READ = {
    "two channels": ({"channel_names": {"0": "T1", "1": "T2"}}, "2 channels (T1, T2)"),
    "channels in a list": ({"channel_names": ["T1"]}, "channel_names is ['T1'], expected names by"),
    "labels in a list": ({"labels": ["background", "bone"]}, "labels is ['background', 'bone'], expected"),
    "an ending that is none": ({"file_ending": 3}, "file_ending is 3, expected"),
    "regions": ({"labels": {"background": 0, "whole": [1, 2]}}, "labels.whole"),
    "two labels of one value": ({"labels": {"background": 0, "bone": 3, "rest": 3}}, "value 3 stands for more than one"),
    "a broken way back": ({"odiff": {"view": "axial"}}, "odiff: field 'dataset' is missing"),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_READ)
def test_what_cannot_be_read_is_named(tmp_path, capsys, what):
    changes, named = NOT_READ[what]
    folder = foreign(tmp_path / "nnUNet_raw" / "Dataset007_Bone", **changes)
    assert convert(tmp_path, "--from", folder, "--view", "axial") == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "raw" / folder.name / "dataset.json").exists()


def test_files_that_are_there_are_never_replaced_by_others(copied, capsys):
    folder = raw_of(copied, "Dataset122_OddAxial")
    assert convert(copied, "--from", folder, "-d", "Dataset002_Odd") == 0, "its own files are the same"
    odd = copied / "raw" / "Dataset002_Odd"
    target = odd / "imagesTr" / min((odd / "labelsTr").glob("*_axial.nii.gz")).name  # nnU-Net has the masked ones alone
    volume = read_volume(target)
    target.unlink()
    write_volume(target, volume.array + 1, volume.grid)
    before = target.read_bytes()
    assert convert(copied, "--from", folder, "-d", "Dataset002_Odd") == 2
    assert f"{target}: is there already and differs" in capsys.readouterr().err
    assert target.read_bytes() == before
    assert convert(copied, "--from", folder, "-d", "Dataset001_Knee") == 2
    assert "labels is" in capsys.readouterr().err


def test_folds_that_part_the_series_of_a_patient_are_refused(copied, tmp_path, capsys):
    folder = raw_of(copied, "Dataset110_KneeSagittal")
    cases = json.loads((folder / "dataset.json").read_text())["odiff"]["cases"]
    of_patient = {}
    for name, one in cases.items():
        of_patient.setdefault(one["patient"], []).append(name)
    two = next(names for names in of_patient.values() if len(names) == 2)
    splits = copied / "nn" / "nnUNet_preprocessed" / folder.name / "splits_final.json"
    splits.write_text(json.dumps([{"train": two[:1], "val": two[1:]}]))
    assert convert(copied, "--from", folder, into=tmp_path) == 2
    assert "is in train and in val" in capsys.readouterr().err
    assert not (tmp_path / "pre").exists()


MISTAKES = {
    "no dataset": (("--to", "nn"), "-d"),
    "numbers of four digits": (("--to", "nn", "-d", "1", "--first-id", "998"), "--first-id 998"),
    "a number that another dataset has": (("--to", "nn", "-d", "1", "--first-id", "120"), "Dataset120_OddSagittal"),
    "a name without a number": (("--from", "nn/nnUNet_raw/Dataset110_KneeSagittal", "-d", "Knee"), "Dataset005_Knee"),
    "another view": (("--from", "nn/nnUNet_raw/Dataset110_KneeSagittal", "--view", "axial"), "written as sagittal"),
    "no folder of nnU-Net": (("--from", "raw/Dataset001_Knee", "--view", "axial"), "not a dataset of nnU-Net"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(cohort, monkeypatch, capsys, mistake):
    monkeypatch.chdir(cohort)
    arguments, named = MISTAKES[mistake]
    assert convert(cohort, *arguments) == 2
    assert named in capsys.readouterr().err


def test_what_no_longer_belongs_there_and_other_folds_stop_the_conversion(copied, capsys):
    folder = raw_of(copied, "Dataset112_KneeAxial")
    stray = folder / "imagesTr" / "gone_axial_0000.nii.gz"
    stray.touch()
    assert convert(copied, "--to", copied / "nn", "-d", "1", "--view", "axial") == 2
    assert stray.name in capsys.readouterr().err
    stray.unlink()
    splits = copied / "pre" / "Dataset001_Knee" / "splits_final.json"
    splits.write_text(json.dumps(json.loads(splits.read_text())[1:]))
    assert convert(copied, "--to", copied / "nn", "-d", "1", "--view", "axial") == 2
    assert "other folds" in capsys.readouterr().err


def test_a_value_that_no_label_has_is_named_with_its_file(copied, capsys):
    mask = next((copied / "raw" / "Dataset002_Odd" / "labelsTr").glob("*_axial.nii.gz"))
    volume = read_mask(mask)
    volume.array[3, 3, 3] = 5
    write_volume(mask, volume.array.astype(np.int16), volume.grid)
    assert convert(copied, "--to", copied / "again", "-d", "2", "--view", "axial") == 2
    assert f"{mask}: value 5" in capsys.readouterr().err
