"""Diffusion as pure functions in the papers' symbols."""

from odiff.diffusion.loss import Corruption, denoising_loss, draw_corruption
from odiff.diffusion.masking import block_mask
from odiff.diffusion.sampling import sample
from odiff.diffusion.schedule import ALPHA_BAR, add_noise, min_snr_weight, target, to_x0

__all__ = [
    "ALPHA_BAR",
    "Corruption",
    "add_noise",
    "block_mask",
    "denoising_loss",
    "draw_corruption",
    "min_snr_weight",
    "sample",
    "target",
    "to_x0",
]
