"""The commands as functions: fingerprint, plan, preprocess, train, predict, evaluate, and a `Predictor` for many calls.

Every function takes the three roots as paths, reads and writes the same files as the commands, and raises `OdiffError` for
what the user can mend. Progress bars go to stderr.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odiff.dataset import find_dataset, read_description
from odiff.experiment_planning.fingerprint import Fingerprint, fingerprint_dataset
from odiff.experiment_planning.pipeline import PLANS, PlanningOptions, Verified, keep_or_write, make_plan, verified
from odiff.experiment_planning.preprocess import preprocess_dataset
from odiff.inference.predict import PredictOutcome, predict_folder
from odiff.inference.predictor import CaseImages, Diagnosis, Predictor
from odiff.learning.asked import TrainOptions
from odiff.learning.run import RunSettings
from odiff.learning.stages import train_view
from odiff.plan import Plan, read_plan
from odiff.training.device import choose_device, loading_processes
from odiff.vocabulary import EVALUATION

__all__ = [
    "CaseImages", "Diagnosis", "PlanningOptions", "PredictOutcome", "Predictor", "TrainOptions", "evaluate", "fingerprint", "plan",
    "predict", "preprocess", "train",
]  # fmt: skip


def fingerprint(raw: Path, preprocessed: Path, dataset: str, options: PlanningOptions | None = None) -> Fingerprint:
    """Verify a dataset and measure its series; what an earlier call measured is reused.

    Parameters
    ----------
    raw, preprocessed : the roots that hold dataset folders.
    dataset : number or name: ``1``, ``001`` or ``Dataset001_Knee``.

    Raises
    ------
    DatasetError
        The dataset has faults; the message lists them.
    """
    options = options or PlanningOptions()
    seen = _verified(raw, preprocessed, dataset, options)
    views, folder = options.views or seen.dataset.description.views, preprocessed / seen.dataset.folder.name
    return fingerprint_dataset(seen.dataset, folder, views, options.processes, seen.measured)[0]


def plan(raw: Path, preprocessed: Path, dataset: str, options: PlanningOptions | None = None) -> Plan:
    """Verify, fingerprint and plan; the plan is written to ``plans.json`` unless `options.is_dry_run`."""
    options = options or PlanningOptions()
    seen = _verified(raw, preprocessed, dataset, options)
    made = make_plan(seen, preprocessed, options)
    if not options.is_dry_run:
        keep_or_write(preprocessed / seen.dataset.folder.name / PLANS, made)
    return made.plan


def preprocess(raw: Path, preprocessed: Path, dataset: str, options: PlanningOptions | None = None) -> int:
    """Preprocess, after the plan in ``plans.json``, what is missing or out of date; how many series were done.

    Raises
    ------
    PlanError
        There is no plan yet.
    """
    options = options or PlanningOptions()
    seen = _verified(raw, preprocessed, dataset, options)
    folder = preprocessed / seen.dataset.folder.name
    return preprocess_dataset(seen.dataset, read_plan(folder / PLANS), folder, options.processes, seen.skipped)[0]


def train(
    preprocessed: Path, results: Path, dataset: str, view: str, options: TrainOptions | None = None, *,
    overrides: Sequence[str] = (), seed: int = 0, device: str = "auto", restart: bool = False,
) -> Path:  # fmt: skip
    """Train one view, as ``odiff_train``; the folder of its results.

    Parameters
    ----------
    view : a view of the plan, or ``fused``.
    overrides : plan fields to change, each ``pretrain.steps=200``.
    """
    where = choose_device(device)
    settings = RunSettings(seed, where, loading_processes(where), restart)
    context = train_view(preprocessed, results, dataset, view, options or TrainOptions(), settings, tuple(overrides))
    return context.results.path / view


def predict(
    model: Path, source: Path, target: Path, *, cases_file: Path | None = None, save_probabilities: bool = False,
    device: str = "auto",
) -> PredictOutcome:  # fmt: skip
    """Predict a folder of images with all that is trained in `model`, ``results/<dataset>/<plan>``.

    For other folds, step sizes or many calls make a `Predictor` and give it to
    `odiff.inference.predict.predict_folder`.
    """
    predictor = Predictor(model, device=choose_device(device))
    return predict_folder(predictor, source, target, cases_file=cases_file, save_probabilities=save_probabilities)


def evaluate(
    predictions: Path, references: Path | None, dataset: Path, *, output: Path | None = None,
    cases_file: Path | None = None, allow_missing: bool = False, processes: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Score predictions, as ``odiff_evaluate -p``; what summary.json holds, files that could not be read among its notes.

    Parameters
    ----------
    predictions : what `predict` wrote.
    references : label files of the same names; None to score diagnoses alone.
    dataset : a folder with dataset.json and maybe cases.csv.
    output : takes summary.json, tables and plots; ``predictions/evaluation`` by default.
    """
    from odiff.inference.evaluate.references import References
    from odiff.inference.evaluate.run import EvaluateOptions, evaluate_predictions  # slow to import: plots

    known = References(read_description(dataset), references, cases_file, dataset)
    options = EvaluateOptions(allow_missing, processes)
    return evaluate_predictions(predictions, known, output or predictions / EVALUATION, options, lambda _: None)[0]


def _verified(raw: Path, preprocessed: Path, dataset: str, options: PlanningOptions) -> Verified:
    return verified(find_dataset(raw, dataset), preprocessed, options, lambda _: None)
