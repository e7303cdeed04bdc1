"""What the networks see when they are read for features: volumes under a little fixed noise."""

from functools import lru_cache

import torch
from torch import Tensor

from odiff.diffusion import ALPHA_BAR, add_noise
from odiff.plan import DiffusionPlan

NOISE_SEED = 20


def feature_noise(shape: torch.Size, device: torch.device) -> Tensor:
    """The noise that features are read under; always the same, on every device, so that a prediction is reproducible."""
    return _one_noise(tuple(shape[1:]), device).expand(shape)


@lru_cache(maxsize=8)
def _one_noise(shape: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else it could not be used outside of one
        return torch.randn((1, *shape), generator=torch.Generator().manual_seed(NOISE_SEED)).to(device)


def step_noise(shape: torch.Size, seed: int, number: int, device: torch.device) -> Tensor:
    """The noise of batch `number` in training, from the seed alone; a GPU draws another than a CPU."""
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + number)
    return torch.randn(shape, generator=generator, device=device)


def noised(tiles: Tensor, time_step: int, diffusion: DiffusionPlan, noise: Tensor | None = None) -> Tensor:
    """Tiles (n, 1, z, y, x) at a time step, under the fixed noise by default."""
    alpha_bar = ALPHA_BAR[diffusion.schedule](diffusion.time_steps)[time_step].to(tiles)
    noise = feature_noise(tiles.shape, tiles.device) if noise is None else noise
    return add_noise(tiles, noise, alpha_bar.expand(len(tiles)))
