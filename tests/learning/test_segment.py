"""Segmenting a patch and a volume."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from odiff.data.preprocessing import SeriesGeometry
from odiff.geometry import Frame, Grid
from odiff.learning.segment import (
    build_segmentation,
    fitted_tile,
    labels_and_probabilities_on_grid,
    labels_on_grid,
    patch_probabilities,
    probability_slabs,
    values_on_grid,
)
from odiff.network import segmentation
from odiff.plan import read_plan

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plan(planned):
    return read_plan(planned / "preprocessed" / "Dataset001_Knee" / "plans.json")


def network_of(plan, seed):
    torch.manual_seed(seed)
    network = build_segmentation(plan, "axial").eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


@pytest.mark.parametrize("slab_voxels", [1, 10**9])
def test_the_head_slab_by_slab_is_the_network_itself(plan, monkeypatch, in_float32, slab_voxels):
    monkeypatch.setattr(segmentation, "SLAB_VOXELS", slab_voxels)
    network, patch = network_of(plan, 0), torch.randn(2, 1, *plan.views["axial"].patch_zyx)
    with torch.inference_mode():
        found = torch.cat(list(patch_probabilities(network, patch, 3)), dim=2)
        wanted = network(patch, torch.full((2,), 3)).softmax(dim=1)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_volume_a_little_longer_than_the_patch_is_one_tile(plan):
    view = plan.views["axial"]
    divisor = np.prod([view.network.stem_zyx, *view.network.strides_zyx], axis=0)
    a_little, far = [n + 1 for n in view.patch_zyx], [2 * n for n in view.patch_zyx]
    grown = fitted_tile(a_little, view)
    assert all(n <= g < n + d and g % d == 0 for g, n, d in zip(grown, a_little, divisor, strict=True))
    assert tuple(fitted_tile(far, view)) == tuple(fitted_tile([1, 1, 1], view)) == view.patch_zyx


def test_networks_are_averaged(plan):
    networks = [network_of(plan, seed) for seed in (1, 2)]
    image = np.random.default_rng(0).uniform(-1, 1, [n + 3 for n in plan.views["axial"].patch_zyx]).astype(np.float32)

    def whole(networks):
        return torch.cat([s.clone() for s in probability_slabs(networks, image, plan, "axial", CPU, 1.0)], dim=1)

    both = whole(networks)
    assert tuple(both.shape[1:]) == image.shape
    assert torch.allclose(both, (whole(networks[:1]) + whole(networks[1:])) / 2, atol=1e-5)


def test_sided_labels_change_sides_where_the_joint_was_mirrored(plan):
    sided = plan.__class__(
        **{**plan.__dict__, "labels": {"background": 0, "a": 3, "b": 5, "c": 7}, "left_right": ((3, 7),)}
    )
    grid = Grid((2, 3, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    values = {
        is_mirrored: values_on_grid(
            SeriesGeometry(
                grid, Frame((0, 1, 2), (False,) * 3), "axial", ((0, 2), (0, 3), (0, 4)), (2, 3, 4), is_mirrored
            ),
            sided,
        )
        for is_mirrored in (False, True)
    }
    assert values == {False: (0, 3, 5, 7), True: (0, 7, 5, 3)}


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_saved_probabilities_are_of_the_structures_in_the_file(plan, is_mirrored):
    sided = replace(plan, labels={"background": 0, "a": 3, "b": 5, "c": 7}, left_right=((3, 7),))
    grid = Grid((2, 3, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    frame, crop = Frame((0, 1, 2), (False,) * 3), ((0, 2), (0, 3), (0, 4))
    geometry = SeriesGeometry(grid, frame, "axial", crop, (2, 3, 4), is_mirrored)
    scores = torch.from_numpy(np.random.default_rng(0).uniform(size=(4, 2, 3, 4)).astype(np.float32))
    labels, maps = labels_and_probabilities_on_grid(scores.split(1, dim=1), geometry, sided)
    assert np.array_equal(labels, np.array([0, 3, 5, 7])[maps.argmax(axis=0)])
    assert np.array_equal(labels, labels_on_grid(scores.split(1, dim=1), geometry, sided))


def test_mirroring_at_test_time_leaves_paired_structures_on_their_side(plan, monkeypatch):
    view = replace(plan.views["axial"], mirror_axes=(2,))
    labels = {"background": 0, "left": 1, "right": 2}
    sided = replace(plan, views={"axial": view}, labels=labels, left_right=((1, 2),))
    middle = view.patch_zyx[2] // 2

    def perfect(network, patch, step):  # who sees symmetrical anatomy tells the sides by the place alone
        shares = torch.zeros((1, 3, *patch.shape[2:]))
        shares[:, 1, ..., middle:] = 1
        shares[:, 2, ..., :middle] = 1
        return iter([shares])

    monkeypatch.setattr("odiff.learning.segment.patch_probabilities", perfect)
    found = torch.cat(list(probability_slabs([None], np.zeros(view.patch_zyx), sided, "axial", CPU)), dim=1)
    assert torch.equal(found, next(perfect(None, torch.zeros((1, 1, *view.patch_zyx)), 0))[0])
