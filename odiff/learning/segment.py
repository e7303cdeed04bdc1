"""Segmenting whole series with one or several trained networks, and scoring them on the original grid."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odiff.data.batches import IGNORE
from odiff.data.preprocessing import SeriesGeometry, restore_labels
from odiff.data.sliding_window import sliding_window
from odiff.data.store import open_array, read_stored
from odiff.geometry import write_volume
from odiff.learning.segmentation import build_segmentation, class_values
from odiff.metrics.segmentation import mean_scores, score_case
from odiff.network.unet import SegmentationNetwork
from odiff.plan import Plan
from odiff.storage import write_json
from odiff.training.checkpoint import load_weights, read_checkpoint
from odiff.training.precision import autocast, place


def load_segmentation(path: Path, plan: Plan, view: str, device: torch.device) -> SegmentationNetwork:
    """A trained segmentation network, ready to predict."""
    network = build_segmentation(plan, view)
    load_weights(network, read_checkpoint(path).part("weights."), str(path))
    return place(network, device).eval()


@torch.no_grad()
def class_probabilities(
    networks: Sequence[SegmentationNetwork],
    image: np.ndarray,
    plan: Plan,
    view: str,
    device: torch.device,
    step_size: float = 0.5,
    is_mirroring: bool = True,
) -> Tensor:
    """The mean class probabilities of all networks.

    Parameters
    ----------
    image : (z, y, x) on the network's grid.

    Returns
    -------
    (classes, z, y, x) float32.
    """
    view_plan = plan.views[view]

    def predict(patch: Tensor) -> Tensor:
        t = torch.full((len(patch),), plan.segmentation.time_step, device=device)
        with autocast(device):
            answers = [network(patch, t).float().softmax(dim=1) for network in networks]
        return torch.stack(answers).mean(dim=0)

    volume = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None].to(device)
    axes = view_plan.mirror_axes if is_mirroring else ()
    return sliding_window(predict, volume, view_plan.patch_zyx, step_size=step_size, mirror_axes=axes)


def labels_on_grid(probabilities: Tensor, geometry: SeriesGeometry, plan: Plan) -> np.ndarray:
    """Label values on the file's own grid (z, y, x), paired labels swapped back where the joint was mirrored."""
    labels = restore_labels(probabilities, class_values(plan), geometry)
    if not geometry.is_mirrored:
        return labels
    swapped = labels.copy()
    for a, b in plan.left_right:
        swapped[labels == a], swapped[labels == b] = b, a
    return swapped


def validate_segmentation(
    prepared: Path, names: Sequence[str], network: SegmentationNetwork, plan: Plan, view: str, folder: Path
) -> dict[str, Any]:
    """Predict whole validation series, write them and ``summary.json`` with scores on the original grid."""
    device = next(network.parameters()).device
    cases: dict[str, Any] = {}
    for name in names:
        stored = read_stored(prepared, name)
        image = open_array(prepared / f"{name}.b2nd")[:]
        predicted = labels_on_grid(class_probabilities([network], image, plan, view, device), stored.geometry, plan)
        write_volume(folder / f"{name}{plan.file_ending}", smallest_integers(predicted), stored.geometry.grid)
        truth = open_array(prepared / f"{name}_truth.b2nd")[:]
        cases[name] = score_case(predicted, truth, plan.labels, stored.geometry.grid.spacing_zyx_mm, truth == IGNORE)
    summary = {"mean": mean_scores(list(cases.values())), "cases": cases}
    write_json(folder / "summary.json", summary)
    return summary


def smallest_integers(labels: np.ndarray) -> np.ndarray:
    """uint8 where the values fit, else int16."""
    return labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.int16)
