"""The fused view: the trained views of a fold, joined for diagnosis."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from odiff.data.index import PreparedCase
from odiff.errors import CheckpointError
from odiff.learning.clear_choice import AUTO
from odiff.learning.code_diagnosis import load_code, prepared_rows, train_code_diagnosis
from odiff.learning.code_model import CODE, load_code_diagnosis
from odiff.learning.context import Context
from odiff.learning.diagnose import load_diagnosis, load_fusion
from odiff.learning.diagnosis_scores import truth_of, write_scores
from odiff.learning.embedding import embed_series
from odiff.learning.fusion_batches import (
    EMA_DECAY,
    GRADIENT_CLIP,
    EmbeddedCases,
    FusionBatch,
    FusionBatches,
    fusion_loss,
)
from odiff.learning.fusion_choice import choose_variant
from odiff.learning.gates import add_gates, draw_gates, gate_table
from odiff.learning.inner_logits import inner_logits
from odiff.learning.pretrained import ResultsFolder, started_from
from odiff.learning.run import RunSettings, check_origins, check_plan, describe_run, open_run, origins
from odiff.learning.subsets import LabelShare
from odiff.learning.tabular_model import TABULAR
from odiff.network.diagnosis import DiagnosisNetwork
from odiff.network.fusion import FusionNetwork, GatedFusion, start_fusion
from odiff.plan import to_plain
from odiff.training.loop import LoopSettings, start_state, train
from odiff.training.optimiser import cosine_rate
from odiff.training.run_folder import RunFolder
from odiff.vocabulary import FUSED

log = logging.getLogger(__name__)
CHOSEN = ("variant", "variant_scores")


def view_networks(context: Context, fold: str, settings: RunSettings) -> dict[str, DiagnosisNetwork]:
    """The trained diagnosis networks of a fold by view.

    Raises
    ------
    CheckpointError
        No view of the fold is trained, or one for other diagnoses; the message names the command that does it.
    """
    found = {}
    for view in context.plan.views:
        run = context.results.task(view, "diagnosis", fold)
        if run.is_trained():
            check_plan(run, run.read_config(), to_plain(context.plan))
            found[view] = load_diagnosis(run.checkpoint("final"), context.plan, view, settings.device)
    if not found:
        raise CheckpointError(
            f"{context.results.path}: no view has a trained diagnosis model of fold {fold} to fuse; first run, for each view, "
            f"odiff_train {context.dataset.name} VIEW --task diagnosis"
        )
    return found


def embed_cases(
    context: Context, networks: Mapping[str, DiagnosisNetwork], cases: Sequence[PreparedCase]
) -> EmbeddedCases:
    """Embed every view of every case once; series of one view are averaged."""
    embedded: dict[str, Tensor] = {}
    present = torch.zeros((len(cases), len(networks)), dtype=torch.bool)
    for number, (view, network) in enumerate(networks.items()):
        seen = [row for row, case in enumerate(cases) if case.of_view(view)]
        names = [[one.name for one in cases[row].of_view(view)] for row in seen]
        flat = [name for some in names for name in some]
        of_series = embed_series(network, context.prepared(view), flat, context.plan, view)
        rows = torch.zeros((len(cases), *network.head.weight.shape))
        for row, some in zip(seen, of_series.split([len(some) for some in names]), strict=True):
            rows[row], present[row, number] = some.mean(dim=0), True
        embedded[view] = rows
    return EmbeddedCases(embedded, present)


def with_views(context: Context, networks: Mapping[str, Any], cases: Sequence[PreparedCase]) -> list[PreparedCase]:
    """The cases that have at least one of the trained views."""
    return [case for case in cases if any(case.of_view(view) for view in networks)]


def inner_cases(
    context: Context, networks: Mapping[str, DiagnosisNetwork], fold: str, cases: Sequence[PreparedCase], settings: RunSettings
) -> EmbeddedCases:  # fmt: skip
    """Inner out-of-fold logits by view, (cases, labels), in place of embeddings: what a gate learns from."""
    logits, present = {}, torch.zeros((len(cases), len(networks)), dtype=torch.bool)
    for number, (view, network) in enumerate(networks.items()):
        start = started_from(context.results, view, context.results.task(view, "diagnosis", fold).read_config())
        logits[view], present[:, number] = inner_logits(context, view, network.choice, start, cases, settings)
    return EmbeddedCases(logits, present)


def check_fusion(results: ResultsFolder, fold: str) -> None:
    """Raise a `CheckpointError` where a trained fusion stands on other networks than are there, or its table on another fusion."""
    run, table = (results.task(FUSED, task, fold) for task in ("diagnosis", TABULAR))
    views = run.read_config().get("fused_views", ())
    paths = {view: results.task(view, "diagnosis", fold).checkpoint("final") for view in views}
    check_origins(run, {view: path for view, path in paths.items() if path.exists()})
    if table.is_trained():
        check_origins(table, {"fusion": run.checkpoint("final")})


def train_fusion(
    context: Context,
    fold: str,
    training: Sequence[PreparedCase],
    folder: Path,
    code: Path | None,
    settings: RunSettings,
    share: LabelShare,
) -> RunFolder:
    """Train the fusion of a fold on the embeddings of its training cases, or, gated, on their inner out-of-fold logits.

    `code` is the shared code that diagnoses beside it.
    """
    plan, recipe = context.plan, context.plan.fusion
    networks = view_networks(context, fold, settings)
    meta = describe_run(plan, FUSED, "diagnosis", fold, settings)
    views = {view: context.results.task(view, "diagnosis", fold).checkpoint("final") for view in networks}
    meta |= {**to_plain(share), "fused_views": list(networks), **origins(**views)}
    run = open_run(folder, meta, settings, keep=("code_from", "code_shares", *CHOSEN))
    kept = with_views(context, networks, training)
    chosen = _chosen_variant(context, fold, networks, kept, run, settings)
    meta |= chosen
    run.write_config(run.read_config() | chosen)
    torch.manual_seed(settings.seed)
    heads = {view: one.head for view, one in networks.items()}
    network = start_fusion(meta["variant"], heads, len(plan.diagnoses))
    is_gated = isinstance(network, GatedFusion)
    if not run.is_trained():
        if code:
            load_code(context, code)  # one that does not fit is refused before anything is trained
        run.checkpoint(CODE).unlink(missing_ok=True)
        meta |= {"code_shares": None}
        run.write_config(meta)
    cases = inner_cases(context, networks, fold, kept, settings) if is_gated else embed_cases(context, networks, kept)
    loop = LoopSettings(
        steps=recipe.steps, accumulate=1, gradient_clip=GRADIENT_CLIP, weight_decay=recipe.weight_decay, ema_decay=EMA_DECAY,
        checkpoint_every=recipe.steps, validate_every=recipe.steps, device=torch.device("cpu"), workers=0,
        seed=settings.seed, rate_field="fusion.learning_rate",
    )  # fmt: skip
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    state = start_state(network, {"fusion": learnt}, loop)
    targets = torch.from_numpy(truth_of(kept, plan.diagnoses)).float()

    def loss(network: nn.Module, batch: FusionBatch, number: int) -> Tensor:
        return fusion_loss(cast(FusionNetwork, network), batch)

    def rates(step: int) -> dict[str, float]:
        return {"fusion": cosine_rate(step, recipe.steps, 1, recipe.learning_rate)}

    train(state, loop, run, FusionBatches(cases, targets, settings.seed), loss, rates, meta, title=f"fused fold {fold}")
    if run.read_config().get("code_shares", {}) is None:
        shares = {}
        if code:
            trained = load_fusion(run.checkpoint("final"), len(plan.diagnoses), networks)
            embedded = embed_cases(context, networks, kept) if is_gated else cases
            with torch.no_grad():
                images = trained(embedded.embedded, embedded.present)
            shares = train_code_diagnosis(context, run, code, networks, kept, images, meta, settings.device)
        run.write_config(run.read_config() | {"code_from": str(code) if code else None, "code_shares": shares})
    return run


def _chosen_variant(
    context: Context, fold: str, networks: Mapping[str, DiagnosisNetwork], cases: Sequence[PreparedCase], run: RunFolder,
    settings: RunSettings,
) -> dict[str, Any]:  # fmt: skip
    """The plan's fusion; where the plan leaves it open, the run's own or what is measured now, with the figures that decided."""
    recipe, stored = context.plan.fusion, run.read_config()
    if "variant" in stored and (run.is_trained() or run.checkpoint("latest").exists()):
        if recipe.variant not in (AUTO, stored["variant"]):
            raise CheckpointError(
                f"{run.path}: was trained with fusion.variant {stored['variant']}, now {recipe.variant!r}; give that or auto to go on "
                "with it, or --restart to move it aside"
            )
        return {"variant_scores": {}} | {key: stored[key] for key in CHOSEN if key in stored}
    if recipe.variant != AUTO:
        return {"variant": recipe.variant, "variant_scores": {}}
    if all(key in stored for key in CHOSEN):
        return {key: stored[key] for key in CHOSEN}
    variant, scores = choose_variant(context, fold, networks, cases, settings)
    log.info("fused fold %s: %s joins the views; macro AUROC over inner folds: %s", fold, variant, scores or "none")
    return dict(zip(CHOSEN, (variant, scores), strict=True))


def validate_fusion(
    context: Context, view: str, fold: str, cases: Sequence[PreparedCase], run: RunFolder, settings: RunSettings
) -> dict[str, Any]:
    """Predict the validation cases; write predictions.csv and summary.json, and what a gate weighed."""
    networks = view_networks(context, fold, settings)
    diagnoses = context.plan.diagnoses
    fusion = load_fusion(run.checkpoint("final"), len(diagnoses), networks)
    kept = with_views(context, networks, cases)
    embedded = embed_cases(context, {name: networks[name] for name in fusion.heads.views}, kept)
    with torch.no_grad():
        logits = fusion(embedded.embedded, embedded.present).numpy()
        if isinstance(fusion, GatedFusion):
            weights = fusion.gates(fusion.heads(embedded.embedded), embedded.present).numpy()
            add_gates(run.validation, gate_table([case.name for case in kept], diagnoses, fusion.heads.views, weights))
            draw_gates(run.validation)
    if run.checkpoint(CODE).exists():
        code = load_code_diagnosis(run.checkpoint(CODE), context.plan)
        rows, there = prepared_rows(context, code.code, fusion.heads.views, kept, settings.device)
        logits = code.mix(torch.from_numpy(logits), rows, there).numpy()
    few = run.read_config().get("not_computable", {})
    return write_scores(run.validation, kept, logits, diagnoses, settings.seed, few)
