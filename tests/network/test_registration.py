"""Volumes are moved onto the template by how far they were moved away from it."""

import numpy as np
import pytest
import torch

from odiff.network.diagnosis import DiagnosisNetwork, FeatureChoice
from odiff.network.registration import (
    Registration,
    centre_weight,
    correlations,
    displacements,
    moved,
    outlines,
    shrinkage,
    together,
)
from odiff.plan.schema import NetworkPlan

SHAPE = (12, 40, 48)


@pytest.fixture(scope="module")
def joint(blobs):
    """A few blobs around the centre."""
    return lambda seed=0, shape=SHAPE: blobs(seed, shape, 5, 0.4, (0.15, 0.3))


def test_displacements_are_those_that_were_made(joint):
    volume = joint()
    by = torch.tensor([[0, 0, 0], [2, -5, 3], [-1, 6, -8], [1, 3, 0]])
    found = displacements(moved(volume.expand(4, -1, -1, -1, -1), -by), volume[0, 0])
    assert torch.equal(found.round().long(), by)


def test_correlations_are_those_of_a_loop_over_displacements():
    rng = np.random.default_rng(5)
    volume, template = rng.random((5, 9, 8)), rng.random((5, 9, 8))
    found = correlations(torch.from_numpy(volume).float()[None, None], torch.from_numpy(template).float())[0].numpy()
    reach, weight = [size // 2 for size in found.shape], centre_weight(template.shape).numpy()
    assert reach == [1, 2, 2]
    for place in np.ndindex(found.shape):
        by = [at - r for at, r in zip(place, reach, strict=True)]
        here = tuple(slice(max(0, -b), min(n, n - b)) for b, n in zip(by, volume.shape, strict=True))
        there = tuple(slice(one.start + b, one.stop + b) for b, one in zip(by, here, strict=True))
        covariance = np.cov(volume[there].ravel(), template[here].ravel(), aweights=weight[here].ravel())
        expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
        assert found[place] == pytest.approx(expected, abs=1e-4)


def test_a_fraction_of_a_voxel_is_found_between_voxels(joint):
    volume = joint()
    by = torch.tensor([[0.4, -2.3, 1.6]])
    found = displacements(moved(volume, -by), volume[0, 0])
    assert torch.allclose(found, by, atol=0.15)


def test_brightness_and_contrast_do_not_matter(joint):
    volume = joint()
    by = torch.tensor([[1, 4, -6]])
    changed = 0.3 * moved(volume, -by) + 2.0
    assert torch.equal(displacements(changed, volume[0, 0]).round().long(), by)


def test_moving_by_whole_voxels_is_numpy_s_edge_padding():
    volume = torch.rand((1, 1, 4, 5, 6))
    by = (1, -2, 3)
    padded = np.pad(volume[0, 0].numpy(), [(3, 3)] * 3, mode="edge")
    expected = padded[3 + by[0] : 7 + by[0], 3 + by[1] : 8 + by[1], 3 + by[2] : 9 + by[2]]
    assert np.allclose(moved(volume, torch.tensor([by], dtype=torch.float32))[0, 0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("contrast", [1, -0.7])
@pytest.mark.parametrize("shape", [SHAPE, (16, 130, 200)])
def test_a_cohort_out_of_place_comes_together(shape, contrast, joint):
    """Half of it may be of another sequence, which shows all in the opposite contrast."""
    rng = np.random.default_rng(1)
    reach = [size // 6 for size in shape]
    by = torch.from_numpy(np.stack([rng.integers(-r, r + 1, 12) for r in reach], axis=1))
    volume = joint(3, shape)
    cohort = torch.cat([moved(volume + 0.02 * torch.randn(volume.shape), one[None]) for one in by])
    cohort[::2] *= contrast
    registration = Registration(shape)
    registration.fit(outlines(cohort))
    together = registration(cohort)
    cohort[::2] /= contrast
    together[::2] /= contrast
    inner = tuple(slice(size // 4, size - size // 4) for size in shape)
    before, after = (volumes[(slice(None), 0, *inner)].std(dim=0).mean() for volumes in (cohort, together))
    assert after < 0.35 * before


def test_without_a_template_volumes_stay(joint):
    volume = joint()
    assert torch.equal(Registration(SHAPE)(volume), volume)
    assert Registration(SHAPE)(volume[:0]).shape == (0, 1, *SHAPE)


def test_axes_shrink_to_about_32_cells():
    assert shrinkage((16, 256, 320)) == (1, 8, 10)
    assert shrinkage((28, 63, 64)) == (1, 1, 2)


def test_only_tiles_that_are_a_whole_case_are_moved(joint):
    plan = NetworkPlan((1, 2, 2), (8, 16), ((1, 1, 1), (1, 2, 2)), ((3, 3, 3), (3, 3, 3)), 1, 16)
    network = DiagnosisNetwork(plan, SHAPE, 2, FeatureChoice(10, ("mid",)), 0.0, True)
    assert network.registration is not None
    volume = joint()
    network.registration.fit(outlines(volume))
    tiles = torch.cat([moved(volume, torch.tensor([[1, -6, 4]]))] * 3)
    placed = network.placed(tiles, torch.tensor([0, 1, 1]))
    assert torch.equal(placed[1:], tiles[1:])
    before, after = ((one - volume[0])[:, 2:-2, 6:-6, 6:-6].abs().max() for one in (tiles[0], placed[0]))
    assert after < 0.05 * before
    unmoved = DiagnosisNetwork(plan, SHAPE, 2, FeatureChoice(10, ("mid",)), 0.0)
    assert torch.equal(unmoved.placed(tiles, torch.tensor([0, 1, 2])), tiles)


def test_volumes_that_are_placed_together_are_placed_as_each_alone(joint):
    """Of templates of one shape at several resolutions, of another shape, of no template, and without registration."""
    pairs = []
    for seed, shape in enumerate([(12, 32, 40), (12, 64, 80), (12, 40, 48), (12, 32, 40)]):
        registration = Registration(shape)
        if seed < 3:
            registration.fit(outlines(joint(seed, shape)))
        volume = moved(joint(seed, shape), torch.tensor([[1, -3, 2]]))
        pairs.append((registration, torch.cat([volume, volume.flip(4)]) if seed == 1 else volume))
    found = together([*pairs, (None, pairs[0][1])])
    for (registration, volumes), one in zip(pairs, found, strict=False):
        assert torch.allclose(one, registration(volumes), atol=1e-2)  # a change of 1e-7 moves a voxel by up to .005
        assert torch.equal(one, volumes) != bool(registration.template.any())
    assert torch.equal(found[-1], pairs[0][1]) and together([]) == []
