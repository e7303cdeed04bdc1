"""Values of a plan that no run can work with, found before anything starts."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from odiff.errors import PlanError
from odiff.plan.parse import to_plain
from odiff.plan.schema import SCHEMA_VERSION, Augmentation, DiffusionPlan, NetworkPlan, Normalisation, Plan, ViewPlan

SCHEDULES = ("cosine", "linear")
PREDICTIONS = ("x0", "epsilon", "v")
WEIGHTINGS = ("min_snr", "uniform")
NORMALISATIONS = ("percentile", "zscore", "minmax")
FUSIONS = ("concat", "linear_concat", "linear_add", "cross_attention", "gated", "gated_stacked", "auto")
GRIDS = ("canonical", "paper")
ARCHITECTURES = ("unet", "paper", "unet3d", "unetr", "resnet18")
RATES = ("cosine", "constant")
HEADS = ("decoder", "transposed")
CLASS_WEIGHTINGS = ("inverse_sqrt", "none")
COLUMNS = ("continuous", "categorical")
POOLINGS = ("attention", "selfattn", "local", "none", "auto")


def check_plan(plan: Plan, where: str) -> None:
    """Raise a `PlanError` that names field, value and bound for the first impossible value of `plan`."""
    if plan.schema_version != SCHEMA_VERSION:
        raise PlanError(
            f"{where}: schema_version is {plan.schema_version}, this odiff reads {SCHEMA_VERSION}; "
            "rerun odiff_plan_and_preprocess with this version of odiff"
        )
    _all_finite(where, "", to_plain(plan))
    if not plan.name or Path(plan.name).name != plan.name:
        raise PlanError(
            f"{where}: name {plan.name!r}: results go into a folder of that name, so it must be a plain name"
        )
    for name in ("pretrain", "segmentation", "diagnosis", "fusion"):
        recipe = getattr(plan, name)
        _at_least(where, f"{name}.steps", recipe.steps, 1)
        _above(where, f"{name}.learning_rate", recipe.learning_rate, 0)
        for every in ("checkpoint_every", "validate_every", "batch_size"):
            _at_least(where, f"{name}.{every}", getattr(recipe, every, 1), 1)
        for least in (
            "weight_decay",
            "gradient_clip",
            "warmup_steps",
            "head_steps",
            "dice_weight",
            "cross_entropy_weight",
        ):
            _at_least(where, f"{name}.{least}", getattr(recipe, least, 0), 0)
        for share in ("ema_decay", "second_beta", "dropout"):
            _within_but(where, f"{name}.{share}", getattr(recipe, share, 0))
        if hasattr(recipe, "augmentation"):
            _check_augmentation(recipe.augmentation, where, f"{name}.augmentation")
    _one_of(where, "fusion.variant", plan.fusion.variant, FUSIONS)
    _at_least(where, "fusion.tabular_steps", plan.fusion.tabular_steps, 1)
    _above(where, "fusion.tabular_rate", plan.fusion.tabular_rate, 0)
    _at_least(where, "fusion.code_cases", plan.fusion.code_cases, 0)
    for column, kind in plan.tabular.items():
        _one_of(where, f"tabular.{column}", kind, COLUMNS)
    _one_of(where, "pretrain.rate", plan.pretrain.rate, RATES)
    _at_least(where, "pretrain.ema_every", plan.pretrain.ema_every, 1)
    _one_of(where, "segmentation.head", plan.segmentation.head, HEADS)
    _one_of(where, "segmentation.class_weighting", plan.segmentation.class_weighting, CLASS_WEIGHTINGS)
    _within(where, "segmentation.foreground_fraction", plan.segmentation.foreground_fraction, 0, 1)
    _one_of(where, "diagnosis.pooling", plan.diagnosis.pooling, POOLINGS)
    for view in plan.views.values():
        _check_view(view, where)
        time_steps, step = view.diffusion.time_steps, plan.segmentation.time_step
        _within(where, f"segmentation.time_step, in {view.view}", step, 0, time_steps - 1)


def _check_augmentation(augmentation: Augmentation, where: str, at: str) -> None:
    for field in fields(augmentation):
        _at_least(where, f"{at}.{field.name}", getattr(augmentation, field.name), 0)
    _within(where, f"{at}.probability", augmentation.probability, 0, 1)


def _check_view(view: ViewPlan, where: str) -> None:
    at = f"views.{view.view}"
    _at_least(where, f"{at}.batch_size", view.batch_size, 1)
    _at_least(where, f"{at}.accumulate", view.accumulate, 1)
    for axis, (size, spacing) in enumerate(zip(view.patch_zyx, view.spacing_zyx_mm, strict=True)):
        _at_least(where, f"{at}.patch_zyx[{axis}]", size, 1)
        _above(where, f"{at}.spacing_zyx_mm[{axis}]", spacing, 0)
    for axis in view.mirror_axes:
        _within(where, f"{at}.mirror_axes", axis, 0, 2)
    _check_normalisation(view.normalisation, where, f"{at}.normalisation")
    _one_of(where, f"{at}.grid", view.grid, GRIDS)
    _one_of(where, f"{at}.network.architecture", view.network.architecture, ARCHITECTURES)
    _check_network(view.network, view.patch_zyx, where, f"{at}.network")
    _check_diffusion(view.diffusion, where, f"{at}.diffusion")


def _check_normalisation(normalisation: Normalisation, where: str, at: str) -> None:
    _one_of(where, f"{at}.scheme", normalisation.scheme, NORMALISATIONS)
    _above(where, f"{at}.clip", normalisation.clip, 0)
    low, high = normalisation.lower_percentile, normalisation.upper_percentile
    _within(where, f"{at}.lower_percentile", low, 0, 100)
    _within(where, f"{at}.upper_percentile", high, 0, 100)
    _above(where, f"{at}.upper_percentile", high, low)


def _check_network(network: NetworkPlan, patch_zyx: tuple[int, ...], where: str, at: str) -> None:
    stages = len(network.channels)
    for name in ("strides_zyx", "kernels_zyx"):
        if len(getattr(network, name)) != stages:
            raise PlanError(
                f"{where}: {at}.{name} has {len(getattr(network, name))} entries, channels has {stages}; make them equal"
            )
    for number, width in enumerate(network.channels):
        _at_least(where, f"{at}.channels[{number}]", width, 1)
    _at_least(where, f"{at}.time_channels", network.time_channels, 2)
    if network.time_channels % 2:
        raise PlanError(f"{where}: {at}.time_channels must be even, sines and cosines, got {network.time_channels}")
    for stride in (network.stem_zyx, *network.strides_zyx, *network.kernels_zyx):
        for size in stride:
            _at_least(where, f"{at}: stem, strides and kernels", size, 1)
    factor = list(network.stem_zyx)
    for stride in network.strides_zyx:
        factor = [a * b for a, b in zip(factor, stride, strict=True)]
    if any(size % f for size, f in zip(patch_zyx, factor, strict=True)):
        raise PlanError(f"{where}: patch_zyx {list(patch_zyx)} must be a multiple of {factor}, what {at} divides it by")


def _check_diffusion(diffusion: DiffusionPlan, where: str, at: str) -> None:
    _at_least(where, f"{at}.time_steps", diffusion.time_steps, 2)
    _one_of(where, f"{at}.schedule", diffusion.schedule, SCHEDULES)
    _one_of(where, f"{at}.prediction", diffusion.prediction, PREDICTIONS)
    _one_of(where, f"{at}.loss_weighting", diffusion.loss_weighting, WEIGHTINGS)
    for step in diffusion.probe_time_steps:
        _within(where, f"{at}.probe_time_steps", step, 0, diffusion.time_steps - 1)
    _within_but(where, f"{at}.mask_fraction", diffusion.mask_fraction)
    for axis, size in enumerate(diffusion.mask_block_zyx):
        _at_least(where, f"{at}.mask_block_zyx[{axis}]", size, 1)


def _at_least(where: str, field: str, value: Any, bound: float) -> None:
    if value < bound:
        raise PlanError(f"{where}: {field} must be at least {bound}, got {value}")


def _above(where: str, field: str, value: Any, bound: float) -> None:
    if not value > bound:
        raise PlanError(f"{where}: {field} must be above {bound}, got {value}")


def _within(where: str, field: str, value: Any, low: float, high: float) -> None:
    if not low <= value <= high:
        raise PlanError(f"{where}: {field} must be {low:g} to {high:g}, got {value}")


def _within_but(where: str, field: str, value: Any) -> None:
    if not 0 <= value < 1:
        raise PlanError(f"{where}: {field} must be in [0, 1), got {value}")


def _all_finite(where: str, field: str, value: Any) -> None:
    """Every number below a field; JSON has no others."""
    if isinstance(value, dict):
        for name, one in value.items():
            _all_finite(where, f"{field}.{name}".lstrip("."), one)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            _all_finite(where, f"{field}[{number}]", one)
    elif isinstance(value, float) and not math.isfinite(value):
        raise PlanError(f"{where}: {field} must be a finite number, got {value}")


def _one_of(where: str, field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise PlanError(f"{where}: {field} must be one of {', '.join(known)}, got {value!r}")
