"""From features to diagnoses: every label looks for its own place in the volume."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GRID_ZYX = (16, 16, 16)
SHARPNESS = 4.0
BANDS = 3
PLACE = 3 + 6 * BANDS


def positions(shape_zyx: tuple[int, ...], device: torch.device, bands: int = BANDS) -> Tensor:
    """Where each voxel lies in the field of view, as sines and cosines of its three coordinates in -1..1.

    Returns
    -------
    (z * y * x, 3 + 6 * bands), the coordinates themselves and `bands` octaves of them.
    """
    axes = [
        torch.linspace(-1, 1, size, device=device) if size > 1 else torch.zeros(1, device=device) for size in shape_zyx
    ]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    waves = [f(place * math.pi * 2**band / 2) for band in range(bands) for f in (torch.sin, torch.cos)]
    return torch.cat([place, *waves], dim=1)


class AttentionPooling(nn.Module):
    """Each label attends to the positions that speak for it most, near the place where it is found.

    The evidence of a position for a label is the label's own linear layer on its hidden features; attention is the
    softmax of SHARPNESS times the evidence plus a learnt function of place. It behaves like a maximum over positions that
    passes gradient from the first step on, which plain query-key attention, uniform at the start, did not
    (docs/decisions.md).
    """

    def __init__(self, channels: int, labels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.hidden = nn.Linear(channels, width)
        self.place = nn.Linear(PLACE, width)
        self.where = nn.Linear(PLACE, labels)

    def forward(self, features: Tensor, weight: Tensor, dropout: nn.Module) -> Tensor:
        """Features (b, channels, z, y, x) and the labels' weights (labels, width) -> (b, labels, width)."""
        depth, rows, columns = (min(size, limit) for size, limit in zip(features.shape[2:], GRID_ZYX, strict=True))
        pooled = features.float()
        if pooled.shape[2:] != (depth, rows, columns):
            pooled = F.adaptive_avg_pool3d(pooled, (depth, rows, columns))
        tokens = self.norm(pooled).flatten(2).transpose(1, 2)
        place = positions((depth, rows, columns), tokens.device)
        hidden = F.silu(self.hidden(tokens) + self.place(place))
        hidden = hidden * dropout(torch.ones((len(hidden), 1, hidden.shape[2]), device=hidden.device))
        evidence = hidden @ weight.T
        attention = (SHARPNESS * evidence + self.where(place)).softmax(dim=1)
        return attention.transpose(1, 2) @ hidden


class DiagnosisHead(nn.Module):
    """Attention pooling over the chosen blocks, then one linear layer of its own per label."""

    def __init__(self, block_channels: dict[str, int], labels: int, dropout: float, width: int = 64) -> None:
        super().__init__()
        self.pools = nn.ModuleDict(
            {n: AttentionPooling(channels, labels, width) for n, channels in block_channels.items()}
        )
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.randn(labels, width * len(block_channels)) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(labels))

    def embed(self, features: dict[str, Tensor]) -> Tensor:
        """Features by block name -> (b, labels, width * blocks), what fusion joins."""
        parts = self.weight.chunk(len(self.pools), dim=1)
        pooled = [
            pool(features[name], part, self.dropout)
            for (name, pool), part in zip(self.pools.items(), parts, strict=True)
        ]
        return torch.cat(pooled, dim=2)

    def classify(self, embedded: Tensor) -> Tensor:
        """(b, labels, width * blocks) -> logits (b, labels)."""
        return (embedded * self.weight).sum(dim=2) + self.bias

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Features by block name -> logits (b, labels)."""
        return self.classify(self.embed(features))
