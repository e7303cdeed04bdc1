"""Segmenting a patch and a volume."""

import numpy as np
import pytest
import torch

from odiff.data.preprocessing import SeriesGeometry
from odiff.geometry import Frame, Grid
from odiff.learning.segment import (
    build_segmentation,
    fitted_tile,
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
