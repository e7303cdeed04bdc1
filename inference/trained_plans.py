"""The plans that trained models were made with, and the one that serves them together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from odiff.errors import CheckpointError
from odiff.learning.run import FIT, PROCESS
from odiff.plan import Plan, ViewPlan, plan_from_plain, to_plain
from odiff.training.checkpoint import read_meta
from odiff.vocabulary import FUSED

Runs = Mapping[str, Mapping[str, Path]]  # checkpoints by view and fold
SEGMENTATION = ("labels", "left_right", "flip_left_joints")
DIAGNOSIS = ("diagnoses", "flip_left_joints")
INPUT = ("segmentation.time_step", "segmentation.is_noised")
VIEW = (*FIT, "patch_zyx", "grid", *(f"diffusion.{name}" for name in PROCESS))


@dataclass(frozen=True)
class TrainedPlans:
    """`segmentation` is by view what its networks were trained with; `plan` says all that is asked of them together.

    Its views are those that any model is of, on the grid of their diagnosis where they have one.
    """

    plan: Plan
    segmentation: dict[str, Plan]


def trained_plans(segmentation: Runs, diagnosis: Runs) -> TrainedPlans:
    """The plans of some runs, of one task at least.

    Raises
    ------
    CheckpointError
        Runs that answer together were trained for other labels or diagnoses, or the folds of a view on another grid.
    """
    segmenting = {view: _of_folds(view, runs, (*SEGMENTATION, *INPUT)) for view, runs in segmentation.items()}
    diagnosing = {view: _of_folds(view, runs, DIAGNOSIS) for view, runs in diagnosis.items()}
    for named, fields in ((segmenting, SEGMENTATION), (diagnosing, DIAGNOSIS)):
        _check_agree(list(named.values()), fields)
    masks, labels = ([plan for _, plan in named.values()] for named in (segmenting, diagnosing))
    base, first = (labels or masks)[0], (masks or labels)[0]
    views = {
        name: one
        for named in (segmenting, diagnosing)
        for view, (_, plan) in named.items()
        for name, one in _views(plan, view)
    }
    order = [*(view for view in base.views if view in views), *(view for view in views if view not in base.views)]
    plan = replace(
        base, views={view: views[view] for view in order}, labels=first.labels, ignore_label=first.ignore_label,
        left_right=first.left_right, segmentation=first.segmentation,
    )  # fmt: skip
    return TrainedPlans(plan, {view: one for view, (_, one) in segmenting.items()})


def plan_of(checkpoint: Path) -> Plan:
    """The plan that a checkpoint was trained with, whatever its config.json or plans.json says by now."""
    return plan_from_plain(read_meta(checkpoint)["plan"], str(checkpoint))


def _of_folds(view: str, runs: Mapping[str, Path], fields: Sequence[str]) -> tuple[Path, Plan]:
    """One of the checkpoints of a view, and the plan on which all of them agree."""
    plans = [(path, plan_of(path)) for path in runs.values()]
    _check_agree(plans, fields)
    for name, _ in _views(plans[0][1], view):
        _check_agree([(path, plan.views[name]) for path, plan in plans if name in plan.views], VIEW)
    return plans[0]


def _views(plan: Plan, view: str) -> list[tuple[str, ViewPlan]]:
    """What a plan says of a view; of ``fused``, of all of them."""
    return list(plan.views.items()) if view == FUSED else [(view, plan.views[view])]


def _check_agree(of_paths: Sequence[tuple[Path, object]], fields: Sequence[str]) -> None:
    """Raise a `CheckpointError` that names two checkpoints and the first of the fields in which they differ."""
    path, first = of_paths[0] if of_paths else (None, None)
    for other, one in of_paths[1:]:
        for field in fields:
            here, there = (attrgetter(field)(plan) for plan in (first, one))
            if here != there:
                raise CheckpointError(
                    f"{path}: was trained with {field} {to_plain(here)}, {other} with {to_plain(there)}; predict with one of them "
                    "(odiff_predict -f, --task, --diagnose-by), or train the older one again with odiff_train --restart"
                )
