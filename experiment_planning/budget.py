"""A time budget as an input of the plan: the largest network and the finest grid that the hours let learn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from odiff.errors import UsageError
from odiff.experiment_planning.presets import Preset
from odiff.plan import Decision, Plan

RESOLUTIONS = (1.0, 0.5, 0.25)
ENOUGH_STEPS = 0.5
MOST_STEPS = 4.0
LEAST_STEPS = 0.02
# Loading, validation and checkpoints, as a factor on the steps' time.
BESIDE_STEPS = 1.2


@dataclass(frozen=True)
class PlanHours:
    """What a plan takes: all its steps, and beside them what is the same however many they are."""

    steps: float
    beside: float


@dataclass(frozen=True)
class Candidate:
    """A preset with less resolution or width, its plan, the hours that all its steps would take here, and those beside them."""

    preset: Preset
    plan: Plan
    hours: float
    described: str
    beside: float = 0.0

    def share(self, hours: float) -> float:
        """How much of its steps it makes in `hours`."""
        return (hours - self.beside) / self.hours


def candidate_presets(preset: Preset) -> list[tuple[str, Preset]]:
    """The preset as it is, and with half and a quarter of its voxels, each in full and in half width; largest first."""
    base = preset.network.base_channels
    widths = [base, base // 2] if base // 2 >= 32 else [base]
    found = []
    for width in widths:
        for share in RESOLUTIONS:
            limits = replace(preset.limits, patch_voxels=int(preset.limits.patch_voxels * share))
            network = replace(
                preset.network, base_channels=width, largest_channels=preset.network.largest_channels * width // base
            )
            name = f"{limits.patch_voxels} voxels after the stem, {width} channels"
            found.append((name, replace(preset, limits=limits, network=network)))
    return found


def choose(candidates: Sequence[Candidate], hours: float) -> tuple[Candidate, float]:
    """The costliest candidate that makes at least `ENOUGH_STEPS` of the preset's steps in `hours`, else the cheapest.

    Returns
    -------
    The candidate, and the share of the preset's steps that it makes: at most `MOST_STEPS`.

    Raises
    ------
    UsageError
        Not even the cheapest makes `LEAST_STEPS` of them.
    """
    ordered = sorted(candidates, key=lambda candidate: candidate.hours, reverse=True)
    able = [one for one in ordered if one.share(hours) >= ENOUGH_STEPS]
    chosen = able[0] if able else ordered[-1]
    share = min(MOST_STEPS, chosen.share(hours))
    if share < LEAST_STEPS:
        least = chosen.beside + chosen.hours * LEAST_STEPS
        raise UsageError(
            f"--hours {hours:g}: the smallest plan needs {chosen.hours:.1f} h for all its steps "
            f"and {least:.2f} h to learn anything; give more hours, fewer --views, or --preset cpu_demo"
        )
    return chosen, share


def scaled_steps(preset: Preset, share: float) -> Preset:
    """The preset with its schedules stretched or shortened alike; every count stays at least 1."""

    def times(count: int) -> int:
        return max(1, round(count * share)) if count else 0

    def schedule(recipe):  # type: ignore[no-untyped-def]
        names = ("steps", "warmup_steps", "checkpoint_every", "validate_every", "probe_every")
        changed = {name: times(getattr(recipe, name)) for name in names if hasattr(recipe, name)}
        return replace(recipe, **changed)

    segmentation = schedule(preset.segmentation)
    segmentation = replace(segmentation, head_steps=min(segmentation.head_steps, segmentation.steps // 4))
    return replace(
        preset, pretrain=schedule(preset.pretrain), segmentation=segmentation, diagnosis=schedule(preset.diagnosis)
    )


def budget_decision(chosen: Candidate, share: float, hours: float, candidates: Sequence[Candidate]) -> Decision:
    """Why this candidate, with what every other would have taken."""
    others = "; ".join(
        f"{one.described}: {one.hours:.2f} h for all steps, {one.beside:.2f} h for probes and the head"
        for one in candidates
    )
    rule = (
        f"--hours {hours:g} for pretraining and one fold of each task of every view: the costliest plan that makes at least "
        f"{ENOUGH_STEPS:g} of the preset's steps; it makes {share:.2f} of them"
    )
    return Decision("budget", chosen.described, rule, f"measured here: {others}")


def plan_within(
    preset: Preset, hours: float, make_plan: Callable[[Preset], Plan], cost: Callable[[Plan], PlanHours]
) -> tuple[Plan, Decision]:
    """The plan for a budget.

    Parameters
    ----------
    make_plan : plans the dataset from a preset.
    cost : what a plan takes on this machine.

    Raises
    ------
    UsageError
        `hours` is not above 0, or too few for anything.
    """
    if not hours > 0:
        raise UsageError(f"--hours {hours:g}: must be above 0")
    candidates: list[Candidate] = []
    for described, candidate in candidate_presets(preset):
        plan = make_plan(candidate)
        if any(plan.views == one.plan.views for one in candidates):
            continue
        taken = cost(plan)
        candidates.append(Candidate(candidate, plan, BESIDE_STEPS * taken.steps, described, taken.beside))
    chosen, share = choose(candidates, hours)
    return make_plan(scaled_steps(chosen.preset, share)), budget_decision(chosen, share, hours, candidates)
