"""Which blocks a head reads unless probes find better ones; imports little, as planning asks too."""

from collections.abc import Sequence

import numpy as np

from odiff.network.backbone import block_shapes
from odiff.plan import NetworkPlan, ViewPlan
from odiff.plan.schema import Triple

TOKENS = 12_000


def default_blocks(network: NetworkPlan, patch_zyx: Triple, known: Sequence[str]) -> tuple[str, ...]:
    """The encoder at the finest stage of at most `TOKENS` voxels and the next: fine enough for a lesion, cheap to train.

    Of a network without such blocks, the paper's, the end of the middle.
    """
    shapes = block_shapes(network, patch_zyx)
    fine = [name for name in known if name.startswith("encoder_") and np.prod(shapes[name]) <= TOKENS]
    return tuple(fine[:2]) or tuple(name for name in known if name.startswith("mid"))[-1:] or tuple(known[-1:])


def usual_blocks(plan: ViewPlan) -> tuple[str, ...]:
    """`default_blocks` among those that the plan lets the probes choose from."""
    return default_blocks(plan.network, plan.patch_zyx, plan.diffusion.probe_blocks)
