"""What is known of a released network of the paper (tests/network/reference), and joints made of blobs."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

REFERENCE = Path(__file__).parent / "reference"
PREFIX = "denoise_fn."


def known_weight(name, shape):
    """The formula that the reference gives for the weights its activations were computed with."""
    index = np.arange(int(np.prod(shape)), dtype=np.float64)
    wave = np.sin(0.7 * index + zlib.crc32((PREFIX + name).encode()) % 1000)
    if len(shape) >= 2:
        values = wave * np.sqrt(3 / np.prod(shape[1:]))
    else:
        values = 0.1 * wave + (1 if name.endswith("weight") else 0)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


@pytest.fixture(scope="session")
def official():
    """Names, shapes, schedule values and strides of the activations."""
    return json.loads((REFERENCE / "official_checkpoint.json").read_text())


@pytest.fixture(scope="session")
def official_activations():
    """Activations by block."""
    return np.load(REFERENCE / "official_activations.npz")


@pytest.fixture(scope="session")
def official_weights(official):
    """The weights that the activations were computed with, by name in the network."""
    names = {name.removeprefix(PREFIX): shape for name, shape in official["keys"].items() if name.startswith(PREFIX)}
    return {name: known_weight(name, shape) for name, shape in names.items()}


@pytest.fixture(scope="session")
def official_input(official):
    """x_t (1, 1, 16, 64, 64) at t = 100."""
    index = np.arange(16 * 64 * 64, dtype=np.float64)
    signal = official["sqrt_alphas_cumprod"]["100"]
    x_t = signal * np.sin(0.013 * index) + np.sqrt(1 - signal**2) * np.cos(0.37 * index + 0.5)
    return torch.from_numpy(x_t.astype(np.float32).reshape(1, 1, 16, 64, 64))


@pytest.fixture(scope="session")
def is_official(official, official_activations):
    """Whether an activation is the reference's within a thousandth, by L2 norm."""

    def check(name, activation):
        got = activation.contiguous().flatten()[:: official["strides"][name]][:4096].numpy()
        wanted = official_activations[name]
        return np.linalg.norm(got - wanted) < 1e-3 * np.linalg.norm(wanted)

    return check


@pytest.fixture(scope="session")
def blobs():
    """A function that makes a volume (1, 1, z, y, x) of smooth blobs of different brightness on a dark ground."""

    def make(seed, shape, count, reach, widths):
        rng = np.random.default_rng(seed)
        axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
        volume = np.full(shape, -1.0)
        for _ in range(count):
            centre, width = rng.uniform(-reach, reach, 3), rng.uniform(*widths)
            distance = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
            volume += rng.uniform(0.5, 1.5) * np.exp(-distance / width**2)
        return torch.from_numpy(volume).float()[None, None]

    return make
