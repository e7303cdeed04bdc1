"""The trained models in a results folder: which there are, and loading them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from odiff.errors import CheckpointError, UsageError
from odiff.inference.postprocessing import POSTPROCESSING, Kept, read_postprocessing
from odiff.learning.calibration import StoredCalibration, read_calibration
from odiff.learning.context import FUSED
from odiff.learning.diagnose import load_diagnosis, load_fusion
from odiff.learning.pretrained import ResultsFolder
from odiff.learning.segment import load_segmentation
from odiff.network.diagnosis import DiagnosisNetwork
from odiff.network.fusion import FusionNetwork
from odiff.network.segmentation import SegmentationNetwork
from odiff.plan import Plan, plan_from_plain
from odiff.storage import file_digest
from odiff.training.run_folder import RunFolder

KINDS = ("final", "best")
TASKS = ("segmentation", "diagnosis")
EVALUATION = "evaluation"


@dataclass(frozen=True)
class Wanted:
    """Which of a folder's models to use; `diagnose_by` is a view or ``fused``, None for all of them, fused where they can be."""

    tasks: tuple[str, ...] = TASKS
    diagnose_by: str | None = None


@dataclass(frozen=True)
class LoadedModels:
    """Networks by view (and fold), ready to predict; `identity` changes when any of their weights does."""

    folder: Path
    identity: str
    plan: Plan
    segmentation: dict[str, list[SegmentationNetwork]]
    diagnosis: dict[str, dict[str, DiagnosisNetwork]]
    fusion: dict[str, FusionNetwork]
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
    results = ResultsFolder(folder)
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
    fused = {
        fold: run.checkpoint("final")
        for fold, run in trained(results, FUSED, "diagnosis", folds).items()
        if diagnoses_with(wanted, FUSED)
    }
    check_found(folder, plan, folds, wanted, segmentation, fused if wanted.diagnose_by == FUSED else diagnosis)
    fusion = {
        fold: load_fusion(path, len(plan.diagnoses), {v: n[fold] for v, n in diagnosis.items() if fold in n})
        for fold, path in fused.items()
    }
    calibration = {view: read_calibration(results, view) for view in (*diagnosis, FUSED)}
    usable = {
        view: found for view, found in calibration.items() if found and is_calibrated(found, results, view, folds)
    }
    kept = {view: names for view, names in read_postprocessing(folder, plan).items() if view in segmentation}
    decided = [folder / POSTPROCESSING] if any(kept.values()) else []
    identity = digest_of([*used, *fused.values(), *decided], folder)
    return LoadedModels(folder, identity, plan, segmentation, diagnosis, fusion, usable, kept)


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


def digest_of(paths: Sequence[Path], folder: Path) -> str:
    """One digest of files and their names below `folder`."""
    whole = hashlib.sha256()
    for path in sorted(paths):
        whole.update(f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n".encode())
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


def is_calibrated(found: StoredCalibration, results: ResultsFolder, view: str, folds: Sequence[str] | None) -> bool:
    """A calibration holds for the folds it was fitted on, never for a model trained on every case."""
    used = tuple(trained(results, view, "diagnosis", folds))
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
    configs = sorted(folder.glob("*/*/config.json")) + sorted(folder.glob("*/*/fold_*/config.json"))
    for path in configs:
        if ".old-" not in str(path):
            return plan_from_plain(RunFolder(path.parent).read_config()["plan"], str(path))
    raise CheckpointError(f"{folder}: no trained model; train one first with odiff_train DATASET VIEW")


def plan_folders(dataset: Path) -> list[Path]:
    """The model folders of a dataset's results: one per plan, the evaluation's own folder left out."""
    return sorted(path for path in dataset.iterdir() if path.is_dir() and path.name != EVALUATION)
