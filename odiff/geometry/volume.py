"""Volumes in and out of files, with where their voxels lie in the patient."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from odiff.errors import ImageError
from odiff.geometry.nifti_header import copy_geometry, is_nifti, sform
from odiff.geometry.nifti_voxels import NiftiVoxels, read_nifti_voxels
from odiff.geometry.repair import orthonormal
from odiff.storage import atomic_path

NEXT_STEP = "export the file again, or remove it"
LARGEST_LABEL = 2**31 - 1


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: sizes in voxels and mm, origin and direction cosines in SimpleITK's LPS world."""

    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    origin_xyz_mm: tuple[float, float, float]
    direction: tuple[float, ...]

    def normals(self) -> np.ndarray:
        """Unit vectors of the stored axes z, y, x in the LPS world; shape (3 axes, 3 components)."""
        return np.asarray(self.direction, float).reshape(3, 3).T[::-1]


@dataclass(frozen=True)
class Volume:
    """Voxels (z, y, x), their grid, and what was repaired while reading."""

    array: np.ndarray
    grid: Grid
    notes: tuple[str, ...] = ()


def read_volume(path: Path) -> Volume:
    """Read one 3D volume as float32.

    Raises
    ------
    ImageError
        Unreadable or truncated file, not one 3D volume, NaN or Inf, zero or negative spacing, sheared axes.
    """
    return _as_float(_read(path), str(path))


def read_mask(path: Path) -> Volume:
    """Read a label map as int32, however the file stores its integers.

    Raises
    ------
    ImageError
        As for `read_volume`, or a voxel is not an integer or beyond `LARGEST_LABEL`.
    """
    volume = _read(path)
    stored = volume.array if volume.array.dtype.kind in "iu" else _whole(_as_float(volume, str(path)).array, path)
    if not np.can_cast(stored.dtype, np.int32):
        for value in (int(stored.min()), int(stored.max())):
            if abs(value) > LARGEST_LABEL:
                raise ImageError(f"{path}: label {value} is beyond {LARGEST_LABEL}; number the labels anew")
    return Volume(stored.astype(np.int32), volume.grid, volume.notes)


def _whole(array: np.ndarray, path: Path) -> np.ndarray:
    rounded = np.rint(array)
    if not np.array_equal(rounded, array):
        odd = array[rounded != array][0]
        raise ImageError(f"{path}: a mask must hold whole numbers, found {odd:g}; save it as integers")
    return rounded


def read_grid(path: Path) -> Grid:
    """Read the header alone."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return read_volume(path).grid
    size, spacing = reader.GetSize(), reader.GetSpacing()
    if len(size) != 3:
        return read_volume(path).grid
    return _grid(size, spacing, reader.GetOrigin(), reader.GetDirection(), str(path))[0]


def volume_from_image(image: sitk.Image, name: str) -> Volume:
    """A SimpleITK image as a `Volume`, float32; `name` stands in messages."""
    return _as_float(_from_image(image, name), name)


def image_from_volume(array: np.ndarray, grid: Grid) -> sitk.Image:
    """An array (z, y, x) as a SimpleITK image on `grid`; keeps the dtype."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(grid.spacing_zyx_mm[::-1])
    image.SetOrigin(grid.origin_xyz_mm)
    image.SetDirection(grid.direction)
    return image


def write_volume(path: Path, array: np.ndarray, grid: Grid, like: Path | None = None) -> None:
    """Write (z, y, x) on its grid, compressed, whole or not at all; the ending chooses the format.

    `like` is the file that the grid was read from: between NIfTI files its geometry is then copied to the last bit.
    """
    with atomic_path(path) as temporary:
        sitk.WriteImage(image_from_volume(array, grid), str(temporary), useCompression=True)
        if like is not None and is_nifti(path) and is_nifti(like):
            copy_geometry(like, temporary)


def same_grid(a: Grid, b: Grid, tolerance_mm: float = 1e-2) -> bool:
    """Whether two grids have the same size and all voxels within `tolerance_mm` of each other."""
    if a.shape_zyx != b.shape_zyx:
        return False
    return all(math.dist(p, q) <= tolerance_mm for p, q in zip(_corners(a), _corners(b), strict=True))


def _corners(grid: Grid) -> list[np.ndarray]:
    steps = grid.normals() * (np.asarray(grid.spacing_zyx_mm) * (np.asarray(grid.shape_zyx) - 1))[:, None]
    origin = np.asarray(grid.origin_xyz_mm)
    return [origin, *(origin + step for step in steps)]


def _read(path: Path) -> Volume:
    """A file as a volume of its own type, faults of its bytes and its geometry found."""
    if not path.exists():
        raise ImageError(f"{path}: no such file")
    seen = read_nifti_voxels(path) if is_nifti(path) else NiftiVoxels()
    if seen.fault:
        raise ImageError(f"{path}: {seen.fault}; {NEXT_STEP}")
    if seen.array is not None and (geometry := _plain_geometry(path, seen.array.shape)):
        return Volume(seen.array, *geometry)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ImageError(f"{path}: cannot be read ({reason}); {NEXT_STEP}") from None
    return _from_image(image, str(path))


def _plain_geometry(path: Path, shape_zyx: tuple[int, ...]) -> tuple[Grid, tuple[str, ...]] | None:
    """Grid and repairs as SimpleITK reads them from the header alone; None where it sees anything but one volume of that shape."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        # axes some hundredths of a degree from right angles are refused by SimpleITK; here they are mended, or named
        stated = sform(path) if "orthonormal" in str(error) else None
        return _grid(shape_zyx[::-1], *stated, str(path)) if stated else None
    size = reader.GetSize()
    if size[::-1] != shape_zyx or reader.GetNumberOfComponents() != 1:
        return None
    return _grid(size, reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection(), str(path))


def _from_image(image: sitk.Image, name: str) -> Volume:
    image, notes = _to_3d(image, name)
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ImageError(
            f"{name}: has {image.GetNumberOfComponentsPerPixel()} components a voxel, expected grey values; {NEXT_STEP}"
        )
    grid, repairs = _grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection(), name)
    return Volume(sitk.GetArrayFromImage(image), grid, (*notes, *repairs))


def _as_float(volume: Volume, name: str) -> Volume:
    array = volume.array.astype(np.float32, copy=False)
    if volume.array.dtype.kind == "f":
        faulty = int(array.size - np.isfinite(array).sum())
        if faulty:
            raise ImageError(f"{name}: {faulty} voxels are NaN or infinite; {NEXT_STEP}")
    return Volume(array, volume.grid, volume.notes)


def _to_3d(image: sitk.Image, name: str) -> tuple[sitk.Image, tuple[str, ...]]:
    size = image.GetSize()
    if len(size) == 3:
        return image, ()
    if len(size) == 4 and size[3] == 1:
        return image[:, :, :, 0], ("4D file with one volume, read as 3D",)
    raise ImageError(f"{name}: has size {'x'.join(map(str, size))}, expected one 3D volume; split it")


def _grid(
    size: tuple[int, ...],
    spacing: tuple[float, ...],
    origin: tuple[float, ...],
    direction: tuple[float, ...],
    name: str,
) -> tuple[Grid, tuple[str, ...]]:
    if min(spacing) <= 0 or not all(math.isfinite(value) for value in spacing):
        raise ImageError(f"{name}: spacing {spacing} mm must be above 0; {NEXT_STEP}")
    mended, angle = orthonormal(direction)
    if mended is None:
        raise ImageError(
            f"{name}: direction cosines are {angle:.1f} degrees from right angles; resample it to a regular grid"
        )
    notes = (f"direction cosines made orthonormal (off by {angle:.2f} degrees)",) if angle > 0.01 else ()
    depth, rows, columns = size[::-1]
    sz, sy, sx = (float(value) for value in spacing[::-1])
    ox, oy, oz = (float(value) for value in origin)
    return Grid((depth, rows, columns), (sz, sy, sx), (ox, oy, oz), mended), notes
