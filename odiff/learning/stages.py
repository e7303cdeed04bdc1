"""odiff_train as functions: one task of one view, fold by fold."""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

from odiff.errors import UsageError
from odiff.learning.asked import TrainOptions, from_scratch, tasks_of
from odiff.learning.context import ALL, Context, open_context
from odiff.learning.fine_tuning_stage import TASK, start_of
from odiff.learning.fold_cases import known_cases
from odiff.learning.oof import collect_out_of_fold
from odiff.learning.pretraining_stage import is_pretrained, run_code, run_pretraining
from odiff.learning.run import RunSettings
from odiff.learning.tabular_model import TABULAR
from odiff.learning.tabular_stage import uses_table
from odiff.training.run_folder import RunFolder
from odiff.vocabulary import FUSED


def train_view(
    preprocessed: Path,
    results: Path,
    wanted: str,
    view: str,
    options: TrainOptions,
    settings: RunSettings,
    overrides: tuple[str, ...] = (),
) -> Context:
    """Train what is asked of one view, or what is missing of it.

    Parameters
    ----------
    preprocessed, results : the roots that hold dataset folders.
    wanted : number or name of the dataset.
    view : a view of the plan, or ``fused``.

    Raises
    ------
    OdiffError
        Anything the user can mend: no plan, no such view or fold, no labels, no pretrained model.
    """
    options = from_scratch(options)
    context = open_context(preprocessed, results, wanted, overrides, options.baseline)
    context = context.with_fraction(options.label_fraction)
    context.view_plan_exists(view)
    tasks = tasks_of(context, view, options)
    asked = settings
    if settings.restart:
        begin_anew(context, view, tasks, options, settings)
        settings = replace(settings, restart=False)
    for task in tasks:
        if task == "pretrain":
            # What others may stand on is begun anew only where it is asked for by its name.
            of_pretraining = asked if options.task == task else settings
            # Processes of several folds may find it done together.
            with (
                nullcontext()
                if is_pretrained(context, view, of_pretraining)
                else context.results.pretrain(view).alone()
            ):
                if view == FUSED:
                    run_code(context, options, of_pretraining)
                else:
                    run_pretraining(context, view, of_pretraining)
        else:
            for fold in context.fold_names(options.fold):
                with context.results.task(view, task, fold).alone():
                    TASK[task](context, view, fold, options, settings)
            if task == "diagnosis" and options.fold != ALL:
                collect_out_of_fold(context, view)
                if view == FUSED and uses_table(context.plan):
                    collect_out_of_fold(context, view, TABULAR)
    return context


def begin_anew(context: Context, view: str, tasks: Sequence[str], options: TrainOptions, settings: RunSettings) -> None:
    """Move the runs of these tasks aside, but for pretraining: all at once, so that none is taken for done after an interruption.

    Raises
    ------
    OdiffError
        What would be trained lacks labels or its pretrained model, or another process trains one of the runs; all stay then.
    """
    if options.validate_only:
        raise UsageError("--validate-only: trains nothing, so there is nothing to --restart; leave one of them out")
    fine_tuned = [task for task in tasks if task in TASK]
    if fine_tuned and view != FUSED and "pretrain" not in tasks:
        start_of(context, view, options)
    of_table = [TABULAR] if view == FUSED else []
    runs: list[RunFolder] = []
    for task in fine_tuned:
        for fold in context.fold_names(options.fold):
            if task != "segmentation":
                known_cases(context, view, fold, options, settings)
            runs += [context.results.task(view, name, fold) for name in (task, *of_table)]
    with ExitStack() as locked:
        there = [run for run in runs if run.path.exists()]
        for run in there:
            locked.enter_context(run.alone())
        for run in there:
            run.move_aside()
