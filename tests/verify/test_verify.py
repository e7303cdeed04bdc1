"""Every kind of fault is found in one run, and named."""

import json
import shutil

import numpy as np
import pytest

from odiff.errors import DatasetError
from odiff.experiment_planning.verify import verify_dataset
from odiff.geometry import read_mask, read_volume, write_volume


@pytest.fixture()
def dataset(tmp_path, phantom_dataset):
    folder = tmp_path / phantom_dataset.name
    shutil.copytree(phantom_dataset, folder)
    return folder


def replace_in(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def rename(folder):
    (folder / "imagesTr/knee_00000_axial.nii.gz").rename(folder / "imagesTr/knee_00000_1_sagittal.nii.gz")
    (folder / "labelsTr/knee_00000_axial.nii.gz").unlink()


def shift_mask(folder):
    path = folder / "labelsTr/knee_00001_axial.nii.gz"
    mask = read_mask(path)
    write_volume(path, mask.array[:-1].astype(np.uint8), type(mask.grid)(
        (mask.grid.shape_zyx[0] - 1, *mask.grid.shape_zyx[1:]), mask.grid.spacing_zyx_mm, mask.grid.origin_xyz_mm, mask.grid.direction
    ))  # fmt: skip


def odd_label(folder):
    path = folder / "labelsTr/knee_00001_axial.nii.gz"
    mask = read_mask(path)
    array = mask.array.astype(np.uint8)
    array[0, 0, 0] = 77
    write_volume(path, array, mask.grid)


def not_a_number(folder):
    path = folder / "imagesTr/knee_00002_coronal.nii.gz"
    volume = read_volume(path)
    array = volume.array.copy()
    array[1, 2, 3] = np.nan
    write_volume(path, array, volume.grid)


def truncate(folder):
    path = folder / "imagesTr/knee_00002_coronal.nii.gz"
    path.write_bytes(path.read_bytes()[:-400])


FAULTS = {
    "a view that contradicts the direction cosines": (rename, "knee_00000_1_sagittal.nii.gz", "view", "axial"),
    "a mask on another grid": (shift_mask, "labelsTr/knee_00001_axial.nii.gz", "grid", "voxels"),
    "an undeclared label": (odd_label, "labelsTr/knee_00001_axial.nii.gz", "label", "77"),
    "a voxel that is no number": (not_a_number, "knee_00002_coronal.nii.gz", "file", "1 voxels are NaN"),
    "a truncated file": (truncate, "knee_00002_coronal.nii.gz", "file", "truncated"),
    "a row without images": (
        lambda f: (f / "cases.csv").write_text((f / "cases.csv").read_text() + "ghost,P99,R,A,3.0,30,F,0,0,0,0,0,0,0,0\n"),
        "cases.csv", "case", "ghost",
    ),
    "a case with two rows": (
        lambda f: (f / "cases.csv").write_text((f / "cases.csv").read_text() + "knee_00001,P1,R,A,3.0,30,F,0,0,0,0,0,0,0,0\n"),
        "cases.csv", "case", "knee_00001",
    ),
    "a patient on both sides": (
        lambda f: replace_in(f / "cases.csv", "knee_00007,P00007", "knee_00007,P00000"), "cases.csv", "patient", "P00000",
    ),
    "a wrong file ending": (
        lambda f: (f / "imagesTr/knee_00009_axial.nrrd").write_bytes(b"x"), "knee_00009_axial.nrrd", "name", "name it",
    ),
    "a column that is missing": (lambda f: replace_in(f / "cases.csv", ",ACL,", ",ACLx,"), "cases.csv", "column ACL", "missing"),
    "a side that is none": (
        lambda f: (f / "cases.csv").write_text((f / "cases.csv").read_text().replace(",L,", ",left,").replace(",R,", ",right,")),
        "cases.csv", "laterality", "write L, R",
    ),
}  # fmt: skip


def test_the_phantom_is_without_fault(phantom_dataset):
    assert verify_dataset(phantom_dataset, processes=1).faults == ()


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_with_file_field_and_value(dataset, fault):
    break_it, file, field, value = FAULTS[fault]
    break_it(dataset)
    found = [finding for finding in verify_dataset(dataset, processes=1).faults if finding.file.endswith(file)]
    assert any(finding.field == field and value in str(finding) for finding in found), found


def test_all_faults_are_listed_in_one_run(dataset):
    odd_label(dataset)
    truncate(dataset)
    (dataset / "imagesTr/notes.txt").write_text("x")
    assert len(verify_dataset(dataset, processes=1).faults) == 3


def test_a_cell_that_is_not_binary_is_named_with_its_case(dataset):
    lines = (dataset / "cases.csv").read_text().splitlines()
    cells = lines[1].split(",")
    cells[lines[0].split(",").index("PCL")] = "maybe"
    (dataset / "cases.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    (finding,) = verify_dataset(dataset, processes=1).faults
    assert (finding.case, finding.field, finding.value) == (cells[0], "PCL", "maybe")


def test_a_leaking_split_is_a_fault(dataset, tmp_path):
    splits = tmp_path / "splits_final.json"
    splits.write_text(json.dumps([{"train": ["knee_00000", "knee_00001"], "val": ["knee_00001"]}]))
    assert any("P00001" in str(finding) for finding in verify_dataset(dataset, processes=1, splits=splits).faults)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": 3}', '{"name": "x", "file_ending": ".nii.gz", "lables": {}}'])
def test_a_broken_description_is_an_error_that_names_the_file(dataset, text):
    (dataset / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        verify_dataset(dataset, processes=1)


def test_files_of_an_explicit_list_that_are_missing_are_faults(dataset):
    description = json.loads((dataset / "dataset.json").read_text())
    images = sorted(path.name for path in (dataset / "imagesTr").iterdir())
    listed = [
        {"case": name.rsplit("_", 1)[0], "view": name.rsplit("_", 1)[1].split(".")[0], "image": f"imagesTr/{name}"}
        for name in images
    ]
    listed[0]["image"], listed[1]["mask"] = "imagesTr/nowhere.nii.gz", "labelsTr/nothing.nii.gz"
    (dataset / "dataset.json").write_text(json.dumps(description | {"cases": listed}))
    faults = verify_dataset(dataset, processes=1).faults
    assert {one.file.rsplit("/", 1)[1] for one in faults if one.value == "missing"} == {
        "nowhere.nii.gz",
        "nothing.nii.gz",
    }


def test_a_mask_that_links_to_nowhere_is_a_fault_and_not_unlabelled(dataset):
    path = dataset / "labelsTr" / "knee_00000_axial.nii.gz"
    path.unlink()
    path.symlink_to(dataset / "unmounted.nii.gz")
    assert [(one.file, one.value) for one in verify_dataset(dataset, processes=1).faults] == [(str(path), "missing")]


@pytest.mark.parametrize("ending", [".mhd", ".nhdr", ".img"])
def test_images_in_two_files_are_refused(dataset, ending):
    replace_in(dataset / "dataset.json", ".nii.gz", ending)
    with pytest.raises(DatasetError, match="images in two files"):
        verify_dataset(dataset, processes=1)
