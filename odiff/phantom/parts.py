"""A joint is a list of parts; later parts lie over earlier ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odiff.phantom.shapes import Shape, common, ellipsoid

TISSUES = (
    "air", "fat", "muscle", "marrow", "cortex", "cartilage", "meniscus", "ligament", "fluid", "tear", "oedema", "vessel", "spot",
)  # fmt: skip
TISSUE = {name: number for number, name in enumerate(TISSUES)}


@dataclass(frozen=True)
class Part:
    """A shape filled with a tissue.

    `label` is the segmented structure; None leaves the labels below as they are, as a lesion inside a structure does.
    """

    shape: Shape
    tissue: str
    label: str | None = None
    lesion: str | None = None


@dataclass(frozen=True)
class Anatomy:
    """One patient's joint as a right one, in mm around the joint's centre, LPS axes; lesions by diagnosis."""

    parts: tuple[Part, ...]
    diagnoses: dict[str, int]


@dataclass(frozen=True)
class Painted:
    """What lies at each point: tissue number, label value, and a bit per diagnosis where its lesion is."""

    tissue: np.ndarray
    label: np.ndarray
    lesion: np.ndarray


def paint(anatomy: Anatomy, points: np.ndarray, labels: dict[str, int]) -> Painted:
    """Evaluate the anatomy at points (n, 3) in mm."""
    order = np.argsort(points[:, 2], kind="stable")
    by_height = points[order]
    columns = np.ascontiguousarray(by_height.T)
    tissue, label, lesion = (
        np.zeros(len(points), np.int8),
        np.zeros(len(points), np.int16),
        np.zeros(len(points), np.int16),
    )
    names = list(anatomy.diagnoses)
    for part in anatomy.parts:
        inside = _inside(part.shape, by_height, columns)
        tissue[inside] = TISSUE[part.tissue]
        if part.label is not None:
            label[inside] = labels.get(part.label, 0)
        if part.lesion is not None:
            lesion[inside] |= 1 << names.index(part.lesion)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return Painted(tissue[back], label[back], lesion[back])


def _inside(shape: Shape, by_height: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Numbers of the points inside; only those in the shape's box are evaluated."""
    x, y, z = columns
    first, last = np.searchsorted(z, (shape.low[2], shape.high[2]))
    near = (x[first:last] >= shape.low[0]) & (x[first:last] <= shape.high[0])
    near &= (y[first:last] >= shape.low[1]) & (y[first:last] <= shape.high[1])
    candidates = first + np.flatnonzero(near)
    return candidates[shape.distance(by_height[candidates]) < 0]


def spots(rng: np.random.Generator, count: int, places: Sequence[Shape]) -> list[Part]:
    """Harmless bright or dark blobs inside some shapes: no diagnosis hangs on them."""

    found = []
    for _ in range(count):
        place = places[int(rng.integers(len(places)))]
        centre = rng.uniform(place.low, place.high)
        radii = rng.uniform(2.5, 7.0, 3)
        tissue = ("spot", "oedema", "fluid", "cortex")[int(rng.integers(4))]
        found.append(Part(common(ellipsoid(tuple(centre), tuple(radii)), place), tissue))
    return found
