"""What both directions share: names, labels, the description that goes along, and files that are linked where nothing changes.

nnU-Net's format is that of its documentation/dataset_format.md (version 2): imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz,
and a dataset.json whose labels are consecutive, the one called ``ignore`` last.
"""

import filecmp
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from odiff.errors import DatasetError
from odiff.geometry import read_mask, read_volume, write_volume
from odiff.storage import atomic_path

RAW, PREPROCESSED, SPLITS = "nnUNet_raw", "nnUNet_preprocessed", "splits_final.json"
IGNORED, CHANNEL, ORIGIN = "ignore", "0000", "odiff"
ENDINGS = (".nii.gz", ".nrrd", ".mha", ".gipl", ".nii")
ANOTHER = ".nii.gz"


@dataclass(frozen=True)
class OriginCase:
    """The study that a case of nnU-Net is a series of."""

    case: str
    patient: str
    laterality: str | None


@dataclass(frozen=True)
class Origin:
    """What nnU-Net's dataset.json has no place for; kept in it under ``odiff``, which nnU-Net passes over."""

    dataset: str
    joint: str
    view: str
    labels: dict[str, int]
    ignore_label: int | None
    left_right: tuple[tuple[str, str], ...]
    cases: dict[str, OriginCase]


def consecutive_labels(labels: Mapping[str, int], has_ignored: bool) -> dict[str, int]:
    """The labels as nnU-Net numbers them: in the order of their values from 0, what is to be ignored last."""
    ordered = sorted(labels, key=lambda name: labels[name])
    return {name: number for number, name in enumerate([*ordered, IGNORED] if has_ignored else ordered)}


def renumbered(mask: np.ndarray, values: Mapping[int, int], where: str) -> np.ndarray:
    """`mask` with each value replaced by what `values` has for it, in the smallest unsigned type.

    Raises
    ------
    DatasetError
        A voxel holds another value; messages start with `where`.
    """
    found, place = np.unique(mask, return_inverse=True)
    strange = [int(value) for value in found if int(value) not in values]
    if strange:
        raise DatasetError(
            f"{where}: value {strange[0]} is no label of dataset.json; odiff_verify_dataset lists all such files"
        )
    kind = np.uint8 if max(values.values()) <= np.iinfo(np.uint8).max else np.uint16
    return np.array([values[int(value)] for value in found], kind)[place].reshape(mask.shape)


def place_image(source: Path, target: Path, ending: str) -> None:
    """`source` as `target`, which has that ending: linked or copied as it is, written anew where it has another ending."""
    if source.name.endswith(ending):
        link_or_copy(source, target)
    else:
        volume = read_volume(source)
        write_volume(target, volume.array, volume.grid)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, which takes no room; a copy where the file system allows none."""
    with atomic_path(target) as temporary:
        try:
            os.link(source.resolve(), temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def same_bytes(a: Path, b: Path) -> bool:
    """Whether two files are alike to the last byte."""
    return filecmp.cmp(a, b, shallow=False)


def same_labels(a: Path, b: Path) -> bool:
    """Whether two masks hold the same values, of whatever type."""
    return np.array_equal(read_mask(a).array, read_mask(b).array)


def place_new(target: Path, write: Callable[[Path], None], is_same: Callable[[Path, Path], bool] = same_bytes) -> None:
    """Have `write` make `target`; what is there already stays.

    Raises
    ------
    DatasetError
        What is there differs from what `write` makes.
    """
    if not target.exists():
        write(target)
        return
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / target.name
        write(again)
        if not is_same(again, target):
            raise DatasetError(f"{target}: is there already and differs; remove it, or choose another folder with -d")
