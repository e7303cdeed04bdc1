"""Convolutions over few slices, whose bfloat16 gradients a CPU gets wrong, or never done."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST_SLICES = 4


def with_margin(x: Tensor, conv: nn.Conv3d) -> tuple[Tensor, tuple[int, ...]]:
    """The volume and the padding that a convolution is to be computed with; of its answer the first slices count, as many as `x` has.

    In bfloat16 oneDNN (of torch 2.14) gives uninitialised memory for the gradient of the weight where three taps of stride 1 go
    over two slices that it pads itself, and on AMX may compute without end where the answer has fewer than four slices and
    192 channels or more are read (docs/decisions.md, also what is not gone around). There the margin is added before, and
    slices of zeros behind it.
    """
    padding = tuple(int(n) for n in conv.padding)
    is_shallow = x.device.type == "cpu" and x.shape[2] < LEAST_SLICES and padding[0] == 1
    if not (is_shallow and conv.kernel_size[0] == 3 and conv.stride[0] == 1):
        return x, padding
    return F.pad(x, (0, 0, 0, 0, 1, 1 + LEAST_SLICES - x.shape[2])), (0, *padding[1:])


def convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, conv: nn.Conv3d, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of `x`, of the weight and of the bias, those that `needs` says, from that of the answer."""
    seen, padding = with_margin(x, conv)
    if seen is not x:
        gradient = F.pad(gradient, (0, 0, 0, 0, 0, LEAST_SLICES - gradient.shape[2]))
    to_seen, to_weight, to_bias = torch.ops.aten.convolution_backward(
        gradient, seen, weight, [weight.shape[0]], conv.stride, padding, conv.dilation, False, [0, 0, 0], conv.groups, list(needs)
    )  # fmt: skip
    if seen is not x and to_seen is not None:
        to_seen = torch.narrow(to_seen, 2, 1, x.shape[2])
    return to_seen, to_weight, to_bias
