"""What every kind of training run shares: its settings, its description, and whether it may be resumed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from odiff import __version__
from odiff.errors import CheckpointError
from odiff.plan import Plan, ViewPlan, from_plain, to_plain
from odiff.training.checkpoint import FORMAT
from odiff.training.precision import precision_of
from odiff.training.run_folder import RunFolder


@dataclass(frozen=True)
class RunSettings:
    """Choices of one command call that are not the plan's."""

    seed: int
    device: torch.device
    workers: int
    restart: bool = False


def describe_run(plan: Plan, view: str, task: str, fold: str | None, settings: RunSettings) -> dict[str, Any]:
    """The description saved with every checkpoint and as config.json."""
    return {
        "format": FORMAT,
        "odiff": __version__,
        "torch": torch.__version__,
        "precision": to_plain(precision_of(settings.device)),
        "threads": torch.get_num_threads(),
        "task": task,
        "view": view,
        "fold": fold,
        "seed": settings.seed,
        "plan": to_plain(plan),
    }


def open_run(folder: Path, meta: dict[str, Any], settings: RunSettings, keep: tuple[str, ...] = ()) -> RunFolder:
    """The folder to train in: fresh, or one whose run fits `meta` and can be resumed.

    Keys of `keep` in the stored configuration outlive the new one.

    Raises
    ------
    CheckpointError
        The folder holds a run of another plan, seed or start.
    """
    run = RunFolder(folder)
    if settings.restart:
        run.move_aside()
    kept: dict[str, Any] = {}
    if run.config.exists():
        _check_same_run(run, meta)
        kept = {key: value for key, value in run.read_config().items() if key in keep}
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_config({**meta, **kept})
    return run


SAME = ("task", "view", "fold", "seed", "pretrained", "pretrained_sha256", "label_fraction", "columns")


def _check_same_run(run: RunFolder, meta: dict[str, Any]) -> None:
    stored = run.read_config()
    for key in SAME:
        if stored.get(key) != meta.get(key):
            raise CheckpointError(
                f"{run.path}: holds a run with {key} {stored.get(key)!r}, now {meta.get(key)!r}; "
                "give the same value to resume it, or --restart to move it aside"
            )
    views = [name for name in stored["plan"]["views"] if meta["view"] in (name, "fused")]
    for view in views:
        check_fit(
            plan_of_view(stored, view), plan_of_view(meta, view), str(run.path), "--restart moves the old run aside"
        )


def plan_of_view(meta: dict[str, Any], view: str) -> ViewPlan:
    """The plan of one view inside a description."""
    return from_plain(ViewPlan, meta["plan"]["views"][view], f"plan.views.{view}", CheckpointError)


def check_fit(
    trained: ViewPlan, planned: ViewPlan, where: str, advice: str,
    fields: Sequence[str] = ("network", "spacing_zyx_mm", "normalisation"),
) -> None:  # fmt: skip
    """Raise a `CheckpointError` unless the `fields` of both agree; steps and rates may differ."""
    for field in fields:
        if getattr(trained, field) != getattr(planned, field):
            raise CheckpointError(
                f"{where}: was trained with {field} {to_plain(getattr(trained, field))}, the plan of view {planned.view} has "
                f"{to_plain(getattr(planned, field))}; {advice}"
            )
