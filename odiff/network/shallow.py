"""The gradient of a convolution's weight over few slices, which a CPU gets wrong, or never done, in bfloat16."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odiff.network.processor import has_amx

# With AMX what never ends has at most five slices, at most 40x32 pixels and over 128x128 channels (docs/decisions.md).
MOST_SLICES, MOST_PIXELS, FEW_WEIGHTS = 8, 48 * 48, 128 * 128


def is_mishandled(x: Tensor, dtype: torch.dtype, conv: nn.Conv3d) -> bool:
    """Whether oneDNN (of torch 2.14) is not to compute the gradient of the weight of ``conv(x)``, computed in `dtype`.

    In bfloat16 it gives uninitialised memory where three taps of stride 1 go over two slices that it pads itself, and with
    AMX its threads may wait for each other without end where the answer has few slices of middling size and many channels.
    """
    if x.device.type != "cpu" or dtype != torch.bfloat16 or conv.groups != 1:
        return False
    if x.shape[2] == 2 and conv.kernel_size[0] == 3 and conv.stride[0] == 1:
        return True
    slices, rows, columns = (-(-size // step) for size, step in zip(x.shape[2:], conv.stride, strict=True))
    is_small = slices <= MOST_SLICES and rows * columns <= MOST_PIXELS
    return is_small and conv.in_channels * conv.out_channels > FEW_WEIGHTS and has_amx()


def convolution_with_gradients(x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv3d) -> Tensor:
    """``conv(x)`` in the type of `x`, whose gradients are those of `convolution_backward`."""
    answer: Tensor = _Convolution.apply(x, weight, bias, conv)
    return answer


def convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, conv: nn.Conv3d, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of `x`, of the weight and of the bias, those that `needs` says, from that of the answer."""

    def by_onednn(wanted: Sequence[bool]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
            gradient, x, weight, [weight.shape[0]], conv.stride, conv.padding, conv.dilation, False, [0, 0, 0], conv.groups,
            list(wanted),
        )  # fmt: skip
        return found

    if not is_mishandled(x, x.dtype, conv):
        return by_onednn(needs)
    # Who asks it for the gradient of the bias has that of the weight computed with it.
    return (
        by_onednn([True, False, False])[0] if needs[0] else None,
        weight_gradient(gradient, x, conv) if needs[1] else None,
        gradient.float().sum((0, 2, 3, 4)).to(gradient.dtype) if needs[2] else None,
    )


def weight_gradient(gradient: Tensor, x: Tensor, conv: nn.Conv3d) -> Tensor:
    """Of a convolution's weight, one matrix product a tap: what each voxel's answer wants of what that tap saw.

    Parameters
    ----------
    gradient : (b, outputs, z', y', x'), that of the answer.
    x : (b, inputs, z, y, x).

    Returns
    -------
    (outputs, inputs, *kernel).
    """
    kernel, margins = conv.kernel_size, [int(n) for size in reversed(conv.padding) for n in (size, size)]
    seen = F.pad(x.permute(0, 2, 3, 4, 1), (0, 0, *margins))
    wants = gradient.permute(0, 2, 3, 4, 1).reshape(-1, gradient.shape[1]).t()
    found = x.new_empty((*kernel, gradient.shape[1], x.shape[1]))
    for tap in product(*map(range, kernel)):
        places = [
            slice(number * gap, number * gap + (size - 1) * step + 1, step)
            for number, gap, size, step in zip(tap, conv.dilation, gradient.shape[2:], conv.stride, strict=True)
        ]
        torch.mm(wants, seen[(slice(None), *places)].reshape(-1, x.shape[1]), out=found[tap])
    return found.permute(3, 4, 0, 1, 2)


class _Convolution(torch.autograd.Function):
    """A convolution and its gradients; `conv` gives sizes and strides, the tensors the values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv3d) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.conv = conv
        return F.conv3d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs = [bool(need) for need in ctx.needs_input_grad[:3]]
        return (*convolution_backward(gradient, x, weight, ctx.conv, needs), None)
