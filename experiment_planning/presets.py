"""Presets: the part of a plan that a fingerprint does not decide, as JSON in `plans/`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from odiff.errors import PlanError, UsageError
from odiff.plan import (
    DiagnosisRecipe,
    FusionRecipe,
    Normalisation,
    PretrainRecipe,
    SegmentationRecipe,
    apply_overrides,
    from_plain,
)
from odiff.plan.parse import closest
from odiff.plan.schema import Triple

WIDTH = 32  # of which all widths are multiples
PLANNED_FROM = ("limits", "network", "normalisation", "diffusion")


@dataclass(frozen=True)
class Limits:
    """Bounds of the patch, the batch and the stem; `patch_voxels` count after the stem, where the work is.

    `fixed_patch_zyx` is the patch itself where the recipe leaves no choice.
    """

    patch_voxels: int
    batch_size: int
    in_plane_voxels: int
    coarsen_in_plane: float
    stem_per_slice: float
    stem_voxels: int
    fixed_patch_zyx: Triple | None = None


@dataclass(frozen=True)
class NetworkPreset:
    """Widths and depth; strides and kernels follow from the fingerprint, or from the architecture where it is the paper's."""

    base_channels: int
    largest_channels: int
    blocks_per_stage: int
    time_channels: int
    architecture: str = "unet"


@dataclass(frozen=True)
class DiffusionPreset:
    """The diffusion plan but for the blocks, which follow from the topology."""

    time_steps: int
    schedule: str
    prediction: str
    loss_weighting: str
    min_snr_gamma: float
    mask_fraction: float
    mask_block_mm: tuple[float, float, float]
    probe_time_steps: tuple[int, ...]


@dataclass(frozen=True)
class Epochs:
    """Passes over the labelled cases, for recipes that do not count in steps."""

    segmentation: int
    diagnosis: int
    diagnosis_head: int
    fusion: int


@dataclass(frozen=True)
class Preset:
    """One file of `plans/`; where it has `epochs`, they stand for the steps of the labelled tasks."""

    description: str
    limits: Limits
    network: NetworkPreset
    normalisation: Normalisation
    diffusion: DiffusionPreset
    pretrain: PretrainRecipe
    segmentation: SegmentationRecipe
    diagnosis: DiagnosisRecipe
    fusion: FusionRecipe
    grid: str = "canonical"
    flip_left_joints: bool = True
    epochs: Epochs | None = None


def preset_names() -> list[str]:
    """The presets that are installed."""
    files = resources.files("odiff.plans").iterdir()
    return sorted(file.name[: -len(".json")] for file in files if file.name.endswith(".json"))


def read_preset(name: str, overrides: Sequence[str] = ()) -> Preset:
    """The preset called `name` with ``--set`` overrides applied; a `UsageError` with the known names where there is none."""
    names = preset_names()
    if name not in names:
        raise UsageError(f"--preset {name}: no such preset{closest(name, names)}")
    text = resources.files("odiff.plans").joinpath(f"{name}.json").read_text(encoding="utf-8")
    found = from_plain(Preset, apply_overrides(json.loads(text), overrides), f"preset {name}", PlanError)
    for field, value, least in (
        ("limits.batch_size", found.limits.batch_size, 1),
        ("network.base_channels", found.network.base_channels, WIDTH),
        ("network.largest_channels", found.network.largest_channels, WIDTH),
        ("network.blocks_per_stage", found.network.blocks_per_stage, 1),
        ("network.time_channels", found.network.time_channels, 2),
    ):
        if value < least:
            raise PlanError(f"preset {name}: {field} must be at least {least}, got {value}")
    return found


def is_of_preset(override: str) -> bool:
    """Whether a ``--set`` override names what the planner starts from, which the plan itself does not hold."""
    return override.partition(".")[0] in PLANNED_FROM


def block_in_voxels(block_mm: tuple[float, ...], spacing_zyx_mm: tuple[float, ...]) -> Triple:
    """A block of about that many millimetres, at least one voxel along each axis."""
    depth, rows, columns = (max(1, round(b / s)) for b, s in zip(block_mm, spacing_zyx_mm, strict=True))
    return depth, rows, columns
