"""Recorded passes train as those that are not; without a GPU nothing is recorded."""

import copy

import pytest
import torch

from odiff.network.diagnosis import DiagnosisNetwork, FeatureChoice
from odiff.network.segmentation import SegmentationNetwork
from odiff.network.unet import UNet
from odiff.plan import NetworkPlan
from odiff.training.graphs import record, record_diagnosis
from odiff.training.loop import LoopSettings, start_state, update
from odiff.training.precision import fix_precision

PLAN = NetworkPlan((1, 2, 2), (32, 64), ((1, 1, 1), (1, 2, 2)), ((1, 3, 3), (3, 3, 3)), 1, 32)
SHAPE, STEPS = (2, 1, 4, 16, 16), 4
NETWORKS = {"diffusion": lambda: UNet(PLAN), "segmentation": lambda: SegmentationNetwork(PLAN, 3, "decoder")}


def trained(network, device, is_recorded):
    settings = LoopSettings(STEPS, 1, 1.0, 0.0, 0.9, STEPS, STEPS, device, 0, 0)
    made = copy.deepcopy(network)
    state = start_state(made, {"all": list(made.parameters())}, settings)
    if is_recorded:
        assert record(state.network, SHAPE, device, settings.accumulate)
    batches = iter([torch.randn(SHAPE, generator=torch.Generator().manual_seed(n)) for n in range(STEPS)])

    def loss(network, batch, number):
        return (network(batch, torch.full((len(batch),), number, device=device)).float() - 0.5).square().mean()

    losses = [update(state, settings, batches, loss, lambda step: {"all": 1e-3}) for _ in range(STEPS)]
    return torch.tensor(losses), torch.cat([one.detach().cpu().flatten() for one in state.network.parameters()])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_recorded_network_trains_as_it_would_unrecorded(name):
    torch.manual_seed(0)
    network, device = NETWORKS[name](), torch.device("cuda")
    start = torch.cat([one.detach().flatten() for one in network.parameters()])
    try:
        fix_precision("float32", device)
        losses, weights = trained(network, device, is_recorded=False)
        again, same = trained(network, device, is_recorded=True)
    finally:
        fix_precision("auto", device)
    assert torch.allclose(losses, again, rtol=1e-4)
    assert (same - weights).norm() < 0.05 * (weights - start).norm()


def test_only_what_a_gpu_trains_pass_by_pass_is_recorded():
    network = UNet(PLAN)
    assert not record(network, SHAPE, torch.device("cpu"), 1)
    assert not record(network, SHAPE, torch.device("cuda"), 2)
    assert not record(torch.nn.Conv3d(1, 1, 1), SHAPE, torch.device("cuda"), 1)
    assert "forward" not in vars(network)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_recorded_diagnosis_has_the_gradients_of_one_that_is_not():
    torch.manual_seed(0)
    device, owner = torch.device("cuda"), torch.tensor([0, 1], device="cuda")
    network = DiagnosisNetwork(PLAN, SHAPE[2:], 3, FeatureChoice(10, ("mid",)), 0.0).to(device)
    twin, found = copy.deepcopy(network), []
    try:
        fix_precision("float32", device)
        assert record_diagnosis(twin, SHAPE, device)
        for number in range(2):
            x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(number)).to(device)
            for one in (network, twin):
                one.zero_grad(set_to_none=True)
                one(x, owner, 2).square().sum().backward()
                found.append(torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None]))
    finally:
        fix_precision("auto", device)
    assert torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-4)
    assert torch.allclose(found[2], found[3], rtol=1e-3, atol=1e-4)


def test_diagnosis_is_not_recorded_on_a_cpu():
    network = DiagnosisNetwork(PLAN, SHAPE[2:], 3, FeatureChoice(10, ("mid",)), 0.0)
    assert not record_diagnosis(network, SHAPE, torch.device("cpu")) and network.recorded is None
