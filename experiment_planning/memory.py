"""How much memory a training step takes, from what autograd keeps.

What it keeps is counted on networks without memory, layer by layer; the factors were fitted to measured peaks (docs/performance.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from odiff.learning.usual_blocks import default_blocks
from odiff.network.backbone import block_names, build_backbone
from odiff.network.segmentation import SegmentationNetwork
from odiff.plan import NetworkPlan
from odiff.plan.schema import Triple

GIB = 2**30
FLOAT32 = 4


@dataclass(frozen=True)
class TaskCost:
    """What a task takes.

    Always there: `fixed_gb`, and `per_parameter` bytes of each weight (itself, its average, gradient and moments). Beside them either a
    step, in bytes per byte of the kept values and of the largest one, and per voxel of the batch, or a checkpoint being written,
    `saved` bytes per weight; whichever is more.
    """

    fixed_gb: float
    per_parameter: float
    saved: float
    per_kept: float
    per_largest: float
    per_voxel: float


PRETRAIN = TaskCost(0.17, 20.0, 18.0, 1.25, 2.2, 60.0)
# Where norms may not run in pieces (`odiff.network.channels_last`): a CPU in float32; fitted before any did.
PRETRAIN_BY_AUTOGRAD = TaskCost(0.17, 20.0, 22.0, 1.6, 5.9, 91.0)
SEGMENTATION = TaskCost(0.19, 20.0, 12.0, 2.1, 2.2, 48.0)
DIAGNOSIS = TaskCost(0.21, 18.0, 15.0, 0.8, 0.0, 40.0)
# In bfloat16 some of what is kept is float32, and casts beside it.
KEPT_IN_FLOAT32 = 0.65


@dataclass(frozen=True)
class Counts:
    """Of one volume's pass through a network: its weights, the values that autograd keeps, and those of the largest kept tensor."""

    parameters: int
    kept: int
    largest: int


def count_kept(build: Callable[[], nn.Module], patch_zyx: Triple, run: Callable[[Any, Tensor, Tensor], Any]) -> Counts:
    """Count what ``run(network, volume (1, 1, z, y, x), time step)`` leaves for the backward pass."""
    with torch.device("meta"):
        network, x, t = build(), torch.zeros((1, 1, *patch_zyx)), torch.zeros(1)
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run(network, x, t)
    sizes = [storage.nbytes() // x.element_size() for storage in kept.values()]
    del result
    return Counts(sum(parameter.numel() for parameter in network.parameters()), sum(sizes), max(sizes))


@cache
def pretrain_counts(network: NetworkPlan, patch_zyx: Triple) -> Counts:
    """A denoising pass."""
    return count_kept(lambda: build_backbone(network), patch_zyx, lambda made, x, t: made(x, t))


@cache
def segmentation_counts(network: NetworkPlan, patch_zyx: Triple, classes: int, head: str) -> Counts:
    """A pass up to the logits."""
    return count_kept(lambda: SegmentationNetwork(network, classes, head), patch_zyx, lambda made, x, t: made(x, t))


@cache
def diagnosis_counts(network: NetworkPlan, patch_zyx: Triple, last: str) -> Counts:
    """A pass up to the block `last`."""
    return count_kept(lambda: build_backbone(network), patch_zyx, lambda made, x, t: made.features(x, t, last))


@dataclass(frozen=True)
class TaskMemory:
    """GiB of training each task; 0 where there is none."""

    pretrain: float
    segmentation: float
    diagnosis: float


def task_memory_gb(
    network: NetworkPlan, patch_zyx: Triple, batch_size: int, classes: int, value_bytes: int, diagnosis_batch: int = 0,
    head: str = "decoder", is_cpu: bool = True,
) -> TaskMemory:  # fmt: skip
    """Peak memory of the training process above an idle import, in GiB, for each task; on a GPU, what torch takes of the card.

    Parameters
    ----------
    classes : outputs of the segmentation network, 0 where nothing is segmented.
    value_bytes : 2 where training runs in bfloat16, else 4.
    diagnosis_batch : cases of a diagnosis batch, each of one tile, 0 where nothing is diagnosed.
    head : of the segmentation network.
    is_cpu : whether a processor trains, not a GPU.
    """
    voxels = patch_zyx[0] * patch_zyx[1] * patch_zyx[2]

    def needed(cost: TaskCost, counts: Counts, batch: int) -> float:
        per_kept = cost.per_kept * (KEPT_IN_FLOAT32 if value_bytes == FLOAT32 else 1)
        values = value_bytes * (per_kept * counts.kept + cost.per_largest * counts.largest)
        # What a GPU learnt is saved from the computer's memory.
        saved = cost.saved * counts.parameters if is_cpu else 0.0
        more = max(saved, batch * (values + cost.per_voxel * voxels))
        return cost.fixed_gb + (cost.per_parameter * counts.parameters + more) / GIB

    segmentation = diagnosis = 0.0
    if classes:
        segmentation = needed(SEGMENTATION, segmentation_counts(network, patch_zyx, classes, head), batch_size)
    if diagnosis_batch:
        last = default_blocks(network, patch_zyx, block_names(network))[-1]
        diagnosis = needed(DIAGNOSIS, diagnosis_counts(network, patch_zyx, last), diagnosis_batch)
    pretrain = PRETRAIN_BY_AUTOGRAD if is_cpu and value_bytes == FLOAT32 else PRETRAIN
    return TaskMemory(needed(pretrain, pretrain_counts(network, patch_zyx), batch_size), segmentation, diagnosis)


def training_memory_gb(
    network: NetworkPlan, patch_zyx: Triple, batch_size: int, classes: int, value_bytes: int, diagnosis_batch: int = 0,
    head: str = "decoder", is_cpu: bool = True,
) -> float:  # fmt: skip
    """`task_memory_gb` of the hungriest task."""
    found = task_memory_gb(network, patch_zyx, batch_size, classes, value_bytes, diagnosis_batch, head, is_cpu)
    return max(found.pretrain, found.segmentation, found.diagnosis)
