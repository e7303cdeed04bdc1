"""What a score is worth at each share of the labels: train what is missing of the curve, or collect what is there."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from odiff.errors import CheckpointError, DatasetError
from odiff.inference.curve import MEAN, CurvePoint
from odiff.learning.asked import TrainOptions
from odiff.learning.context import Context, open_context
from odiff.learning.diagnosis_scores import read_logits, truth_of
from odiff.learning.fold_cases import training_cases
from odiff.learning.pretrained import ResultsFolder
from odiff.learning.run import RunSettings
from odiff.learning.stages import train_view
from odiff.learning.subsets import is_labelled, knows_diagnosis, patients_in, share_of
from odiff.metrics.bootstrap import REPEATS, draw_counts, score_samples
from odiff.metrics.classification import label_score, mean_known
from odiff.storage import read_json
from odiff.training.run_folder import RunFolder
from odiff.vocabulary import FUSED

log = logging.getLogger(__name__)
FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class FoldScores:
    """Truth and logits (cases, labels) of one fold's validation cases and their patients; truth NaN where unknown."""

    truth: np.ndarray
    logits: np.ndarray
    patients: tuple[str, ...]


def run_curve(
    preprocessed: Path, results: Path, wanted: str, view: str, task: str, settings: RunSettings,
    fractions: Sequence[float] = FRACTIONS, fold: str | None = None, pretrained: str = "auto", overrides: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Train and validate every fold at every share of the labels, as far as it is missing; for the fused view its views too.

    A share from which the task cannot be learnt is passed over; `collect_curve` says why.

    Raises
    ------
    OdiffError
        As `odiff.learning.stages.train_view`.
    """
    context = open_context(preprocessed, results, wanted, overrides)
    context.view_plan_exists(view)
    views = [*context.plan.views, FUSED] if view == FUSED else [view]
    for fraction in sorted(fractions):
        for name in context.fold_names(fold):
            reason = why_not(context, view, task, name, fraction, settings.seed)
            if reason:
                log.warning(
                    "%s %s fold %s, %g %% of the labels: not computable: %s", view, task, name, 100 * fraction, reason
                )
                continue
            for one in views:
                options = TrainOptions(task, name, pretrained, fraction)
                train_view(preprocessed, results, wanted, one, options, settings, overrides)


def why_not(context: Context, view: str, task: str, fold: str, fraction: float, seed: int) -> str | None:
    """Why a task cannot be learnt from a share of a fold's labels; None where it can."""
    labelled = [case for case in context.cases_of_fold(fold, "train") if is_labelled(case)]
    patients = len({case.patient for case in labelled})
    if not patients_in(fraction, patients):
        return f"of {patients} labelled patients that is none"
    training = training_cases(context, fold, fraction, seed)
    seen = [case for case in training if view == FUSED or case.of_view(view)]
    if task == "segmentation":
        is_masked = any(series.is_masked for case in seen for series in case.of_view(view))
        return None if is_masked else f"none of {len({case.patient for case in training})} patients has a mask"
    share = share_of([case for case in seen if knows_diagnosis(case)], fraction, context.plan.diagnoses)
    if len(share.not_computable) < len(context.plan.diagnoses):
        return None
    return f"no label has two positive and two negative patients among {share.patients}"


def collect_curve(
    context: Context,
    view: str,
    task: str,
    fractions: Sequence[float] = FRACTIONS,
    fold: str | None = None,
    seed: int = 0,
) -> list[CurvePoint]:
    """The points of the curve, from the validation of the runs that are there.

    Shares are compared on the folds that all trained ones have. AUROC is the mean over folds, Dice the mean over series.

    Raises
    ------
    CheckpointError
        Nothing is trained; the message names the flag that does it.
    """
    of_share = {fraction: context.with_fraction(fraction).results for fraction in sorted(fractions)}
    names = context.fold_names(fold)
    there = {
        fraction: [name for name in names if _is_scored(of_share[fraction], view, task, name)] for fraction in of_share
    }
    trained = [set(found) for found in there.values() if found]
    if not trained:
        raise CheckpointError(
            f"{context.results.of_task(view, task)}: no share of the labels is trained and validated; give --run to do it"
        )
    common = [name for name in names if name in set.intersection(*trained)]
    points: list[CurvePoint] = []
    for fraction, found in there.items():
        used = [name for name in found if name in common] or found
        if used:
            runs = [of_share[fraction].task(view, task, name) for name in used]
            points += _points(context, task, fraction, used, runs, seed)
            continue
        reasons = [why_not(context, view, task, name, fraction, seed) for name in names]
        reason = next((one for one in reasons if one), None)
        state = f"not computable: {reason}" if reason else "not trained"
        points.append(CurvePoint(fraction, "", None, MEAN[task], None, None, None, state))
    return points


def _is_scored(results: ResultsFolder, view: str, task: str, fold: str) -> bool:
    return (results.task(view, task, fold).validation / "summary.json").exists()


def _points(
    context: Context, task: str, fraction: float, folds: Sequence[str], runs: Sequence[RunFolder], seed: int
) -> list[CurvePoint]:
    configs = [run.read_config() for run in runs]
    counts = [one["patients"] for one in configs if one.get("patients") is not None]
    patients = float(np.mean(counts)) if counts else None
    few: dict[str, str] = {}
    for one in configs:
        few |= one.get("not_computable") or {}
    rng = np.random.default_rng(seed)
    if task == "segmentation":
        found = dice_scores(
            context, [read_json(run.validation / "summary.json", DatasetError, "validate again") for run in runs], rng
        )
    else:
        found = auroc_scores(context.plan.diagnoses, [fold_scores(context, run, few) for run in runs], rng)
    place = (fraction, " ".join(folds), patients)
    return [
        CurvePoint(*place, label, *values, f"not computable: {few[label]}" if label in few else _no_score(values[0]))
        for label, values in found.items()
    ]  # fmt: skip


def _no_score(score: float | None) -> str:
    return "" if score is not None else "no score: the validation cases lack a class"


def fold_scores(context: Context, run: RunFolder, few: dict[str, str]) -> FoldScores:
    """The validation of one diagnosis run, labels of `few` unknown throughout."""
    diagnoses = context.plan.diagnoses
    logits = read_logits(run.validation, diagnoses)
    cases = [case for case in context.dataset.cases if case.name in logits]
    truth = np.where([name in few for name in diagnoses], np.nan, truth_of(cases, diagnoses))
    return FoldScores(truth, np.array([logits[case.name] for case in cases]), tuple(case.patient for case in cases))


Interval = tuple[float | None, float | None, float | None]


def auroc_scores(
    diagnoses: Sequence[str], folds: Sequence[FoldScores], rng: np.random.Generator
) -> dict[str, Interval]:
    """Mean AUROC over folds of each label, then ``macro``, their mean; each with the interval of a bootstrap over patients."""
    drawn = [draw_counts(fold.patients, rng, REPEATS) for fold in folds]
    scores: dict[str, float | None] = {}
    repeated = np.full((REPEATS, len(diagnoses)), np.nan)
    for k, name in enumerate(diagnoses):
        single = [label_score("auroc", fold.truth[:, k], fold.logits[:, k]) for fold in folds]
        known = [one for one in single if one is not None]
        scores[name] = float(np.mean(known)) if known else None
        each = [score_samples("auroc", f.truth[:, k], f.logits[:, k], n) for f, n in zip(folds, drawn, strict=True)]
        repeated[:, k] = mean_known(np.stack(each, axis=1))
    found = {name: _interval(scores[name], repeated[:, k]) for k, name in enumerate(diagnoses)}
    kept = [score for score in scores.values() if score is not None]
    macro = float(np.mean(kept)) if kept else None
    return {**found, MEAN["diagnosis"]: _interval(macro, mean_known(repeated))}


def dice_scores(context: Context, summaries: Sequence[dict[str, Any]], rng: np.random.Generator) -> dict[str, Interval]:
    """Mean Dice over the series of each structure, then ``mean``, over structures; intervals as `auroc_scores`."""
    patient = {series.name: case.patient for case in context.dataset.cases for series in case.series}
    cases = {name: scores for summary in summaries for name, scores in summary["cases"].items()}
    structures = list(next(iter(cases.values())))
    dice = np.array([[scores[structure]["dice"] for structure in structures] for scores in cases.values()])
    counts = draw_counts([patient[name] for name in cases], rng, REPEATS)
    repeated = counts @ dice / counts.sum(axis=1, keepdims=True)
    found = {name: _interval(float(dice[:, k].mean()), repeated[:, k]) for k, name in enumerate(structures)}
    return {**found, MEAN["segmentation"]: _interval(float(dice.mean()), repeated.mean(axis=1))}


def _interval(score: float | None, repeated: np.ndarray) -> Interval:
    kept = repeated[~np.isnan(repeated)]
    if score is None or not len(kept):
        return score, None, None
    low, high = np.percentile(kept, (2.5, 97.5))
    return score, float(low), float(high)
