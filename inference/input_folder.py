"""The folder to predict: its series, its case table, and what of them fits neither each other nor the models."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from odiff.dataset import CaseRow, DatasetDescription, Series, list_series, read_case_table
from odiff.dataset.loading import CASE_TABLE
from odiff.errors import DatasetError, ImageError
from odiff.geometry import FAULT_ANGLE_DEG, VIEWS, Volume, read_volume, view_angle_deg
from odiff.inference.predictor import Predictor
from odiff.plan import Plan

log = logging.getLogger(__name__)


def find_series(source: Path, plan: Plan) -> tuple[Series, ...]:
    """The series in an input folder.

    Raises
    ------
    DatasetError
        The folder is missing or holds none.
    """
    if not source.is_dir():
        raise DatasetError(f"{source}: no such folder; give the folder of images with -i")
    series, other = list_series(source, plan.file_ending, VIEWS)
    if not series:
        example = f"; {other[0].name} does not fit" if other else ""
        raise DatasetError(
            f"{source}: no images named <case>_<view>{plan.file_ending} (views {', '.join(plan.views)}){example}"
        )
    for path in other:
        log.info("%s: passed over, not named <case>_<view>%s", path, plan.file_ending)
    return series


def by_case(series: Iterable[Series]) -> list[tuple[str, list[Series]]]:
    """The cases in order of their names, each with its series."""
    found: dict[str, list[Series]] = {}
    for one in series:
        found.setdefault(one.case, []).append(one)
    return sorted(found.items())


def case_rows(
    source: Path, cases_file: Path | None, plan: Plan, tabular: dict[str, str] | None = None
) -> dict[str, CaseRow]:
    """Laterality, patient and tabular columns of each case, from ``--cases`` or cases.csv in the input folder; empty without."""
    path = cases_file or source / CASE_TABLE
    if cases_file and not cases_file.exists():
        raise DatasetError(f"--cases {cases_file}: no such file")
    if not path.exists():
        return {}
    nothing = DatasetDescription(
        plan.dataset, plan.joint, plan.file_ending, tuple(plan.views), {}, None, False, (), (), tabular or {}, ()
    )
    return read_case_table(path, nothing, require_labels=False)


def read_series(series: Sequence[Series], failed: list[str]) -> Iterator[tuple[Series, Volume]]:
    """Each series that can be read, one at a time; the others leave a message in `failed`."""
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


def notes_on_table(rows: dict[str, CaseRow], cases: set[str]) -> list[str]:
    """What of a case table does not fit the images: names that are written otherwise are overlooked easily."""
    without = sorted(cases - set(rows)) if rows else []
    return [f"{CASE_TABLE}: no row for {len(without)} of {len(cases)} cases, {without[0]} first"] if without else []


def notes_on_laterality(predictor: Predictor, rows: dict[str, CaseRow], series: Sequence[Series]) -> list[str]:
    """Cases that are segmented as right joints because nothing tells their side, though the training knew it."""
    plans = predictor.models.segmentation_plans
    cases = {one.case for one in series if one.view in plans and plans[one.view].average_unknown_laterality}
    unknown = sorted(case for case in cases if case not in rows or rows[case].laterality is None)
    if not unknown:
        return []
    return [
        f"laterality unknown of {len(unknown)} of {len(cases)} cases, {unknown[0]} first: segmented as right joints; "
        f"give L or R in the column laterality of {CASE_TABLE}"
    ]


def notes_on_views(predictor: Predictor, series: Sequence[Series]) -> list[str]:
    """Views that are there and have no model of a task that is asked for."""
    unknown = sorted({one.view for one in series} - predictor.views)
    notes = [f"view {view}: no trained model of the tasks asked for, skipped" for view in unknown]
    if predictor.models.diagnosis:
        cases = by_case(series)
        without = [case for case, some in cases if not any(one.view in predictor.models.diagnosis for one in some)]
        if without:
            views = ", ".join(predictor.models.diagnosis)
            notes.append(f"{len(without)} cases without a view that is diagnosed ({views}), {without[0]} first: no row")
    return notes
