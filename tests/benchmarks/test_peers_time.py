"""How long an arm's peers may take: the clock's row, and the steps of ours."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from claim_parts.experiments import (
    ALL,
    CLOCK,
    PAPER_CLOCK,
    best_rate,
    experiments,
    known_rate,
    needs,
    step_seconds,
    within_our_time,
)
from claim_parts.training import Job

ROWS = {(CLOCK.arm, 0): {"arm": CLOCK.arm, "seconds": {"default": 0.5, "paper": 6.0, "segmentation": 0.9}}}


def test_the_paper_makes_as_many_steps_as_ours_take_time():
    job = within_our_time(Job("knee", PAPER_CLOCK, "knee", ALL, 0), ROWS, 3000)
    assert job.recipe.changes[-1] == "pretrain.steps=250"
    assert job.recipe.name == PAPER_CLOCK.name


def test_without_the_clocks_row_there_is_no_time_to_give():
    with pytest.raises(SystemExit, match="run it first"):
        step_seconds({})


def by_name():
    return {one.name: one for one in experiments()}


def test_an_experiment_waits_for_its_pretrainings_and_its_clock():
    every = by_name()
    views = ("sagittal", "coronal", "axial")
    assert needs(every["ankle_diagnosis_sagittal-coronal-axial_default_from_knee_0.1_seed0"]) == [
        f"knee_pretrain_{view}_default_from_knee_1_seed0" for view in views
    ]
    later = every["knee_segmentation_sagittal_nnunet_scratch_1_seed2"]
    assert needs(later) == [CLOCK.name]
    paper = every["knee_diagnosis_sagittal_paper_clock_from_knee_0.1_seed1"]
    assert set(needs(paper)) == {
        CLOCK.name, "knee_pretrain_sagittal_paper_clock_from_knee_1_seed1",
    }  # fmt: skip


def test_whatever_is_needed_is_an_experiment_and_needs_nothing_that_needs_it():
    every = by_name()
    assert len(every) == len(experiments())

    def depth(name, above=()):
        assert name not in above
        return 1 + max((depth(other, (*above, name)) for other in needs(every[name])), default=0)

    assert max(map(depth, every)) == 3


def test_only_nnunet_and_the_clock_stay_on_the_cpu():
    assert {one.job.recipe.name for one in experiments() if one.is_of_cpu} == {"nnunet", "nnunet_counted", "clock"}


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (1, [1, 0.3, 3]), (0.3, [1, 0.3, 0.1]), (0.1, [1, 0.3, 0.1, 0.03]), (0.03, [1, 0.3, 0.1, 0.03]),
        (3, [1, 0.3, 3, 10]), (10, [1, 0.3, 3, 10]),
    ],
)  # fmt: skip
def test_a_rate_is_searched_from_the_plans_own_until_it_gets_worse(best, tried):
    asked = []

    def attempt(rate):
        asked.append(rate)
        return -abs(math.log(rate / best)), f"learnt at {rate:g}"

    row, learnt = best_rate(experiments()[-1], attempt)
    assert asked == tried
    assert (row["rate"], learnt) == (best, f"learnt at {best:g}")
    assert list(row["tried"]) == [f"{rate:g}" for rate in tried]


@pytest.mark.parametrize(("at_ten", "rate"), [(0.05, 10), (0.0, 1)])
def test_what_has_learnt_nothing_is_given_higher_rates(at_ten, rate):
    row, _ = best_rate(experiments()[-1], lambda one: (at_ten if one == 10 else 0.0, one))
    assert row["rate"] == rate and list(row["tried"]) == ["1", "0.3", "3", "10"]


def test_a_seed_may_take_over_the_rate_that_another_one_chose():
    last = experiments()[-1]
    known = known_rate({(last.arm, 0): {"rate": 0.3}}, last, 0)
    row, learnt = best_rate(last, lambda rate: (0.5, rate), known)
    assert (row["rate"], row["tried"], learnt) == (0.3, {"0.3": 0.5}, 0.3)
    assert known_rate({}, last, None) is None
    with pytest.raises(SystemExit, match="_seed0: its row tells the learning rate"):
        known_rate({}, last, 0)
