"""A time budget chooses resolution, width and steps."""

from dataclasses import replace

import pytest
import torch

from odiff.errors import UsageError
from odiff.experiment_planning import throughput
from odiff.experiment_planning.budget import (
    ENOUGH_STEPS,
    LEAST_STEPS,
    MOST_STEPS,
    Candidate,
    PlanHours,
    candidate_presets,
    choose,
    plan_within,
    scaled_steps,
)
from odiff.experiment_planning.fingerprint import ViewFingerprint
from odiff.experiment_planning.planner import Machine, Reasons, Tasks, plan_view
from odiff.experiment_planning.presets import read_preset
from odiff.experiment_planning.throughput import (
    TRAINING_PASSES,
    Stopwatch,
    TaskFigures,
    head_step_seconds,
    piece_of,
    training_rate,
    training_work,
)
from odiff.learning.clear_choice import STEPS as CHOICE_STEPS
from odiff.learning.inner_folds import INNER_FOLDS
from odiff.network.unet import UNet
from odiff.plan import NetworkPlan, Plan

PRESET = read_preset("default")
SPACING, SHAPE = (4.5, 0.6, 0.6), (16, 128, 128)


def knee_view(preset=PRESET):
    extent = tuple(n * s for n, s in zip(SHAPE, SPACING, strict=True))
    seen = ViewFingerprint("sagittal", 1, 1, (SPACING,), (SHAPE,), (extent,), 7.5, {}, {}, {})
    return plan_view(seen, Tasks(3, 2), preset, Machine(8.0, 4, "cpu"), (), Reasons("sagittal", []))


def made(preset):
    labels = {"background": 0, "femur": 1, "tibia": 2}
    return Plan(
        1, "default", "Dataset001_Knee", "knee", "default", None, ".nii.gz", labels, None, False, (), ("ACL",), True, False,
        {"sagittal": knee_view(preset)}, preset.pretrain, preset.segmentation, preset.diagnosis, preset.fusion, (),
    )  # fmt: skip


def costing(*hours):
    return [Candidate(PRESET, None, cost, f"{cost} h") for cost in hours]


def test_the_costliest_plan_that_makes_enough_steps_is_taken():
    chosen, share = choose(costing(1.0, 4.0, 20.0), 4.0)
    assert chosen.hours == 4.0
    assert share == 1.0
    chosen, share = choose(costing(1.0, 4.0, 8.0), 4.0)
    assert (chosen.hours, share) == (8.0, ENOUGH_STEPS)


def test_more_hours_never_choose_a_cheaper_plan():
    chosen = [choose(costing(1.0, 4.0, 20.0), hours)[0].hours for hours in (0.1, 0.5, 2.0, 9.0, 10.0, 100.0)]
    assert chosen == sorted(chosen)


def test_a_budget_is_neither_overrun_nor_spent_on_endless_steps():
    assert choose(costing(1.0), 100.0)[1] == MOST_STEPS
    chosen, share = choose(costing(1.0, 2.0), 0.3)
    assert chosen.hours * share == pytest.approx(0.3)


def test_too_few_hours_are_refused_with_the_hours_that_would_do():
    with pytest.raises(UsageError, match=rf"--hours 0.01: .* needs 2.0 h .* {2 * LEAST_STEPS:.2f} h"):
        choose(costing(2.0, 4.0), 0.01)
    with pytest.raises(UsageError, match="--hours -1: must be above 0"):
        plan_within(PRESET, -1, made, lambda plan: PlanHours(1.0, 0.0))


def test_schedules_are_scaled_alike():
    half = scaled_steps(PRESET, 0.5)
    assert (half.pretrain.steps, half.pretrain.warmup_steps) == (
        PRESET.pretrain.steps // 2,
        PRESET.pretrain.warmup_steps // 2,
    )
    assert half.segmentation.steps == PRESET.segmentation.steps // 2
    least = scaled_steps(PRESET, 1e-6)
    assert least.pretrain.steps == least.diagnosis.steps == 1
    assert least.segmentation.head_steps == 0


def test_candidates_go_down_in_width_and_resolution_and_never_below_32_channels():
    widths = {(preset.network.base_channels, preset.limits.patch_voxels) for _, preset in candidate_presets(PRESET)}
    assert len(widths) == 6
    narrow = replace(PRESET, network=replace(PRESET.network, base_channels=32))
    assert {preset.network.base_channels for _, preset in candidate_presets(narrow)} == {32}


def test_the_reason_is_written_down_and_the_plan_has_the_steps():
    def cost(plan):
        return PlanHours(plan.views["sagittal"].network.channels[0] / 64, 0.5)

    plan, decision = plan_within(PRESET, 2.5, made, cost)
    assert decision.field == "budget"
    assert "--hours 2.5" in decision.rule
    assert decision.source.count("h for all steps") == 2, "equal plans are one candidate"
    assert plan.pretrain.steps == round(PRESET.pretrain.steps * 2.0 / 1.2)


def test_work_is_what_the_network_multiplies():
    """By hand for the stem: voxels after it times inputs times outputs times the kernel."""
    plan = knee_view()
    network = UNet(plan.network)
    work = training_work(plan, 3, 2)
    stem = network.stem
    after = [n // s for n, s in zip(plan.patch_zyx, plan.network.stem_zyx, strict=True)]
    by_hand = 1
    for size in (*after, stem.in_channels, stem.out_channels, *stem.kernel_size):
        by_hand *= size
    assert work.pretrain > TRAINING_PASSES * plan.batch_size * by_hand
    assert work.segmentation > work.pretrain
    double = training_work(replace(plan, batch_size=2 * plan.batch_size), 3, 2)
    assert double.pretrain == pytest.approx(2 * work.pretrain)
    assert training_work(plan, 0, 0).segmentation == training_work(plan, 0, 0).diagnosis == 0


def test_a_piece_still_divides():
    plan = knee_view()
    for size, whole, stem in zip(piece_of(plan), plan.patch_zyx, plan.network.stem_zyx, strict=True):
        assert size <= whole and size % stem == 0


def test_hours_are_work_over_rate_and_each_network_is_measured_once(monkeypatch):
    measured = []

    def rate(view, classes, device, head):
        measured.append(view.view)
        return TaskFigures(1e9, 2e9, 1e9)

    monkeypatch.setattr(throughput, "training_rate", rate)
    plan, stopwatch = made(PRESET), Stopwatch(torch.device("cpu"))
    work = training_work(plan.views["sagittal"], 3, plan.diagnosis.batch_size)
    seconds = plan.pretrain.steps * work.pretrain / 1e9 + plan.segmentation.steps * work.segmentation / 2e9
    seconds += plan.diagnosis.steps * work.diagnosis / 1e9
    assert stopwatch.hours(plan).steps == pytest.approx(seconds / 3600)
    both = replace(plan, views={**plan.views, "axial": replace(plan.views["sagittal"], view="axial")})
    assert stopwatch.hours(both).steps == pytest.approx(2 * seconds / 3600)
    assert measured == ["sagittal"]


def test_hours_beside_the_steps_are_probes_and_every_warm_up_of_the_head(monkeypatch):
    monkeypatch.setattr(throughput, "training_rate", lambda *_: TaskFigures(1e9, 2e9, 1e9))
    monkeypatch.setattr(throughput, "head_step_seconds", lambda *_: 0.5)
    plan = made(
        replace(
            PRESET,
            diagnosis=replace(PRESET.diagnosis, pooling="attention"),
            fusion=replace(PRESET.fusion, variant="concat"),
        )
    )
    forward = training_work(plan.views["sagittal"], 0, 1).diagnosis / TRAINING_PASSES / 1e9
    cases, steps, head = plan.diagnosis.probe_cases, len(PRESET.diffusion.probe_time_steps), plan.diagnosis.head_steps
    beside = Stopwatch(torch.device("cpu")).hours(plan).beside
    assert beside == pytest.approx((head * 0.5 + cases * (steps + 1) * forward) / 3600)
    gated = replace(plan, fusion=replace(plan.fusion, variant="gated"))
    more = Stopwatch(torch.device("cpu")).hours(gated).beside - beside
    assert more == pytest.approx(INNER_FOLDS * (head * 0.5 + cases * forward) / 3600)
    open_pooling = replace(plan, diagnosis=replace(plan.diagnosis, pooling="auto"))
    more = Stopwatch(torch.device("cpu")).hours(open_pooling).beside - beside
    assert more == pytest.approx(INNER_FOLDS * 3 * CHOICE_STEPS * 0.5 / 3600)
    open_fusion = replace(plan, fusion=replace(plan.fusion, variant="auto"))
    more = Stopwatch(torch.device("cpu")).hours(open_fusion).beside - beside
    assert more == pytest.approx((INNER_FOLDS * CHOICE_STEPS * 0.5 + cases * forward) / 3600)
    assert Stopwatch(torch.device("cpu")).hours(replace(plan, diagnoses=())).beside == 0


def test_a_step_of_the_head_is_really_timed():
    assert 0 < head_step_seconds(made(PRESET), knee_view(), torch.device("cpu")) < 60


def test_what_does_not_shrink_is_taken_from_the_hours_first():
    chosen, share = choose([replace(one, beside=1.0) for one in costing(1.0, 4.0)], 2.0)
    assert (chosen.hours, share) == (1.0, 1.0)
    with pytest.raises(UsageError, match=r"1\.02 h to learn anything"):
        choose([replace(one, beside=1.0) for one in costing(1.0)], 0.5)


def test_a_real_network_has_a_real_rate():
    network = NetworkPlan((1, 2, 2), (32, 32), ((1, 1, 1), (1, 2, 2)), ((1, 3, 3), (3, 3, 3)), 1, 32)
    plan = replace(knee_view(), patch_zyx=(4, 16, 16), network=network)
    rate = training_rate(plan, 3, torch.device("cpu"))
    assert 1e6 < rate.segmentation < 1e15
    assert rate.pretrain == rate.diagnosis > 1e6
    assert training_rate(plan, 0, torch.device("cpu")).segmentation == 0


def test_the_measured_rate_counts_every_convolution(monkeypatch):
    """The step of a known time: the rate is the counted work over it, small convolutions that oneDNN takes included."""
    network = NetworkPlan((1, 1, 1), (32,), ((1, 1, 1),), ((3, 3, 3),), 1, 32)
    plan = replace(knee_view(), patch_zyx=(4, 8, 8), network=network)
    monkeypatch.setattr(throughput, "_step", lambda network, x, t: 2.0)
    voxels, kernel = 4 * 8 * 8, 27
    blocks = 4 * 32 * 32  # one residual block of the encoder and one in the middle, two convolutions each
    by_hand = voxels * kernel * (blocks + 32 + 32) + 2 * 32 * 32 + 2 * 32 * 64
    rate = training_rate(plan, 0, torch.device("cpu")).pretrain
    assert rate == pytest.approx(TRAINING_PASSES * by_hand / 2.0)
