"""Axes that are not at right angles: mended where rounding explains it, named where it does not."""

import struct

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.linalg import polar
from scipy.spatial.transform import Rotation

from odiff.errors import ImageError
from odiff.geometry import read_grid, read_volume

SPACING = (0.7, 0.8, 4.0)
ORIGIN = (3.0, -20.0, 7.5)
SLICES = np.random.default_rng(0).integers(-300, 3000, (3, 4, 5)).astype(np.int16)


def write_sheared(path, degrees, unit=2):
    """A rotated volume whose first axis leans towards its second; its direction cosines. `unit` is NIfTI's code, 2 for mm."""
    turned = Rotation.from_euler("xyz", (10, -25, 40), degrees=True).as_matrix()
    angle = np.radians(degrees)
    direction = turned @ np.array([[np.cos(angle), 0, 0], [np.sin(angle), 1, 0], [0, 0, 1]])
    image = sitk.GetImageFromArray(SLICES)
    image.SetSpacing(SPACING)
    sitk.WriteImage(image, str(path))
    rows = np.column_stack([direction * SPACING, ORIGIN])
    rows[:2] *= -1
    content = bytearray(path.read_bytes())
    content[123] = unit
    struct.pack_into("<2h", content, 252, 0, 1)
    struct.pack_into("<12f", content, 280, *rows.ravel() / {1: 1000, 2: 1, 3: 0.001}[unit])
    path.write_bytes(bytes(content))
    return direction


@pytest.mark.parametrize("degrees", [0.06, 0.3, 0.9])
@pytest.mark.parametrize("unit", [1, 2, 3])
def test_small_leaning_is_mended_to_the_nearest_right_angles(tmp_path, degrees, unit):
    """Of the polar decomposition, the rotation that is nearest."""
    path = tmp_path / "a.nii"
    nearest, _ = polar(write_sheared(path, degrees, unit))
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(path))
    found = read_volume(path)
    assert np.array_equal(found.array, SLICES)
    assert np.allclose(np.reshape(found.grid.direction, (3, 3)), nearest, atol=1e-6)
    assert found.grid.spacing_zyx_mm == pytest.approx(SPACING[::-1], rel=1e-6)
    assert found.grid.origin_xyz_mm == pytest.approx(ORIGIN, rel=1e-6)
    assert f"off by {degrees / 2:.2f} degrees" in found.notes[0]
    assert read_grid(path) == found.grid


def test_axes_that_really_lean_are_named(tmp_path):
    path = tmp_path / "a.nii"
    write_sheared(path, 6.0)
    with pytest.raises(ImageError, match=r"a\.nii: direction cosines are 3\.0 degrees from right angles"):
        read_volume(path)
