"""odiff_evaluate --compare: paired tests between two evaluations."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from odiff.inference.evaluate.command import main

from .conftest import write_predictions


@pytest.fixture
def two(cohort, tmp_path):
    """Evaluations of shifted masks and noisy probabilities, and of masks and probabilities that are right."""
    write_predictions(tmp_path / "exact", 0, 0.1, seed=1)
    second = [str(tmp_path / "exact") if part == str(cohort.predictions) else part for part in cohort.call]
    assert main([*cohort.call, "-o", str(tmp_path / "a")]) == 0
    assert main([*second, "-o", str(tmp_path / "b")]) == 0
    return tmp_path / "a", tmp_path / "b"


def compared(first, second, out):
    assert main(["--compare", str(first), str(second), "-o", str(out), "--bootstrap", "199"]) == 0
    return json.loads((out / "comparison.json").read_text())["comparisons"][0]


def test_the_difference_is_that_of_the_two_summaries(two, tmp_path, capsys):
    found = compared(*two, tmp_path / "c")
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in two]
    for task, score in (("segmentation", "dice"), ("diagnosis", "auroc")):
        a, b = (one[task]["macro"][score] for one in summaries)
        assert found[task]["differences"]["macro"][score]["difference"] == pytest.approx(b - a, abs=1e-5)
        assert found[task]["patients"] == 12
    assert found["segmentation"]["differences"]["femur"]["dice"]["p"] == pytest.approx(2 / 200)
    printed = capsys.readouterr().out
    assert "12 patients shared" in printed and "Wilcoxon p" in printed


def test_wilcoxon_takes_one_difference_a_patient(two, tmp_path):
    found = compared(*two, tmp_path / "c")["segmentation"]["wilcoxon"]
    means = [
        pd.read_csv(folder / "segmentation_cases.csv").query("label == 'femur'").groupby("patient")["dice"].mean()
        for folder in two
    ]
    assert found["femur"] == pytest.approx(wilcoxon(means[1] - means[0]).pvalue)


def test_an_evaluation_differs_from_itself_by_nothing(two, tmp_path):
    found = compared(two[0], two[0], tmp_path / "c")
    for task in ("segmentation", "diagnosis"):
        for of_label in found[task]["differences"].values():
            assert all(one["difference"] == 0 and one["p"] == 1 for one in of_label.values())


def test_only_shared_cases_are_compared(two, tmp_path):
    for name in ("segmentation_cases.csv", "diagnosis_cases.csv"):
        table = pd.read_csv(two[1] / name)
        table[table["patient"] != "p0"].to_csv(two[1] / name, index=False)
    found = compared(*two, tmp_path / "c")
    assert found["segmentation"]["patients"] == found["diagnosis"]["patients"] == 11
    first = pd.read_csv(two[0] / "segmentation_cases.csv").query("label == 'femur' and patient != 'p0'")["dice"].mean()
    assert found["segmentation"]["differences"]["femur"]["dice"]["first"] == pytest.approx(first)


def test_views_are_paired_by_patient(two, tmp_path):
    for folder, view in zip(two, ("axial", "sagittal"), strict=True):
        table = pd.read_csv(folder / "segmentation_cases.csv")
        table[table["group_view"] == view].to_csv(folder / "segmentation_cases.csv", index=False)
    assert compared(*two, tmp_path / "c")["segmentation"]["paired_by"] == "patient"


def test_folders_that_cannot_be_compared_are_named(two, tmp_path, capsys):
    def said(second):
        assert main(["--compare", str(two[0]), str(second)]) == 2
        return capsys.readouterr().err

    assert "holds no segmentation_cases.csv" in said(tmp_path)
    other = shutil.copytree(two[1], tmp_path / "other")
    table = pd.read_csv(other / "diagnosis_cases.csv")
    changed = table.assign(truth=np.where(table.index == 0, 1 - table["truth"], table["truth"]))
    changed.to_csv(other / "diagnosis_cases.csv", index=False)
    assert "case k0: ACL is 0 in one and 1 in the other" in said(other)
    table.assign(patient="someone").to_csv(other / "diagnosis_cases.csv", index=False)
    assert "is of patient" in said(other)
    table.assign(name="x" + table["name"], case="x" + table["case"], patient="x" + table["patient"]).to_csv(
        other / "diagnosis_cases.csv", index=False
    )
    assert "no patient in common" in said(other)
    table.drop(columns="patient").to_csv(other / "diagnosis_cases.csv", index=False)
    assert "diagnosis_cases.csv: cannot be read" in said(other)
    table.iloc[::-1].assign(label=["ACL"] * 12 + ["MM"] * 12).to_csv(other / "diagnosis_cases.csv", index=False)
    assert "does not hold every label" in said(other)
