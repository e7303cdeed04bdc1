"""From a file to the network's grid and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odiff.data.augmentation import augment, swap_labels
from odiff.data.batches import class_indices
from odiff.data.preprocessing import prepare
from odiff.data.resampling import resample, resample_labels
from odiff.data.restoring import restore_labels
from odiff.data.sliding_window import sliding_window, split_tiles, tiles
from odiff.experiment_planning.presets import read_preset
from odiff.geometry import Grid, Volume
from odiff.learning.segmentation import no_augmentation
from odiff.plan import Augmentation, DiffusionPlan, NetworkPlan, ViewPlan

STRONG = Augmentation(1.0, 15, 0.15, 0.05, 0.2, 0.25, 0.3, 0.05, 0.7)


def view_plan(spacing, view="sagittal"):
    network = NetworkPlan((1, 1, 1), (32,), ((1, 1, 1),), ((3, 3, 3),), 1, 32)
    diffusion = DiffusionPlan(10, "cosine", "x0", "uniform", 5.0, 0.0, (1, 1, 1), (1,), ("mid",))
    return ViewPlan(view, spacing, (8, 16, 16), read_preset("default").normalisation, network, diffusion, (), 1, 1, 1.0)


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 20), st.integers(1, 20)),
    st.tuples(st.integers(1, 8), st.integers(1, 9), st.integers(1, 9)),
    st.floats(0.2, 1.0),
)
@settings(max_examples=40)
def test_a_sliding_identity_gives_the_volume_back(shape, patch, step):
    volume = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    found = sliding_window(lambda x: torch.cat([x, -x], dim=1).split(2, dim=2), volume, patch, step_size=step)
    assert torch.allclose(found, torch.cat([volume, -volume]), atol=1e-5)


def test_tiles_are_at_most_a_step_apart_and_flush_with_the_end():
    places = tiles((10, 33, 50), (10, 16, 20), 0.5)
    columns = sorted({place[2].start for place in places})
    assert columns[0] == 0
    assert columns[-1] == 30
    assert max(np.diff(columns)) <= 10


def test_mirroring_at_test_time_is_exact_for_a_symmetric_predictor():
    volume = torch.randn(1, 4, 6, 8)
    found = sliding_window(lambda x: (x**2).split(3, dim=2), volume, (4, 6, 8), mirror_axes=(0, 2))
    assert torch.allclose(found, volume**2, atol=1e-6)


def test_augmentation_repeats_itself_and_leaves_global_randomness_alone():
    image = np.random.default_rng(0).uniform(-1, 1, (1, 6, 20, 20)).astype(np.float32)
    mask = (image > 0).astype(np.int16) * 7
    kept, before = image.copy(), np.random.get_state()[1].copy()
    first = augment(image, mask, STRONG, np.random.default_rng(3))
    second = augment(image, mask, STRONG, np.random.default_rng(3))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert np.array_equal(before, np.random.get_state()[1])
    assert np.array_equal(image, kept)
    assert set(np.unique(first[1])) <= {-1, 0, 7}


def test_no_augmentation_is_the_identity():
    image = np.random.default_rng(0).uniform(-1, 1, (1, 6, 20, 20)).astype(np.float32)
    assert np.array_equal(augment(image, None, no_augmentation(), np.random.default_rng(0))[0], image)


def test_sides_swap_their_labels():
    assert swap_labels(np.array([1, 2, 3]), [(1, 2)]).tolist() == [2, 1, 3]


def test_resampling_keeps_a_linear_ramp():
    ramp = torch.linspace(0, 1, 40)[None, :, None, None].expand(1, 40, 6, 6).contiguous()
    found = resample(ramp, (20, 6, 6))[0, :, 0, 0]
    assert torch.allclose(found, ramp[0, :, 0, 0].reshape(20, 2).mean(dim=1), atol=1e-6)


def test_resampled_labels_are_labels():
    labels = np.random.default_rng(0).choice([0, 3, 26], (5, 12, 12))
    assert set(np.unique(resample_labels(labels, (7, 30, 9)))) <= {0, 3, 26}


@pytest.mark.parametrize("is_left", [False, True])
@pytest.mark.parametrize("view", ["sagittal", "coronal", "axial"])
def test_a_mask_goes_to_the_network_and_back_on_its_own_grid(view, is_left):
    """At the file's own spacing nothing is lost, whatever the storage order."""
    direction = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    grid = Grid((9, 14, 12), (1.0, 1.0, 1.0), (3.0, -5.0, 8.0), direction)
    rng = np.random.default_rng(0)
    image = rng.uniform(5, 10, grid.shape_zyx).astype(np.float32)
    mask = rng.choice([0, 4, 9], grid.shape_zyx)
    prepared = prepare(Volume(image, grid), mask, view_plan((1.0, 1.0, 1.0), view), is_left)
    scores = torch.from_numpy(np.stack([prepared.mask == value for value in (0, 4, 9)]).astype(np.float32))
    assert np.array_equal(restore_labels([scores], (0, 4, 9), prepared.geometry), mask)


def test_intensities_become_minus_one_to_one_whatever_the_scanner_says():
    grid = Grid((6, 20, 20), (4.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    image = np.linspace(10, 200, 2400, dtype=np.float32).reshape(grid.shape_zyx)
    a = prepare(Volume(image, grid), None, view_plan((4.0, 1.0, 1.0)), False).image
    b = prepare(Volume(image * 17, grid), None, view_plan((4.0, 1.0, 1.0)), False).image
    assert np.allclose(a, b, atol=1e-4)
    assert -1.5 <= a.min() <= -1.0
    assert 0.95 < a.max() < 1.1


def test_labels_of_any_number_become_class_indices_and_back():
    indices = class_indices(np.array([0, 13, 26, -1, 5]), (0, 13, 26))
    assert indices.tolist() == [0, 1, 2, -1, -1]


def test_tiles_of_a_whole_view_have_the_patch_size_and_cover_it():
    image = np.zeros((40, 16, 18), np.float32)
    parts = split_tiles(image, (16, 16, 16))
    assert {part.shape for part in parts} == {(1, 16, 16, 16)}
    assert len(parts) == 3
