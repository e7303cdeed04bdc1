"""Convolutions over two slices, whose bfloat16 gradients a CPU gets wrong."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def with_margin(x: Tensor, conv: nn.Conv3d) -> tuple[Tensor, tuple[int, ...]]:
    """The volume and the padding that a convolution is to be computed with.

    In bfloat16 oneDNN (of torch 2.14) gives uninitialised memory for the gradient of the weight where three taps of stride 1 go
    over two slices that it pads itself (docs/decisions.md). There the margin is added before.
    """
    padding = tuple(int(n) for n in conv.padding)
    is_wrong = x.device.type == "cpu" and x.shape[2] == 2 and padding[0] == 1
    if not (is_wrong and conv.kernel_size[0] == 3 and conv.stride[0] == 1):
        return x, padding
    return F.pad(x, (0, 0, 0, 0, 1, 1)), (0, *padding[1:])


def without_margin(gradient: Tensor | None, x: Tensor) -> Tensor | None:
    """The gradient of what `with_margin` gave, as that of `x`."""
    if gradient is None or gradient.shape[2] == x.shape[2]:
        return gradient
    return torch.narrow(gradient, 2, 1, x.shape[2])
