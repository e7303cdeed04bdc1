"""One patient: an anatomy, three acquisitions, and the truth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from odiff.errors import UsageError
from odiff.geometry import VIEWS, Volume
from odiff.phantom import ankle, knee, shoulder
from odiff.phantom.acquisition import (
    MORE_SCANNERS,
    SCANNERS,
    SIZES,
    SUBSLICES,
    Scanner,
    Size,
    acquire,
    draw_grid,
    grid_points,
)
from odiff.phantom.atlas import AtlasSource, atlas_shapes
from odiff.phantom.parts import Anatomy, paint
from odiff.phantom.shapes import Shape
from odiff.phantom.table import Cell, draw_table

PHANTOM_VERSION = 5
# The share of studies that each of SCANNERS contributes.
SHARES = (0.3, 0.25, 0.25, 0.2)
Builder = Callable[[np.random.Generator, dict[str, int], Mapping[str, Shape]], Anatomy]
WARP_MM, ATLAS_WARP_MM = 2.5, 2.5
SCALE, SHEAR = 0.08, 0.03
MOTION_MM = 0.7
HINGE_YZ_MM, BENT_FROM_TO_MM = (5.0, 10.0), (-8.0, 28.0)


@dataclass(frozen=True)
class Joint:
    """What makes a joint: its builder, its structures, its abnormalities, and how far it may be bent, degrees."""

    build: Builder
    labels: dict[str, int]
    diagnoses: tuple[str, ...]
    bend_deg: tuple[float, float]


JOINTS = {
    "knee": Joint(knee.knee, knee.LABELS, knee.DIAGNOSES, (-5.0, 25.0)),
    "ankle": Joint(ankle.ankle, ankle.LABELS, ankle.DIAGNOSES, (-10.0, 10.0)),
    "shoulder": Joint(shoulder.shoulder, shoulder.LABELS, shoulder.DIAGNOSES, (-8.0, 8.0)),
}


@dataclass(frozen=True)
class PhantomSeries:
    """One acquisition with its mask and, per voxel, a bit for each diagnosis whose lesion is there; all (z, y, x)."""

    image: Volume
    mask: np.ndarray
    lesion: np.ndarray


@dataclass(frozen=True)
class Study:
    """All that is known of one phantom patient; series by ``<view>`` or ``<view>_<k>``, None where unknown.

    `table` holds the columns of `odiff.phantom.table`, drawn apart from the images.
    """

    series: dict[str, PhantomSeries]
    diagnoses: dict[str, int | None]
    laterality: str | None
    center: str
    field_strength_t: float
    table: dict[str, Cell]


def make_study(
    joint: str, case_index: int, seed: int, size: str = "demo", atlas: AtlasSource | None = None, messy: float = 0.0,
    centers: tuple[str, ...] = (),
) -> Study:  # fmt: skip
    """The study number `case_index` of a cohort; the same arguments always give the same voxels.

    Parameters
    ----------
    atlas : a label map whose structures replace the parametric ones, deformed anew for every patient.
    messy : how often, as in a hospital's archive, a view is missing, a second series of a view has another contrast, a
        diagnosis or the laterality is unknown. What is there keeps its voxels.
    centers : hospitals that contribute as many studies each; without, those of `SCANNERS` by `SHARES`.
    """
    rng = np.random.default_rng([PHANTOM_VERSION, seed, case_index])
    what = JOINTS[joint]
    burden = rng.normal(0, 0.35)
    diagnoses = {name: int(rng.normal(-0.15 + burden) > 0) for name in what.diagnoses}
    anatomy = what.build(rng, diagnoses, given_shapes(joint, atlas) if atlas else {})
    laterality = "L" if rng.random() < 0.5 else "R"
    scanners = scanners_of(centers) if centers else SCANNERS
    scanner = scanners[int(rng.choice(len(scanners), p=None if centers else SHARES))]
    warp = draw_warp(rng, ATLAS_WARP_MM if atlas else WARP_MM, what.bend_deg)
    place = draw_place(laterality, rng)
    series = {
        view: acquire_view(anatomy, what.labels, view, laterality, SIZES[size], scanner, warp, place, rng)
        for view in VIEWS
    }
    table = draw_table(diagnoses, np.random.default_rng([PHANTOM_VERSION, seed, case_index, 2]))
    study = Study(series, dict(diagnoses), laterality, scanner.center, scanner.field_strength_t, table)
    if not messy:
        return study
    disorder = np.random.default_rng([PHANTOM_VERSION, seed, case_index, 1])
    doubled, missing = (VIEWS[int(number)] for number in disorder.permutation(len(VIEWS))[:2])
    if disorder.random() < messy:
        other = SCANNERS[int(disorder.integers(len(SCANNERS)))]
        again = acquire_view(anatomy, what.labels, doubled, laterality, SIZES[size], other, warp, place, disorder)
        series[f"{doubled}_1"] = again
    if disorder.random() < messy:
        del series[missing]
    known = {name: None if disorder.random() < messy else value for name, value in diagnoses.items()}
    return replace(study, diagnoses=known, laterality=None if disorder.random() < messy / 2 else laterality)


def scanners_of(centers: Sequence[str]) -> list[Scanner]:
    """The scanners of hospitals by their letters; a `UsageError` for a letter that none has."""
    known = {scanner.center: scanner for scanner in (*SCANNERS, *MORE_SCANNERS)}
    for center in centers:
        if center not in known:
            raise UsageError(f"--centers {center}: not one of {', '.join(known)}")
    return [known[center] for center in centers]


@lru_cache(maxsize=2)
def given_shapes(joint: str, atlas: AtlasSource) -> dict[str, Shape]:
    """The structures of an atlas in the frame of the parametric joint."""
    what = JOINTS[joint]
    template = what.build(np.random.default_rng(0), dict.fromkeys(what.diagnoses, 0), {})
    return atlas_shapes(atlas, template, what.labels)


@dataclass(frozen=True)
class Warp:
    """A smooth map of space: bent above the joint line, then scale and shear, then sines of long wavelength; mm."""

    bend: float
    matrix: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    amplitudes: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 3) of the patient to points of the template."""
        moved = bent(points, self.bend) @ self.matrix.T
        for wave, phase, amplitude in zip(self.waves, self.phases, self.amplitudes, strict=True):
            moved = moved + np.sin(points @ wave + phase)[:, None] * amplitude
        return moved


def bent(points: np.ndarray, angle: float) -> np.ndarray:
    """Points (n, 3) above the joint line turned by `angle`, radians, around the joint's transverse axis; softly in between."""
    low, high = BENT_FROM_TO_MM
    share = np.clip((points[:, 2] - low) / (high - low), 0, 1)
    turn = angle * share * share * (3 - 2 * share)
    sine, cosine = np.sin(turn), np.cos(turn)
    y, z = (points[:, 1] - HINGE_YZ_MM[0], points[:, 2] - HINGE_YZ_MM[1])
    turned = np.stack([points[:, 0], cosine * y - sine * z, sine * y + cosine * z], axis=1)
    return (turned + np.array([0, *HINGE_YZ_MM])).astype(points.dtype)


def draw_warp(
    rng: np.random.Generator, amplitude_mm: float, bend_deg: tuple[float, float] = (0.0, 0.0), waves: int = 3
) -> Warp:
    """Per-patient shape and posture."""
    bend = float(np.deg2rad(rng.uniform(*bend_deg)))
    matrix = np.eye(3) * rng.uniform(1 - SCALE, 1 + SCALE, 3) + rng.normal(0, SHEAR, (3, 3))
    directions = rng.normal(0, 1, (waves, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = 2 * np.pi / rng.uniform(60, 140, (waves, 1))
    return Warp(
        bend, matrix.astype(np.float32), (directions * lengths).astype(np.float32),
        rng.uniform(0, 2 * np.pi, waves).astype(np.float32), rng.normal(0, amplitude_mm, (waves, 3)).astype(np.float32),
    )  # fmt: skip


def draw_place(laterality: str, rng: np.random.Generator) -> np.ndarray:
    """Where the joint lies in the scanner, (x, y, z) mm: one place for all series of a study."""
    return np.array([90.0 if laterality == "L" else -90.0, rng.uniform(-20, 20), rng.uniform(-40, 40)])


def acquire_view(
    anatomy: Anatomy, labels: dict[str, int], view: str, laterality: str, size: Size, scanner: Scanner, warp: Warp,
    place: np.ndarray, rng: np.random.Generator,
) -> PhantomSeries:  # fmt: skip
    """One thick-slice series of a left or right joint at `place`, moved a little since the series before."""
    centre = place + rng.normal(0, MOTION_MM, 3)
    grid = draw_grid(view, size, scanner, rng, centre)
    world = grid_points(grid)
    points = (world.reshape(-1, 3) - centre.astype(np.float32)).astype(np.float32)
    if laterality == "L":
        points[:, 0] *= -1
    painted = paint(anatomy, warp(points), labels)
    shape = world.shape[:4]
    image = acquire(painted.tissue.reshape(shape), scanner, rng)
    middle = SUBSLICES // 2
    mask = painted.label.reshape(shape)[:, middle]
    lesion = np.bitwise_or.reduce(painted.lesion.reshape(shape), axis=1)
    return PhantomSeries(Volume(image, grid), np.ascontiguousarray(mask), lesion)
