"""Heads trained on a part of a fold's training cases, and what they say of the rest; features are cached once for all of them."""

from collections.abc import Callable, Sequence

import torch
from sklearn.model_selection import GroupKFold
from torch import Tensor

from odiff.learning.diagnosis_data import prior_logits
from odiff.learning.screening import point_head
from odiff.learning.warm_up import CachedFeatures, fit_norms, head_logits, warm_up_head
from odiff.network.heads import DiagnosisHead
from odiff.plan import DiagnosisRecipe

INNER_FOLDS = 3


def inner_folds(patients: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Numbers of the cases to learn from and of those held out, for each inner fold; none where there is one patient only."""
    folds = min(INNER_FOLDS, len(set(patients)))
    if folds < 2:
        return []
    return [(train.tolist(), rest.tolist()) for train, rest in GroupKFold(folds).split(patients, groups=patients)]


def subset(cached: CachedFeatures, cases: Sequence[int]) -> CachedFeatures:
    """The cached features of some cases, renumbered in their order."""
    place = {case: number for number, case in enumerate(cases)}
    tiles = [number for number, case in enumerate(cached.owner.tolist()) if case in place]
    owner = torch.tensor([place[int(cached.owner[tile])] for tile in tiles])
    blocks = {name: rows[tiles] for name, rows in cached.blocks.items()}
    return CachedFeatures(blocks, owner, cached.targets[list(cases)])


def fit_head(head: DiagnosisHead, learnt: CachedFeatures, recipe: DiagnosisRecipe, seed: int) -> None:
    """Train a new head on cached features from the prevalences on, pointed where labels show, for `recipe.head_steps`."""
    with torch.no_grad():
        head.bias.copy_(prior_logits(learnt.targets))
    fit_norms(head, learnt)
    point_head(head, learnt)
    warm_up_head(head, learnt, recipe, seed)


def out_of_fold_logits(
    build: Callable[[], DiagnosisHead], cached: CachedFeatures, patients: Sequence[str], recipe: DiagnosisRecipe, seed: int
) -> Tensor:  # fmt: skip
    """Logits (cases, labels) of the cached cases, each by a head that saw no case of its patient; zero where there is one patient."""
    found = torch.zeros(cached.targets.shape)
    for fold, (train, held_out) in enumerate(inner_folds(patients)):
        torch.manual_seed(seed + fold)
        head = build()
        fit_head(head, subset(cached, train), recipe, seed)
        found[held_out] = head_logits(head, subset(cached, held_out)).cpu()
    return found
