"""Pretraining of a view, or of the shared code of all, where it is missing."""

import logging

from odiff.errors import DatasetError
from odiff.learning.asked import TrainOptions
from odiff.learning.code_diagnosis import find_code
from odiff.learning.context import Context
from odiff.learning.pretrain import pretrain
from odiff.learning.run import RunSettings
from odiff.learning.shared_code import pretrain_code
from odiff.training.checkpoint import read_description
from odiff.training.run_folder import RunFolder
from odiff.vocabulary import FUSED

log = logging.getLogger(__name__)


def is_pretrained(context: Context, view: str, settings: RunSettings) -> bool:
    """Whether nothing is to be done for the pretraining of a view, or for the shared code."""
    run = context.results.pretrain(view)
    if settings.restart or not run.is_trained():
        return False
    steps = read_description(run.checkpoint("final")).get("step")
    return view == FUSED or _imported_from(run) is not None or steps == context.plan.pretrain.steps


def _imported_from(run: RunFolder) -> str | None:
    """Where `odiff_import_weights` took a pretrained model from; None where it was trained here."""
    return run.read_config().get("imported_from")


def run_pretraining(context: Context, view: str, settings: RunSettings) -> RunFolder:
    """Pretrain a view; weights that odiff_import_weights put there are left as they are."""
    run = context.results.pretrain(view)
    if run.is_trained() and not settings.restart and (source := _imported_from(run)):
        log.info("%s: imported from %s, not trained", run.path, source)
        return run
    return pretrain(context.prepared(view), context.dataset, context.plan, view, run.path, settings)


def run_code(context: Context, options: TrainOptions, settings: RunSettings) -> None:
    """Learn the shared code where it is missing, unless another is to be taken; a diagnosis alone goes by the code that is there."""
    code = find_code(options.pretrained, context.results, context.results_root, context.plan.joint)
    own = context.results.pretrain(FUSED).checkpoint("final")
    if code not in (None, own) or (code == own and options.task == "diagnosis"):
        return
    if pretrain_code(context, settings) is None and options.task == "pretrain":
        raise DatasetError(f"{context.dataset.name}: too few cases have scans of two views to learn a shared code from")
