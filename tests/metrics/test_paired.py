"""Intervals, pooling and paired tests against scikit-learn, scipy and what a test must do when nothing differs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import wilcoxon
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score, roc_curve

from odiff.metrics.bootstrap import BLOCK, draw_counts, score_samples
from odiff.metrics.classification import label_score, sample_labels, score_labels
from odiff.metrics.paired import bootstrap_difference, wilcoxon_p
from odiff.metrics.structures import sample_structures


def drawn(seed, cases, labels):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (cases, labels)).astype(float)
    probability = expit(2 * rng.normal(size=(cases, labels)) + truth)
    return truth, probability


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(4, 80))
def test_calibration_error_is_the_weighted_gap_of_scikit_learns_bins(seed, cases):
    truth, probability = (part[:, 0] for part in drawn(seed, cases, 1))
    truth[:2] = 0, 1
    share, mean = calibration_curve(truth, probability, n_bins=10)
    counts = np.histogram(probability, bins=np.linspace(0, 1, 11))[0]
    expected = np.sum(counts[counts > 0] / cases * np.abs(share - mean))
    assert label_score("calibration_error", truth, probability) == pytest.approx(expected)


def test_sensitivity_is_read_off_the_roc_curve_at_ninety_percent_specificity():
    """Twenty negatives: two of them may be called; the best sensitivity at exactly that specificity counts."""
    truth = np.r_[np.zeros(20), np.ones(10)]
    probability = np.r_[np.linspace(0, 0.9, 20), np.linspace(0.5, 1, 10)]
    false, true, _ = roc_curve(truth, probability, drop_intermediate=False)
    name, expected = "sensitivity_at_90_specificity", pytest.approx(true[false <= 0.1].max())
    assert label_score(name, truth, probability) == expected
    assert score_samples(name, truth, probability, np.ones((1, 30)))[0] == expected
    apart = np.r_[np.zeros(5), np.ones(5)]
    assert label_score("sensitivity_at_90_specificity", apart, np.full(10, 0.3)) == pytest.approx(0.1), "a coin's"


def test_micro_pools_the_known_pairs_and_macro_means_the_labels():
    truth, probability = drawn(1, 60, 3)
    truth[::5, 1] = np.nan
    patients = [str(n) for n in range(60)]
    found = score_labels(("a", "b", "c"), truth, probability, patients, np.random.default_rng(0), repeats=50)
    known = ~np.isnan(truth)
    assert found["micro"]["auroc"] == pytest.approx(roc_auc_score(truth[known], probability[known]))
    per_label = [roc_auc_score(t[~np.isnan(t)], p[~np.isnan(t)]) for t, p in zip(truth.T, probability.T, strict=True)]
    assert found["macro"]["auroc"] == pytest.approx(np.mean(per_label))
    assert found["micro"]["auroc_interval"][0] < found["micro"]["auroc"] < found["micro"]["auroc_interval"][1]


def test_a_label_needs_two_positive_and_two_negative_patients():
    truth, probability = drawn(2, 12, 2)
    truth[:, 1] = 0
    truth[:3, 1] = 1
    patients = ["one", "one", "one", *(f"p{n}" for n in range(9))]
    found = score_labels(("a", "b"), truth, probability, patients, np.random.default_rng(0), repeats=20)
    assert found["b"]["positive"] == 3
    assert found["b"]["auroc"] is None and "auroc_interval" not in found["b"]
    assert found["macro"]["auroc"] == found["a"]["auroc"]
    patients[0] = "another"
    assert (
        score_labels(("a", "b"), truth, probability, patients, np.random.default_rng(0), 20)["b"]["auroc"] is not None
    )


def test_samples_in_blocks_are_those_in_one_piece(monkeypatch):
    truth, probability = (part[:, 0] for part in drawn(3, 40, 1))
    counts = draw_counts([str(n) for n in range(40)], np.random.default_rng(0), 37)
    whole = score_samples("ap", truth, probability, counts)
    monkeypatch.setattr("odiff.metrics.bootstrap.BLOCK", 100)
    assert BLOCK > 100
    assert np.array_equal(score_samples("ap", truth, probability, counts), whole, equal_nan=True)


def test_structures_are_weighed_as_often_as_their_series_are_drawn():
    rng = np.random.default_rng(0)
    values = {name: rng.random((5, 2)) for name in ("dice", "hd95_mm", "assd_mm", "volume_ml", "reference_volume_ml")}
    values["volume_error_ml"] = values["volume_ml"] - values["reference_volume_ml"]
    values["thickness_error_mm"] = np.c_[rng.normal(size=5), np.full(5, np.nan)]
    counts = np.array([[1, 1, 1, 1, 1], [3, 0, 2, 0, 0]], float)
    found = sample_structures(("a", "b"), values, counts)
    rows = [0, 0, 0, 2, 2]
    assert found["a"]["dice"][1] == pytest.approx(values["dice"][rows, 0].mean())
    assert found["a"]["absolute_thickness_error_mm"][0] == pytest.approx(
        np.abs(values["thickness_error_mm"][:, 0]).mean()
    )
    assert "thickness_error_mm" not in found["b"]
    assert found["macro"]["hd95_mm"][1] == pytest.approx(values["hd95_mm"][rows].mean())


def test_micro_dice_is_that_of_all_voxels_together():
    rng = np.random.default_rng(1)
    masks = rng.random((2, 4, 3, 50)) < np.array([0.2, 0.5, 0.8]).reshape(1, 1, 3, 1)
    found, truth = masks
    sizes = {"volume_ml": found.sum(axis=2) / 7, "reference_volume_ml": truth.sum(axis=2) / 7}
    dice = 2 * (found & truth).sum(axis=2) / (found.sum(axis=2) + truth.sum(axis=2))
    values = {"dice": dice, "hd95_mm": dice, "assd_mm": dice, "volume_error_ml": dice, **sizes}
    pooled = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert sample_structures(("a", "b", "c"), values, np.ones((1, 4)))["micro"]["dice"][0] == pytest.approx(pooled)


def test_equal_scores_differ_by_nothing_and_have_p_one():
    samples = np.random.default_rng(0).normal(size=200)
    found = bootstrap_difference(0.5, 0.5, samples, samples)
    assert (found.difference, found.interval, found.p) == (0, (0, 0), 1)
    assert wilcoxon_p(np.zeros(8)) == 1 and wilcoxon_p(np.zeros(1)) is None


def test_p_is_small_where_every_sample_agrees_and_never_zero():
    rng = np.random.default_rng(0)
    found = bootstrap_difference(0.5, 0.7, rng.normal(0.5, 0.01, 999), rng.normal(0.7, 0.01, 999))
    assert found.p == pytest.approx(2 / 1000)
    assert found.interval[0] < 0.2 < found.interval[1]


def test_p_is_uniform_where_nothing_differs():
    """Two noisy copies of one Dice score, 30 patients: 5 % of the studies may look different at p < .05."""
    rng = np.random.default_rng(0)
    small = 0
    for _ in range(300):
        first, second = rng.normal(0.8, 0.05, (2, 30))
        weights = draw_counts([str(n) for n in range(30)], rng, 200) / 30
        small += bootstrap_difference(first.mean(), second.mean(), weights @ first, weights @ second).p < 0.05
    assert 0.01 < small / 300 < 0.12


def test_wilcoxon_is_scipys():
    differences = np.random.default_rng(0).normal(0.1, 1, 25)
    assert wilcoxon_p(differences) == wilcoxon(differences, np.zeros(25)).pvalue


def test_two_lists_of_the_same_patients_get_the_same_samples():
    """What makes the bootstrap of two models paired, whatever their cases."""
    first, second = ["a", "b", "c"], ["c", "c", "a", "b"]
    one = draw_counts(first, np.random.default_rng(5), 10)
    other = draw_counts(second, np.random.default_rng(5), 10)
    assert np.array_equal(one, other[:, [2, 3, 0]])


def test_samples_without_a_class_are_nan_for_every_score():
    truth, probability = drawn(0, 6, 1)
    truth[:, 0] = [1, 1, 0, 0, 0, 0]
    counts = np.array([[0, 0, 1, 1, 2, 2], [1, 1, 1, 1, 1, 1]], float)
    found = sample_labels(("a",), truth, probability, list("abcdef"), counts)["a"]
    assert all(np.isnan(values[0]) and not np.isnan(values[1]) for values in found.values())
