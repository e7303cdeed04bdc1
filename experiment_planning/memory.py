"""How much memory a training step takes, by counting what autograd keeps.

The counts follow the layers of odiff.network; the factors were fitted to measured peaks (docs/decisions.md).
"""

from dataclasses import dataclass

from odiff.network.unet import block_shapes
from odiff.plan import NetworkPlan
from odiff.plan.schema import Triple

GIB = 2**30
BYTES_PER_CLASS_VOXEL = 40.0


@dataclass(frozen=True)
class TaskCost:
    """GiB that do not depend on the plan; bytes per weight, per byte of a kept value, and per voxel of the patch."""

    fixed_gb: float
    per_parameter: float
    per_value: float
    per_voxel: float


PRETRAIN = TaskCost(0.12, 23.0, 7.0, 80.0)
SEGMENTATION = TaskCost(0.15, 16.0, 8.7, 55.0)
DIAGNOSIS = TaskCost(0.16, 15.0, 1.8, 250.0)


def count_parameters(network: NetworkPlan) -> int:
    """Weights of the U-Net, norms and biases left out."""
    pixels = _product(network.stem_zyx)
    widths, kernels, time = network.channels, network.kernels_zyx, network.time_channels
    total = 2 * pixels * widths[0] * _product(kernels[0]) + 2 * time * time
    for stage, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
        block = 2 * width * width * _product(kernel) + 2 * time * width
        total += network.blocks_per_stage * block
        if stage:
            total += widths[stage - 1] * width * _product(kernel)
        if stage + 1 < len(widths):
            total += widths[stage + 1] * width * _product(kernel) + width * width * _product(kernel) + 2 * time * width
        else:
            total += block
    return total


def stage_voxels(network: NetworkPlan, patch_zyx: Triple) -> list[int]:
    """Voxels of the feature maps of each stage."""
    shapes = block_shapes(network, patch_zyx)
    return [_product(shapes[f"encoder_{stage}"]) for stage in range(len(network.channels))]


def kept_values(network: NetworkPlan, patch_zyx: Triple) -> int:
    """Channels times voxels of the volumes that autograd keeps of one pass through the U-Net.

    Every stage keeps the two inputs of each residual block's convolutions (the norm before them is computed again), what it hands
    down, and either skip joined and decoder's result or, at the coarsest, the two of the middle block.
    """
    volumes = 2 * network.blocks_per_stage + 3
    return sum(
        volumes * width * voxels
        for width, voxels in zip(network.channels, stage_voxels(network, patch_zyx), strict=True)
    )


def training_memory_gb(
    network: NetworkPlan, patch_zyx: Triple, batch_size: int, classes: int, value_bytes: int, diagnosis_batch: int = 0
) -> float:
    """Peak memory of the training process above an idle import, in GiB: that of the hungriest task.

    Parameters
    ----------
    classes : outputs of the segmentation network, 0 where nothing is segmented.
    value_bytes : 2 where training runs in bfloat16, else 4.
    diagnosis_batch : cases of a diagnosis batch, 0 where nothing is diagnosed.
    """
    weights, kept, voxels = count_parameters(network), kept_values(network, patch_zyx), _product(patch_zyx)

    def needed(cost: TaskCost, batch: int, per_voxel: float) -> float:
        features = cost.per_value * value_bytes * kept
        return cost.fixed_gb + (cost.per_parameter * weights + batch * (features + voxels * per_voxel)) / GIB

    tasks = [needed(PRETRAIN, batch_size, PRETRAIN.per_voxel)]
    if classes:
        per_voxel = SEGMENTATION.per_voxel * value_bytes / 2 + BYTES_PER_CLASS_VOXEL * classes
        tasks.append(needed(SEGMENTATION, batch_size, per_voxel))
    if diagnosis_batch:
        tasks.append(needed(DIAGNOSIS, diagnosis_batch, DIAGNOSIS.per_voxel))
    return max(tasks)


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
