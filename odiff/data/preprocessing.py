"""One series to the network's grid, and predictions back to the grid of the file."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice

from odiff.data.body import Box, body_box, body_mask
from odiff.data.resampling import resample, resample_labels, resampled_shape
from odiff.geometry import Frame, Grid, Volume, canonical_frame, canonical_spacing, from_canonical, mirror, to_canonical
from odiff.plan import Normalisation, ViewPlan


@dataclass(frozen=True)
class SeriesGeometry:
    """What is needed to go from the network's grid back to the file's."""

    grid: Grid
    frame: Frame
    view: str
    crop: Box
    shape_zyx: tuple[int, int, int]
    is_mirrored: bool


@dataclass(frozen=True)
class PreparedVolume:
    """A series on the network's grid: `image` (z, y, x) float32 around -1..1, `mask` (z, y, x) int16 label values."""

    image: np.ndarray
    mask: np.ndarray | None
    geometry: SeriesGeometry


def prepare(volume: Volume, mask: np.ndarray | None, plan: ViewPlan, is_left: bool) -> PreparedVolume:
    """Bring a series to its view's canonical frame, crop to the body, resample and normalise.

    Parameters
    ----------
    volume : the series as stored, (z, y, x).
    mask : label values on the same grid, or None.
    is_left : mirror the volume so that a left joint looks like a right one.
    """
    view, frame = plan.view, canonical_frame(volume.grid, plan.view)
    image = to_canonical(volume.array, frame)
    image = mirror(image, view) if is_left else image
    body = body_mask(image)
    crop = body_box(body)
    box = bounding_box_to_slice(crop)
    normalised = normalise(image[box], body[box], plan.normalisation)
    shape_zyx = resampled_shape(normalised.shape, canonical_spacing(volume.grid, frame), plan.spacing_zyx_mm)
    geometry = SeriesGeometry(volume.grid, frame, view, crop, shape_zyx, is_left)
    resampled = resample(torch.from_numpy(np.ascontiguousarray(normalised))[None], shape_zyx)[0].numpy()
    return PreparedVolume(resampled, None if mask is None else prepare_mask(mask, geometry), geometry)


def prepare_mask(mask: np.ndarray, geometry: SeriesGeometry) -> np.ndarray:
    """Label values on the file's grid (z, y, x) to the network's grid, int16."""
    canonical = to_canonical(mask, geometry.frame)
    canonical = mirror(canonical, geometry.view) if geometry.is_mirrored else canonical
    return resample_labels(np.ascontiguousarray(canonical[bounding_box_to_slice(geometry.crop)]), geometry.shape_zyx)


def normalise(image: np.ndarray, body: np.ndarray, plan: Normalisation) -> np.ndarray:
    """Intensities (z, y, x) to about -1..1 by the statistics of the body; the scheme is a plan field."""
    return NORMALISE[plan.scheme](image, image[body], plan).astype(np.float32)


def _percentile(image: np.ndarray, inside: np.ndarray, plan: Normalisation) -> np.ndarray:
    low, high = np.percentile(inside, (plan.lower_percentile, plan.upper_percentile))
    scaled = (image - low) / max(float(high - low), 1e-6) * 2 - 1
    return np.clip(scaled, -plan.clip, plan.clip)


def _zscore(image: np.ndarray, inside: np.ndarray, plan: Normalisation) -> np.ndarray:
    low, high = np.percentile(inside, (plan.lower_percentile, plan.upper_percentile))
    kept = np.clip(inside, low, high)
    return np.clip((image - kept.mean()) / max(float(kept.std()), 1e-6) / 2, -plan.clip, plan.clip)


NORMALISE = {"percentile": _percentile, "zscore": _zscore}


def restore_labels(probabilities: torch.Tensor, values: Iterable[int], geometry: SeriesGeometry) -> np.ndarray:
    """The label of the largest probability on the file's own grid.

    Parameters
    ----------
    probabilities : (classes, z, y, x) on the network's grid; any scores that compare between classes will do.
    values : the label value of each class; the first is the background, which fills what was cropped away.

    Returns
    -------
    (z, y, x) of the file, int32. One class at a time is brought up, so that memory stays at two volumes.
    """
    shape = tuple(high - low for low, high in geometry.crop)
    best = np.full(shape, -np.inf, np.float32)
    labels = np.zeros(shape, np.int32)
    values = tuple(values)
    for score, value in zip(probabilities, values, strict=True):
        full = resample(score[None].float(), shape)[0].numpy()
        is_larger = full > best
        best[is_larger] = full[is_larger]
        labels[is_larger] = value
    return _uncrop(labels, geometry, values[0])


def restore_map(score: torch.Tensor, geometry: SeriesGeometry, outside: float) -> np.ndarray:
    """One map (z, y, x) on the network's grid to the file's grid, float32; `outside` fills what was cropped away."""
    shape = tuple(high - low for low, high in geometry.crop)
    return _uncrop(resample(score[None].float(), shape)[0].numpy(), geometry, outside)


def _uncrop(array: np.ndarray, geometry: SeriesGeometry, outside: float) -> np.ndarray:
    shape = tuple(geometry.grid.shape_zyx[axis] for axis in geometry.frame.axes)
    full = np.full(shape, outside, array.dtype)
    full[bounding_box_to_slice(geometry.crop)] = array
    full = mirror(full, geometry.view) if geometry.is_mirrored else full
    return np.ascontiguousarray(from_canonical(full, geometry.frame))
