"""Shares of the labelled patients: balanced, nested, never rounded up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odiff.data.index import PreparedCase, PreparedSeries
from odiff.errors import UsageError
from odiff.learning.diagnosis_scores import scores_but
from odiff.learning.subsets import balanced_order, is_labelled, label_subset, patients_in, share_of

LABELS = ("ACL", "MM")
FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


def case(name, patient, labels, is_masked=False):
    series = (PreparedSeries(f"{name}_axial", "axial", is_masked),)
    return PreparedCase(name, patient, None, series, dict(zip(LABELS, labels, strict=True)), {}, {})


def cohort(patients, seed=0):
    rng = np.random.default_rng(seed)
    return [
        case(f"c{n}", f"p{n // 2}", [int(rng.random() < 0.1), None if rng.random() < 0.3 else int(rng.random() < 0.5)], n % 7 == 0)
        for n in range(2 * patients)
    ]  # fmt: skip


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(0, 5), st.sampled_from(FRACTIONS), st.sampled_from(FRACTIONS))
def test_shares_are_nested_repeatable_whole_patients_and_never_rounded_up(patients, seed, one, other):
    cases = cohort(patients, seed)
    small, large = sorted((one, other))
    if patients_in(small, patients) == 0:
        with pytest.raises(UsageError, match=f"of {patients} labelled patients that is none"):
            label_subset(cases, small, seed, LABELS)
        return
    inner, outer = (label_subset(cases, fraction, seed, LABELS) for fraction in (small, large))
    assert {c.name for c in inner} <= {c.name for c in outer}
    assert inner == label_subset(list(reversed(cases)), small, seed, LABELS)[::-1]
    kept = {c.patient for c in inner}
    assert len(kept) <= small * patients + 1e-6 < len(kept) + 1
    assert {c.name for c in cases if c.patient in kept} == {c.name for c in inner}


def test_another_seed_picks_other_patients():
    cases = cohort(60)
    picked = [{c.patient for c in label_subset(cases, 0.25, seed, LABELS)} for seed in (0, 1)]
    assert picked[0] != picked[1]


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.01])
def test_a_fraction_is_a_share(fraction):
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        label_subset(cohort(5), fraction, 0, LABELS)


def imbalance(traits, order):
    """Mean squared distance between the counts in each beginning and their expectation, in units of the variance."""
    counts = np.cumsum(traits[order], axis=0)
    share = traits.mean(axis=0)
    wanted = np.arange(1, len(order) + 1)[:, None] * share
    variance = np.where(share * (1 - share) > 0, share * (1 - share), np.inf)
    return float(((counts - wanted) ** 2 / variance).mean())


@settings(max_examples=60)
@given(st.integers(8, 80), st.integers(1, 6), st.integers(0, 10_000))
def test_beginnings_of_the_order_are_better_balanced_than_random_ones(patients, labels, seed):
    rng = np.random.default_rng(seed)
    traits = (rng.random((patients, labels)) < rng.uniform(0.05, 0.6, labels)).astype(float)
    orders = [balanced_order(traits, np.random.default_rng([seed, number])) for number in range(10)]
    assert all(sorted(order) == list(range(patients)) for order in orders)
    random = [imbalance(traits, rng.permutation(patients)) for _ in range(40)]
    # The median, since of few patients one order may be a whole step worse.
    assert np.median([imbalance(traits, order) for order in orders]) <= np.percentile(random, 20) + 0.05


def test_seeds_share_no_more_patients_than_chance_has_it_though_every_patient_is_of_its_own_kind():
    traits = (np.random.default_rng(0).random((160, 12)) < 0.5).astype(float)
    assert len(np.unique(traits, axis=0)) > 150
    tenths = [set(balanced_order(traits, np.random.default_rng(seed))[:16]) for seed in range(10)]
    shared = [len(one & other) for number, one in enumerate(tenths) for other in tenths[:number]]
    assert np.mean(shared) < 2 * 16 * 16 / 160


def test_ten_per_cent_of_a_large_cohort_has_the_prevalence_and_the_masks_of_all():
    cases = cohort(400)
    tenth = label_subset(cases, 0.1, 0, LABELS)
    whole, part = (share_of(some, 1.0, LABELS).label_counts for some in (cases, tenth))
    for name in LABELS:
        assert part[name][0] == pytest.approx(whole[name][0] / 10, abs=1.01), name
        assert part[name][1] == pytest.approx(whole[name][1] / 10, abs=1.01), name
    masked = [len({c.patient for c in some if c.series[0].is_masked}) for some in (cases, tenth)]
    assert masked[1] == pytest.approx(masked[0] / 10, abs=1.01)


def test_a_label_needs_two_positive_and_two_negative_patients():
    cases = [
        case("a", "p0", (1, 0)), case("b", "p0", (0, 1)), case("c", "p1", (1, None)), case("d", "p2", (0, None)),
        case("e", "p3", (0, 0)), case("f", "p4", (None, None)),
    ]  # fmt: skip
    share = share_of(cases, 0.5, LABELS)
    assert share.patients == 5 and share.label_counts == {"ACL": (2, 2), "MM": (1, 1)}
    assert set(share.not_computable) == {"MM"} and "1 positive and 1 negative" in share.not_computable["MM"]
    assert [is_labelled(one) for one in cases] == [True] * 5 + [False]


def test_labels_that_are_not_computable_have_no_score_and_leave_the_mean():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (40, 2)).astype(float)
    probability, patients = rng.random((40, 2)), [f"p{number}" for number in range(40)]
    few = {"MM": "1 positive and 9 negative training patients"}
    scores = scores_but(LABELS, truth, probability, patients, 0, few)
    everything = scores_but(LABELS, truth, probability, patients, 0, {})
    assert scores["MM"]["auroc"] is None and scores["MM"]["not_computable"] == few["MM"]
    assert scores["MM"]["positive"] == truth[:, 1].sum() and scores["MM"]["known"] == 40
    assert scores["macro"]["auroc"] == scores["ACL"]["auroc"] == everything["ACL"]["auroc"]
    assert (scores["macro"]["labels"], scores["macro"]["labels_left_out"]) == (1, 1)
    assert (everything["macro"]["labels"], everything["macro"]["labels_left_out"]) == (2, 0)
