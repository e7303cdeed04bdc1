"""The paper's comparisons, as MONAI has them: trained from scratch with odiff's plan, batches and losses.

MONAI is an optional extra and imported only where one of them is built.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from odiff.errors import UsageError
from odiff.network.blocks import Block
from odiff.network.layers import Convolution, Transposed
from odiff.plan.schema import NetworkPlan, Plan, Triple

POOLED, RESNET_CHANNELS = "pooled", 512
UNETR_MULTIPLE, LEAST_WIDTH = 16, 16


@dataclass(frozen=True)
class Baseline:
    """What a baseline is trained for, how it is built, and whether it takes patches of the planned size alone."""

    task: str
    build: Callable[[NetworkPlan, Triple, int], nn.Module]
    is_fixed_size: bool = False


def build_unet3d(plan: NetworkPlan, patch_zyx: Triple, classes: int) -> nn.Module:
    """The 3D U-Net (Cicek et al. 2016) with the plan's strides, the stem's as levels of their own, and its widths."""
    channels, strides = unet_levels(plan)
    return _monai("UNet", spatial_dims=3, in_channels=1, out_channels=classes, channels=channels, strides=strides)


def unet_levels(plan: NetworkPlan) -> tuple[tuple[int, ...], tuple[Triple, ...]]:
    """Channels of each level from the voxels down, and the strides between them; stems halve, widths halve upwards."""
    strides: list[Triple] = []
    left = plan.stem_zyx
    while max(left) > 1:
        depth, rows, columns = (2 if size % 2 == 0 else size for size in left)
        strides.append((depth, rows, columns))
        left = (left[0] // depth, left[1] // rows, left[2] // columns)
    finer = [max(LEAST_WIDTH, plan.channels[0] // 2**level) for level in range(len(strides), 0, -1)]
    return (*finer, *plan.channels), (*strides, *plan.strides_zyx[1:])


def build_unetr(plan: NetworkPlan, patch_zyx: Triple, classes: int) -> nn.Module:
    """UNETR (Hatamizadeh et al. 2022) with MONAI's sizes, for the patch filled up to multiples of 16."""
    size = [-(-n // UNETR_MULTIPLE) * UNETR_MULTIPLE for n in patch_zyx]
    return Padded(_monai("UNETR", in_channels=1, out_channels=classes, img_size=size), UNETR_MULTIPLE)


def build_resnet18(plan: NetworkPlan, patch_zyx: Triple, labels: int) -> nn.Module:
    """The 3D ResNet-18 (Hara et al. 2018) without its last layer: (b, 1, z, y, x) -> (b, 512)."""
    return _monai("resnet18", spatial_dims=3, n_input_channels=1, feed_forward=False)


BASELINES = {
    "unet3d": Baseline("segmentation", build_unet3d),
    "unetr": Baseline("segmentation", build_unetr, is_fixed_size=True),
    "resnet18": Baseline("diagnosis", build_resnet18),
}


OURS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv3d: Convolution, nn.ConvTranspose3d: Transposed}


def _monai(name: str, **settings: Any) -> nn.Module:
    """A network of MONAI; its convolutions get past what torch gets wrong or slow (`odiff.network.layers`)."""
    try:
        networks: Any = import_module("monai.networks.nets")
    except ImportError as fault:
        raise UsageError(f'the baselines are MONAI\'s ({fault}); pip install "odiff-mri[baselines]"') from None
    network = getattr(networks, name)(**settings)
    for module in network.modules():
        module.__class__ = OURS.get(type(module), type(module))
    return network


class Padded(nn.Module):
    """A network that takes multiples of some size, for volumes of any: edges are repeated, the answer is cut back."""

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, x: Tensor) -> Tensor:
        """(b, 1, z, y, x) -> (b, classes, z, y, x)."""
        missing = [-size % self.multiple for size in x.shape[2:]]
        padded = F.pad(x, [n for size in reversed(missing) for n in (0, size)], mode="replicate")
        return self.network(padded)[:, :, : x.shape[2], : x.shape[3], : x.shape[4]]


class BaselineSegmentation(nn.Module):
    """A baseline as a segmentation network of odiff; `backbone` is all of it, and no time step is looked at."""

    def __init__(self, plan: NetworkPlan, patch_zyx: Triple, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.backbone = BASELINES[plan.architecture].build(plan, patch_zyx, classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(b, 1, z, y, x) and (b,) -> logits (b, classes, z, y, x)."""
        return self.backbone(x)

    def slabs(self, x: Tensor, t: Tensor) -> Iterator[Tensor]:
        """All of `forward` as one slab."""
        yield self.forward(x, t)


class ResNetTrunk(nn.Module):
    """ResNet-18 as what a diagnosis head reads: one block, pooled to a single position."""

    def __init__(self, plan: NetworkPlan) -> None:
        super().__init__()
        self.plan = plan
        self.network = build_resnet18(plan, (1, 1, 1), 1)

    def features(self, x: Tensor, t: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """(b, 1, z, y, x) and (b,) -> the block `POOLED` (b, 512, 1, 1, 1)."""
        return {POOLED: self.network(x)[:, :, None, None, None]}


def resnet_blocks(plan: NetworkPlan) -> dict[str, Block]:
    """The one block of `ResNetTrunk`."""
    return {POOLED: Block(RESNET_CHANNELS, None, ("network.",))}


def with_baseline(plan: Plan, name: str) -> Plan:
    """The plan with a baseline for every view's network; what is particular to diffusion models is off.

    Images are seen without noise (at diagnosis under that of time step 0, which is below 1 %), and diagnosis is ResNet-18's own: the mean
    over all positions and one linear layer, trained from the first step on.
    """
    views = {}
    for view, one in plan.views.items():
        diffusion = replace(one.diffusion, probe_time_steps=(0,), probe_blocks=(POOLED,))
        views[view] = replace(one, network=replace(one.network, architecture=name), diffusion=diffusion)
    segmentation = replace(plan.segmentation, is_noised=False)
    diagnosis = replace(plan.diagnosis, head_steps=0, pooling="none")
    return replace(plan, views=views, segmentation=segmentation, diagnosis=diagnosis)
