"""The first stage as one function: a raw dataset folder in, a plan and preprocessed volumes out."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from odiff import __version__
from odiff.data.index import drop_index
from odiff.dataset import Dataset, Series, find_dataset, load_dataset
from odiff.errors import DatasetError, PlanError, UsageError
from odiff.experiment_planning.budget import plan_within
from odiff.experiment_planning.epochs import with_epochs_as_steps
from odiff.experiment_planning.fingerprint import SeriesFingerprint, fingerprint_dataset, is_stale, known_series
from odiff.experiment_planning.machine import this_machine
from odiff.experiment_planning.planner import plan_dataset
from odiff.experiment_planning.preprocess import SPLITS, preprocess_dataset, without_cases
from odiff.experiment_planning.presets import Preset, is_of_preset, read_preset
from odiff.experiment_planning.verify import survey_dataset
from odiff.plan import Plan, apply_overrides, plan_from_plain, read_plan, to_plain, write_plan
from odiff.storage import read_json, write_json
from odiff.training.device import choose_device

log = logging.getLogger(__name__)
PLANS = "plans.json"
ORIGIN = "plans_origin.json"


@dataclass(frozen=True)
class PlanningOptions:
    """The flags of odiff_plan_and_preprocess."""

    preset: str = "default"
    memory_gb: float | None = None
    views: tuple[str, ...] = ()
    processes: int = 2
    overrides: tuple[str, ...] = ()
    like: str | None = None
    device: str = "auto"
    is_dry_run: bool = False
    skip_bad: bool = False
    hours: float | None = None


def plan_and_preprocess(
    raw: Path, preprocessed: Path, wanted: str, options: PlanningOptions, say: Callable[[str], object]
) -> Plan:
    """Verify, fingerprint, plan and preprocess one dataset.

    Parameters
    ----------
    raw, preprocessed : the roots that hold dataset folders.
    wanted : number or name of the dataset.
    say : takes lines for the user.

    Raises
    ------
    DatasetError
        Verification found faults that `options.skip_bad` does not allow, or cannot, skip.
    """
    if raw.resolve() == preprocessed.resolve():
        raise UsageError(f"{raw}: is given for raw and for preprocessed data; give each a folder of its own")
    seen = verified(find_dataset(raw, wanted), preprocessed, options, say)
    folder = preprocessed / seen.dataset.folder.name
    planned = make_plan(seen, preprocessed, options)
    plan = planned.plan
    say(describe(plan))
    if planned.is_kept:
        say(
            "plan: the one that is there, planned with the same options; change one, or delete plans.json, to plan anew\n"
        )
    say(f"fingerprint: {planned.measured} series measured, the others up to date\n")
    if options.is_dry_run:
        say("dry run: no plan and no volumes written\n")
        return plan
    keep_or_write(folder / PLANS, planned)
    done, current = preprocess_dataset(seen.dataset, plan, folder, options.processes, seen.skipped)
    say(f"preprocess: {done} series done, {current} up to date -> {folder}\n")
    return plan


@dataclass(frozen=True)
class Verified:
    """A dataset without its faulty cases, which are `skipped`; fingerprints of series that were missing."""

    dataset: Dataset
    measured: dict[str, SeriesFingerprint]
    skipped: frozenset[str]


@dataclass(frozen=True)
class Planned:
    """A plan; the digest of what it comes from; whether it is the one that is there; how many series were measured anew."""

    plan: Plan
    origin: str
    is_kept: bool
    measured: int


def verified(folder: Path, preprocessed: Path, options: PlanningOptions, say: Callable[[str], object]) -> Verified:
    """Verify a dataset, and take the fingerprints that are missing in the same look."""
    splits = preprocessed / folder.name / SPLITS
    known = known_series(preprocessed / folder.name)

    def is_measured(series: Series) -> bool:
        return (not options.views or series.view in options.views) and is_stale(series, known)

    report, measured = survey_dataset(
        folder, processes=options.processes, splits=splits if splits.exists() else None, is_measured=is_measured
    )
    for finding in report.findings:
        if finding.severity == "note":
            say(f"note: {finding}\n")
    if report.faults and not (options.skip_bad and not report.dataset_faults):
        listed = "\n".join(f"  {finding}" for finding in report.faults)
        hint = "" if report.dataset_faults else "\nmend them, or give --skip-bad to go on without the cases named"
        raise DatasetError(f"{folder}: {len(report.faults)} faults:\n{listed}{hint}")
    for case in sorted(report.faulty_cases):
        say(f"skipping case {case}\n")
    skipped = report.faulty_cases
    return Verified(without_cases(load_dataset(folder, skip=skipped), skipped), measured, skipped)


def make_plan(seen: Verified, preprocessed: Path, options: PlanningOptions) -> Planned:
    """Fingerprint, as far as not yet measured, and plan.

    A plan that is there and comes from the same is kept, edited or not: free memory and speed, which planning measures, are others
    each time.
    """
    dataset = seen.dataset
    description = dataset.description
    present = {series.view for case in dataset.cases for series in case.series}
    views = options.views or tuple(view for view in description.views if view in present)
    folder = preprocessed / dataset.folder.name
    fingerprint, fresh = fingerprint_dataset(dataset, folder, views, options.processes, seen.measured)
    like = read_plan(find_dataset(preprocessed, options.like) / PLANS) if options.like else None
    of_preset = [override for override in options.overrides if is_of_preset(override)]
    of_plan = [override for override in options.overrides if not is_of_preset(override)]
    preset = with_epochs_as_steps(read_preset(options.preset, of_preset), fingerprint)
    origin = origin_of(options, preset, fingerprint, description, like)
    if kept := plan_of_origin(folder, origin):
        return Planned(kept, origin, True, fresh)
    machine = this_machine(options.memory_gb, options.device)

    def plan_from(preset: Preset) -> Plan:
        return plan_dataset(fingerprint, description, options.preset, preset, machine, dataset.folder.name, views, like)

    plan = plan_from(preset) if options.hours is None else within_hours(preset, options, plan_from)
    return Planned(plan_from_plain(apply_overrides(to_plain(plan), of_plan), "the plan"), origin, False, fresh)


def origin_of(options: PlanningOptions, *sources: Any) -> str:
    """A digest of all that a plan is made from but the machine."""
    others = ("processes", "is_dry_run", "skip_bad")
    chosen = {name: value for name, value in to_plain(options).items() if name not in others}
    text = json.dumps([__version__, chosen, *map(to_plain, sources)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def plan_of_origin(folder: Path, origin: str) -> Plan | None:
    """The plan that is there, if it comes from `origin`."""
    if not (folder / PLANS).exists() or not (folder / ORIGIN).exists():
        return None
    stored = read_json(folder / ORIGIN, PlanError, "delete it to plan anew")
    return read_plan(folder / PLANS) if stored == {"made_from_sha256": origin} else None


def within_hours(preset: Preset, options: PlanningOptions, plan_from: Callable[[Preset], Plan]) -> Plan:
    """The best plan for ``--hours``, and its reason among the decisions."""
    from odiff.experiment_planning.throughput import Stopwatch

    if options.like:
        raise UsageError("--hours chooses the network and --like takes it over; give one of them")
    stopwatch = Stopwatch(choose_device(options.device))
    plan, decision = plan_within(preset, options.hours or 0.0, plan_from, stopwatch.hours)
    return replace(plan, decisions=(decision, *plan.decisions))


def keep_or_write(path: Path, planned: Planned) -> None:
    """Write the plan, and what it comes from, unless it is the one that is there; another one is moved aside."""
    if planned.is_kept:
        return
    plan = planned.plan
    if path.exists():
        try:
            old = read_plan(path)
        except PlanError:
            old = None
        if old != plan:
            aside = free_name(path.with_name(f"plans.{old.name if old else 'unreadable'}.json"))
            path.replace(aside)
            log.info("%s: earlier plan kept as %s", path, aside.name)
    if not path.exists():
        drop_index(path.parent)  # the arrays are of another plan, or of none
        write_plan(path, plan)
    write_json(path.with_name(ORIGIN), {"made_from_sha256": planned.origin})


def free_name(path: Path) -> Path:
    """The path, or with a number before its ending where that is taken."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def describe(plan: Plan) -> str:
    """The plan in a few lines."""
    lines = [f"{plan.dataset}: plan {plan.name}"]
    for view in plan.views.values():
        network = view.network
        lines.append(
            f"  {view.view:9s} spacing {_list(view.spacing_zyx_mm)} mm, patch {_list(view.patch_zyx)}, stem {_list(network.stem_zyx)}, "
            f"{len(network.channels)} stages of {_list(network.channels)} channels, batch {view.batch_size} x {view.accumulate}, "
            f"about {view.estimated_memory_gb:.1f} GB"
        )
    budget = [one for one in plan.decisions if one.field == "budget"]
    lines += [f"  budget    {one.value}: {one.rule}" for one in budget]
    return "\n".join(lines) + "\n"


def _list(values: tuple) -> str:
    return "x".join(f"{value:g}" for value in values)
