"""The diagnosis head learns alone first, on features that are computed once: hundreds of cheap steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from odiff.data.batches import DiagnosisItem, whole_view, whole_views
from odiff.learning.diagnosis_scores import masked_bce
from odiff.learning.features import noised
from odiff.network.diagnosis import DiagnosisNetwork, mean_by_owner
from odiff.network.heads import AttentionPooling, DiagnosisHead, pooled_grid
from odiff.network.registration import outlines
from odiff.plan import DiagnosisRecipe, ViewPlan
from odiff.training.precision import autocast

CASES = 1000
BATCH = 24


@dataclass(frozen=True)
class CachedFeatures:
    """Features of all tiles by block (tiles, channels, z, y, x), and the case of each tile (tiles,)."""

    blocks: dict[str, Tensor]
    owner: Tensor
    targets: Tensor


def fit_template(network: DiagnosisNetwork, folder: Path, items: Sequence[DiagnosisItem], plan: ViewPlan) -> None:
    """Take the template that volumes are moved onto from the first series of up to `CASES` cases that are one tile each."""
    if network.registration is None:
        return
    small = []
    for item in items[:CASES]:
        tiles = whole_view(folder, item.series[0], plan.patch_zyx)
        small += [outlines(torch.from_numpy(tiles[0][None]))] if len(tiles) == 1 else []
    if small:
        network.registration.fit(torch.cat(small).to(network.registration.template.device))


@torch.no_grad()
def cache_features(
    network: DiagnosisNetwork, folder: Path, items: Sequence[DiagnosisItem], plan: ViewPlan, most: int = CASES
) -> CachedFeatures:  # fmt: skip
    """Features of the first series of up to `most` cases, pooled to the head's grid."""
    kept, device = items[:most], network.head.weight.device
    blocks: dict[str, list[Tensor]] = {name: [] for name in network.choice.blocks}
    owners: list[Tensor] = []
    network.backbone.eval()
    for numbers, tiles, owner in whole_views(
        folder, [item.series[0] for item in kept], plan.patch_zyx, network.read_at_once
    ):
        placed = network.placed(tiles.to(device), owner.to(device))
        for x_t in noised(placed, network.choice.time_step, plan.diffusion).split(network.tiles_at_once):
            t = torch.full((len(x_t),), network.choice.time_step, device=device)
            with autocast(device):
                found = network.backbone.features(x_t, t, network.last)
            for name, rows in blocks.items():
                rows.append(_pooled(found[name]).half().cpu())
        owners.append(owner + numbers.start)
    targets = torch.tensor([item.targets for item in kept], dtype=torch.float32)
    return CachedFeatures({name: torch.cat(rows) for name, rows in blocks.items()}, torch.cat(owners), targets)


def _pooled(features: Tensor) -> Tensor:
    return F.adaptive_avg_pool3d(features.float(), pooled_grid(features.shape[2:]))


def fit_norms(head: DiagnosisHead, cached: CachedFeatures) -> None:
    """Take each channel's mean and deviation from the cached features, for the poolings that go by them."""
    for name, pool in head.pools.items():
        if isinstance(pool, AttentionPooling):
            pool.channel_norm.fit(cached.blocks[name])


def warm_up_head(head: DiagnosisHead, cached: CachedFeatures, recipe: DiagnosisRecipe, seed: int) -> None:
    """Train a head for `recipe.head_steps` on cached features, shifted by up to one cell at random."""
    device = head.weight.device
    near = _near(cached.blocks, device)
    optimiser = torch.optim.AdamW(head.parameters(), lr=recipe.head_rate, weight_decay=recipe.weight_decay)
    head.train()
    for step in range(recipe.head_steps):
        rng = np.random.default_rng([seed, 5, step])
        cases = rng.permutation(len(cached.targets))[:BATCH]
        tiles = np.flatnonzero(np.isin(cached.owner.numpy(), cases))
        place = {int(case): index for index, case in enumerate(cases)}
        owner = torch.tensor([place[int(cached.owner[tile])] for tile in tiles], device=device)
        shifts = tuple(int(s) for s in rng.integers(-1, 2, 3))
        blocks = {n: torch.roll(rows[tiles].float(), shifts, (2, 3, 4)).to(device) for n, rows in near.items()}
        logits = head.classify(mean_by_owner(head.embed(blocks), owner, len(cases)))
        loss = masked_bce(logits, cached.targets[cases].to(device))
        for group in optimiser.param_groups:
            group["lr"] = recipe.head_rate * (1 - step / recipe.head_steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _near(blocks: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The blocks on a GPU, unless they would take more than a quarter of what is free there."""
    if device.type != "cuda":
        return blocks
    size = sum(rows.numel() * rows.element_size() for rows in blocks.values())
    return (
        {name: rows.to(device) for name, rows in blocks.items()}
        if 4 * size < torch.cuda.mem_get_info(device)[0]
        else blocks
    )


@torch.no_grad()
def head_embeddings(head: DiagnosisHead, cached: CachedFeatures) -> Tensor:
    """Embeddings (cases, labels, width) of cached cases, the mean over each case's tiles."""
    head.eval()
    rows = []
    for case in range(len(cached.targets)):
        tiles = (cached.owner == case).nonzero()[:, 0]
        blocks = {name: one[tiles].float().to(head.weight.device) for name, one in cached.blocks.items()}
        rows.append(head.embed(blocks).mean(dim=0))
    return torch.stack(rows)


@torch.no_grad()
def head_logits(head: DiagnosisHead, cached: CachedFeatures) -> Tensor:
    """Logits (cases, labels) of cached cases."""
    return head.classify(head_embeddings(head, cached))
