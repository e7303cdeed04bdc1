"""Multi-label scores; unknown labels (NaN) count nowhere."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

Score = Callable[[np.ndarray, np.ndarray], float]


def _brier(truth: np.ndarray, probability: np.ndarray) -> float:
    return float(np.mean((truth - probability) ** 2))


SCORES: dict[str, Score] = {"auroc": roc_auc_score, "ap": average_precision_score, "brier": _brier}


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


def score_labels(
    labels: Sequence[str],
    truth: np.ndarray,
    probability: np.ndarray,
    patients: Sequence[str],
    rng: np.random.Generator,
    repeats: int = 500,
) -> dict[str, dict[str, object]]:
    """AUROC, AP and Brier score per label and as macro mean, each with a 95 % interval over patients.

    Parameters
    ----------
    truth, probability : (cases, labels); truth 1, 0, or NaN where unknown.
    patients : one name per case; the bootstrap draws patients.
    """
    counts = draw_counts(patients, rng, repeats)
    repeated = {
        name: np.stack([BOOTSTRAP[name](truth[:, k], probability[:, k], counts) for k in range(len(labels))], axis=1)
        for name in SCORES
    }
    result: dict[str, dict[str, object]] = {}
    for index, label in enumerate(labels):
        known = truth[:, index][~np.isnan(truth[:, index])]
        scores = {name: label_score(name, truth[:, index], probability[:, index]) for name in SCORES}
        intervals = {name: values[:, index] for name, values in repeated.items()}
        result[label] = {"positive": int(known.sum()), "known": len(known), **_with_intervals(scores, intervals)}
    macro = {name: macro_score(name, truth, probability) for name in SCORES}
    result["macro"] = _with_intervals(macro, {name: _mean_known(values) for name, values in repeated.items()})
    return result


def _with_intervals(scores: Mapping[str, float | None], repeated: Mapping[str, np.ndarray]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, score in scores.items():
        found[name] = score
        kept = repeated[name][~np.isnan(repeated[name])]
        if score is not None and len(kept):
            found[f"{name}_interval"] = [float(value) for value in np.percentile(kept, (2.5, 97.5))]
    return found


def _mean_known(values: np.ndarray) -> np.ndarray:
    """(repeats, labels) -> (repeats,), the mean over labels that could be scored; NaN where none could."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)


def draw_counts(patients: Sequence[str], rng: np.random.Generator, repeats: int) -> np.ndarray:
    """How often each case is in each of `repeats` bootstrap samples that draw whole patients; (repeats, cases)."""
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=repeats)
    return drawn[:, owner].astype(float)


def bootstrap_auroc(truth: np.ndarray, probability: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUROC of each bootstrap sample: the share of positive-negative pairs in the right order, ties half.

    Parameters
    ----------
    truth, probability : (cases,); truth 1, 0, or NaN.
    counts : (repeats, cases).

    Returns
    -------
    (repeats,), NaN where a sample lacks a class.
    """
    positive, negative = truth == 1, truth == 0
    difference = probability[positive][:, None] - probability[negative][None]
    in_order = (difference > 0) + 0.5 * (difference == 0)
    pairs = counts[:, positive].sum(axis=1) * counts[:, negative].sum(axis=1)
    right = ((counts[:, positive] @ in_order) * counts[:, negative]).sum(axis=1)
    return _ratio(right, pairs)


def bootstrap_ap(truth: np.ndarray, probability: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Average precision of each bootstrap sample, as `sklearn.metrics.average_precision_score` defines it."""
    known = ~np.isnan(truth)
    order = np.argsort(-probability[known], kind="stable")
    weights, hits, scores = counts[:, known][:, order], truth[known][order], probability[known][order]
    if not len(scores):
        return np.full(len(counts), np.nan)
    last_of_tie = np.append(np.diff(scores) != 0, True)
    found = np.cumsum(weights * hits, axis=1)[:, last_of_tie]
    taken = np.cumsum(weights, axis=1)[:, last_of_tie]
    precision = found / np.maximum(taken, 1)
    gained = np.diff(found, axis=1, prepend=0)
    total = found[:, -1]
    has_both = (total > 0) & (taken[:, -1] > total)
    return _ratio((precision * gained).sum(axis=1), np.where(has_both, total, 0))


def bootstrap_brier(truth: np.ndarray, probability: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Brier score of each bootstrap sample; NaN where it lacks a class."""
    known = ~np.isnan(truth)
    weights, error = counts[:, known], (truth[known] - probability[known]) ** 2
    has_both = (counts[:, truth == 1].sum(axis=1) > 0) & (counts[:, truth == 0].sum(axis=1) > 0)
    return _ratio(weights @ error, np.where(has_both, weights.sum(axis=1), 0))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


BOOTSTRAP = {"auroc": bootstrap_auroc, "ap": bootstrap_ap, "brier": bootstrap_brier}
