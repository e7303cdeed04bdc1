"""Random changes of intensities: brightness and contrast by batchgenerators, the costly ones as few passes of torch."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from batchgenerators.augmentations.color_augmentations import augment_brightness_additive, augment_contrast
from torch import Tensor

from odiff.plan import Augmentation

LEAST_BLUR_VOXELS = 0.2


def change_intensities(image: Tensor, settings: Augmentation, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, gamma, blur and noise, each with the plan's probability; (1, z, y, x), maybe in place."""
    chance = settings.probability
    if settings.brightness and rng.random() < chance:
        with global_state(rng):
            augment_brightness_additive(image.numpy(), 0.0, settings.brightness, per_channel=False)
    if settings.contrast and rng.random() < chance:
        with global_state(rng):
            augment_contrast(image.numpy(), (1 - settings.contrast, 1 + settings.contrast), per_channel=False)
    if settings.gamma and rng.random() < chance:
        image = change_gamma(image, draw_gamma(settings.gamma, rng))
    if settings.blur_voxels and rng.random() < chance:
        image = blur(image[0], rng.uniform(LEAST_BLUR_VOXELS, settings.blur_voxels))[None]
    if settings.noise and rng.random() < chance:
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        image = image.add_(torch.empty_like(image).normal_(0, rng.uniform(0, settings.noise), generator=generator))
    return image


@contextmanager
def global_state(rng: np.random.Generator) -> Iterator[None]:
    """batchgenerators draws from the global states of numpy and `random`: seed both from `rng`, put both back after."""
    before, python_before = np.random.get_state(), random.getstate()
    seed = int(rng.integers(2**32))
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
        random.setstate(python_before)


def draw_gamma(reach: float, rng: np.random.Generator) -> float:
    """Below 1 as often as above, within 1 - reach and 1 + reach."""
    return float(rng.uniform(1 - reach, 1) if rng.random() < 0.5 else rng.uniform(1, 1 + reach))


def change_gamma(image: Tensor, gamma: float) -> Tensor:
    """Intensities between the extremes to the power of `gamma`, then mean and deviation as before; in place.

    The power is taken as exp(gamma log), half the time of `Tensor.pow`.
    """
    mean = image.mean()
    deviation = _root_mean_square(image - mean)
    lowest, highest = torch.aminmax(image)
    image.sub_(lowest).div_((highest - lowest).clamp(min=1e-7))
    image.clamp_(min=1e-20).log_().mul_(gamma).exp_()
    image.sub_(image.mean())
    return image.mul_(deviation / _root_mean_square(image).clamp(min=1e-7)).add_(mean)


def _root_mean_square(image: Tensor) -> Tensor:
    flat = image.flatten()
    return (flat.dot(flat) / len(flat)).sqrt()


def blur(volume: Tensor, sigma: float, truncate: float = 3.0) -> Tensor:
    """Gaussian along every axis of (z, y, x), `sigma` in voxels; mirrored beyond the borders as scipy's ``reflect``."""
    reach = int(truncate * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    half = (weights / weights.sum())[reach:].tolist()
    for axis in range(volume.ndim):
        volume = _blur_axis(volume, half, axis)
    return volume


def _blur_axis(volume: Tensor, half: list[float], axis: int) -> Tensor:
    """A symmetric kernel, given from its middle on, as shifted sums: faster than a convolution of one channel."""
    reach, size = len(half) - 1, volume.shape[axis]
    widths = [(reach, reach) if number == axis else (0, 0) for number in range(volume.ndim)]
    padded = torch.from_numpy(np.pad(volume.numpy(), widths, mode="symmetric"))
    blurred = volume * half[0]
    for shift, weight in enumerate(half[1:], 1):
        for start in (reach - shift, reach + shift):
            blurred.add_(padded.narrow(axis, start, size), alpha=weight)
    return blurred
