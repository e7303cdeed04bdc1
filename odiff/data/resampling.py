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
    return volume if volume.shape[1] == depth else _along_depth(volume, depth)


def _along_depth(volume: Tensor, depth: int) -> Tensor:
    """Linear interpolation between whole slices, (c, z, y, x) -> (c, depth, y, x)."""
    below, above, share = neighbours(volume.shape[1], depth)
    return torch.lerp(volume[:, below], volume[:, above], torch.from_numpy(share).to(volume)[:, None, None])


def neighbours(slices: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `wanted` slices of the same field of view the slices below and above it, and the share of the latter."""
    place = np.clip((np.arange(wanted) + 0.5) * (slices / wanted) - 0.5, 0, slices - 1)
    below = place.astype(int)
    return below, np.minimum(below + 1, slices - 1), (place - below).astype(np.float32)


def resample_labels(labels: np.ndarray, shape_zyx: tuple[int, ...]) -> np.ndarray:
    """Each label as its own soft map; a voxel takes the label with the largest share. (z, y, x) -> shape_zyx, int16.

    The shares are those of `resample`. Each label is worked out in its own bounding box; what the others leave is the share of
    the most common one, judged by every fourth pixel. Of equal shares that one wins, else the smaller label.
    """
    if labels.shape == tuple(shape_zyx):
        return labels.astype(np.int16)
    from scipy import ndimage  # slow to import, and prediction resamples no labels

    lowest = int(labels.min())
    shifted = labels.astype(np.int32) - lowest
    common = int(np.bincount(shifted[:, ::4, ::4].ravel()).argmax())
    weights = [
        _weights(old, new, is_plane) for old, new, is_plane in zip(labels.shape, shape_zyx, (0, 1, 1), strict=True)
    ]
    best, left = torch.zeros(tuple(shape_zyx)), torch.ones(tuple(shape_zyx))
    result = torch.full(tuple(shape_zyx), common + lowest, dtype=torch.int16)
    for number, box in enumerate(ndimage.find_objects(shifted + 1)):
        if box is None or number == common:
            continue
        share, reached = _share(torch.from_numpy(shifted[box] == number), box, weights)
        so_far = best[reached]
        result[reached].masked_fill_(share > so_far, number + lowest)
        torch.maximum(so_far, share, out=so_far)
        left[reached] -= share
    return result.masked_fill_(left >= best, common + lowest).numpy()


def _weights(old: int, new: int, is_plane: int) -> Tensor:
    """(new, old): what each voxel of an axis adds to each resampled one, by resampling every unit vector."""
    units = torch.eye(old)
    if is_plane:
        return resample(units[None, None], (1, new, old))[0, 0]
    return resample(units.reshape(1, old, old, 1), (new, old, 1))[0, :, :, 0]


def _share(inside: Tensor, box: tuple[slice, ...], weights: list[Tensor]) -> tuple[Tensor, tuple[slice, ...]]:
    """The resampled mask of one label whose bounding box is `box`, where it reaches, and that place."""
    near = [weight[:, place] for weight, place in zip(weights, box, strict=True)]
    reached = tuple(_extent(one.any(dim=1)) for one in near)
    depth, rows, columns = (one[place] for one, place in zip(near, reached, strict=True))
    in_plane = rows @ (inside.float() @ columns.T)
    return torch.tensordot(depth, in_plane, dims=1), reached


def _extent(hit: Tensor) -> slice:
    """From the first to the last True; empty where there is none, as for a slice that strong thinning steps over."""
    places = hit.nonzero()[:, 0]
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)
