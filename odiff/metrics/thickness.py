"""Mean thickness of a plate-like structure such as cartilage."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from odiff.metrics.boxes import near_box


def mean_thickness(mask: np.ndarray, spacing_zyx_mm: Sequence[float]) -> float:
    """Mean thickness in mm of a mask (z, y, x): four times the mean distance of its voxels to its surface; 0 where empty.

    Across a plate of thickness t the distance to the nearer face rises from 0 to t/2 and falls again, t/4 on average. No
    skeleton is needed, whose voxels jump between even and odd thicknesses, and the rim of a plate of width w lowers the
    result by about 2t/3w of it where volume over half the surface loses 2t/w. Plates along the axes come out exactly
    whatever their number of voxels, oblique ones of two voxels or more within 10 %.

    The surface lies half a voxel before the nearest voxel outside, measured in its direction. The middle voxel of an odd
    number counts by its mean, a quarter voxel less than at its centre. What lies beyond the volume is not outside.
    """
    if not mask.any():
        return 0.0
    inside = mask[near_box(mask)]
    inside = np.pad(inside, 1) if inside.all() else inside
    spacing = np.asarray(spacing_zyx_mm, float)
    nearest = ndimage.distance_transform_edt(inside, sampling=spacing, return_distances=False, return_indices=True)
    voxels = np.argwhere(inside)
    steps = nearest[:, inside].T - voxels
    lengths_mm = steps * spacing
    distance = np.linalg.norm(lengths_mm, axis=1)
    voxel_mm = (lengths_mm**2 @ spacing) / distance**2
    middle = _is_outside(inside, voxels - steps)
    return float(4 * np.mean(distance - voxel_mm / 2 - middle * voxel_mm / 4))


def _is_outside(inside: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Whether each place (n, 3) is a voxel of the volume that `inside` leaves out."""
    in_volume = ((places >= 0) & (places < inside.shape)).all(axis=1)
    result = np.zeros(len(places), bool)
    result[in_volume] = ~inside[tuple(places[in_volume].T)]
    return result
