"""The voxels of a NIfTI file, unpacked once and judged by their bytes before anyone interprets them."""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from odiff.geometry.gunzip import FAULTS, open_unpacked
from odiff.geometry.nifti_header import HEADER, byte_order

CHUNK = 1 << 22
LARGEST_OFFSET = 1 << 31
FLOATS = {16: "f4", 64: "f8"}
COMPLEX = (32, 1792, 2048)
SCALARS = {2: "u1", 4: "i2", 8: "i4", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8", **FLOATS}


@dataclass(frozen=True)
class NiftiVoxels:
    """What the bytes of a file hold; `fault` says what is wrong with them.

    `array` is (z, y, x) in the file's own type, None where a fault was found or where the file is anything but one plain volume:
    scaled intensities, more dimensions, colours, and header-image pairs are left to SimpleITK.
    """

    fault: str | None = None
    array: np.ndarray | None = None


@dataclass(frozen=True)
class _Header:
    order: str
    dims: tuple[int, ...]
    kind: int
    bits: int
    offset: int
    is_plain: bool

    @property
    def expected(self) -> int:
        """Bytes of voxels."""
        return math.prod(self.dims) * self.bits // 8


def read_nifti_voxels(path: Path) -> NiftiVoxels:
    """Faults that SimpleITK hides from who reads a NIfTI file with it, and the voxels of a plain file.

    SimpleITK takes a zero or negative spacing for its magnitude, fills a data block that ends early with zeros, turns NaN and Inf into
    0 and drops the imaginary half of complex numbers; so the bytes are looked at here. They are unpacked to the end, so that a damaged
    tail does not pass.
    """
    try:
        with open_unpacked(path) as file:
            return _scan(file)
    except FAULTS as fault:
        return NiftiVoxels(f"damaged or truncated ({fault})")


def _scan(file: Any) -> NiftiVoxels:
    start = file.read(HEADER)
    order = byte_order(start)
    if order is None:
        return NiftiVoxels()
    if fault := _header_fault(start, order):
        return NiftiVoxels(fault)
    header = _header(start, order)
    file.read(max(0, header.offset - HEADER))
    kept, total, faulty = bytearray(), 0, 0
    for chunk in _chunks(file):
        total += len(chunk)
        faulty += _not_finite(chunk, header)
        if header.is_plain and len(kept) < header.expected:
            kept += chunk
    if total < header.expected:
        return NiftiVoxels(f"truncated: holds {total} of {header.expected} bytes of voxels")
    if faulty:
        return NiftiVoxels(f"{faulty} voxels are NaN or infinite")
    return NiftiVoxels(None, _as_array(kept, header) if header.is_plain else None)


def _chunks(file: Any) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _not_finite(chunk: bytes, header: _Header) -> int:
    if header.kind not in FLOATS:
        return 0
    width = header.bits // 8
    values = np.frombuffer(chunk[: len(chunk) // width * width], header.order + FLOATS[header.kind])
    return int(values.size - np.isfinite(values).sum())


def _as_array(content: bytearray, header: _Header) -> np.ndarray:
    stored = np.frombuffer(content, header.order + SCALARS[header.kind], count=math.prod(header.dims))
    return stored.reshape(header.dims[::-1]).astype(stored.dtype.newbyteorder("="), copy=False)


def _header_fault(header: bytes, order: str) -> str | None:
    spacing = struct.unpack_from(order + "3f", header, 80)
    if min(spacing) <= 0 or not all(math.isfinite(value) for value in spacing):
        return f"pixdim {tuple(round(value, 4) for value in spacing)} mm: spacing must be above 0"
    (offset,) = struct.unpack_from(order + "f", header, 108)
    if not 0 <= offset < LARGEST_OFFSET:
        return f"vox_offset {offset:g} says no place where voxels could begin"
    (kind,) = struct.unpack_from(order + "h", header, 70)
    if kind in COMPLEX:
        return f"datatype {kind}: holds complex numbers, of which only the magnitude is an image"
    return None


def _header(start: bytes, order: str) -> _Header:
    rank, *sizes = struct.unpack_from(order + "8h", start, 40)
    kind, bits = struct.unpack_from(order + "2h", start, 70)
    offset, slope, intercept = struct.unpack_from(order + "3f", start, 108)
    is_scaled = not (slope in (0, 1) and intercept == 0)
    is_known = kind in SCALARS and bits == 8 * int(SCALARS[kind][1])
    is_plain = start[344:347] == b"n+1" and rank == 3 and min(sizes[:3]) > 0 and is_known and not is_scaled
    return _Header(order, tuple(sizes[:rank]), kind, bits, int(offset), is_plain and offset >= HEADER)
