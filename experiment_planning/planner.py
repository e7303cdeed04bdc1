"""The planner: fingerprint + machine -> plan. Arithmetic in numbered steps, each leaving its reason."""

from dataclasses import dataclass, replace

import numpy as np

from odiff.dataset import DatasetDescription
from odiff.errors import PlanError
from odiff.experiment_planning.fingerprint import Fingerprint, ViewFingerprint
from odiff.experiment_planning.memory import training_memory_gb
from odiff.experiment_planning.mirroring import plan_mirroring
from odiff.experiment_planning.networks import network_of_patch, plan_network, spacing_of_patch
from odiff.experiment_planning.presets import Preset, block_in_voxels
from odiff.experiment_planning.reasons import Reasons
from odiff.experiment_planning.topology import (
    NEAR,
    NEAR_AT_FIRST,
    StemLimits,
    Topology,
    bottleneck,
    fit_patch,
    plan_topology,
)
from odiff.network.backbone import block_names
from odiff.plan import SCHEMA_VERSION, Decision, DiffusionPlan, NetworkPlan, Plan, ViewPlan
from odiff.plan.schema import Triple

Spacing = tuple[float, float, float]
ANISOTROPIC = 3.0
THIN_PERCENTILE = 10
COARSER = 1.05


@dataclass(frozen=True)
class Machine:
    """What the planner needs to know of the computer."""

    memory_gb: float
    value_bytes: int
    device: str
    precision: str = "float32"


@dataclass(frozen=True)
class Tasks:
    """What will be trained on a view, as far as memory goes: segmented classes and cases of a diagnosis batch, or 0; and the head."""

    classes: int
    diagnosis_batch: int
    head: str = "decoder"


def plan_dataset(
    fingerprint: Fingerprint, description: DatasetDescription, preset_name: str, preset: Preset, machine: Machine,
    dataset: str, views: tuple[str, ...], like: Plan | None = None,
) -> Plan:  # fmt: skip
    """Plan every view of `views` that has images.

    Parameters
    ----------
    dataset : name of the dataset folder.
    like : a plan whose networks, diffusion and normalisation are taken over, so that its pretrained weights load and mean the same.

    Raises
    ------
    PlanError
        A view has no images, or `like` does not have it, or has it on another grid than the preset.
    """
    rule = "the type in which convolutions run fastest here; odiff_train --precision overrides it"
    decisions = [Decision("precision", machine.precision.partition(":")[0], rule, machine.precision)]
    planned = {}
    for view in views:
        if view not in fingerprint.views:
            raise PlanError(f"{dataset}: no images of view {view}; leave it out of --views")
        reasons = Reasons(view, decisions)
        mirror_axes = plan_mirroring(fingerprint, description, view, preset, reasons)
        diagnosis_batch = preset.diagnosis.batch_size if description.diagnoses else 0
        tasks = Tasks(len(description.labels), diagnosis_batch, preset.segmentation.head)
        planned[view] = plan_view(
            fingerprint.views[view], tasks, preset, machine, mirror_axes, reasons, _view_of(like, view, preset)
        )
    return Plan(
        schema_version=SCHEMA_VERSION, name=preset_name, dataset=dataset, joint=description.joint, preset=preset_name,
        planned_like=like.dataset if like else None, file_ending=description.file_ending, labels=dict(description.labels),
        ignore_label=description.ignore_label, sparse_slices=description.sparse_slices,
        left_right=tuple((description.labels[a], description.labels[b]) for a, b in description.left_right),
        diagnoses=description.diagnoses, flip_left_joints=preset.flip_left_joints,
        average_unknown_laterality=fingerprint.has_laterality and preset.flip_left_joints, views=planned, pretrain=preset.pretrain,
        segmentation=preset.segmentation, diagnosis=preset.diagnosis, fusion=preset.fusion, decisions=tuple(decisions),
        tabular=dict(description.tabular),
    )  # fmt: skip


def _view_of(like: Plan | None, view: str, preset: Preset) -> ViewPlan | None:
    if like is None:
        return None
    if view not in like.views:
        raise PlanError(f"--like {like.dataset}: its plan has no view {view}, only {', '.join(like.views)}")
    if like.views[view].grid != preset.grid:
        raise PlanError(
            f"--like {like.dataset}: its volumes are on the {like.views[view].grid} grid, those of this preset on the {preset.grid} one; "
            f"give --preset {like.preset} too"
        )
    return like.views[view]


def plan_view(
    seen: ViewFingerprint, tasks: Tasks, preset: Preset, machine: Machine, mirror_axes: tuple[int, ...], reasons: Reasons,
    like: ViewPlan | None = None,
) -> ViewPlan:  # fmt: skip
    """Steps 1 to 5 of the planner for one view."""
    spacing, patch, network = plan_grid(seen, tasks, preset, machine, reasons, like)
    batch_size, accumulate = plan_batch(network, patch, preset, machine, tasks, reasons)
    memory = memory_needed(network, patch, batch_size, tasks, machine)
    reasons.add(
        "estimated_memory_gb",
        round(memory, 2),
        "activations, weights, gradients, optimiser, average",
        "fitted to measured peaks",
    )
    return ViewPlan(
        view=seen.view, spacing_zyx_mm=spacing, patch_zyx=patch, normalisation=like.normalisation if like else preset.normalisation,
        network=network, diffusion=plan_diffusion(spacing, network, preset, like), mirror_axes=mirror_axes,
        batch_size=batch_size, accumulate=accumulate, estimated_memory_gb=round(memory, 2), grid=like.grid if like else preset.grid,
    )  # fmt: skip


def memory_needed(network: NetworkPlan, patch: Triple, batch_size: int, tasks: Tasks, machine: Machine) -> float:
    """GiB of the hungriest of the tasks."""
    return training_memory_gb(
        network, patch, batch_size, tasks.classes, machine.value_bytes, tasks.diagnosis_batch, tasks.head,
        machine.device == "cpu",
    )  # fmt: skip


def plan_grid(
    seen: ViewFingerprint, tasks: Tasks, preset: Preset, machine: Machine, reasons: Reasons, like: ViewPlan | None
) -> tuple[Spacing, Triple, NetworkPlan]:
    """Steps 1 to 3: spacing, patch and network, as the preset fixes them or as the fingerprint says."""
    fixed = like.patch_zyx if like and like.grid == "paper" else preset.limits.fixed_patch_zyx
    if fixed:
        spacing = spacing_of_patch(seen, fixed)
        network = like.network if like else network_of_patch(fixed, spacing, preset)
        reasons.add("patch_zyx", fixed, "fixed by the recipe", "preset")
        reasons.add("spacing_zyx_mm", spacing, "the median field of view over the patch", f"{seen.series} series")
        return spacing, fixed, network
    spacing, patch, topology = plan_patch(seen, plan_spacing(seen, reasons), preset, machine, tasks, reasons, like)
    network = like.network if like else plan_network(topology, preset)
    rule = "widths double per stage" if like is None else "taken from --like"
    reasons.add("network", list(network.channels), rule, "preset")
    return spacing, patch, network


def plan_spacing(seen: ViewFingerprint, reasons: Reasons) -> Spacing:
    """Step 1: the median; a very thick through-plane axis takes its 10th percentile, so that thin series keep slices."""
    spacings = np.asarray(seen.spacings_zyx_mm)
    median = np.median(spacings, axis=0)
    rule = "median over series"
    if median[0] > ANISOTROPIC * median[1:].max():
        median[0] = np.percentile(spacings[:, 0], THIN_PERCENTILE)
        rule = "median in plane; 10th percentile through plane, which is over 3x the in-plane spacing"
    result = (round(float(median[0]), 4), round(float(median[1]), 4), round(float(median[2]), 4))
    reasons.add("spacing_zyx_mm", result, rule, f"{len(spacings)} series")
    return result


def plan_patch(
    seen: ViewFingerprint, spacing: Spacing, preset: Preset, machine: Machine, tasks: Tasks, reasons: Reasons,
    like: ViewPlan | None,
) -> tuple[Spacing, Triple, Topology]:  # fmt: skip
    """Steps 2 and 3: the whole field of view, coarsened in plane up to 1.5x, then cut, until it fits.

    Slices never stay thinner than the plane is coarse: an isotropic volume is coarsened alike along all axes.
    """
    extent = np.median(np.asarray(seen.extents_zyx_mm), axis=0)
    original = spacing
    while True:
        median = _voxels(extent, spacing)
        topology = _topology(median, spacing, preset, like)
        patch = fit_patch(median, topology.divisor_zyx)
        if _fits(patch, topology, preset, machine, tasks, like):
            rule = "median shape after the body crop, rounded to what the network divides (up, or down by 5 % at most)"
            break
        coarser = (max(original[0], min(spacing[1:]) * COARSER), spacing[1] * COARSER, spacing[2] * COARSER)
        if coarser[1] > original[1] * preset.limits.coarsen_in_plane:
            patch, topology = cut_patch(median, spacing, preset, machine, tasks, like)
            rule = "cut along the axis with the largest patch/median ratio until memory and time hold it"
            break
        spacing = coarser
    spacing = (round(spacing[0], 4), round(spacing[1], 4), round(spacing[2], 4))
    if spacing != original:
        reasons.add(
            "spacing_zyx_mm",
            spacing,
            f"coarsened from {list(original)} mm so that the field of view fits; slices only where thinner than pixels",
            "budget",
        )
    reasons.add(
        "patch_zyx", patch, rule, f"median field of view {[round(float(e)) for e in extent]} mm = {list(median)} voxels"
    )
    _explain_topology(patch, spacing, topology, preset, reasons)
    return spacing, patch, topology


def _explain_topology(patch: Triple, spacing: Spacing, topology: Topology, preset: Preset, reasons: Reasons) -> None:
    limits = preset.limits
    stem_rule = (
        f"space to depth while voxels stay within {limits.stem_per_slice:g}x the slice thickness (or 2 mm) and "
        f"{limits.stem_voxels} remain; slices thinner than 2 mm too"
    )
    reasons.add("network.stem_zyx", topology.stem_zyx, stem_rule, f"spacing {list(spacing)} mm")
    stride_rule = "an axis is halved while within 2x of the finest spacing and 4 voxels remain"
    reasons.add(
        "network.strides_zyx",
        topology.strides_zyx,
        stride_rule,
        f"bottleneck {list(bottleneck(patch, topology))} voxels",
    )
    reasons.add(
        "network.kernels_zyx",
        topology.kernels_zyx,
        f"1 along an axis until its spacing is within {NEAR:g}x of the finest, {NEAR_AT_FIRST:g}x at the first stage",
        "spacing",
    )


def _voxels(extent: np.ndarray, spacing: Spacing) -> Triple:
    depth, rows, columns = (max(1, round(float(e) / s)) for e, s in zip(extent, spacing, strict=True))
    return depth, rows, columns


def _topology(patch: Triple, spacing: Spacing, preset: Preset, like: ViewPlan | None) -> Topology:
    if like is None:
        return plan_topology(patch, spacing, StemLimits(preset.limits.stem_per_slice, preset.limits.stem_voxels))
    divisor = like.network.stem_zyx
    for stride in like.network.strides_zyx:
        divisor = (divisor[0] * stride[0], divisor[1] * stride[1], divisor[2] * stride[2])
    return Topology(like.network.stem_zyx, like.network.strides_zyx, like.network.kernels_zyx, divisor)


def _fits(
    patch: Triple, topology: Topology, preset: Preset, machine: Machine, tasks: Tasks, like: ViewPlan | None
) -> bool:
    limits = preset.limits
    work = np.prod([n / s for n, s in zip(patch, topology.stem_zyx, strict=True)])
    if work > limits.patch_voxels or max(patch[1:]) > limits.in_plane_voxels:
        return False
    network = like.network if like else plan_network(topology, preset)
    return memory_needed(network, patch, 1, tasks, machine) <= machine.memory_gb


def cut_patch(
    median: Triple, spacing: Spacing, preset: Preset, machine: Machine, tasks: Tasks, like: ViewPlan | None
) -> tuple[Triple, Topology]:
    """Shorten the axis with the largest patch/median ratio, one divisor at a time, until the patch fits.

    Raises
    ------
    PlanError
        Not even the smallest patch fits the memory.
    """
    wanted = median
    while True:
        topology = _topology(wanted, spacing, preset, like)
        patch = fit_patch(wanted, topology.divisor_zyx)
        if _fits(patch, topology, preset, machine, tasks, like):
            return patch, topology
        ratios = [n / m if n > d else 0.0 for n, m, d in zip(patch, median, topology.divisor_zyx, strict=True)]
        axis = int(np.argmax(ratios))
        if ratios[axis] == 0:
            raise PlanError(
                f"memory_gb {machine.memory_gb:.2f} holds no patch at all, not even {patch}; give --memory-gb more"
            )
        shorter = list(patch)
        shorter[axis] -= topology.divisor_zyx[axis]
        wanted = (shorter[0], shorter[1], shorter[2])


def plan_batch(
    network: NetworkPlan, patch: Triple, preset: Preset, machine: Machine, tasks: Tasks, reasons: Reasons
) -> tuple[int, int]:
    """Step 4: the preset's batch as far as memory holds it, the rest by accumulating gradients."""
    wanted = preset.limits.batch_size
    batch = wanted
    others = replace(tasks, diagnosis_batch=0)
    while batch > 1 and memory_needed(network, patch, batch, others, machine) > machine.memory_gb:
        batch -= 1
    batch = max(size for size in range(1, batch + 1) if wanted % size == 0)  # else a step would learn from more cases
    accumulate = wanted // batch
    reasons.add(
        "batch_size",
        batch,
        f"up to {wanted} in {machine.memory_gb:.1f} GB, accumulated {accumulate} times",
        machine.device,
    )
    return batch, accumulate


def plan_diffusion(
    spacing: Spacing, network: NetworkPlan, preset: Preset, like: ViewPlan | None = None
) -> DiffusionPlan:
    """Step 5: noise and target from the preset, or those that the network to take over learnt; blocks to probe from the topology."""
    chosen = like.diffusion if like else preset.diffusion
    return DiffusionPlan(
        time_steps=chosen.time_steps, schedule=chosen.schedule, prediction=chosen.prediction,
        loss_weighting=chosen.loss_weighting, min_snr_gamma=chosen.min_snr_gamma, mask_fraction=chosen.mask_fraction,
        mask_block_zyx=block_in_voxels(preset.diffusion.mask_block_mm, spacing), probe_time_steps=chosen.probe_time_steps,
        probe_blocks=block_names(network),
    )  # fmt: skip


def with_plan_name(plan: Plan, name: str) -> Plan:
    """The same plan under another name."""
    return replace(plan, name=name)
