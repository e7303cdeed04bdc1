"""After cross-validation: the validation predictions of every plan, view and fusion, scored out of fold."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from odiff.data.index import PreparedCase, read_index
from odiff.data.tabular import has_table
from odiff.dataset import CaseRow, DatasetDescription, parse_name, read_description
from odiff.errors import CheckpointError, DatasetError
from odiff.experiment_planning.parallel import run_parallel
from odiff.geometry import VIEWS
from odiff.inference.evaluate.probabilities import table_of
from odiff.inference.evaluate.scoring import StoredScores, Structures, score_validation, structures_of
from odiff.inference.evaluate.tables import VIEW, DiagnosisTable, Evaluation, Rows, segmentation_table
from odiff.inference.models import plan_folders, tabular_checkpoints
from odiff.inference.trained_plans import trained_plans
from odiff.learning.calibration import read_calibration
from odiff.learning.context import ALL
from odiff.learning.diagnosis_scores import read_logits
from odiff.learning.fusion import check_fusion
from odiff.learning.pretrained import ResultsFolder
from odiff.learning.tabular_model import TABULAR
from odiff.metrics.calibration import cross_fitted, expit
from odiff.plan import Plan
from odiff.vocabulary import FINAL, FUSED, PREDICTED

log = logging.getLogger(__name__)
DiceGain = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Variant:
    """Out-of-fold scores of one view, or the fusion, of one plan.

    `plan` is the name of its results folder, which differs from the plan's own for a baseline. `gain` is, by label, the mean Dice as
    predicted and with only the largest component left; `fusion` names the variant of a fused model.
    """

    plan: str
    view: str
    folder: Path
    evaluation: Evaluation
    gain: DiceGain
    fusion: str | None = None

    @property
    def name(self) -> str:
        """As tables show it."""
        return f"{self.plan}/{self.view}" + (f" ({self.fusion})" if self.fusion else "")


@dataclass(frozen=True)
class Prepared:
    """What preprocessing knows of the dataset."""

    folder: Path
    description: DatasetDescription
    cases: dict[str, PreparedCase]


def read_prepared(folder: Path) -> Prepared:
    """The description and the cases of a preprocessed dataset."""
    return Prepared(folder, read_description(folder), {case.name: case for case in read_index(folder).cases})


def collect_variants(results: Path, prepared: Prepared, processes: int) -> tuple[list[Variant], list[str]]:
    """Every view and fusion of every plan that has validation predictions, and notes on what was passed over.

    Parameters
    ----------
    results : ``odiff_results/<dataset>``.

    Raises
    ------
    CheckpointError
        No plan has any.
    DatasetError
        A case was validated by two folds: splits changed between them.
    """
    found: list[Variant] = []
    notes: list[str] = []
    for folder in plan_folders(results):
        variants, faults = _variants(ResultsFolder(folder), prepared, processes)
        if not variants and not faults:
            notes.append(f"{folder}: no validation predictions of single folds, passed over")
        notes += [f"passed over: {one}" for one in faults]
        found += variants
    if not found:
        others = "".join(f"; {note}" for note in notes if note.startswith("passed over"))
        raise CheckpointError(
            f"{results}: no validation predictions of single folds; train first: odiff_train {results.name} VIEW{others}"
        )
    return found, notes


def _variants(
    results: ResultsFolder, prepared: Prepared, processes: int
) -> tuple[list[Variant], list[CheckpointError]]:
    """The variants of one plan, and why others cannot be scored: a damaged checkpoint, a fusion of views that were trained again."""
    found: list[Variant] = []
    faults: list[CheckpointError] = []
    for view in (*VIEWS, FUSED):
        try:
            if one := _variant(results, view, prepared, processes):
                found.append(one)
        except CheckpointError as fault:
            faults.append(fault)
    return found, faults


def _variant(results: ResultsFolder, view: str, prepared: Prepared, processes: int) -> Variant | None:
    """Scores of one view, or ``fused``, out of its single folds, which validate on something."""
    masks, labels = (_checkpoints(results, view, task) for task in PREDICTED)
    if not masks and not labels:
        return None
    plan = trained_plans(masks, labels).plan
    for fold in labels.get(FUSED, {}):
        check_fusion(results, fold)
    prepared = replace(prepared, description=as_planned(prepared.description, plan))
    segmentation, gain = None, {}
    if view != FUSED:
        files = validation_files(results, view, plan, prepared.cases)
        if files:
            structures = structures_of(prepared.description)
            arrays = prepared.folder / f"{plan.name}_{view}"
            scored = score_all(files, arrays, structures, processes)
            rows = series_rows(list(files), view, prepared)
            segmentation = segmentation_table(rows, [one.scores for one in scored])
            gain = dice_gain(scored)
    diagnosis = out_of_fold(results, view, plan, prepared)
    if segmentation is None and diagnosis is None:
        return None
    evaluation = Evaluation(segmentation, diagnosis)
    return Variant(results.path.name, view, results.path, evaluation, gain, fusion_of(results, view))


def _checkpoints(results: ResultsFolder, view: str, task: str) -> dict[str, dict[str, Path]]:
    """Those of the single folds of a task, by view and fold; empty without any."""
    found = {fold: results.task(view, task, fold).checkpoint(FINAL) for fold in single_folds(results, view, task)}
    return {view: found} if found else {}


def as_planned(description: DatasetDescription, plan: Plan) -> DatasetDescription:
    """The description with the labels that the plan's models were trained for."""
    return replace(description, labels=plan.labels, diagnoses=plan.diagnoses)


def single_folds(results: ResultsFolder, view: str, task: str) -> list[str]:
    """The trained folds that validate on something."""
    return [fold for fold in results.folds(view, task) if fold != ALL]


def validation_files(
    results: ResultsFolder, view: str, plan: Plan, cases: Mapping[str, PreparedCase]
) -> dict[str, Path]:
    """Predicted label maps of all folds by series name; those of cases that are no longer in the dataset are left out."""
    found: dict[str, Path] = {}
    for fold in single_folds(results, view, "segmentation"):
        folder = results.task(view, "segmentation", fold).validation
        for path in sorted(folder.glob(f"*{plan.file_ending}")):
            name = path.name[: -len(plan.file_ending)]
            parsed = parse_name(name, (view,))
            if path.name.startswith(".") or parsed is None or parsed[0] not in cases:
                continue
            if name in found:
                raise DatasetError(_twice(found[name], path, name))
            found[name] = path
    return found


def _twice(first: Path, second: Path, name: str) -> str:
    return (
        f"{name} was validated twice, {first} and {second}: splits changed between the folds; train one of them again with "
        "--restart"
    )


def score_all(files: Mapping[str, Path], arrays: Path, structures: Structures, processes: int) -> list[StoredScores]:
    """Scores of every validation prediction, in the order of `files`."""
    jobs = [(path, arrays, name, structures) for name, path in files.items()]
    results = dict(run_parallel(score_validation, jobs, processes, f"score {arrays.name}"))
    return [results[number] for number in range(len(jobs))]


def series_rows(names: Sequence[str], view: str, prepared: Prepared) -> Rows:
    """Case, patient and groups of series of one view."""
    parsed = [parse_name(name, (view,)) for name in names]
    members = [prepared.cases[one[0]] for one in parsed if one is not None]
    groups = {VIEW: (view,) * len(names)} | {
        column: tuple(case.groups.get(column) or "" for case in members) for column in prepared.description.groups
    }
    cases, patients = tuple(case.name for case in members), tuple(case.patient for case in members)
    return Rows(tuple(names), cases, patients, groups)


def dice_gain(scored: Sequence[StoredScores]) -> DiceGain:
    """By label, the mean Dice over series as predicted, and with only the largest component left."""
    return {
        label: (
            float(np.mean([one.scores[label]["dice"] for one in scored])),
            float(np.mean([one.cleaned_dice[label] for one in scored])),
        )
        for label in scored[0].scores
    }


def labels_to_clean(gain: DiceGain, least: float = 1e-9) -> tuple[str, ...]:
    """The labels whose mean Dice the largest component alone improves."""
    return tuple(label for label, (before, after) in gain.items() if after > before + least)


def out_of_fold(results: ResultsFolder, view: str, plan: Plan, prepared: Prepared) -> DiagnosisTable | None:
    """Out-of-fold probabilities of a view or the fusion, made as prediction makes them: calibrated, but by cross-fitting, where it
    would calibrate, and mixed with the case table where it would mix."""
    logits = read_folds(results, view, "diagnosis", plan, prepared)
    if not logits:
        return None
    cases = tuple(sorted(logits))
    rows = {case: as_row(prepared.cases[case]) for case in cases}
    values = np.array([logits[case] for case in cases])
    plain = table_of(cases, expit(values), rows, prepared.description)
    probability = calibrated(results, view, "diagnosis", values, plain.truth, plain.rows.patients)
    mixed = table_logits(results, view, plan, prepared)
    kept = [number for number, case in enumerate(cases) if case in mixed]
    if kept:
        values = np.array([mixed[cases[number]] for number in kept])
        patients = [plain.rows.patients[number] for number in kept]
        probability[kept] = calibrated(results, view, TABULAR, values, plain.truth[kept], patients)
    return replace(plain, probability=probability)


def read_folds(results: ResultsFolder, view: str, task: str, plan: Plan, prepared: Prepared) -> dict[str, np.ndarray]:
    """Validation logits (labels,) of all folds by case; those of cases that are no longer in the dataset are left out."""
    logits: dict[str, np.ndarray] = {}
    seen: dict[str, Path] = {}
    for fold in single_folds(results, view, task):
        folder = results.task(view, task, fold).validation
        if not (folder / "predictions.csv").exists():
            continue
        for case, row in read_logits(folder, plan.diagnoses).items():
            if case in seen:
                raise DatasetError(_twice(seen[case], folder, f"case {case}"))
            if case in prepared.cases:
                logits[case], seen[case] = row, folder
    return logits


def calibrated(
    results: ResultsFolder, view: str, task: str, logits: np.ndarray, truth: np.ndarray, patients: Sequence[str]
) -> np.ndarray:
    """Probabilities of logits, both (cases, labels); cross-fitted where the results hold a calibration."""
    return expit(logits) if read_calibration(results, view, task) is None else cross_fitted(logits, truth, patients)


def table_logits(results: ResultsFolder, view: str, plan: Plan, prepared: Prepared) -> dict[str, np.ndarray]:
    """Validation logits of the cases that prediction would mix with their row of the case table; none where it would mix none."""
    folds = single_folds(results, FUSED, "diagnosis") if view == FUSED else []
    if not tabular_checkpoints(results, folds):
        return {}
    for fold in folds:
        run = results.task(FUSED, TABULAR, fold)
        if not (run.validation / "predictions.csv").exists():
            log.warning(
                "%s: was not validated, so its cases are scored without the table that prediction would read; run odiff_train %s fused "
                "--fold %s --validate-only", run.path, prepared.description.name, fold
            )  # fmt: skip
    mixed = read_folds(results, FUSED, TABULAR, plan, prepared)
    return {case: row for case, row in mixed.items() if has_table(prepared.cases[case].tabular)}


def as_row(case: PreparedCase) -> CaseRow:
    """What a case table would say of a preprocessed case."""
    return CaseRow(case.name, case.patient, case.laterality, case.diagnoses, case.groups, case.tabular)


def fusion_of(results: ResultsFolder, view: str) -> str | None:
    """The variant of a fused model, or those of its folds, and whether it reads the case table; None for a view."""
    folds = single_folds(results, view, "diagnosis") if view == FUSED else []
    if not folds:
        return None
    variants = {results.task(view, "diagnosis", fold).read_config()["variant"] for fold in folds}
    variant = " or ".join(sorted(variants))
    return f"{variant} with the table" if tabular_checkpoints(results, folds) else variant
