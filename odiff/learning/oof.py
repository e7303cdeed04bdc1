"""Out-of-fold predictions of all folds together: their scores, and the calibration fitted to them."""

import logging

import numpy as np

from odiff.data.tabular import has_table
from odiff.learning.calibration import CALIBRATION, StoredCalibration
from odiff.learning.context import Context
from odiff.learning.diagnosis_scores import read_logits, scores_but, truth_of
from odiff.learning.tabular_model import TABULAR
from odiff.metrics.calibration import cross_fitted, fit_calibration
from odiff.plan import to_plain
from odiff.storage import write_json

log = logging.getLogger(__name__)
OUT_OF_FOLD = "out_of_fold.json"
MIN_CASES = 10


def collect_out_of_fold(context: Context, view: str, task: str = "diagnosis") -> None:
    """Join the validation predictions of the folds that are trained; write scores and, with cases enough, calibration.

    The reported probabilities are cross-fitted: no case is scored by a calibration that saw its patient. The task ``tabular`` is
    calibrated on the cases that have a row in the table; the others are predicted, and calibrated, without it.
    """
    plan, results = context.plan, context.results
    folds = [fold for fold in results.folds(view, task) if fold != "all"]
    logits: dict[str, np.ndarray] = {}
    few: dict[str, str] = {}
    for fold in folds:
        run = results.task(view, task, fold)
        if (run.validation / "predictions.csv").exists():
            logits |= read_logits(run.validation, plan.diagnoses)
            few |= run.read_config().get("not_computable", {})
    cases = [case for case in context.dataset.cases if case.name in logits]
    if task == TABULAR:
        cases = [case for case in cases if has_table(case.tabular)]
    if len(cases) < MIN_CASES:
        log.info(
            "%s %s: %d out-of-fold cases are too few to calibrate; %d are needed", view, task, len(cases), MIN_CASES
        )
        return
    values, truth = np.array([logits[case.name] for case in cases]), truth_of(cases, plan.diagnoses)
    patients = [case.patient for case in cases]
    folder = results.of_task(view, task)
    fitted = StoredCalibration(plan.diagnoses, tuple(folds), len(cases), fit_calibration(values, truth))
    write_json(folder / CALIBRATION, to_plain(fitted))
    probability = cross_fitted(values, truth, patients)
    scores = scores_but(plan.diagnoses, truth, probability, patients, 0, few)
    write_json(folder / OUT_OF_FOLD, {"cases": len(cases), "folds": folds, "labels": scores})
    macro = scores["macro"]["auroc"]
    log.info("%s %s, %d out-of-fold cases: macro AUROC %s", view, task, len(cases), macro and f"{macro:.3f}")
