"""The paper's network computes what its released one does: names, shapes, schedule and activations (tests/network/reference)."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from odiff.diffusion import ALPHA_BAR
from odiff.network.paper import PaperUNet
from odiff.training.precision import place

REFERENCE = Path(__file__).parent / "reference"
OFFICIAL = json.loads((REFERENCE / "official_checkpoint.json").read_text())
PREFIX = "denoise_fn."
WEIGHTS = {name.removeprefix(PREFIX): shape for name, shape in OFFICIAL["keys"].items() if name.startswith(PREFIX)}


def known_weight(name, shape):
    """The formula that the reference gives for the weights its activations were computed with."""
    index = np.arange(int(np.prod(shape)), dtype=np.float64)
    wave = np.sin(0.7 * index + zlib.crc32((PREFIX + name).encode()) % 1000)
    if len(shape) >= 2:
        values = wave * np.sqrt(3 / np.prod(shape[1:]))
    else:
        values = 0.1 * wave + (1 if name.endswith("weight") else 0)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


@pytest.fixture(scope="module")
def network():
    made = PaperUNet()
    made.load_state_dict({name: known_weight(name, shape) for name, shape in WEIGHTS.items()}, strict=True)
    return made


@pytest.fixture(scope="module")
def noisy():
    index = np.arange(16 * 64 * 64, dtype=np.float64)
    signal = OFFICIAL["sqrt_alphas_cumprod"]["100"]
    x_t = signal * np.sin(0.013 * index) + np.sqrt(1 - signal**2) * np.cos(0.37 * index + 0.5)
    return torch.from_numpy(x_t.astype(np.float32).reshape(1, 1, 16, 64, 64))


def test_names_and_shapes_are_those_of_the_released_weights():
    assert {name: list(tensor.shape) for name, tensor in PaperUNet().state_dict().items()} == WEIGHTS


def test_the_cosine_schedule_is_the_released_one():
    found = ALPHA_BAR["cosine"](1000).sqrt()
    for t, value in OFFICIAL["sqrt_alphas_cumprod"].items():
        assert float(found[int(t)]) == pytest.approx(value, rel=1e-5)


def test_every_activation_is_the_reference_within_a_thousandth(network, noisy):
    wanted = np.load(REFERENCE / "official_activations.npz")
    with torch.no_grad():
        found = network.features(noisy, torch.tensor([100]))
        found["final"] = network(noisy, torch.tensor([100]))
    assert set(found) == set(wanted.files) - {"x_t"}
    assert np.allclose(noisy.flatten()[:4096], wanted["x_t"], atol=1e-5)
    for name, activation in found.items():
        got = activation.contiguous().flatten()[:: OFFICIAL["strides"][name]][:4096].numpy()
        assert np.linalg.norm(got - wanted[name]) < 1e-3 * np.linalg.norm(wanted[name]), name


def test_features_stop_at_the_block_that_is_asked_for(network, noisy):
    assert list(network.features(noisy[..., :16, :16], torch.tensor([100]), "mid_0"))[-1] == "mid_0"


def test_gradients_flow_to_every_weight():
    made = place(PaperUNet(), torch.device("cpu"))
    made(torch.randn(1, 1, 16, 16, 16), torch.tensor([5])).square().mean().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
