"""Multi-label scores; unknown labels (NaN) count nowhere."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve

from odiff.metrics.bootstrap import BOOTSTRAP, FALSE_ALARMS, THRESHOLD, bin_of, draw_counts, score_samples

Score = Callable[[np.ndarray, np.ndarray], float]
Samples = dict[str, dict[str, np.ndarray]]
LEAST_PATIENTS = 2
MACRO, MICRO = "macro", "micro"


def _f1(truth: np.ndarray, probability: np.ndarray) -> float:
    return float(f1_score(truth, probability >= THRESHOLD, zero_division=0))


def _sensitivity(truth: np.ndarray, probability: np.ndarray) -> float:
    false, true, _ = roc_curve(truth, probability, drop_intermediate=False)
    return float(np.interp(FALSE_ALARMS, false, true))


def _brier(truth: np.ndarray, probability: np.ndarray) -> float:
    return float(np.mean((truth - probability) ** 2))


def _calibration_error(truth: np.ndarray, probability: np.ndarray) -> float:
    return float(np.abs(np.bincount(bin_of(probability), truth - probability)).sum() / len(truth))


SCORES: dict[str, Score] = {
    "auroc": roc_auc_score,
    "ap": average_precision_score,
    "f1": _f1,
    "sensitivity_at_90_specificity": _sensitivity,
    "brier": _brier,
    "calibration_error": _calibration_error,
}


def label_score(name: str, truth: np.ndarray, probability: np.ndarray) -> float | None:
    """One score of one label over cases (n,); None unless both classes are known."""
    known = ~np.isnan(truth)
    if len(np.unique(truth[known])) < 2:
        return None
    return float(SCORES[name](truth[known], probability[known]))


def macro_score(name: str, truth: np.ndarray, probability: np.ndarray) -> float | None:
    """Mean over the labels (columns of (n, labels)) that can be scored."""
    found = [label_score(name, truth[:, label], probability[:, label]) for label in range(truth.shape[1])]
    kept = [score for score in found if score is not None]
    return float(np.mean(kept)) if kept else None


def is_computable(truth: np.ndarray, patients: Sequence[str] | np.ndarray) -> bool:
    """Whether truth (n,) has `LEAST_PATIENTS` positive and as many negative patients."""
    owner = np.asarray(patients)
    return all(len(set(owner[truth == value])) >= LEAST_PATIENTS for value in (1, 0))


def sample_labels(
    labels: Sequence[str], truth: np.ndarray, probability: np.ndarray, patients: Sequence[str], counts: np.ndarray
) -> Samples:
    """Every score of every label that is computable, their mean (macro), and of all known pairs of case and label (micro).

    Parameters
    ----------
    truth, probability : (cases, labels); truth 1, 0, or NaN where unknown.
    counts : (repeats, cases), one row per sample; a row of ones is the cases themselves.

    Returns
    -------
    By label, then by score: (repeats,), NaN where a sample lacks a class.
    """
    usable = [k for k in range(len(labels)) if is_computable(truth[:, k], patients)]
    samples: Samples = {
        labels[k]: {name: score_samples(name, truth[:, k], probability[:, k], counts) for name in BOOTSTRAP}
        for k in usable
    }
    if samples:
        of_labels = list(samples.values())
        samples[MACRO] = {name: mean_known(np.stack([one[name] for one in of_labels], axis=1)) for name in BOOTSTRAP}
    owner = np.repeat(np.arange(len(truth)), len(labels))
    pooled, spread = truth.ravel(), probability.ravel()
    if is_computable(pooled, np.asarray(patients)[owner]):
        samples[MICRO] = {name: score_samples(name, pooled, spread, counts, owner) for name in BOOTSTRAP}
    return samples


def score_labels(
    labels: Sequence[str],
    truth: np.ndarray,
    probability: np.ndarray,
    patients: Sequence[str],
    rng: np.random.Generator,
    repeats: int = 500,
) -> dict[str, dict[str, object]]:
    """Every score of `SCORES` per label, as macro mean and pooled (micro), each with a 95 % interval over patients.

    Parameters
    ----------
    truth, probability : (cases, labels); truth 1, 0, or NaN where unknown.
    patients : one name per case; the bootstrap draws patients.

    A label with fewer than `LEAST_PATIENTS` positive or negative patients has None for every score.
    """
    point = sample_labels(labels, truth, probability, patients, np.ones((1, len(truth))))
    drawn = sample_labels(labels, truth, probability, patients, draw_counts(patients, rng, repeats))
    result: dict[str, dict[str, object]] = {}
    for index, label in enumerate(labels):
        known = truth[:, index][~np.isnan(truth[:, index])]
        scores = with_intervals(point.get(label), drawn.get(label, {}))
        result[label] = {"positive": int(known.sum()), "known": len(known), **scores}
    for pooled in (MACRO, MICRO):
        result[pooled] = with_intervals(point.get(pooled), drawn.get(pooled, {}))
    return result


def with_intervals(
    point: Mapping[str, np.ndarray] | None, drawn: Mapping[str, np.ndarray], names: Sequence[str] = tuple(SCORES)
) -> dict[str, object]:
    """Each score with ``<score>_interval``, the 2.5th and 97.5th percentile of its samples; None for all `names` without a point."""
    if point is None:
        return {name: None for name in names}
    found: dict[str, object] = {}
    for name, value in point.items():
        found[name] = None if np.isnan(value[0]) else float(value[0])
        samples = drawn.get(name, np.array([]))
        kept = samples[~np.isnan(samples)]
        if found[name] is not None and len(kept):
            found[f"{name}_interval"] = [float(bound) for bound in np.percentile(kept, (2.5, 97.5))]
    return found


def mean_known(values: np.ndarray) -> np.ndarray:
    """(repeats, labels) -> (repeats,), the mean over labels that could be scored; NaN where none could."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)
