"""What every kind of training run shares: its settings, its description, and whether it may be resumed."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from odiff import __version__
from odiff.errors import CheckpointError, UsageError
from odiff.plan import Plan, ViewPlan, from_plain, to_plain
from odiff.training.checkpoint import FORMAT, tensors_digest
from odiff.training.precision import precision_of
from odiff.training.run_folder import RunFolder
from odiff.vocabulary import restart_flags

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSettings:
    """Choices of one command call that are not the plan's; a `UsageError` for a seed or workers below 0."""

    seed: int
    device: torch.device
    workers: int
    restart: bool = False

    def __post_init__(self) -> None:
        for name in ("seed", "workers"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name} {getattr(self, name)}: must be at least 0")


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

    Keys of `keep` in the stored configuration outlive the new one. From `meta` the cases are taken out where it is not known which the
    run learnt from.

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
        stored = run.read_config()
        kept = {key: value for key, value in stored.items() if key in keep}
        is_begun = run.is_trained() or run.checkpoint("latest").exists()
        if TRAIN in meta and TRAIN not in stored and is_begun:
            log.warning("%s: is of a version that noted no cases; see that splits_final.json is as it was", folder)
            del meta[TRAIN]
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_config({**meta, **kept})
    return run


SAME = ("task", "view", "fold", "seed", "pretrained", "label_fraction", "columns", "fused_views")
FIT = ("network", "spacing_zyx_mm", "normalisation")
# What a network's answers mean, by task; in pretraining they mean what the diffusion's process says.
ANSWERS = {"segmentation": "labels", "diagnosis": "diagnoses", "probe": "diagnoses", "tabular": "diagnoses"}
MASKS = ("left_right", "ignore_label", "sparse_slices")
PROCESS = ("prediction", "schedule", "time_steps")
ORIGINS = "origins_sha256"
TRAIN = "train"
ANEW = "--restart moves this run aside and trains it on the new one"


def _check_same_run(run: RunFolder, meta: dict[str, Any]) -> None:
    stored = run.read_config()
    restart = restart_flags(meta["task"])
    for key in SAME:
        before, now = stored.get(key), meta.get(key)
        if key == "pretrained" and ORIGINS in stored:  # known by its digest, wherever it lies
            before, now = bool(before), bool(now)
        if before != now:
            raise CheckpointError(
                f"{run.path}: holds a run with {key} {stored.get(key)!r}, now {meta.get(key)!r}; "
                f"give the same value to resume it, or {restart} to move it aside"
            )
    _check_origins(run, stored.get(ORIGINS) or {}, meta.get(ORIGINS) or {})
    check_cases(run, stored, meta.get(TRAIN))
    check_plan(run, stored, meta["plan"], ("diffusion",) if meta["task"] == "pretrain" else ())


def check_plan(run: RunFolder, stored: Mapping[str, Any], plan: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    """Raise a `CheckpointError` where a run, so described, answers otherwise, or learnt from other arrays or by another network, than
    `plan` says; `more` are further fields of its views to compare.
    """
    check_answers(run, stored, plan)
    check_arrays(run, stored, plan)
    advice = f"{restart_flags(stored['task'])} moves the old run aside"
    for view in [name for name in stored["plan"]["views"] if stored["view"] in (name, "fused")]:
        before, now = plan_of_view(stored, view), plan_of_view({"plan": plan}, view)
        check_fit(_but_probes(before, now), now, str(run.path), advice, (*FIT, "grid", *more))


def _but_probes(before: ViewPlan, now: ViewPlan) -> ViewPlan:
    """The plan of before with what of its diffusion may differ, all but the process itself, as it is now."""
    process = {name: getattr(before.diffusion, name) for name in PROCESS}
    return replace(before, diffusion=replace(now.diffusion, **process))


def check_answers(run: RunFolder, stored: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Raise a `CheckpointError` where the network of a run, so described, answers other labels or diagnoses than those of `plan`."""
    field = ANSWERS.get(stored["task"])
    if field and stored["plan"][field] != plan[field]:
        raise CheckpointError(
            f"{run.path}: was trained for {field} {stored['plan'][field]}, the plan now has {plan[field]}; give dataset.json the same "
            f"and plan again, or --restart to move the run aside"
        )


def check_arrays(run: RunFolder, stored: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Raise a `CheckpointError` where a run, so described, learnt from volumes or masks that were preprocessed otherwise than by `plan`."""
    task = stored["task"]
    for field in ("flip_left_joints", *(MASKS if task == "segmentation" else ())):
        before, now = stored["plan"].get(field), plan[field]
        if field in stored["plan"] and before != now:
            raise CheckpointError(
                f"{run.path}: learnt from data preprocessed with {field} {before}, the plan now has {now}; plan as before, or "
                f"{restart_flags(task)} to move the run aside"
            )


def check_cases(run: RunFolder, stored: Mapping[str, Any], train: Sequence[str] | None) -> None:
    """Raise a `CheckpointError` where a run, so described, learnt from other cases or series than `train`: what it validates on now it
    may have learnt from. Earlier versions did not store them.
    """
    before = stored.get(TRAIN)
    if before is None or train is None or set(before) == set(train):
        return
    gone, new = sorted(set(before) - set(train)), sorted(set(train) - set(before))
    what = [f"{len(names)} {kind} ({names[0]})" for names, kind in ((gone, "no longer"), (new, "newly")) if names]
    raise CheckpointError(
        f"{run.path}: learnt from {len(before)} of the fold, of which now {' and '.join(what)} would be; give back splits_final.json, "
        "masks and cases.csv, or --restart to move the run aside"
    )


def origins(**paths: Path | None) -> dict[str, dict[str, str]]:
    """What a run stands on, for its description: the digest of each model's tensors by name, of those that are given."""
    return {ORIGINS: {name: tensors_digest(path) for name, path in paths.items() if path}}


def stands_on(config: Mapping[str, Any], **paths: Path | None) -> bool:
    """Whether a run's configuration tells of just these files as they are now."""
    return bool(config.get(ORIGINS) == origins(**paths)[ORIGINS])


def check_origins(run: RunFolder, files: Mapping[str, Path], advice: str = ANEW) -> None:
    """Raise a `CheckpointError` where a trained run stands on other models than these files, by name, hold now."""
    _check_origins(run, run.read_config().get(ORIGINS) or {}, origins(**files)[ORIGINS], advice)


def _check_origins(run: RunFolder, stored: Mapping[str, str], now: Mapping[str, str], advice: str = ANEW) -> None:
    """Raise a `CheckpointError` where what the run stands on was trained again since; earlier versions did not store it."""
    for name, digest in now.items():
        if stored.get(name, digest) != digest:
            raise CheckpointError(
                f"{run.path}: stands on the {name} model as it was, sha256 {stored[name][:12]}, which is now {digest[:12]}: it was trained "
                f"again since, or is another; {advice}"
            )


def plan_of_view(meta: Mapping[str, Any], view: str) -> ViewPlan:
    """The plan of one view inside a description."""
    return from_plain(ViewPlan, meta["plan"]["views"][view], f"plan.views.{view}", CheckpointError)


def check_fit(trained: ViewPlan, planned: ViewPlan, where: str, advice: str, fields: Sequence[str] = FIT) -> None:
    """Raise a `CheckpointError` unless the `fields` of both agree; steps and rates may differ."""
    for field in fields:
        if getattr(trained, field) != getattr(planned, field):
            raise CheckpointError(
                f"{where}: was trained with {field} {to_plain(getattr(trained, field))}, the plan of view {planned.view} has "
                f"{to_plain(getattr(planned, field))}; {advice}"
            )
