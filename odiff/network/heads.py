"""From features to diagnoses: every label looks for its own place in the volume."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GRID_ZYX = (8, 16, 16)


def positions(shape_zyx: tuple[int, ...], device: torch.device, bands: int = 3) -> Tensor:
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
    """One query per label over all positions of a feature map, keys from feature and place."""

    def __init__(self, channels: int, labels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.key = nn.Linear(channels, width)
        self.place = nn.Linear(3 + 18, width)
        self.value = nn.Linear(channels + 3 + 18, width)
        self.query = nn.Parameter(torch.randn(labels, width) * 0.1)

    def forward(self, features: Tensor) -> Tensor:
        """(b, channels, z, y, x) -> (b, labels, width)."""
        depth, rows, columns = (min(size, limit) for size, limit in zip(features.shape[2:], GRID_ZYX, strict=True))
        pooled_shape = (depth, rows, columns)
        features = F.adaptive_avg_pool3d(features.float(), pooled_shape)
        tokens = self.norm(features.flatten(2).transpose(1, 2))
        place = positions(pooled_shape, tokens.device)
        key = self.key(tokens) + self.place(place)
        value = F.silu(self.value(torch.cat([tokens, place.expand(len(tokens), -1, -1)], dim=2)))
        score = torch.einsum("lw,bnw->bln", self.query, key) / math.sqrt(key.shape[2])
        return torch.einsum("bln,bnw->blw", score.softmax(dim=2), value)


class DiagnosisHead(nn.Module):
    """Attention pooling over the chosen blocks, then one linear layer of its own per label."""

    def __init__(self, block_channels: dict[str, int], labels: int, dropout: float, width: int = 32) -> None:
        super().__init__()
        self.pools = nn.ModuleDict(
            {name: AttentionPooling(channels, labels, width) for name, channels in block_channels.items()}
        )
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.randn(labels, width * len(block_channels)) * 0.02)
        self.bias = nn.Parameter(torch.zeros(labels))

    def embed(self, features: dict[str, Tensor]) -> Tensor:
        """Features by block name -> (b, labels, width * blocks), what fusion joins."""
        return torch.cat([pool(features[name]) for name, pool in self.pools.items()], dim=2)

    def classify(self, embedded: Tensor) -> Tensor:
        """(b, labels, width * blocks) -> logits (b, labels)."""
        return (self.dropout(embedded) * self.weight).sum(dim=2) + self.bias

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Features by block name -> logits (b, labels)."""
        return self.classify(self.embed(features))
