"""Training augmentation of one sample: mirror, one affine map in plane, then intensities (`odiff.data.intensities`)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from odiff.data.intensities import change_intensities
from odiff.plan import Augmentation

AIR = -1.0
IGNORE = -1


def augment(
    image: np.ndarray, mask: np.ndarray | None, settings: Augmentation, rng: np.random.Generator, *,
    mirror_axes: Sequence[int] = (), left_right: Sequence[tuple[int, int]] = (),
) -> tuple[np.ndarray, np.ndarray | None]:  # fmt: skip
    """Change an image (1, z, y, x) around -1..1, and its mask alike, as `rng` says; the image comes back in float32.

    Rotation, scale and shift stay in plane: thick slices bear no interpolation across them. Pairs of `left_right`
    label values are swapped when the sample is mirrored.
    """
    for axis in mirror_axes:
        if rng.random() < 0.5:
            image = np.flip(image, axis + 1)
            mask = None if mask is None else swap_labels(np.flip(mask, axis + 1), left_right)
    changed = torch.from_numpy(np.ascontiguousarray(image)).to(torch.float32, copy=True)
    changed, mask = move(changed, mask, settings, rng)
    changed = change_intensities(changed, settings, rng)
    return changed.numpy(), None if mask is None else np.ascontiguousarray(mask)


def swap_labels(mask: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Exchange the two values of each pair."""
    swapped = mask.copy()
    for a, b in pairs:
        swapped[mask == a] = b
        swapped[mask == b] = a
    return swapped


def move(
    image: Tensor, mask: np.ndarray | None, settings: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, np.ndarray | None]:
    """Rotate, scale and shift in plane; the mask by nearest neighbour, unknown where it comes from outside."""
    angle, scale = np.deg2rad(rng.uniform(-1, 1) * settings.rotation_deg), np.exp(rng.uniform(-1, 1) * settings.scale)
    shift = rng.uniform(-1, 1, 2) * settings.shift * np.asarray(image.shape[2:])
    if not (settings.rotation_deg or settings.scale or settings.shift):
        return image, mask
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    source = source_yx(image.shape[2:], rotation, shift)
    return sample_linear(image, source), None if mask is None else sample_nearest(mask, source)


def source_yx(shape_yx: Sequence[int], matrix: np.ndarray, shift_yx: np.ndarray) -> Tensor:
    """Where each pixel of the result comes from: matrix @ (pixel - centre - shift) + centre.

    Returns
    -------
    (2, y, x) float32, rows and columns of the input in pixels, 0 at the middle of the first one.
    """
    centre = (np.asarray(shape_yx) - 1) / 2
    offset = centre - matrix @ (centre + shift_yx)
    rows, columns = (torch.arange(size, dtype=torch.float32) for size in shape_yx)
    along_rows, along_columns = (torch.from_numpy(column.astype(np.float32)) for column in matrix.T)
    place = along_rows[:, None] * rows + torch.from_numpy(offset.astype(np.float32))[:, None]
    return place[:, :, None] + (along_columns[:, None] * columns)[:, None, :]


def sample_linear(image: Tensor, source: Tensor) -> Tensor:
    """(1, z, y, x) at `source` (2, y, x) of every slice, linear between pixels; air beyond the image.

    All slices go as the channels of one picture, so that places and weights are computed once. `image` is used up.
    """
    size_yx = torch.tensor(image.shape[2:]).view(2, 1, 1)
    grid = torch.stack(tuple(((2 * source + 1) / size_yx - 1).flip(0)), dim=-1)
    above_air = image.sub_(AIR)
    return F.grid_sample(above_air, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False).add_(AIR)


def sample_nearest(mask: np.ndarray, source: Tensor) -> np.ndarray:
    """(1, z, y, x) at the pixel nearest to `source` (2, y, x) of every slice; `IGNORE` beyond the mask."""
    depth, height, width = mask.shape[1:]
    rows, columns = source.round().long().numpy()
    is_outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
    place = (rows.clip(0, height - 1) * width + columns.clip(0, width - 1)).ravel()
    moved = np.take(mask.reshape(depth, -1), place, axis=1, mode="clip")
    np.copyto(moved, IGNORE, where=is_outside.ravel())
    return moved.reshape(mask.shape)
