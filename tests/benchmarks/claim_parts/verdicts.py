"""From rows to claims: differences with intervals from a bootstrap over patients and seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from odiff.metrics.bootstrap import draw_counts, score_samples

REPEATS = 1000
LEAST_SEEDS = 3
CPU = "cpu"
REDRAWN = 50
Row = dict[str, Any]
Rows = Mapping[tuple[str, int], Row]


def device_of(row: Row) -> str:
    """What a row was computed on; the first rows do not say, and are of the CPU."""
    return row.get("device", CPU)


@dataclass(frozen=True)
class Claim:
    """What must be shown of a difference, and what was found.

    `least` bounds its mean from below, `low_over` the lower end of its interval, `high_under` its mean from above.
    """

    name: str
    says: str
    difference: float
    low: float
    high: float
    seeds: int
    patients: int
    least: float | None
    low_over: float
    high_under: float = np.inf

    @property
    def is_met(self) -> bool:
        """Whether all bounds hold, over as many seeds as it takes."""
        is_large_enough = self.least is None or self.difference >= self.least
        return not self.is_open and is_large_enough and self.low > self.low_over and self.difference < self.high_under

    @property
    def is_open(self) -> bool:
        """Whether rows of further seeds are missing."""
        return self.seeds < LEAST_SEEDS

    @property
    def verdict(self) -> str:
        """In a word."""
        return f"open, {self.seeds} of {LEAST_SEEDS} seeds" if self.is_open else "yes" if self.is_met else "**no**"

    @property
    def wanted(self) -> str:
        """The bounds in words."""
        bounds = [] if self.least is None else [f"{self.least:+g}"]
        bounds += [] if np.isinf(self.low_over) else [f"low > {self.low_over:g}"]
        bounds += [] if np.isinf(self.high_under) else [f"< {self.high_under:g}"]
        return ", ".join(bounds)


def macro_auroc(row: Row, group: str, who: str, counts: np.ndarray) -> np.ndarray:
    """Macro AUROC of each bootstrap sample (samples, patients)."""
    found = row["scores"][group]
    truth, probability = np.array(found["truth"], float), np.array(found[who]) / 10000
    columns = [score_samples("auroc", truth[:, k], probability[:, k], counts) for k in range(truth.shape[1])]
    return np.nanmean(columns, axis=0)


def mean_dice(row: Row, group: str, who: str, counts: np.ndarray) -> np.ndarray:
    """Mean Dice over structures and files of each bootstrap sample; `who` is ignored."""
    values = np.array(row["scores"][group]["dice"]) / 10000
    return counts @ values.mean(axis=1) / counts.sum(axis=1)


Score = Callable[[Row, str, str, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Term:
    """One score of an arm, with its weight in a sum of scores."""

    weight: float
    arm: str
    group: str = "same"
    who: str = "fused"


def contrast(
    rows: Mapping[tuple[str, int], Row], terms: Sequence[Term], score: Score, rng: np.random.Generator
) -> tuple[float, float, float, int, int] | None:
    """A weighted sum of scores: mean over seeds, 95 % interval, seeds and patients.

    Every sample draws seeds, and patients of each test group, with replacement; all terms of a seed and group see the same draw.
    None where a row is missing for every seed.

    Raises
    ------
    ValueError
        Two rows hold other test cases of one group.
    """
    seeds = sorted({seed for _, seed in rows if all((term.arm, seed) in rows for term in terms)})
    if not seeds:
        return None
    groups: dict[str, list[str]] = {}
    for term in terms:
        for seed in seeds:
            cases = rows[term.arm, seed]["scores"][term.group]["cases"]
            if groups.setdefault(term.group, cases) != cases:
                raise ValueError(
                    f"{term.arm}, seed {seed}: other test cases of {term.group} than the arms it is compared with"
                )
    counts = {group: draw_counts(cases, rng, REPEATS) for group, cases in groups.items()}
    whole = {group: np.ones((1, len(cases))) for group, cases in groups.items()}

    def total(seed: int, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        parts = [t.weight * score(rows[t.arm, seed], t.group, t.who, drawn[t.group]) for t in terms]
        return np.sum(parts, axis=0)

    mean = float(np.mean([total(seed, whole)[0] for seed in seeds]))
    low, high = _interval(np.array([total(seed, counts) for seed in seeds]), rng)
    return mean, low, high, len(seeds), sum(map(len, groups.values()))


def _interval(by_seed: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Samples of patients (seeds, REPEATS) -> the interval of their mean over seeds drawn with replacement."""
    chosen = rng.integers(len(by_seed), size=(REPEATS, len(by_seed)))
    low, high = np.nanpercentile(by_seed[chosen, np.arange(REPEATS)[:, None]].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def calibration(
    rows: Mapping[tuple[str, int], Row], term: Term, rng: np.random.Generator
) -> tuple[tuple[float, float, float, int, int], float] | None:
    """Expected calibration error pooled over labels, as `contrast` gives a difference, and that of a perfectly calibrated model.

    The latter is the mean error where each truth is drawn anew from its own probability. None without rows.
    """
    seeds = sorted(seed for arm, seed in rows if arm == term.arm)
    if not seeds:
        return None
    point, samples, expected, patients = [], [], [], 0
    for seed in seeds:
        found = rows[term.arm, seed]["scores"][term.group]
        truth, probability = np.array(found["truth"], float), np.array(found[term.who]) / 10000
        patients = len(truth)
        owner = np.repeat(np.arange(patients), truth.shape[1])
        counts = draw_counts(found["cases"], np.random.default_rng(0), REPEATS)

        def error(
            truth: np.ndarray, counts: np.ndarray, given: np.ndarray = probability, owner: np.ndarray = owner
        ) -> Any:
            return score_samples("calibration_error", truth.ravel(), given.ravel(), counts, owner)

        once = np.ones((1, patients))
        point.append(error(truth, once)[0])
        samples.append(error(truth, counts))
        drawn = [error((rng.random(truth.shape) < probability).astype(float), once)[0] for _ in range(REDRAWN)]
        expected.append(np.mean(drawn))
    low, high = _interval(np.array(samples), rng)
    return (float(np.mean(point)), low, high, len(seeds), patients), float(np.mean(expected))
