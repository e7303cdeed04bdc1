"""From features to diagnoses: every label looks for its own place in the volume."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odiff.plan.schema import Triple

GRID_ZYX = (16, 16, 16)
SHARPNESS = 4.0
MOST_GAIN = 30.0
BANDS = 3
PLACE = 3 + 6 * BANDS
WIDTH, HEADS, CELLS = 64, 16, 2
ATTENTION = "attention"


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


def pooled_grid(shape_zyx: Sequence[int]) -> Triple:
    """The grid on which features of that shape are looked at: `GRID_ZYX` at most."""
    depth, rows, columns = (min(size, limit) for size, limit in zip(shape_zyx, GRID_ZYX, strict=True))
    return depth, rows, columns


class ChannelNorm(nn.Module):
    """Each channel minus its mean, over its standard deviation, both of the cells that `fit` saw; unchanged before.

    One norm over all channels lets a few loud ones of a pretrained network drown the others (docs/decisions.md).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Take mean and deviation from features (n, channels, z, y, x), one case at a time; no channel gains more than `MOST_GAIN`.

        The gain is counted from the root mean square deviation of all channels, because what hardly varies now may vary later.
        """
        count = features[:, 0].numel()
        mean = sum(one.double().sum(dim=(1, 2, 3)) for one in features) / count
        variance = (
            sum((one.double() - mean[:, None, None, None]).square().sum(dim=(1, 2, 3)) for one in features) / count
        )
        least = (variance.mean().sqrt() / MOST_GAIN).clamp(min=1e-6)
        self.mean.copy_(mean)
        self.scale.copy_(1 / variance.sqrt().clamp(min=least))

    def forward(self, features: Tensor) -> Tensor:
        """(b, channels, z, y, x) -> the same."""
        return (features - self.mean[:, None, None, None]) * self.scale[:, None, None, None]


class AttentionPooling(nn.Module):
    """Each label attends to the positions that speak for it most, near the place where it is found.

    The evidence of a position for a label is the label's own linear layer on its hidden features; attention is the
    softmax of SHARPNESS times the evidence plus a learnt prior of place. It behaves like a maximum over positions that
    passes gradient from the first step on, which plain query-key attention, uniform at the start, did not; and it finds
    small lesions only from a prior that already points near them (docs/decisions.md, `odiff.learning.screening`).
    """

    def __init__(self, channels: int, labels: int, width: int, grid_zyx: Triple) -> None:
        super().__init__()
        self.grid_zyx, self.width = grid_zyx, width
        self.channel_norm = ChannelNorm(channels)
        self.norm = nn.GroupNorm(1, channels)
        self.hidden_layer = nn.Linear(channels, width)
        self.place = nn.Linear(PLACE, width)
        self.prior = nn.Parameter(torch.zeros(labels, math.prod(grid_zyx)))

    def hidden(self, features: Tensor) -> Tensor:
        """Features (b, channels, z, y, x) -> hidden features of each cell (b, cells, width)."""
        pooled = features.float()
        if tuple(pooled.shape[2:]) != self.grid_zyx:
            pooled = F.adaptive_avg_pool3d(pooled, self.grid_zyx)
        tokens = self.norm(self.channel_norm(pooled)).flatten(2).transpose(1, 2)
        return F.silu(self.hidden_layer(tokens) + self.place(positions(self.grid_zyx, tokens.device)))

    def forward(self, features: Tensor, weight: Tensor, dropout: nn.Module) -> Tensor:
        """Features (b, channels, z, y, x) and the labels' weights (labels, width) -> (b, labels, width)."""
        hidden = self.hidden(features)
        hidden = hidden * dropout(torch.ones((len(hidden), 1, hidden.shape[2]), device=hidden.device))
        evidence = hidden @ weight.T
        attention = (SHARPNESS * evidence + self.prior.T).softmax(dim=1)
        return attention.transpose(1, 2) @ hidden


class SharedPooling(nn.Module):
    """The paper's poolings: one vector for all labels. Its names, their meaning as far as it is described.

    ``selfattn`` joins the mean over all positions and the mean of what `HEADS` heads of self-attention make of them; ``local``
    joins the means of `CELLS` cells a side; ``none`` is the mean over all positions.
    """

    def __init__(self, kind: str, channels: int, labels: int, grid_zyx: Triple) -> None:
        super().__init__()
        self.kind, self.labels = kind, labels
        depth, rows, columns = (min(CELLS, size) for size in grid_zyx)
        self.cells = (depth, rows, columns)
        if kind == "selfattn":
            self.attention = nn.MultiheadAttention(channels, HEADS, batch_first=True)
        self.width = channels * {"selfattn": 2, "local": math.prod(self.cells), "none": 1}[kind]

    def forward(self, features: Tensor, weight: Tensor, dropout: nn.Module) -> Tensor:
        """Features (b, channels, z, y, x) -> (b, labels, width), the same for each label."""
        whole = features.float()
        if self.kind == "local":
            pooled = F.adaptive_avg_pool3d(whole, self.cells).flatten(1)
        else:
            pooled = whole.mean(dim=(2, 3, 4))
        if self.kind == "selfattn":
            tokens = whole.flatten(2).transpose(1, 2)
            mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
            pooled = torch.cat([pooled, mixed.mean(dim=1)], dim=1)
        return dropout(pooled)[:, None].expand(-1, self.labels, -1)


def build_pooling(kind: str, channels: int, shape: Triple, labels: int) -> AttentionPooling | SharedPooling:
    """``attention`` looks for each label's own place; the others are `SharedPooling`."""
    if kind == ATTENTION:
        return AttentionPooling(channels, labels, WIDTH, pooled_grid(shape))
    return SharedPooling(kind, channels, labels, shape)


class DiagnosisHead(nn.Module):
    """Pooling over the chosen blocks, then one linear layer of its own per label."""

    def __init__(
        self, blocks: Mapping[str, tuple[int, Triple]], labels: int, dropout: float, pooling: str = ATTENTION
    ) -> None:
        """`blocks` maps names to channels and the shape of the feature map of a patch."""
        super().__init__()
        pools = {name: build_pooling(pooling, channels, shape, labels) for name, (channels, shape) in blocks.items()}
        self.pools = nn.ModuleDict(pools)
        self.widths = [pool.width for pool in pools.values()]
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.cat([torch.randn(labels, w) / math.sqrt(w) for w in self.widths], dim=1))
        self.bias = nn.Parameter(torch.zeros(labels))

    def embed(self, features: dict[str, Tensor]) -> Tensor:
        """Features by block name -> (b, labels, width of all blocks), what fusion joins."""
        parts = self.weight.split(self.widths, dim=1)
        pooled = [
            pool(features[name], part, self.dropout)
            for (name, pool), part in zip(self.pools.items(), parts, strict=True)
        ]
        return torch.cat(pooled, dim=2)

    def classify(self, embedded: Tensor) -> Tensor:
        """(b, labels, width of all blocks) -> logits (b, labels)."""
        return (embedded * self.weight).sum(dim=2) + self.bias

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Features by block name -> logits (b, labels)."""
        return self.classify(self.embed(features))
