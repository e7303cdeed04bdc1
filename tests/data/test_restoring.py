"""Slab by slab must be the same as the whole volume at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odiff.data.preprocessing import SeriesGeometry
from odiff.data.resampling import resample
from odiff.data.restoring import restore_all, restore_labels, restored_slabs
from odiff.data.sliding_window import importance, sliding_slabs, tiles
from odiff.geometry import Frame, Grid

VALUES = (0, 4, 9, 31)
sizes = st.tuples(st.integers(1, 14), st.integers(1, 14), st.integers(1, 14))


def geometry_of(shape_zyx, crop_zyx, *, is_mirrored=False):
    """A crop two voxels inside a file whose axes are stored in another order."""
    depth, rows, columns = (size + 4 for size in crop_zyx)
    grid = Grid((columns, depth, rows), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    crop = tuple((2, size + 2) for size in crop_zyx)
    return SeriesGeometry(grid, Frame((1, 2, 0), (False, True, False)), "coronal", crop, shape_zyx, is_mirrored)


def scores_of(shape_zyx, *, is_probability=True, seed=0):
    scores = torch.randn(len(VALUES), *shape_zyx, generator=torch.Generator().manual_seed(seed)) * 4
    return scores.softmax(dim=0) if is_probability else scores


def whole_at_once(scores, geometry):
    """Every class brought up by itself, then the largest: probabilities and label values on the file's grid."""
    shape = tuple(high - low for low, high in geometry.crop)
    maps = torch.cat([resample(score[None], shape) for score in scores]).numpy()
    full = np.zeros((len(scores), *(size + 4 for size in shape)), np.float32)
    full[0] = 1
    full[:, 2:-2, 2:-2, 2:-2] = maps
    full = full[..., ::-1] if geometry.is_mirrored else full
    stored = full[:, :, ::-1].transpose(0, 3, 1, 2)
    return stored, np.array(VALUES)[stored.argmax(axis=0)]


@given(sizes, sizes, st.integers(1, 5), st.booleans(), st.booleans())
@settings(max_examples=60)
def test_labels_restored_slab_by_slab_are_those_of_the_whole_volume(shape, crop, slab, is_mirrored, is_probability):
    geometry, scores = (
        geometry_of(shape, crop, is_mirrored=is_mirrored),
        scores_of(shape, is_probability=is_probability),
    )
    found = restore_labels(scores.split(slab, dim=1), VALUES, geometry)
    maps, wanted = whole_at_once(scores, geometry)
    top = np.sort(maps, axis=0)
    is_clear = top[-1] - top[-2] > 1e-5
    assert found.shape == geometry.grid.shape_zyx
    assert found.dtype == np.uint8
    assert np.array_equal(found[is_clear], wanted[is_clear])


@given(sizes, sizes, st.integers(1, 5))
@settings(max_examples=30)
def test_restored_probabilities_are_those_of_the_whole_volume(shape, crop, slab):
    geometry, scores = geometry_of(shape, crop), scores_of(shape)
    labels, maps = restore_all(scores.split(slab, dim=1), VALUES, geometry)
    assert np.allclose(maps, whole_at_once(scores, geometry)[0], atol=1e-3)
    assert np.array_equal(labels, restore_labels([scores], VALUES, geometry))


def test_memory_is_bounded_by_short_slabs(monkeypatch):
    monkeypatch.setattr("odiff.data.restoring.SLAB_BYTES", 4 * 4 * 8 * 8)
    geometry, scores = geometry_of((5, 6, 7), (23, 8, 8)), scores_of((5, 6, 7))
    slabs = [slab for slab, _ in restored_slabs([scores], geometry, is_pruned=False)]
    assert {slab.shape[1] for slab in slabs} == {1}
    assert torch.allclose(torch.cat(slabs, dim=1), resample(scores, (23, 8, 8)), atol=1e-6)


def test_classes_without_a_chance_are_left_out():
    scores = torch.zeros(4, 6, 5, 5)
    scores[0], scores[1, :3] = 0.6, 0.9
    kept = [
        classes.tolist()
        for _, classes in restored_slabs(scores.split(2, dim=1), geometry_of((6, 5, 5), (6, 5, 5)), True)
    ]
    assert kept == [[0, 1], [0, 1], [0]]


@pytest.mark.parametrize("kind", [(300, np.int16), (70_000, np.int32)])
def test_large_label_values_get_the_integers_they_need(kind):
    value, dtype = kind
    scores = torch.tensor([0.2, 0.8])[:, None, None, None].expand(2, 2, 3, 3)
    labels = restore_labels([scores], (0, value), geometry_of((2, 3, 3), (2, 3, 3)))
    assert labels.dtype == dtype
    assert labels.max() == value


@given(
    st.tuples(st.integers(1, 17), st.integers(1, 13), st.integers(1, 13)),
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    st.floats(0.3, 1.0),
)
@settings(max_examples=40)
def test_slabs_are_the_weighted_mean_of_all_tiles(shape, patch, step):
    volume = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))

    def predict(tile):
        place = torch.arange(tile[0].numel()).reshape(tile.shape) / tile[0].numel()
        return torch.cat([tile + place, tile * place], dim=1)

    def by_slices(tile):
        yield from predict(tile).split(1, dim=2)

    slabs = torch.cat([slab.clone() for slab in sliding_slabs(by_slices, volume, patch, step_size=step)], dim=1)
    full = [max(n, p) for n, p in zip(shape, patch, strict=True)]
    padded = torch.full((1, *full), -1.0)
    low = [(f - n) // 2 for f, n in zip(full, shape, strict=True)]
    inner = (slice(None), *(slice(start, start + n) for start, n in zip(low, shape, strict=True)))
    padded[inner] = volume
    total, weights = torch.zeros(2, *full), torch.zeros(full)
    for place in tiles(full, patch, step):
        total[(slice(None), *place)] += predict(padded[(slice(None), *place)][None])[0] * importance(patch)
        weights[place] += importance(patch)
    assert torch.allclose(slabs, (total / weights)[inner], atol=1e-5)
