"""Scores against closed forms and independent implementations."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import mannwhitneyu

from odiff.metrics import calibration
from odiff.metrics.bootstrap import BOOTSTRAP, draw_counts, score_samples
from odiff.metrics.calibration import cross_fitted, fit_calibration
from odiff.metrics.classification import label_score, macro_score, score_labels
from odiff.metrics.segmentation import dice, hausdorff95, score_case


def ball(centre, radius, shape=(20, 24, 28)):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return ((grid - centre) ** 2).sum(axis=-1) <= radius**2


def test_dice_agrees_with_simpleitk():
    a, b = ball((10, 12, 14), 6), ball((11, 12, 13), 5)
    measure = sitk.LabelOverlapMeasuresImageFilter()
    measure.Execute(sitk.GetImageFromArray(a.astype(np.uint8)), sitk.GetImageFromArray(b.astype(np.uint8)))
    assert dice(a, b) == pytest.approx(measure.GetDiceCoefficient())


def test_hausdorff_of_a_shifted_mask_is_the_shift_in_mm():
    a = np.zeros((12, 12, 12), bool)
    a[3:8, 3:8, 3:8] = True
    assert hausdorff95(np.roll(a, 2, axis=0), a, (3.0, 1.0, 1.0)) == pytest.approx(6.0)


def test_absent_structures_are_scored_not_skipped():
    empty, full = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert dice(empty, empty) == 1
    assert dice(empty, full) == 0
    assert hausdorff95(empty, empty, (1, 1, 1)) == 0
    assert hausdorff95(full, empty, (3, 4, 12)) == pytest.approx(4 * 13)


def test_unknown_voxels_count_nowhere():
    truth, found = np.zeros((3, 4, 4), int), np.zeros((3, 4, 4), int)
    truth[1], found[1], found[2] = 5, 5, 5
    unknown = np.zeros(truth.shape, bool)
    unknown[2] = True
    assert score_case(found, truth, {"background": 0, "bone": 5}, (1, 1, 1), unknown)["bone"]["dice"] == 1


def test_auroc_is_the_mann_whitney_statistic_over_known_labels():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 60).astype(float)
    score = rng.normal(size=60) + truth
    truth[::7] = np.nan
    known = ~np.isnan(truth)
    positive, negative = score[known & (truth == 1)], score[known & (truth == 0)]
    expected = mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
    assert label_score("auroc", truth, score) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_logits_of_any_size_become_probabilities_as_scipy_makes_them(kind):
    logits = np.linspace(-800, 800, 2001).astype(kind)
    with np.errstate(all="raise", under="ignore"):
        found = calibration.expit(logits)
    assert found.dtype == kind and np.allclose(found, expit(logits), rtol=1e-6, atol=np.finfo(kind).tiny)


def test_a_label_of_one_class_has_no_auroc_and_leaves_the_macro_mean_alone():
    truth = np.array([[1.0, 0], [0, 0], [1, 0]])
    probability = np.array([[0.9, 0.1], [0.2, 0.5], [0.8, 0.3]])
    assert label_score("auroc", truth[:, 1], probability[:, 1]) is None
    assert macro_score("auroc", truth, probability) == 1


def test_bootstrap_draws_whole_patients():
    patients = ["a", "a", "b", "c", "c", "c"]
    for counts in draw_counts(patients, np.random.default_rng(0), 20):
        assert counts[0] == counts[1]
        assert counts[3] == counts[4] == counts[5]


def test_intervals_hold_the_score():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, (80, 1)).astype(float)
    probability = expit(rng.normal(size=(80, 1)) + truth)
    found = score_labels(["ACL"], truth, probability, [str(i) for i in range(80)], rng, repeats=200)["ACL"]
    low, high = found["auroc_interval"]
    assert low < found["auroc"] < high


def test_platt_scaling_recovers_slope_and_intercept():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20_000, 1))
    truth = (rng.random((20_000, 1)) < expit(0.5 * logits - 0.7)).astype(float)
    found = fit_calibration(logits, truth)
    assert found.slopes[0] == pytest.approx(0.5, rel=0.05)
    assert found.intercepts[0] == pytest.approx(-0.7, abs=0.05)


def test_poor_labels_share_one_temperature():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (18, 3))
    truth = (rng.random((18, 3)) < expit(logits)).astype(float)
    found = fit_calibration(logits, truth)
    assert len(set(found.slopes)) == 1
    assert found.intercepts == (0.0, 0.0, 0.0)


def test_cross_fitting_never_lets_a_patient_calibrate_itself():
    """Changing one patient's truth must not change that patient's own probability."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (100, 1))
    truth = (rng.random((100, 1)) < expit(logits)).astype(float)
    groups = [str(i // 2) for i in range(100)]
    flipped = truth.copy()
    flipped[10:12] = 1 - flipped[10:12]
    assert np.allclose(cross_fitted(logits, truth, groups)[10:12], cross_fitted(logits, flipped, groups)[10:12])


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(3, 40), st.integers(1, 6))
def test_bootstrapped_scores_are_scikit_learns_on_the_drawn_cases(seed, cases, levels):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, cases).astype(float)
    truth[rng.random(cases) < 0.1] = np.nan
    probability = rng.integers(0, levels + 1, cases) / (levels + 1)
    counts = draw_counts([f"p{n // 2}" for n in range(cases)], rng, 5)
    assert (counts.sum(axis=1) > 0).all()
    for name in BOOTSTRAP:
        for count, found in zip(counts, score_samples(name, truth, probability, counts), strict=True):
            rows = np.repeat(np.arange(cases), count.astype(int))
            expected = label_score(name, truth[rows], probability[rows])
            assert (expected is None and np.isnan(found)) or found == pytest.approx(expected)
