"""Convolutions over few slices, whose bfloat16 gradients a CPU gets wrong, or never done."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST_SLICES = 4


def with_margin(x: Tensor, conv: nn.Conv3d) -> tuple[Tensor, tuple[int, ...]]:
    """The volume and the padding that a convolution is to be computed with; its answer is cut by `of_slices`.

    In bfloat16 oneDNN (of torch 2.14) gives uninitialised memory for the gradient of the weight where three taps of stride 1 go
    over two slices that it pads itself, and on AMX may compute without end where the answer has fewer than four slices and
    192 channels or more are read (docs/decisions.md, also what is not gone around). There the margin is added before, and slices of zeros behind it.
    """
    padding = tuple(int(n) for n in conv.padding)
    is_shallow = x.device.type == "cpu" and x.shape[2] < LEAST_SLICES and padding[0] == 1
    if not (is_shallow and conv.kernel_size[0] == 3 and conv.stride[0] == 1):
        return x, padding
    return F.pad(x, (0, 0, 0, 0, 1, 1 + LEAST_SLICES - x.shape[2])), (0, *padding[1:])


def of_slices(answer: Tensor, x: Tensor, margin: int = 0) -> Tensor:
    """The answer to what `with_margin` gave, or with a `margin` of 1 its gradient, as that of `x`: the slices beyond are left out."""
    return answer if answer.shape[2] <= x.shape[2] else torch.narrow(answer, 2, margin, x.shape[2])


def with_slices(gradient: Tensor, slices: int) -> Tensor:
    """The gradient of an answer that was cut by `of_slices`, as that of the whole one: zeros beyond."""
    missing = slices - gradient.shape[2]
    return F.pad(gradient, (0, 0, 0, 0, 0, missing)) if missing > 0 else gradient
