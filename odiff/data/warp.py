"""Volumes through one affine map in plane: every slice takes its pixels from the same places of its own."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from odiff.data.labels import IGNORE
from odiff.data.sliding_window import AIR


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


def sample_image(image: Tensor, source: Tensor) -> Tensor:
    """(1, z, y, x) at `source` (2, y, x) of every slice, linear between pixels; air beyond the image.

    All slices go as the channels of one picture, so that places and weights are computed once. `image` is used up.
    """
    size_yx = torch.tensor(image.shape[2:]).view(2, 1, 1)
    grid = torch.stack(tuple(((2 * source + 1) / size_yx - 1).flip(0)), dim=-1)
    above_air = image.sub_(AIR)
    return F.grid_sample(above_air, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False).add_(AIR)


def sample_labels(mask: np.ndarray, source: Tensor) -> np.ndarray:
    """(1, z, y, x) at `source` (2, y, x) of every slice: the label with the largest share of a linear interpolation.

    Beyond the mask all is `IGNORE`. As in nnU-Net, but the four pixels around a place vote only where they differ and none
    weighs more than the rest together; elsewhere the nearest one has the answer.
    """
    depth, height, width = mask.shape[1:]
    framed = np.pad(mask[0], ((0, 0), (1, 1), (1, 1)), constant_values=IGNORE).reshape(depth, -1)
    row = width + 2
    size_yx = torch.tensor([height, width]).view(2, 1, 1)
    within = torch.minimum(source.clamp(min=-1), size_yx)
    low = torch.minimum(within.floor(), size_yx - 1)
    part = (within - low).view(2, -1).numpy()
    first = ((low[0] + 1) * row + low[1] + 1).long().view(-1).numpy()
    nearest = first + np.where(part[0] > 0.5, row, 0) + np.where(part[1] > 0.5, 1, 0)
    sampled = np.take(framed, nearest, axis=1)
    weights = _corner_weights(*part)
    open_pixels = np.flatnonzero(weights.max(axis=0) <= 0.5)
    voting = np.flatnonzero(np.take(_is_mixed(framed, row), first[open_pixels], axis=1))
    slices, chosen = np.divmod(voting, len(open_pixels))
    pixels = open_pixels[chosen]
    corners = slices * framed.shape[1] + first[pixels]
    labels = framed.ravel()[np.array([0, 1, row, row + 1])[:, None] + corners]
    sampled[slices, pixels] = _vote(labels, weights[:, pixels])
    return sampled.reshape(mask.shape)


def _corner_weights(down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(4, n): linear weights of the upper left, upper right, lower left and lower right pixel."""
    return np.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right])


def _is_mixed(flat: np.ndarray, row: int) -> np.ndarray:
    """Whether the pixel right, below or below right has another label; (z, pixels), without the last row and pixel."""
    last = flat.shape[1] - row - 1
    corner = flat[:, :last]
    is_mixed = corner != flat[:, 1 : last + 1]
    is_mixed |= corner != flat[:, row : last + row]
    is_mixed |= corner != flat[:, row + 1 :]
    return is_mixed


def _vote(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of four labels (4, n) the one whose weights sum to most; the first of equals."""
    shares = np.stack([sum(weights[j] * (labels[j] == labels[k]) for j in range(4)) for k in range(4)])
    return np.take_along_axis(labels, shares.argmax(axis=0)[None], axis=0)[0]
