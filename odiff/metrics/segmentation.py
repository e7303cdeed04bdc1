"""Overlap and surface distances per structure; absent structures are scored, not skipped."""

from collections.abc import Sequence

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice, get_bbox_from_mask
from scipy import ndimage


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """2 |P R| / (|P| + |R|) of two masks (z, y, x); 1 where both are empty."""
    sizes = int(prediction.sum()) + int(reference.sum())
    return 1.0 if sizes == 0 else 2.0 * int((prediction & reference).sum()) / sizes


def surface_distances(a: np.ndarray, b: np.ndarray, spacing_zyx_mm: Sequence[float]) -> np.ndarray:
    """Distance in mm from each surface voxel of `a` to the surface of `b`; both must hold voxels."""
    distance = ndimage.distance_transform_edt(~_surface(b), sampling=spacing_zyx_mm)
    return distance[_surface(a)]


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask, border_value=0)


def hausdorff95(prediction: np.ndarray, reference: np.ndarray, spacing_zyx_mm: Sequence[float]) -> float:
    """The larger 95th percentile of the two directed surface distances, mm.

    Both empty gives 0; one empty gives the diagonal of the volume, the largest distance there can be.
    """
    if not prediction.any() and not reference.any():
        return 0.0
    if not prediction.any() or not reference.any():
        return float(np.linalg.norm(np.asarray(reference.shape) * np.asarray(spacing_zyx_mm)))
    box = get_bbox_from_mask(prediction | reference)
    near = bounding_box_to_slice([[max(0, low - 1), high + 1] for low, high in box])
    there = surface_distances(prediction[near], reference[near], spacing_zyx_mm)
    back = surface_distances(reference[near], prediction[near], spacing_zyx_mm)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: dict[str, int],
    spacing_zyx_mm: Sequence[float],
    unknown: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Dice, HD95 (mm) and volume error (ml) of each foreground structure of a label map (z, y, x).

    Parameters
    ----------
    unknown : voxels that count nowhere.
    """
    voxel_ml = float(np.prod(spacing_zyx_mm)) / 1000
    known = np.ones(reference.shape, bool) if unknown is None else ~unknown
    scores = {}
    for name, value in labels.items():
        if name == "background":
            continue
        found, truth = (prediction == value) & known, (reference == value) & known
        scores[name] = {
            "dice": dice(found, truth),
            "hd95_mm": hausdorff95(found, truth, spacing_zyx_mm),
            "volume_error_ml": (int(found.sum()) - int(truth.sum())) * voxel_ml,
        }
    return scores


def mean_scores(cases: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean of each score over cases, per structure and, as ``mean``, over structures."""
    names = list(cases[0]) if cases else []
    means = {
        name: {score: float(np.mean([case[name][score] for case in cases])) for score in cases[0][name]}
        for name in names
    }
    if names:
        means["mean"] = {score: float(np.mean([means[name][score] for name in names])) for score in ("dice", "hd95_mm")}
    return means
