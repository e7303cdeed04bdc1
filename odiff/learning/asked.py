"""What a call of odiff_train asks for: its flags, and the tasks that they come to."""

from dataclasses import dataclass, replace

from odiff.errors import UsageError
from odiff.learning.context import Context
from odiff.learning.subsets import knows_diagnosis
from odiff.network.baselines import BASELINES
from odiff.plan.parse import closest
from odiff.vocabulary import FUSED


@dataclass(frozen=True)
class TrainOptions:
    """The flags of odiff_train that choose what to do."""

    task: str | None = None
    fold: str | None = None
    pretrained: str = "auto"
    label_fraction: float = 1.0
    validate_only: bool = False
    baseline: str | None = None


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


def check_code_wanted(context: Context, options: TrainOptions) -> None:
    """Raise a `UsageError` where ``--task pretrain`` of the fused view has nothing to do."""
    if not context.plan.fusion.code_cases:
        raise UsageError("--task pretrain: the plan's fusion.code_cases is 0, so the views learn no shared code")
    if options.pretrained != "auto" or options.validate_only:
        flag = "--validate-only" if options.validate_only else f"--pretrained {options.pretrained}"
        raise UsageError(f"--task pretrain: the shared code is learnt from this dataset's scans; leave {flag} out")


def code_start(context: Context, options: TrainOptions) -> str:
    """What the fused view's shared code starts from; ``none`` where the plan wants no code."""
    return options.pretrained if context.plan.fusion.code_cases else "none"
