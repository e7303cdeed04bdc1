"""Whose labels a run learns from: a share of the patients, balanced and nested, and what can be told from so few."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odiff.data.index import PreparedCase
from odiff.errors import UsageError

FEWEST = 2
CANDIDATES, FEWEST_CANDIDATES = 16, 4
ROUNDING = 1e-9


@dataclass(frozen=True)
class LabelShare:
    """What a run learns from, as its config.json tells it.

    `label_counts` holds positive and negative patients of each diagnosis; `not_computable` says of the diagnoses with fewer than
    `FEWEST` of either how many there are, `train` names the cases.
    """

    label_fraction: float
    patients: int
    label_counts: dict[str, tuple[int, int]]
    not_computable: dict[str, str]
    train: tuple[str, ...]


def share_of(cases: Sequence[PreparedCase], fraction: float, diagnoses: Sequence[str]) -> LabelShare:
    """Describe the training cases that a fraction picked."""
    patients = sorted({case.patient for case in cases})
    kinds = _kinds(cases, patients, diagnoses)
    counts = {name: tuple(int(kinds[:, k, n].sum()) for n in (0, 1)) for k, name in enumerate(diagnoses)}
    few = {
        name: f"{positive} positive and {negative} negative training patients, {FEWEST} of each are needed"
        for name, (positive, negative) in counts.items()
        if min(positive, negative) < FEWEST
    }
    names = tuple(case.name for case in cases)
    return LabelShare(fraction, len(patients), {name: (a, b) for name, (a, b) in counts.items()}, few, names)


def is_labelled(case: PreparedCase) -> bool:
    """Whether a diagnosis of the case is known or one of its series has a mask."""
    return knows_diagnosis(case) or any(one.is_masked for one in case.series)


def knows_diagnosis(case: PreparedCase) -> bool:
    """Whether any diagnosis of the case is known."""
    return any(value is not None for value in case.diagnoses.values())


def label_subset(
    cases: Sequence[PreparedCase], fraction: float, seed: int, diagnoses: Sequence[str]
) -> tuple[PreparedCase, ...]:
    """The cases of a share of the patients, never rounded up: the first so many of `balanced_order`.

    One seed orders the patients once, so that a smaller share lies inside a larger one.

    Raises
    ------
    UsageError
        The fraction is not in (0, 1], or less than one patient.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"--label-fraction {fraction}: must be above 0 and at most 1")
    patients = sorted({case.patient for case in cases})
    count = patients_in(fraction, len(patients))
    if patients and not count:
        raise UsageError(
            f"--label-fraction {fraction:g}: of {len(patients)} labelled patients that is none; give {1 / len(patients):.3g} or more"
        )
    order = balanced_order(_traits(cases, patients, diagnoses), np.random.default_rng([seed, 3]))
    kept = {patients[number] for number in order[:count]}
    return tuple(case for case in cases if case.patient in kept)


def patients_in(fraction: float, patients: int) -> int:
    """How many whole patients a fraction is."""
    return int(fraction * patients + ROUNDING)


def balanced_order(traits: np.ndarray, rng: np.random.Generator) -> list[int]:
    """An order of patients whose every beginning holds each trait as often as all of them do, as nearly as can be.

    Parameters
    ----------
    traits : (patients, traits), 0 or 1.

    Greedy: the next patient is the one that brings the counts nearest to their expectation, each difference weighed by the trait's
    variance, so that rare labels count as much as frequent ones (the idea of iterative stratification, Sechidis et al. 2011, for
    one growing fold; kernel herding, Welling 2009, on label vectors). It is the best of a few that are drawn at random: the best of
    all would be the same patient for every seed.
    """
    traits = np.asarray(traits, float)
    share = traits.mean(axis=0)
    variance = share * (1 - share)
    weight = np.divide(1.0, variance, out=np.zeros_like(variance), where=variance > 0)
    drawn = min(CANDIDATES, max(FEWEST_CANDIDATES, len(traits) // 4))
    waiting, counts, order = np.arange(len(traits)), np.zeros(len(share)), []
    for size in range(1, len(traits) + 1):
        places = rng.permutation(len(waiting))[:drawn]
        error = ((counts + traits[waiting[places]] - size * share) ** 2 * weight).sum(axis=1)
        best = places[np.argmin(error)]
        order.append(int(waiting[best]))
        counts += traits[waiting[best]]
        waiting = np.delete(waiting, best)
    return order


def _kinds(cases: Sequence[PreparedCase], patients: Sequence[str], diagnoses: Sequence[str]) -> np.ndarray:
    """(patients, diagnoses, 2): a positive patient has one positive case, a negative one known cases but no positive."""
    place = {patient: number for number, patient in enumerate(patients)}
    seen = np.zeros((len(patients), len(diagnoses), 2), bool)
    for case in cases:
        for number, name in enumerate(diagnoses):
            value = case.diagnoses.get(name)
            if value is not None:
                seen[place[case.patient], number, 1 - value] = True
    seen[:, :, 1] &= ~seen[:, :, 0]
    return seen


def _traits(cases: Sequence[PreparedCase], patients: Sequence[str], diagnoses: Sequence[str]) -> np.ndarray:
    """(patients, 2 * diagnoses + 1): positive and negative for each diagnosis, and whether there is a mask."""
    masked = {case.patient for case in cases if any(series.is_masked for series in case.series)}
    has_mask = np.array([[patient in masked] for patient in patients], bool).reshape(-1, 1)
    return np.concatenate([_kinds(cases, patients, diagnoses).reshape(len(patients), -1), has_mask], axis=1)
