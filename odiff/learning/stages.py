"""odiff_train as functions: one task of one view, fold by fold."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from odiff.data.index import PreparedCase
from odiff.errors import DatasetError, UsageError
from odiff.learning.code_diagnosis import find_code
from odiff.learning.context import ALL, Context, open_context
from odiff.learning.diagnosis import train_diagnosis, validate_diagnosis
from odiff.learning.fusion import check_fusion, train_fusion, validate_fusion
from odiff.learning.oof import collect_out_of_fold
from odiff.learning.pretrain import pretrain
from odiff.learning.pretrained import find_pretrained
from odiff.learning.probe_grid import probe_fold
from odiff.learning.run import RunSettings, check_cases, check_plan
from odiff.learning.segment import load_segmentation
from odiff.learning.segmentation import TaskData, train_segmentation
from odiff.learning.segmentation_scores import validate_segmentation
from odiff.learning.shared_code import pretrain_code
from odiff.learning.subsets import LabelShare, is_labelled, label_subset, share_of
from odiff.learning.tabular_model import TABULAR
from odiff.learning.tabular_stage import run_tabular, uses_table
from odiff.network.baselines import BASELINES
from odiff.plan import to_plain
from odiff.plan.parse import closest
from odiff.training.checkpoint import read_description
from odiff.training.run_folder import RunFolder
from odiff.vocabulary import FUSED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOptions:
    """The flags of odiff_train that choose what to do."""

    task: str | None = None
    fold: str | None = None
    pretrained: str = "auto"
    label_fraction: float = 1.0
    validate_only: bool = False
    baseline: str | None = None


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
        _pretrained(context, view, options)
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


def from_scratch(options: TrainOptions) -> TrainOptions:
    """The options with what a baseline implies: its own task, and no pretraining.

    Raises
    ------
    UsageError
        There is no such baseline, or something else was asked of it.
    """
    if options.baseline is None:
        return options
    if options.baseline not in BASELINES:
        raise UsageError(f"--baseline {options.baseline}: no such baseline{closest(options.baseline, BASELINES)}")
    task = BASELINES[options.baseline].task
    if options.task not in (None, task):
        raise UsageError(f"--baseline {options.baseline}: is a network for {task}, not for --task {options.task}")
    if options.pretrained not in ("auto", "none"):
        raise UsageError(f"--pretrained {options.pretrained}: baselines are trained from scratch only; leave it out")
    return replace(options, task=task, pretrained="none")


def tasks_of(context: Context, view: str, options: TrainOptions) -> list[str]:
    """The tasks to train; by default pretraining where it is missing, then every task that has labels."""
    if view == FUSED:
        return fused_tasks(context, options)
    if options.task == "pretrain" and options.validate_only:
        raise UsageError("--validate-only: pretraining validates on nothing; leave it out, or name another --task")
    if options.task == "probe" and options.validate_only:
        raise UsageError("--validate-only: probes are scored as they are fitted; leave it out, or name another --task")
    if options.task:
        return [options.task]
    tasks = ["pretrain"] if options.pretrained == "auto" and not options.validate_only else []
    tasks += ["segmentation"] if any(s.is_masked for c in context.dataset.cases for s in c.of_view(view)) else []
    tasks += ["diagnosis"] if any(knows_diagnosis(case) for case in context.dataset.cases if case.of_view(view)) else []
    return tasks


def fused_tasks(context: Context, options: TrainOptions) -> list[str]:
    """The same of the fused view, whose pretraining is its shared code."""
    if options.task not in (None, "pretrain", "diagnosis"):
        raise UsageError(f"--task {options.task}: the fused view has pretrain and diagnosis only")
    if options.task == "pretrain":
        check_code_wanted(context, options)
    if options.baseline and context.plan.fusion.variant.startswith("gated"):
        raise UsageError(
            f"--baseline {options.baseline}: fusion.variant {context.plan.fusion.variant} learns from heads on pretrained features; "
            "fuse baselines with --set fusion.variant=concat"
        )
    learns_code = code_start(context, options) != "none" and not options.validate_only
    return [*(["pretrain"] if learns_code else []), *(["diagnosis"] if options.task != "pretrain" else [])]


def knows_diagnosis(case: PreparedCase) -> bool:
    """Whether any diagnosis of the case is known."""
    return any(value is not None for value in case.diagnoses.values())


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
    folder = run.path
    return pretrain(context.prepared(view), context.dataset, context.plan, view, folder, settings)


def code_start(context: Context, options: TrainOptions) -> str:
    """What the fused view's shared code starts from; ``none`` where the plan wants no code."""
    return options.pretrained if context.plan.fusion.code_cases else "none"


def check_code_wanted(context: Context, options: TrainOptions) -> None:
    """Raise a `UsageError` where ``--task pretrain`` of the fused view has nothing to do."""
    if not context.plan.fusion.code_cases:
        raise UsageError("--task pretrain: the plan's fusion.code_cases is 0, so the views learn no shared code")
    if options.pretrained != "auto" or options.validate_only:
        flag = "--validate-only" if options.validate_only else f"--pretrained {options.pretrained}"
        raise UsageError(f"--task pretrain: the shared code is learnt from this dataset's scans; leave {flag} out")


def run_code(context: Context, options: TrainOptions, settings: RunSettings) -> None:
    """Learn the shared code where it is missing, unless another is to be taken; a diagnosis alone goes by the code that is there."""
    code = find_code(options.pretrained, context.results, context.results_root, context.plan.joint)
    own = context.results.pretrain(FUSED).checkpoint("final")
    if code not in (None, own) or (code == own and options.task == "diagnosis"):
        return
    if pretrain_code(context, settings) is None and options.task == "pretrain":
        raise DatasetError(f"{context.dataset.name}: too few cases have scans of two views to learn a shared code from")


def _pretrained(context: Context, view: str, options: TrainOptions) -> Path | None:
    return find_pretrained(options.pretrained, context.results, context.results_root, context.dataset.name, view)


def run_segmentation(context: Context, view: str, fold: str, options: TrainOptions, settings: RunSettings) -> None:
    """Fine-tune and validate one fold of segmentation."""
    if not context.plan.labels:
        raise DatasetError(
            f"{context.dataset.name}: dataset.json declares no segmentation.labels, so there is nothing to segment"
        )
    training = training_cases(context, fold, options.label_fraction, settings.seed)
    share = share_of(training, options.label_fraction, ())
    watched = _masked_names(context.cases_of_fold(fold, "val"), view)
    data = TaskData(context.prepared(view), _masked_names(training, view), watched)
    run = context.results.task(view, "segmentation", fold)
    if options.validate_only:
        _check_run(run, context, data.train)
    else:
        start = _pretrained(context, view, options)
        train_segmentation(data, context.plan, view, fold, run.path, start, settings, share)
    if watched and (options.validate_only or not (run.validation / "summary.json").exists()):
        network = load_segmentation(run.checkpoint("final"), context.plan, view, settings.device)
        summary = validate_segmentation(data.prepared, watched, network, context.plan, view, run.validation)
        log.info("%s segmentation fold %s: mean Dice %.3f", view, fold, summary["mean"]["mean"]["dice"])


def _masked_names(cases: tuple[PreparedCase, ...], view: str) -> tuple[str, ...]:
    return tuple(series.name for case in cases for series in case.of_view(view) if series.is_masked)


def known_cases(
    context: Context, view: str, fold: str, options: TrainOptions, settings: RunSettings
) -> tuple[tuple[PreparedCase, ...], tuple[PreparedCase, ...], LabelShare]:
    """The cases of a fold that have the view and a known diagnosis: to train on, by the label fraction, and to validate on.

    Also what share of the labels that is.
    """
    if not context.plan.diagnoses:
        raise DatasetError(
            f"{context.dataset.name}: dataset.json declares no diagnosis.labels, so there is nothing to diagnose"
        )
    labelled = training_cases(context, fold, options.label_fraction, settings.seed)
    training = tuple(c for c in labelled if knows_diagnosis(c) and _has_view(c, view))
    share = share_of(training, options.label_fraction, context.plan.diagnoses)
    _check_labels(context, view, fold, share)
    validation = tuple(c for c in context.cases_of_fold(fold, "val") if knows_diagnosis(c) and _has_view(c, view))
    return training, validation, share


def run_probe(context: Context, view: str, fold: str, options: TrainOptions, settings: RunSettings) -> None:
    """Score the grid of one fold; see `odiff.learning.probe_grid`."""
    start = _pretrained(context, view, options)
    if start is None:
        raise UsageError(
            "--task probe --pretrained none: probes read a pretrained model; leave --pretrained out, or name one"
        )
    training, validation, _ = known_cases(context, view, fold, options, settings)
    folder = context.results.task(view, "probe", fold).path
    probe_fold(context, view, fold, training, validation, folder, start, settings, options.label_fraction)


def run_diagnosis(context: Context, view: str, fold: str, options: TrainOptions, settings: RunSettings) -> None:
    """Fine-tune and validate one fold of diagnosis."""
    training, validation, share = known_cases(context, view, fold, options, settings)
    run = context.results.task(view, "diagnosis", fold)
    if options.validate_only:
        _check_run(run, context, share.train)
        if view == FUSED and run.is_trained():
            check_fusion(context.results, fold)
    elif view == FUSED:
        code = find_code(code_start(context, options), context.results, context.results_root, context.plan.joint)
        train_fusion(context, fold, training, run.path, code, settings, share)
    else:
        start = _pretrained(context, view, options)
        train_diagnosis(context, view, fold, training, validation, run.path, start, settings, share)
    is_new = options.validate_only or not (run.validation / "predictions.csv").exists()
    if validation and is_new:
        score = validate_fusion if view == FUSED else validate_diagnosis
        summary = score(context, view, fold, validation, run, settings)
        macro = summary["labels"]["macro"]["auroc"]
        log.info("%s diagnosis fold %s: macro AUROC %s", view, fold, "unknown" if macro is None else f"{macro:.3f}")
    if view == FUSED and uses_table(context.plan):
        run_tabular(context, fold, training, validation, settings, share, options.validate_only, is_new)


def training_cases(context: Context, fold: str, fraction: float, seed: int) -> tuple[PreparedCase, ...]:
    """The labelled training cases of a fold, or of the share of its patients that ``--label-fraction`` picks: the same for every
    view and task.
    """
    labelled = tuple(case for case in context.cases_of_fold(fold, "train") if is_labelled(case))
    return label_subset(labelled, fraction, seed, context.plan.diagnoses)


def _check_labels(context: Context, view: str, fold: str, share: LabelShare) -> None:
    """Say which diagnoses cannot be told from so few patients; an error where that is all of a share."""
    of_share = "" if share.label_fraction == 1 else f" among the patients of --label-fraction {share.label_fraction:g}"
    if not share.patients:
        raise DatasetError(
            f"{context.dataset.name}: no {view} case of fold {fold}{of_share} has a known diagnosis; fill in cases.csv"
        )
    if of_share and len(share.not_computable) == len(context.plan.diagnoses):
        name, reason = next(iter(share.not_computable.items()))
        raise DatasetError(
            f"{context.dataset.name}: fold {fold}: no diagnosis is computable{of_share}: {name} has {reason}; give a larger share"
        )
    for name, reason in share.not_computable.items():
        log.warning("%s diagnosis fold %s: %s is not computable: %s", view, fold, name, reason)


def _check_run(run: RunFolder, context: Context, train: Sequence[str]) -> None:
    """Refuse to validate a network of another plan or of other cases; one that is missing is missed where it is read."""
    if run.is_trained():
        check_plan(run, run.read_config(), to_plain(context.plan))
        check_cases(run, run.read_config(), train)


def _has_view(case: PreparedCase, view: str) -> bool:
    return bool(case.series) if view == FUSED else bool(case.of_view(view))


TASK = {"segmentation": run_segmentation, "diagnosis": run_diagnosis, "probe": run_probe}
