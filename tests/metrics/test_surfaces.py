"""Surface distances, thickness and volumes against closed forms, SimpleITK and brute force."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from odiff.metrics.segmentation import score_case, surface_scores
from odiff.metrics.thickness import mean_thickness


def surface_points(mask, spacing):
    """Voxels with a face neighbour outside, the volume's border being outside too, in mm."""
    padded = np.pad(mask, 1)
    inner = np.ones_like(mask)
    for axis in range(3):
        for step in (-1, 1):
            inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return np.argwhere(mask & ~inner) * np.asarray(spacing)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.3, 4), st.floats(0.3, 2))
def test_surface_scores_are_those_of_all_pairs_of_surface_voxels(seed, through_plane, in_plane):
    rng = np.random.default_rng(seed)
    spacing = (through_plane, in_plane, 1.0)
    a, b = rng.random((2, 5, 7, 6)) < rng.uniform(0.05, 0.9)
    a[2, 3, 3] = b[1, 2, 2] = True
    distances = cdist(surface_points(a, spacing), surface_points(b, spacing))
    there, back = distances.min(axis=1), distances.min(axis=0)
    hd95, assd = surface_scores(a, b, spacing)
    assert hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert assd == pytest.approx(np.concatenate([there, back]).mean())


def test_assd_agrees_with_simpleitk_distance_maps():
    grid = np.indices((14, 30, 32)) * np.array([2.0, 0.5, 0.7]).reshape(3, 1, 1, 1)
    centre = np.array([13.0, 7.0, 11.0]).reshape(3, 1, 1, 1)
    a = ((grid - centre) ** 2).sum(axis=0) < 36
    b = ((grid - centre - 1.1) ** 2).sum(axis=0) < 25
    images, distances = [], []
    for mask in (a, b):
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing((0.7, 0.5, 2.0))
        images.append(sitk.LabelContour(image, fullyConnected=False))
        away = sitk.SignedMaurerDistanceMap(images[-1], squaredDistance=False, useImageSpacing=True)
        distances.append(np.abs(sitk.GetArrayFromImage(away)))
    contours = [sitk.GetArrayFromImage(image) > 0 for image in images]
    expected = np.concatenate([distances[1][contours[0]], distances[0][contours[1]]]).mean()
    assert surface_scores(a, b, (2.0, 0.5, 0.7))[1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("voxels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("axis", [0, 2])
def test_a_slab_is_as_thick_as_its_voxels(voxels, axis):
    spacing = (3.0, 0.5, 0.4)
    mask = np.zeros((16, 16, 16), bool)
    mask[(slice(None),) * axis + (slice(4, 4 + voxels),)] = True
    assert mean_thickness(mask, spacing) == pytest.approx(voxels * spacing[axis])


@pytest.mark.parametrize("normal", [(0, 1, 1), (0, 1, 2), (0, 1, 4)])
@pytest.mark.parametrize("thickness", [1.5, 2.0, 3.0])
def test_an_oblique_slab_is_measured_within_ten_percent(normal, thickness):
    """Of its volume over its area, which is what digitisation left of the thickness."""
    spacing, shape = 0.5, (40, 80, 80)
    grid = (np.indices(shape) - (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2) * spacing
    unit = np.array(normal) / np.linalg.norm(normal)
    mask = np.abs(np.tensordot(unit, grid, axes=1) + 0.01) < thickness / 2
    expected = mask[:, 20:60].sum(axis=2).mean() * spacing * unit[2]
    assert mean_thickness(mask, (spacing,) * 3) == pytest.approx(expected, rel=0.1)


def test_a_curved_plate_with_a_rim_is_measured_within_ten_percent():
    """As cartilage on a condyle: a shell of 20 mm radius on slices of 3 mm."""
    spacing = (3.0, 0.5, 0.5)
    grid = (np.indices((12, 100, 100)) - np.array([5.5, 49.5, 49.5]).reshape(3, 1, 1, 1)) * np.reshape(
        spacing, (3, 1, 1, 1)
    )
    radius = np.hypot(grid[1], grid[2])
    for thickness in (1.5, 2.0, 2.5, 3.0):
        mask = (np.abs(radius - 20) < thickness / 2) & (grid[1] > 0)
        assert mean_thickness(mask, spacing) == pytest.approx(thickness, rel=0.1)


def test_thickness_of_nothing_is_zero_and_of_a_whole_volume_is_finite():
    assert mean_thickness(np.zeros((4, 4, 4), bool), (1, 1, 1)) == 0
    assert 0 < mean_thickness(np.ones((4, 4, 4), bool), (1, 1, 1)) < 4


def test_volumes_and_thickness_are_scored_where_a_structure_is_absent():
    truth, found = np.zeros((10, 20, 20), int), np.zeros((10, 20, 20), int)
    truth[:, 5:9, :], found[:, 5:9, :10] = 1, 1
    truth[:, 12:15, :] = 2
    spacing = (2.0, 0.5, 0.5)
    labels = {"background": 0, "femoral_cartilage": 1, "bone": 2}
    scores = score_case(found, truth, labels, spacing, cartilage=("femoral_cartilage",))
    cartilage, bone = scores["femoral_cartilage"], scores["bone"]
    assert cartilage["volume_error_ml"] == pytest.approx(-10 * 4 * 10 * 0.5 / 1000)
    assert cartilage["reference_thickness_mm"] == pytest.approx(2.0)
    assert "thickness_mm" not in bone
    assert (bone["dice"], bone["volume_ml"]) == (0, 0)
    assert bone["assd_mm"] == bone["hd95_mm"] == pytest.approx(np.linalg.norm([20, 10, 10]))
    empty = score_case(np.zeros_like(truth), truth, labels, spacing, cartilage=("femoral_cartilage",))
    assert empty["femoral_cartilage"]["thickness_error_mm"] == pytest.approx(-2.0)
