"""How fast this machine trains: multiply-adds a second, measured in seconds on a piece of the real network."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from odiff.experiment_planning.budget import PlanHours
from odiff.learning.clear_choice import AUTO, first_pooling, short_recipe
from odiff.learning.diagnose import build_diagnosis
from odiff.learning.inner_folds import INNER_FOLDS
from odiff.learning.pooling_choice import CANDIDATES
from odiff.learning.tabular_stage import uses_table
from odiff.learning.usual_blocks import usual_blocks
from odiff.learning.warm_up import BATCH, CachedFeatures, warm_up_head
from odiff.network.backbone import block_shapes, blocks_of, build_backbone
from odiff.network.diagnosis import FeatureChoice
from odiff.network.heads import pooled_grid
from odiff.network.segmentation import SegmentationNetwork
from odiff.plan import Plan, ViewPlan
from odiff.plan.schema import Triple
from odiff.training.device import finish
from odiff.training.graphs import record
from odiff.training.precision import autocast, place

Network = TypeVar("Network", bound=nn.Module)
TRAINING_PASSES = 3  # forward, and backward to inputs and to weights
PIECE_VOXELS = 150_000
WARM_UPS, STEPS = 1, 2


@dataclass(frozen=True)
class TaskFigures:
    """One number for each task of a view; segmentation is 0 where nothing is segmented, diagnosis where nothing is diagnosed."""

    pretrain: float
    segmentation: float
    diagnosis: float


def training_work(plan: ViewPlan, classes: int, diagnosis_batch: int, head: str = "decoder") -> TaskFigures:
    """Multiply-adds of one optimiser step of each task, counted on networks without memory."""
    batch = TRAINING_PASSES * plan.batch_size * plan.accumulate
    last = usual_blocks(plan)[-1]
    return TaskFigures(
        batch * multiply_adds(lambda: build_backbone(plan.network), plan.patch_zyx),
        batch * multiply_adds(lambda: SegmentationNetwork(plan.network, classes, head), plan.patch_zyx)
        if classes
        else 0.0,
        TRAINING_PASSES
        * diagnosis_batch
        * multiply_adds(
            lambda: build_backbone(plan.network), plan.patch_zyx, lambda network, x, t: network.features(x, t, last)
        ),
    )


def multiply_adds(
    build: Callable[[], Network], shape_zyx: Triple, run: Callable[[Network, Tensor, Tensor], object] | None = None
) -> float:
    """Multiply-adds of one forward pass of what `build` gives, or of `run(network, volume, time step)`, batch 1.

    Counted on a network without memory: on a real device the counter does not see convolutions that go to oneDNN directly.
    """
    with torch.device("meta"):
        network, x, t = build(), torch.zeros((1, 1, *shape_zyx)), torch.zeros(1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        (run or (lambda network, x, t: network(x, t)))(network, x, t)
    return counter.get_total_flops() / 2


class Stopwatch:
    """Hours that plans take on one device; a network of known widths and stem is measured once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._rates: dict[Any, TaskFigures] = {}
        self._head_steps: dict[Any, float] = {}

    def hours(self, plan: Plan) -> PlanHours:
        """Pretraining and one fold of each task, over all views and, for diagnosis, their fusion."""
        views = plan.views.values()
        steps, beside = sum(map(partial(self._steps, plan), views)), sum(map(partial(self._beside, plan), views))
        return PlanHours(steps / 3600, beside / 3600)

    def _rate(self, plan: Plan, view: ViewPlan) -> TaskFigures:
        key = (view.network.stem_zyx, view.network.channels)
        if key not in self._rates:
            self._rates[key] = training_rate(view, len(plan.labels), self.device, plan.segmentation.head)
        return self._rates[key]

    def _steps(self, plan: Plan, view: ViewPlan) -> float:
        """Seconds of all optimiser steps of a view."""
        batch = plan.diagnosis.batch_size if plan.diagnoses else 0
        rate, work = self._rate(plan, view), training_work(view, len(plan.labels), batch, plan.segmentation.head)
        seconds = plan.pretrain.steps * work.pretrain / rate.pretrain
        seconds += plan.diagnosis.steps * work.diagnosis / rate.diagnosis
        return seconds + (plan.segmentation.steps * work.segmentation / rate.segmentation if plan.labels else 0.0)

    def _beside(self, plan: Plan, view: ViewPlan) -> float:
        """Seconds of the probes of a view and of the warm-ups of its head: its own, those of the inner folds that a gate or the case
        table learns from, and those by which the pooling and the fusion are chosen.
        """
        if not plan.diagnoses:
            return 0.0
        key = (view.network.stem_zyx, view.network.channels, view.patch_zyx)
        if key not in self._head_steps:
            self._head_steps[key] = head_step_seconds(plan, view, self.device)
        whole, short = plan.diagnosis.head_steps, short_recipe(plan.diagnosis).head_steps
        needs_inner = plan.fusion.variant.startswith("gated") or uses_table(plan)
        warm_ups = 1 + (INNER_FOLDS if needs_inner else 0)
        head_steps, reads = warm_ups * whole, len(view.diffusion.probe_time_steps) + warm_ups
        if plan.diagnosis.pooling == AUTO:
            head_steps += INNER_FOLDS * len(CANDIDATES) * short
        if plan.fusion.variant == AUTO:
            head_steps, reads = head_steps + INNER_FOLDS * short, reads + 1
        forward = training_work(view, 0, 1).diagnosis / TRAINING_PASSES / self._rate(plan, view).pretrain
        return head_steps * self._head_steps[key] + plan.diagnosis.probe_cases * reads * forward


def head_step_seconds(plan: Plan, view: ViewPlan, device: torch.device) -> float:
    """Seconds of one step of the head's warm-up, on features of noise."""
    choice = FeatureChoice(
        view.diffusion.probe_time_steps[0], usual_blocks(view), first_pooling(plan.diagnosis.pooling)
    )
    network = place(build_diagnosis(plan, view.view, choice), device)
    blocks, shapes = blocks_of(view.network), block_shapes(view.network, view.patch_zyx)
    features = {
        name: torch.randn(BATCH, blocks[name].channels, *pooled_grid(shapes[name])).half() for name in choice.blocks
    }
    cached = CachedFeatures(features, torch.arange(BATCH), torch.zeros(BATCH, len(plan.diagnoses)))
    seconds = []
    for _ in range(WARM_UPS + STEPS):
        started = time.perf_counter()
        warm_up_head(network.head, cached, replace(plan.diagnosis, head_steps=1), 0)
        finish(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[WARM_UPS:])


def training_rate(plan: ViewPlan, classes: int, device: torch.device, head: str = "decoder") -> TaskFigures:
    """Multiply-adds a second of a training step of each task, on a piece of the patch of about `PIECE_VOXELS`.

    A GPU, which a piece would leave idle, is given whole batches, recorded where training records them.

    Diagnosis trains the same layers as pretraining and is not measured apart.
    """
    is_cpu = device.type == "cpu"
    shape = (1, 1, *piece_of(plan)) if is_cpu else (plan.batch_size, 1, *plan.patch_zyx)
    pretrain = _rate(lambda: build_backbone(plan.network), shape, device, plan.accumulate)
    segmentation = 0.0
    if classes:
        segmentation = _rate(lambda: SegmentationNetwork(plan.network, classes, head), shape, device, plan.accumulate)
    return TaskFigures(pretrain, segmentation, pretrain)


def piece_of(plan: ViewPlan) -> Triple:
    """The patch, halved in plane while it is over `PIECE_VOXELS` and the network still divides it."""
    depth, rows, columns = plan.patch_zyx
    factor = list(plan.network.stem_zyx)
    for stride in plan.network.strides_zyx:
        factor = [f * s for f, s in zip(factor, stride, strict=True)]
    while depth * rows * columns > PIECE_VOXELS:
        if rows >= columns and rows % (2 * factor[1]) == 0:
            rows //= 2
        elif columns % (2 * factor[2]) == 0:
            columns //= 2
        else:
            break
    return depth, rows, columns


def _rate(
    build: Callable[[], nn.Module], shape: tuple[int, int, int, int, int], device: torch.device, accumulate: int
) -> float:
    network = place(build(), device)
    record(network, shape, device, accumulate)
    x, t = torch.randn(shape, device=device), torch.zeros(shape[0], dtype=torch.long, device=device)
    seconds = [_step(network, x, t) for _ in range(WARM_UPS + STEPS)]
    return TRAINING_PASSES * shape[0] * multiply_adds(build, shape[2:]) / min(seconds[WARM_UPS:])


def _step(network: nn.Module, x: Tensor, t: Tensor) -> float:
    started = time.perf_counter()
    with autocast(x.device):
        loss = network(x, t).float().square().mean()
    loss.backward()
    network.zero_grad()
    finish(x.device)
    return time.perf_counter() - started
