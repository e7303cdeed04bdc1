"""The trained models in a results folder: which there are, and loading them."""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from odiff.errors import CheckpointError, UsageError
from odiff.geometry import VIEWS
from odiff.inference.postprocessing import POSTPROCESSING, Kept, read_postprocessing
from odiff.inference.trained_plans import plan_of, trained_plans
from odiff.learning.calibration import StoredCalibration, read_calibration
from odiff.learning.code_model import CODE, load_code_diagnosis
from odiff.learning.diagnose import load_diagnosis, load_fusion
from odiff.learning.pretrained import ResultsFolder
from odiff.learning.run import check_origins
from odiff.learning.segment import Segmenter, load_segmentation
from odiff.learning.tabular_model import TABULAR, TabularModel, load_tabular
from odiff.network.diagnosis import DiagnosisNetwork
from odiff.network.fusion import FusionNetwork
from odiff.network.shared_code import CodeDiagnosis
from odiff.plan import Plan
from odiff.storage import file_digest
from odiff.training.checkpoint import read_meta
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

    `segmentation_plans` holds by view the plan that its segmentation was trained with, `plan` what holds for all.

    `code` holds the diagnosis from the shared code and `tabular` the late fusion with the case table, each by fold: of every fold of
    `fusion`, or of none. `calibration` is by view,
    and under ``tabular`` that of predictions made with the table.
    """

    folder: Path
    identity: str
    plan: Plan
    segmentation_plans: dict[str, Plan]
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
    chosen = choose_runs(results, folds, checkpoint, wanted)
    check_found(folder, folds, wanted, chosen)
    plans = trained_plans(chosen.segmentation, chosen.diagnosis)
    plan = plans.plan
    segmentation = {
        view: [load_segmentation(path, plans.segmentation[view], view, device) for path in runs.values()]
        for view, runs in chosen.segmentation.items()
    }
    diagnosis = {
        view: {fold: load_diagnosis(path, plan_of(path), view, device) for fold, path in runs.items()}
        for view, runs in chosen.diagnosis.items()
    }
    dataset = folder.resolve().parent.name
    fused = with_their_views(chosen, wanted, dataset)
    fusion = {
        fold: load_fusion(path, len(plan.diagnoses), {v: n[fold] for v, n in diagnosis.items() if fold in n})
        for fold, path in fused.items()
    }
    code_files = in_every_fold(
        {fold: RunFolder(path.parent).checkpoint(CODE) for fold, path in fused.items()},
        "diagnosis from the shared code",
    )
    codes = {fold: load_code_diagnosis(path, plan_of(fused[fold])) for fold, path in code_files.items()}
    tables = tabular_checkpoints(results, tuple(fused))
    tabular = {fold: load_tabular(path, len(plan.diagnoses)) for fold, path in tables.items()}
    for fold, path in tables.items():
        advice = f"train it on the new one with odiff_train {dataset} fused"
        check_origins(RunFolder(path.parent), {"fusion": fused[fold]}, f"{advice}, or predict with --diagnose-by VIEW")
    calibration = usable_calibrations(results, (*diagnosis, FUSED), folds) if checkpoint == FINAL else {}
    kept = {view: names for view, names in read_postprocessing(folder, plan).items() if view in segmentation}
    decided = [folder / POSTPROCESSING] if any(kept.values()) else []
    used = [
        path
        for of_view in (chosen.segmentation, chosen.diagnosis)
        for runs in of_view.values()
        for path in runs.values()
    ]
    identity = digest_of([*used, *fused.values(), *code_files.values(), *tables.values(), *decided], folder)
    return LoadedModels(
        folder, identity, plan, plans.segmentation, segmentation, diagnosis, fusion, codes, tabular, calibration, kept
    )


@dataclass(frozen=True)
class Chosen:
    """The checkpoints to predict with: by view and fold, and the fusions by fold."""

    segmentation: dict[str, dict[str, Path]]
    diagnosis: dict[str, dict[str, Path]]
    fused: dict[str, Path]


def choose_runs(results: ResultsFolder, folds: Sequence[str] | None, checkpoint: str, wanted: Wanted) -> Chosen:
    """What is trained of what is wanted."""

    def of_task(task: str, views: Sequence[str]) -> dict[str, dict[str, Path]]:
        runs = {view: trained(results, view, task, folds) for view in views}
        return {
            view: {fold: weights(run, checkpoint) for fold, run in some.items()} for view, some in runs.items() if some
        }

    segmentation = of_task("segmentation", VIEWS) if "segmentation" in wanted.tasks else {}
    diagnosis = of_task("diagnosis", [view for view in VIEWS if diagnoses_with(wanted, view)])
    fused = trained(results, FUSED, "diagnosis", folds) if diagnoses_with(wanted, FUSED) else {}
    if fused and not is_as_validated(checkpoint, wanted):
        fused = {}
    return Chosen(segmentation, diagnosis, {fold: run.checkpoint(FINAL) for fold, run in fused.items()})


def with_their_views(chosen: Chosen, wanted: Wanted, dataset: str) -> dict[str, Path]:
    """The fusions of folds that the views' networks are of too, which must be those that the fusion was learnt on.

    Raises
    ------
    CheckpointError
        A view was trained again since; or the fusion is asked for, and of none of its folds is every view chosen.
    """
    found = {}
    for fold, path in chosen.fused.items():
        views = {view: chosen.diagnosis.get(view, {}).get(fold) for view in read_meta(path)["fused_views"]}
        if missing := [view for view, of_view in views.items() if of_view is None]:
            advice = f"predict with -f {fold}, or train fused for the folds of its views"
            log.warning("%s: is left out, the view %s is used in other folds; %s", path, missing[0], advice)
            continue
        advice = (
            f"train it on the new one with odiff_train {dataset} fused --restart, or predict with --diagnose-by VIEW"
        )
        check_origins(RunFolder(path.parent), {view: one for view, one in views.items() if one}, advice)
        found[fold] = path
    if chosen.fused and not found and wanted.diagnose_by == FUSED:
        raise CheckpointError(
            f"{next(iter(chosen.fused.values()))}: no fold has the fusion and the networks of all its views"
        )
    return found


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


def check_found(folder: Path, folds: Sequence[str] | None, wanted: Wanted, chosen: Chosen) -> None:
    """Raise a `CheckpointError` where there is no model of what is wanted."""
    dataset, diagnosis = folder.resolve().parent.name, chosen.fused if wanted.diagnose_by == FUSED else chosen.diagnosis
    of_folds = f" of fold {', '.join(folds)}" if folds else ""
    if not chosen.segmentation and not diagnosis:
        task = f"{wanted.tasks[0]} " if len(wanted.tasks) == 1 else ""
        raise CheckpointError(
            f"{folder}: no trained {task}model{of_folds}; train one first: odiff_train {dataset} VIEW"
        )
    if wanted.diagnose_by and "diagnosis" in wanted.tasks and not diagnosis:
        raise CheckpointError(
            f"{folder}: no trained {wanted.diagnose_by} diagnosis model{of_folds}; train it first: "
            f"odiff_train {dataset} {wanted.diagnose_by} --task diagnosis"
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


def plan_folders(dataset: Path) -> list[Path]:
    """The model folders of a dataset's results: one per plan, the evaluation's own folder left out."""
    return sorted(path for path in dataset.iterdir() if path.is_dir() and path.name != EVALUATION)
