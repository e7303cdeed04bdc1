"""Stem, strides, kernels and widths from a patch and its spacing: arithmetic, no files, no devices."""

from dataclasses import dataclass

from odiff.plan.schema import Triple

MIN_VOXELS = 4
MAX_STAGES = 6
FINE_ENOUGH_MM = 2.0
NEAR, NEAR_AT_FIRST = 2.0, 1.5

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Topology:
    """The shape of a network: one entry per stage, the first right after the stem."""

    stem_zyx: Triple
    strides_zyx: tuple[Triple, ...]
    kernels_zyx: tuple[Triple, ...]
    divisor_zyx: Triple


@dataclass(frozen=True)
class StemLimits:
    """How far a stem may coarsen: in-plane voxels per slice thickness after it, and the voxels that must remain."""

    per_slice: float = 1.0
    voxels: int = 24


def plan_stem(patch_zyx: Triple, spacing_zyx_mm: Spacing, limits: StemLimits) -> Triple:
    """A space-to-depth block: along each direction the largest of 4 and 2 that leaves detail and extent enough.

    In-plane voxels after it are at most `limits.per_slice` as coarse as the slices are thick (or 2 mm); thin slices join to
    2 mm at most, and only below a block in plane. `limits.voxels` remain along each axis it shortens.
    """
    depth_mm, in_plane_mm = spacing_zyx_mm[0], max(spacing_zyx_mm[1:])
    in_plane_limit = max(depth_mm * limits.per_slice, FINE_ENOUGH_MM)
    plane = _block(min(patch_zyx[1:]), in_plane_mm, in_plane_limit, limits.voxels)
    depth = _block(patch_zyx[0], depth_mm, FINE_ENOUGH_MM, limits.voxels) if plane > 1 else 1
    return (min(depth, plane), plane, plane)


def _block(voxels: int, spacing_mm: float, limit_mm: float, least: int) -> int:
    for block in (4, 2):
        if spacing_mm * block <= limit_mm and voxels // block >= least:
            return block
    return 1


def halvings(sizes: Spacing, spacing: Spacing) -> Triple:
    """Which axes the next stage halves: within 2x of the finest spacing, and at least 4 true voxels remain.

    Sizes are fractions where a stride does not divide them: padding does not count as voxels.
    """
    finest = min(spacing)
    strides = (2 if s <= 2 * finest and n / 2 >= MIN_VOXELS else 1 for n, s in zip(sizes, spacing, strict=True))
    depth, rows, columns = strides
    return depth, rows, columns


def kernel(spacing: Spacing, near: float = NEAR, before: Triple = (1, 1, 1)) -> Triple:
    """3 along an axis whose spacing is within `near` of the finest, or that had 3 `before`; 1 along a coarser one."""
    depth, rows, columns = (3 if s <= near * min(spacing) else k for s, k in zip(spacing, before, strict=True))
    return depth, rows, columns


def plan_topology(patch_zyx: Triple, spacing_zyx_mm: Spacing, limits: StemLimits) -> Topology:
    """Halve axes stage by stage until none may be halved.

    Parameters
    ----------
    patch_zyx : voxels of the patch; need not be a multiple of anything, see `divisor_zyx` of the result.
    spacing_zyx_mm : through plane first. The first stage, where most of the work is, joins only slices of at most `NEAR_AT_FIRST`
        times its pixels.
    """
    stem = plan_stem(patch_zyx, spacing_zyx_mm, limits)
    sizes = _shrunk(patch_zyx, stem)
    spacing: Spacing = _times(spacing_zyx_mm, stem)
    strides, kernels, divisor = [(1, 1, 1)], [kernel(spacing, NEAR_AT_FIRST)], stem
    while len(strides) < MAX_STAGES:
        stride = halvings(sizes, spacing)
        if stride == (1, 1, 1):
            break
        sizes, spacing = _shrunk(sizes, stride), _times(spacing, stride)
        divisor = (divisor[0] * stride[0], divisor[1] * stride[1], divisor[2] * stride[2])
        strides.append(stride)
        kernels.append(kernel(spacing, before=kernels[-1]))
    return Topology(stem, tuple(strides), tuple(kernels), divisor)


def plan_channels(stages: int, base: int, largest: int) -> tuple[int, ...]:
    """Widths double each stage from `base` up to `largest`, all multiples of 32."""
    return tuple(min(base * 2**stage, largest) // 32 * 32 for stage in range(stages))


def fit_patch(patch_zyx: Triple, divisor_zyx: Triple, may_lose: float = 0.05) -> Triple:
    """A multiple of the divisor along each axis: rounded up, or down where that crops at most `may_lose` of it."""
    depth, rows, columns = (
        n // d * d if n >= d and n % d <= may_lose * n else -(-n // d) * d
        for n, d in zip(patch_zyx, divisor_zyx, strict=True)
    )
    return depth, rows, columns


def bottleneck(patch_zyx: Triple, topology: Topology) -> Triple:
    """Voxels of the patch at the coarsest stage."""
    depth, rows, columns = (-(-n // d) for n, d in zip(patch_zyx, topology.divisor_zyx, strict=True))
    return depth, rows, columns


def _shrunk(sizes: Spacing, by: Triple) -> Spacing:
    return sizes[0] / by[0], sizes[1] / by[1], sizes[2] / by[2]


def _times(spacing: Spacing, by: Triple) -> Spacing:
    return spacing[0] * by[0], spacing[1] * by[1], spacing[2] * by[2]
