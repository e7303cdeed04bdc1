"""Which pooling the head of a view reads its features with, measured on the training cases of the fold."""

from collections.abc import Callable, Sequence
from functools import partial

from odiff.learning.clear_choice import can_choose, clearly_best, short_recipe
from odiff.learning.inner_folds import out_of_fold_logits
from odiff.learning.warm_up import CachedFeatures
from odiff.metrics.classification import macro_score
from odiff.network.heads import ATTENTION, DiagnosisHead
from odiff.plan import DiagnosisRecipe

# Self-attention over 4,096 cells takes hundreds of times as long and is left to those who ask for it.
CANDIDATES = (ATTENTION, "local", "none")


def choose_pooling(
    build: Callable[[str], DiagnosisHead], cached: CachedFeatures, patients: Sequence[str], recipe: DiagnosisRecipe, seed: int
) -> tuple[str, dict[str, float]]:  # fmt: skip
    """The pooling, and the macro AUROC over inner folds of a head with each, trained by `short_recipe`.

    Parameters
    ----------
    build : name of a pooling -> a new head.
    cached : features of the pretrained network, which knows no label.
    """
    scores: dict[str, float] = {}
    if can_choose(patients):
        for kind in CANDIDATES:
            logits = out_of_fold_logits(partial(build, kind), cached, patients, short_recipe(recipe), seed)
            score = macro_score("auroc", cached.targets.numpy(), logits.numpy())
            scores |= {kind: round(score, 4)} if score is not None else {}
    return clearly_best(scores, ATTENTION, len(patients)), scores
