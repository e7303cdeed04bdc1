"""Joining the views of a case; a view that a case lacks is masked."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from odiff.network.diagnosis import DiagnosisNetwork


class ConcatFusion(nn.Module):
    """One linear layer per label over the concatenated embeddings of all views.

    It starts as the mean of the views' own heads. The sum is scaled by views / present views, so that a missing view
    weakens no logit.
    """

    def __init__(self, widths: Mapping[str, int], labels: int) -> None:
        super().__init__()
        self.views = tuple(widths)
        share = len(self.views)
        self.weights = nn.ParameterDict({view: nn.Parameter(torch.zeros(labels, w)) for view, w in widths.items()})
        self.biases = nn.ParameterDict({view: nn.Parameter(torch.zeros(labels)) for view in widths})
        self.share = share

    def start_from(self, networks: Mapping[str, DiagnosisNetwork]) -> None:
        """Take over each view's own head, divided by the number of views."""
        with torch.no_grad():
            for view in self.views:
                self.weights[view].copy_(networks[view].head.weight / self.share)
                self.biases[view].copy_(networks[view].head.bias / self.share)

    def forward(self, embedded: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Embeddings by view (b, labels, width) and which views are there (b, views) -> logits (b, labels).

        Rows of a missing view are not read; every case needs one view at least.
        """
        total = torch.zeros(())
        for number, view in enumerate(self.views):
            logits = (embedded[view] * self.weights[view]).sum(dim=2) + self.biases[view]
            total = total + torch.where(present[:, number : number + 1], logits, torch.zeros_like(logits))
        return total * self.share / present.sum(dim=1, keepdim=True)
