"""Diagnosis of one view: the backbone fine-tuned under attention pooling, unknown labels masked."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odiff.data.batches import BatchSource, DiagnosisBatches, DiagnosisItem
from odiff.data.index import PreparedCase
from odiff.errors import CheckpointError
from odiff.learning.clear_choice import AUTO, first_pooling
from odiff.learning.context import Context
from odiff.learning.diagnose import build_diagnosis, build_head, load_diagnosis, stored_choice
from odiff.learning.diagnosis_data import items_of, prior_logits, targets_of
from odiff.learning.diagnosis_scores import masked_bce, write_scores
from odiff.learning.embedding import embed_series
from odiff.learning.features import noised, step_noise
from odiff.learning.inner_folds import fit_head
from odiff.learning.pooling_choice import choose_pooling
from odiff.learning.probe_grid import probed_choice
from odiff.learning.probes import ProbeResult, choose_features
from odiff.learning.run import RunSettings, describe_run, open_run, origins
from odiff.learning.segmentation import fine_tuning_loop, fine_tuning_rates, parameter_groups
from odiff.learning.subsets import LabelShare
from odiff.learning.transfer import load_backbone, log_transfer, with_head
from odiff.learning.usual_blocks import usual_blocks
from odiff.learning.warm_up import CachedFeatures, cache_features, fit_template
from odiff.metrics.classification import macro_score
from odiff.network.backbone import Backbone, build_backbone
from odiff.network.diagnosis import DiagnosisNetwork, FeatureChoice, unused_backbone
from odiff.network.heads import ATTENTION, DiagnosisHead
from odiff.plan import DiagnosisRecipe, Plan, to_plain
from odiff.training.graphs import record_diagnosis
from odiff.training.loop import TrainingState, Validate, start_state, train
from odiff.training.run_folder import RunFolder

DiagnosisBatch = tuple[Tensor, Tensor, Tensor]


def train_diagnosis(
    context: Context,
    view: str,
    fold: str,
    training: Sequence[PreparedCase],
    validation: Sequence[PreparedCase],
    folder: Path,
    pretrained: Path | None,
    settings: RunSettings,
    share: LabelShare,
) -> RunFolder:
    """Fine-tune one fold, or go on with an interrupted training.

    Raises
    ------
    CheckpointError
        `pretrained` does not fit the plan, or the folder holds another run.
    """
    plan, view_plan, recipe = context.plan, context.plan.views[view], context.plan.diagnosis
    items = items_of(training, view, plan.diagnoses)
    torch.manual_seed(settings.seed)
    backbone = build_backbone(view_plan.network)
    taken = load_backbone(backbone, pretrained, view_plan) if pretrained else None
    meta = describe_run(plan, view, "diagnosis", fold, settings)
    meta |= {"pretrained": str(pretrained) if pretrained else None, **origins(pretrained=pretrained), **to_plain(share)}
    run = open_run(folder, meta, settings, keep=("features", "features_from", "probes", "pooling_scores"))
    probes = _where_to_read(context, view, fold, training, backbone, pretrained, run, settings, share)
    begun = replace(probes.choice, pooling=first_pooling(recipe.pooling))  # what a resumed run began with too
    network = build_diagnosis(plan, view, begun, recipe.dropout)
    network.backbone.load_state_dict(backbone.state_dict())
    network.to(settings.device)
    cached = None if run.checkpoint("latest").exists() else _cached(network, context, view, items, settings)
    _take_pooling(network, probes.choice.pooling, plan, view, settings)
    scores = run.read_config().get("pooling_scores")
    if scores is None and cached and recipe.pooling == AUTO and pretrained:
        patients = [case.patient for case in training if case.of_view(view)][: len(cached.targets)]
        scores = _choose_pooling(network, cached, patients, plan, view, settings)
    transfer = with_head(taken, network) if taken else None
    chosen = {
        "features": to_plain(network.choice), "features_from": probes.source, "probes": probes.scores,
        "pooling_scores": scores or {}, "transfer": to_plain(transfer),
    }  # fmt: skip
    meta |= chosen
    run.write_config(run.read_config() | chosen)
    log_transfer(transfer, f"{view} diagnosis fold {fold}")
    _start_head(network, items, cached, recipe, settings.seed)
    loop = fine_tuning_loop("diagnosis", recipe, settings, accumulate=1)
    groups = {name: [p for p in members if p.requires_grad] for name, members in parameter_groups(network).items()}
    state = start_state(network, groups, loop)
    batch_size = min(recipe.batch_size, len(items))
    record_diagnosis(_network(state.network), (batch_size, 1, *view_plan.patch_zyx), settings.device)
    source = BatchSource(context.prepared(view), view_plan, recipe.augmentation, (), batch_size, settings.seed)

    def loss(network: nn.Module, batch: DiagnosisBatch, number: int) -> Tensor:
        tiles, owner, targets = batch
        noise = step_noise(tiles.shape, settings.seed, number, tiles.device)
        x_t = noised(_network(network).placed(tiles, owner), probes.choice.time_step, view_plan.diffusion, noise)
        return masked_bce(network(x_t, owner, len(targets)), targets)

    watch = _watcher(context, view, validation) if validation else None
    rates = fine_tuning_rates(recipe, 0, recipe.backbone_rate if pretrained else 1.0)
    train(state, loop, run, DiagnosisBatches(source, items), loss, rates, meta, watch, f"{view} diagnosis fold {fold}")
    return run


def _network(module: nn.Module) -> DiagnosisNetwork:
    if not isinstance(module, DiagnosisNetwork):
        raise TypeError(f"expected a DiagnosisNetwork, got {type(module).__name__}")
    return module


def _cached(
    network: DiagnosisNetwork, context: Context, view: str, items: Sequence[DiagnosisItem], settings: RunSettings
) -> CachedFeatures | None:
    """The template, and features for the warm-up of the head; None where the recipe has no warm-up."""
    recipe, view_plan, prepared = context.plan.diagnosis, context.plan.views[view], context.prepared(view)
    fit_template(network, prepared, items, view_plan)
    if not recipe.head_steps and network.choice.pooling != ATTENTION:
        return None
    return cache_features(network, prepared, items, view_plan)


def _choose_pooling(
    network: DiagnosisNetwork, cached: CachedFeatures, patients: Sequence[str], plan: Plan, view: str, settings: RunSettings
) -> dict[str, float]:  # fmt: skip
    """Give the network a head of the pooling that does best; the figures that decided."""

    def build(pooling: str) -> DiagnosisHead:
        return build_head(plan, view, replace(network.choice, pooling=pooling), plan.diagnosis.dropout, settings.device)

    chosen, scores = choose_pooling(build, cached, patients, plan.diagnosis, settings.seed)
    _take_pooling(network, chosen, plan, view, settings)
    return scores


def _take_pooling(network: DiagnosisNetwork, pooling: str, plan: Plan, view: str, settings: RunSettings) -> None:
    """Give the network a new head of a pooling, where it has another, at random by the seed alone."""
    if pooling != network.choice.pooling:
        torch.manual_seed(settings.seed)
        network.choice = replace(network.choice, pooling=pooling)
        network.head = build_head(plan, view, network.choice, plan.diagnosis.dropout, settings.device)


def _start_head(
    network: DiagnosisNetwork, items: Sequence[DiagnosisItem], cached: CachedFeatures | None, recipe: DiagnosisRecipe, seed: int
) -> None:  # fmt: skip
    """The warm-up on cached features, or the prevalences alone where there are none. What is not read gets no gradient."""
    if cached:
        torch.manual_seed(seed)  # whether or not a pooling was chosen before
        fit_head(network.head, cached, recipe, seed)
    else:
        with torch.no_grad():
            network.head.bias.copy_(prior_logits(torch.tensor([item.targets for item in items])))
    unused = unused_backbone(network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(unused))


def _where_to_read(
    context: Context, view: str, fold: str, training: Sequence[PreparedCase], backbone: Backbone, pretrained: Path | None,
    run: RunFolder, settings: RunSettings, share: LabelShare,
) -> ProbeResult:  # fmt: skip
    """Blocks and time step: those of the run that is resumed, of the fold's ``--task probe``, or probed for now."""
    recipe = context.plan.diagnosis
    if stored := _stored_probes(run):
        if recipe.pooling not in (AUTO, stored.choice.pooling):
            raise CheckpointError(
                f"{run.path}: was begun with diagnosis.pooling {stored.choice.pooling}, now {recipe.pooling!r}; give that or auto to go "
                "on with it, or --restart to move it aside"
            )
        return stored
    found = probed_choice(context, view, fold, pretrained, share) or _probe(
        context, view, items_of(training, view, context.plan.diagnoses), training, backbone, pretrained, settings
    )
    return replace(found, choice=replace(found.choice, pooling=first_pooling(recipe.pooling)))


def _stored_probes(run: RunFolder) -> ProbeResult | None:
    """The choice of the run that is resumed."""
    stored = run.read_config()
    if "features" not in stored:
        return None
    return ProbeResult(stored_choice(stored), stored["probes"], stored.get("features_from", "this run"))


def _probe(
    context: Context,
    view: str,
    items: Sequence[DiagnosisItem],
    training: Sequence[PreparedCase],
    backbone: Backbone,
    pretrained: Path | None,
    settings: RunSettings,
) -> ProbeResult:
    """Probes mean something on pretrained features only; from scratch the default blocks are taken."""
    view_plan = context.plan.views[view]
    if pretrained is None:
        return ProbeResult(FeatureChoice(view_plan.diffusion.probe_time_steps[0], usual_blocks(view_plan)), {})
    patients = [case.patient for case in training if case.of_view(view)]
    limit = context.plan.diagnosis.probe_cases
    prepared = context.prepared(view)
    return choose_features(backbone, prepared, items[:limit], patients[:limit], view_plan, settings.device)


@torch.no_grad()
def case_logits(
    network: DiagnosisNetwork, prepared: Path, cases: Sequence[PreparedCase], plan: Plan, view: str
) -> np.ndarray:
    """Logits (cases, labels), the mean over the series of each case, which all have the view."""
    names = [[one.name for one in case.of_view(view)] for case in cases]
    embedded = embed_series(network, prepared, [name for some in names for name in some], plan, view)
    logits = network.head.classify(embedded.to(network.head.weight)).float().cpu()
    return np.array([one.mean(dim=0).numpy() for one in logits.split([len(some) for some in names])])


def validate_diagnosis(
    context: Context, view: str, fold: str, cases: Sequence[PreparedCase], run: RunFolder, settings: RunSettings
) -> dict[str, Any]:
    """Predict the validation cases; write predictions.csv and summary.json."""
    network = load_diagnosis(run.checkpoint("final"), context.plan, view, settings.device)
    prepared = context.prepared(view)
    logits = case_logits(network, prepared, cases, context.plan, view)
    few = run.read_config().get("not_computable", {})
    return write_scores(run.validation, cases, logits, context.plan.diagnoses, settings.seed, few)


def _watcher(context: Context, view: str, cases: Sequence[PreparedCase]) -> Validate:
    """Loss and macro AUROC of the averaged model on the validation cases."""
    plan, prepared = context.plan, context.prepared(view)
    truth = np.array([targets_of(case, plan.diagnoses) for case in cases])

    def watch(state: TrainingState) -> dict[str, float]:
        network = _network(state.average)
        logits = case_logits(network, prepared, cases, plan, view)
        loss = float(masked_bce(torch.from_numpy(logits), torch.from_numpy(truth)))
        auroc = macro_score("auroc", truth, logits)
        return {"score": -loss, "watched_loss": loss, **({} if auroc is None else {"auroc": auroc})}

    return watch
