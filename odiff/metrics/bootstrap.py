"""Scores of many bootstrap samples at once: each is a row of counts, how often it holds each case."""

from collections.abc import Callable, Sequence

import numpy as np

REPEATS = 1000
THRESHOLD = 0.5
FALSE_ALARMS = 0.1
BINS = 10
BLOCK = 2**23

Bootstrap = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def draw_counts(patients: Sequence[str], rng: np.random.Generator, repeats: int) -> np.ndarray:
    """How often each case is in each of `repeats` bootstrap samples that draw whole patients; (repeats, cases).

    Two lists that name the same set of patients get the same draws from generators of the same state, whatever their cases.
    """
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=repeats)
    return drawn[:, owner].astype(float)


def score_samples(
    name: str, truth: np.ndarray, probability: np.ndarray, counts: np.ndarray, owner: np.ndarray | None = None
) -> np.ndarray:
    """The score `name` of `BOOTSTRAP` of each sample.

    Parameters
    ----------
    truth, probability : (n,); truth 1, 0, or NaN where unknown.
    counts : (repeats, cases).
    owner : the case of each of the n entries; by default entry and case are the same.

    Returns
    -------
    (repeats,), NaN where a sample lacks a class.
    """
    kept = np.flatnonzero(~np.isnan(truth))
    if not len(kept):
        return np.full(len(counts), np.nan)
    kept = kept[np.argsort(-probability[kept], kind="stable")]
    hits, scores, cases = truth[kept], probability[kept], kept if owner is None else owner[kept]
    rows, result = max(1, BLOCK // len(kept)), []
    for low in range(0, len(counts), rows):
        weights = counts[low : low + rows][:, cases]
        positive = weights @ hits
        has_both = (positive > 0) & (weights.sum(axis=1) > positive)
        result.append(np.where(has_both, BOOTSTRAP[name](hits, scores, weights), np.nan))
    return np.concatenate(result)


def _curve(hits: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives (repeats, thresholds) as the threshold falls through the distinct scores."""
    last_of_tie = np.append(np.diff(scores) != 0, True)
    true = np.cumsum(weights * hits, axis=1)[:, last_of_tie]
    return true, np.cumsum(weights * (1 - hits), axis=1)[:, last_of_tie]


def _auroc(hits: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of positive-negative pairs in the right order, ties half: the area below the ROC curve."""
    true, false = _curve(hits, scores, weights)
    steps = np.diff(false, axis=1, prepend=0)
    area = (steps * (true - np.diff(true, axis=1, prepend=0) / 2)).sum(axis=1)
    return _ratio(area, true[:, -1] * false[:, -1])


def _average_precision(hits: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """As `sklearn.metrics.average_precision_score` defines it."""
    true, false = _curve(hits, scores, weights)
    precision = true / np.maximum(true + false, 1)
    return _ratio((precision * np.diff(true, axis=1, prepend=0)).sum(axis=1), true[:, -1])


def _f1(hits: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN), positive from `THRESHOLD` on."""
    called = scores >= THRESHOLD
    true = weights @ (hits * called)
    return _ratio(2 * true, weights @ called + weights @ hits)


def _sensitivity(hits: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sensitivity at a specificity of 1 - `FALSE_ALARMS`.

    Between its points the ROC curve is a straight line; where it rises at that very specificity, its upper end counts.
    """
    true, false = _curve(hits, scores, weights)
    start = np.zeros((len(weights), 1))
    true = np.hstack([start, true / np.maximum(true[:, -1:], 1)])
    false = np.hstack([start, false / np.maximum(false[:, -1:], 1)])
    before = np.maximum((false <= FALSE_ALARMS).sum(axis=1) - 1, 0)
    after, row = np.minimum(before + 1, true.shape[1] - 1), np.arange(len(weights))
    width = false[row, after] - false[row, before]
    share = _ratio(FALSE_ALARMS - false[row, before], width)
    rise = np.where(width > 0, share, 0) * (true[row, after] - true[row, before])
    return true[row, before] + np.maximum(rise, 0)


def _brier(hits: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean squared difference of probability and truth."""
    return _ratio(weights @ (hits - scores) ** 2, weights.sum(axis=1))


def _calibration_error(hits: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error: over bins, the share of cases times |share of positives - mean probability|."""
    in_bin = bin_of(scores)[:, None] == np.arange(BINS)
    gaps = np.abs(weights @ ((hits - scores)[:, None] * in_bin)).sum(axis=1)
    return _ratio(gaps, weights.sum(axis=1))


def bin_of(probability: np.ndarray) -> np.ndarray:
    """The bin of each probability, 0 to `BINS` - 1, of equal width and closed above, as scikit-learn's calibration_curve."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probability)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


BOOTSTRAP: dict[str, Bootstrap] = {
    "auroc": _auroc,
    "ap": _average_precision,
    "f1": _f1,
    "sensitivity_at_90_specificity": _sensitivity,
    "brier": _brier,
    "calibration_error": _calibration_error,
}
