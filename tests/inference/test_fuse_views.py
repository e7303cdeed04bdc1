"""Views averaged in the patient's space."""

from pathlib import Path

import numpy as np
import pytest

from odiff.dataset import Series
from odiff.geometry import Grid
from odiff.inference.fuse_views import Shares, fuse_onto, resampled

# The same 24 mm cube seen in sagittal slices along x and in axial slices along z (LPS, voxel centres).
SAGITTAL = Grid((24, 24, 6), (1.0, 1.0, 4.0), (1.5, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
AXIAL = Grid((6, 24, 24), (4.0, 1.0, 1.0), (0.0, 0.0, 1.5), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def places(grid):
    """World coordinates of every voxel centre, (3, z, y, x)."""
    z, y, x = np.meshgrid(*[np.arange(n) for n in grid.shape_zyx], indexing="ij")
    dz, dy, dx = grid.spacing_zyx_mm
    return np.stack([grid.origin_xyz_mm[0] + x * dx, grid.origin_xyz_mm[1] + y * dy, grid.origin_xyz_mm[2] + z * dz])


def linear_share(grid):
    """A probability that is linear in space, so that linear interpolation is exact."""
    x, y, z = places(grid)
    first = 0.2 + 0.01 * x + 0.005 * y + 0.008 * z
    return np.stack([first, 1 - first]).astype(np.float32)


@pytest.mark.parametrize(("source", "onto"), [(SAGITTAL, AXIAL), (AXIAL, SAGITTAL)])
def test_probabilities_land_where_they_belong_in_the_patient(source, onto):
    moved = resampled(linear_share(source), source, onto)
    low, high = places(source).reshape(3, -1).min(axis=1), places(source).reshape(3, -1).max(axis=1)
    at = places(onto)
    inside = ((at >= low[:, None, None, None]) & (at <= high[:, None, None, None])).all(axis=0)
    assert inside.mean() > 0.7 and (moved[0][inside] > -0.5).all()
    assert np.allclose(moved[:, inside], linear_share(onto)[:, inside], atol=1e-5)


def test_views_are_averaged_only_where_both_are():
    series = Series("a", "sagittal", None, Path("a_sagittal.nii.gz"))
    own = Shares(series, SAGITTAL, np.stack([np.ones(SAGITTAL.shape_zyx), np.zeros(SAGITTAL.shape_zyx)]))
    half = Grid((3, 24, 24), AXIAL.spacing_zyx_mm, AXIAL.origin_xyz_mm, AXIAL.direction)
    other = Shares(series, half, np.stack([np.zeros(half.shape_zyx), np.ones(half.shape_zyx)]))
    fused = fuse_onto(own, [other])
    z = places(SAGITTAL)[2]
    covered = (z >= 1.5) & (z <= 9.5)
    assert np.allclose(fused[0][covered], 0.5, atol=1e-6) and np.allclose(fused[0][z > 12], 1)
    assert np.allclose(fused.sum(axis=0), 1)
