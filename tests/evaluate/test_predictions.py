"""odiff_evaluate -p: predictions against references."""

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from odiff.geometry import write_volume
from odiff.inference.evaluate.command import main

from .conftest import GRID, anatomy, write_rows


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_scores_are_those_of_the_masks_and_probabilities(cohort, capsys):
    assert main(cohort.call) == 0
    found = summary_of(cohort.predictions / "evaluation")
    femur = [(anatomy(n) == 1, anatomy(n, 1) == 1) for n in range(12)]
    dice = np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in femur])
    scores = found["segmentation"]["labels"]["femur"]
    assert scores["dice"] == pytest.approx(dice, rel=1e-5)
    assert scores["hd95_mm"] == pytest.approx(0.5)
    assert scores["volume_error_ml"] == pytest.approx(
        -np.mean([4 * (8 + n % 3) * 0.75 / 1000 for n in range(12)]), rel=1e-4
    )
    cartilage = found["segmentation"]["labels"]["femoral_cartilage"]
    assert "thickness_error_mm" in cartilage and "thickness_error_mm" not in scores
    assert abs(cartilage["thickness_error_mm"]) < 0.05, "a plate that is shorter is as thick"
    table = pd.read_csv(cohort.predictions / "diagnosis.csv")
    truth = np.arange(12) % 2
    assert found["diagnosis"]["labels"]["ACL"]["auroc"] == pytest.approx(roc_auc_score(truth, table["ACL"]))
    assert found["diagnosis"]["labels"]["ACL"]["ap"] == pytest.approx(average_precision_score(truth, table["ACL"]))
    printed = capsys.readouterr().out
    assert "24 series of 12 patients" in printed and "femoral_cartilage" in printed and "sens at 90 % spec" in printed


def test_it_writes_tables_and_pictures_and_every_row_of_the_flat_table_is_in_the_summary(cohort):
    assert main([*cohort.call, "-o", str(cohort.predictions.parent / "out")]) == 0
    out = cohort.predictions.parent / "out"
    for name in ("roc.png", "precision_recall.png", "reliability.png", "dice.png"):
        assert (out / name).read_bytes()[:4] == b"\x89PNG"
    found = summary_of(out)
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert {row["group"] for row in rows} == {"", "center", "view"}
    for row in (row for row in rows if row["estimate"]):
        task = found[row["task"]] if not row["group"] else found["groups"][row["group"]][row["value"]][row["task"]]
        scores = task[row["label"]] if row["label"] in ("macro", "micro") else task["labels"][row["label"]]
        assert float(row["estimate"]) == pytest.approx(scores[row["score"]], rel=1e-4, abs=1e-6)
    cases = pd.read_csv(out / "segmentation_cases.csv")
    assert len(cases) == 24 * 2 and set(cases["group_center"]) == {"A", "B"}


def test_a_group_is_scored_from_five_patients_on_and_said_to_be_small_below(cohort, capsys):
    main(cohort.call)
    groups = summary_of(cohort.predictions / "evaluation")["groups"]
    assert groups["center"]["A"]["segmentation"]["patients"] == 8
    assert groups["center"]["A"]["segmentation"]["macro"]["dice_interval"]
    assert groups["center"]["B"]["diagnosis"] == {
        "patients": 4,
        "note": "too few: a group is scored from 5 patients on",
    }
    assert groups["view"]["axial"]["segmentation"]["rows"] == 12
    assert "too few" in capsys.readouterr().out


def test_a_label_with_one_positive_patient_is_null_and_left_out_of_the_macro_mean(cohort):
    table = pd.read_csv(cohort.dataset / "cases.csv")
    table["MM"] = [1] + [0] * 11
    table.to_csv(cohort.dataset / "cases.csv", index=False)
    assert main(cohort.call) == 0
    found = summary_of(cohort.predictions / "evaluation")["diagnosis"]
    assert found["labels"]["MM"]["auroc"] is None and found["labels"]["MM"]["positive"] == 1
    assert found["macro"]["auroc"] == found["labels"]["ACL"]["auroc"]


def test_missing_predictions_are_named_and_may_be_allowed(cohort, capsys):
    (cohort.predictions / "k3_axial.nii.gz").unlink()
    rows = list(csv.DictReader((cohort.predictions / "diagnosis.csv").open()))
    write_rows(cohort.predictions / "diagnosis.csv", [row for row in rows if row["case"] != "k5"])
    assert main(cohort.call) == 2
    said = capsys.readouterr().err
    assert "segmentation of k3_axial" in said and "diagnosis of k5" in said and "--allow-missing" in said
    assert not (cohort.predictions / "evaluation").exists()
    assert main([*cohort.call, "--allow-missing"]) == 0
    found = summary_of(cohort.predictions / "evaluation")
    assert (found["segmentation"]["rows"], found["diagnosis"]["rows"]) == (23, 11)
    assert any("k3_axial" in note for note in found["notes"])


def test_another_grid_is_an_error_that_names_both_files(cohort, capsys):
    from dataclasses import replace

    moved = replace(GRID, origin_xyz_mm=(1.0, 2.5, 3.0))
    write_volume(cohort.predictions / "k2_axial.nii.gz", anatomy(2), moved)
    assert main(cohort.call) == 2
    said = capsys.readouterr().err
    assert str(cohort.predictions / "k2_axial.nii.gz") in said and str(cohort.references / "k2_axial.nii.gz") in said
    assert "origin_xyz_mm is 1x2.5x3" in said
    write_volume(cohort.predictions / "k2_axial.nii.gz", anatomy(2)[:, :, 1:], GRID)
    assert main(cohort.call) == 2
    assert "shape_zyx is 6x20x23" in capsys.readouterr().err


def test_an_unreadable_file_is_named_and_the_rest_is_scored(cohort, capsys):
    path = cohort.predictions / "k2_axial.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    assert main(cohort.call) == 3
    assert "k2_axial" in capsys.readouterr().err
    assert summary_of(cohort.predictions / "evaluation")["segmentation"]["rows"] == 23


def test_an_undeclared_value_is_named(cohort, capsys):
    mask = anatomy(2)
    mask[0, 0, 0] = 7
    write_volume(cohort.references / "k2_axial.nii.gz", mask, GRID)
    assert main(cohort.call) == 3
    assert "1 voxels have the value 7" in capsys.readouterr().err


def test_voxels_of_the_ignore_label_count_nowhere(cohort):
    description = json.loads((cohort.dataset / "dataset.json").read_text())
    description["segmentation"]["ignore_label"] = 9
    (cohort.dataset / "dataset.json").write_text(json.dumps(description))
    for path in cohort.references.iterdir():
        mask = anatomy(int(path.name.split("_")[0][1:]))
        mask[:, :, :5] = 9
        write_volume(path, mask, GRID)
    assert main(cohort.call) == 0
    found = summary_of(cohort.predictions / "evaluation")["segmentation"]
    assert found["macro"]["dice"] == 1 and found["macro"]["assd_mm"] == 0


def test_either_task_may_be_missing(cohort):
    (cohort.predictions / "diagnosis.csv").unlink()
    assert main(cohort.call) == 0
    assert "diagnosis" not in summary_of(cohort.predictions / "evaluation")
    write_rows(cohort.predictions / "diagnosis.csv", [{"case": f"k{n}", "ACL": 0.5, "MM": 0.1} for n in range(12)])
    alone = ["-p", str(cohort.predictions), "--dataset-json", str(cohort.dataset / "dataset.json")]
    assert main([*alone, "--cases", str(cohort.dataset / "cases.csv"), "--bootstrap", "20"]) == 0
    found = summary_of(cohort.predictions / "evaluation")
    assert "segmentation" not in found and found["diagnosis"]["labels"]["ACL"]["auroc"] == 0.5


@pytest.mark.parametrize("cell", ["1.2", "", "nan", "high"])
def test_a_cell_that_is_no_probability_is_named(cohort, capsys, cell):
    rows = list(csv.DictReader((cohort.predictions / "diagnosis.csv").open()))
    rows[4]["MM"] = cell
    write_rows(cohort.predictions / "diagnosis.csv", rows)
    assert main(cohort.call) == 2
    assert f"case k4: MM is {cell!r}" in capsys.readouterr().err


def test_the_dataset_of_the_raw_folder_gives_labels_and_cases(cohort):
    """-d in place of --dataset-json; the references lie elsewhere."""
    elsewhere = shutil.copytree(cohort.references, cohort.predictions.parent / "elsewhere" / "masks")
    raw = str(cohort.dataset.parent)
    call = [
        "-p",
        str(cohort.predictions),
        "-r",
        str(elsewhere),
        "-d",
        "1",
        "--raw",
        raw,
        "--bootstrap",
        "20",
        "-np",
        "1",
    ]
    assert main(call) == 0
    found = summary_of(cohort.predictions / "evaluation")
    assert found["diagnosis"]["rows"] == 12 and "center" in found["groups"]


MISTAKES = {
    "nothing at all": ([], "give -p PREDICTIONS"),
    "references without predictions": (["-d", "1", "-r", "."], "belong to -p"),
    "one evaluation": (["--compare", "."], "two evaluations"),
    "comparison and predictions": (["--compare", ".", ".", "-p", "."], "no other input"),
    "two descriptions": (["-p", ".", "-d", "1", "--dataset-json", "x"], "the same thing"),
    "no such file": (["-p", ".", "--dataset-json", "nowhere.json"], "nowhere.json: not found"),
    "no samples": (["-d", "1", "--bootstrap", "0"], "--bootstrap 0"),
    "no results": (["-d", "1", "--results", "nowhere", "--preprocessed", "nowhere"], "odiff_train 1 VIEW"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_exit_code_two_and_say_what_to_do(mistake, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments, named = MISTAKES[mistake]
    assert main(arguments) == 2
    assert named in capsys.readouterr().err
