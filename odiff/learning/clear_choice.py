"""When one way of diagnosing replaces the usual one: where it is clearly better inside the fold's training cases."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from odiff.network.heads import ATTENTION
from odiff.plan import DiagnosisRecipe

AUTO = "auto"
MARGIN = 0.03  # about one standard error of a macro AUROC over `CASES` cases
CASES = 100
STEPS = 200
FEWEST_PATIENTS = 30
Choice = TypeVar("Choice")


def first_pooling(planned: str) -> str:
    """The plan's pooling; where that is to be chosen, the one that the others must beat."""
    return ATTENTION if planned == AUTO else planned


def short_recipe(recipe: DiagnosisRecipe) -> DiagnosisRecipe:
    """The recipe with the steps of a head that is only to be compared with others."""
    return replace(recipe, head_steps=min(STEPS, recipe.head_steps))


def can_choose(patients: Sequence[str]) -> bool:
    """Whether there are patients enough to see a difference that is likely: with fewer only one above .055 counts as clear."""
    return len(set(patients)) >= FEWEST_PATIENTS


def clearly_best(scores: Mapping[Choice, float], usual: Choice, cases: int) -> Choice:
    """The choice with the highest macro AUROC, if that is clearly above what `usual` has.

    Clearly is `MARGIN` at `CASES` cases and more with fewer: closer scores are noise.
    """
    best = max(scores, key=lambda one: scores[one], default=usual)
    margin = MARGIN * (CASES / max(1, cases)) ** 0.5
    return best if scores.get(best, 0.0) > scores.get(usual, 0.5) + margin else usual
