"""The pretraining loss: draw first, then compute."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from odiff.diffusion.masking import block_mask
from odiff.diffusion.schedule import add_noise, broadcast, min_snr_weight, target, to_x0
from odiff.plan import DiffusionPlan

Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Corruption:
    """The random numbers of one pretraining step; `t` (b,), `noise` and `hidden` (b, 1, z, y, x)."""

    t: Tensor
    noise: Tensor
    hidden: Tensor


def draw_corruption(shape: torch.Size, diffusion: DiffusionPlan, generator: torch.Generator) -> Corruption:
    """Time steps, noise and hidden blocks for volumes of shape (b, 1, z, y, x), all from `generator`.

    They are drawn where the generator is: a GPU draws as much noise as it denoises, a CPU would keep it waiting.
    Half of the mask fraction is hidden on average: the fraction of each sample is uniform in [0, mask_fraction],
    so that the network meets whole volumes too, as it will in fine-tuning.
    """
    batch, device = shape[0], generator.device
    t = torch.randint(0, diffusion.time_steps, (batch,), generator=generator, device=device)
    noise = torch.randn(shape, generator=generator, device=device)
    fraction = torch.rand((batch,), generator=generator, device=device) * diffusion.mask_fraction
    hidden = block_mask(tuple(shape[2:]), diffusion.mask_block_zyx, fraction, generator)
    return Corruption(t, noise, hidden)


def denoising_loss(
    network: Network, x0: Tensor, corruption: Corruption, alpha_bar: Tensor, diffusion: DiffusionPlan
) -> tuple[Tensor, Tensor]:
    """Weighted squared error of the network's answer to a noised, masked volume.

    Parameters
    ----------
    network : maps (x_t, t) to an output of the kind `diffusion.prediction`.
    x0 : clean volumes, (b, 1, z, y, x).
    alpha_bar : (time_steps,), from `ALPHA_BAR[diffusion.schedule]`.

    Returns
    -------
    The loss, and the denoised volumes (b, 1, z, y, x) without gradient.
    """
    alpha_bar_t = alpha_bar[corruption.t].to(x0.dtype)
    x_t = add_noise(x0, corruption.noise, alpha_bar_t)
    visible = torch.where(corruption.hidden, torch.zeros_like(x_t), x_t)
    output = network(visible, corruption.t).float()
    error = (output - target(diffusion.prediction, x0, corruption.noise, alpha_bar_t)) ** 2
    weight = torch.ones_like(alpha_bar_t)
    if diffusion.loss_weighting == "min_snr":
        weight = min_snr_weight(diffusion.prediction, alpha_bar_t, diffusion.min_snr_gamma)
    denoised = to_x0(diffusion.prediction, output.detach(), x_t, alpha_bar_t)
    return (broadcast(weight, error) * error).mean(), denoised
