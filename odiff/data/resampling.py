"""Volumes from one voxel size to another, keeping the field of view."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def resampled_shape(
    shape_zyx: tuple[int, ...], spacing_zyx_mm: tuple[float, ...], target_zyx_mm: tuple[float, ...]
) -> tuple[int, int, int]:
    """The voxels that the same field of view takes at the target spacing, at least 1 along each axis."""
    sizes = (max(1, round(n * s / t)) for n, s, t in zip(shape_zyx, spacing_zyx_mm, target_zyx_mm, strict=True))
    depth, rows, columns = sizes
    return depth, rows, columns


def resample(volume: Tensor, shape_zyx: tuple[int, ...]) -> Tensor:
    """Linear interpolation, in plane (antialiased) and through plane apart.

    The two are separate because the slices of a thick-slice series are measured apart from each other.

    Parameters
    ----------
    volume : (c, z, y, x), float.
    shape_zyx : the wanted size.

    Returns
    -------
    (c, *shape_zyx), voxel edges aligned with those of `volume`.
    """
    depth, rows, columns = shape_zyx
    if tuple(volume.shape[1:]) == (depth, rows, columns):
        return volume
    if tuple(volume.shape[2:]) != (rows, columns):
        volume = F.interpolate(volume, size=(rows, columns), mode="bilinear", antialias=True)
    if volume.shape[1] == depth:
        return volume
    channels = volume.shape[0]
    columns_first = volume.permute(0, 2, 3, 1).reshape(1, -1, volume.shape[1])
    along = F.interpolate(columns_first, size=depth, mode="linear")
    return along.reshape(channels, rows, columns, depth).permute(0, 3, 1, 2).contiguous()


def resample_labels(labels: np.ndarray, shape_zyx: tuple[int, ...]) -> np.ndarray:
    """Each label as its own soft map; a voxel takes the label with the largest share. (z, y, x) -> shape_zyx, int16."""
    if labels.shape == tuple(shape_zyx):
        return labels.astype(np.int16)
    best = np.full(shape_zyx, -1.0, np.float32)
    result = np.zeros(shape_zyx, np.int16)
    for value in np.unique(labels):
        share = resample(torch.from_numpy((labels == value).astype(np.float32))[None], shape_zyx)[0].numpy()
        is_larger = share > best
        best[is_larger] = share[is_larger]
        result[is_larger] = value
    return result
