"""What a plan holds: all numbers of a run and the reason of each, no behaviour, no environment."""

from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 1

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Decision:
    """Why a number is what it is."""

    field: str
    value: Any
    rule: str
    source: str


@dataclass(frozen=True)
class Normalisation:
    """Intensities between two percentiles of the body become -1..1, then are clipped at `clip`."""

    scheme: str
    lower_percentile: float
    upper_percentile: float
    clip: float


@dataclass(frozen=True)
class NetworkPlan:
    """A U-Net of an architecture of `odiff.network.backbone`; one entry per stage, the first at the resolution after the stem.

    A baseline of `odiff.network.baselines` takes its place, and as much of the rest as it knows, in the plan of its own runs.
    """

    stem_zyx: Triple
    channels: tuple[int, ...]
    strides_zyx: tuple[Triple, ...]
    kernels_zyx: tuple[Triple, ...]
    blocks_per_stage: int
    time_channels: int
    architecture: str = "unet"


@dataclass(frozen=True)
class DiffusionPlan:
    """The forward process, the target, and what the probes may choose from."""

    time_steps: int
    schedule: str
    prediction: str
    loss_weighting: str
    min_snr_gamma: float
    mask_fraction: float
    mask_block_zyx: Triple
    probe_time_steps: tuple[int, ...]
    probe_blocks: tuple[str, ...]


@dataclass(frozen=True)
class ViewPlan:
    """Everything that depends on the view: one grid serves pretraining and both tasks.

    `grid` is ``canonical`` (the view's anatomical frame at `spacing_zyx_mm`) or ``paper`` (`odiff.data.paper_grid`).
    """

    view: str
    spacing_zyx_mm: tuple[float, float, float]
    patch_zyx: Triple
    normalisation: Normalisation
    network: NetworkPlan
    diffusion: DiffusionPlan
    mirror_axes: tuple[int, ...]
    batch_size: int
    accumulate: int
    estimated_memory_gb: float
    grid: str = "canonical"


@dataclass(frozen=True)
class Augmentation:
    """Strength of the training augmentation; 0 or an empty range switches a transform off."""

    probability: float
    rotation_deg: float
    scale: float
    shift: float
    brightness: float
    contrast: float
    gamma: float
    noise: float
    blur_voxels: float


@dataclass(frozen=True)
class PretrainRecipe:
    """Self-supervised denoising; `steps` counts optimiser updates, `rate` is how the learning rate goes.

    The average follows every `ema_every` updates once `ema_after` are made, and is the network itself until then.

    Where labels exist, a linear probe is logged at the checkpoints whose step `probe_every` divides; 0 for never.
    """

    steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    gradient_clip: float
    ema_decay: float
    checkpoint_every: int
    probe_every: int
    augmentation: Augmentation
    rate: str = "cosine"
    ema_every: int = 1
    ema_after: int = 0
    second_beta: float = 0.99


@dataclass(frozen=True)
class SegmentationRecipe:
    """Fine-tuning of encoder and decoder; the new layers warm up alone for `head_steps`.

    `head` is one of `odiff.network.segmentation.HEADS`, `class_weighting` of the cross-entropy ``inverse_sqrt`` or ``none``;
    `is_noised` adds the noise of `time_step` to the volumes, as the features of diagnosis always have it.
    """

    steps: int
    learning_rate: float
    backbone_rate: float
    head_steps: int
    warmup_steps: int
    weight_decay: float
    gradient_clip: float
    ema_decay: float
    checkpoint_every: int
    validate_every: int
    foreground_fraction: float
    dice_weight: float
    cross_entropy_weight: float
    time_step: int
    augmentation: Augmentation
    head: str = "decoder"
    class_weighting: str = "inverse_sqrt"
    is_noised: bool = False
    second_beta: float = 0.99


@dataclass(frozen=True)
class DiagnosisRecipe:
    """The head learns `head_steps` on cached features at `head_rate`, then everything is fine-tuned for `steps`.

    Blocks and time steps come from the probes; `pooling` is one of `odiff.plan.bounds.POOLINGS`, ``auto`` chooses it in each fold.
    Where `registered`, volumes are moved and bent onto the mean of the training cases first.
    """

    steps: int
    learning_rate: float
    backbone_rate: float
    head_steps: int
    head_rate: float
    warmup_steps: int
    weight_decay: float
    gradient_clip: float
    ema_decay: float
    checkpoint_every: int
    validate_every: int
    batch_size: int
    dropout: float
    probe_cases: int
    augmentation: Augmentation
    pooling: str = "attention"
    second_beta: float = 0.99
    registered: bool = False


@dataclass(frozen=True)
class FusionRecipe:
    """How the views of a case are joined, and, where `tabular`, the columns of the case table that the dataset declares.

    `variant` is one of `odiff.plan.bounds.FUSIONS`; ``auto`` chooses it in each fold.

    The diagnosis from the views' shared code counts as much as that of networks which learnt a label from `code_cases` cases of its
    rarer kind, and less than that of networks which learnt it from more; 0 learns no such code.
    """

    variant: str
    steps: int
    learning_rate: float
    weight_decay: float
    tabular: bool = True
    tabular_steps: int = 150
    tabular_rate: float = 0.003
    code_cases: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The effective plan of one dataset, as plans.json holds it; `tabular` maps columns to continuous or categorical."""

    schema_version: int
    name: str
    dataset: str
    joint: str
    preset: str
    planned_like: str | None
    file_ending: str
    labels: dict[str, int]
    ignore_label: int | None
    sparse_slices: bool
    left_right: tuple[tuple[int, int], ...]
    diagnoses: tuple[str, ...]
    flip_left_joints: bool
    average_unknown_laterality: bool
    views: dict[str, ViewPlan]
    pretrain: PretrainRecipe
    segmentation: SegmentationRecipe
    diagnosis: DiagnosisRecipe
    fusion: FusionRecipe
    decisions: tuple[Decision, ...]
    tabular: dict[str, str] = field(default_factory=dict)
