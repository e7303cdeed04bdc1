"""The trained models in a results folder: which there are, and loading them."""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from odiff.errors import CheckpointError, UsageError
from odiff.inference.postprocessing import POSTPROCESSING, Kept, read_postprocessing
from odiff.learning.calibration import StoredCalibration, read_calibration
from odiff.learning.code_model import CODE, load_code_diagnosis
from odiff.learning.diagnose import load_diagnosis, load_fusion
from odiff.learning.pretrained import ResultsFolder
from odiff.learning.segment import Segmenter, load_segmentation
from odiff.learning.tabular_model import TABULAR, TabularModel, load_tabular
from odiff.network.diagnosis import DiagnosisNetwork
from odiff.network.fusion import FusionNetwork
from odiff.network.shared_code import CodeDiagnosis
from odiff.plan import Plan, plan_from_plain
from odiff.storage import file_digest
from odiff.training.run_folder import RunFolder
from odiff.vocabulary import EVALUATION, FINAL, FUSED, PREDICTED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """Which of a folder's models to use; `diagnose_by` is a view or ``fused``, None for all of them, fused where they can be.

    `label_fraction` is the share of the labels that they learnt from.
    """

    tasks: tuple[str, ...] = PREDICTED
    diagnose_by: str | None = None
    label_fraction: float = 1.0


@dataclass(frozen=True)
class LoadedModels:
    """Networks by view (and fold), ready to predict; `identity` changes when any of their weights does.

    `code` holds the diagnosis from the shared code and `tabular` the late fusion with the case table, each by fold: of every fold of
    `fusion`, or of none. `calibration` is by view,
    and under ``tabular`` that of predictions made with the table.
    """

    folder: Path
    identity: str
    plan: Plan
    segmentation: dict[str, list[Segmenter]]
    diagnosis: dict[str, dict[str, DiagnosisNetwork]]
    fusion: dict[str, FusionNetwork]
    code: dict[str, CodeDiagnosis]
    tabular: dict[str, TabularModel]
    calibration: dict[str, StoredCalibration]
    postprocessing: Kept


def load_models(
    folder: Path, folds: Sequence[str] | None, checkpoint: str, device: torch.device, wanted: Wanted | None = None
) -> LoadedModels:
    """Load every trained model of a results folder, or those that are `wanted`.

    Raises
    ------
    CheckpointError
        There is no trained model, none of what is wanted, or one is damaged.
    UsageError
        A fold was asked for that no model has.
    """
    wanted = wanted or Wanted()
    results = ResultsFolder(folder, wanted.label_fraction)
    plan = find_plan(folder)
    segmentation, diagnosis = {}, {}
    used: list[Path] = []
    for view in plan.views:
        runs = trained(results, view, "segmentation", folds) if "segmentation" in wanted.tasks else {}
        if runs:
            paths = [weights(run, checkpoint) for run in runs.values()]
            segmentation[view] = [load_segmentation(path, plan, view, device) for path in paths]
            used += paths
        runs = trained(results, view, "diagnosis", folds) if diagnoses_with(wanted, view) else {}
        if runs:
            of_fold = {f: weights(run, checkpoint) for f, run in runs.items()}
            diagnosis[view] = {f: load_diagnosis(path, plan, view, device) for f, path in of_fold.items()}
            used += of_fold.values()
    runs = trained(results, FUSED, "diagnosis", folds) if diagnoses_with(wanted, FUSED) else {}
    if runs and not is_as_validated(checkpoint, wanted):
        runs = {}
    fused = {fold: run.checkpoint(FINAL) for fold, run in runs.items()}
    check_found(folder, plan, folds, wanted, segmentation, fused if wanted.diagnose_by == FUSED else diagnosis)
    fusion = {
        fold: load_fusion(path, len(plan.diagnoses), {v: n[fold] for v, n in diagnosis.items() if fold in n})
        for fold, path in fused.items()
    }
    code_files = in_every_fold(
        {fold: RunFolder(path.parent).checkpoint(CODE) for fold, path in fused.items()},
        "diagnosis from the shared code",
    )
    codes = {fold: load_code_diagnosis(path, plan) for fold, path in code_files.items()}
    tables = tabular_checkpoints(results, tuple(fused))
    tabular = {fold: load_tabular(path, len(plan.diagnoses)) for fold, path in tables.items()}
    calibration = usable_calibrations(results, (*diagnosis, FUSED), folds) if checkpoint == FINAL else {}
    kept = {view: names for view, names in read_postprocessing(folder, plan).items() if view in segmentation}
    decided = [folder / POSTPROCESSING] if any(kept.values()) else []
    identity = digest_of([*used, *fused.values(), *code_files.values(), *tables.values(), *decided], folder)
    return LoadedModels(folder, identity, plan, segmentation, diagnosis, fusion, codes, tabular, calibration, kept)


def is_as_validated(checkpoint: str, wanted: Wanted) -> bool:
    """Whether the networks are those that fusion and calibration were learnt on, which are final ones.

    Raises
    ------
    UsageError
        They are not, and the fusion is asked for.
    """
    if checkpoint == FINAL:
        return True
    if wanted.diagnose_by == FUSED:
        raise UsageError(f"--checkpoint {checkpoint}: the fusion was learnt on final models; leave out one of the two")
    log.warning("--checkpoint %s: fusion and calibration were learnt on final models and are left out", checkpoint)
    return False


def diagnoses_with(wanted: Wanted, view: str) -> bool:
    """Whether a view, or ``fused``, takes part in the diagnosis; the fusion needs the networks of all views."""
    if "diagnosis" not in wanted.tasks:
        return False
    return wanted.diagnose_by is None or wanted.diagnose_by in (view, FUSED)


def check_found(
    folder: Path, plan: Plan, folds: Sequence[str] | None, wanted: Wanted, segmentation: object, diagnosis: object
) -> None:
    """Raise a `CheckpointError` where there is no model of what is wanted; `segmentation` and `diagnosis` are falsy where empty."""
    of_folds = f" of fold {', '.join(folds)}" if folds else ""
    if not segmentation and not diagnosis:
        task = f"{wanted.tasks[0]} " if len(wanted.tasks) == 1 else ""
        raise CheckpointError(
            f"{folder}: no trained {task}model{of_folds}; train one first: odiff_train {plan.dataset} VIEW"
        )
    if wanted.diagnose_by and "diagnosis" in wanted.tasks and not diagnosis:
        raise CheckpointError(
            f"{folder}: no trained {wanted.diagnose_by} diagnosis model{of_folds}; train it first: "
            f"odiff_train {plan.dataset} {wanted.diagnose_by} --task diagnosis"
        )


def tabular_checkpoints(results: ResultsFolder, folds: Sequence[str]) -> dict[str, Path]:
    """The late fusions of these folds; none where one of them lacks it, because their predictions are averaged."""
    found = {fold: results.task("fused", TABULAR, fold).checkpoint("final") for fold in folds}
    return in_every_fold(found, "late fusion with the table")


def in_every_fold(paths: dict[str, Path], what: str) -> dict[str, Path]:
    """The files by fold, if all are there; none, with a warning where some are, because the folds' predictions are averaged."""
    missing = [fold for fold, path in paths.items() if not path.exists()]
    if missing and len(missing) < len(paths):
        log.warning("%s: fold %s has no %s, so none is used", paths[missing[0]].parent, missing[0], what)
    return {} if missing else paths


def usable_calibrations(
    results: ResultsFolder, views: Sequence[str], folds: Sequence[str] | None
) -> dict[str, StoredCalibration]:
    """The calibrations that hold for these folds."""
    places = {**{view: (view, "diagnosis") for view in views}, TABULAR: ("fused", TABULAR)}
    found = {name: read_calibration(results, *place) for name, place in places.items()}
    return {name: one for name, one in found.items() if one and is_calibrated(one, results, *places[name], folds)}


def digest_of(paths: Sequence[Path], folder: Path) -> str:
    """One digest of files and their names below `folder`."""
    whole, ordered = hashlib.sha256(), sorted(paths)
    with ThreadPoolExecutor() as pool:
        for path, digest in zip(ordered, pool.map(file_digest, ordered), strict=True):
            whole.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return whole.hexdigest()


def trained(results: ResultsFolder, view: str, task: str, folds: Sequence[str] | None) -> dict[str, RunFolder]:
    """Trained runs by fold; ``all`` is left out where single folds are there, unless it is asked for."""
    found = results.folds(view, task)
    if folds is None:
        singles = [fold for fold in found if fold != "all"]
        return {fold: results.task(view, task, fold) for fold in singles or found}
    missing = [fold for fold in folds if fold not in found]
    if missing and found:
        raise UsageError(f"-f {missing[0]}: {view} {task} has the folds {', '.join(found)}")
    return {fold: results.task(view, task, fold) for fold in folds if fold in found}


def is_calibrated(
    found: StoredCalibration, results: ResultsFolder, view: str, task: str, folds: Sequence[str] | None
) -> bool:
    """A calibration holds for the folds it was fitted on, never for a model trained on every case."""
    used = tuple(trained(results, view, task, folds))
    return "all" not in used and set(used) <= set(found.folds)


def weights(run: RunFolder, kind: str) -> Path:
    """The checkpoint to use; a run without ``best`` (nothing to validate on) gives ``final``."""
    path = run.checkpoint(kind)
    return path if path.exists() else run.checkpoint("final")


def find_plan(folder: Path) -> Plan:
    """The plan stored with any run in a results folder.

    Raises
    ------
    CheckpointError
        There is no run at all.
    """
    places = ("*/*", "*/*/fold_*", "*/*/fraction_*/fold_*")
    configs = [path for place in places for path in sorted(folder.glob(f"{place}/config.json"))]
    for path in configs:
        if ".old-" not in str(path.relative_to(folder)):
            return plan_from_plain(RunFolder(path.parent).read_config()["plan"], str(path))
    raise CheckpointError(f"{folder}: no trained model; train one first with odiff_train DATASET VIEW")


def plan_folders(dataset: Path) -> list[Path]:
    """The model folders of a dataset's results: one per plan, the evaluation's own folder left out."""
    return sorted(path for path in dataset.iterdir() if path.is_dir() and path.name != EVALUATION)
