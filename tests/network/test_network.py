"""The networks and their losses."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odiff.learning.segmentation_loss import cross_entropy, segmentation_loss, soft_dice_loss
from odiff.network.diagnosis import DiagnosisNetwork, FeatureChoice, unused_backbone
from odiff.network.fusion import ConcatFusion
from odiff.network.layers import depth_to_space, space_to_depth
from odiff.network.segmentation import SegmentationNetwork
from odiff.network.unet import UNet, block_channels, block_names, block_shapes
from odiff.plan import NetworkPlan

PLAN = NetworkPlan((1, 2, 2), (32, 64), ((1, 1, 1), (1, 2, 2)), ((1, 3, 3), (3, 3, 3)), 1, 32)
PATCH = (4, 16, 16)


@given(st.sampled_from([(1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 4, 4), (1, 2, 4)]))
@settings(max_examples=5, deadline=None)
def test_the_stem_rearranges_voxels_and_nothing_else(block):
    x = torch.randn(2, 3, 4, 8, 8)
    folded = space_to_depth(x, block)
    assert torch.equal(depth_to_space(folded, block), x)
    assert folded[0, 0, 1, 1, 1] == x[0, 0, block[0], block[1], block[2]]


def test_features_have_the_promised_names_and_channels():
    found = UNet(PLAN).features(torch.randn(1, 1, 4, 16, 16), torch.tensor([3]))
    assert tuple(found) == block_names(2)
    assert {name: block.shape[1] for name, block in found.items()} == block_channels(PLAN)
    assert {name: tuple(block.shape[2:]) for name, block in found.items()} == block_shapes(PLAN, PATCH)


def test_reading_an_early_block_computes_no_later_one():
    assert (
        tuple(UNet(PLAN).features(torch.randn(1, 1, 4, 16, 16), torch.tensor([3]), "encoder_1")) == block_names(2)[:2]
    )


def test_the_time_step_changes_the_answer_after_training_moved_it():
    network = UNet(PLAN)
    for module in network.modules():
        if hasattr(module, "film"):
            torch.nn.init.normal_(module.film.weight)
            torch.nn.init.normal_(module.conv.weight, std=0.1)
    x = torch.randn(1, 1, 4, 16, 16)
    assert not torch.allclose(network(x, torch.tensor([1])), network(x, torch.tensor([900])))


def test_segmentation_comes_at_full_resolution():
    assert SegmentationNetwork(PLAN, 5)(torch.randn(2, 1, 4, 16, 16), torch.zeros(2)).shape == (2, 5, 4, 16, 16)


def test_unused_parameters_are_exactly_those_without_gradient():
    network = DiagnosisNetwork(PLAN, PATCH, 3, FeatureChoice(10, ("encoder_1",)), 0.0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network(torch.randn(2, 1, 4, 16, 16), torch.tensor([0, 1]), 2).sum().backward()
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert without == {name for name, _ in network.named_parameters() if name.startswith(unused_backbone(network))}


def test_tiles_of_one_case_are_averaged():
    network = DiagnosisNetwork(PLAN, PATCH, 3, FeatureChoice(10, ("mid",)), 0.0).eval()
    tiles = torch.randn(3, 1, 4, 16, 16)
    joined = network.embed(tiles, torch.tensor([0, 0, 1]), 2)
    apart = network.embed(tiles, torch.tensor([0, 1, 2]), 3)
    assert torch.allclose(joined[0], (apart[0] + apart[1]) / 2, atol=1e-5)
    assert torch.allclose(joined[1], apart[2], atol=1e-5)


def test_fusion_starts_as_the_mean_of_the_views_that_a_case_has():
    torch.manual_seed(0)
    networks = {
        view: DiagnosisNetwork(PLAN, PATCH, 2, FeatureChoice(1, ("mid",)), 0.0) for view in ("sagittal", "axial")
    }
    width = networks["axial"].head.weight.shape[1]
    fusion = ConcatFusion(dict.fromkeys(networks, width), 2)
    fusion.start_from(networks)
    embedded = {view: torch.randn(2, 2, width) for view in networks}
    own = {view: networks[view].head.eval().classify(embedded[view]) for view in networks}
    found = fusion(embedded, torch.tensor([[True, True], [False, True]]))
    assert torch.allclose(found[0], (own["sagittal"][0] + own["axial"][0]) / 2, atol=1e-5)
    assert torch.allclose(found[1], own["axial"][1], atol=1e-5)


def test_a_missing_view_may_hold_anything():
    fusion = ConcatFusion({"a": 4, "b": 4}, 2)
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter)
    present = torch.tensor([[True, False]])
    kept = torch.randn(1, 2, 4)
    first = fusion({"a": kept, "b": torch.randn(1, 2, 4)}, present)
    assert torch.equal(first, fusion({"a": kept, "b": torch.full((1, 2, 4), 1e3)}, present))


def test_dice_of_a_perfect_answer_is_nearly_no_loss_and_unknown_voxels_are_free():
    classes = torch.randint(0, 3, (1, 4, 8, 8))
    logits = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1) * 50.0
    assert soft_dice_loss(logits, classes) < 0.01
    wrong = logits.clone()
    wrong[:, :, 0] = -wrong[:, :, 0]
    hidden = classes.clone()
    hidden[:, 0] = -1
    assert segmentation_loss(wrong, hidden, 1, 1) < 0.02


def test_nothing_known_gives_no_loss_and_no_nan():
    logits = torch.randn(1, 3, 2, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 2, 4, 4), -1), 1, 1)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_rare_classes_weigh_by_the_root_of_their_share():
    """Two classes of n and m voxels, all equally wrong: the weighted mean is that of weights sqrt(n) and sqrt(m)."""
    classes = torch.zeros(1, 1, 10, 10, dtype=torch.long)
    classes[0, 0, 0, :4] = 1
    logits = torch.zeros(1, 2, 1, 10, 10)
    logits[:, 1] = 1.0
    loss0, loss1 = torch.log1p(torch.exp(torch.tensor(1.0))), torch.log1p(torch.exp(torch.tensor(-1.0)))
    expected = (96**0.5 * loss0 + 4**0.5 * loss1) / (96**0.5 + 4**0.5)
    assert torch.allclose(cross_entropy(logits, classes), expected)
