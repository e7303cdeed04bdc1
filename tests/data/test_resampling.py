"""Fast ways agree with the plain ones: opening, percentiles, interpolation and the shares of labels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn import functional as F

from odiff.data.body import opened_in_plane
from odiff.data.labels import label_counts
from odiff.data.percentiles import percentiles
from odiff.data.resampling import resample, resample_labels

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 14), st.integers(1, 14))
# torch 2.14 interpolates a single channel to a width of 1 wrongly (every row becomes the first), so no oracle there.
TARGETS = st.tuples(st.integers(1, 9), st.integers(1, 14), st.integers(2, 14))
ROUNDING = 1e-5


def shares(labels, value, shape):
    """The soft map of one label over the whole volume, both directions by torch."""
    inside = torch.from_numpy((labels == value).astype(np.float32))[None]
    if inside.shape[2:] != shape[1:]:
        inside = F.interpolate(inside, size=shape[1:], mode="bilinear", antialias=True)
    along = F.interpolate(inside.permute(0, 2, 3, 1).reshape(1, -1, inside.shape[1]), size=shape[0], mode="linear")
    return along.reshape(*shape[1:], shape[0]).permute(2, 0, 1).numpy()


@given(SHAPES, st.floats(0.3, 0.97), st.integers(0, 99))
@settings(max_examples=60)
def test_opening_in_plane_is_scipys(shape, share, seed):
    mask = np.random.default_rng(seed).random(shape) < share
    assert np.array_equal(opened_in_plane(mask), ndimage.binary_opening(mask, structure=np.ones((1, 3, 3), bool)))


@given(st.integers(1, 500), st.lists(st.floats(0, 100), min_size=1, max_size=7), st.integers(0, 99))
@settings(max_examples=60)
def test_percentiles_are_numpys(size, wanted, seed):
    values = np.random.default_rng(seed).choice([0.0, 1.5, -3.0, 200.0, 7.25], size).astype(np.float32)
    before = values.copy()
    assert percentiles(values, sorted(wanted)) == pytest.approx(
        np.percentile(values.astype(float), sorted(wanted)), abs=1e-4
    )
    assert np.array_equal(values, before)


@given(SHAPES, TARGETS, st.integers(0, 99))
@settings(max_examples=60)
def test_a_voxel_takes_the_label_with_the_largest_share(shape, target, seed):
    """The oracle works out every label over the whole volume; where the largest shares differ by rounding, any may win."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.choice([-1, 0, 3, 26], shape), np.ones((1, 2, 2), np.int16)).astype(np.int16)
    values = np.unique(labels)
    maps = np.stack([shares(labels, value, target) for value in values])
    ordered = np.sort(maps, axis=0)
    is_clear = np.ones(target, bool) if len(values) == 1 else ordered[-1] - ordered[-2] > ROUNDING
    found = resample_labels(labels, target)
    assert found.dtype == np.int16
    assert np.array_equal(found[is_clear], values[maps.argmax(axis=0)][is_clear])
    assert set(np.unique(found)) <= set(values.tolist())


@given(SHAPES, TARGETS, st.integers(0, 99))
@settings(max_examples=60)
def test_slices_are_interpolated_as_torch_does(shape, target, seed):
    volume = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    in_plane = F.interpolate(volume, size=target[1:], mode="bilinear", antialias=True)
    expected = F.interpolate(in_plane.double()[:, None], size=target, mode="trilinear")[:, 0]
    assert torch.allclose(resample(volume, target).double(), expected, atol=ROUNDING)


def test_a_label_thinner_than_the_new_slices_may_vanish_without_harm():
    labels = np.zeros((9, 6, 6), np.int16)
    labels[1] = 4
    assert set(np.unique(resample_labels(labels, (2, 6, 6)))) <= {0, 4}


@pytest.mark.parametrize("values", [[0, 3, 26], [-1, 0, 7], [5], [-(2**31), 0, 2**31 - 1]])
def test_labels_are_counted(values):
    labels = np.random.default_rng(0).choice(np.array(values, np.int32), (4, 5, 6))
    wanted = np.unique(labels, return_counts=True)
    assert list(label_counts(labels).items()) == list(zip(wanted[0].tolist(), wanted[1].tolist(), strict=True))
