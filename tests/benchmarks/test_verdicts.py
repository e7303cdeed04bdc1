"""Intervals of claims, against differences that are known."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from claim_parts.verdicts import Claim, Term, contrast, macro_auroc, mean_dice

RNG = np.random.default_rng(0)
CASES = [f"same_{number:04d}" for number in range(60)]


def dice_rows(arm, shift, spread=0.0):
    rows = {}
    for seed in (0, 1, 2):
        values = np.random.default_rng([seed, 9]).uniform(0.3, 0.7, (60, 4)) + shift + spread * (seed - 1)
        rows[arm, seed] = {"scores": {"same": {"cases": CASES, "dice": (10000 * values).tolist()}}}
    return rows


def test_a_constant_gain_is_found_without_any_spread():
    rows = dice_rows("a", 0.1) | dice_rows("b", 0.0)
    mean, low, high, seeds, patients = contrast(
        rows, [Term(1, "a"), Term(-1, "b")], mean_dice, np.random.default_rng(0)
    )
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))
    assert (seeds, patients) == (3, 60)


def test_seeds_that_disagree_widen_the_interval():
    rows = dice_rows("a", 0.1, spread=0.2) | dice_rows("b", 0.0)
    mean, low, high, *_ = contrast(rows, [Term(1, "a"), Term(-1, "b")], mean_dice, np.random.default_rng(0))
    assert mean == pytest.approx(0.1) and low < 0 < 0.2 < high


def test_only_seeds_of_which_every_arm_has_a_row_count():
    rows = dice_rows("a", 0.1) | dice_rows("b", 0.0)
    del rows["b", 2]
    assert contrast(rows, [Term(1, "a"), Term(-1, "b")], mean_dice, np.random.default_rng(0))[3] == 2
    assert contrast(rows, [Term(1, "a"), Term(-1, "c")], mean_dice, np.random.default_rng(0)) is None


def test_auroc_of_one_who_knows_beside_one_who_guesses():
    truth = RNG.integers(0, 2, (60, 3))
    looks = {
        "cases": CASES,
        "truth": truth.tolist(),
        "fused": (9000 * truth).tolist(),
        "sagittal": np.full((60, 3), 5).tolist(),
    }
    rows = {("a", seed): {"scores": {"same": looks}} for seed in (0, 1)}
    terms = [Term(1, "a"), Term(-1, "a", "same", "sagittal")]
    assert contrast(rows, terms, macro_auroc, np.random.default_rng(0))[:3] == pytest.approx((0.5, 0.5, 0.5))


def test_a_claim_is_met_by_both_its_bounds():
    def claim(difference, low):
        return Claim("1", "", difference, low, 0.2, 3, 400, 0.05, 0.0)

    assert claim(0.06, 0.01).is_met
    assert not claim(0.04, 0.01).is_met and not claim(0.06, -0.01).is_met


def test_rows_of_other_patients_are_not_compared():
    rows = dice_rows("a", 0.1) | dice_rows("b", 0.0)
    rows["b", 1]["scores"]["same"]["cases"] = CASES[::-1]
    with pytest.raises(ValueError, match="b, seed 1: other test cases of same"):
        contrast(rows, [Term(1, "a"), Term(-1, "b")], mean_dice, np.random.default_rng(0))
