"""Overlap and surface distances per structure; absent structures are scored, not skipped."""

from collections.abc import Collection, Sequence

import numpy as np
from scipy import ndimage

from odiff.metrics.boxes import near_box
from odiff.metrics.thickness import mean_thickness

MEANS = ("dice", "hd95_mm", "assd_mm")


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """2 |P R| / (|P| + |R|) of two masks (z, y, x); 1 where both are empty."""
    sizes = int(prediction.sum()) + int(reference.sum())
    return 1.0 if sizes == 0 else 2.0 * int((prediction & reference).sum()) / sizes


def surface_distances(a: np.ndarray, b: np.ndarray, spacing_zyx_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm from each surface voxel of `a` to the surface of `b`, and back; both must hold voxels."""
    near = near_box(a | b)
    of_a, of_b = _surface(a[near]), _surface(b[near])
    there = ndimage.distance_transform_edt(~of_b, sampling=spacing_zyx_mm)[of_a]
    back = ndimage.distance_transform_edt(~of_a, sampling=spacing_zyx_mm)[of_b]
    return there, back


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask, border_value=0)


def surface_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing_zyx_mm: Sequence[float]
) -> tuple[float, float]:
    """HD95 and ASSD in mm of two masks (z, y, x).

    HD95 is the larger 95th percentile of the two directed surface distances, ASSD the mean over the surface voxels of both.
    Both masks empty gives 0; one empty gives the diagonal of the volume, the largest distance there can be.
    """
    if not prediction.any() and not reference.any():
        return 0.0, 0.0
    if not prediction.any() or not reference.any():
        diagonal = float(np.linalg.norm(np.asarray(reference.shape) * np.asarray(spacing_zyx_mm)))
        return diagonal, diagonal
    there, back = surface_distances(prediction, reference, spacing_zyx_mm)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(hd95), float((there.sum() + back.sum()) / (len(there) + len(back)))


def hausdorff95(prediction: np.ndarray, reference: np.ndarray, spacing_zyx_mm: Sequence[float]) -> float:
    """HD95 of `surface_scores`, mm."""
    return surface_scores(prediction, reference, spacing_zyx_mm)[0]


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: dict[str, int],
    spacing_zyx_mm: Sequence[float],
    unknown: np.ndarray | None = None,
    cartilage: Collection[str] = (),
) -> dict[str, dict[str, float]]:
    """Dice, HD95, ASSD (mm) and volumes (ml) of each foreground structure of a label map (z, y, x).

    Parameters
    ----------
    unknown : voxels that count nowhere.
    cartilage : labels whose thickness (mm) is measured too.
    """
    voxel_ml = float(np.prod(spacing_zyx_mm)) / 1000
    known = np.ones(reference.shape, bool) if unknown is None else ~unknown
    scores = {}
    for name, value in labels.items():
        if name == "background":
            continue
        found, truth = (prediction == value) & known, (reference == value) & known
        hd95, assd = surface_scores(found, truth, spacing_zyx_mm)
        volume, true_volume = int(found.sum()) * voxel_ml, int(truth.sum()) * voxel_ml
        scores[name] = {
            "dice": dice(found, truth),
            "hd95_mm": hd95,
            "assd_mm": assd,
            "volume_ml": volume,
            "reference_volume_ml": true_volume,
            "volume_error_ml": volume - true_volume,
        }
        if name in cartilage:
            thickness, true_thickness = (mean_thickness(mask, spacing_zyx_mm) for mask in (found, truth))
            scores[name] |= {
                "thickness_mm": thickness,
                "reference_thickness_mm": true_thickness,
                "thickness_error_mm": thickness - true_thickness,
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
        means["mean"] = {score: float(np.mean([means[name][score] for name in names])) for score in MEANS}
    return means
