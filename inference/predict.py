"""Folder to folder: one segmentation per series, one row of diagnosis.csv per case."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from odiff.data.tabular import Row
from odiff.dataset import CaseRow, DatasetDescription, Series, list_series, read_case_table
from odiff.errors import DatasetError, ImageError
from odiff.geometry import FAULT_ANGLE_DEG, Volume, read_volume, view_angle_deg, write_volume
from odiff.inference.predictor import CaseImages, Diagnosis, Predictor
from odiff.plan import Plan
from odiff.storage import atomic_path, read_json, write_json, write_text
from odiff.vocabulary import FUSED

log = logging.getLogger(__name__)
TABLE = "diagnosis.csv"
SETTINGS = "predict.json"
CASES = "cases"
ANSWER = {True: "yes", False: "no"}


@dataclass(frozen=True)
class PredictOutcome:
    """What a call did; `failed` holds one message per unreadable file."""

    segmented: int
    diagnosed: int
    skipped: int
    failed: tuple[str, ...]
    notes: tuple[str, ...]


def predict_folder(
    predictor: Predictor,
    source: Path,
    target: Path,
    *,
    cases_file: Path | None = None,
    save_probabilities: bool = False,
) -> PredictOutcome:
    """Predict every series of a folder; what an earlier call finished is left alone.

    Parameters
    ----------
    source : holds files ``<case>_<view>[_<k>]`` with the plan's file ending, and maybe cases.csv.
    target : takes segmentations named as their inputs, and diagnosis.csv.
    cases_file : a case table in place of the one in `source`.

    Raises
    ------
    DatasetError
        The folder holds no image that can be predicted, the case table is broken, or `target` holds predictions of another
        model.
    """
    plan = predictor.plan
    series = find_series(source, plan)
    rows = case_rows(source, cases_file, plan, predictor.table_columns)
    notes = [*notes_on_table(rows, {one.case for one in series}), *notes_on_views(predictor, series)]
    settings = check_target(source, target, predictor, series)
    inputs = settings.setdefault(CASES, {})
    known = set(_views(predictor))
    done = read_table(target / TABLE, plan)
    failed: list[str] = []
    counts = {"segmented": 0, "diagnosed": 0, "skipped": 0}
    gates: dict[str, dict[str, tuple[float, ...]]] = {}
    for case, members in tqdm(by_case(series), desc="predict", unit="case"):
        if not any(one.view in known for one in members):
            continue  # among the notes
        row, before = rows.get(case), inputs.get(case, {})
        missing = to_do(predictor, members, row, target, done.get(case, {}), before, save_probabilities)
        if not missing.segment and not missing.diagnose_by:
            counts["skipped"] += 1
            continue
        if missing.is_other_side:
            _forget_fused(target, members)
        segmented, found, unread = predict_case(predictor, missing, target, save_probabilities)
        counts["segmented"] += segmented
        failed += unread
        if found:
            done[case] = table_row(case, found)
            write_table(target / TABLE, done, plan)
            counts["diagnosed"] += 1
            if found.gates:
                gates[case] = found.gates
        inputs[case] = input_of(row) | {"unread": len(unread)}
        write_json(target / SETTINGS, settings)
    if gates:
        _write_gates(target, gates, plan)
    return PredictOutcome(**counts, failed=tuple(failed), notes=tuple(notes))


@dataclass(frozen=True)
class ToDo:
    """What an earlier call left of a case: series to segment, and views to diagnose by, none where the diagnosis is there."""

    members: tuple[Series, ...]
    laterality: str | None
    tabular: Row
    segment: tuple[Series, ...]
    diagnose_by: tuple[str, ...]
    is_other_side: bool = False


def to_do(
    predictor: Predictor, members: Sequence[Series], row: CaseRow | None, target: Path, done: dict[str, str],
    before: dict[str, Any], save_probabilities: bool,
) -> ToDo:  # fmt: skip
    """What was made of other input is made anew.

    Parameters
    ----------
    done : the case's row of diagnosis.csv.
    before : what `input_of` said when the case was predicted, and how many of its files could not be read; empty where that is unknown.
    """
    tabular = row.tabular if row else {}
    now = input_of(row)
    is_other_side = bool(before) and before["laterality"] != now["laterality"]
    is_other = bool(before) and (is_other_side or before["tabular"] != now["tabular"] or before["unread"] > 0)
    views = tuple(view for view in predictor.models.diagnosis if any(one.view == view for one in members))
    answers = {"views": "+".join(views), "tabular": ANSWER[predictor.uses_table(views, tabular)]}
    is_diagnosed = not is_other and {key: done.get(key) for key in answers} == answers
    segment = tuple(
        one for one in members
        if predictor.can_segment(one.view) and (is_other_side or not _is_done(one, target, save_probabilities))
    )  # fmt: skip
    return ToDo(
        tuple(members), row.laterality if row else None, tabular, segment, () if is_diagnosed else views, is_other_side
    )


def predict_case(
    predictor: Predictor, missing: ToDo, target: Path, save_probabilities: bool
) -> tuple[int, Diagnosis | None, list[str]]:
    """Write the masks that are missing; each image is read once.

    Returns
    -------
    How many masks were written, the diagnosis where it was missing and an image could be read, and a message for each that could not.
    """
    failed: list[str] = []
    kept: dict[str, tuple[Volume, ...]] = {}
    segmented = 0
    for one, volume in _volumes(missing.members if missing.diagnose_by else missing.segment, failed):
        if one in missing.segment:
            _segment(predictor, one, volume, missing.laterality, target, save_probabilities)
            segmented += 1
        if one.view in missing.diagnose_by:
            kept[one.view] = (*kept.get(one.view, ()), volume)
    if not kept:
        return segmented, None, failed
    return segmented, predictor.diagnose(CaseImages(kept, missing.laterality, missing.tabular)), failed


def _forget_fused(target: Path, members: Sequence[Series]) -> None:
    """Remove what ``--fuse-segmentation`` made of masks that are now made anew."""
    for one in members:
        (target / FUSED / one.image.name).unlink(missing_ok=True)


def by_case(series: Iterable[Series]) -> list[tuple[str, list[Series]]]:
    """The cases in order of their names, each with its series."""
    found: dict[str, list[Series]] = {}
    for one in series:
        found.setdefault(one.case, []).append(one)
    return sorted(found.items())


def input_of(row: CaseRow | None) -> dict[str, Any]:
    """What a case's predictions depend on beside its images: laterality and the columns of the table."""
    return {"laterality": row.laterality if row else None, "tabular": row.tabular if row else {}}


def notes_on_table(rows: dict[str, CaseRow], cases: set[str]) -> list[str]:
    """What of a case table does not fit the images: names that are written otherwise are overlooked easily."""
    without = sorted(cases - set(rows)) if rows else []
    return [f"cases.csv: no row for {len(without)} of {len(cases)} cases, {without[0]} first"] if without else []


def notes_on_views(predictor: Predictor, series: Sequence[Series]) -> list[str]:
    """Views that are there and have no model of a task that is asked for."""
    unknown = sorted({one.view for one in series} - set(_views(predictor)))
    notes = [f"view {view}: no trained model of the tasks asked for, skipped" for view in unknown]
    if predictor.models.diagnosis:
        cases = by_case(series)
        without = [case for case, some in cases if not any(one.view in predictor.models.diagnosis for one in some)]
        if without:
            views = ", ".join(predictor.models.diagnosis)
            notes.append(f"{len(without)} cases without a view that is diagnosed ({views}), {without[0]} first: no row")
    return notes


def check_target(source: Path, target: Path, predictor: Predictor, series: Sequence[Series]) -> dict[str, Any]:
    """Note in `target` what it is predicted with, or refuse to mix predictions of two models, or predictions and other files.

    Returns
    -------
    What predict.json holds; under ``cases`` what each case was predicted from, as far as that was noted.

    Raises
    ------
    DatasetError
        It holds predictions of other weights or settings, or files of the names of predictions that are none; or it is `source`.
    """
    if source.resolve() == target.resolve():
        raise DatasetError(f"-o {target}: is the folder of the images, which masks would overwrite; choose another -o")
    now = {
        "model": predictor.models.identity,
        "step_size": predictor.step_size,
        "mirroring": predictor.is_mirroring,
    }
    path = target / SETTINGS
    if path.exists():
        stored: dict[str, Any] = read_json(path, DatasetError, "choose another -o")
        for key, value in now.items():
            if stored.get(key) != value:
                raise DatasetError(
                    f"{target}: holds predictions made with another {key} ({stored.get(key)!r}, now {value!r}); choose "
                    "another -o, or delete them"
                )
        return stored
    names = [target / one.image.name for one in series] + [target / TABLE]
    if strange := [one for one in names if one.exists() or one.is_symlink()]:
        raise DatasetError(
            f"{strange[0]}: is there and not written by odiff_predict, which keeps a {SETTINGS} beside ({len(strange)} such files); "
            "choose another -o"
        )
    settings = now | {"folder": str(predictor.models.folder)}
    write_json(path, settings)
    return settings


def _views(predictor: Predictor) -> list[str]:
    return [view for view in predictor.plan.views if predictor.can_segment(view) or view in predictor.models.diagnosis]


def find_series(source: Path, plan: Plan) -> tuple[Series, ...]:
    """The series in an input folder.

    Raises
    ------
    DatasetError
        The folder is missing or holds none.
    """
    if not source.is_dir():
        raise DatasetError(f"{source}: no such folder; give the folder of images with -i")
    series, other = list_series(source, plan.file_ending, ("sagittal", "coronal", "axial"))
    if not series:
        example = f"; {other[0].name} does not fit" if other else ""
        raise DatasetError(
            f"{source}: no images named <case>_<view>{plan.file_ending} (views {', '.join(plan.views)}){example}"
        )
    for path in other:
        log.info("%s: passed over, not named <case>_<view>%s", path, plan.file_ending)
    return series


def case_rows(
    source: Path, cases_file: Path | None, plan: Plan, tabular: dict[str, str] | None = None
) -> dict[str, CaseRow]:
    """Laterality, patient and tabular columns of each case, from ``--cases`` or cases.csv in the input folder; empty without."""
    path = cases_file or source / "cases.csv"
    if cases_file and not cases_file.exists():
        raise DatasetError(f"--cases {cases_file}: no such file")
    if not path.exists():
        return {}
    nothing = DatasetDescription(
        plan.dataset, plan.joint, plan.file_ending, tuple(plan.views), {}, None, False, (), (), tabular or {}, ()
    )
    return read_case_table(path, nothing, require_labels=False)


def _volumes(series: Sequence[Series], failed: list[str]) -> Iterator[tuple[Series, Volume]]:
    """Each series that can be read, one at a time; the others leave a message."""
    for one in series:
        try:
            volume = read_volume(one.image)
        except ImageError as error:
            failed.append(str(error))
            continue
        angle = view_angle_deg(volume.grid, one.view)
        if angle is not None and angle > FAULT_ANGLE_DEG:
            failed.append(
                f"{one.image}: its slices lie {angle:.0f} degrees from {one.view}; correct the name or the header"
            )
            continue
        yield one, volume


def _is_done(series: Series, target: Path, save_probabilities: bool) -> bool:
    return (target / series.image.name).exists() and (
        not save_probabilities or (target / f"{series.name}.npz").exists()
    )


def _segment(
    predictor: Predictor, series: Series, volume: Volume, laterality: str | None, target: Path, save_probabilities: bool
) -> None:
    if save_probabilities:
        labels, probabilities = predictor.segment_with_probabilities(volume, series.view, laterality)
        with atomic_path(target / f"{series.name}.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, probabilities=probabilities)
    else:
        labels = predictor.segment(volume, series.view, laterality)
    write_volume(target / series.image.name, labels, volume.grid, like=series.image)


def columns(plan: Plan) -> list[str]:
    """Columns of diagnosis.csv."""
    return ["case", *plan.diagnoses, "views", "tabular", "calibrated", "laterality_known"]


def table_row(case: str, found: Diagnosis) -> dict[str, str]:
    """One row of diagnosis.csv."""
    probabilities = {name: f"{value:.5f}" for name, value in found.probabilities.items()}
    return {
        "case": case,
        **probabilities,
        "views": "+".join(found.views),
        "tabular": ANSWER[found.is_tabular],
        "calibrated": ANSWER[found.is_calibrated],
        "laterality_known": ANSWER[found.is_laterality_known],
    }


def _write_gates(target: Path, gates: dict[str, dict[str, tuple[float, ...]]], plan: Plan) -> None:
    from odiff.learning.gates import add_gates, gate_table  # needs pandas and matplotlib, which are slow to import

    views = list(next(iter(gates.values())))
    weights = np.array([[of_case[view] for view in views] for of_case in gates.values()]).transpose(0, 2, 1)
    add_gates(target, gate_table(list(gates), plan.diagnoses, views, weights))


def read_table(path: Path, plan: Plan) -> dict[str, dict[str, str]]:
    """Rows of an earlier diagnosis.csv by case.

    Raises
    ------
    DatasetError
        The file is of another model.
    """
    if not path.exists():
        return {}
    import pandas as pd  # slow to import, and segmentation alone has no table

    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if list(table.columns) != columns(plan):
        raise DatasetError(
            f"{path}: has other columns than this model's ({', '.join(columns(plan))}); choose another -o"
        )
    return {row["case"]: {str(key): str(value) for key, value in row.items()} for row in table.to_dict("records")}


def write_table(path: Path, rows: dict[str, dict[str, str]], plan: Plan) -> None:
    """Write diagnosis.csv, sorted by case."""
    import pandas as pd

    table = pd.DataFrame([rows[case] for case in sorted(rows)], columns=columns(plan))
    write_text(path, table.to_csv(index=False))
