"""odiff_train --task probe: how well each block of a pretrained model can be read at each time step, inside one fold."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from odiff.data.index import PreparedCase
from odiff.errors import DatasetError
from odiff.learning.context import Context
from odiff.learning.diagnose import stored_choice
from odiff.learning.diagnosis_data import items_of
from odiff.learning.diagnosis_scores import truth_of
from odiff.learning.heat_map import draw_heat_map
from odiff.learning.probes import (
    FOLDS,
    ProbeResult,
    Scores,
    case_features,
    cell_name,
    choose,
    has_patients_enough,
    held_out_score,
    score_time_step,
)
from odiff.learning.run import RunSettings, describe_run, open_run, origins, stands_on
from odiff.learning.subsets import LabelShare
from odiff.learning.transfer import load_backbone
from odiff.network.backbone import Backbone, build_backbone
from odiff.network.diagnosis import FeatureChoice
from odiff.plan import ViewPlan
from odiff.storage import write_text
from odiff.training.run_folder import RunFolder

log = logging.getLogger(__name__)
TIME_STEPS = (10, 50, 100, 150, 200)
TABLE, PICTURE = "probe.csv", "probe.png"
LIMITS = (0.5, 1.0)


def probe_fold(
    context: Context, view: str, fold: str, training: Sequence[PreparedCase], validation: Sequence[PreparedCase], folder: Path,
    pretrained: Path, settings: RunSettings, label_fraction: float,
) -> RunFolder:  # fmt: skip
    """Score the grid by cross-validation in the training cases, choose, and score the choice once on the validation cases.

    Writes probe.csv, probe.png and config.json. Time steps that an interrupted run has scored are not scored again.

    Raises
    ------
    DatasetError
        Patients or labels are too few.
    CheckpointError
        `pretrained` does not fit the plan, or the folder holds probes of another model.
    """
    plan = plan_of_grid(context, view)
    patients = [case.patient for case in training]
    if not has_patients_enough(patients):
        raise DatasetError(
            f"{context.dataset.name}: {len(set(patients))} {view} patients with a known diagnosis to train fold {fold} on; "
            f"probes need {2 * FOLDS}"
        )
    backbone = build_backbone(plan.network)
    load_backbone(backbone, pretrained, plan)
    described = replace(context.plan, views={**context.plan.views, view: plan})
    meta = describe_run(described, view, "probe", fold, settings)
    meta |= {
        "pretrained": str(pretrained),
        **origins(pretrained=pretrained),
        "label_fraction": label_fraction,
        "train": [case.name for case in training],
    }
    run = open_run(folder, meta, settings, keep=("scores", "features", "held_out"))
    items = items_of(training, view, context.plan.diagnoses)
    stored: dict[str, dict[str, float]] = run.read_config().get("scores", {})
    for time_step in plan.diffusion.probe_time_steps:
        if str(time_step) not in stored:
            log.info("%s probe fold %s: t = %d, %d cases", view, fold, time_step, len(items))
            scores = score_time_step(
                backbone, context.prepared(view), items, patients, plan, time_step, settings.device
            )
            stored[str(time_step)] = {block: round(value, 4) for (_, block), value in scores.items()}
            run.write_config({**run.read_config(), "scores": stored})
    grid = {(t, b): stored[str(t)][b] for t in plan.diffusion.probe_time_steps for b in stored[str(t)]}
    if not grid:
        raise DatasetError(f"{context.dataset.name}: no diagnosis of fold {fold} has cases of both kinds to probe for")
    choice = choose(grid, plan, len(items))
    features = {"time_step": choice.time_step, "blocks": list(choice.blocks)}
    config = run.read_config()
    if config.get("features") != features or "held_out" not in config:
        config |= {"features": features}
        config["held_out"] = _held_out(context, view, plan, backbone, choice, training, validation, settings)
        run.write_config(config)
    report(run, grid, plan, choice, config["held_out"], f"{view} probe fold {fold}, {len(items)} cases")
    return run


def plan_of_grid(context: Context, view: str) -> ViewPlan:
    """The plan of the view with the time steps of the grid: those that this call sets, else `TIME_STEPS` and the plan's own."""
    plan = context.plan.views[view]
    field = f"views.{view}.diffusion.probe_time_steps"
    if any(override.partition("=")[0].strip() == field for override in context.overrides):
        return plan
    known = {*TIME_STEPS, *plan.diffusion.probe_time_steps}
    steps = tuple(sorted(step for step in known if step < plan.diffusion.time_steps))
    return replace(plan, diffusion=replace(plan.diffusion, probe_time_steps=steps))


def _held_out(
    context: Context, view: str, plan: ViewPlan, backbone: Backbone, choice: FeatureChoice, training: Sequence[PreparedCase],
    validation: Sequence[PreparedCase], settings: RunSettings,
) -> dict[str, Any]:  # fmt: skip
    """The AUROC of probes on the chosen features, fitted to all training cases, on the validation cases."""
    if not validation:
        return {"auroc": None, "cases": 0}

    def read(cases: Sequence[PreparedCase]) -> np.ndarray:
        items = items_of(cases, view, context.plan.diagnoses)
        rows = case_features(backbone, context.prepared(view), items, plan, choice.time_step, settings.device)
        return np.concatenate([rows[block] for block in choice.blocks], axis=1)

    truth, new_truth = (truth_of(cases, context.plan.diagnoses) for cases in (training, validation))
    found = held_out_score(read(training), truth, read(validation), new_truth)
    return {"auroc": None if found is None else round(found, 4), "cases": len(validation)}


def report(
    run: RunFolder, grid: Scores, plan: ViewPlan, choice: FeatureChoice, held_out: dict[str, Any], title: str
) -> None:
    """Write and log the table, and draw the heat map with the chosen cells framed."""
    steps, blocks = plan.diffusion.probe_time_steps, plan.diffusion.probe_blocks
    values = np.array([[grid.get((step, block), np.nan) for step in steps] for block in blocks])
    table = pd.DataFrame(values, index=pd.Index(blocks, name="block"), columns=[f"t={step}" for step in steps])
    write_text(run.path / TABLE, table.to_csv())
    marked = [
        (row, column)
        for row, b in enumerate(blocks)
        for column, t in enumerate(steps)
        if t == choice.time_step and b in choice.blocks
    ]
    honest = "unknown" if held_out["auroc"] is None else f"{held_out['auroc']:.3f}"
    ending = (
        f"chosen {' + '.join(choice.blocks)} at t = {choice.time_step}; held out {honest} ({held_out['cases']} cases)"
    )
    draw_heat_map(
        run.path / PICTURE, values, blocks, list(table.columns), f"{title}: macro AUROC\n{ending}", LIMITS, marked
    )
    log.info("%s: cross-validated macro AUROC\n%s\n%s", title, table.to_string(na_rep="-", float_format="%.3f"), ending)


def probed_choice(
    context: Context, view: str, fold: str, pretrained: Path | None, share: LabelShare
) -> ProbeResult | None:
    """What ``--task probe`` chose for this fold; None where it was not run, or with another model or cases."""
    run = context.results.task(view, "probe", fold)
    if pretrained is None or not run.config.exists():
        return None
    config = run.read_config()
    same_cases = set(config.get("train", ())) == set(share.train)
    if "held_out" not in config or not same_cases or not stands_on(config, pretrained=pretrained):
        log.info("%s: not used: unfinished, or of another pretrained model or other training cases", run.path)
        return None
    scores = {cell_name(int(t), block): value for t, row in config["scores"].items() for block, value in row.items()}
    return ProbeResult(stored_choice(config), scores, f"probe/fold_{fold}")
