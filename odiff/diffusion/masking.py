"""Block masking, the second corruption of pretraining beside noise (masked diffusion auto-encoders, MDAE)."""

import torch
from torch import Tensor


def block_mask(
    shape_zyx: tuple[int, ...], block_zyx: tuple[int, ...], fraction: Tensor, generator: torch.Generator
) -> Tensor:
    """Which voxels are hidden: whole blocks, each with its sample's probability.

    Parameters
    ----------
    shape_zyx : size of the volume in voxels; need not be a multiple of the block.
    block_zyx : size of a block in voxels.
    fraction : shape (b,), the share of hidden blocks per sample, in [0, 1], where `generator` is.

    Returns
    -------
    bool Tensor of shape (b, 1, z, y, x), true where hidden.
    """
    blocks = [-(-size // block) for size, block in zip(shape_zyx, block_zyx, strict=True)]
    draw = torch.rand((len(fraction), 1, *blocks), generator=generator, device=generator.device)
    hidden = draw < fraction.reshape(-1, 1, 1, 1, 1)
    for axis, block in enumerate(block_zyx):
        hidden = hidden.repeat_interleave(block, dim=axis + 2)
    depth, rows, columns = shape_zyx
    return hidden[:, :, :depth, :rows, :columns]
