"""Intervals of claims, against differences that are known."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from claim_parts.experiments import CLOCK, PRETRAIN, experiments
from claim_parts.page import Finding, has_searched, write_page
from claim_parts.statements import statements
from claim_parts.verdicts import Claim, Term, calibration, contrast, macro_auroc, mean_dice

from odiff.geometry import VIEWS

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

    assert claim(0.06, 0.01).is_met and claim(0.06, 0.01).wanted == "+0.05, low > 0"
    assert not claim(0.04, 0.01).is_met and not claim(0.06, -0.01).is_met
    error = Claim("7", "", 0.04, 0.03, 0.06, 3, 400, None, -np.inf, 0.05)
    assert error.is_met and error.wanted == "< 0.05"
    assert not replace(error, difference=0.051).is_met


def test_calibration_of_one_who_knows_its_probabilities_is_what_is_expected_of_it():
    drawn = np.random.default_rng(3)
    rows = {}
    for seed in (0, 1):
        probability = drawn.uniform(0, 1, (400, 8))
        truth = drawn.random((400, 8)) < probability
        cases = [f"same_{number}" for number in range(400)]
        scores = {"cases": cases, "truth": truth.astype(int).tolist(), "fused": (10000 * probability).tolist()}
        rows["a", seed] = {"scores": {"same": scores}}
    found = calibration(rows, Term(1, "a"), np.random.default_rng(0))
    assert found is not None
    (error, low, high, seeds, patients), expected = found
    assert 0 < low < high < 0.06 and (seeds, patients) == (
        2,
        400,
    )  # resampling adds to an error, so its point may lie below
    assert error == pytest.approx(expected, abs=0.01)
    assert calibration(rows, Term(1, "b"), np.random.default_rng(0)) is None


def test_every_statement_is_judged_on_rows_of_all_arms(tmp_path):
    rng = np.random.default_rng(4)
    rows = {}
    for experiment in experiments():
        if experiment.task in (CLOCK.task, PRETRAIN):
            continue
        scores = {}
        for group in experiment.groups:
            cases = [f"{group}_{number}" for number in range(20)]
            if experiment.task == "segmentation":
                scores[group] = {"cases": cases, "dice": rng.integers(0, 10000, (20, 3)).tolist()}
                continue
            looks = ["fused", *VIEWS, *(f"without_{view}" for view in VIEWS)] if group == "same" else ["fused"]
            known = {"cases": cases, "truth": (np.arange(160).reshape(20, 8) % 3 % 2).tolist()}
            scores[group] = known | {who: rng.integers(0, 10000, (20, 8)).tolist() for who in looks}
        row = {
            "generator": {"version": "0", "hash": "0"},
            "arm": experiment.arm,
            "seed": experiment.job.seed,
            "rate": 1.0,
            "tried": {"1": 0.6, "0.3": 0.5, "3": 0.5},
        }
        rows[experiment.arm, experiment.job.seed] = row | {"seconds": {"fine_tuning": 1.0}, "scores": scores}
    rows[CLOCK.arm, 0] = {
        "generator": {"version": "0", "hash": "0"}, "arm": CLOCK.arm, "seed": 0,
        "seconds": {"default": 0.5, "paper": 11.25, "segmentation": 0.75},
    }  # fmt: skip
    found = write_page(rows, tmp_path)
    assert "A step takes 0.50 s of pretraining, 11.25 s" in (tmp_path / "claims.md").read_text()
    assert [one.claim.name for one in found] == [*(one.name for one in statements()), "7_calibration"]
    assert all(one.claim.seeds == 3 for one in found)
    assert {path.name for path in tmp_path.iterdir()} == {"claims.json", "claims.md", "claims.png"}
    assert "Rows are missing" not in (tmp_path / "claims.md").read_text()
    two = {(arm, seed): row for (arm, seed), row in rows.items() if seed < 2 and "knee_segmentation" in arm}
    assert {one.claim.verdict for one in write_page(two, tmp_path)} == {"open, 2 of 3 seeds"}
    assert {one["met"] for one in json.loads((tmp_path / "claims.json").read_text())["claims"]} == {None}
    assert "Rows are missing of `1_auroc_10pct`" in (tmp_path / "claims.md").read_text()
    assert write_page({}, tmp_path) == []


@pytest.mark.parametrize(
    ("drop", "seeds", "is_met", "verdict"),
    [
        (0.05, 3, True, "yes"),
        (0.049, 3, False, "**no**: too weak a shift to test (scratch_drop under 0.05)"),
        (0.049, 2, False, "open, 2 of 3 seeds"),
    ],
)
def test_a_shift_that_takes_little_away_meets_no_claim(drop, seeds, is_met, verdict):
    finding = Finding(Claim("4_field", "", 0.02, 0.01, 0.03, seeds, 600, None, 0.0), {"scratch_drop": drop}, "")
    assert (finding.is_met, finding.verdict) == (is_met, verdict)
    assert finding.to_plain()["met"] is (None if seeds < 3 else is_met)


def test_rows_of_other_patients_are_not_compared():
    rows = dice_rows("a", 0.1) | dice_rows("b", 0.0)
    rows["b", 1]["scores"]["same"]["cases"] = CASES[::-1]
    with pytest.raises(ValueError, match="b, seed 1: other test cases of same"):
        contrast(rows, [Term(1, "a"), Term(-1, "b")], mean_dice, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("rate", "tried", "expected"),
    [
        (1, (1, 0.3, 3), True), (3, (0.3, 1, 3, 10), True), (10, (1, 0.3, 3, 10), True), (0.03, (1, 0.3, 0.1, 0.03), True),
        (0.3, (0.3, 1, 3), False), (3, (0.3, 1, 3), False), (1, (1,), False),
    ],
)  # fmt: skip
def test_a_seed_has_searched_where_rates_on_both_sides_were_tried(rate, tried, expected):
    assert has_searched({"rate": float(rate), "tried": {f"{one:g}": 0.5 for one in tried}}) is expected
