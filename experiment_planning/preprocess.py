"""Preprocess every series to the grid of its plan; what is up to date is left alone."""

import hashlib
import json
import logging
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from odiff.data.index import PreparedCase, PreparedDataset, PreparedSeries, drop_index, write_index
from odiff.data.labels import mark_unknown
from odiff.data.preprocessing import prepare
from odiff.data.recipe import recipe_of, write_recipe
from odiff.data.store import FORMAT, read_stored, write_array, write_prepared
from odiff.dataset import Case, Dataset, Series, make_splits, read_splits
from odiff.errors import DatasetError, OdiffError
from odiff.experiment_planning.fingerprint import file_stamp
from odiff.experiment_planning.parallel import run_parallel
from odiff.geometry import Grid, read_mask, read_volume
from odiff.plan import Plan
from odiff.storage import write_json

SPLITS = "splits_final.json"
log = logging.getLogger(__name__)


def view_folder(preprocessed: Path, plan: Plan, view: str) -> Path:
    """Where the arrays of a view lie."""
    return preprocessed / f"{plan.name}_{view}"


def preprocess_dataset(
    dataset: Dataset, plan: Plan, preprocessed: Path, processes: int = 2, skipped: Collection[str] = ()
) -> tuple[int, int]:
    """Preprocess what is missing or out of date, and write splits and, last, the index.

    `skipped` are cases that the dataset has no more, though folds may name them.

    Returns
    -------
    How many series were preprocessed, and how many were up to date.
    """
    jobs, current = [], 0
    for case in dataset.cases:
        for series in case.series:
            if series.view not in plan.views:
                continue
            folder = view_folder(preprocessed, plan, series.view)
            is_left = is_mirrored(case.laterality, plan, series.view)
            stamp = preprocess_stamp(series, plan, is_left)
            if is_current(folder, series.name, stamp):
                current += 1
            else:
                jobs.append((series, plan, is_left, folder, stamp))
    check_splits_of(dataset, preprocessed, skipped)
    if jobs:
        drop_index(preprocessed)
    for _ in run_parallel(preprocess_series, jobs, processes, "preprocess"):
        pass
    for view in plan.views:
        if (folder := view_folder(preprocessed, plan, view)).exists():
            write_recipe(folder, plan, view)
    copy_description(dataset.folder, preprocessed)
    write_splits(dataset, preprocessed)
    cases = tuple(_prepared_case(case, plan) for case in dataset.cases)
    write_index(preprocessed, PreparedDataset(dataset.folder.name, cases, tuple(sorted(skipped))))
    return len(jobs), current


def is_mirrored(laterality: str | None, plan: Plan, view: str) -> bool:
    """Whether a joint of that side is mirrored to be a right one; on the paper's grid none is."""
    return laterality == "L" and plan.flip_left_joints and plan.views[view].grid == "canonical"


def preprocess_stamp(series: Series, plan: Plan, is_left: bool) -> str:
    """Changes with the files of the series and with every plan field that preprocessing reads."""
    read = [file_stamp(series), recipe_of(plan, series.view), is_left, FORMAT]
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()[:16]


def is_current(folder: Path, name: str, stamp: str) -> bool:
    """Whether a series was preprocessed from the same files with the same plan."""
    if not (folder / f"{name}.json").exists():
        return False
    try:
        return read_stored(folder, name).stamp == stamp
    except OdiffError:
        return False


def preprocess_series(series: Series, plan: Plan, is_left: bool, folder: Path, stamp: str) -> None:
    """Read, prepare and store one series with its mask."""
    (folder / f"{series.name}.json").unlink(missing_ok=True)  # its stamp does not hold for arrays half written
    volume = read_volume(series.image)
    if series.mask is None:
        write_prepared(folder, series.name, prepare(volume, None, plan.views[series.view], is_left), stamp)
        return
    labels = read_mask(series.mask).array
    truth = known_labels(labels, volume.grid, series.view, plan, is_left=False)
    write_array(folder / f"{series.name}_truth.b2nd", truth)
    is_swapped = is_left and plan.left_right
    mask = known_labels(labels, volume.grid, series.view, plan, is_left) if is_swapped else truth
    write_prepared(folder, series.name, prepare(volume, mask, plan.views[series.view], is_left), stamp)


def known_labels(mask: np.ndarray, grid: Grid, view: str, plan: Plan, is_left: bool) -> np.ndarray:
    """`mark_unknown` as the plan has it, and paired labels swapped on a mirrored joint."""
    known = mark_unknown(mask, grid, view, plan.ignore_label, plan.sparse_slices)
    for a, b in plan.left_right if is_left else ():
        known[mask == a], known[mask == b] = b, a
    return known


def _prepared_case(case: Case, plan: Plan) -> PreparedCase:
    series = tuple(PreparedSeries(s.name, s.view, s.mask is not None) for s in case.series if s.view in plan.views)
    return PreparedCase(case.name, case.patient, case.laterality, series, case.diagnoses, case.groups, case.tabular)


def copy_description(raw: Path, preprocessed: Path) -> None:
    """dataset.json and cases.csv, so that training needs no raw folder."""
    for name in ("dataset.json", "cases.csv"):
        if (raw / name).exists():
            shutil.copyfile(raw / name, preprocessed / name)
        else:
            (preprocessed / name).unlink(missing_ok=True)


def check_splits_of(dataset: Dataset, preprocessed: Path, skipped: Collection[str]) -> None:
    """Check the folds that are there, before anything is written.

    New cases that an earlier splits file lacks take part in no fold until it is deleted; that is the user's choice, as
    in nnU-Net, and is told.
    """
    path = preprocessed / SPLITS
    if not path.exists():
        return
    folds = read_splits(path, {case.name: case.patient for case in dataset.cases}, skipped)
    named = {case for fold in folds for part in fold.values() for case in part}
    left = [case.name for case in dataset.cases if is_labelled(case) and case.name not in named]
    if left:
        log.warning(
            "%s: %d labelled cases are in no fold, %s first; delete the file to have folds made anew",
            path,
            len(left),
            left[0],
        )


def write_splits(dataset: Dataset, preprocessed: Path) -> None:
    """Make the folds, or keep those that are there."""
    path = preprocessed / SPLITS
    if path.exists():
        return
    labelled = [case for case in dataset.cases if is_labelled(case)]
    if len({case.patient for case in labelled}) < 2:
        return
    labels = np.array([label_row(case, dataset) for case in labelled], float)
    splits = make_splits([case.name for case in labelled], [case.patient for case in labelled], labels)
    write_json(path, splits)


def is_labelled(case: Case) -> bool:
    """Whether anything can be learnt from a case but its looks."""
    return any(value is not None for value in case.diagnoses.values()) or any(series.mask for series in case.series)


def label_row(case: Case, dataset: Dataset) -> list[float]:
    """The labels that folds are stratified on: each diagnosis, and whether there is a mask."""
    row = [
        np.nan if (value := case.diagnoses.get(name)) is None else float(value)
        for name in dataset.description.diagnoses
    ]
    return [*row, float(any(series.mask for series in case.series))]


def without_cases(dataset: Dataset, names: Collection[str]) -> Dataset:
    """The dataset less the cases called `names`.

    Raises
    ------
    DatasetError
        No case is left.
    """
    kept = tuple(case for case in dataset.cases if case.name not in names)
    if not kept:
        raise DatasetError(
            f"{dataset.folder}: no case is left after skipping {len(names)}; mend the files that odiff_verify_dataset names"
        )
    return replace(dataset, cases=kept)
