"""Joining the views of a case; a view that a case lacks is masked.

Every variant starts as the mean of the views' own heads, and learns what to add to it.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odiff.network.heads import DiagnosisHead

Widths = Mapping[str, int]
WIDTH, HEADS = 64, 4


class ViewHeads(nn.Module):
    """The views' own last layers, one linear layer per label."""

    def __init__(self, widths: Widths, labels: int) -> None:
        super().__init__()
        self.views = tuple(widths)
        self.weights = nn.ParameterDict({view: nn.Parameter(torch.zeros(labels, w)) for view, w in widths.items()})
        self.biases = nn.ParameterDict({view: nn.Parameter(torch.zeros(labels)) for view in widths})

    @torch.no_grad()
    def start_from(self, heads: Mapping[str, DiagnosisHead]) -> None:
        """Take over each view's own head."""
        for view in self.views:
            self.weights[view].copy_(heads[view].weight)
            self.biases[view].copy_(heads[view].bias)

    def forward(self, embedded: Mapping[str, Tensor]) -> Tensor:
        """Embeddings by view (b, labels, width) -> logits of each view (b, labels, views)."""
        rows = [(embedded[view] * self.weights[view]).sum(dim=2) + self.biases[view] for view in self.views]
        return torch.stack(rows, dim=2)


def mean_present(values: Tensor, present: Tensor) -> Tensor:
    """The mean of (b, labels, views, ...) over the views that are there, (b, views); every case needs one at least."""
    share = present.float() / present.sum(dim=1, keepdim=True)
    share = share.reshape(len(values), 1, -1, *[1] * (values.ndim - 3))
    return torch.where(share > 0, values * share, torch.zeros_like(values)).sum(dim=2)


class ConcatFusion(nn.Module):
    """One linear layer per label over the concatenated embeddings; the sum is scaled by views / present views."""

    def __init__(self, widths: Widths, labels: int) -> None:
        super().__init__()
        self.heads = ViewHeads(widths, labels)

    def forward(self, embedded: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Embeddings by view (b, labels, width) and which views are there (b, views) -> logits (b, labels)."""
        return mean_present(self.heads(embedded), present)


class ProjectedViews(nn.Module):
    """Each view's embedding through a layer of its own to one common width."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {view: nn.Sequential(nn.LayerNorm(w), nn.Linear(w, WIDTH)) for view, w in widths.items()}
        )

    def forward(self, embedded: Mapping[str, Tensor]) -> Tensor:
        """Embeddings by view (b, labels, width) -> (b, labels, views, WIDTH)."""
        return torch.stack([layer(embedded[view]) for view, layer in self.layers.items()], dim=2)


class LinearConcatFusion(nn.Module):
    """Projected views side by side, those that are missing zero, then one linear layer per label."""

    def __init__(self, widths: Widths, labels: int) -> None:
        super().__init__()
        self.heads, self.project = ViewHeads(widths, labels), ProjectedViews(widths)
        self.out = nn.Parameter(torch.zeros(labels, len(widths), WIDTH))

    def forward(self, embedded: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """As `ConcatFusion.forward`."""
        joined = (F.silu(self.project(embedded)) * self.out).sum(dim=3)
        return mean_present(self.heads(embedded) + joined, present)


class LinearAddFusion(nn.Module):
    """The mean of the projected views that are there, then one linear layer per label."""

    def __init__(self, widths: Widths, labels: int) -> None:
        super().__init__()
        self.heads, self.project = ViewHeads(widths, labels), ProjectedViews(widths)
        self.out = nn.Parameter(torch.zeros(labels, WIDTH))

    def forward(self, embedded: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """As `ConcatFusion.forward`."""
        added = F.silu(mean_present(self.project(embedded), present))
        return mean_present(self.heads(embedded), present) + (added * self.out).sum(dim=2)


class CrossAttentionFusion(nn.Module):
    """A query of each label looks at the projected views that are there."""

    def __init__(self, widths: Widths, labels: int) -> None:
        super().__init__()
        self.heads, self.project = ViewHeads(widths, labels), ProjectedViews(widths)
        self.query = nn.Parameter(torch.randn(labels, WIDTH) / WIDTH**0.5)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.out = nn.Parameter(torch.zeros(labels, WIDTH))

    def forward(self, embedded: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """As `ConcatFusion.forward`."""
        tokens = self.project(embedded)
        cases, labels, views, width = tokens.shape
        query = self.query[None, :, None].expand(cases, -1, -1, -1).reshape(cases * labels, 1, width)
        missing = (~present)[:, None].expand(-1, labels, -1).reshape(cases * labels, views)
        flat = tokens.reshape(cases * labels, views, width)
        looked, _ = self.attention(query, flat, flat, key_padding_mask=missing, need_weights=False)
        found = F.silu(looked.reshape(cases, labels, width))
        return mean_present(self.heads(embedded), present) + (found * self.out).sum(dim=2)


class GatedFusion(nn.Module):
    """Each label weighs the views' own logits: a softmax over the views of a learnt share plus the view's confidence.

    Learnt from logits of heads that saw no label of the case (`mix`); the heads that it weighs at prediction are the views' own.
    With `is_stacked` a linear layer per label over the views' logits is added.
    """

    def __init__(self, widths: Widths, labels: int, is_stacked: bool = False) -> None:
        super().__init__()
        self.heads = ViewHeads(widths, labels)
        self.share = nn.Parameter(torch.zeros(labels, len(widths)))
        self.confidence = nn.Parameter(torch.zeros(labels, 1))
        self.scale, self.bias = nn.Parameter(torch.ones(labels)), nn.Parameter(torch.zeros(labels))
        self.stacked = nn.Parameter(torch.zeros(labels, len(widths))) if is_stacked else None

    def gates(self, logits: Tensor, present: Tensor) -> Tensor:
        """Logits of each view (b, labels, views) -> weights (b, labels, views) that sum to 1 over the views that are there."""
        scores = self.share + self.confidence * logits.abs()
        return scores.masked_fill(~present[:, None], float("-inf")).softmax(dim=2)

    def mix(self, logits: Tensor, present: Tensor) -> Tensor:
        """Logits of each view (b, labels, views) -> logits (b, labels)."""
        known = torch.where(present[:, None], logits, torch.zeros_like(logits))
        mixed = self.scale * (self.gates(known, present) * known).sum(dim=2) + self.bias
        return mixed if self.stacked is None else mixed + mean_present(self.stacked * known, present)

    def forward(self, embedded: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """As `ConcatFusion.forward`."""
        return self.mix(self.heads(embedded), present)


FusionNetwork = ConcatFusion | LinearConcatFusion | LinearAddFusion | CrossAttentionFusion | GatedFusion
FUSIONS: dict[str, Callable[[Widths, int], FusionNetwork]] = {
    "concat": ConcatFusion,
    "linear_concat": LinearConcatFusion,
    "linear_add": LinearAddFusion,
    "cross_attention": CrossAttentionFusion,
    "gated": GatedFusion,
    "gated_stacked": lambda widths, labels: GatedFusion(widths, labels, is_stacked=True),
}


def build_fusion(variant: str, heads: Mapping[str, DiagnosisHead], labels: int) -> FusionNetwork:
    """The fusion called `variant` over the embeddings that the heads of these views give."""
    return FUSIONS[variant]({view: head.weight.shape[1] for view, head in heads.items()}, labels)


def start_fusion(variant: str, heads: Mapping[str, DiagnosisHead], labels: int) -> FusionNetwork:
    """`build_fusion` from the views' own heads on; a gate weighs them as they are and trains none."""
    network = build_fusion(variant, heads, labels)
    network.heads.start_from(heads)
    network.heads.requires_grad_(not isinstance(network, GatedFusion))
    return network
