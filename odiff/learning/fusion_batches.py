"""What a fusion of the views learns from: embeddings of all training cases at once, some of their views dropped."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from odiff.learning.diagnosis_scores import masked_bce
from odiff.network.fusion import FusionNetwork, GatedFusion

VIEW_DROPOUT = 0.2
GRADIENT_CLIP, EMA_DECAY = 1.0, 0.9
FusionBatch = tuple[dict[str, Tensor], Tensor, Tensor]


@dataclass(frozen=True)
class EmbeddedCases:
    """Embeddings by view (cases, labels, width), zero where missing, and which views are there (cases, views).

    For a gate, logits (cases, labels) stand in the embeddings' place.
    """

    embedded: dict[str, Tensor]
    present: Tensor

    def of(self, cases: Sequence[int]) -> "EmbeddedCases":
        """Some of the cases."""
        return EmbeddedCases({view: rows[cases] for view, rows in self.embedded.items()}, self.present[cases])


class FusionBatches(Dataset):
    """All training cases at once, some of their views dropped: (embedded, present, targets)."""

    def __init__(self, cases: EmbeddedCases, targets: Tensor, seed: int) -> None:
        self.cases, self.targets, self.seed = cases, targets, seed

    def __getitem__(self, number: int) -> FusionBatch:
        """The batch of that number."""
        rng = np.random.default_rng([self.seed, 4, number])
        kept = self.cases.present & torch.from_numpy(rng.random(self.cases.present.shape) >= VIEW_DROPOUT)
        kept = torch.where(kept.any(dim=1, keepdim=True), kept, self.cases.present)
        return self.cases.embedded, kept, self.targets


def fusion_loss(network: FusionNetwork, batch: FusionBatch) -> Tensor:
    """Masked cross-entropy of what the fusion says."""
    rows, present, truth = batch
    return masked_bce(logits_of(network, EmbeddedCases(rows, present)), truth)


def logits_of(network: FusionNetwork, cases: EmbeddedCases) -> Tensor:
    """Logits (cases, labels) from embeddings, or, by a gate, from the views' logits."""
    if isinstance(network, GatedFusion):
        return network.mix(torch.stack(list(cases.embedded.values()), dim=2), cases.present)
    return network(cases.embedded, cases.present)
