"""A loss that is no number ends a training; one that rises for good is told once."""

import logging
import math

import numpy as np
import pytest

from odiff.errors import TrainingError
from odiff.training.stability import OVERFLOWS, WINDOW, LossWatch


def seen(losses, **options):
    watch = LossWatch("axial pretrain", "pretrain.learning_rate", **options)
    for step, loss in enumerate(losses, start=1):
        watch.see(step, loss, 0.01)


def test_a_loss_that_falls_and_rises_is_told_once_with_both_levels(caplog):
    with caplog.at_level(logging.WARNING):
        seen([1.0] * WINDOW + [0.1 * 0.999**step for step in range(WINDOW)] + [0.25] * 200)
    (record,) = caplog.records
    # 26 of the 50 double the median; 33 above all, the others the lowest 17, are 3.75 deviations of the rank sum (p 9e-5), 32 are 3.5
    assert "axial pretrain: the loss rose from 0.0976 to 0.25" in record.message
    assert f"at step {2 * WINDOW + 33}, " in record.message
    assert "--set pretrain.learning_rate=" in record.message


@pytest.mark.parametrize(
    "losses",
    [
        [1 / step for step in range(1, 400)],
        [0.1 + 0.09 * math.sin(step) for step in range(400)],
        [0.1] * 100 + [9.0] * (WINDOW // 2 - 1) + [0.1] * 100,  # a few odd batches are no rise
        [0.1] * (WINDOW - 1) + [0.5],
    ],
)
def test_what_falls_swings_or_is_short_is_not_told(losses, caplog):
    with caplog.at_level(logging.WARNING):
        seen(losses)
    assert not caplog.records


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_step_rate_and_field(bad):
    with pytest.raises(
        TrainingError, match=r"axial pretrain: the loss is (nan|inf) at step 3, .* 0\.01; .*pretrain\.learning_rate"
    ):
        seen([1.0, 1.0, bad])


def test_float16_may_overflow_for_some_steps():
    seen(([math.inf] * OVERFLOWS + [1.0]) * 2, may_overflow=True)
    with pytest.raises(TrainingError):
        seen([math.inf] * (OVERFLOWS + 1), may_overflow=True)


def test_losses_that_differ_tenfold_by_chance_are_hardly_ever_told(caplog):
    with caplog.at_level(logging.WARNING):
        for seed in range(100):
            seen(np.random.default_rng(seed).lognormal(0, 1.8, 220))
    assert len(caplog.records) <= 2
