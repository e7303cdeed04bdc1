"""A convolution and its gradients, each by what computes it right and soonest: oneDNN, loops in C or matrix products."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odiff.network import native_convolution
from odiff.network.weight_gradient import is_mishandled, padding_of, weight_gradient

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv3d) -> Tensor:
    """``conv(x)`` in the type of `x`, with this weight and bias, and without gradients."""
    if is_for_loops(x, x.dtype, conv):
        return native_convolution.convolution(x, weight, bias, padding_of(conv))
    return F.conv3d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def convolved_with_gradients(x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv3d) -> Tensor:
    """`convolved`, whose gradients are those of `convolution_backward`."""
    answer: Tensor = _Convolution.apply(x, weight, bias, conv)
    return answer


def is_for_loops(x: Tensor, dtype: torch.dtype, conv: nn.Conv3d) -> bool:
    """Whether ``conv(x)``, computed in `dtype`, is best done by the loops in C."""
    return (
        dtype == torch.bfloat16 and x.device.type == "cpu" and _is_plain(conv)
        and native_convolution.suits(x.shape, conv.out_channels, conv.kernel_size, padding_of(conv))
    )  # fmt: skip


def convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, conv: nn.Conv3d, needs: Sequence[bool]
) -> Gradients:
    """Gradients of `x`, of the weight and of the bias, those that `needs` says, from that of the answer."""
    found: list[Tensor | None] = [None, None, None]
    is_wrong = is_mishandled(x, x.dtype, conv)
    if needs[0]:
        found[0] = _to_volume(gradient, weight, conv)
    if needs[1] and _is_plain(conv):
        found[1] = native_convolution.weight_gradient(gradient, x, conv.kernel_size, padding_of(conv))
    if needs[1] and found[1] is None and is_wrong:
        found[1] = weight_gradient(gradient, x, conv)
    # Who asks oneDNN for the gradient of the bias has that of the weight computed with it.
    if needs[2] and (found[1] is not None or is_wrong):
        found[2] = gradient.sum((0, 2, 3, 4), dtype=torch.float32)
    missing = [need and one is None for need, one in zip(needs, found, strict=True)]
    if any(missing):
        others = torch.ops.aten.convolution_backward(
            gradient, x, weight, [weight.shape[0]], conv.stride, conv.padding, conv.dilation, False, [0, 0, 0], conv.groups,
            missing,
        )  # fmt: skip
        found = [other if one is None else one for one, other in zip(found, others, strict=True)]
    to_x, to_weight, to_bias = (None if one is None else one.to(weight.dtype) for one in found)
    return to_x, to_weight, to_bias


def _to_volume(gradient: Tensor, weight: Tensor, conv: nn.Conv3d) -> Tensor | None:
    """That of what was seen, a convolution with the weight turned round, where it is best done by the loops."""
    margins = [k - 1 - margin for k, margin in zip(conv.kernel_size, padding_of(conv), strict=True)]
    is_for_it = (
        gradient.dtype == torch.bfloat16 and gradient.device.type == "cpu" and _is_plain(conv) and min(margins) >= 0
        and native_convolution.suits(gradient.shape, conv.in_channels, conv.kernel_size, margins)
    )  # fmt: skip
    if not is_for_it:
        return None
    return native_convolution.convolution(gradient, weight.flip(2, 3, 4).transpose(0, 1), None, margins)


def _is_plain(conv: nn.Conv3d) -> bool:
    return max(*conv.stride, *conv.dilation, conv.groups) == 1


class _Convolution(torch.autograd.Function):
    """A convolution and its gradients; `conv` gives sizes and strides, the tensors the values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv3d) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.conv = conv
        return convolved(x, weight, bias, conv)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs = [bool(need) for need in ctx.needs_input_grad[:3]]
        return (*convolution_backward(gradient, x, weight, ctx.conv, needs), None)
