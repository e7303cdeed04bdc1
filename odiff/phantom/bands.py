"""Ligaments and tendons: dark bands; where torn, a stretch of them is thick and bright."""

from dataclasses import dataclass

import numpy as np

from odiff.phantom.parts import Part
from odiff.phantom.shapes import Point, capsule

WORN = 0.5


@dataclass(frozen=True)
class Tear:
    """Where along a band (0 its start, 1 its end) a tear may begin, how long it is, and how far it swells; mm."""

    begins: tuple[float, float]
    length: float
    radius: tuple[float, float]


def band(
    start: Point, end: Point, radius: float, tear: Tear, rng: np.random.Generator, is_torn: int,
    lesion: str, label: str | None = None,
) -> list[Part]:  # fmt: skip
    """A straight band, torn where `is_torn`; an intact one may be worn, brighter along its core but neither broken nor swollen."""
    whole = Part(capsule(start, end, radius), "ligament", label)
    a, b = np.asarray(start), np.asarray(end)
    low = rng.uniform(*tear.begins)
    if not is_torn:
        return [whole, *worn_core(start, end, radius, rng)]
    first, last = a + low * (b - a), a + (low + tear.length) * (b - a)
    return [whole, Part(capsule(_point(first), _point(last), rng.uniform(*tear.radius)), "tear", None, lesion)]


def worn_core(start: Point, end: Point, radius: float, rng: np.random.Generator) -> list[Part]:
    """In `WORN` of the bands, a brighter core over a stretch of it; no diagnosis hangs on it."""
    first, length = rng.uniform(0.0, 0.5), rng.uniform(0.3, 0.5)
    if rng.random() >= WORN:
        return []
    a, b = np.asarray(start), np.asarray(end)
    core = capsule(_point(a + first * (b - a)), _point(a + (first + length) * (b - a)), 0.75 * radius)
    return [Part(core, "oedema")]


def _point(values: np.ndarray) -> Point:
    x, y, z = (float(value) for value in values)
    return x, y, z
