"""Predictions of odiff_predict beside their references: which files and rows belong together, and their scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from odiff.dataset import CaseRow, DatasetDescription, Series, default_rows, list_series, read_case_table
from odiff.dataset.loading import CASE_TABLE
from odiff.errors import DatasetError, ImageError
from odiff.experiment_planning.parallel import run_parallel
from odiff.geometry import VIEWS, read_grid
from odiff.inference.evaluate.probabilities import diagnosis_table
from odiff.inference.evaluate.scoring import check_grids, score_files, structures_of
from odiff.inference.evaluate.tables import VIEW, Evaluation, Rows, SegmentationTable, segmentation_table

SHOWN = 10


@dataclass(frozen=True)
class References:
    """What predictions are held against.

    `cases_file` was named by the user, `dataset` is the dataset's folder, where known; the case table is the first there is
    of `cases_file`, cases.csv in `labels` or beside it, and cases.csv in `dataset`.
    """

    description: DatasetDescription
    labels: Path | None
    cases_file: Path | None = None
    dataset: Path | None = None

    def case_table(self) -> Path | None:
        """The case table to read; None where there is none."""
        beside = [self.labels / CASE_TABLE, self.labels.parent / CASE_TABLE] if self.labels else []
        of_dataset = [self.dataset / CASE_TABLE] if self.dataset else []
        return self.cases_file or next((path for path in (*beside, *of_dataset) if path.exists()), None)

    def is_of_these_cases(self, table: Path) -> bool:
        """Whether the table lists the cases to evaluate: named by the user, or among the labels; not the whole dataset's."""
        return table == self.cases_file or (self.labels is not None and table.parent == self.labels)


@dataclass(frozen=True)
class Collected:
    """Scores of all that could be read; `missing` names what has no prediction, `failed` says what could not be read."""

    evaluation: Evaluation
    notes: tuple[str, ...]
    missing: tuple[str, ...]
    failed: tuple[str, ...]


def collect(predictions: Path, references: References, allow_missing: bool = False, processes: int = 1) -> Collected:
    """Score every series and every case that has both a prediction and a reference.

    Raises
    ------
    DatasetError
        A folder or table is missing or broken, a reference has no prediction (unless `allow_missing`), a prediction lies on
        another grid than its reference, or nothing at all can be scored.
    """
    check_folders(predictions, references)
    table = references.case_table()
    rows = read_case_table(table, references.description, require_labels=False) if table else {}
    notes = [] if table else ["no cases.csv: every case counts as its own patient, and no diagnosis is known"]
    pairs, unpredicted, unasked = pair_series(predictions, references)
    expected = set(rows) if table and references.is_of_these_cases(table) else set()
    expected |= {one.case for one in (*(one for one, _ in pairs), *unpredicted)}
    diagnosis, undiagnosed = diagnosis_table(predictions, rows, expected, references.description)
    missing = tuple(f"segmentation of {one.name}" for one in unpredicted) + undiagnosed
    if missing and not allow_missing:
        raise DatasetError(
            f"{predictions}: {len(missing)} predictions are missing: {shortened(missing)}; predict them, or give "
            "--allow-missing to leave them out"
        )
    notes += [f"left out, because it has no prediction: {name}" for name in missing]
    notes += [f"{len(unasked)} predictions have no reference: {shortened(unasked)}"] if unasked else []
    segmentation, failed = score_pairs(pairs, rows, references.description, processes)
    if segmentation is None and diagnosis is None:
        raise DatasetError(failed[0] if failed else nothing_found(predictions, references))
    return Collected(Evaluation(segmentation, diagnosis), tuple(notes), missing, failed)


def check_folders(predictions: Path, references: References) -> None:
    """Raise a `DatasetError` for a folder or file that was named and is not there."""
    for flag, path in (("-p", predictions), ("-r", references.labels)):
        if path is not None and not path.is_dir():
            raise DatasetError(f"{flag} {path}: no such folder")
    if references.cases_file and not references.cases_file.exists():
        raise DatasetError(f"--cases {references.cases_file}: no such file")


def nothing_found(predictions: Path, references: References) -> str:
    """What to look for where nothing can be scored."""
    description = references.description
    return (
        f"{predictions}: nothing to score: neither label files named <case>_<view>{description.file_ending} that are also in "
        f"{references.labels or 'a folder of references (-r)'}, nor a diagnosis.csv of cases with a known diagnosis in cases.csv"
    )


def pair_series(predictions: Path, references: References) -> tuple[list[tuple[Series, Path]], list[Series], list[str]]:
    """Reference series with their predictions, references without, and names of predictions without a reference.

    Where the folder holds no segmentation at all the task was not predicted, and no reference counts as missing.
    """
    ending = references.description.file_ending
    predicted = {one.image.name: one for one in list_series(predictions, ending, VIEWS)[0]}
    if references.labels is None or not references.description.labels or not predicted:
        return [], [], []
    wanted, _ = list_series(references.labels, ending, VIEWS)
    pairs = [(one, predictions / one.image.name) for one in wanted if one.image.name in predicted]
    names = {one.image.name for one in wanted}
    unasked = [one.name for name, one in predicted.items() if name not in names]
    return pairs, [one for one in wanted if one.image.name not in predicted], unasked


def score_pairs(
    pairs: Sequence[tuple[Series, Path]], rows: Mapping[str, CaseRow], description: DatasetDescription, processes: int
) -> tuple[SegmentationTable | None, tuple[str, ...]]:
    """The scores of all pairs that can be read, after the grids of all of them were found to agree."""
    for one, prediction in pairs:
        try:
            found, wanted = read_grid(prediction), read_grid(one.image)
        except ImageError:
            continue
        check_grids(prediction, found, one.image, wanted)
    structures = structures_of(description)
    jobs = [(prediction, one.image, one.view, structures) for one, prediction in pairs]
    results = dict(run_parallel(score_files, jobs, processes, "score"))
    failed = tuple(found for _, found in sorted(results.items()) if isinstance(found, str))
    scored = [(pairs[number][0], found) for number, found in sorted(results.items()) if not isinstance(found, str)]
    if not scored:
        return None, failed
    series = [one for one, _ in scored]
    known = default_rows({one.case for one in series}, description) | dict(rows)
    groups = {VIEW: tuple(one.view for one in series)} | {
        column: tuple(known[one.case].groups.get(column) or "" for one in series) for column in description.groups
    }
    names, cases = tuple(one.name for one in series), tuple(one.case for one in series)
    found_rows = Rows(names, cases, tuple(known[case].patient for case in cases), groups)
    return segmentation_table(found_rows, [found for _, found in scored]), failed


def shortened(names: Sequence[str]) -> str:
    """The first few of a list of names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
