"""Paired tests of two sets of scores of the same patients."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """Second minus first, its 95 % interval, and the two-sided p value of no difference."""

    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    p: float


def bootstrap_difference(
    first: float, second: float, first_samples: np.ndarray, second_samples: np.ndarray
) -> Difference | None:
    """Compare a score of two models from bootstrap samples (repeats,) that drew the same patients for both.

    The p value is twice the smaller share of samples in which the difference is at most, or at least, 0, one sample added to
    each, so that it is never 0. None where a score is NaN or no sample has both.
    """
    differences = second_samples - first_samples
    differences = differences[~np.isnan(differences)]
    if np.isnan(first) or np.isnan(second) or not len(differences):
        return None
    tails = [(differences <= 0).sum(), (differences >= 0).sum()]
    p = min(1.0, 2 * (min(tails) + 1) / (len(differences) + 1))
    low, high = np.percentile(differences, (2.5, 97.5))
    return Difference(first, second, second - first, (float(low), float(high)), float(p))


def wilcoxon_p(differences: np.ndarray) -> float | None:
    """Two-sided p of the Wilcoxon signed rank test, one difference (n,) a patient; 1 where all are 0, None for one patient."""
    from scipy.stats import wilcoxon  # slow to import

    if len(differences) < 2:
        return None
    return float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0
