"""Planning a view whose patch the recipe fixes: what is left to choose is the spacing it comes to, and the network's strides."""

import numpy as np

from odiff.experiment_planning.fingerprint import ViewFingerprint
from odiff.experiment_planning.presets import Preset
from odiff.experiment_planning.topology import StemLimits, plan_channels, plan_topology
from odiff.network.paper import PAPER
from odiff.plan import NetworkPlan
from odiff.plan.schema import Triple

Spacing = tuple[float, float, float]
PAPER_MULTIPLIERS = (1, 1, 2, 2, 4)


def spacing_of_patch(seen: ViewFingerprint, patch_zyx: Triple) -> Spacing:
    """What one voxel of the patch is in mm where the median field of view fills it."""
    extent = np.median(np.asarray(seen.extents_zyx_mm), axis=0)
    depth, rows, columns = (round(float(e) / n, 4) for e, n in zip(extent, patch_zyx, strict=True))
    return depth, rows, columns


def network_of_patch(patch_zyx: Triple, spacing: Spacing, preset: Preset) -> NetworkPlan:
    """The paper's network with the preset's base width, or the usual topology for that patch."""
    base = preset.network.base_channels
    if preset.network.architecture == "paper":
        widths = tuple(base * multiplier for multiplier in PAPER_MULTIPLIERS)
        return NetworkPlan(PAPER.stem_zyx, widths, PAPER.strides_zyx, PAPER.kernels_zyx, 1, base, "paper")
    limits = StemLimits(preset.limits.stem_per_slice, preset.limits.stem_voxels)
    topology = plan_topology(patch_zyx, spacing, limits)
    widths = plan_channels(len(topology.strides_zyx), base, preset.network.largest_channels)
    return NetworkPlan(
        topology.stem_zyx, widths, topology.strides_zyx, topology.kernels_zyx, preset.network.blocks_per_stage,
        preset.network.time_channels,
    )  # fmt: skip
