"""Implicit shapes: signed distances in mm, negative inside, roughly Euclidean near the surface."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float, float]
Distance = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Shape:
    """`distance` maps points (n, 3) in mm to (n,); it is positive beyond the box `low`..`high`."""

    distance: Distance
    low: np.ndarray
    high: np.ndarray

    def grown(self, margin: float) -> "Shape":
        """The shape with `margin` mm added all around."""
        return Shape(lambda p: self.distance(p) - margin, self.low - margin, self.high + margin)


def ellipsoid(centre: Point, radii: Point) -> Shape:
    """An axis-aligned ellipsoid."""
    c, r = np.asarray(centre, np.float32), np.asarray(radii, np.float32)
    return Shape(lambda p: (np.sqrt((((p - c) / r) ** 2).sum(axis=1)) - 1) * r.min(), c - r, c + r)


def capsule(start: Point, end: Point, radius: float) -> Shape:
    """A rod with round ends."""
    a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
    axis = b - a

    def distance(p: np.ndarray) -> np.ndarray:
        along = np.clip((p - a) @ axis / float(axis @ axis), 0, 1)
        return np.sqrt(((p - a - along[:, None] * axis) ** 2).sum(axis=1)) - radius

    return Shape(distance, np.minimum(a, b) - radius, np.maximum(a, b) + radius)


def arc(centre: Point, radius: float, thickness: float, middle: float, half_angle: float) -> Shape:
    """A piece of a horizontal ring: a meniscus, a labrum.

    Parameters
    ----------
    middle, half_angle : the piece spans middle - half_angle .. middle + half_angle, radians from +x towards +y.
    """
    c = np.asarray(centre, np.float32)

    def distance(p: np.ndarray) -> np.ndarray:
        q = p - c
        tube = np.sqrt((np.hypot(q[:, 0], q[:, 1]) - radius) ** 2 + q[:, 2] ** 2) - thickness
        turn = np.abs(np.angle(np.exp(1j * (np.arctan2(q[:, 1], q[:, 0]) - middle)))).astype(np.float32)
        return np.maximum(tube, (turn - half_angle) * radius)

    reach = np.array([radius + thickness, radius + thickness, thickness], np.float32)
    return Shape(distance, c - reach, c + reach)


def union(*shapes: Shape, blend: float = 0.0) -> Shape:
    """All shapes together, their joints rounded over about `blend` mm."""

    def distance(p: np.ndarray) -> np.ndarray:
        found = shapes[0].distance(p)
        for shape in shapes[1:]:
            other = shape.distance(p)
            share = np.clip(0.5 + 0.5 * (other - found) / blend, 0, 1) if blend else (found < other).astype(np.float32)
            found = other * (1 - share) + found * share - blend * share * (1 - share)
        return found

    low = np.min([shape.low for shape in shapes], axis=0) - blend
    return Shape(distance, low, np.max([shape.high for shape in shapes], axis=0) + blend)


def common(a: Shape, b: Shape) -> Shape:
    """Where both shapes are."""
    return Shape(
        lambda p: np.maximum(a.distance(p), b.distance(p)), np.maximum(a.low, b.low), np.minimum(a.high, b.high)
    )


def shell(shape: Shape, inner: float, outer: float) -> Shape:
    """The layer from `inner` to `outer` mm outside the surface."""

    def distance(p: np.ndarray) -> np.ndarray:
        d = shape.distance(p)
        return np.maximum(inner - d, d - outer)

    return Shape(distance, shape.low - outer, shape.high + outer)
