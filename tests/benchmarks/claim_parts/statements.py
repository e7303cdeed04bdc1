"""What is claimed: differences between arms, and what they must reach."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from claim_parts.experiments import (
    ALL,
    COUNTED,
    DEFAULT,
    FEW,
    NNUNET,
    NONE,
    PAPER_CLOCK,
    PAPER_SHORT,
    SEGMENTED,
    SHORT,
    arm_name,
)
from claim_parts.verdicts import Rows, Score, Term, macro_auroc, mean_dice
from odiff.geometry import VIEWS

LARGEST_ERROR = 0.05
SCRATCH_DROP, LEAST_DROP = "scratch_drop", 0.05
"""What from-scratch loses at a shift, and the least of it that tells whether another loses half."""


@dataclass(frozen=True)
class Statement:
    """A sum of scores that must be at least `least` with a lower end above `low_over`; `only` names the rows that it needs.

    `terms` sees the rows, because the best view is known from them alone. `also` are further figures beside it, by name.
    """

    name: str
    says: str
    score: Score
    terms: Callable[[Rows], Sequence[Term]]
    least: float | None
    low_over: float
    also: Mapping[str, Sequence[Term]]
    only: str


def diagnosis(start: str, fraction: float, cohort: str = "knee", recipe: str = DEFAULT.name) -> str:
    """The arm of a diagnosis by all views."""
    return arm_name(cohort, "diagnosis", VIEWS, recipe, start, fraction)


def segmentation(start: str, fraction: float, recipe: str = DEFAULT.name, cohort: str = "knee") -> str:
    """The arm of a segmentation."""
    return arm_name(cohort, "segmentation", SEGMENTED, recipe, start, fraction)


def minus(better: str, worse: str) -> Callable[[Rows], tuple[Term, ...]]:
    """One arm's score minus another's."""
    return lambda _: (Term(1, better), Term(-1, worse))


def statements() -> list[Statement]:
    """In the order of their numbers."""
    found = [*_pretraining(), *_fusion()]
    for group, words in (("centre", "a hospital"), ("field", "a field strength")):
        found.append(
            _shift(group, f"half of what from-scratch loses at {words} of no training, minus what pretrained loses")
        )
    found += _beside_paper()
    for joint in ("ankle", "shoulder"):
        found.append(
            _simple(
                f"5_transfer_{joint}", f"{joint}: features of the knee minus from scratch, a tenth of the labels", macro_auroc,
                minus(diagnosis("knee", FEW, joint), diagnosis(NONE, FEW, joint)), 0.03, 0.0, joint,
            )
        )  # fmt: skip
    return found


def _simple(
    name: str, says: str, score: Score, terms: Callable[[Rows], Sequence[Term]], least: float | None, low_over: float, only: str
) -> Statement:  # fmt: skip
    return Statement(name, says, score, terms, least, low_over, {}, only)


def _pretraining() -> list[Statement]:
    found = []
    for fraction, word, wanted in ((FEW, "10pct", (0.05, 0.03, 0.0)), (ALL, "100pct", (None, None, -0.01))):
        auroc, dice, low = wanted
        share = "a tenth of the labels" if fraction == FEW else "all labels"
        found.append(
            _simple(
                f"1_auroc_{word}", f"diagnosis: pretrained minus from scratch, {share}", macro_auroc,
                minus(diagnosis("knee", fraction), diagnosis(NONE, fraction)), auroc, low, "knee_diagnosis",
            )
        )  # fmt: skip
        for recipe, against in ((DEFAULT.name, "scratch"), ("twice", "scratch_twice_the_steps")):
            words = "from scratch" + (" with twice the steps" if recipe == "twice" else "")
            found.append(
                _simple(
                    f"2_dice_{word}_{against}", f"segmentation: pretrained minus {words}, {share}", mean_dice,
                    minus(segmentation("knee", fraction), segmentation(NONE, fraction, recipe)), dice, low, "knee_segmentation",
                )
            )  # fmt: skip
        found.append(_beside_nnunet(fraction, word, share, low))
    says = "segmentation of knees of real anatomy: features of the phantom's minus from scratch, a tenth of the labels"
    arms = (segmentation(start, FEW, cohort="atlas") for start in ("knee", NONE))
    found.append(_simple("2_dice_10pct_atlas", says, mean_dice, minus(*arms), None, 0.0, "atlas"))
    return found


def _beside_paper() -> list[Statement]:
    """By the sagittal view alone, a tenth of the labels."""
    found = []
    for task, score, words in (("diagnosis", macro_auroc, "auroc"), ("segmentation", mean_dice, "dice")):
        for ours, paper, how in ((SHORT, PAPER_SHORT, "samples"), (DEFAULT, PAPER_CLOCK, "clock")):
            who = SEGMENTED[0] if task == "diagnosis" else "fused"
            first = Term(1, arm_name("knee", task, SEGMENTED, ours.name, "knee", FEW), "same", who)
            second = Term(-1, arm_name("knee", task, SEGMENTED, paper.name, "knee", FEW), "same", who)
            says = f"{task}: default minus the paper's recipe, pretrained {'on as many samples' if how == 'samples' else 'as long'}"
            found.append(
                Statement(
                    f"6_{words}_{how}", says, score, lambda _, terms=(first, second): terms, None, 0.0, {}, "knee_"
                )
            )
    return found


def _beside_nnunet(fraction: float, word: str, share: str, low: float) -> Statement:
    ours, counted = segmentation("knee", fraction), segmentation(NONE, fraction, COUNTED)
    return Statement(
        f"2_dice_{word}_nnunet", f"segmentation: pretrained minus nnU-Net that trains as long as the fine-tuning, {share}", mean_dice,
        minus(ours, segmentation(NONE, fraction, NNUNET)), 0.02 if fraction == FEW else None, low,
        {"pretraining_time_counted": (Term(1, ours), Term(-1, counted))}, "knee_segmentation",
    )  # fmt: skip


def _mean_over_seeds(rows: Rows, arm: str, score: Score, group: str, who: str) -> float:
    values = []
    for (name, _), row in rows.items():
        if name == arm:
            counts = np.ones((1, len(row["scores"][group]["cases"])))
            values.append(float(score(row, group, who, counts)[0]))
    return float(np.mean(values)) if values else -np.inf


def best_view(rows: Rows, arm: str, views: Sequence[str]) -> str:
    """The view that scores best alone on the same patients, over all seeds: the hardest one to beat."""
    return max(views, key=lambda view: _mean_over_seeds(rows, arm, macro_auroc, "same", view))


def _beside_best_view(arm: str) -> Callable[[Rows], tuple[Term, ...]]:
    """All views minus the best one alone."""
    return lambda rows: (Term(1, arm), Term(-1, arm, "same", best_view(rows, arm, VIEWS)))


def _fusion() -> list[Statement]:
    found = []
    for fraction, name, share in ((ALL, "3_fusion", "all labels"), (FEW, "3_fusion_10pct", "a tenth of the labels")):
        terms, says = _beside_best_view(diagnosis("knee", fraction)), f"fused minus the best single view, {share}"
        found.append(_simple(name, says, macro_auroc, terms, 0.03, 0.0, "knee_diagnosis"))
    arm = diagnosis("knee", ALL)

    def beside_rest(rows: Rows) -> tuple[Term, ...]:
        return min((_without(rows, arm, view) for view in VIEWS), key=lambda terms: _mean_of(rows, terms, macro_auroc))

    says = "fused without a view minus the best remaining view, for the view where that is least"
    found.append(_simple("3_missing", says, macro_auroc, beside_rest, None, -0.01, "knee_diagnosis"))
    return found


def _without(rows: Rows, arm: str, missing: str) -> tuple[Term, Term]:
    rest = [view for view in VIEWS if view != missing]
    return Term(1, arm, "same", f"without_{missing}"), Term(-1, arm, "same", best_view(rows, arm, rest))


def _mean_of(rows: Rows, terms: Sequence[Term], score: Score) -> float:
    return sum(term.weight * _mean_over_seeds(rows, term.arm, score, term.group, term.who) for term in terms)


def _shift(group: str, says: str) -> Statement:
    ours, scratch = diagnosis("knee", ALL), diagnosis(NONE, ALL)
    dropped = (Term(1, scratch), Term(-1, scratch, group))
    terms = (*(Term(t.weight / 2, t.arm, t.group) for t in dropped), Term(-1, ours), Term(1, ours, group))
    return Statement(
        f"4_{group}", says, macro_auroc, lambda _: terms, None, 0.0, {SCRATCH_DROP: dropped}, "knee_diagnosis"
    )


CALIBRATION = Term(1, diagnosis("knee", ALL))
