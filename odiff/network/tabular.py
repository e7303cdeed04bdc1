"""A row of the case table to one logit per label, and what it and the images say together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING, WIDTH = 8, 64


class TabularNetwork(nn.Module):
    """Numbers as they are and an embedding of each category, `WIDTH` units, one logit per label; it starts at their prior.

    The sizes are those of the paper's fusion with health records.
    """

    def __init__(self, continuous: int, codes: Sequence[int], labels: int, dropout: float = 0.0) -> None:
        """`continuous` columns, and how many `codes` each categorical column has, missing and never seen among them."""
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, EMBEDDING) for size in codes)
        self.hidden = nn.Linear(2 * continuous + EMBEDDING * len(codes), WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(WIDTH, labels)
        nn.init.zeros_(self.out.weight)

    def forward(self, values: Tensor, codes: Tensor) -> Tensor:
        """`odiff.data.tabular.EncodedTable`, (b, 2 * continuous) and (b, categorical), to logits (b, labels)."""
        embedded = [one(codes[:, number]) for number, one in enumerate(self.embeddings)]
        return self.out(self.dropout(F.silu(self.hidden(torch.cat([values, *embedded], dim=1)))))


class TabularFusion(nn.Module):
    """Late fusion: for each label ``scale * (sigmoid(m) * tabular + (1 - sigmoid(m)) * images) + bias``."""

    def __init__(self, table: TabularNetwork) -> None:
        super().__init__()
        self.table = table
        labels = table.out.out_features
        self.mix = nn.Parameter(torch.zeros(labels))
        self.scale, self.bias = nn.Parameter(torch.ones(labels)), nn.Parameter(torch.zeros(labels))

    @property
    def shares(self) -> Tensor:
        """The share of the table in each label's mix (labels,), 0 to 1."""
        return torch.sigmoid(self.mix)

    def forward(self, images: Tensor, values: Tensor, codes: Tensor, has_row: Tensor) -> Tensor:
        """Logits of the images (b, labels), the encoded table, and who has a row (b,) -> logits (b, labels).

        Cases without a row keep the logits of their images.
        """
        share = self.shares
        mixed = self.scale * (share * self.table(values, codes) + (1 - share) * images) + self.bias
        return torch.where(has_row[:, None], mixed, images)
