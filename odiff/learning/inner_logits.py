"""Logits of heads that saw no label of the cases they score: what a gate over the views may learn from.

The view's own network was fine-tuned on all training cases of the fold, so its logits of them say little. Here the features come
from the pretrained network, which knows no label, and a head is trained anew for each inner fold (DESIGN: inner K-fold logits).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from odiff.data.index import PreparedCase
from odiff.learning.context import Context
from odiff.learning.diagnose import build_diagnosis, build_head
from odiff.learning.diagnosis_data import items_of
from odiff.learning.inner_folds import out_of_fold_logits
from odiff.learning.run import RunSettings
from odiff.learning.transfer import load_backbone
from odiff.learning.warm_up import CachedFeatures, cache_features, fit_template
from odiff.network.diagnosis import FeatureChoice


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
    if len(set(patients)) > 1:
        cached = pretrained_features(context, view, choice, pretrained, seen, settings)
        build = partial(build_head, plan, view, choice, plan.diagnosis.dropout, settings.device)
        found[has_view] = out_of_fold_logits(build, cached, patients, plan.diagnosis, settings.seed)
    return found, present


def pretrained_features(
    context: Context, view: str, choice: FeatureChoice, pretrained: str | None, cases: Sequence[PreparedCase],
    settings: RunSettings,
) -> CachedFeatures:  # fmt: skip
    """Features of the cases, which all have the view, from the network that the view's own was fine-tuned from."""
    plan = context.plan
    torch.manual_seed(settings.seed)
    network = build_diagnosis(plan, view, choice)
    if pretrained:
        load_backbone(network.backbone, Path(pretrained), plan.views[view])
    network.to(settings.device)
    items, prepared = items_of(cases, view, plan.diagnoses), context.prepared(view)
    fit_template(network, prepared, items, plan.views[view])
    return cache_features(network, prepared, items, plan.views[view], most=len(items))
