"""The diagnosis network: U-Net features of a lightly noised volume under an attention-pooling head."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odiff.network.backbone import block_shapes, blocks_of, build_backbone, parameters_behind
from odiff.network.heads import DiagnosisHead
from odiff.network.registration import Registration
from odiff.plan.schema import NetworkPlan, Triple


@dataclass(frozen=True)
class FeatureChoice:
    """Where features are read: at one diffusion time step, from some blocks; what the probes choose."""

    time_step: int
    blocks: tuple[str, ...]


class DiagnosisNetwork(nn.Module):
    """Tiles of cases to one logit per label and case."""

    def __init__(
        self, plan: NetworkPlan, patch_zyx: Triple, labels: int, choice: FeatureChoice, dropout: float,
        pooling: str = "attention", is_registered: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.choice = choice
        self.backbone = build_backbone(plan)
        blocks, shapes = blocks_of(plan), block_shapes(plan, patch_zyx)
        self.head = DiagnosisHead(
            {name: (blocks[name].channels, shapes[name]) for name in choice.blocks}, labels, dropout, pooling
        )
        self.last = max(choice.blocks, key=list(blocks).index)
        self.registration = Registration(patch_zyx) if is_registered else None

    def placed(self, tiles: Tensor, owner: Tensor) -> Tensor:
        """Tiles (n, 1, z, y, x) before any noise; those that are a whole case are moved onto the template.

        `owner` (n,) holds the number of the case of each tile.
        """
        if self.registration is None:
            return tiles
        is_whole = torch.bincount(owner)[owner] == 1
        if is_whole.all():
            return self.registration(tiles)
        result = tiles.clone()
        result[is_whole] = self.registration(tiles[is_whole])
        return result

    def embed(self, x_t: Tensor, owner: Tensor, cases: int) -> Tensor:
        """Noised tiles (n, 1, z, y, x) of `cases` cases -> (cases, labels, width), the mean over each case's tiles.

        `owner` (n,) holds the number of the case of each tile.
        """
        t = torch.full((len(x_t),), self.choice.time_step, device=x_t.device)
        return mean_by_owner(self.head.embed(self.backbone.features(x_t, t, self.last)).float(), owner, cases)

    def forward(self, x_t: Tensor, owner: Tensor, cases: int) -> Tensor:
        """Logits (cases, labels)."""
        return self.head.classify(self.embed(x_t, owner, cases))


def mean_by_owner(tiles: Tensor, owner: Tensor, cases: int) -> Tensor:
    """(n, labels, width) of tiles -> (cases, labels, width), the mean over each case's tiles."""
    total = torch.zeros((cases, *tiles.shape[1:]), device=tiles.device).index_add(0, owner, tiles)
    count = torch.bincount(owner, minlength=cases).clamp(min=1)
    return total / count[:, None, None]


def unused_backbone(network: DiagnosisNetwork) -> tuple[str, ...]:
    """Prefixes of the parameters beyond the last block that is read; they get no gradient."""
    return tuple(f"backbone.{prefix}" for prefix in parameters_behind(network.backbone.plan, network.last))
