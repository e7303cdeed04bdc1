"""Preprocessed series on disk: blosc2 arrays that can be read in part, and a JSON that describes them."""

import os
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
import torch

from odiff.data.labels import label_counts
from odiff.data.preprocessing import PreparedVolume, SeriesGeometry
from odiff.errors import DatasetError
from odiff.plan import from_plain, to_plain
from odiff.storage import atomic_path, read_json, write_json

COMPRESSION = {"codec": blosc2.Codec.LZ4, "clevel": 5}
# Counted up when arrays are stored in another way, so that older ones are made again.
FORMAT = 2
VOXELS_PER_LABEL = 1000
MEMORY_MAP = None if os.name == "nt" else "r"
ADVICE = "run odiff_plan_and_preprocess again"


@dataclass(frozen=True)
class StoredSeries:
    """The description beside the arrays; `stamp` tells whether they are up to date."""

    name: str
    stamp: str
    is_masked: bool
    label_values: tuple[int, ...]
    geometry: SeriesGeometry


def write_prepared(folder: Path, name: str, prepared: PreparedVolume, stamp: str) -> None:
    """Write ``<name>.b2nd`` (float16) and, last, ``<name>.json``.

    Where there is a mask, also ``<name>_seg.b2nd`` (int16) and ``<name>_places.b2nd``, see `structure_places`.
    """
    write_array(folder / f"{name}.b2nd", torch.from_numpy(prepared.image).half().numpy())
    values: tuple[int, ...] = ()
    if prepared.mask is not None:
        write_array(folder / f"{name}_seg.b2nd", prepared.mask)
        write_array(folder / f"{name}_places.b2nd", structure_places(prepared.mask))
        values = tuple(label_counts(prepared.mask))
    stored = StoredSeries(name, stamp, prepared.mask is not None, values, prepared.geometry)
    write_json(folder / f"{name}.json", to_plain(stored))


def structure_places(mask: np.ndarray, most: int = VOXELS_PER_LABEL) -> np.ndarray:
    """Rows (label, z, y, x) int16 of up to `most` voxels of each label above 0, evenly drawn, sorted by label.

    They stand for the mask (z, y, x) wherever a voxel of a structure is wanted; the draw depends on the mask alone.
    """
    voxels = np.random.default_rng(0).permutation(np.flatnonzero(mask > 0))
    labels = mask.ravel()[voxels]
    order = np.argsort(labels, kind="stable")
    labels, voxels = labels[order], voxels[order]
    first = np.searchsorted(labels, labels, side="left")
    kept = np.arange(len(labels)) - first < most
    places = np.unravel_index(voxels[kept], mask.shape)
    return np.stack([labels[kept], *places], axis=1).astype(np.int16)


def write_array(path: Path, array: np.ndarray) -> None:
    """One blosc2 array, compressed, whole or not at all."""
    with atomic_path(path) as temporary:
        blosc2.asarray(np.ascontiguousarray(array), urlpath=str(temporary), mode="w", cparams=COMPRESSION)


def read_stored(folder: Path, name: str) -> StoredSeries:
    """The description of a preprocessed series; a `DatasetError` where it is missing or damaged."""
    path = folder / f"{name}.json"
    return from_plain(StoredSeries, read_json(path, DatasetError, ADVICE), str(path), DatasetError)


def open_array(path: Path) -> blosc2.NDArray:
    """A preprocessed array that reads from disk what is sliced from it."""
    try:
        return blosc2.open(str(path), mode="r", mmap_mode=MEMORY_MAP)
    except (OSError, RuntimeError, ValueError) as fault:
        raise DatasetError(f"{path}: cannot be read ({fault}); {ADVICE}") from None
