"""Which fusion joins the views of a fold, measured on its training cases."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from odiff.data.index import PreparedCase
from odiff.learning.clear_choice import can_choose, clearly_best, short_recipe
from odiff.learning.context import Context
from odiff.learning.diagnose import build_head
from odiff.learning.diagnosis_scores import truth_of
from odiff.learning.fusion_batches import EMA_DECAY, GRADIENT_CLIP, EmbeddedCases, FusionBatches, fusion_loss, logits_of
from odiff.learning.inner_folds import fit_head, inner_folds, subset
from odiff.learning.inner_logits import pretrained_features
from odiff.learning.pretrained import started_from
from odiff.learning.run import RunSettings
from odiff.learning.warm_up import head_embeddings
from odiff.metrics.classification import macro_score
from odiff.network.diagnosis import DiagnosisNetwork
from odiff.network.fusion import FUSIONS, FusionNetwork, GatedFusion, start_fusion
from odiff.network.heads import DiagnosisHead
from odiff.plan import FusionRecipe
from odiff.training.optimiser import cosine_rate, make_optimiser, moving_average, set_rates, update_average
from odiff.vocabulary import FUSED

log = logging.getLogger(__name__)
USUAL = "cross_attention"


@dataclass(frozen=True)
class InnerFold:
    """Heads of the views that learnt from one part of the cases, what they make of all, and the numbers of both parts."""

    train: list[int]
    held_out: list[int]
    heads: dict[str, DiagnosisHead]
    cases: EmbeddedCases


def choose_variant(
    context: Context, fold: str, networks: Mapping[str, DiagnosisNetwork], cases: Sequence[PreparedCase], settings: RunSettings
) -> tuple[str, dict[str, float]]:  # fmt: skip
    """The fusion, and the macro AUROC over inner folds of each; `USUAL` and none where the networks or the cases allow no measuring.

    As in the fold itself, a fusion learns from cases that the heads it joins have seen, and is scored on others.
    """
    runs = {view: context.results.task(view, "diagnosis", fold) for view in networks}
    found = {view: started_from(context.results, view, run.read_config()) for view, run in runs.items()}
    starts = {view: start for view, start in found.items() if start}
    if gone := [start for start in starts.values() if not Path(start).exists()]:
        log.warning("%s: is not there any more, so that the fusion cannot be chosen; %s is taken", gone[0], USUAL)
    if gone or len(starts) < len(networks) or not can_choose([case.patient for case in cases]):
        return USUAL, {}
    folds = fitted_folds(context, networks, starts, cases, settings)
    truth = truth_of(cases, context.plan.diagnoses)
    scores: dict[str, float] = {}
    for variant in FUSIONS if folds else ():
        logits = held_out_logits(variant, folds, torch.from_numpy(truth).float(), context.plan.fusion, settings.seed)
        score = macro_score("auroc", truth, logits.numpy())
        scores |= {variant: round(score, 4)} if score is not None else {}
    return clearly_best(scores, USUAL, len(cases)), scores


def fitted_folds(
    context: Context, networks: Mapping[str, DiagnosisNetwork], starts: Mapping[str, str], cases: Sequence[PreparedCase],
    settings: RunSettings,
) -> list[InnerFold]:  # fmt: skip
    """Heads of every view for each inner fold; none where a fold has no case of a view to learn from."""
    plan = context.plan
    present = torch.tensor([[bool(case.of_view(view)) for view in networks] for case in cases])
    folds = [
        InnerFold(train, held_out, {}, EmbeddedCases({}, present))
        for train, held_out in inner_folds([case.patient for case in cases])
    ]
    for number, (view, network) in enumerate(networks.items()):
        seen = present[:, number].nonzero()[:, 0].tolist()
        place = {case: row for row, case in enumerate(seen)}
        learnt = [[place[case] for case in fold.train if case in place] for fold in folds]
        if not all(learnt):
            return []
        cached = pretrained_features(
            context, view, network.choice, starts[view], [cases[case] for case in seen], settings
        )
        for fold, rows in zip(folds, learnt, strict=True):
            torch.manual_seed(settings.seed)
            head = build_head(plan, view, network.choice, plan.diagnosis.dropout, settings.device)
            fit_head(head, subset(cached, rows), short_recipe(plan.diagnosis), settings.seed)
            embedded = torch.zeros((len(cases), *head.weight.shape))
            embedded[seen] = head_embeddings(head, cached).cpu()
            fold.heads[view], fold.cases.embedded[view] = head.cpu(), embedded
    return folds


def held_out_logits(
    variant: str, folds: Sequence[InnerFold], targets: Tensor, recipe: FusionRecipe, seed: int
) -> Tensor:
    """Logits (cases, labels) of a fusion, each case by one that it did not teach.

    A gate learns from logits of heads that did not see the case that they score, those of other folds. These have seen labels of the cases
    held out here, so that a little of them reaches the few weights of a gate, as in any stacking.
    """
    found, unseen = torch.zeros(targets.shape), unseen_logits(folds)
    for fold in folds:
        torch.manual_seed(seed)
        network = start_fusion(variant, fold.heads, targets.shape[1])
        cases = unseen if isinstance(network, GatedFusion) else fold.cases
        average = fit_fusion(network, cases.of(fold.train), targets[fold.train], recipe, seed)
        with torch.no_grad():
            found[fold.held_out] = logits_of(average, cases.of(fold.held_out))
    return found


@torch.no_grad()
def unseen_logits(folds: Sequence[InnerFold]) -> EmbeddedCases:
    """Logits of each view (cases, labels) in place of embeddings, each case's by the heads of the fold that held it out."""
    found: dict[str, Tensor] = {}
    for fold in folds:
        for view, head in fold.heads.items():
            logits = head.classify(fold.cases.embedded[view])
            found.setdefault(view, torch.zeros_like(logits))[fold.held_out] = logits[fold.held_out]
    return EmbeddedCases(found, folds[0].cases.present)


def fit_fusion(
    network: FusionNetwork, cases: EmbeddedCases, targets: Tensor, recipe: FusionRecipe, seed: int
) -> FusionNetwork:
    """The average of a fusion's weights after the steps that `odiff.learning.fusion.train_fusion` makes, without a folder."""
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser, average = make_optimiser({FUSED: learnt}, recipe.weight_decay), moving_average(network)
    batches, rate = FusionBatches(cases, targets, seed), partial(cosine_rate, steps=recipe.steps, warmup_steps=1)
    for step in range(recipe.steps):
        set_rates(optimiser, {FUSED: rate(step, peak=recipe.learning_rate)})
        optimiser.zero_grad()
        fusion_loss(network, batches[step]).backward()
        torch.nn.utils.clip_grad_norm_(learnt, GRADIENT_CLIP)
        optimiser.step()
        update_average(average, network, EMA_DECAY, step + 1)
    return cast(FusionNetwork, average)
