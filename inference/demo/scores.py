"""Scores of the demo's held-out cases: the model, a trivial floor, and an untrained network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from odiff.data.preprocessing import prepare
from odiff.data.restoring import restore_labels
from odiff.dataset import Series
from odiff.geometry import Volume, read_mask, read_volume
from odiff.inference.demo.floor import coarse_features, frequent_labels, frequent_segmentation, linear_probabilities
from odiff.learning.context import Context
from odiff.learning.diagnosis_data import targets_of
from odiff.learning.segment import build_segmentation, class_values, labels_on_grid, probability_slabs
from odiff.metrics.segmentation import score_case


@dataclass(frozen=True)
class HeldOut:
    """One held-out series with its truth."""

    series: Series
    volume: Volume
    truth: np.ndarray
    laterality: str


def read_held_out(series: Sequence[Series], truths: Path, laterality: dict[str, str]) -> list[HeldOut]:
    """Images and masks of held-out series; `laterality` by case."""
    return [
        HeldOut(one, read_volume(one.image), read_mask(truths / one.image.name).array, laterality[one.case])
        for one in series
    ]


def mean_dice(held_out: Sequence[HeldOut], predictions: Sequence[np.ndarray], labels: dict[str, int]) -> float:
    """Mean Dice over structures and series."""
    scores = [
        np.mean([s["dice"] for s in score_case(p, one.truth, labels, one.volume.grid.spacing_zyx_mm).values()])
        for one, p in zip(held_out, predictions, strict=True)
    ]
    return float(np.mean(scores))


def floor_segmentations(context: Context, held_out: Sequence[HeldOut]) -> list[np.ndarray]:
    """The most frequent label at each place of the field of view, over all training masks."""
    plan, values = context.plan, class_values(context.plan)
    frequency = {}
    for view, view_plan in plan.views.items():
        names = [s.name for case in context.dataset.cases for s in case.of_view(view) if s.is_masked]
        frequency[view] = frequent_labels(context.prepared(view), names, view_plan.patch_zyx, values)
    found = []
    for one in held_out:
        prepared = prepare(one.volume, None, plan.views[one.series.view], one.laterality == "L")
        scores = frequent_segmentation(frequency[one.series.view], prepared)
        found.append(restore_labels([scores], values, prepared.geometry))
    return found


def untrained_segmentations(context: Context, held_out: Sequence[HeldOut], seed: int) -> list[np.ndarray]:
    """What the planned networks say with random weights."""
    plan, device = context.plan, torch.device("cpu")
    torch.manual_seed(seed)
    networks = {view: build_segmentation(plan, view).eval() for view in plan.views}
    found = []
    for one in held_out:
        view = one.series.view
        prepared = prepare(one.volume, None, plan.views[view], one.laterality == "L")
        slabs = probability_slabs([networks[view]], prepared.image, plan, view, device, step_size=1.0)
        found.append(labels_on_grid(slabs, prepared.geometry, plan))
    return found


def floor_probabilities(context: Context, held_out: Sequence[HeldOut], cases: Sequence[str]) -> np.ndarray:
    """Linear models on histograms and coarse intensities of all views; (cases, labels)."""
    plan = context.plan
    training = [case for case in context.dataset.cases if all(case.of_view(view) for view in plan.views)]
    train = np.stack([_case_features(context, case.name) for case in training])
    truth = np.array([targets_of(case, plan.diagnoses) for case in training])
    rows = []
    for case in cases:
        own = {one.series.view: one for one in held_out if one.series.case == case}
        parts = [
            coarse_features(prepare(own[v].volume, None, plan.views[v], own[v].laterality == "L").image)
            for v in plan.views
        ]
        rows.append(np.concatenate(parts))
    return linear_probabilities(train, truth, np.stack(rows))


def _case_features(context: Context, case: str) -> np.ndarray:
    from odiff.data.store import open_array

    member = next(one for one in context.dataset.cases if one.name == case)
    parts = []
    for view in context.plan.views:
        image = open_array(context.prepared(view) / f"{member.of_view(view)[0].name}.b2nd")[:]
        parts.append(coarse_features(image.astype(np.float32)))
    return np.concatenate(parts)
