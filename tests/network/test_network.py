"""The networks and their losses."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odiff.learning.segmentation_loss import cross_entropy, segmentation_loss, soft_dice_loss
from odiff.network.backbone import block_names, block_shapes, blocks_of, build_backbone
from odiff.network.diagnosis import DiagnosisNetwork, FeatureChoice, unused_backbone
from odiff.network.fusion import FUSIONS, GatedFusion, build_fusion
from odiff.network.layers import depth_to_space, space_to_depth
from odiff.network.paper import PAPER
from odiff.network.segmentation import SegmentationNetwork
from odiff.network.unet import UNet
from odiff.plan import NetworkPlan

PLAN = NetworkPlan((1, 2, 2), (32, 64), ((1, 1, 1), (1, 2, 2)), ((1, 3, 3), (3, 3, 3)), 1, 32)
PATCH = (4, 16, 16)
SMALL_PAPER = replace(
    PAPER, channels=(32, 64, 64), strides_zyx=PAPER.strides_zyx[:3], kernels_zyx=PAPER.kernels_zyx[:3]
)
EITHER = pytest.mark.parametrize("plan", [PLAN, SMALL_PAPER], ids=["unet", "paper"])


@given(st.sampled_from([(1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 4, 4), (1, 2, 4)]))
@settings(max_examples=5)
def test_the_stem_rearranges_voxels_and_nothing_else(block):
    x = torch.randn(2, 3, 4, 8, 8)
    folded = space_to_depth(x, block)
    assert torch.equal(depth_to_space(folded, block), x)
    assert folded[0, 0, 1, 1, 1] == x[0, 0, block[0], block[1], block[2]]


@EITHER
def test_features_have_the_promised_names_and_channels(plan):
    found = build_backbone(plan).features(torch.randn(1, 1, 4, 16, 16), torch.tensor([3]))
    assert tuple(found) == block_names(plan)
    assert {name: h.shape[1] for name, h in found.items()} == {n: b.channels for n, b in blocks_of(plan).items()}
    assert {name: tuple(h.shape[2:]) for name, h in found.items()} == block_shapes(plan, PATCH)


@EITHER
def test_reading_an_early_block_computes_no_later_one(plan):
    second = block_names(plan)[1]
    found = build_backbone(plan).features(torch.randn(1, 1, 4, 16, 16), torch.tensor([3]), second)
    assert tuple(found) == block_names(plan)[:2]


def test_the_time_step_changes_the_answer_after_training_moved_it():
    network = UNet(PLAN)
    for module in network.modules():
        if hasattr(module, "film"):
            torch.nn.init.normal_(module.film.weight)
            torch.nn.init.normal_(module.conv.weight, std=0.1)
    x = torch.randn(1, 1, 4, 16, 16)
    assert not torch.allclose(network(x, torch.tensor([1])), network(x, torch.tensor([900])))


@EITHER
@pytest.mark.parametrize("head", ["decoder", "transposed"])
def test_segmentation_comes_at_full_resolution(plan, head):
    network, x, t = SegmentationNetwork(plan, 5, head).eval(), torch.randn(2, 1, 4, 16, 16), torch.zeros(2)
    with torch.no_grad():
        logits, slabs = network(x, t), list(network.slabs(x, t))
    assert logits.shape == (2, 5, 4, 16, 16)
    assert torch.allclose(torch.cat(slabs, dim=2), logits, atol=1e-4)


def test_many_tiles_are_taken_in_turn_with_the_same_gradients_and_less_kept():
    torch.manual_seed(0)
    x, owner = torch.randn(6, 1, *PATCH), torch.tensor([0, 0, 0, 1, 1, 1])
    found = []
    for at_once in (6, 2):
        torch.manual_seed(1)
        network = DiagnosisNetwork(PLAN, PATCH, 3, FeatureChoice(10, ("mid",)), 0.0, tiles_at_once=at_once)
        kept: list[int] = []

        def keep(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = network(x, owner, 2)
        values = sum(kept)
        logits.square().sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
        found.append((logits, gradients, values))
    (together, wanted, most), (in_turn, gradients, fewer) = found
    assert fewer < most / 2
    assert torch.allclose(in_turn, together, atol=1e-5)
    assert torch.allclose(gradients, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("plan", "block"), [(PLAN, "encoder_1"), (SMALL_PAPER, "mid_1"), (SMALL_PAPER, "out_1")])
def test_unused_parameters_are_exactly_those_without_gradient(plan, block):
    network = DiagnosisNetwork(plan, PATCH, 3, FeatureChoice(10, (block,)), 0.0)
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


FUSION = pytest.mark.parametrize("variant", sorted(FUSIONS))


@FUSION
def test_fusion_starts_as_the_mean_of_the_views_that_a_case_has(variant):
    networks = {
        view: DiagnosisNetwork(PLAN, PATCH, 2, FeatureChoice(1, ("mid",)), 0.0) for view in ("sagittal", "axial")
    }
    heads = {view: network.head for view, network in networks.items()}
    fusion = build_fusion(variant, heads, 2)
    fusion.heads.start_from(heads)
    embedded = {view: torch.randn(2, *one.head.weight.shape) for view, one in networks.items()}
    own = {view: networks[view].head.classify(embedded[view]) for view in networks}
    found = fusion(embedded, torch.tensor([[True, True], [False, True]]))
    assert torch.allclose(found[0], (own["sagittal"][0] + own["axial"][0]) / 2, atol=1e-5)
    assert torch.allclose(found[1], own["axial"][1], atol=1e-5)


@FUSION
def test_a_missing_view_is_never_read(variant):
    fusion = FUSIONS[variant]({"a": 4, "b": 4}, 2)
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter)
    kept, present = torch.randn(1, 2, 4), torch.tensor([[True, False]])
    first = fusion({"a": kept, "b": torch.randn(1, 2, 4)}, present)
    assert torch.isfinite(first).all()
    assert torch.equal(first, fusion({"a": kept, "b": torch.full((1, 2, 4), 1e3)}, present))


@FUSION
def test_every_weight_of_a_fusion_learns_once_it_has_moved(variant):
    fusion = FUSIONS[variant]({"a": 4, "b": 4}, 2)
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter)
    embedded = {"a": torch.randn(3, 2, 4), "b": torch.randn(3, 2, 4)}
    fusion(embedded, torch.ones(3, 2, dtype=torch.bool)).square().sum().backward()
    assert all(one.grad is not None and one.grad.abs().max() > 0 for one in fusion.parameters())


def test_a_gate_learns_which_view_to_trust_and_weighs_only_views_that_are_there():
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(400, 1, generator=generator) > 0.5).float()
    good = (truth * 2 - 1) + 0.5 * torch.randn(400, 1, generator=generator)
    logits = torch.stack([torch.randn(400, 1, generator=generator), good], dim=2)
    gate, present = GatedFusion({"a": 4, "b": 4}, 1), torch.ones(400, 2, dtype=torch.bool)
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(gate.mix(logits, present), truth).backward()
        optimiser.step()
    weights = gate.gates(logits, present)
    assert weights[:, 0, 1].mean() > 0.8
    assert torch.allclose(weights.sum(dim=2), torch.ones(400, 1))
    present[:, 1] = False
    assert torch.equal(gate.gates(logits, present)[:, 0], torch.tensor([[1.0, 0.0]]).expand(400, 2))


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


def test_a_recorded_part_takes_over_for_its_shape_while_training():
    torch.manual_seed(0)
    network, owner = DiagnosisNetwork(PLAN, PATCH, 3, FeatureChoice(10, ("mid",)), 0.0), torch.tensor([0, 1, 1])
    x, calls, names = torch.randn(3, 1, *PATCH), [], list(network.state_dict())
    plain = network(x, owner, 2)
    part = network.tile_embedding()
    part.register_forward_hook(lambda *_: calls.append(1))
    network.recorded = part, x.shape
    assert torch.allclose(network(x, owner, 2), plain, atol=1e-5) and len(calls) == 1
    network(x[:2], owner[:2], 2)
    with torch.no_grad():
        network(x, owner, 2)
    network.eval()(x, owner, 2)
    assert len(calls) == 1 and list(network.state_dict()) == names
