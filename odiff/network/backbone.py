"""The network that a plan names, and the blocks that can be read from it; nothing else needs to know architectures."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from odiff.errors import PlanError
from odiff.network.baselines import ResNetTrunk, resnet_blocks
from odiff.network.blocks import Block
from odiff.network.paper import PaperUNet, paper_blocks
from odiff.network.unet import UNet, unet_blocks
from odiff.plan.schema import NetworkPlan, Triple

DiffusionNetwork = UNet | PaperUNet
Backbone = DiffusionNetwork | ResNetTrunk


@dataclass(frozen=True)
class Architecture:
    """How to build a network from its plan, and its blocks by name."""

    build: Callable[[NetworkPlan], Backbone]
    blocks: Callable[[NetworkPlan], dict[str, Block]]


ARCHITECTURES = {
    "unet": Architecture(UNet, unet_blocks),
    "paper": Architecture(PaperUNet, paper_blocks),
    "resnet18": Architecture(ResNetTrunk, resnet_blocks),
}


def build_backbone(plan: NetworkPlan) -> Backbone:
    """The network of a plan whose blocks are read, with random weights."""
    return _architecture(plan).build(plan)


def build_diffusion(plan: NetworkPlan) -> DiffusionNetwork:
    """The diffusion network of a plan, with random weights.

    Raises
    ------
    PlanError
        The plan is a baseline's, which is not pretrained.
    """
    network = build_backbone(plan)
    if not isinstance(network, DiffusionNetwork):
        raise PlanError(
            f"network.architecture {plan.architecture!r} is a baseline and has no pretraining; plan with 'unet'"
        )
    return network


def _architecture(plan: NetworkPlan) -> Architecture:
    if plan.architecture not in ARCHITECTURES:
        raise PlanError(
            f"network.architecture {plan.architecture!r} has no blocks to read: it is chosen with odiff_train --baseline alone"
        )
    return ARCHITECTURES[plan.architecture]


def blocks_of(plan: NetworkPlan) -> dict[str, Block]:
    """The blocks whose features can be read, in the order they are computed."""
    return _architecture(plan).blocks(plan)


def block_names(plan: NetworkPlan) -> tuple[str, ...]:
    """Names of the blocks whose features can be read, in the order they are computed."""
    return tuple(blocks_of(plan))


def stage_shapes(plan: NetworkPlan, patch_zyx: Triple) -> list[Triple]:
    """Shape (z, y, x) of the activations of each stage for a patch."""
    shapes, sizes = [], patch_zyx
    for by in (plan.stem_zyx, *plan.strides_zyx):
        sizes = (sizes[0] // by[0], sizes[1] // by[1], sizes[2] // by[2])
        shapes.append(sizes)
    return shapes[1:]


def block_shapes(plan: NetworkPlan, patch_zyx: Triple) -> dict[str, Triple]:
    """Shape (z, y, x) of each block's activation for a patch."""
    shapes = stage_shapes(plan, patch_zyx)
    blocks = blocks_of(plan)
    return {name: (1, 1, 1) if block.stage is None else shapes[block.stage] for name, block in blocks.items()}


def parameters_behind(plan: NetworkPlan, last: str) -> tuple[str, ...]:
    """Prefixes of the backbone's parameters that no block up to `last` needs."""
    blocks = blocks_of(plan)
    names = list(blocks)
    behind = names[names.index(last) + 1 :]
    return ("out.", *(prefix for name in behind for prefix in blocks[name].parameters))


def encoder_tensors(plan: NetworkPlan, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the backbone's tensors that the blocks down to the middle need."""
    middle = [name for name in block_names(plan) if name.startswith("mid")][-1]
    behind = parameters_behind(plan, middle)
    return tuple(name for name in names if not name.startswith(behind))
