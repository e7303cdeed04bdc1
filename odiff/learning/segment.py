"""Segmenting whole series with one or several trained networks."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from odiff.data.preprocessing import SeriesGeometry
from odiff.data.restoring import restore_all, restore_labels
from odiff.data.sliding_window import sliding_slabs
from odiff.learning.features import noised
from odiff.learning.loading import trained_network
from odiff.network.baselines import BASELINES, BaselineSegmentation
from odiff.network.segmentation import SegmentationNetwork
from odiff.plan import Plan, ViewPlan
from odiff.training.checkpoint import read_checkpoint
from odiff.training.precision import autocast

MAY_GROW = 1.25
Segmenter = SegmentationNetwork | BaselineSegmentation


def class_values(plan: Plan) -> tuple[int, ...]:
    """The label value of each output of the network, the background first."""
    return (plan.labels["background"], *sorted(value for name, value in plan.labels.items() if name != "background"))


def build_segmentation(plan: Plan, view: str) -> Segmenter:
    """The network of a view, with random weights."""
    view_plan, classes = plan.views[view], len(class_values(plan))
    if view_plan.network.architecture in BASELINES:
        return BaselineSegmentation(view_plan.network, view_plan.patch_zyx, classes)
    return SegmentationNetwork(view_plan.network, classes, plan.segmentation.head)


def load_segmentation(path: Path, plan: Plan, view: str, device: torch.device) -> Segmenter:
    """A trained segmentation network, ready to predict."""
    return trained_network(lambda: build_segmentation(plan, view), read_checkpoint(path), device, is_compact=True)


@torch.inference_mode()
def probability_slabs(
    networks: Sequence[Segmenter],
    image: np.ndarray,
    plan: Plan,
    view: str,
    device: torch.device,
    step_size: float = 0.5,
    is_mirroring: bool = True,
) -> Iterator[Tensor]:
    """The mean class probabilities of all networks, from the first slice to the last.

    Parameters
    ----------
    image : (z, y, x) on the network's grid.

    Yields
    ------
    (classes, n, y, x) float32, in order along z; a slab is overwritten once the next is asked for.
    """
    view_plan = plan.views[view]

    def predict(patch: Tensor) -> Iterator[Tensor]:
        step = plan.segmentation.time_step
        seen = noised(patch, step, view_plan.diffusion) if plan.segmentation.is_noised else patch
        for slabs in zip(*(patch_probabilities(network, seen, step) for network in networks), strict=True):
            total = slabs[0]
            for slab in slabs[1:]:
                total += slab
            yield total.div_(len(slabs)) if len(slabs) > 1 else total

    volume = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None].to(device)
    axes = view_plan.mirror_axes if is_mirroring else ()
    tile_zyx = fitted_tile(image.shape, view_plan)
    yield from sliding_slabs(
        predict, volume, tile_zyx, step_size=step_size, mirror_axes=axes, swapped=swapped_classes(plan)
    )


def fitted_tile(shape_zyx: Sequence[int], plan: ViewPlan) -> list[int]:
    """The patch, made longer where that spares a second tile: along each axis that is up to `MAY_GROW` longer than it.

    Baselines that know one size alone keep it.
    """
    baseline = BASELINES.get(plan.network.architecture)
    if baseline and baseline.is_fixed_size:
        return list(plan.patch_zyx)
    divisor = np.prod([plan.network.stem_zyx, *plan.network.strides_zyx], axis=0)
    return [
        int(-(-size // d) * d) if patch < size <= MAY_GROW * patch else patch
        for size, patch, d in zip(shape_zyx, plan.patch_zyx, divisor, strict=True)
    ]


def patch_probabilities(network: Segmenter, patch: Tensor, time_step: int) -> Iterator[Tensor]:
    """Softmax of the network's logits for patches (b, 1, z, y, x), slab by slab: (b, classes, n, y, x) float32."""
    t = torch.full((len(patch),), time_step, device=patch.device)
    with autocast(patch.device):
        slabs = network.slabs(patch, t)
    while True:
        with autocast(patch.device):  # never across a yield, where it would reach into the caller's code
            logits = next(slabs, None)
        if logits is None:
            return
        yield logits.float().softmax(dim=1)


def labels_on_grid(slabs: Iterable[Tensor], geometry: SeriesGeometry, plan: Plan) -> np.ndarray:
    """Label values on the file's own grid (z, y, x), paired labels swapped back where the joint was mirrored."""
    return restore_labels(slabs, values_on_grid(geometry, plan), geometry)


def labels_and_probabilities_on_grid(
    slabs: Iterable[Tensor], geometry: SeriesGeometry, plan: Plan
) -> tuple[np.ndarray, np.ndarray]:
    """As `labels_on_grid`, with the probabilities (classes, z, y, x), float16, of the classes in the file, in `class_values`' order."""
    swapped = swapped_classes(plan) if geometry.is_mirrored else None
    in_file = (slab[swapped] for slab in slabs) if swapped else slabs
    return restore_all(in_file, class_values(plan), geometry)


def values_on_grid(geometry: SeriesGeometry, plan: Plan) -> tuple[int, ...]:
    """The label value in the file of each class: that of the other side where a joint was mirrored."""
    values, swapped = class_values(plan), swapped_classes(plan)
    return tuple(values[other] for other in swapped) if swapped and geometry.is_mirrored else values


def swapped_classes(plan: Plan) -> list[int] | None:
    """For each class the one of the other side, itself where it has none; None where no class has one."""
    other = {a: b for pair in plan.left_right for a, b in (pair, pair[::-1])}
    values = class_values(plan)
    return [values.index(other.get(value, value)) for value in values] if other else None
