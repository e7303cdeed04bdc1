"""What is wrong with a file's geometry, and what of it can be mended without loss."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np

LARGEST_REPAIR_DEG = 1.0
NIFTI_HEADER = 348


def orthonormal(direction: tuple[float, ...]) -> tuple[tuple[float, ...] | None, float]:
    """The nearest orthonormal direction cosines and how far off the given ones are, in degrees.

    Exact input comes back as it is; None where the deviation is over `LARGEST_REPAIR_DEG`.
    """
    given = np.asarray(direction, float).reshape(3, 3)
    if not np.isfinite(given).all() or np.linalg.norm(given, axis=0).min() < 1e-6:
        return None, 90.0
    columns = given / np.linalg.norm(given, axis=0)
    u, _, vt = np.linalg.svd(columns)
    nearest = u @ vt
    cosine = np.clip((nearest * columns).sum(axis=0), -1, 1)
    angle = math.degrees(float(np.arccos(cosine).max()))
    if angle > LARGEST_REPAIR_DEG:
        return None, angle
    if np.allclose(given, nearest, atol=1e-6):
        return tuple(float(value) for value in direction), 0.0
    return tuple(float(value) for value in nearest.ravel()), angle


def raw_fault(path: Path) -> str | None:
    """Faults that SimpleITK hides: a NIfTI with zero or negative spacing, or a gzip stream that ends early."""
    name = path.name.lower()
    if name.endswith(".nii.gz"):
        return _gzip_fault(path) or _spacing_fault(_head(gzip.open(path)))
    if name.endswith(".nii"):
        return _spacing_fault(_head(path.open("rb")))
    return None


def _gzip_fault(path: Path) -> str | None:
    try:
        with gzip.open(path) as file:
            header = file.read(NIFTI_HEADER)
            expected = _expected_bytes(header)
            total = len(header)
            while chunk := file.read(1 << 22):
                total += len(chunk)
    except (EOFError, OSError) as fault:
        return f"damaged or truncated gzip ({fault})"
    if expected and total < expected:
        return f"truncated: holds {total} of {expected} bytes"
    return None


def _head(file) -> bytes:  # type: ignore[no-untyped-def]
    with file:
        return file.read(NIFTI_HEADER)


def _order(header: bytes) -> str | None:
    if len(header) < NIFTI_HEADER:
        return None
    for order in "<>":
        if struct.unpack_from(order + "i", header)[0] == NIFTI_HEADER:
            return order
    return None


def _expected_bytes(header: bytes) -> int | None:
    order = _order(header)
    if order is None:
        return None
    dims = struct.unpack_from(order + "8h", header, 40)
    bits = struct.unpack_from(order + "h", header, 72)[0]
    offset = struct.unpack_from(order + "f", header, 108)[0]
    return int(offset) + math.prod(dims[1 : 1 + dims[0]]) * bits // 8


def _spacing_fault(header: bytes) -> str | None:
    order = _order(header)
    if order is None:
        return None
    spacing = struct.unpack_from(order + "3f", header, 80)
    if min(spacing) <= 0 or not all(math.isfinite(value) for value in spacing):
        return f"pixdim {tuple(round(value, 4) for value in spacing)} mm: spacing must be above 0"
    return None
