"""Segmentations of several views of a case, averaged in the patient's space and written on the grid of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from tqdm import tqdm

from odiff.data.restoring import label_type
from odiff.dataset import Series
from odiff.geometry import Grid, Volume, image_from_volume, write_volume
from odiff.inference.input_folder import by_case, case_rows, find_series, read_series
from odiff.inference.predictor import Predictor
from odiff.learning.segment import class_values
from odiff.vocabulary import FUSED

OUTSIDE = -1.0


@dataclass(frozen=True)
class Shares:
    """Class probabilities (classes, z, y, x) of one series on its own grid."""

    series: Series
    grid: Grid
    probabilities: np.ndarray


def fuse_folder(
    predictor: Predictor, source: Path, target: Path, cases_file: Path | None = None
) -> tuple[int, tuple[str, ...]]:
    """Write ``fused/<case>_<view>`` below `target` for every case with two or more views that can be segmented.

    Files that are there already are left alone, and images that cannot be read or lie across their view left out.

    Returns
    -------
    How many files were written, and one message per image that was left out.
    """
    rows = case_rows(source, cases_file, predictor.plan)
    series = [one for one in find_series(source, predictor.plan) if predictor.can_segment(one.view)]
    written = 0
    failed: list[str] = []
    for case, members in tqdm(by_case(series), desc="fuse", unit="case"):
        if not is_unfinished(members, target):
            continue
        volumes = list(read_series(members, failed))
        if not is_unfinished([one for one, _ in volumes], target):
            continue
        row = rows.get(case)
        laterality = row.laterality if row else None
        shares = [shares_of(predictor, one, volume, laterality) for one, volume in volumes]
        for own in shares:
            fused = fuse_onto(own, [other for other in shares if other.series.view != own.series.view])
            values = class_values(predictor.plan)
            table = torch.tensor(values, dtype=label_type(values)).numpy()
            labels = predictor.cleaned(table[fused.argmax(axis=0)], own.series.view)
            write_volume(_path_of(own.series, target), labels, own.grid, like=own.series.image)
            written += 1
    return written, tuple(failed)


def is_unfinished(members: Sequence[Series], target: Path) -> bool:
    """Whether series of one case are of two views or more, and one of them lacks its file below `target`."""
    return len({one.view for one in members}) > 1 and not all(_path_of(one, target).exists() for one in members)


def _path_of(series: Series, target: Path) -> Path:
    return target / FUSED / series.image.name


def shares_of(predictor: Predictor, series: Series, volume: Volume, laterality: str | None) -> Shares:
    """What the view's own models say of a series."""
    _, probabilities = predictor.segment_with_probabilities(volume, series.view, laterality)
    return Shares(series, volume.grid, probabilities)


def fuse_onto(own: Shares, others: Sequence[Shares]) -> np.ndarray:
    """The mean of `own` and of every other view that covers a voxel, (classes, z, y, x) on the grid of `own`."""
    total = own.probabilities.astype(np.float32)
    count = np.ones(own.grid.shape_zyx, np.float32)
    for other in others:
        moved = resampled(other.probabilities, other.grid, own.grid)
        inside = moved[0] > OUTSIDE / 2
        total[:, inside] += moved[:, inside]
        count += inside
    return total / count


def resampled(probabilities: np.ndarray, grid: Grid, onto: Grid) -> np.ndarray:
    """(classes, z, y, x) of one grid interpolated linearly at the voxels of another; `OUTSIDE` beyond its field of view."""
    reference = image_from_volume(np.zeros(onto.shape_zyx, np.uint8), onto)
    moved = np.empty((len(probabilities), *onto.shape_zyx), np.float32)
    for number, values in enumerate(probabilities):
        image = image_from_volume(values.astype(np.float32), grid)
        moved[number] = sitk.GetArrayFromImage(
            sitk.Resample(image, reference, sitk.Transform(), sitk.sitkLinear, OUTSIDE)
        )
    return moved
