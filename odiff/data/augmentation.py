"""Training augmentation: one affine map per sample, then batchgenerators' intensity changes."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from batchgenerators.augmentations.color_augmentations import (
    augment_brightness_additive,
    augment_contrast,
    augment_gamma,
)
from batchgenerators.augmentations.noise_augmentations import augment_gaussian_blur, augment_gaussian_noise
from scipy import ndimage

from odiff.plan import Augmentation

AIR = -1.0
IGNORE = -1


def augment(
    image: np.ndarray, mask: np.ndarray | None, settings: Augmentation, rng: np.random.Generator, *,
    mirror_axes: Sequence[int] = (), left_right: Sequence[tuple[int, int]] = (),
) -> tuple[np.ndarray, np.ndarray | None]:  # fmt: skip
    """Change an image (1, z, y, x) around -1..1, and its mask alike, as `rng` says.

    Rotation, scale and shift stay in plane: thick slices bear no interpolation across them. Pairs of `left_right`
    label values are swapped when the sample is mirrored.
    """
    for axis in mirror_axes:
        if rng.random() < 0.5:
            image = np.flip(image, axis + 1)
            mask = None if mask is None else swap_labels(np.flip(mask, axis + 1), left_right)
    image, mask = move(image, mask, settings, rng)
    image = change_intensities(np.array(image, np.float32), settings, rng)
    return image, None if mask is None else np.ascontiguousarray(mask)


def swap_labels(mask: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Exchange the two values of each pair."""
    swapped = mask.copy()
    for a, b in pairs:
        swapped[mask == a] = b
        swapped[mask == b] = a
    return swapped


def move(
    image: np.ndarray, mask: np.ndarray | None, settings: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rotate, scale and shift in plane; the mask by nearest neighbour, unknown where it comes from outside."""
    angle, scale = np.deg2rad(rng.uniform(-1, 1) * settings.rotation_deg), np.exp(rng.uniform(-1, 1) * settings.scale)
    shift = rng.uniform(-1, 1, 2) * settings.shift * np.asarray(image.shape[2:])
    if not (settings.rotation_deg or settings.scale or settings.shift):
        return image, mask
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    centre = (np.asarray(image.shape[2:]) - 1) / 2
    offset = centre - rotation @ (centre + shift)

    def turn(volume: np.ndarray, order: int, outside: float) -> np.ndarray:
        slices = [
            ndimage.affine_transform(plane, rotation, offset, order=order, mode="constant", cval=outside)
            for plane in volume[0]
        ]
        return np.stack(slices)[None]

    return turn(image, 1, AIR), None if mask is None else turn(mask, 0, IGNORE)


def change_intensities(image: np.ndarray, settings: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, gamma, blur and noise, each with the plan's probability."""
    chance = settings.probability
    with global_state(rng):
        if settings.brightness and np.random.random() < chance:
            image = augment_brightness_additive(image, 0.0, settings.brightness, per_channel=False)
        if settings.contrast and np.random.random() < chance:
            image = augment_contrast(image, (1 - settings.contrast, 1 + settings.contrast), per_channel=False)
        if settings.gamma and np.random.random() < chance:
            image = augment_gamma(image, (1 - settings.gamma, 1 + settings.gamma), retain_stats=True)
        if settings.blur_voxels and np.random.random() < chance:
            image = augment_gaussian_blur(image, (0.2, settings.blur_voxels), per_channel=False)
        if settings.noise and np.random.random() < chance:
            image = augment_gaussian_noise(image, (0, settings.noise), per_channel=False)
    return image.astype(np.float32, copy=False)


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
