"""A real label map as the anatomy of a phantom: its structures become shapes that the builders use in place of their own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from odiff.errors import UsageError
from odiff.phantom.parts import Anatomy, paint
from odiff.phantom.shapes import Shape

GRID_MM = 0.8
REACH_MM = 8.0
FAR = 1e3


@dataclass(frozen=True)
class AtlasSource:
    """A label map on disk and which of its values make up each structure."""

    path: Path
    values: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def structures(self) -> tuple[str, ...]:
        """The structures that come from the label map."""
        return tuple(name for name, _ in self.values)


def read_atlas_labels(path: Path, known: Sequence[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Read ``{structure: value or [values]}``.

    Parameters
    ----------
    known : structures the joint has.

    Raises
    ------
    UsageError
        The file is missing or broken, or names a structure or value that cannot be used.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--atlas-labels {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(f"--atlas-labels {path}: is not JSON ({error})") from error
    if not isinstance(content, dict) or not content:
        raise UsageError(f'--atlas-labels {path}: must be an object such as {{"femur": 5, "tibia": 6}}')
    found = []
    for name, value in content.items():
        if name not in known or name == "background":
            usable = ", ".join(one for one in known if one != "background")
            raise UsageError(f"--atlas-labels {path}: structure {name!r} is not one of this joint's: {usable}")
        values = value if isinstance(value, list) else [value]
        if not values or any(isinstance(one, bool) or not isinstance(one, int) or one < 1 for one in values):
            raise UsageError(
                f"--atlas-labels {path}: {name}: {value!r} must be a label value, 1 or more, or a list of such"
            )
        found.append((name, tuple(values)))
    return tuple(found)


def load_label_map(source: AtlasSource) -> tuple[np.ndarray, np.ndarray]:
    """The label map on a grid of `GRID_MM`, axes (z, y, x) along LPS, and the world point (x, y, z) of its first voxel.

    Raises
    ------
    UsageError
        The file cannot be read, is not 3D, or lacks a value.
    """
    try:
        image = sitk.ReadImage(str(source.path))
    except RuntimeError as error:
        raise UsageError(f"--atlas {source.path}: cannot be read as a label map ({_first_line(error)})") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise UsageError(f"--atlas {source.path}: must be one 3D label map")
    present = set(np.unique(sitk.GetArrayViewFromImage(image)).tolist())
    for name, values in source.values:
        for value in values:
            if value not in present:
                listed = sorted(int(one) for one in present if one)
                raise UsageError(f"--atlas-labels {name}: {value} does not occur in {source.path}, which has {listed}")
    image = sitk.DICOMOrient(image, "LPS")
    size = [max(1, round(n * s / GRID_MM)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    onto = sitk.Image(size, sitk.sitkUInt8)
    onto.SetSpacing((GRID_MM,) * 3)
    onto.SetOrigin(image.GetOrigin())
    resampled = sitk.Resample(image, onto, sitk.Transform(), sitk.sitkNearestNeighbor, 0, image.GetPixelID())
    return sitk.GetArrayFromImage(resampled), np.asarray(image.GetOrigin())


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def atlas_shapes(source: AtlasSource, template: Anatomy, labels: dict[str, int]) -> dict[str, Shape]:
    """The structures as shapes in the frame of `template`, a right joint.

    The map is mirrored where its structures lie like a left joint's, and moved so that the middles of the structures that
    it shares with the template fall together.
    """
    array, origin = load_label_map(source)
    masks = {name: np.isin(array, values) for name, values in source.values}
    centres = {name: origin + np.array(ndimage.center_of_mass(mask))[::-1] * GRID_MM for name, mask in masks.items()}
    wanted = template_centres(template, labels)
    shared = [name for name in centres if name in wanted]
    is_left = len(shared) > 1 and _is_mirrored(centres, wanted, shared)
    if is_left:
        masks = {name: mask[:, :, ::-1] for name, mask in masks.items()}
        end = origin[0] + (array.shape[2] - 1) * GRID_MM
        centres = {name: np.array([-c[0], c[1], c[2]]) for name, c in centres.items()}
        origin = np.array([-end, origin[1], origin[2]])
    shift = np.mean([wanted[name] - centres[name] for name in shared], axis=0)
    return {name: sampled_shape(mask, origin + shift) for name, mask in masks.items()}


def varied(shape: Shape, rng: np.random.Generator, most_mm: float = 0.4) -> Shape:
    """The shape a little thinner or thicker than it is."""
    return shape.grown(float(rng.uniform(-most_mm, most_mm)))


def _is_mirrored(centres: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], shared: Sequence[str]) -> bool:
    """Whether the x order of the structures fits the template better reversed."""
    there = np.array([centres[name][0] for name in shared])
    here = np.array([wanted[name][0] for name in shared])
    return float((there - there.mean()) @ (here - here.mean())) < 0


def template_centres(template: Anatomy, labels: dict[str, int], step_mm: float = 3.0) -> dict[str, np.ndarray]:
    """The middle (x, y, z) in mm of each structure of a template within 70 mm of the joint."""
    axis = np.arange(-70, 71, step_mm, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    painted = paint(template, points, labels).label
    return {name: points[painted == v].mean(axis=0) for name, v in labels.items() if v and (painted == v).any()}


def sampled_shape(mask: np.ndarray, origin_xyz_mm: np.ndarray) -> Shape:
    """A mask (z, y, x) on a grid of `GRID_MM` as a shape; what touches the border goes on beyond it, as a shaft does."""
    reach = round(REACH_MM / GRID_MM)
    places = np.argwhere(mask)
    low_zyx, high_zyx = places.min(axis=0), places.max(axis=0)
    first = np.maximum(low_zyx - reach, 0)
    last = np.minimum(high_zyx + reach, np.array(mask.shape) - 1)
    crop = mask[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))]
    outside, inside = ndimage.distance_transform_edt(~crop), ndimage.distance_transform_edt(crop)
    distance = ndimage.gaussian_filter((outside - inside).astype(np.float32), 0.7, mode="nearest") * GRID_MM
    start = (origin_xyz_mm[::-1] + first * GRID_MM).astype(np.float32)
    reach_low = np.where(low_zyx == 0, -FAR, start)
    reach_high = np.where(high_zyx == np.array(mask.shape) - 1, FAR, start + (last - first) * GRID_MM)

    def sample(points: np.ndarray) -> np.ndarray:
        coordinates = (points[:, ::-1] - start).T / GRID_MM
        return ndimage.map_coordinates(distance, coordinates, order=1, mode="nearest")

    return Shape(sample, reach_low[::-1].astype(np.float32), reach_high[::-1].astype(np.float32))
