"""The forward process q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I) (Ho et al. 2020, eq. 4)."""

import math

import torch
from torch import Tensor


def cosine_alpha_bar(time_steps: int, s: float = 0.008) -> Tensor:
    """abar_t = f(t)/f(0), f(t) = cos^2((t/T + s)/(1 + s) pi/2), betas clipped at 0.999 (Nichol & Dhariwal 2021, eq. 17).

    Returns
    -------
    Tensor of shape (time_steps,), float64, entry t after t + 1 noising steps.
    """
    t = torch.linspace(0, time_steps, time_steps + 1, dtype=torch.float64) / time_steps
    f = torch.cos((t + s) / (1 + s) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - beta, dim=0)


def linear_alpha_bar(time_steps: int) -> Tensor:
    """betas from 1e-4 to 0.02 over 1000 steps, scaled to `time_steps` (Ho et al. 2020, section 4)."""
    scale = 1000 / time_steps
    beta = torch.linspace(1e-4 * scale, min(0.02 * scale, 0.999), time_steps, dtype=torch.float64)
    return torch.cumprod(1 - beta, dim=0)


ALPHA_BAR = {"cosine": cosine_alpha_bar, "linear": linear_alpha_bar}


def broadcast(values: Tensor, like: Tensor) -> Tensor:
    """One value per sample, shape (b,), made to multiply `like`, shape (b, ...)."""
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def add_noise(x0: Tensor, noise: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (Ho et al. 2020, eq. 4)."""
    return broadcast(alpha_bar_t.sqrt(), x0) * x0 + broadcast((1 - alpha_bar_t).sqrt(), x0) * noise


def target(prediction: str, x0: Tensor, noise: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """What the network is asked for: `x0`, `epsilon`, or v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans & Ho 2022)."""
    if prediction == "x0":
        return x0
    if prediction == "epsilon":
        return noise
    return broadcast(alpha_bar_t.sqrt(), x0) * noise - broadcast((1 - alpha_bar_t).sqrt(), x0) * x0


def to_x0(prediction: str, output: Tensor, x_t: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """The denoised volume that a network output of the given kind stands for; the inverse of `target`."""
    if prediction == "x0":
        return output
    signal, sigma = broadcast(alpha_bar_t.sqrt(), x_t), broadcast((1 - alpha_bar_t).sqrt(), x_t)
    if prediction == "epsilon":
        return (x_t - sigma * output) / signal
    return signal * x_t - sigma * output


def min_snr_weight(prediction: str, alpha_bar_t: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) for x0, /SNR for epsilon, /(SNR + 1) for v (Hang et al. 2023, section 3.4); scaled to 1 at most."""
    snr = alpha_bar_t / (1 - alpha_bar_t)
    weight = snr.clamp(max=gamma) / gamma
    return weight / {"x0": torch.ones_like(snr), "epsilon": snr / gamma, "v": (snr + 1) / (gamma + 1)}[prediction]
