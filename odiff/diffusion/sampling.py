"""Generating volumes from noise with the deterministic sampler of Song et al. 2021 (DDIM, eta = 0)."""

import torch
from torch import Tensor

from odiff.diffusion.loss import Network
from odiff.diffusion.schedule import to_x0


@torch.no_grad()
def sample(network: Network, x_T: Tensor, alpha_bar: Tensor, prediction: str, steps: int, clip: float) -> Tensor:
    """Follow the probability flow from noise to a volume.

    Parameters
    ----------
    network : maps (x_t, t) to an output of the kind `prediction`.
    x_T : standard normal noise, (b, 1, z, y, x).
    alpha_bar : (time_steps,).
    steps : how many of the time steps to visit, evenly spaced, at least 1.
    clip : the denoised volume is held within -clip..clip at each step.
    """
    times = torch.linspace(len(alpha_bar) - 1, 0, steps).round().long()
    x_t = x_T
    for index, t in enumerate(times):
        now = alpha_bar[t].to(x_t.dtype).expand(len(x_t))
        output = network(x_t, t.expand(len(x_t)).to(x_t.device)).float()
        x0 = to_x0(prediction, output, x_t, now.to(x_t.device)).clamp(-clip, clip)
        if index + 1 == steps:
            return x0
        following = alpha_bar[times[index + 1]].to(x_t.dtype)
        noise = (x_t - now[0].sqrt() * x0) / (1 - now[0]).sqrt()
        x_t = following.sqrt() * x0 + (1 - following).sqrt() * noise
    return x_t
