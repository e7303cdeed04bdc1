"""The segmentation network: a diffusion model under a head at full resolution."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odiff.network.backbone import block_names, build_backbone
from odiff.network.layers import Convolution, NormSiluConv, Transposed, convolution, depth_to_space, norm
from odiff.plan.schema import NetworkPlan

SLAB_VOXELS = 2**17
LEAST_WIDTH = 16


class SegmentationHead(nn.Module):
    """Each cell of the stem becomes its voxels again, `width` channels each, which are mixed with the image itself."""

    def __init__(self, plan: NetworkPlan, classes: int, width: int = 16) -> None:
        super().__init__()
        self.block_zyx = plan.stem_zyx
        pixels = plan.stem_zyx[0] * plan.stem_zyx[1] * plan.stem_zyx[2]
        kernel = plan.kernels_zyx[min(1, len(plan.channels) - 1)]  # not the first stage's: in plane alone it costs Dice
        self.spread = NormSiluConv(plan.channels[0], width * pixels, kernel)
        self.mix = convolution(width + 1, 2 * width, (1, 3, 3))
        self.out = Convolution(2 * width, classes, 1)

    def forward(self, h: Tensor, image: Tensor) -> Tensor:
        """Features (b, channels, z', y', x') and image (b, 1, z, y, x) -> logits (b, classes, z, y, x)."""
        return self.out(F.silu(self.mix(self._joined(self.spread(h), image))))

    def slabs(self, h: Tensor, image: Tensor) -> Iterator[Tensor]:
        """The logits of `forward` in slabs along z of about `SLAB_VOXELS`, in order; only without gradients.

        Whole, the many channels at full resolution would take more memory than all else. They run twice as fast channels last,
        also on a CPU (AVX2) where the rest runs faster contiguous.
        """
        conv, block = self.spread.conv, self.block_zyx[0]
        halo = int(conv.padding[0])
        active = F.pad(F.silu(self.spread.norm(h), inplace=True), (0, 0, 0, 0, halo, halo))
        step = max(1, SLAB_VOXELS // (block * image.shape[3] * image.shape[4]))
        for low in range(0, h.shape[2], step):
            high = min(low + step, h.shape[2])
            here = slice(low * block, high * block)
            part = F.conv3d(active[:, :, low : high + 2 * halo], conv.weight, conv.bias, padding=(0, *conv.padding[1:]))
            joined = self._joined(part, image[:, :, here]).contiguous(memory_format=torch.channels_last_3d)
            yield self.out(F.silu(self.mix(joined), inplace=True))

    def _joined(self, spread: Tensor, image: Tensor) -> Tensor:
        full = depth_to_space(spread, self.block_zyx)
        return torch.cat([full, image.to(full.dtype)], dim=1)


class TransposedHead(nn.Module):
    """The paper's: transposed convolutions from the middle up to the voxels, without skips; half the channels each time."""

    def __init__(self, plan: NetworkPlan, classes: int) -> None:
        super().__init__()
        width, layers = plan.channels[-1], []
        for stride in (*reversed(plan.strides_zyx), plan.stem_zyx):
            if max(stride) > 1:
                narrower = max(LEAST_WIDTH, width // 2)
                layers += [Transposed(width, narrower, stride, stride), norm(narrower), nn.SiLU()]
                width = narrower
        self.up = nn.Sequential(*layers)
        self.out = Convolution(width, classes, 1)

    def forward(self, h: Tensor, image: Tensor) -> Tensor:
        """Features (b, channels, z', y', x') -> logits (b, classes, z, y, x); the image is not looked at."""
        return self.out(self.up(h))

    def slabs(self, h: Tensor, image: Tensor) -> Iterator[Tensor]:
        """All of `forward` as one slab."""
        yield self.forward(h, image)


HEADS = {"decoder": SegmentationHead, "transposed": TransposedHead}


def read_block(plan: NetworkPlan, head: str) -> str:
    """The block that a head stands on: the last one, or the end of the middle."""
    names = block_names(plan)
    return names[-1] if head == "decoder" else [name for name in names if name.startswith("mid")][-1]


class SegmentationNetwork(nn.Module):
    """A backbone, as far as the head reads it, and the head."""

    def __init__(self, plan: NetworkPlan, classes: int, head: str = "decoder") -> None:
        """`head` is one of `HEADS`."""
        super().__init__()
        self.classes = classes
        self.backbone = build_backbone(plan)
        self.head = HEADS[head](plan, classes)
        self.block = read_block(plan, head)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(b, 1, z, y, x) and (b,) -> logits (b, classes, z, y, x)."""
        return self.head(self._features(x, t), x)

    def slabs(self, x: Tensor, t: Tensor) -> Iterator[Tensor]:
        """As `forward`, in slabs along z; see `SegmentationHead.slabs`."""
        return self.head.slabs(self._features(x, t), x)

    def _features(self, x: Tensor, t: Tensor) -> Tensor:
        return self.backbone.features(x, t, self.block)[self.block]
