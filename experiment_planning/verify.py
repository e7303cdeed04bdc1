"""Every problem of a dataset in one run, each with file, field, value and what to do."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from odiff.dataset import (
    DatasetDescription,
    Series,
    dataset_series,
    default_rows,
    list_series,
    mask_at,
    read_description,
    read_splits,
    scan_case_table,
)
from odiff.dataset.case_table import CaseRow
from odiff.errors import DatasetError
from odiff.experiment_planning.fingerprint import SeriesFingerprint
from odiff.experiment_planning.parallel import run_parallel
from odiff.experiment_planning.verify_series import Finding, survey_series

PARTS = ("Tr", "Ts")


@dataclass(frozen=True)
class Report:
    """All findings; faults stop planning, notes do not."""

    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """What must be mended."""
        return tuple(finding for finding in self.findings if finding.severity == "fault")

    @property
    def dataset_faults(self) -> tuple[Finding, ...]:
        """Faults that belong to no case, which skipping cases cannot mend."""
        return tuple(finding for finding in self.faults if finding.case is None)

    @property
    def faulty_cases(self) -> frozenset[str]:
        """Cases with a fault."""
        return frozenset(finding.case for finding in self.faults if finding.case is not None)


def verify_dataset(folder: Path, *, processes: int = 2, splits: Path | None = None) -> Report:
    """Read every file of a dataset and list all that breaks the contract; see `survey_dataset`."""
    return survey_dataset(folder, processes=processes, splits=splits)[0]


def survey_dataset(
    folder: Path, *, processes: int = 2, splits: Path | None = None, is_measured: Callable[[Series], bool] | None = None
) -> tuple[Report, dict[str, SeriesFingerprint]]:
    """Verify a dataset and take fingerprints on the way, so that no file is read for each.

    Parameters
    ----------
    folder : ``DatasetXXX_Name``.
    splits : a splits_final.json to check for leaks.
    is_measured : which training series to take the fingerprint of; none by default. Those with a fault get none.

    Returns
    -------
    Every finding, and the fingerprints by name of the series.

    Raises
    ------
    DatasetError
        dataset.json is missing or broken: nothing else can be judged then.
    """
    description = read_description(folder)
    series, findings = _all_series(folder, description)
    rows, table_findings = _check_table(folder, description, series)
    findings += table_findings
    findings += _check_patients(folder, description, rows)
    findings += _check_splits(splits, rows)
    training = tuple(one for one in series if one.image.parent.name != "imagesTs")
    values: set[int] = set()
    measured: dict[str, SeriesFingerprint] = {}
    wanted = {one.image for one in training if is_measured and is_measured(one)}
    jobs = [(one, description, one.image in wanted) for one in series]
    for _, seen in run_parallel(survey_series, jobs, processes, "verify"):
        findings += seen.findings
        values |= seen.values
        if seen.fingerprint:
            measured[seen.fingerprint.name] = seen.fingerprint
    if any(one.mask for one in training):
        findings += _absent_labels(folder, description, values)
    order = {"fault": 0, "note": 1}
    findings.sort(key=lambda finding: (order[finding.severity], finding.file, finding.field))
    return Report(tuple(findings)), measured


def _all_series(folder: Path, description: DatasetDescription) -> tuple[tuple[Series, ...], list[Finding]]:
    """Training and held-out series, and what is wrong with names and folders."""
    training, other = dataset_series(folder, description)
    test, other_test = list_series(folder / "imagesTs", description.file_ending, description.views)
    ending, views = description.file_ending, ", ".join(description.views)
    findings = [
        Finding(
            str(path), "name", path.name, f"name it <case>_<view>{ending} with a view of {views}, or move it away", None
        )
        for path in (*other, *other_test)
    ]
    if not training:
        findings.append(
            Finding(str(folder / "imagesTr"), "images", "none", f"put files <case>_<view>{ending} here", None)
        )
    counts = Counter(one.name for one in (*training, *test))
    findings += [
        Finding(str(one.image), "series", one.name, "two files stand for one series; rename or remove one", one.case)
        for one in (*training, *test) if counts[one.name] > 1
    ]  # fmt: skip
    findings += _stray_masks(folder, training, description)
    masks = {one.image.name: one for one in test}
    labels = folder / "labelsTs"
    held_out = tuple(
        Series(one.case, one.view, one.index, one.image, mask_at(labels / name)) for name, one in masks.items()
    )
    return (*training, *held_out), findings


def _stray_masks(folder: Path, training: tuple[Series, ...], description: DatasetDescription) -> list[Finding]:
    if description.cases is not None or not (folder / "labelsTr").is_dir():
        return []
    used = {one.mask.name for one in training if one.mask}
    files = sorted(path for path in (folder / "labelsTr").iterdir() if path.is_file() and not path.name.startswith("."))
    return [
        Finding(str(path), "name", path.name, "no image of that name in imagesTr: name it as its image, or remove it", None)
        for path in files if path.name not in used
    ]  # fmt: skip


def _check_table(
    folder: Path, description: DatasetDescription, series: tuple[Series, ...]
) -> tuple[dict[str, CaseRow], list[Finding]]:
    path = folder / "cases.csv"
    cases = sorted({one.case for one in series})
    rows = default_rows(cases, description)
    if not path.exists():
        advice = "every case counts as its own patient and no diagnosis is known; write one if that is not so"
        return rows, [Finding(str(path), "file", "missing", advice, None, "note")]
    read, faults = scan_case_table(path, description)
    findings = [Finding(str(path), fault.field, fault.value, fault.advice, fault.case or None) for fault in faults]
    findings += [
        Finding(str(path), "case", case, "has a row but no images; add them or delete the row", case)
        for case in read if case not in rows
    ]  # fmt: skip
    return rows | {case: row for case, row in read.items() if case in rows}, findings


def _check_patients(folder: Path, description: DatasetDescription, rows: dict[str, CaseRow]) -> list[Finding]:
    """A patient must not be in imagesTr and in imagesTs."""
    test = {one.case for one in list_series(folder / "imagesTs", description.file_ending, description.views)[0]}
    training = {one.case for one in dataset_series(folder, description)[0]}
    tested = {rows[case].patient for case in test if case in rows}
    return [
        Finding(str(folder / "cases.csv"), "patient", rows[case].patient, "is in imagesTr and in imagesTs; keep one side", case)
        for case in sorted(training) if case in rows and rows[case].patient in tested
    ]  # fmt: skip


def _check_splits(splits: Path | None, rows: dict[str, CaseRow]) -> list[Finding]:
    if splits is None:
        return []
    try:
        read_splits(splits, {case: row.patient for case, row in rows.items()})
    except DatasetError as error:
        return [Finding(str(splits), "splits", "leak or unknown case", str(error), None)]
    return []


def _absent_labels(folder: Path, description: DatasetDescription, values: set[int]) -> list[Finding]:
    return [
        Finding(str(folder / "dataset.json"), f"segmentation.labels.{name}", str(value), "is declared but in no mask", None, "note")
        for name, value in description.labels.items() if value and value not in values
    ]  # fmt: skip
