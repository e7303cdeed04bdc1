"""The curve of a score over shares of the labels."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from odiff.errors import CheckpointError
from odiff.inference.curve import PICTURE, TABLE, CurvePoint, curve_text, write_curve
from odiff.inference.label_efficiency import FoldScores, auroc_scores, collect_curve, dice_scores, run_curve, why_not
from odiff.inference.label_efficiency_command import main
from odiff.learning.context import open_context
from odiff.learning.diagnosis_scores import write_scores
from odiff.learning.run import RunSettings

FEW = ("segmentation.steps=1", "pretrain.steps=1", "diagnosis.steps=1", "diagnosis.head_steps=1")
FRACTIONS = (0.01, 0.5, 1.0)


@pytest.fixture()
def context(planned, tmp_path):
    return open_context(planned / "preprocessed", tmp_path, "1")


def write_diagnosis(context, fraction, fold, few, noise):
    """The files of a diagnosis run whose logits are the truth under noise."""
    names = context.plan.diagnoses
    cases = context.cases_of_fold(fold, "val")
    truth = np.array([[case.diagnoses[name] for name in names] for case in cases], float)
    run = context.with_fraction(fraction).results.task("axial", "diagnosis", fold)
    run.path.mkdir(parents=True)
    run.write_config({"patients": round(4 * fraction), "not_computable": few})
    logits = truth + noise * np.random.default_rng(int(fold)).normal(size=truth.shape)
    write_scores(run.validation, cases, logits, names, 0, few)


def folds_of(seed, folds=3, cases=40):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (folds, cases, 2)).astype(float)
    truth[rng.random(truth.shape) < 0.1] = np.nan
    logits = np.nan_to_num(truth) + rng.normal(0, 1, truth.shape)
    patients = [tuple(f"p{k}_{n // 2}" for n in range(cases)) for k in range(folds)]
    return [FoldScores(*one) for one in zip(truth, logits, patients, strict=True)]


@settings(max_examples=5)
@given(st.integers(0, 1000))
def test_auroc_is_the_mean_over_folds_and_lies_in_its_interval(seed):
    folds = folds_of(seed)
    found = auroc_scores(("ACL", "MM"), folds, np.random.default_rng(0))
    for k, name in enumerate(("ACL", "MM")):
        known = [~np.isnan(fold.truth[:, k]) for fold in folds]
        each = [roc_auc_score(f.truth[n, k], f.logits[n, k]) for f, n in zip(folds, known, strict=True)]
        score, low, high = found[name]
        assert score == pytest.approx(np.mean(each)) and low < score < high
    assert found["macro"][0] == pytest.approx((found["ACL"][0] + found["MM"][0]) / 2)
    macro, *labels = (found[name][2] - found[name][1] for name in ("macro", "ACL", "MM"))
    assert macro < sum(labels) / 2  # a mean spreads no more than its parts do on average


def test_more_cases_give_a_narrower_interval():
    widths = []
    for cases in (40, 160):
        _, low, high = auroc_scores(("ACL", "MM"), folds_of(0, 1, cases), np.random.default_rng(0))["ACL"]
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.4)


def test_dice_is_the_mean_over_series_and_its_error_that_of_a_mean(context):
    names = [series.name for case in context.dataset.cases for series in case.of_view("axial")]
    values = np.random.default_rng(0).random((len(names), 2))
    cases = {n: {"femur": {"dice": a}, "tibia": {"dice": b}} for n, (a, b) in zip(names, values.tolist(), strict=True)}
    found = dice_scores(context, [{"cases": cases}], np.random.default_rng(0))
    score, low, high = found["femur"]
    assert score == pytest.approx(values[:, 0].mean())
    assert high - low == pytest.approx(2 * 1.96 * values[:, 0].std() / len(names) ** 0.5, rel=0.2)
    assert found["mean"][0] == pytest.approx(values.mean())


def test_the_curve_says_what_is_not_computable_and_leaves_it_out_of_the_mean(context):
    few = {"ACL": "1 positive and 1 negative training patients, 2 of each are needed"}
    for fraction, noise in ((0.5, 1.0), (1.0, 0.0)):
        for fold in ("0", "1"):
            write_diagnosis(context, fraction, fold, few if (fraction, fold) == (0.5, "1") else {}, noise)
    points = {(p.label_fraction, p.label): p for p in collect_curve(context, "axial", "diagnosis", FRACTIONS)}
    assert points[0.01, "macro"].state.startswith("not computable: of ") and points[0.01, "macro"].score is None
    left_out = points[0.5, "ACL"]
    assert (left_out.score, left_out.low) == (None, None) and few["ACL"] in left_out.state, "one fold is enough"
    scored = [
        p.score
        for (fraction, label), p in points.items()
        if fraction == 0.5 and label != "macro" and p.score is not None
    ]
    assert points[0.5, "macro"].score == pytest.approx(np.mean(scored))
    assert points[1.0, "macro"].score == 1 and points[1.0, "macro"].folds == "0 1"
    text = curve_text(list(points.values()), "diagnosis")
    assert f"50 %, ACL: not computable: {few['ACL']}" in text and "\n100 %" in text


def test_shares_are_compared_on_the_folds_they_have_in_common(context):
    for fraction, fold in ((0.5, "1"), (1.0, "0"), (1.0, "1")):
        write_diagnosis(context, fraction, fold, {}, 0.5)
    points = collect_curve(context, "axial", "diagnosis", (0.5, 1.0))
    assert {point.folds for point in points} == {"1"}


def test_a_share_that_could_be_trained_is_said_to_be_untrained(context):
    write_diagnosis(context, 0.5, "0", {}, 0.5)
    points = collect_curve(context, "axial", "diagnosis", (0.5, 1.0), "0")
    assert [(p.label, p.state) for p in points if p.label_fraction == 1] == [("macro", "not trained")]


def test_nothing_trained_is_an_error_that_names_the_flag(planned, context, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="--run"):
        collect_curve(context, "axial", "diagnosis")
    roots = ["--preprocessed", str(planned / "preprocessed"), "--results", str(tmp_path)]
    assert main(["-d", "1", "--view", "axial", *roots]) == 2
    assert main(["-d", "1", "--view", "coronal", *roots]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_table_holds_every_point_and_the_picture_is_drawn(tmp_path):
    points = [
        CurvePoint(0.1, "", None, "macro", None, None, None, "not trained"), CurvePoint(1.0, "0", 4.0, "ACL", 0.75, None, None),
        CurvePoint(1.0, "0", 4.0, "macro", 0.75, 0.5, 0.9),
    ]  # fmt: skip
    write_curve(tmp_path, points, "diagnosis")
    table = pd.read_csv(tmp_path / TABLE)
    assert list(table["score"].fillna(-1)) == [-1, 0.75, 0.75] and list(table["state"].fillna("")) == [
        "not trained",
        "",
        "",
    ]
    assert (tmp_path / PICTURE).stat().st_size > 5000


def test_run_trains_what_is_missing_of_the_curve_once(planned, tmp_path, capsys):
    command = [
        "-d", "1", "--view", "axial", "--task", "segmentation", "--fold", "0", "--run", "--pretrained", "none", "--fractions",
        "0.01", "0.5", "1", "--set", *FEW, "--preprocessed", str(planned / "preprocessed"), "--results", str(tmp_path),
    ]  # fmt: skip
    assert main(command) == 0
    shown = capsys.readouterr().out
    folder = tmp_path / "Dataset001_Knee" / "cpu_demo" / "axial" / "segmentation"
    trained = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("checkpoint_final.safetensors"))
    assert [one.rsplit("/", 1)[0] for one in trained] == ["fold_0", "fraction_0.5/fold_0"]
    patients = len(open_context(planned / "preprocessed", tmp_path, "1").splits[0]["train"])
    assert f"1 %, mean: not computable: of {patients} labelled patients that is none" in shown
    stamps = [path.stat().st_mtime_ns for path in folder.rglob("validation/summary.json")]
    run_curve(
        planned / "preprocessed", tmp_path, "1", "axial", "segmentation", RunSettings(0, torch.device("cpu"), 0), FRACTIONS, "0",
        "none", FEW,
    )  # fmt: skip
    assert [path.stat().st_mtime_ns for path in folder.rglob("validation/summary.json")] == stamps


def test_a_share_without_masks_or_without_two_of_each_kind_has_its_reason(context):
    assert why_not(context, "axial", "segmentation", "0", 1.0, 0) is None
    assert "two positive and two negative" in str(why_not(context, "axial", "diagnosis", "0", 0.5, 0))
    bare = [
        replace(case, series=tuple(replace(s, is_masked=False) for s in case.series)) for case in context.dataset.cases
    ]
    without = replace(context, dataset=replace(context.dataset, cases=tuple(bare)))
    patients = len(context.splits[0]["train"])
    assert why_not(without, "axial", "segmentation", "0", 1.0, 0) == f"none of {patients} patients has a mask"
