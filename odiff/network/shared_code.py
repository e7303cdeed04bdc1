"""What the views of a case have in common: volumes of every view to the same few directions, and diagnoses read from them.

Each view is shrunk, brought onto its template and pooled to coarse cells; a linear map brings the cells to directions in which the views of
one case agree (`odiff.learning.shared_code` finds them without labels). What only one sequence or one acquisition shows is left behind.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odiff.network.heads import pooled_grid
from odiff.network.registration import Registration, shrunk, shrunk_shape
from odiff.plan.schema import Triple


class ViewCode(nn.Module):
    """Volumes of one view to the shared directions."""

    def __init__(self, shape_zyx: Triple, width: int) -> None:
        """`shape_zyx` is the shape of the volumes, `width` the number of directions."""
        super().__init__()
        self.registration = Registration(shrunk_shape(shape_zyx))
        self.grid = pooled_grid(shape_zyx)
        count = self.grid[0] * self.grid[1] * self.grid[2]
        self.mean: Tensor
        self.directions: Tensor
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("directions", torch.zeros(count, width))

    @torch.no_grad()
    def take(self, mean: Tensor, directions: Tensor) -> None:
        """The mean (cells,) and the map (cells, at most width) to go by; directions beyond it stay 0."""
        self.mean.copy_(mean)
        self.directions[:, : directions.shape[1]] = directions.to(self.directions)

    @torch.no_grad()
    def cells(self, volumes: Tensor) -> Tensor:
        """(n, 1, z, y, x) -> mean intensities (n, cells) on the template."""
        return self._pooled(self.registration(shrunk(volumes)))

    def _pooled(self, placed: Tensor) -> Tensor:
        return F.adaptive_avg_pool3d(placed, self.grid).flatten(1)

    @torch.no_grad()
    def of_placed(self, placed: Tensor) -> Tensor:
        """`shrunk` volumes (n, 1, z, y, x) that `registration` was asked for -> (n, width)."""
        return (self._pooled(placed) - self.mean) @ self.directions

    @torch.no_grad()
    def forward(self, volumes: Tensor) -> Tensor:
        """(n, 1, z, y, x) -> (n, width)."""
        return self.of_placed(self.registration(shrunk(volumes)))


class SharedCode(nn.Module):
    """The maps of all views; rows of views that a case has are added up."""

    def __init__(self, shapes_zyx: Mapping[str, Triple], width: int) -> None:
        super().__init__()
        self.views = tuple(shapes_zyx)
        self.width = width
        self.parts = nn.ModuleDict({view: ViewCode(shape, width) for view, shape in shapes_zyx.items()})

    def part(self, view: str) -> ViewCode:
        """The map of one view."""
        return cast(ViewCode, self.parts[view])

    def forward(self, volumes: Tensor, view: str) -> Tensor:
        """Volumes (n, 1, z, y, x) of a view -> (n, width)."""
        found: Tensor = self.part(view)(volumes)
        return found


class CodeDiagnosis(nn.Module):
    """One linear layer per label and per set of views that a case may have, on the sum of their rows."""

    def __init__(self, code: SharedCode, labels: int) -> None:
        super().__init__()
        self.code = code
        sets = 2 ** len(code.views)
        self.weight: Tensor
        self.bias: Tensor
        self.share: Tensor
        self.register_buffer("weight", torch.zeros(sets, labels, code.width))
        self.register_buffer("bias", torch.zeros(sets, labels))
        self.register_buffer("share", torch.zeros(labels))

    @torch.no_grad()
    def forward(self, rows: Tensor, present: Tensor) -> Tensor:
        """Rows (b, views, width) and which views are there (b, views) -> logits (b, labels)."""
        summed, chosen = (rows * present[:, :, None]).sum(dim=1), set_number(present)
        return torch.einsum("bw,blw->bl", summed, self.weight[chosen]) + self.bias[chosen]

    @torch.no_grad()
    def mix(self, images: Tensor, rows: Tensor, present: Tensor) -> Tensor:
        """Logits of the fused views (b, labels), mixed with those of the code by each label's share.

        Labels that the code learnt nothing of, and cases without one of its views, keep the logits of the images.
        """
        has_learnt = self.weight[set_number(present)].any(dim=2)
        mixed = (1 - self.share) * images + self.share * self(rows, present)
        return torch.where(has_learnt, mixed, images)


def set_number(present: Tensor) -> Tensor:
    """Which views are there (b, views) as one number per case (b,), the first view counting 1, the second 2, the third 4."""
    return (present.long() * 2 ** torch.arange(present.shape[1], device=present.device)).sum(dim=1)
