"""Segmentation: encoder and decoder of the diffusion model, fine-tuned with a head at full resolution."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from odiff.data.batches import BatchSource, SegmentationBatches
from odiff.errors import DatasetError
from odiff.learning.features import noised, step_noise
from odiff.learning.run import RunSettings, describe_run, open_run, origins
from odiff.learning.segment import build_segmentation, class_values
from odiff.learning.segmentation_loss import hard_dice_parts, segmentation_loss
from odiff.learning.subsets import LabelShare
from odiff.learning.transfer import load_backbone, log_transfer, with_head
from odiff.network.segmentation import SegmentationNetwork
from odiff.plan import Augmentation, DiagnosisRecipe, Plan, SegmentationRecipe, to_plain
from odiff.training.graphs import record
from odiff.training.loop import LoopSettings, TrainingState, Validate, start_state, train
from odiff.training.optimiser import Rates, cosine_rate
from odiff.training.precision import autocast
from odiff.training.run_folder import RunFolder

WATCHED_BATCHES = 4


@dataclass(frozen=True)
class TaskData:
    """The series a fold trains on and watches, and the folder of their arrays."""

    prepared: Path
    train: tuple[str, ...]
    watch: tuple[str, ...]


def train_segmentation(
    data: TaskData, plan: Plan, view: str, fold: str, folder: Path, pretrained: Path | None, settings: RunSettings,
    share: LabelShare | None = None,
) -> RunFolder:  # fmt: skip
    """Fine-tune for the segmentation of `view`, or go on with an interrupted training.

    Raises
    ------
    DatasetError
        No series of the fold has a mask.
    CheckpointError
        `pretrained` does not fit the plan, or the folder holds another run.
    """
    if not data.train:
        raise DatasetError(
            f"{plan.dataset}: no {view} series with a mask to train fold {fold} on{_among(share)}; put masks into labelsTr"
        )
    view_plan, recipe = plan.views[view], plan.segmentation
    torch.manual_seed(settings.seed)
    network = build_segmentation(plan, view)
    transfer = None
    if pretrained and isinstance(network, SegmentationNetwork):  # baselines start from random weights always
        transfer = with_head(load_backbone(network.backbone, pretrained, view_plan), network)
    meta = describe_run(plan, view, "segmentation", fold, settings)
    meta |= {
        "pretrained": str(pretrained) if pretrained else None,
        **origins(pretrained=pretrained),
        "label_fraction": share.label_fraction if share else 1.0,
        "patients": share.patients if share else None,
        "train": list(data.train),
        "transfer": to_plain(transfer),
    }
    run = open_run(folder, meta, settings)
    log_transfer(transfer, f"{view} segmentation fold {fold}")
    loop = fine_tuning_loop("segmentation", recipe, settings, view_plan.accumulate)
    source = BatchSource(
        data.prepared, view_plan, recipe.augmentation, plan.left_right, view_plan.batch_size, settings.seed
    )
    values = class_values(plan)
    batches = SegmentationBatches(source, data.train, values, recipe.foreground_fraction)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        image, classes = batch
        if recipe.is_noised:
            noise = step_noise(image.shape, settings.seed, number, image.device)
            image = noised(image, recipe.time_step, view_plan.diffusion, noise)
        logits = network(image, torch.full((len(image),), recipe.time_step, device=image.device))
        return loss_of(logits, classes, recipe)

    state = start_state(network, parameter_groups(network), loop)
    record(state.network, (view_plan.batch_size, 1, *view_plan.patch_zyx), settings.device, view_plan.accumulate)
    rates = fine_tuning_rates(
        recipe, recipe.head_steps if pretrained else 0, recipe.backbone_rate if pretrained else 1.0
    )
    watch = _watcher(data, plan, view, settings) if data.watch else None
    train(state, loop, run, batches, loss, rates, meta, watch, f"{view} segmentation fold {fold}")
    return run


def _among(share: LabelShare | None) -> str:
    """Whose series were looked at, where they are a share."""
    if share is None or share.label_fraction == 1:
        return ""
    return f" among the {share.patients} patients of --label-fraction {share.label_fraction:g}"


def loss_of(logits: Tensor, classes: Tensor, recipe: SegmentationRecipe) -> Tensor:
    """The recipe's loss of logits (b, classes, z, y, x) against class numbers (b, z, y, x)."""
    return segmentation_loss(logits, classes, recipe.dice_weight, recipe.cross_entropy_weight, recipe.class_weighting)


def parameter_groups(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The pretrained part and the new layers, which learn at different rates."""
    named = list(network.named_parameters())
    return {
        "backbone": [parameter for name, parameter in named if name.startswith("backbone.")],
        "head": [parameter for name, parameter in named if not name.startswith("backbone.")],
    }


def fine_tuning_loop(
    task: str, recipe: SegmentationRecipe | DiagnosisRecipe, settings: RunSettings, accumulate: int
) -> LoopSettings:
    """How the loop goes by the recipe of a task and a call; `accumulate` batches make a step."""
    return LoopSettings(
        steps=recipe.steps, accumulate=accumulate, gradient_clip=recipe.gradient_clip, weight_decay=recipe.weight_decay,
        ema_decay=recipe.ema_decay, checkpoint_every=recipe.checkpoint_every, validate_every=recipe.validate_every,
        device=settings.device, workers=settings.workers, seed=settings.seed, second_beta=recipe.second_beta,
        rate_field=f"{task}.learning_rate",
    )  # fmt: skip


def fine_tuning_rates(recipe: SegmentationRecipe | DiagnosisRecipe, head_steps: int, backbone_share: float) -> Rates:
    """The head alone for `head_steps`, then everything, the backbone at `backbone_share` of the head's rate."""

    def rates(step: int) -> dict[str, float]:
        head = cosine_rate(step, recipe.steps, recipe.warmup_steps, recipe.learning_rate)
        if step < head_steps:
            return {"backbone": 0.0, "head": head}
        rise = min(1.0, (step - head_steps + 1) / max(1, recipe.warmup_steps))
        return {"backbone": head * backbone_share * rise, "head": head}

    return rates


def no_augmentation() -> Augmentation:
    """Settings that leave every sample as it is."""
    return Augmentation(0, 0, 0, 0, 0, 0, 0, 0, 0)


def _watcher(data: TaskData, plan: Plan, view: str, settings: RunSettings) -> Validate:
    """Pseudo Dice of the averaged model on fixed patches of the fold's validation cases."""
    view_plan, recipe = plan.views[view], plan.segmentation
    source = BatchSource(data.prepared, view_plan, no_augmentation(), (), min(2, len(data.watch)), settings.seed)
    batches = SegmentationBatches(source, data.watch, class_values(plan), recipe.foreground_fraction)
    names: Sequence[str] = [
        name for name, _ in sorted(plan.labels.items(), key=lambda item: item[1]) if name != "background"
    ]

    @torch.no_grad()
    def watch(state: TrainingState) -> dict[str, float]:
        totals: list[Tensor] = []
        value = 0.0
        for number in range(WATCHED_BATCHES):
            image, classes = (part.to(settings.device) for part in batches[number])
            with autocast(settings.device):
                seen = noised(image, recipe.time_step, view_plan.diffusion) if recipe.is_noised else image
                logits = state.average(seen, torch.full((len(image),), recipe.time_step, device=settings.device))
            value += float(loss_of(logits, classes, recipe)) / WATCHED_BATCHES
            totals.append(torch.stack(hard_dice_parts(logits, classes)))
        overlap, sizes = torch.stack(totals).sum(dim=0)
        dice = {f"dice_{name}": float(2 * a / b) for name, a, b in zip(names, overlap, sizes, strict=True) if b > 0}
        mean = sum(dice.values()) / max(1, len(dice))
        return {"score": mean, "watched_loss": value, **dice}

    return watch
