"""Probabilities that mean what they say: Platt scaling where a label has cases enough, else one temperature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

ENOUGH = 20


def expit(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)) without overflow; `scipy.special` takes a fifth of a second to import."""
    return np.exp(-np.logaddexp(0.0, -logits))


@dataclass(frozen=True)
class Calibration:
    """probability = expit(slope * logit + intercept), one of each per label; slopes are above 0."""

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """(cases, labels) logits to probabilities."""
        return expit(logits * np.asarray(self.slopes) + np.asarray(self.intercepts))


def identity(labels: int) -> Calibration:
    """Leaves expit(logit) as it is."""
    return Calibration((1.0,) * labels, (0.0,) * labels)


def fit_calibration(logits: np.ndarray, truth: np.ndarray) -> Calibration:
    """Fit to out-of-fold logits.

    Parameters
    ----------
    logits, truth : (cases, labels); truth is NaN where unknown.

    Labels with 20 positives and 20 negatives get a slope and an intercept (Platt 1999, with his smoothed targets); the
    others share one temperature (Guo et al. 2017).
    """
    labels = logits.shape[1]
    rich = [label for label in range(labels) if _is_rich(truth[:, label])]
    poor = [label for label in range(labels) if label not in rich]
    slopes, intercepts = np.ones(labels), np.zeros(labels)
    for label in rich:
        known = ~np.isnan(truth[:, label])
        slopes[label], intercepts[label] = _platt(logits[known, label], truth[known, label])
    if poor:
        known = ~np.isnan(truth[:, poor])
        slopes[poor] = _temperature(logits[:, poor][known], truth[:, poor][known])
    return Calibration(tuple(float(v) for v in slopes), tuple(float(v) for v in intercepts))


def _is_rich(truth: np.ndarray) -> bool:
    return int((truth == 1).sum()) >= ENOUGH and int((truth == 0).sum()) >= ENOUGH


def _minimised(loss: Callable[[np.ndarray], float], bounds: list[tuple[float, float]]) -> np.ndarray:
    from scipy.optimize import minimize  # slow to import, and prediction never fits

    return minimize(loss, np.zeros(len(bounds)), method="L-BFGS-B", bounds=bounds).x


def _platt(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    positive, negative = truth.sum(), (1 - truth).sum()
    smoothed = np.where(truth == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(x: np.ndarray) -> float:
        return _cross_entropy(np.exp(x[0]) * logits + x[1], smoothed)

    log_slope, intercept = _minimised(loss, [(-4, 2), (-8, 8)])
    return float(np.exp(log_slope)), float(intercept)


def _temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    if len(np.unique(truth)) < 2:
        return 1.0
    found = _minimised(lambda x: _cross_entropy(np.exp(x[0]) * logits, truth), [(-3, 1)])
    return float(np.exp(found[0]))


def _cross_entropy(logits: np.ndarray, target: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, logits) - target * logits))


def cross_fitted(
    logits: np.ndarray, truth: np.ndarray, groups: Sequence[str], parts: int = 5, seed: int = 0
) -> np.ndarray:
    """Probabilities (cases, labels), each from a calibration that saw no case of its group (patient)."""
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    part_of = {names[i]: rank % min(parts, len(names)) for rank, i in enumerate(order)}
    part = np.array([part_of[group] for group in groups])
    probability = expit(logits)
    for number in sorted(set(part)):
        inside = part == number
        if inside.all():
            continue
        probability[inside] = fit_calibration(logits[~inside], truth[~inside]).apply(logits[inside])
    return probability
