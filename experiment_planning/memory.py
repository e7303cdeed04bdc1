"""How much memory a training step takes, by counting what autograd keeps.

The counts follow the layers of odiff.network; the factors were fitted to measured peaks (docs/decisions.md).
"""

from odiff.plan import NetworkPlan
from odiff.plan.schema import Triple

GIB = 2**30
BYTES_PER_PARAMETER = 24
KEPT_PER_BLOCK = 9.0
KEPT_FULL_RESOLUTION = 110.0
BYTES_PER_CLASS_VOXEL = 40.0
RUNTIME_GB = 0.25


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
            total += (
                widths[stage + 1] * width * _product(kernel) + 3 * width * width * _product(kernel) + 2 * width * width
            )
        else:
            total += block
    return total


def stage_voxels(network: NetworkPlan, patch_zyx: Triple) -> list[int]:
    """Voxels of the feature maps of each stage."""
    sizes = [n // s for n, s in zip(patch_zyx, network.stem_zyx, strict=True)]
    voxels = []
    for stride in network.strides_zyx:
        sizes = [n // s for n, s in zip(sizes, stride, strict=True)]
        voxels.append(_product(tuple(sizes)))
    return voxels


def kept_values(network: NetworkPlan, patch_zyx: Triple) -> int:
    """Channels times voxels over all residual blocks; a decoder's block counts one and a half for its joined input."""
    total = 0.0
    last = len(network.channels) - 1
    for stage, (width, voxels) in enumerate(zip(network.channels, stage_voxels(network, patch_zyx), strict=True)):
        blocks = network.blocks_per_stage + (1.0 if stage == last else 2.0)
        total += blocks * width * voxels
    return int(total)


def training_memory_gb(
    network: NetworkPlan, patch_zyx: Triple, batch_size: int, classes: int, value_bytes: int
) -> float:
    """Peak memory of the training process above an idle import, in GiB.

    Parameters
    ----------
    classes : outputs of the segmentation network, 0 where nothing is segmented.
    value_bytes : 2 where training runs in bfloat16, else 4.
    """
    weights = BYTES_PER_PARAMETER * count_parameters(network)
    features = KEPT_PER_BLOCK * value_bytes * kept_values(network, patch_zyx)
    voxels = _product(patch_zyx)
    full = voxels * (KEPT_FULL_RESOLUTION * value_bytes + BYTES_PER_CLASS_VOXEL * classes) if classes else voxels * 40.0
    return RUNTIME_GB + (weights + batch_size * (features + full)) / GIB


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
