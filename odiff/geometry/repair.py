"""What is wrong with a file's geometry, and what of it can be mended without loss."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

LARGEST_REPAIR_DEG = 1.0
NIFTI_HEADER = 348
CHUNK = 1 << 22
FLOATS = {16: "f4", 64: "f8"}


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
    """Faults that SimpleITK hides from who reads a NIfTI file with it.

    It takes a zero or negative spacing for its magnitude, fills a data block that ends early with zeros, and turns NaN and
    Inf into 0; so the bytes are looked at here.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        return None
    try:
        with gzip.open(path) if name.endswith(".gz") else path.open("rb") as file:
            return _stream_fault(file)
    except (EOFError, OSError, zlib.error) as fault:
        return f"damaged or truncated ({fault})"


def _stream_fault(file: Any) -> str | None:
    header = file.read(NIFTI_HEADER)
    order = _order(header)
    if order is None:
        return None
    if fault := _spacing_fault(header, order):
        return fault
    dims = struct.unpack_from(order + "8h", header, 40)
    kind, bits = struct.unpack_from(order + "2h", header, 70)
    offset = int(struct.unpack_from(order + "f", header, 108)[0])
    expected = math.prod(dims[1 : 1 + dims[0]]) * bits // 8
    file.read(max(0, offset - NIFTI_HEADER))
    total = faulty = 0
    while chunk := file.read(CHUNK):
        total += len(chunk)
        if kind in FLOATS:
            values = np.frombuffer(chunk[: len(chunk) // (bits // 8) * (bits // 8)], order + FLOATS[kind])
            faulty += int(values.size - np.isfinite(values).sum())
    if total < expected:
        return f"truncated: holds {total} of {expected} bytes of voxels"
    return f"{faulty} voxels are NaN or infinite" if faulty else None


def _order(header: bytes) -> str | None:
    if len(header) < NIFTI_HEADER:
        return None
    for order in "<>":
        if struct.unpack_from(order + "i", header)[0] == NIFTI_HEADER:
            return order
    return None


def _spacing_fault(header: bytes, order: str) -> str | None:
    spacing = struct.unpack_from(order + "3f", header, 80)
    if min(spacing) <= 0 or not all(math.isfinite(value) for value in spacing):
        return f"pixdim {tuple(round(value, 4) for value in spacing)} mm: spacing must be above 0"
    return None
