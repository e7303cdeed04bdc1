"""One predicted label map against its reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from odiff.data.labels import IGNORE, keep_largest, label_counts, mark_unknown
from odiff.data.store import open_array, read_stored
from odiff.dataset import DatasetDescription
from odiff.errors import DatasetError, OdiffError
from odiff.geometry import Grid, read_mask, same_grid
from odiff.metrics.segmentation import dice, score_case

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Structures:
    """What to score, and what of the reference counts nowhere."""

    labels: dict[str, int]
    cartilage: tuple[str, ...]
    ignore_label: int | None = None
    sparse_slices: bool = False


def structures_of(description: DatasetDescription) -> Structures:
    """As dataset.json declares them; thickness needs whole volumes, so none is measured where slices are sparse."""
    cartilage = () if description.sparse_slices else description.cartilage
    return Structures(description.labels, cartilage, description.ignore_label, description.sparse_slices)


def score_files(prediction: Path, reference: Path, view: str, structures: Structures) -> Scores | str:
    """Scores of a prediction against a reference file, or what is wrong with one of them."""
    try:
        found, truth = read_mask(prediction), read_mask(reference)
        check_grids(prediction, found.grid, reference, truth.grid)
        check_labels(prediction, found.array, structures)
        check_labels(reference, truth.array, structures)
    except OdiffError as error:
        return str(error)
    known = mark_unknown(truth.array, truth.grid, view, structures.ignore_label, structures.sparse_slices)
    spacing = truth.grid.spacing_zyx_mm
    return score_case(found.array, known, structures.labels, spacing, known == IGNORE, structures.cartilage)


@dataclass(frozen=True)
class StoredScores:
    """Scores of a validation prediction, and Dice by label with only the largest component left."""

    scores: Scores
    cleaned_dice: dict[str, float]


def score_validation(prediction: Path, prepared: Path, name: str, structures: Structures) -> StoredScores:
    """Scores of a validation prediction against the truth that preprocessing stored on the file's own grid.

    Raises
    ------
    OdiffError
        A file is missing or damaged, or the grids differ: the prediction is of another version of the data.
    """
    found = read_mask(prediction)
    grid = read_stored(prepared, name).geometry.grid
    truth_path = prepared / f"{name}_truth.b2nd"
    check_grids(prediction, found.grid, truth_path, grid)
    truth = open_array(truth_path)[:]
    unknown = truth == IGNORE
    scores = score_case(found.array, truth, structures.labels, grid.spacing_zyx_mm, unknown, structures.cartilage)
    cleaned = {}
    for label in scores:
        value = structures.labels[label]
        mask = keep_largest(found.array == value, [True], background=False)
        cleaned[label] = dice(mask & ~unknown, truth == value)
    return StoredScores(scores, cleaned)


def check_grids(prediction: Path, found: Grid, reference: Path, wanted: Grid) -> None:
    """Raise a `DatasetError` that names both files unless they lie on one grid."""
    if same_grid(found, wanted):
        return
    for field in ("shape_zyx", "spacing_zyx_mm", "origin_xyz_mm", "direction"):
        ours, theirs = getattr(found, field), getattr(wanted, field)
        if not np.allclose(ours, theirs, atol=1e-4):
            raise DatasetError(
                f"{prediction}: {field} is {_list(ours)}, in the reference {reference} {_list(theirs)}; a prediction must lie "
                "on the grid of its reference: predict the image that was labelled"
            )
    raise DatasetError(f"{prediction}: its voxels lie elsewhere than those of the reference {reference}")


def check_labels(path: Path, mask: np.ndarray, structures: Structures) -> None:
    """Raise a `DatasetError` where a label map holds a value that dataset.json does not declare."""
    known = {*structures.labels.values(), structures.ignore_label}
    for value, count in label_counts(mask).items():
        if value not in known:
            raise DatasetError(
                f"{path}: {count} voxels have the value {value}, which is not in segmentation.labels of dataset.json; "
                "declare it, or give the dataset.json of these labels"
            )


def _list(values: Sequence[float]) -> str:
    return "x".join(f"{value:.4g}" for value in values)
