"""Folder to folder: one segmentation per series, one row of diagnosis.csv per case."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from odiff.dataset import Series
from odiff.geometry import Volume
from odiff.inference.input_folder import (
    by_case,
    case_rows,
    find_series,
    notes_on_laterality,
    notes_on_table,
    notes_on_views,
    read_series,
)
from odiff.inference.output_folder import OutputFolder, open_output
from odiff.inference.predictor import CaseImages, Diagnosis, Predictor
from odiff.inference.provenance import MadeOf, made_of


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
    notes = [
        *notes_on_table(rows, {one.case for one in series}),
        *notes_on_laterality(predictor, rows, series),
        *notes_on_views(predictor, series),
    ]
    output = open_output(target, source, predictor, series)
    failed: list[str] = []
    counts = {"segmented": 0, "diagnosed": 0, "skipped": 0}
    for case, members in tqdm(by_case(series), desc="predict", unit="case"):
        if not any(one.view in predictor.views for one in members):
            continue  # among the notes
        seen = [one for one in members if one.view in predictor.views]
        missing = to_do(predictor, output, seen, made_of(rows.get(case), seen), save_probabilities)
        if not missing.segment and not missing.diagnose_by:
            counts["skipped"] += 1
            output.note_images(case, missing.made_of)
            continue
        output.note_case(case, replace(missing.made_of, is_done=False))
        output.forget_masks(missing.stale)
        if missing.is_other_input:
            output.forget_fused(members)
        segmented, found, unread = predict_case(predictor, missing, output, save_probabilities)
        counts["segmented"] += segmented
        failed += unread
        if found:
            output.add_diagnosis(case, found)
            counts["diagnosed"] += 1
        elif missing.diagnose_by:
            output.forget_diagnosis(case)
        output.note_case(case, replace(missing.made_of, unread=len(unread)))
    if predictor.is_gated:
        output.draw_gates()
    return PredictOutcome(**counts, failed=tuple(failed), notes=tuple(notes))


@dataclass(frozen=True)
class ToDo:
    """What an earlier call left of a case: series to segment, and views to diagnose by, none where the diagnosis is there.

    Of `stale` there are masks of another image or side, and with `is_other_input` fused ones of other views.
    """

    members: tuple[Series, ...]
    made_of: MadeOf
    segment: tuple[Series, ...]
    diagnose_by: tuple[str, ...]
    stale: tuple[Series, ...] = ()
    is_other_input: bool = False


def to_do(
    predictor: Predictor, output: OutputFolder, members: Sequence[Series], now: MadeOf, save_probabilities: bool
) -> ToDo:
    """What was made of other input, or by a call that was interrupted in this case, is made anew; `now` is what the case is."""
    before = output.made_of(members[0].case)
    is_whole_case = before is not None and (not before.is_done or before.laterality != now.laterality)
    changed = now.changed_since(before) if before else frozenset()
    # Files that failed then are tried again.
    is_other = before is not None and bool(changed or replace(before, images=now.images) != now)
    views = tuple(view for view in predictor.models.diagnosis if any(one.view == view for one in members))
    is_diagnosed = not is_other and output.has_diagnosis(
        members[0].case, views, predictor.uses_table(views, now.tabular)
    )
    stale = tuple(one for one in members if is_whole_case or one.image.name in changed)
    segment = tuple(
        one for one in members
        if predictor.can_segment(one.view) and (one in stale or not output.has_mask(one, save_probabilities))
    )  # fmt: skip
    return ToDo(tuple(members), now, segment, () if is_diagnosed else views, stale, is_whole_case or bool(changed))


def predict_case(
    predictor: Predictor, missing: ToDo, output: OutputFolder, save_probabilities: bool
) -> tuple[int, Diagnosis | None, list[str]]:
    """Write the masks that are missing; each image is read once.

    Returns
    -------
    How many masks were written, the diagnosis where it was missing and an image could be read, and a message for each that could not.
    """
    failed: list[str] = []
    kept: dict[str, tuple[Volume, ...]] = {}
    segmented = 0
    for one, volume in read_series(missing.members if missing.diagnose_by else missing.segment, failed):
        if one in missing.segment:
            _segment(predictor, one, volume, missing.made_of.laterality, output, save_probabilities)
            segmented += 1
        if one.view in missing.diagnose_by:
            kept[one.view] = (*kept.get(one.view, ()), volume)
    if not kept:
        return segmented, None, failed
    case = CaseImages(kept, missing.made_of.laterality, missing.made_of.tabular)
    return segmented, predictor.diagnose(case), failed


def _segment(
    predictor: Predictor,
    series: Series,
    volume: Volume,
    laterality: str | None,
    output: OutputFolder,
    save_probabilities: bool,
) -> None:
    probabilities = None
    if save_probabilities:
        labels, probabilities = predictor.segment_with_probabilities(volume, series.view, laterality)
    else:
        labels = predictor.segment(volume, series.view, laterality)
    output.write_mask(series, labels, volume, probabilities)
