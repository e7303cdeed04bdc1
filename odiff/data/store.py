"""Preprocessed series on disk: blosc2 arrays that can be read in part, and a JSON that describes them."""

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

COMPRESSION = {"codec": blosc2.Codec.ZSTD, "clevel": 1}
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
    """Write ``<name>.b2nd`` (float16), ``<name>_seg.b2nd`` (int16) and, last, ``<name>.json``."""
    write_array(folder / f"{name}.b2nd", torch.from_numpy(prepared.image).half().numpy())
    values: tuple[int, ...] = ()
    if prepared.mask is not None:
        write_array(folder / f"{name}_seg.b2nd", prepared.mask)
        values = tuple(label_counts(prepared.mask))
    stored = StoredSeries(name, stamp, prepared.mask is not None, values, prepared.geometry)
    write_json(folder / f"{name}.json", to_plain(stored))


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
        return blosc2.open(str(path), mode="r")
    except (OSError, RuntimeError, ValueError) as fault:
        raise DatasetError(f"{path}: cannot be read ({fault}); {ADVICE}") from None
