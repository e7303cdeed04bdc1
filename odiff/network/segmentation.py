"""The segmentation network: the diffusion model's encoder and decoder under a head at full resolution."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odiff.network.layers import NormSiluConv, convolution, depth_to_space
from odiff.network.unet import UNet
from odiff.plan.schema import NetworkPlan

SLAB_VOXELS = 2**19


class SegmentationHead(nn.Module):
    """Each cell of the stem becomes its voxels again, `width` channels each, which are mixed with the image itself."""

    def __init__(self, plan: NetworkPlan, classes: int, width: int = 16) -> None:
        super().__init__()
        self.block_zyx = plan.stem_zyx
        pixels = plan.stem_zyx[0] * plan.stem_zyx[1] * plan.stem_zyx[2]
        kernel = plan.kernels_zyx[min(1, len(plan.channels) - 1)]  # not the first stage's: in plane alone it costs Dice
        self.spread = NormSiluConv(plan.channels[0], width * pixels, kernel)
        self.mix = convolution(width + 1, 2 * width, (1, 3, 3))
        self.out = nn.Conv3d(2 * width, classes, 1)

    def forward(self, h: Tensor, image: Tensor) -> Tensor:
        """Features (b, channels, z', y', x') and image (b, 1, z, y, x) -> logits (b, classes, z, y, x)."""
        return self.out(F.silu(self.mix(self._joined(self.spread(h), image))))

    def slabs(self, h: Tensor, image: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The logits of `forward` in slabs along z of about `SLAB_VOXELS`, each with its place; only without gradients.

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
            yield here, self.out(F.silu(self.mix(joined), inplace=True))

    def _joined(self, spread: Tensor, image: Tensor) -> Tensor:
        full = depth_to_space(spread, self.block_zyx)
        return torch.cat([full, image.to(full.dtype)], dim=1)


class SegmentationNetwork(nn.Module):
    """The U-Net's last features and the head."""

    def __init__(self, plan: NetworkPlan, classes: int) -> None:
        super().__init__()
        self.backbone = UNet(plan)
        self.head = SegmentationHead(plan, classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(b, 1, z, y, x) and (b,) -> logits (b, classes, z, y, x)."""
        return self.head(self._features(x, t), x)

    def slabs(self, x: Tensor, t: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """As `forward`, in slabs along z; see `SegmentationHead.slabs`."""
        return self.head.slabs(self._features(x, t), x)

    def _features(self, x: Tensor, t: Tensor) -> Tensor:
        return next(reversed(self.backbone.features(x, t).values()))
