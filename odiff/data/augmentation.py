"""Training augmentation of one sample: mirror, one affine map in plane, then intensities (`odiff.data.intensities`)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from odiff.data.intensities import change_intensities
from odiff.data.warp import sample_image, sample_labels, source_yx
from odiff.plan import Augmentation


def augment(
    image: np.ndarray, mask: np.ndarray | None, settings: Augmentation, rng: np.random.Generator, *,
    mirror_axes: Sequence[int] = (), left_right: Sequence[tuple[int, int]] = (),
) -> tuple[np.ndarray, np.ndarray | None]:  # fmt: skip
    """Change an image (1, z, y, x) around -1..1, and its mask alike, as `rng` says; the image comes back in float32.

    Rotation, scale and shift stay in plane: thick slices bear no interpolation across them. Pairs of `left_right`
    label values are swapped when the sample is mirrored.
    """
    for axis in mirror_axes:
        if rng.random() < 0.5:
            image = np.flip(image, axis + 1)
            mask = None if mask is None else swap_labels(np.flip(mask, axis + 1), left_right)
    changed = torch.from_numpy(np.ascontiguousarray(image)).to(torch.float32, copy=True)
    changed, mask = move(changed, mask, settings, rng)
    changed = change_intensities(changed, settings, rng)
    return changed.numpy(), None if mask is None else np.ascontiguousarray(mask)


def swap_labels(mask: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Exchange the two values of each pair."""
    swapped = mask.copy()
    for a, b in pairs:
        swapped[mask == a] = b
        swapped[mask == b] = a
    return swapped


def move(
    image: Tensor, mask: np.ndarray | None, settings: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, np.ndarray | None]:
    """Rotate, scale and shift in plane."""
    angle, scale = np.deg2rad(rng.uniform(-1, 1) * settings.rotation_deg), np.exp(rng.uniform(-1, 1) * settings.scale)
    shift = rng.uniform(-1, 1, 2) * settings.shift * np.asarray(image.shape[2:])
    if not (settings.rotation_deg or settings.scale or settings.shift):
        return image, mask
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    source = source_yx(image.shape[2:], rotation, shift)
    return sample_image(image, source), None if mask is None else sample_labels(mask, source)
