"""Pretraining of the fused view: the shared code of a dataset, learnt from all its scans and no label."""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from odiff.data.index import PreparedCase
from odiff.data.store import open_array
from odiff.learning.agreement import WIDTH, choose_components, learn_maps, whiten_views
from odiff.learning.code_model import build_code, one_tile
from odiff.learning.context import FUSED, Context
from odiff.learning.run import RunSettings, describe_run, open_run
from odiff.network.registration import outlines
from odiff.network.shared_code import ViewCode
from odiff.training.checkpoint import save_checkpoint
from odiff.training.run_folder import RunFolder

log = logging.getLogger(__name__)
CASES = 5000
FEWEST_CASES = 20
TEMPLATE_CASES = 200


def pretrain_code(context: Context, settings: RunSettings) -> RunFolder | None:
    """Learn the shared code of a dataset from all its scans; None, with a message, where too few cases have two views.

    A trained run is left as it is.
    """
    run = context.results.pretrain(FUSED)
    if run.is_trained() and not settings.restart:
        return run
    cases = some_cases(context.dataset.cases, settings.seed)
    views = [view for view in context.plan.views if sum(bool(case.of_view(view)) for case in cases) >= FEWEST_CASES]
    cases = [case for case in cases if sum(bool(case.of_view(view)) for view in views) > 1]
    views = [view for view in views if sum(bool(case.of_view(view)) for case in cases) >= FEWEST_CASES]
    if len(views) < 2:
        log.info("fused pretrain: fewer than %d cases have scans of two views, no shared code", FEWEST_CASES)
        return None
    code = build_code(context.plan, views, WIDTH)
    present = np.array([[bool(case.of_view(view)) for view in views] for case in cases])
    cells = [view_cells(code.part(view), context, view, cases) for view in views]
    agreement = choose_components(cells, present, settings.seed)
    everyone = np.arange(len(cases))
    whitened = whiten_views(cells, present, everyone, agreement.components, settings.seed)
    maps = learn_maps(cells, present, everyone, whitened)
    for view, (mean, directions) in zip(views, maps, strict=True):
        code.part(view).take(torch.from_numpy(mean), torch.from_numpy(directions * agreement.weights))
    meta = describe_run(context.plan, FUSED, "pretrain", None, settings) | {
        "code_views": views, "width": WIDTH, "cases": len(cases), "components": agreement.components,
        "agreement_held_out": {str(size): round(score, 3) for size, score in agreement.scores.items()},
    }  # fmt: skip
    run = open_run(run.path, meta, settings)
    save_checkpoint(run.checkpoint("final"), {f"weights.{n}": t for n, t in code.state_dict().items()}, meta)
    log.info(
        "fused pretrain: shared code of %s from %d cases, %d components",
        ", ".join(views),
        len(cases),
        agreement.components,
    )
    return run


def some_cases(cases: Sequence[PreparedCase], seed: int) -> list[PreparedCase]:
    """All cases, or `CASES` of them drawn at random."""
    order = np.sort(np.random.default_rng([seed, 9]).permutation(len(cases))[:CASES])
    return [cases[number] for number in order]


def view_cells(part: ViewCode, context: Context, view: str, cases: Sequence[PreparedCase]) -> np.ndarray:
    """Fit the view's template on the cases, then their cells (n, cells) float32, rows of zeros where the view is missing."""
    prepared, plan = context.prepared(view), context.plan
    seen = [number for number, case in enumerate(cases) if case.of_view(view)]

    def volume(number: int) -> torch.Tensor:
        name = cases[number].of_view(view)[0].name
        return one_tile(open_array(prepared / f"{name}.b2nd")[:], plan, view)

    part.registration.fit(torch.cat([outlines(volume(number)) for number in seen[:TEMPLATE_CASES]]))
    found = np.zeros((len(cases), len(part.mean)), np.float32)
    for number in seen:
        found[number] = part.cells(volume(number))[0].numpy()
    return found
