"""Pretraining of the fused view: the shared code of a dataset, learnt from its cases of two views or more and no label."""

import logging
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch

from odiff.data.index import PreparedCase
from odiff.errors import CheckpointError
from odiff.learning.agreement import WIDTH, choose_components, weighted_maps
from odiff.learning.code_model import build_code
from odiff.learning.code_volumes import small_volumes
from odiff.learning.context import Context
from odiff.learning.run import RunSettings, describe_run
from odiff.network.registration import outlines
from odiff.network.shared_code import ViewCode
from odiff.training.checkpoint import save_checkpoint
from odiff.training.run_folder import RunFolder
from odiff.vocabulary import FUSED

log = logging.getLogger(__name__)
CASES = 5000
FEWEST_CASES = 20
RAREST = 0.25
TEMPLATE_CASES = 200


def pretrain_code(context: Context, settings: RunSettings) -> RunFolder | None:
    """Learn the shared code of a dataset from its cases of two views or more; None, with a message, where they are too few.

    A trained run is left as it is.

    Raises
    ------
    CheckpointError
        The trained run is of another seed.
    """
    run = context.results.pretrain(FUSED)
    if settings.restart:
        run.move_aside()
    if run.is_trained():
        seed = run.read_config()["seed"]
        if seed != settings.seed:
            raise CheckpointError(
                f"{run.path}: learnt with seed {seed}, now {settings.seed}; give the same, another --results "
                "folder, or --task pretrain --restart to learn it anew"
            )
        return run
    views, cases = agreeing_cases(context.dataset.cases, tuple(context.plan.views), settings.seed)
    if not cases:
        log.info("fused pretrain: fewer than %d cases have scans of the same two views, no shared code", FEWEST_CASES)
        return None
    code = build_code(context.plan, views, WIDTH)
    present = np.array([[bool(case.of_view(view)) for view in views] for case in cases])
    cells = [view_cells(code.part(view), context, view, cases, settings.device) for view in views]
    agreement = choose_components(cells, present, [case.patient for case in cases], settings.seed)
    for view, (mean, directions) in zip(views, weighted_maps(cells, present, agreement, settings.seed), strict=True):
        code.part(view).take(torch.from_numpy(mean), torch.from_numpy(directions))
    meta = describe_run(context.plan, FUSED, "pretrain", None, settings) | {
        "code_views": list(views), "width": WIDTH, "cases": len(cases), "components": agreement.components,
        "agreement_held_out": {str(size): round(score, 3) for size, score in agreement.scores.items()},
    }  # fmt: skip
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_config(meta)
    save_checkpoint(run.checkpoint("final"), {f"weights.{n}": t for n, t in code.state_dict().items()}, meta)
    log.info(
        "fused pretrain: shared code of %s from %d cases, %d components",
        ", ".join(views),
        len(cases),
        agreement.components,
    )
    return run


def agreeing_cases(
    cases: Sequence[PreparedCase], views: Sequence[str], seed: int
) -> tuple[tuple[str, ...], list[PreparedCase]]:
    """The views to learn from and the cases that have two of them, `CASES` drawn at random where there are more; empty without any.

    A view takes part if it shares `FEWEST_CASES` cases with another, and a quarter of the cases that the commonest pair shares: of a
    few cases every view seems to agree with every other.
    """
    shared = {pair: sum(all(case.of_view(view) for view in pair) for case in cases) for pair in combinations(views, 2)}
    least = max(FEWEST_CASES, RAREST * max(shared.values(), default=0))
    kept = tuple(view for view in views if any(view in pair and count >= least for pair, count in shared.items()))
    paired = [case for case in cases if sum(bool(case.of_view(view)) for view in kept) > 1]
    order = np.sort(np.random.default_rng([seed, 9]).permutation(len(paired))[:CASES])
    return kept, [paired[number] for number in order]


def view_cells(
    part: ViewCode, context: Context, view: str, cases: Sequence[PreparedCase], device: torch.device
) -> np.ndarray:
    """Fit the view's template, then the cells (n, cells) float32 of each case's first series, rows of zeros where there is none.

    The template is of up to `TEMPLATE_CASES` cases, evenly spread, as hospitals often follow one another.
    """
    seen = [number for number, case in enumerate(cases) if case.of_view(view)]
    names = [cases[number].of_view(view)[0].name for number in seen]
    part.to(device)
    spread = names[:: -(-len(names) // TEMPLATE_CASES)]
    part.registration.fit(torch.cat([outlines(small) for small in small_volumes(context, view, spread, device)]))
    found = np.zeros((len(cases), len(part.mean)), np.float32)
    found[seen] = torch.cat([part.cells(small).cpu() for small in small_volumes(context, view, names, device)]).numpy()
    part.cpu()
    return found
