"""Where in the field of view each label shows: cell by cell, as statistical parametric mapping does.

A head that starts without it attends to the brightest object anywhere and stays there (docs/decisions.md). Only the training
cases of the fold are seen.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from odiff.learning.warm_up import CachedFeatures
from odiff.network.heads import AttentionPooling, DiagnosisHead

PRIOR = 4.0
DIRECTION = 0.3
UNITS = 8
FEWEST = 3
LARGEST = 8.0


@torch.no_grad()
def point_head(head: DiagnosisHead, cached: CachedFeatures) -> None:
    """Start each label's attention where its positive and negative cases differ, and its weights along that difference.

    A label with fewer than `FEWEST` cases of either kind keeps its random start, and so do all labels where a case is made of
    several tiles, whose cells are different places, and under other poolings than ``attention``.
    """
    if len(cached.owner) != len(cached.targets) or not all(
        isinstance(p, AttentionPooling) for p in head.pools.values()
    ):
        return
    device = head.weight.device
    weights = []
    for (name, module), own in zip(head.pools.items(), head.weight.split(head.widths, dim=1), strict=True):
        if not isinstance(module, AttentionPooling):
            raise TypeError(f"{name}: expected an AttentionPooling")
        differences = welch(module, cached.blocks[name], cached.targets.to(device))
        weight = own.clone()
        for label, t in differences.items():
            score = smoothed(t.square().topk(min(UNITS, t.shape[1]), dim=1).values.mean(dim=1).sqrt(), module.grid_zyx)
            module.prior[label] = PRIOR * ((score - score.mean()) / score.std().clamp(min=1e-6)).clamp(-2, LARGEST)
            direction = t[score.argmax()]
            weight[label] = DIRECTION * direction / direction.norm().clamp(min=1e-6)
        weights.append(weight)
    head.weight.copy_(torch.cat(weights, dim=1))


@torch.no_grad()
def welch(pool: AttentionPooling, features: Tensor, targets: Tensor) -> dict[int, Tensor]:
    """Welch's t between positive and negative cases of each label, for every cell and hidden unit.

    Parameters
    ----------
    features : (cases, channels, z, y, x).
    targets : (cases, labels), NaN where unknown.

    Returns
    -------
    label -> (cells, width), for the labels that have `FEWEST` known cases of both kinds.
    """
    kinds = torch.stack([targets == 1, targets == 0])
    counts = kinds.sum(dim=1).float()
    usable = [label for label in range(targets.shape[1]) if counts[:, label].min() >= FEWEST]
    sums = squares = torch.zeros(())
    for row, one in zip(kinds.unbind(dim=1), features, strict=True):
        hidden = pool.hidden(one[None].float().to(targets.device))[0]
        share = row.float()[:, :, None, None]
        sums, squares = sums + share * hidden, squares + share * hidden.square()
    found = {}
    for label in usable:
        n = counts[:, label, None, None]
        mean = sums[:, label] / n
        variance = (squares[:, label] / n - mean.square()).clamp(min=0) * n / (n - 1)
        error = (variance / n).sum(dim=0).sqrt()
        found[label] = (mean[0] - mean[1]) / (error + 1e-4)
    return found


def smoothed(score: Tensor, grid_zyx: tuple[int, int, int]) -> Tensor:
    """(cells,) averaged with its neighbours, because joints do not lie exactly alike."""
    return F.avg_pool3d(score.reshape(1, 1, *grid_zyx), 3, 1, 1, count_include_pad=False).flatten()
