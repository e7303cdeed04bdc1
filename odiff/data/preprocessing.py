"""One series to the network's grid, and predictions back to the grid of the file."""

from dataclasses import dataclass

import numpy as np
import torch

from odiff.data.body import Box, body_box, body_mask
from odiff.data.paper_grid import PAPER_FRAME, paper_image
from odiff.data.percentiles import percentiles
from odiff.data.resampling import resample, resample_labels, resampled_shape
from odiff.geometry import Frame, Grid, Volume, canonical_frame, canonical_spacing, mirror, to_canonical
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

    A plan with the grid ``paper`` takes `paper_image` in place of all that.
    """
    if plan.grid == "paper":
        return _prepare_as_paper(volume, mask, plan)
    view, frame = plan.view, canonical_frame(volume.grid, plan.view)
    image = to_canonical(volume.array, frame)
    image = mirror(image, view) if is_left else image
    body = body_mask(image)
    crop = body_box(body)
    box = slices_of(crop)
    normalised = normalise(image[box], body[box], plan.normalisation)
    shape_zyx = resampled_shape(normalised.shape, canonical_spacing(volume.grid, frame), plan.spacing_zyx_mm)
    geometry = SeriesGeometry(volume.grid, frame, view, crop, shape_zyx, is_left)
    resampled = resample(torch.from_numpy(normalised)[None], shape_zyx)[0].numpy()
    return PreparedVolume(resampled, None if mask is None else prepare_mask(mask, geometry), geometry)


def _prepare_as_paper(volume: Volume, mask: np.ndarray | None, plan: ViewPlan) -> PreparedVolume:
    image, crop = paper_image(volume, plan.patch_zyx)
    geometry = SeriesGeometry(volume.grid, PAPER_FRAME, plan.view, crop, plan.patch_zyx, is_mirrored=False)
    return PreparedVolume(image, None if mask is None else prepare_mask(mask, geometry), geometry)


def prepare_mask(mask: np.ndarray, geometry: SeriesGeometry) -> np.ndarray:
    """Label values on the file's grid (z, y, x) to the network's grid, int16."""
    canonical = to_canonical(mask, geometry.frame)
    canonical = mirror(canonical, geometry.view) if geometry.is_mirrored else canonical
    return resample_labels(np.ascontiguousarray(canonical[slices_of(geometry.crop)]), geometry.shape_zyx)


def slices_of(box: Box) -> tuple[slice, slice, slice]:
    """The slices of a half-open box."""
    depth, rows, columns = (slice(low, high) for low, high in box)
    return depth, rows, columns


def normalise(image: np.ndarray, body: np.ndarray, plan: Normalisation) -> np.ndarray:
    """Intensities (z, y, x) to about -1..1 by the statistics of the body; the scheme is a plan field."""
    centre, half_range = NORMALISE[plan.scheme](image[body].astype(np.float32, copy=False), plan)
    result = np.subtract(image, np.float32(centre), order="C", dtype=np.float32)
    np.divide(result, np.float32(half_range), out=result)
    return np.clip(result, -plan.clip, plan.clip, out=result)


def _percentile(inside: np.ndarray, plan: Normalisation) -> tuple[float, float]:
    """The intensities that become 0, and their distance from the one that becomes 1."""
    low, high = _range(inside, plan)
    return (low + high) / 2, max(high - low, 1e-6) / 2


def _zscore(inside: np.ndarray, plan: Normalisation) -> tuple[float, float]:
    kept = np.clip(inside, *_range(inside, plan))
    return float(kept.mean()), max(float(kept.std()), 1e-6) * 2


def _range(inside: np.ndarray, plan: Normalisation) -> tuple[float, float]:
    low, high = percentiles(inside, (plan.lower_percentile, plan.upper_percentile))
    return float(low), float(high)


def _minmax(inside: np.ndarray, plan: Normalisation) -> tuple[float, float]:
    low, high = float(inside.min()), float(inside.max())
    return (low + high) / 2, max(high - low, 1e-6) / 2


NORMALISE = {"percentile": _percentile, "zscore": _zscore, "minmax": _minmax}
