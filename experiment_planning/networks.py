"""The network of a view: widths for a topology, the paper's, or what fits a patch that the recipe fixes."""

import numpy as np

from odiff.experiment_planning.fingerprint import ViewFingerprint
from odiff.experiment_planning.presets import Preset
from odiff.experiment_planning.topology import StemLimits, Topology, plan_channels, plan_topology
from odiff.network.paper import PAPER
from odiff.plan import NetworkPlan
from odiff.plan.schema import Triple

Spacing = tuple[float, float, float]


def plan_network(topology: Topology, preset: Preset) -> NetworkPlan:
    """The network of a topology with the preset's widths; a stem of 2 or none starts at half the base width."""
    wide = preset.network.base_channels if max(topology.stem_zyx) >= 4 else max(32, preset.network.base_channels // 2)
    channels = plan_channels(len(topology.strides_zyx), wide, preset.network.largest_channels)
    return NetworkPlan(
        topology.stem_zyx, channels, topology.strides_zyx, topology.kernels_zyx, preset.network.blocks_per_stage,
        preset.network.time_channels,
    )  # fmt: skip


def network_of_patch(patch_zyx: Triple, spacing: Spacing, preset: Preset) -> NetworkPlan:
    """The paper's network with the preset's base width, or the usual one for that patch."""
    if preset.network.architecture == "paper":
        base = preset.network.base_channels
        widths = tuple(width // PAPER.channels[0] * base for width in PAPER.channels)
        return NetworkPlan(PAPER.stem_zyx, widths, PAPER.strides_zyx, PAPER.kernels_zyx, 1, base, "paper")
    limits = StemLimits(preset.limits.stem_per_slice, preset.limits.stem_voxels)
    return plan_network(plan_topology(patch_zyx, spacing, limits), preset)


def spacing_of_patch(seen: ViewFingerprint, patch_zyx: Triple) -> Spacing:
    """What one voxel of a fixed patch is in mm where the median field of view fills it."""
    extent = np.median(np.asarray(seen.extents_zyx_mm), axis=0)
    depth, rows, columns = (round(float(e) / n, 4) for e, n in zip(extent, patch_zyx, strict=True))
    return depth, rows, columns
