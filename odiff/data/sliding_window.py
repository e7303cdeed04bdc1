"""Whole volumes from patch predictions, tiles blended with a Gaussian as nnU-Net does."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
Tile = tuple[slice, slice, slice]


def tile_starts(size: int, patch: int, step: float) -> list[int]:
    """Evenly spread first voxels of tiles along one axis, at most `step` patches apart; the last is flush with the end."""
    if size <= patch:
        return [0]
    count = int(np.ceil((size - patch) / (patch * step))) + 1
    return [round(place) for place in np.linspace(0, size - patch, count)]


def tiles(shape_zyx: Sequence[int], patch_zyx: Sequence[int], step: float) -> list[Tile]:
    """Slices of patches that cover a volume at least as large as the patch."""
    starts = [tile_starts(size, patch, step) for size, patch in zip(shape_zyx, patch_zyx, strict=True)]
    depth, rows, columns = patch_zyx
    return [
        (slice(z, z + depth), slice(y, y + rows), slice(x, x + columns))
        for z in starts[0] for y in starts[1] for x in starts[2]
    ]  # fmt: skip


def importance(patch_zyx: Sequence[int], sigma: float = 1 / 8) -> Tensor:
    """Gaussian over the patch, sigma in patch sizes, 1 at the centre and never below 0.001."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n * sigma)) ** 2) for n in patch_zyx]
    weight = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return (weight / weight.max()).clamp(min=1e-3)


def sliding_window(
    predict: Predict, volume: Tensor, patch_zyx: Sequence[int], *, step_size: float = 0.5,
    mirror_axes: Sequence[int] = (), outside: float = -1.0,
) -> Tensor:  # fmt: skip
    """Predict a volume of any size.

    Parameters
    ----------
    predict : (1, 1, *patch_zyx) -> (1, classes, *patch_zyx).
    volume : (1, z, y, x); padded with `outside` where smaller than the patch.
    step_size : distance of tiles in patches, in (0, 1].
    mirror_axes : spatial axes (0, 1, 2); predictions of all combinations of mirrored patches are averaged.

    Returns
    -------
    (classes, z, y, x), float32, on the CPU.
    """
    padded, inside = pad_nd_image(volume, tuple(patch_zyx), "constant", {"value": outside}, return_slicer=True)
    weight = importance(patch_zyx)
    total: Tensor | None = None
    weights = torch.zeros(padded.shape[1:])
    places = tiles(padded.shape[1:], patch_zyx, step_size)
    for place in places:
        here = (slice(None), *place)
        answer = mirrored(predict, padded[here][None], mirror_axes)[0].float().cpu()
        if total is None:
            total = torch.zeros((len(answer), *padded.shape[1:]))
        total[here] += answer * weight
        weights[place] += weight
    if total is None:
        raise ValueError(f"no tile in a volume of shape {tuple(volume.shape)}")
    inner = (slice(None), *inside[1:])
    return (total / weights)[inner]


def mirrored(predict: Predict, patch: Tensor, mirror_axes: Sequence[int]) -> Tensor:
    """The mean prediction over all combinations of mirrored axes, each turned back."""
    combinations: list[list[int]] = [[]]
    for axis in mirror_axes:
        combinations += [[*chosen, axis + 2] for chosen in combinations]
    answers = [torch.flip(predict(torch.flip(patch, axes)), axes) if axes else predict(patch) for axes in combinations]
    return torch.stack(answers).mean(dim=0)
