"""The canonical frame of a view: through-plane axis first, each axis in one fixed anatomical direction."""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from odiff.geometry.volume import Grid

VIEWS = ("sagittal", "coronal", "axial")
# LPS world: +x to the patient's left, +y to the back, +z to the head.
CANONICAL = {
    "sagittal": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
}
MEDIAL_LATERAL_AXIS = {"sagittal": 0, "coronal": 2, "axial": 2}
THICK = 2.0


@dataclass(frozen=True)
class Frame:
    """Canonical axis a is stored axis `axes[a]`, reversed where `flips[a]`."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]


def canonical_frame(grid: Grid, view: str) -> Frame:
    """The permutation and flips that bring stored axes closest to the directions of `view`.

    Where slices are thick, the through-plane axis of the file stays the through-plane axis of the view.
    """
    wanted = np.asarray(CANONICAL[view], float)
    alignment = wanted @ grid.normals().T
    through = through_plane_axis(grid)
    orders = [order for order in itertools.permutations(range(3)) if through is None or order[0] == through]
    best = max(orders, key=lambda order: sum(abs(alignment[a, stored]) for a, stored in enumerate(order)))
    flips = tuple(bool(alignment[a, stored] < 0) for a, stored in enumerate(best))
    return Frame((best[0], best[1], best[2]), (flips[0], flips[1], flips[2]))


def to_canonical(array: np.ndarray, frame: Frame) -> np.ndarray:
    """(..., z, y, x) as stored -> (..., through plane, rows, columns)."""
    lead = array.ndim - 3
    turned = np.transpose(array, (*range(lead), *(lead + axis for axis in frame.axes)))
    return np.flip(turned, tuple(lead + a for a, is_flipped in enumerate(frame.flips) if is_flipped))


def from_canonical(array: np.ndarray, frame: Frame) -> np.ndarray:
    """The exact inverse of `to_canonical`."""
    lead = array.ndim - 3
    flipped = np.flip(array, tuple(lead + a for a, is_flipped in enumerate(frame.flips) if is_flipped))
    return np.transpose(flipped, (*range(lead), *(lead + frame.axes.index(axis) for axis in range(3))))


def canonical_spacing(grid: Grid, frame: Frame) -> tuple[float, float, float]:
    """Spacing in mm along the canonical axes."""
    a, b, c = (grid.spacing_zyx_mm[axis] for axis in frame.axes)
    return a, b, c


def canonical_shape(grid: Grid, frame: Frame) -> tuple[int, int, int]:
    """Voxels along the canonical axes."""
    a, b, c = (grid.shape_zyx[axis] for axis in frame.axes)
    return a, b, c


def mirror(array: np.ndarray, view: str) -> np.ndarray:
    """A left joint as a right one: (..., through plane, rows, columns) flipped along the right-left axis."""
    return np.flip(array, array.ndim - 3 + MEDIAL_LATERAL_AXIS[view])


def through_plane_axis(grid: Grid) -> int | None:
    """The stored axis whose spacing is at least twice both others; None where there is none."""
    coarsest = int(np.argmax(grid.spacing_zyx_mm))
    others = [spacing for axis, spacing in enumerate(grid.spacing_zyx_mm) if axis != coarsest]
    return coarsest if grid.spacing_zyx_mm[coarsest] >= THICK * max(others) else None


# From this angle on a series is not of the view that its name says.
FAULT_ANGLE_DEG = 60.0


def view_angle_deg(grid: Grid, view: str) -> float | None:
    """Angle between the slice normal and the axis of `view`, 0..90 degrees; None where slices are not thick."""
    through = through_plane_axis(grid)
    if through is None:
        return None
    cosine = abs(float(np.dot(grid.normals()[through], CANONICAL[view][0])))
    return math.degrees(math.acos(min(1.0, cosine)))


def nearest_view(grid: Grid) -> str | None:
    """The view whose axis is closest to the slice normal; None where slices are not thick."""
    if through_plane_axis(grid) is None:
        return None
    return min(VIEWS, key=lambda view: view_angle_deg(grid, view) or 0.0)
