"""Voxels unpacked by hand are those that SimpleITK reads, and what it hides is found."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk

from odiff.errors import ImageError
from odiff.geometry import read_mask, read_volume
from odiff.geometry.nifti_voxels import read_nifti_voxels

TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")


def write(path, array, spacing=(0.7, 0.8, 4.0)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((3.0, -20.0, 7.5))
    image.SetDirection((0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    sitk.WriteImage(image, str(path))
    return path


def patch(path, **fields):
    """Overwrite header fields of an uncompressed little-endian file: name=(offset, format, values)."""
    content = bytearray(path.read_bytes())
    for offset, form, *values in fields.values():
        struct.pack_into("<" + form, content, offset, *values)
    path.write_bytes(bytes(content))


def numbers(kind):
    info = np.iinfo(kind) if np.dtype(kind).kind in "iu" else np.finfo("float32")
    low, high = max(float(info.min), -1e5), min(float(info.max), 1e5)
    return np.random.default_rng(0).uniform(low, high, (3, 4, 5)).astype(kind)


def as_simpleitk_reads(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_read_as_simpleitk_reads_it(tmp_path, kind, ending):
    path = write(tmp_path / f"a{ending}", numbers(kind))
    found = read_nifti_voxels(path)
    assert found.fault is None
    assert found.array.dtype == kind
    assert np.array_equal(found.array, as_simpleitk_reads(path))
    assert np.array_equal(read_volume(path).array, as_simpleitk_reads(path).astype(np.float32))


def test_big_endian_files_are_read_as_simpleitk_reads_them(tmp_path):
    path = write(tmp_path / "a.nii", numbers("int16"))
    little = path.read_bytes()
    header = bytearray(little[:352])
    for offset, form in (
        (0, "i"),
        (32, "i"),
        (40, "8h"),
        (68, "4h"),
        (76, "8f"),
        (108, "3f"),
        (124, "4f"),
        (252, "2h"),
        (256, "18f"),
    ):
        struct.pack_into(">" + form, header, offset, *struct.unpack_from("<" + form, little, offset))
    path.write_bytes(bytes(header) + np.frombuffer(little[352:], "<i2").astype(">i2").tobytes())
    found = read_nifti_voxels(path).array
    assert found.dtype == np.dtype("int16")
    assert np.array_equal(found, as_simpleitk_reads(path))


@pytest.mark.parametrize(
    "slope, intercept", [(0.5, -3.0), (1.0, 100.0), (2.0, 0.0), (1.0, 0.0), (0.0, 5.0), (float("nan"), 0.0)]
)
def test_scaled_intensities_are_those_of_simpleitk(tmp_path, slope, intercept):
    path = write(tmp_path / "a.nii", numbers("int16"))
    patch(path, scaling=(112, "2f", slope, intercept))
    assert np.array_equal(read_volume(path).array, as_simpleitk_reads(path).astype(np.float32))


def test_extensions_before_the_voxels_are_passed_over(tmp_path):
    path = write(tmp_path / "a.nii", numbers("int16"))
    content = path.read_bytes()
    extension = struct.pack("<2i8s", 16, 6, b"comment!")
    path.write_bytes(content[:348] + b"\1\0\0\0" + extension + content[352:])
    patch(path, offset=(108, "f", 368.0))
    assert np.array_equal(read_volume(path).array, as_simpleitk_reads(path))


def test_one_volume_in_four_dimensions_keeps_its_grid(tmp_path):
    path = write(tmp_path / "a.nii", numbers("int16"))
    plain = read_volume(path)
    patch(path, dims=(40, "5h", 4, 5, 4, 3, 1))
    found = read_volume(path)
    assert found.grid == plain.grid
    assert np.array_equal(found.array, plain.array)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_what_ends_early_is_found(tmp_path, ending, kept):
    path = write(tmp_path / f"a{ending}", np.random.default_rng(0).integers(0, 3000, (8, 30, 30)).astype(np.int16))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ImageError, match="truncated"):
        read_volume(path)


def test_a_flipped_bit_in_a_compressed_file_is_found(tmp_path):
    path = tmp_path / "a.nii.gz"
    plain = write(tmp_path / "a.nii", numbers("int16")).read_bytes()
    stored = bytearray(gzip.compress(plain, compresslevel=0))
    stored[-20] ^= 1
    path.write_bytes(bytes(stored))
    with pytest.raises(ImageError, match="damaged"):
        read_volume(path)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_counted(tmp_path, kind, value):
    array = numbers(kind)
    array[0, 0, :2] = value
    path = write(tmp_path / "a.nii.gz", array)
    with pytest.raises(ImageError, match="2 voxels are NaN or infinite"):
        read_volume(path)


def test_complex_numbers_are_refused(tmp_path):
    """SimpleITK would give their real half."""
    path = tmp_path / "a.nii"
    sitk.WriteImage(sitk.GetImageFromArray(numbers("float32").astype(np.complex64)), str(path))
    with pytest.raises(ImageError, match="complex numbers"):
        read_volume(path)


@pytest.mark.parametrize(
    ("at", "values", "named"),
    [
        (80, (0.0, -0.7, float("nan")), "spacing must be above 0"),
        (108, (float("nan"), float("inf"), -352.0, 1e30), "vox_offset"),
    ],
)
def test_a_number_of_the_header_that_cannot_be_is_named(tmp_path, at, values, named):
    for value in values:
        path = write(tmp_path / "a.nii", numbers("int16"))
        patch(path, field=(at, "f", value))
        with pytest.raises(ImageError, match=named):
            read_volume(path)


def test_a_header_that_promises_a_huge_volume_costs_no_memory(tmp_path):
    path = write(tmp_path / "a.nii", numbers("int16"))
    patch(path, dims=(40, "4h", 3, 30000, 30000, 30000))
    tracemalloc.start()
    assert "truncated" in read_nifti_voxels(path).fault
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["uint8", "int16", "int64", "uint32", "float32", "float64"])
def test_masks_of_any_type_become_int32(tmp_path, kind):
    labels = np.random.default_rng(0).choice([0, 3, 26], (3, 4, 5))
    found = read_mask(write(tmp_path / "a.nii.gz", labels.astype(kind)))
    assert found.array.dtype == np.int32
    assert np.array_equal(found.array, labels)


def test_a_mask_of_fractions_names_one(tmp_path):
    with pytest.raises(ImageError, match=r"whole numbers, found 0\.5"):
        read_mask(write(tmp_path / "a.nii.gz", np.full((3, 4, 5), 0.5, np.float32)))


@pytest.mark.parametrize("kind", ["int64", "float64"])
def test_a_label_too_large_for_any_use_is_an_error(tmp_path, kind):
    with pytest.raises(ImageError, match="4294967296"):
        read_mask(write(tmp_path / "a.nii.gz", np.full((3, 4, 5), 2**32, kind)))
