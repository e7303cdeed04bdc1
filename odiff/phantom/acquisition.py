"""How a scanner sees an anatomy: thick slices, contrast, bias field, blur and Rician noise."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from odiff.geometry import Grid
from odiff.phantom.parts import TISSUES

# Relative signal of TISSUES: proton density, T2 and T1, with and without suppressed fat, and a gradient echo.
CONTRASTS = {
    "pd_fs": (0.0, 0.26, 0.45, 0.30, 0.05, 0.62, 0.12, 0.12, 0.95, 0.85, 0.60, 0.70, 0.45),
    "pd_fs_poor": (0.0, 0.42, 0.44, 0.41, 0.05, 0.61, 0.11, 0.12, 0.94, 0.84, 0.57, 0.57, 0.44),
    "pd": (0.0, 0.80, 0.40, 0.66, 0.05, 0.58, 0.10, 0.12, 0.90, 0.80, 0.50, 0.25, 0.40),
    "t2_fs": (0.0, 0.20, 0.32, 0.24, 0.04, 0.42, 0.10, 0.10, 1.00, 0.85, 0.65, 0.60, 0.42),
    "stir": (0.0, 0.08, 0.38, 0.12, 0.04, 0.50, 0.12, 0.10, 1.00, 0.90, 0.75, 0.65, 0.45),
    "t1": (0.0, 1.00, 0.38, 0.85, 0.06, 0.50, 0.18, 0.14, 0.22, 0.30, 0.40, 0.20, 0.35),
    "t2": (0.0, 0.70, 0.28, 0.55, 0.05, 0.45, 0.10, 0.10, 1.00, 0.80, 0.60, 0.15, 0.40),
    "dess": (0.0, 0.35, 0.42, 0.30, 0.06, 0.80, 0.25, 0.20, 0.90, 0.75, 0.45, 0.55, 0.45),
}
SUBSLICES = 3
OBLIQUE_DEG, SIGNAL_SPREAD = 8.0, 0.15
# How far the joint lies from the centre of the field of view, mm: standard deviation across slices, most in plane.
ACROSS_MM, IN_PLANE_MM = 4.0, 16.0


@dataclass(frozen=True)
class Scanner:
    """A centre's profile."""

    center: str
    field_strength_t: float
    contrast: str
    noise: float
    bias: float
    resolution: float


SCANNERS = (
    Scanner("A", 3.0, "pd_fs", 0.04, 0.20, 1.0),
    Scanner("B", 1.5, "pd_fs", 0.045, 0.12, 1.1),
    Scanner("C", 3.0, "t2_fs", 0.045, 0.25, 0.95),
    Scanner("D", 1.5, "pd", 0.040, 0.15, 1.05),
)
# Hospitals that a cohort has only where it is asked for them.
MORE_SCANNERS = (
    Scanner("E", 1.5, "stir", 0.040, 0.15, 1.05),
    Scanner("F", 3.0, "t1", 0.025, 0.25, 0.95),
    Scanner("G", 1.5, "t2", 0.035, 0.12, 1.0),
    Scanner("H", 3.0, "dess", 0.030, 0.20, 1.0),
    Scanner("I", 0.55, "pd_fs", 0.160, 0.08, 1.4),
    Scanner("J", 1.5, "pd_fs_poor", 0.050, 0.20, 1.1),
)


@dataclass(frozen=True)
class Size:
    """Nominal voxels of a series: slices, rows and columns, slice distance and pixel size in mm."""

    slices: int
    pixels: int
    slice_mm: float
    pixel_mm: float


SIZES = {"demo": Size(16, 64, 6.0, 2.2), "standard": Size(28, 208, 3.5, 0.7), "tiny": Size(10, 40, 9.6, 3.6)}

# Index directions (slice, row, column) of each view in LPS.
ORIENTATION = {
    "sagittal": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
}


def draw_grid(view: str, size: Size, scanner: Scanner, rng: np.random.Generator, centre_xyz_mm: np.ndarray) -> Grid:
    """A slightly oblique grid around the joint, stored with slices in either direction."""
    pixel = size.pixel_mm * scanner.resolution
    pixels = round(size.pixels / scanner.resolution)
    slices = size.slices + int(rng.integers(-1, 2))
    shape, spacing = (slices, pixels, pixels), (size.slice_mm * float(rng.uniform(0.97, 1.03)), pixel, pixel)
    axes = np.asarray(ORIENTATION[view], float) @ _rotation(rng.uniform(-OBLIQUE_DEG, OBLIQUE_DEG, 3)).T
    if rng.random() < 0.3:
        axes[0] *= -1
    off = np.array([rng.normal(0, ACROSS_MM), *rng.uniform(-IN_PLANE_MM, IN_PLANE_MM, 2)])
    centre = centre_xyz_mm + off @ axes
    half = (np.asarray(shape) - 1) / 2 * np.asarray(spacing)
    origin = centre - half @ axes
    direction = tuple(float(value) for value in axes[::-1].T.ravel())
    return Grid(shape, spacing, (float(origin[0]), float(origin[1]), float(origin[2])), direction)


def _rotation(angles_deg: np.ndarray) -> np.ndarray:
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        turn = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        result = result @ turn
    return result


def grid_points(grid: Grid, subslices: int = SUBSLICES) -> np.ndarray:
    """World points (slices, subslices, rows, columns, 3) in mm, spread over the thickness of each slice."""
    depth, rows, columns = grid.shape_zyx
    sz, sy, sx = grid.spacing_zyx_mm
    axes = grid.normals().astype(np.float32)
    offsets = ((np.arange(subslices) + 0.5) / subslices - 0.5) * sz * 0.9
    along = (np.arange(depth) * sz)[:, None] + offsets
    points = np.asarray(grid.origin_xyz_mm, np.float32) + along[..., None, None, None].astype(np.float32) * axes[0]
    points = points + (np.arange(rows, dtype=np.float32) * np.float32(sy))[:, None, None] * axes[1]
    return points + (np.arange(columns, dtype=np.float32) * np.float32(sx))[:, None] * axes[2]


def draw_contrast(scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    """The signal of each tissue, varied by protocol and patient."""
    nominal = np.asarray(CONTRASTS[scanner.contrast])
    return nominal * rng.normal(1, SIGNAL_SPREAD, len(TISSUES)).clip(0.7, 1.3)


def acquire(tissue: np.ndarray, scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    """Tissue numbers (slices, subslices, rows, columns) to magnitudes (slices, rows, columns), float32."""
    signal = draw_contrast(scanner, rng).astype(np.float32)[tissue].mean(axis=1)
    signal = ndimage.gaussian_filter(signal, (0, 0.45, 0.45))
    signal *= _bias_field(signal.shape, scanner.bias, rng)
    noise = rng.normal(0, scanner.noise, (2, *signal.shape)).astype(np.float32)
    return np.hypot(signal + noise[0], noise[1]) * np.float32(rng.uniform(300, 1500))


def _bias_field(shape: tuple[int, ...], strength: float, rng: np.random.Generator) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    linear = sum(rng.normal(0, 0.5) * axis for axis in axes)
    square = sum(rng.normal(0, 0.5) * axis**2 for axis in axes)
    return np.exp(strength * (linear + square)).astype(np.float32)
