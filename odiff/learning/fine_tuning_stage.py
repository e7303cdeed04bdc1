"""The tasks that learn from labels, each on one fold of one view."""

import logging
from collections.abc import Sequence
from pathlib import Path

from odiff.errors import DatasetError, UsageError
from odiff.learning.asked import TrainOptions, code_start
from odiff.learning.code_diagnosis import find_code
from odiff.learning.context import Context
from odiff.learning.diagnosis import train_diagnosis, validate_diagnosis
from odiff.learning.fold_cases import known_cases, masked_names, tell_not_computable, training_cases
from odiff.learning.fusion import check_fusion, train_fusion, validate_fusion
from odiff.learning.pretrained import find_pretrained
from odiff.learning.probe_grid import probe_fold
from odiff.learning.run import RunSettings, check_cases, check_plan
from odiff.learning.segment import load_segmentation
from odiff.learning.segmentation import TaskData, train_segmentation
from odiff.learning.segmentation_scores import validate_segmentation
from odiff.learning.subsets import share_of
from odiff.learning.tabular_stage import run_tabular, uses_table
from odiff.plan import to_plain
from odiff.training.run_folder import RunFolder
from odiff.vocabulary import FUSED

log = logging.getLogger(__name__)


def run_segmentation(context: Context, view: str, fold: str, options: TrainOptions, settings: RunSettings) -> None:
    """Fine-tune and validate one fold of segmentation."""
    if not context.plan.labels:
        raise DatasetError(
            f"{context.dataset.name}: dataset.json declares no segmentation.labels, so there is nothing to segment"
        )
    training = training_cases(context, fold, options.label_fraction, settings.seed)
    share = share_of(training, options.label_fraction, ())
    watched = masked_names(context.cases_of_fold(fold, "val"), view)
    data = TaskData(context.prepared(view), masked_names(training, view), watched)
    run = context.results.task(view, "segmentation", fold)
    if options.validate_only:
        _check_run(run, context, data.train)
    else:
        start = start_of(context, view, options)
        train_segmentation(data, context.plan, view, fold, run.path, start, settings, share)
    if watched and (options.validate_only or not (run.validation / "summary.json").exists()):
        network = load_segmentation(run.checkpoint("final"), context.plan, view, settings.device)
        summary = validate_segmentation(data.prepared, watched, network, context.plan, view, run.validation)
        log.info("%s segmentation fold %s: mean Dice %.3f", view, fold, summary["mean"]["mean"]["dice"])


def run_probe(context: Context, view: str, fold: str, options: TrainOptions, settings: RunSettings) -> None:
    """Score the grid of one fold; see `odiff.learning.probe_grid`."""
    start = start_of(context, view, options)
    if start is None:
        raise UsageError(
            "--task probe --pretrained none: probes read a pretrained model; leave --pretrained out, or name one"
        )
    training, validation, share = known_cases(context, view, fold, options, settings)
    tell_not_computable(view, fold, share)
    folder = context.results.task(view, "probe", fold).path
    probe_fold(context, view, fold, training, validation, folder, start, settings, options.label_fraction)


def run_diagnosis(context: Context, view: str, fold: str, options: TrainOptions, settings: RunSettings) -> None:
    """Fine-tune and validate one fold of diagnosis."""
    training, validation, share = known_cases(context, view, fold, options, settings)
    tell_not_computable(view, fold, share)
    run = context.results.task(view, "diagnosis", fold)
    if options.validate_only:
        _check_run(run, context, share.train)
        if view == FUSED and run.is_trained():
            check_fusion(context.results, fold)
    elif view == FUSED:
        code = find_code(code_start(context, options), context.results, context.results_root, context.plan.joint)
        train_fusion(context, fold, training, run.path, code, settings, share)
    else:
        start = start_of(context, view, options)
        train_diagnosis(context, view, fold, training, validation, run.path, start, settings, share)
    is_new = options.validate_only or not (run.validation / "predictions.csv").exists()
    if validation and is_new:
        score = validate_fusion if view == FUSED else validate_diagnosis
        summary = score(context, view, fold, validation, run, settings)
        macro = summary["labels"]["macro"]["auroc"]
        log.info("%s diagnosis fold %s: macro AUROC %s", view, fold, "unknown" if macro is None else f"{macro:.3f}")
    if view == FUSED and uses_table(context.plan):
        run_tabular(context, fold, training, validation, settings, share, options.validate_only, is_new)


def start_of(context: Context, view: str, options: TrainOptions) -> Path | None:
    """The pretrained model that a view starts from; None where it is to start from scratch."""
    return find_pretrained(options.pretrained, context.results, context.results_root, context.dataset.name, view)


def _check_run(run: RunFolder, context: Context, train: Sequence[str]) -> None:
    """Refuse to validate a network of another plan or of other cases; one that is missing is missed where it is read."""
    if run.is_trained():
        check_plan(run, run.read_config(), to_plain(context.plan))
        check_cases(run, run.read_config(), train)


TASK = {"segmentation": run_segmentation, "diagnosis": run_diagnosis, "probe": run_probe}
