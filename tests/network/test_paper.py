"""The paper's network computes what its released one does: names, shapes, schedule and activations (tests/network/reference)."""

import copy

import numpy as np
import pytest
import torch

from odiff.diffusion import ALPHA_BAR
from odiff.network.paper import PaperUNet
from odiff.training.precision import exact_float32, place


@pytest.fixture(scope="module")
def network(official_weights):
    made = PaperUNet()
    made.load_state_dict(official_weights, strict=True)
    return made


def test_names_and_shapes_are_those_of_the_released_weights(official_weights):
    own = {name: tensor.shape for name, tensor in PaperUNet().state_dict().items()}
    assert own == {name: tensor.shape for name, tensor in official_weights.items()}


def test_the_cosine_schedule_is_the_released_one(official):
    found = ALPHA_BAR["cosine"](1000).sqrt()
    for t, value in official["sqrt_alphas_cumprod"].items():
        assert float(found[int(t)]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"))],
)
def test_every_activation_is_the_reference_within_a_thousandth(
    network, official_input, official_activations, is_official, device
):
    made, x_t, t = copy.deepcopy(network).to(device), official_input.to(device), torch.tensor([100], device=device)
    with torch.no_grad(), exact_float32():
        found = made.features(x_t, t) | {"final": made(x_t, t)}
    found = {name: activation.cpu() for name, activation in found.items()}
    assert set(found) == set(official_activations.files) - {"x_t"}
    assert np.allclose(official_input.flatten()[:4096], official_activations["x_t"], atol=1e-5)
    assert all(is_official(name, activation) for name, activation in found.items())


def test_features_stop_at_the_block_that_is_asked_for(network, official_input):
    assert list(network.features(official_input[..., :16, :16], torch.tensor([100]), "mid_0"))[-1] == "mid_0"


def test_gradients_flow_to_every_weight():
    made = place(PaperUNet(), torch.device("cpu"))
    made(torch.randn(1, 1, 16, 16, 16), torch.tensor([5])).square().mean().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
