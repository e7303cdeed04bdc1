"""The tabular stage of odiff_train DATASET fused: late fusion of the fused views of a fold with the case table."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from odiff.data.index import PreparedCase
from odiff.data.tabular import has_table
from odiff.learning.code_diagnosis import held_out_mix, prepared_rows
from odiff.learning.code_model import CODE, load_code_diagnosis
from odiff.learning.context import Context
from odiff.learning.diagnose import load_fusion
from odiff.learning.diagnosis_scores import read_logits, scores_but, truth_of, write_scores
from odiff.learning.fusion import inner_cases, view_networks, with_views
from odiff.learning.fusion_batches import EmbeddedCases
from odiff.learning.run import ORIGINS, RunSettings, describe_run, open_run, origins
from odiff.learning.subsets import LabelShare
from odiff.learning.tabular import learn_tabular
from odiff.learning.tabular_model import TABULAR, load_tabular
from odiff.metrics.calibration import identity
from odiff.network.fusion import FusionNetwork, GatedFusion, mean_present
from odiff.plan import Plan, to_plain
from odiff.storage import write_json, write_text
from odiff.training.checkpoint import save_checkpoint
from odiff.training.run_folder import RunFolder
from odiff.vocabulary import FUSED

log = logging.getLogger(__name__)
MIX = "mix.csv"


def uses_table(plan: Plan) -> bool:
    """Whether the dataset declares columns and the plan wants them."""
    return bool(plan.tabular) and plan.fusion.tabular


def train_tabular(
    context: Context, fold: str, training: Sequence[PreparedCase], settings: RunSettings, share: LabelShare
) -> RunFolder | None:
    """Learn the table and the mix of one fold from the training cases' inner logits; None where no case has a row.

    A trained run is left as it is.
    """
    plan = context.plan
    networks = view_networks(context, fold, settings)
    kept = with_views(context, networks, training)
    if not any(has_table(case.tabular) for case in kept):
        log.warning(
            "fused tabular fold %s: no training case has a value of %s, left out", fold, ", ".join(plan.tabular)
        )
        return None
    fused = context.results.task(FUSED, "diagnosis", fold)
    meta = describe_run(plan, FUSED, TABULAR, fold, settings) | to_plain(share) | {"columns": dict(plan.tabular)}
    meta |= origins(fusion=fused.checkpoint("final"))
    run = context.results.task(FUSED, TABULAR, fold)
    if run.is_trained() and run.read_config().get(ORIGINS) != meta[ORIGINS]:
        log.info("%s: was learnt beside another fusion and is learnt anew", run.path)
        run.move_aside()
    run = open_run(run.path, meta, settings)
    if run.is_trained():
        return run
    fusion = load_fusion(fused.checkpoint("final"), len(plan.diagnoses), networks)
    inner = inner_cases(context, {view: networks[view] for view in fusion.heads.views}, fold, kept, settings)
    images, truth, patients = fused_logits(fusion, inner), truth_of(kept, plan.diagnoses), [one.patient for one in kept]
    if fused.checkpoint(CODE).exists():
        code = load_code_diagnosis(fused.checkpoint(CODE), plan)
        rows, there = prepared_rows(context, code.code, fusion.heads.views, kept, settings.device)
        images = held_out_mix(code, images, rows, there, truth, patients)
    table_rows = [case.tabular for case in kept]
    model = learn_tabular(images.numpy(), truth, table_rows, patients, plan.tabular, plan.fusion, settings.seed)
    weights = {f"weights.{name}": tensor for name, tensor in model.network.state_dict().items()}
    shares = model.network.shares.tolist()
    table = pd.DataFrame({"label": plan.diagnoses, "share_of_table": [round(one, 4) for one in shares]})
    write_text(run.path / MIX, table.to_csv(index=False))
    save_checkpoint(run.checkpoint("final"), weights, meta | {"fitted": to_plain(model.columns)})
    told = ", ".join(f"{name} {value:.2f}" for name, value in zip(plan.diagnoses, shares, strict=True))
    log.info("fused tabular fold %s: share of the table: %s", fold, told)
    return run


@torch.no_grad()
def fused_logits(fusion: FusionNetwork, inner: EmbeddedCases) -> Tensor:
    """What the fusion makes of the views' inner logits (cases, labels): a gate weighs them, the others start as their mean."""
    stacked = torch.stack(list(inner.embedded.values()), dim=2)
    return (
        fusion.mix(stacked, inner.present) if isinstance(fusion, GatedFusion) else mean_present(stacked, inner.present)
    )


def validate_tabular(
    context: Context, fold: str, cases: Sequence[PreparedCase], run: RunFolder, settings: RunSettings
) -> dict[str, Any]:
    """Mix the fused logits of the validation cases with their rows; scores with the table, and of the same cases without it."""
    diagnoses = context.plan.diagnoses
    fused = read_logits(context.results.task(FUSED, "diagnosis", fold).validation, diagnoses)
    kept = [case for case in cases if case.name in fused]
    images = np.array([fused[case.name] for case in kept]).reshape(len(kept), len(diagnoses))
    model = load_tabular(run.checkpoint("final"), len(diagnoses))
    few = run.read_config()["not_computable"]
    logits = model.mix(images, [case.tabular for case in kept])
    summary = write_scores(run.validation, kept, logits, diagnoses, settings.seed, few)
    patients, probability = [case.patient for case in kept], identity(len(diagnoses)).apply(images)
    summary |= {
        "cases_with_table": sum(has_table(case.tabular) for case in kept),
        "labels_without_table": scores_but(
            diagnoses, truth_of(kept, diagnoses), probability, patients, settings.seed, few
        ),
    }
    write_json(run.validation / "summary.json", summary)
    return summary


def run_tabular(
    context: Context, fold: str, training: Sequence[PreparedCase], validation: Sequence[PreparedCase],
    settings: RunSettings, share: LabelShare, is_validating_only: bool, is_validated_anew: bool,
) -> None:  # fmt: skip
    """Train and validate one fold of the tabular stage, as far as it is missing; a fold validated anew is scored anew."""
    stored = context.results.task(FUSED, TABULAR, fold)
    run = stored if is_validating_only else train_tabular(context, fold, training, settings, share)
    if run is None or not run.is_trained() or not validation:
        return
    if is_validated_anew or not (run.validation / "summary.json").exists():
        summary = validate_tabular(context, fold, validation, run, settings)
        with_table, without = (summary[key]["macro"]["auroc"] for key in ("labels", "labels_without_table"))
        log.info("fused fold %s: macro AUROC %s with the table, %s without", fold, _told(with_table), _told(without))


def _told(score: float | None) -> str:
    return "unknown" if score is None else f"{score:.3f}"
