"""Multi-label scores; unknown labels (NaN) count nowhere."""

from collections.abc import Callable, Sequence

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
    draws = draw_patients(patients, rng, repeats)
    result: dict[str, dict[str, object]] = {}
    for index, label in enumerate(labels):
        column = (truth[:, index : index + 1], probability[:, index : index + 1])
        known = truth[:, index][~np.isnan(truth[:, index])]
        result[label] = {"positive": int(known.sum()), "known": len(known), **_with_intervals(*column, draws)}
    result["macro"] = _with_intervals(truth, probability, draws)
    return result


def _with_intervals(truth: np.ndarray, probability: np.ndarray, draws: list[np.ndarray]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name in SCORES:
        found[name] = macro_score(name, truth, probability)
        if found[name] is None:
            continue
        repeated = [macro_score(name, truth[rows], probability[rows]) for rows in draws]
        kept = [value for value in repeated if value is not None]
        if kept:
            found[f"{name}_interval"] = [float(value) for value in np.percentile(kept, (2.5, 97.5))]
    return found


def draw_patients(patients: Sequence[str], rng: np.random.Generator, repeats: int) -> list[np.ndarray]:
    """Row numbers of `repeats` bootstrap samples that draw whole patients with replacement."""
    names = sorted(set(patients))
    rows = {name: np.flatnonzero(np.asarray(patients) == name) for name in names}
    return [np.concatenate([rows[names[i]] for i in rng.integers(len(names), size=len(names))]) for _ in range(repeats)]
