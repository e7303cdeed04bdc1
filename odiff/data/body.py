"""Where the body is in a volume: everything outside is air and wastes the patch."""

import numpy as np

from odiff.data.percentiles import percentiles

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def body_mask(array: np.ndarray) -> np.ndarray:
    """True where a volume (z, y, x) shows the body rather than air.

    A tenth of the 99th percentile separates the two: air is dark in every MR contrast, and Otsu's threshold would
    cut dark bone and muscle away in fat-bright ones. Single bright voxels of noise are opened away in plane.
    """
    darkest = float(array.min())
    (bright,) = percentiles(array, (99,))
    is_bright = array > darkest + 0.1 * (bright - darkest)
    opened = opened_in_plane(is_bright)
    return opened if opened.any() else np.ones_like(is_bright)


def opened_in_plane(mask: np.ndarray) -> np.ndarray:
    """Binary opening of (z, y, x) with a square of 3x3 pixels in each slice; outside counts as False.

    Pixels that lie in no 3x3 square of True are cleared, by whole-array shifts instead of a neighbourhood per voxel.
    """
    rows = mask[:, :-2] & mask[:, 1:-1] & mask[:, 2:]
    core = rows[..., :-2] & rows[..., 1:-1] & rows[..., 2:]
    wide, opened = np.zeros_like(rows), np.zeros_like(mask)
    for shift in range(3):
        wide[..., shift : shift + core.shape[2]] |= core
    for shift in range(3):
        opened[:, shift : shift + wide.shape[1]] |= wide
    return opened


def body_box(body: np.ndarray) -> Box:
    """Half-open bounding box of the body along each axis.

    As fast as acvl-utils, which imports what prediction needs for nothing else (0.13 s).
    """
    plane: np.ndarray = np.logical_or.reduce(body, axis=0)
    places = (np.flatnonzero(shown) for shown in (body.any(axis=(1, 2)), plane.any(axis=1), plane.any(axis=0)))
    return tuple((int(found[0]), int(found[-1]) + 1) for found in places)  # type: ignore[return-value]
