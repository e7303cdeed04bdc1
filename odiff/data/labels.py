"""Label maps: what values they hold, what of them is unknown, and what is left of them after clean-up."""

from collections.abc import Iterable

import numpy as np

from odiff.geometry import Grid, canonical_frame, from_canonical, to_canonical

IGNORE = -1
LARGEST_TABLE = 1 << 20


def label_counts(labels: np.ndarray) -> dict[int, int]:
    """How many voxels have each value that occurs, values rising; integers of any sign."""
    lowest = int(labels.min())
    if int(labels.max()) - lowest > LARGEST_TABLE:
        values, counts = np.unique(labels, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    counts = np.bincount(labels.ravel() - lowest)
    return {int(place) + lowest: int(counts[place]) for place in np.flatnonzero(counts)}


def mark_unknown(mask: np.ndarray, grid: Grid, view: str, ignore_label: int | None, sparse_slices: bool) -> np.ndarray:
    """Label values (z, y, x) as stored, int16, with `IGNORE` where the truth is unknown.

    Unknown is the ignore label and, where `sparse_slices`, every slice without any label.
    """
    known = mask.astype(np.int16)
    if ignore_label is not None:
        known[mask == ignore_label] = IGNORE
    if sparse_slices:
        frame = canonical_frame(grid, view)
        slices = to_canonical(known, frame).copy()
        slices[~(slices > 0).any(axis=(1, 2))] = IGNORE
        known = np.ascontiguousarray(from_canonical(slices, frame))
    return known


def keep_largest(labels: np.ndarray, values: Iterable[int], background: int = 0) -> np.ndarray:
    """Label values (z, y, x) where each of `values` keeps its largest connected component and the rest becomes `background`.

    Voxels that touch by a face, an edge or a corner are connected; components that share the largest size all stay.
    """
    # Slow to import, and a mask without clean-up never needs them.
    from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice, get_bbox_from_mask
    from acvl_utils.morphology.morphology_helper import remove_all_but_largest_component

    result = labels.copy()
    for value in values:
        mask = labels == value
        if not mask.any():
            continue
        near = bounding_box_to_slice(get_bbox_from_mask(mask))
        result[near][mask[near] & ~remove_all_but_largest_component(mask[near])] = background
    return result
