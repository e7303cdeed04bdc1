"""File names, case tables and splits, with whatever people write into them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odiff.dataset import DatasetDescription, list_series, make_splits, read_splits
from odiff.dataset.case_table import read_case_table, scan_case_table
from odiff.dataset.series import parse_name
from odiff.errors import DatasetError, OdiffError
from odiff.geometry import VIEWS

DESCRIPTION = DatasetDescription(
    "Knee", "knee", ".nii.gz", VIEWS, {"background": 0}, None, False, (), ("ACL", "MM"), {"age": "continuous"}, ("center",)
)  # fmt: skip
HEADER = "case,patient,laterality,ACL,MM,age,center\n"


@given(st.text(alphabet="ab_1.", min_size=1, max_size=12), st.sampled_from(VIEWS), st.none() | st.integers(0, 99))
def test_names_are_read_from_the_right(case, view, index):
    name = f"{case}_{view}" if index is None else f"{case}_{view}_{index}"
    assert parse_name(name, VIEWS) == (case, view, index)


@pytest.mark.parametrize(
    "name", ["sagittal", "_sagittal", "a-sagittal", "a_Sagittal", "a_sagittal_x", "a_sagittal_1_2"]
)
def test_names_that_do_not_fit_are_none(name):
    assert parse_name(name, VIEWS) is None


def test_case_names_may_look_like_views(tmp_path):
    for name in ("a_axial_1_coronal.nii.gz", "a_axial_1.nii.gz", ".hidden_axial.nii.gz", "notes.txt", "cases.csv"):
        (tmp_path / name).touch()
    found, other = list_series(tmp_path, ".nii.gz", VIEWS)
    assert [(s.case, s.view, s.index) for s in found] == [("a", "axial", 1), ("a_axial_1", "coronal", None)]
    assert [path.name for path in other] == ["notes.txt"]


def test_empty_cells_are_unknown_and_spaces_do_not_matter(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text(HEADER + "k1, p1 ,L,1,,33.5,A\nk2,,,0,1,,\n", encoding="utf-8-sig")
    rows = read_case_table(path, DESCRIPTION)
    assert rows["k1"].patient == "p1" and rows["k1"].diagnoses == {"ACL": 1, "MM": None}
    assert rows["k2"].patient == "k2" and rows["k2"].laterality is None and rows["k2"].groups == {"center": None}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (HEADER + "k1,p,L,2,0,3,A\n", "k1: ACL is '2'"), (HEADER + "k1,p,left,1,0,3,A\n", "laterality is 'left'"),
        (HEADER + "k1,p,L,1,0,old,A\n", "age is 'old'"), (HEADER + "k1,p,L,1,0,nan,A\n", "age is 'nan'"),
        (HEADER + "k1,p,L,1,0,3,A\nk1,p,L,1,0,3,A\n", "two rows"), ("case,patient,ACL\nk,p,1\n", "column MM"),
        ("case,patient,laterality,ACL,ACL,MM,age,center\nk,p,L,1,0,1,3,A\n", "column ACL is 'twice'"), ("", "cases.csv: file is"),
        (HEADER + ",p,L,1,0,3,A\n", "no case name"),
    ],
)  # fmt: skip
def test_faults_name_the_case_the_column_and_the_value(tmp_path, text, named):
    path = tmp_path / "cases.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=named) as caught:
        read_case_table(path, DESCRIPTION)
    assert "cases.csv" in str(caught.value)


@settings(max_examples=150)
@given(st.binary(max_size=200) | st.text(alphabet="casepatintACLM,\n\"'01 ;\t", max_size=200).map(str.encode))
def test_any_bytes_give_rows_or_faults_never_another_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("table") / "cases.csv"
    path.write_bytes(content)
    rows, faults = scan_case_table(path, DESCRIPTION)
    assert isinstance(rows, dict) and all(fault.advice for fault in faults)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 15), min_size=2, max_size=40), st.integers(0, 5))
def test_folds_never_share_a_patient_and_use_every_case(patient_numbers, seed):
    names = [f"c{number}" for number in range(len(patient_numbers))]
    patients = [f"p{number}" for number in patient_numbers]
    labels = np.arange(2 * len(names)).reshape(-1, 2) % 3 % 2.0
    try:
        splits = make_splits(names, patients, labels, seed=seed)
    except OdiffError:
        assert len(set(patients)) < 2
        return
    of = dict(zip(names, patients, strict=True))
    for split in splits:
        assert not {of[n] for n in split["train"]} & {of[n] for n in split["val"]}
        assert sorted([*split["train"], *split["val"]]) == sorted(names)
    assert sorted(n for split in splits for n in split["val"]) == sorted(names)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "line 1"), ("{}", "splits_final.json"), ([{"train": ["a"], "val": ["zz"]}], "zz"),
        ([{"train": ["a"], "val": ["b"]}], "P1"), ([{"train": ["a"]}], "splits_final.json"),
    ],
)  # fmt: skip
def test_splits_of_the_user_are_checked(tmp_path, content, named):
    path = tmp_path / "splits_final.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DatasetError, match=named):
        read_splits(path, {"a": "P1", "b": "P1", "c": "P2"})


def test_a_cell_that_no_column_is_for_shifts_nothing_and_is_a_fault(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text(HEADER + "k1,p1,L,1,0,33.5,A,\nk2,p2,R,0,1,50,B,\n")
    rows, faults = scan_case_table(path, DESCRIPTION)
    assert not faults and rows["k1"].patient == "p1" and rows["k2"].diagnoses == {"ACL": 0, "MM": 1}
    path.write_text(HEADER + "k1,p1,L,1,0,33.5,A,\nk2,p2,R,0,1,50,B,see letter\n")
    _, faults = scan_case_table(path, DESCRIPTION)
    assert [(one.case, one.field) for one in faults] == [(None, "row 2")] and "see letter" in faults[0].value
    path.write_text(HEADER + "k1,p1,L,1,0,33.5,A\nk2,p2,R,0,1,50,B,\n")
    assert [one.field for one in scan_case_table(path, DESCRIPTION)[1]] == ["file"]  # pandas says which line


@pytest.mark.parametrize("written", ["Laterality", "LATERALITY"])
def test_a_column_that_is_written_almost_right_is_a_fault(tmp_path, written):
    (tmp_path / "cases.csv").write_text(HEADER.replace("laterality", written) + "k1,p1,L,1,0,33.5,A\n")
    _, faults = scan_case_table(tmp_path / "cases.csv", DESCRIPTION)
    assert [(one.field, one.advice) for one in faults] == [(f"column {written}", "write it as laterality")]


def test_links_to_nowhere_are_listed(tmp_path):
    (tmp_path / "a_axial.nii.gz").symlink_to(tmp_path / "unmounted" / "a.nii.gz")
    (tmp_path / "a_coronal.nii.gz").mkdir()
    assert [one.name for one in list_series(tmp_path, ".nii.gz", VIEWS)[0]] == ["a_axial"]


def test_folds_may_name_cases_that_were_skipped(tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["a", "x"], "val": ["b", "y"]}]))
    assert read_splits(path, {"a": "p", "b": "q"}, ("x", "y")) == [{"train": ["a"], "val": ["b"]}]
    with pytest.raises(DatasetError, match="'y' is not in the dataset"):
        read_splits(path, {"a": "p", "b": "q"}, ("x",))
