"""Logits of heads that saw no label of the cases they score: what a gate over the views may learn from.

The view's own network was fine-tuned on all training cases of the fold, so its logits of them say little. Here the features come
from the pretrained network, which knows no label, and a head is trained anew for each inner fold (DESIGN: inner K-fold logits).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.model_selection import GroupKFold
from torch import Tensor

from odiff.data.index import PreparedCase
from odiff.learning.context import Context
from odiff.learning.diagnose import build_diagnosis
from odiff.learning.diagnosis_data import items_of, prior_logits
from odiff.learning.run import RunSettings
from odiff.learning.screening import point_head
from odiff.learning.transfer import load_backbone
from odiff.learning.warm_up import CachedFeatures, cache_features, fit_norms, fit_template, head_logits, warm_up_head
from odiff.network.diagnosis import FeatureChoice

INNER_FOLDS = 3


def inner_logits(
    context: Context, view: str, choice: FeatureChoice, pretrained: str | None, cases: Sequence[PreparedCase],
    settings: RunSettings,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Out-of-fold logits of the training cases of one outer fold.

    Parameters
    ----------
    choice : where the view's network reads its features.
    pretrained : the checkpoint that network was fine-tuned from; None for random weights.

    Returns
    -------
    (cases, labels), zero where the view is missing, and which cases have it (cases,).
    """
    plan = context.plan
    has_view = [number for number, case in enumerate(cases) if case.of_view(view)]
    found, present = torch.zeros((len(cases), len(plan.diagnoses))), torch.zeros(len(cases), dtype=torch.bool)
    present[has_view] = True
    seen = [cases[number] for number in has_view]
    patients = [case.patient for case in seen]
    folds = min(INNER_FOLDS, len(set(patients)))
    if folds < 2:
        return found, present
    torch.manual_seed(settings.seed)
    network = build_diagnosis(plan, view, choice, plan.diagnosis.dropout)
    if pretrained:
        load_backbone(network.backbone, Path(pretrained), plan.views[view])
    network.to(settings.device)
    items = items_of(seen, view, plan.diagnoses)
    fit_template(network, context.prepared(view), items, plan.views[view])
    cached = cache_features(network, context.prepared(view), items, plan.views[view], settings.device, most=len(items))
    for fold, (train, held_out) in enumerate(GroupKFold(folds).split(seen, groups=patients)):
        torch.manual_seed(settings.seed + fold)
        network.head = build_diagnosis(plan, view, choice, plan.diagnosis.dropout).head.to(settings.device)
        with torch.no_grad():
            network.head.bias.copy_(prior_logits([items[number] for number in train]))
        learnt = subset(cached, train.tolist())
        fit_norms(network.head, learnt)
        point_head(network.head, learnt)
        warm_up_head(network, learnt, plan.diagnosis, settings.seed)
        rows = head_logits(network.head, subset(cached, held_out.tolist()))
        found[[has_view[number] for number in held_out]] = rows.cpu()
    return found, present


def subset(cached: CachedFeatures, cases: Sequence[int]) -> CachedFeatures:
    """The cached features of some cases, renumbered in their order."""
    place = {case: number for number, case in enumerate(cases)}
    tiles = [number for number, case in enumerate(cached.owner.tolist()) if case in place]
    owner = torch.tensor([place[int(cached.owner[tile])] for tile in tiles])
    blocks = {name: rows[tiles] for name, rows in cached.blocks.items()}
    return CachedFeatures(blocks, owner, cached.targets[list(cases)])
