"""Canonical frames by physical points: what a voxel is must not depend on how it is stored."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from odiff.geometry import (
    VIEWS,
    Grid,
    canonical_frame,
    from_canonical,
    image_from_volume,
    same_grid,
    to_canonical,
    view_angle_deg,
    volume_from_image,
)

AXES = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]


def grid_of(order, signs, spacing=(4.0, 0.7, 0.6), shape=(5, 6, 7)):
    """A grid whose stored axes z, y, x run along the world axes `order` with `signs`."""
    direction = np.zeros((3, 3))
    for stored, (world, sign) in enumerate(zip(order, signs, strict=True)):
        direction[world, 2 - stored] = sign
    return Grid(shape, spacing, (1.0, 2.0, 3.0), tuple(direction.ravel()))


@given(st.sampled_from(AXES), st.tuples(*[st.sampled_from([-1, 1])] * 3), st.sampled_from(VIEWS))
def test_canonical_and_back_is_exact(order, signs, view):
    grid = grid_of(order, signs)
    array = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    frame = canonical_frame(grid, view)
    assert np.array_equal(from_canonical(to_canonical(array, frame), frame), array)


@given(st.sampled_from(AXES), st.tuples(*[st.sampled_from([-1, 1])] * 3), st.sampled_from(VIEWS))
def test_canonical_axes_run_in_the_views_directions_for_isotropic_volumes(order, signs, view):
    """SimpleITK's own index-to-point map is the oracle: the coordinate along each canonical axis must rise as promised."""
    grid = grid_of(order, signs, spacing=(1.0, 1.0, 1.0))
    image = image_from_volume(np.zeros(grid.shape_zyx, np.float32), grid)
    points = np.zeros((*grid.shape_zyx, 3))
    for index in np.ndindex(*grid.shape_zyx):
        points[index] = image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]])
    frame = canonical_frame(grid, view)
    turned = np.stack([to_canonical(points[..., c], frame) for c in range(3)], axis=-1)
    expected = {"sagittal": (0, -2, 1), "coronal": (1, -2, 0), "axial": (2, 1, 0)}
    steps = [turned[1, 0, 0] - turned[0, 0, 0], turned[0, 1, 0] - turned[0, 0, 0], turned[0, 0, 1] - turned[0, 0, 0]]
    for step, axis in zip(steps, expected[view], strict=True):
        component = step[abs(axis)]
        assert component * (-1 if axis < 0 else 1) > 0


@pytest.mark.parametrize("view", VIEWS)
def test_angle_is_zero_for_the_own_view_and_right_for_the_others(view):
    normal = {"sagittal": 0, "coronal": 1, "axial": 2}[view]
    others = [axis for axis in range(3) if axis != normal]
    grid = grid_of((normal, *others), (1, 1, 1))
    assert view_angle_deg(grid, view) == pytest.approx(0)
    for other in set(VIEWS) - {view}:
        assert view_angle_deg(grid, other) == pytest.approx(90)


def test_images_go_through_simpleitk_and_back_on_the_same_grid():
    grid = grid_of((0, 2, 1), (1, -1, 1))
    array = np.random.default_rng(0).normal(size=grid.shape_zyx).astype(np.float32)
    volume = volume_from_image(image_from_volume(array, grid), "test")
    assert same_grid(volume.grid, grid)
    assert np.array_equal(volume.array, array)
    assert isinstance(image_from_volume(array, grid), sitk.Image)
