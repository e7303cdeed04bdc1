"""Volumes are bent back to what they were bent from, never folded, and stay where there is nothing to go by."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odiff.network import bending
from odiff.network.bending import (
    _between_points,
    _interpolation,
    _normal_equations,
    _places,
    _slopes,
    bends,
    bent,
    composed,
    control_points,
    displaced,
    normalised,
    spread,
)
from odiff.network.registration import Registration, centre_weight, displacements, moved, outlines

SHAPE = (14, 30, 34)
POINTS = control_points(SHAPE)


@pytest.fixture(scope="module")
def joint(blobs):
    """Blobs all over the middle."""
    return lambda seed=0, shape=SHAPE: blobs(seed, shape, 14, 0.6, (0.25, 0.4))


def some_bends(count, size, seed=0, points=POINTS):
    return size * (2 * torch.rand((count, 3, *points), generator=torch.Generator().manual_seed(seed)) - 1)


def test_without_displacement_nothing_changes_and_one_displacement_for_all_is_a_shift():
    volume = torch.rand((2, 1, *SHAPE), generator=torch.Generator().manual_seed(1))
    still = torch.zeros((2, 3, *POINTS))
    assert torch.allclose(bent(volume, still), volume, atol=1e-5)
    by = torch.tensor([1, -2, 3])
    everywhere = still + (2 * by / torch.tensor(SHAPE)).view(1, 3, 1, 1, 1)
    assert torch.allclose(bent(volume, everywhere), moved(volume, by.expand(2, 3)), atol=1e-4)


def test_slices_are_read_as_the_volume_is():
    volumes, by = torch.rand((3, 1, *SHAPE), generator=torch.Generator().manual_seed(1)), some_bends(3, 0.1)
    places = _places(spread(by, volumes.shape[2:]), volumes.shape[2:])
    at_once = torch.nn.functional.grid_sample(volumes, places, align_corners=False, padding_mode="border")
    assert torch.allclose(bent(volumes, by), at_once, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_two_displacements_make_one(axis):
    """A ramp is read exactly at any place, so what is read there tells the place."""
    shape = torch.Size(SHAPE)
    ramp = (
        torch.arange(SHAPE[axis], dtype=torch.float32)
        .view([-1 if one == axis else 1 for one in range(3)])
        .expand(1, 1, *shape)
    )
    first, second = (spread(some_bends(1, 0.1, seed), shape) for seed in (1, 2))
    in_turn, at_once = displaced(displaced(ramp, first), second), displaced(ramp, composed(first, second))
    inside = (..., *(slice(size // 5, -size // 5) for size in shape))
    assert torch.allclose(in_turn[inside], at_once[inside], atol=0.02)
    assert (in_turn - displaced(ramp, composed(second, first)))[inside].abs().max() > 0.03


def test_coarse_displacements_are_interpolated_as_torch_does():
    coarse = spread(some_bends(2, 0.1), torch.Size((7, 10, 17)))
    volumes = torch.rand((2, 1, *SHAPE), generator=torch.Generator().manual_seed(1))
    fine = torch.nn.functional.interpolate(coarse, SHAPE, mode="trilinear", align_corners=False)
    assert torch.allclose(displaced(volumes, coarse), displaced(volumes, fine), atol=1e-4)


def test_displacements_mean_the_same_place_at_every_resolution(joint):
    by = some_bends(1, 0.1)
    large = joint(shape=tuple(2 * size for size in SHAPE))
    small = torch.nn.functional.avg_pool3d(large, 2)
    moved = (small - bent(small, by)).abs().mean()
    assert (torch.nn.functional.avg_pool3d(bent(large, by), 2) - bent(small, by)).abs().mean() < 0.25 * moved


@pytest.mark.parametrize("seed", range(4))
def test_a_bent_volume_is_bent_back(seed, joint):
    volume, weight = joint(seed), centre_weight(SHAPE)
    there = bent(volume.expand(5, -1, -1, -1, -1), some_bends(5, 0.08, seed))
    back = bent(there, bends(there, volume[0, 0], weight))
    before, after = (((one - volume).square() * weight).sum(dim=(1, 2, 3, 4)) for one in (there, back))
    assert (after < 0.5 * before).all() and after.sum() < 0.3 * before.sum()


def test_brightness_and_contrast_do_not_matter(joint):
    volume, weight = joint(), centre_weight(SHAPE)
    there = bent(volume.expand(3, -1, -1, -1, -1), some_bends(3, 0.12))
    wanted = bends(there, volume[0, 0], weight)
    assert torch.allclose(bends(0.2 * there + 4, volume[0, 0], weight), wanted, atol=1e-3)


def test_what_two_points_share_is_the_product_of_their_shares_at_each_voxel():
    axes = _interpolation(torch.Size(SHAPE), torch.zeros((1, 3, *POINTS)))
    dense = torch.einsum("zi,yj,xk->zyxijk", *axes).flatten(3).flatten(0, 2)
    assert torch.allclose(dense.sum(dim=1), torch.ones(len(dense)))
    products = torch.rand((2, *SHAPE), generator=torch.Generator().manual_seed(2))
    expected = torch.stack([dense.T @ (one.flatten()[:, None] * dense) for one in products])
    assert torch.allclose(_between_points(products, axes), expected, rtol=1e-4)


def test_the_gradient_is_that_of_the_squared_differences(joint):
    shape = (40, 50, 60)
    volume, wanted, weight = joint(0, shape), joint(1, shape), centre_weight(shape)
    by = some_bends(1, 0.02, points=control_points(shape)).requires_grad_()
    seen = bent(volume, by)
    (0.5 * weight * (seen - wanted).square()).sum().backward()
    seen = seen.detach()
    found, curvature = _normal_equations(_slopes(seen[:, 0]), (seen - wanted)[:, 0], weight, by.detach())
    assert by.grad is not None
    assert (found - by.grad.flatten(1)).norm() < 0.1 * found.norm()
    assert torch.linalg.eigvalsh(curvature).min() > -1e-3 * curvature.abs().max()


def test_no_point_passes_another_however_soft_the_volume(monkeypatch, joint):
    monkeypatch.setattr(bending, "STIFFNESS", 1e-6)
    found = bends(torch.cat([joint(seed) for seed in range(6)]), joint(7)[0, 0], centre_weight(SHAPE))
    for axis, points in enumerate(POINTS):
        assert (found[:, axis].diff(dim=axis + 1) > -2 / (points - 1)).all()


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.integers(1, 20), st.integers(1, 40), st.integers(1, 40)), st.integers(0, 1000), st.booleans())
def test_volumes_of_any_shape_are_never_folded_nor_further_from_the_template_than_before(shape, seed, is_flat):
    generator = torch.Generator().manual_seed(seed)
    volumes, template = torch.randn((2, 1, *shape), generator=generator), torch.randn(shape, generator=generator)
    volumes[0] = 3.0 if is_flat else volumes[0]
    found = bends(volumes, template, centre_weight(shape))
    assert found.isfinite().all()
    if is_flat:
        assert not found[0].any()
    for axis, points in enumerate(control_points(shape)):
        assert points == 1 or (found[:, axis].diff(dim=axis + 1) > -2 / (points - 1)).all()
    weight = centre_weight(shape) / centre_weight(shape).sum()
    before, after = (
        ((normalised(one[:, 0], weight) - normalised(template[None], weight)).square() * weight).sum(dim=(1, 2, 3))
        for one in (volumes, bent(volumes, found))
    )
    assert (after <= before + 1e-5).all()


@pytest.mark.parametrize("contrast", [1, -0.7])
def test_a_bent_cohort_comes_closer_together_than_by_moving_it(contrast, joint):
    """Half of it may be of another sequence, which shows all in the opposite contrast."""
    volume = joint(3)
    by = torch.from_numpy(np.random.default_rng(1).integers(-2, 3, (12, 3)))
    cohort = moved(bent(volume.expand(12, -1, -1, -1, -1), some_bends(12, 0.12, 5)), by)
    cohort[::2] *= contrast
    registration = Registration(SHAPE)
    registration.fit(outlines(cohort))
    only_moved = moved(cohort, displacements(outlines(cohort), registration.template).round())
    spread = []
    for together in (only_moved, registration(cohort)):
        together[::2] /= contrast
        spread.append(together[:, 0, 3:-3, 7:-7, 7:-7].std(dim=0).mean())
    assert spread[1] < 0.7 * spread[0]


def test_half_precision_stays_and_autocast_changes_nothing(joint):
    registration = Registration(SHAPE)
    registration.fit(outlines(torch.cat([joint(0), joint(1)])))
    volume = joint(2)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = registration(volume)
    assert torch.equal(under_autocast, registration(volume))
    assert registration(volume.half()).dtype == torch.float16
