"""Diagnosing with trained networks: loading them, and one preprocessed volume to embeddings and logits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odiff.data.sliding_window import joined_tiles, split_tiles
from odiff.errors import CheckpointError
from odiff.learning.clear_choice import first_pooling
from odiff.learning.features import noised
from odiff.learning.loading import trained_network
from odiff.network.diagnosis import DiagnosisNetwork, FeatureChoice, diagnosis_head
from odiff.network.fusion import FusionNetwork, build_fusion
from odiff.network.heads import ATTENTION, DiagnosisHead
from odiff.plan import Plan
from odiff.training.checkpoint import load_weights, read_checkpoint
from odiff.training.precision import autocast


def stored_choice(config: dict[str, Any]) -> FeatureChoice:
    """The feature choice in a config or checkpoint description."""
    features = config["features"]
    pooling = features.get("pooling") or first_pooling(config["plan"]["diagnosis"].get("pooling", ATTENTION))
    return FeatureChoice(features["time_step"], tuple(features["blocks"]), pooling)


def build_diagnosis(plan: Plan, view: str, choice: FeatureChoice, dropout: float = 0.0) -> DiagnosisNetwork:
    """The network of a view that reads the features of `choice`, with random weights."""
    view_plan = plan.views[view]
    return DiagnosisNetwork(
        view_plan.network, view_plan.patch_zyx, len(plan.diagnoses), choice, dropout, plan.diagnosis.registered,
        plan.diagnosis.batch_size,
    )  # fmt: skip


def build_head(plan: Plan, view: str, choice: FeatureChoice, dropout: float, device: torch.device) -> DiagnosisHead:
    """The head alone of the network that `build_diagnosis` gives."""
    view_plan = plan.views[view]
    made = diagnosis_head(view_plan.network, view_plan.patch_zyx, len(plan.diagnoses), choice, dropout)
    return made.to(device)


def load_diagnosis(path: Path, plan: Plan, view: str, device: torch.device) -> DiagnosisNetwork:
    """A trained diagnosis network, ready to predict."""
    checkpoint = read_checkpoint(path)
    choice = stored_choice(checkpoint.meta)
    return trained_network(lambda: build_diagnosis(plan, view, choice), checkpoint, device, is_compact=True)


def embed_volume(network: DiagnosisNetwork, tiles: Sequence[np.ndarray], plan: Plan, view: str) -> Tensor:
    """One series as tiles (1, z, y, x) -> (labels, width), under the fixed noise."""
    return embed_tiles(network, *joined_tiles([tiles]), 1, plan, view)[0]


@torch.no_grad()
def embed_tiles(network: DiagnosisNetwork, tiles: Tensor, owner: Tensor, series: int, plan: Plan, view: str) -> Tensor:
    """Tiles (n, 1, z, y, x) and the series of each (n,) -> (series, labels, width) on the network's device."""
    device = network.head.weight.device
    tiles, owner = tiles.to(device), owner.to(device)
    return embed_placed(network, network.placed(tiles, owner), owner, series, plan, view)


@torch.no_grad()
def embed_placed(network: DiagnosisNetwork, tiles: Tensor, owner: Tensor, series: int, plan: Plan, view: str) -> Tensor:
    """`embed_tiles` of tiles that were brought to the network's template, on its device."""
    x_t = noised(tiles, network.choice.time_step, plan.views[view].diffusion)
    with autocast(tiles.device):
        return network.embed(x_t, owner, series).float()


@torch.inference_mode()
def volume_logits(
    network: DiagnosisNetwork, image: np.ndarray, plan: Plan, view: str, axes: Sequence[int] = ()
) -> np.ndarray:
    """Logits (labels,) of one preprocessed volume (z, y, x), averaged over mirrorings of each of `axes`."""
    logits = []
    for mirrored in (image, *(np.flip(image, axis) for axis in axes)):
        embedded = embed_volume(
            network, split_tiles(np.ascontiguousarray(mirrored), plan.views[view].patch_zyx), plan, view
        )
        logits.append(network.head.classify(embedded[None])[0].detach().float().cpu().numpy())
    return np.mean(logits, axis=0)


def load_fusion(path: Path, labels: int, networks: Mapping[str, DiagnosisNetwork]) -> FusionNetwork:
    """A trained fusion layer over the views it was trained with.

    Raises
    ------
    CheckpointError
        A view it needs has no model.
    """
    checkpoint = read_checkpoint(path)
    missing = [view for view in checkpoint.meta["fused_views"] if view not in networks]
    if missing:
        raise CheckpointError(f"{path}: was trained with the view {missing[0]}, whose diagnosis model is missing")
    fused = {view: networks[view].head for view in checkpoint.meta["fused_views"]}
    network = build_fusion(checkpoint.meta["variant"], fused, labels)
    load_weights(network, checkpoint.part("weights."), str(path))
    return network.eval()
