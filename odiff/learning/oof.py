"""Out-of-fold predictions of all folds together: their scores, and the calibration fitted to them."""

import logging

import numpy as np

from odiff.learning.calibration import CALIBRATION, StoredCalibration
from odiff.learning.context import Context
from odiff.learning.diagnosis_scores import read_logits, truth_of
from odiff.metrics.calibration import cross_fitted, fit_calibration
from odiff.metrics.classification import score_labels
from odiff.plan import to_plain
from odiff.storage import write_json

log = logging.getLogger(__name__)
OUT_OF_FOLD = "out_of_fold.json"
MIN_CASES = 10


def collect_out_of_fold(context: Context, view: str) -> None:
    """Join the validation predictions of the folds that are trained; write scores and, with cases enough, calibration.

    The reported probabilities are cross-fitted: no case is scored by a calibration that saw its patient.
    """
    plan, results = context.plan, context.results
    folds = [fold for fold in results.folds(view, "diagnosis") if fold != "all"]
    logits: dict[str, np.ndarray] = {}
    for fold in folds:
        validation = results.task(view, "diagnosis", fold).validation
        if (validation / "predictions.csv").exists():
            logits |= read_logits(validation, plan.diagnoses)
    cases = [case for case in context.dataset.cases if case.name in logits]
    if len(cases) < MIN_CASES:
        log.info(
            "%s diagnosis: %d out-of-fold cases are too few to calibrate; %d are needed", view, len(cases), MIN_CASES
        )
        return
    values, truth = np.array([logits[case.name] for case in cases]), truth_of(cases, plan.diagnoses)
    patients = [case.patient for case in cases]
    folder = results.path / view / "diagnosis"
    fitted = StoredCalibration(plan.diagnoses, tuple(folds), len(cases), fit_calibration(values, truth))
    write_json(folder / CALIBRATION, to_plain(fitted))
    probability = cross_fitted(values, truth, patients)
    scores = score_labels(plan.diagnoses, truth, probability, patients, np.random.default_rng(0))
    write_json(folder / OUT_OF_FOLD, {"cases": len(cases), "folds": folds, "labels": scores})
    macro = scores["macro"]["auroc"]
    log.info("%s diagnosis, %d out-of-fold cases: macro AUROC %s", view, len(cases), macro and f"{macro:.3f}")
