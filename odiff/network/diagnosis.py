"""The diagnosis network: U-Net features of a lightly noised volume under an attention-pooling head."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from odiff.network.backbone import Backbone, block_shapes, blocks_of, build_backbone, parameters_behind
from odiff.network.heads import ATTENTION, DiagnosisHead
from odiff.network.registration import Registration
from odiff.plan.schema import NetworkPlan, Triple


@dataclass(frozen=True)
class FeatureChoice:
    """Where features are read, at one diffusion time step, from some blocks, and how a head pools them: what is chosen in each fold."""

    time_step: int
    blocks: tuple[str, ...]
    pooling: str = ATTENTION


def diagnosis_head(
    plan: NetworkPlan, patch_zyx: Triple, labels: int, choice: FeatureChoice, dropout: float
) -> DiagnosisHead:  # fmt: skip
    """A head with random weights over the features of `choice`."""
    blocks, shapes = blocks_of(plan), block_shapes(plan, patch_zyx)
    read = {name: (blocks[name].channels, shapes[name]) for name in choice.blocks}
    return DiagnosisHead(read, labels, dropout, choice.pooling)


class DiagnosisNetwork(nn.Module):
    """Tiles of cases to one logit per label and case."""

    def __init__(
        self, plan: NetworkPlan, patch_zyx: Triple, labels: int, choice: FeatureChoice, dropout: float,
        is_registered: bool = False, tiles_at_once: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.choice = choice
        self.backbone = build_backbone(plan)
        self.has_batch_norm = any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in self.backbone.modules())
        self.tiles_at_once = tiles_at_once
        self.head = diagnosis_head(plan, patch_zyx, labels, choice, dropout)
        self.last = max(choice.blocks, key=list(blocks_of(plan)).index)
        self.registration = Registration(patch_zyx) if is_registered else None
        self.recorded: tuple[TileEmbedding, torch.Size] | None = None

    @property
    def read_at_once(self) -> int:
        """How many tiles are brought to the template together without gradients: a GPU is waited for once a batch, of any size."""
        return self.tiles_at_once * (8 if self.head.weight.is_cuda else 1)

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

        `owner` (n,) holds the number of the case of each tile. More than `tiles_at_once` are taken in turn, and computed again for
        the backward pass, so that volumes of many tiles take no more memory than as many cases of one tile; a batch norm, which
        only MONAI's networks have, must see all of them at once while it learns.
        """
        pieces = x_t.split(len(x_t) if self.has_batch_norm and self.training else self.tiles_at_once)
        if self.recorded and self.training and torch.is_grad_enabled() and x_t.shape == self.recorded[1]:
            return mean_by_owner(self.recorded[0](x_t, self._time(x_t)), owner, cases)
        is_recomputed = torch.is_grad_enabled() and len(pieces) > 1
        embedded = [
            checkpoint(self._embed_tiles, piece, use_reentrant=False) if is_recomputed else self._embed_tiles(piece)
            for piece in pieces
        ]
        return mean_by_owner(torch.cat(embedded), owner, cases)

    def tile_embedding(self) -> "TileEmbedding":
        """What `embed` does with tiles, with the same weights; as `recorded` it takes over where the shape is that of its recording."""
        return TileEmbedding(self.backbone, self.head, self.last)

    def _embed_tiles(self, x_t: Tensor) -> Tensor:
        return self.tile_embedding()(x_t, self._time(x_t))

    def _time(self, x_t: Tensor) -> Tensor:
        return torch.full((len(x_t),), self.choice.time_step, device=x_t.device)

    def forward(self, x_t: Tensor, owner: Tensor, cases: int) -> Tensor:
        """Logits (cases, labels)."""
        return self.head.classify(self.embed(x_t, owner, cases))


class TileEmbedding(nn.Module):
    """The part of a `DiagnosisNetwork` that is the same for every batch of a shape, and can be recorded."""

    def __init__(self, backbone: Backbone, head: DiagnosisHead, last: str) -> None:
        super().__init__()
        self.backbone, self.head, self.last = backbone, head, last

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Noised tiles (n, 1, z, y, x) at time steps t (n,) -> (n, labels, width)."""
        return self.head.embed(self.backbone.features(x_t, t, self.last)).float()


def mean_by_owner(tiles: Tensor, owner: Tensor, cases: int) -> Tensor:
    """(n, labels, width) of tiles -> (cases, labels, width), the mean over each case's tiles."""
    total = torch.zeros((cases, *tiles.shape[1:]), device=tiles.device).index_add(0, owner, tiles)
    count = torch.bincount(owner, minlength=cases).clamp(min=1)
    return total / count[:, None, None]


def unused_backbone(network: DiagnosisNetwork) -> tuple[str, ...]:
    """Prefixes of the parameters beyond the last block that is read; they get no gradient."""
    return tuple(f"backbone.{prefix}" for prefix in parameters_behind(network.backbone.plan, network.last))
