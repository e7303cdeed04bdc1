"""Normalisation, SiLU and convolution as one step of autograd that keeps its input alone.

Left to itself autograd keeps the input of the norm, the input of SiLU and the input of the convolution, three or four volumes of
the same size. Only the first is kept here; the others are computed again in the backward pass, which costs a norm and a SiLU,
a few per cent of the convolution's time (docs/performance.md).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odiff.network.shallow import with_margin, without_margin


def norm_silu_conv(
    x: Tensor, norm: nn.GroupNorm, conv: nn.Conv3d, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """``conv(silu(norm(x) * (1 + scale) + shift))``.

    Parameters
    ----------
    x : (b, c, z, y, x).
    scale, shift : (b, c) each, or None for neither (FiLM, Perez et al. 2018).

    Returns
    -------
    (b, c', z', y', x') in the type of autocast where that is on, else in that of `x`.
    """
    kind = x.device.type
    has_autocast = torch.amp.is_autocast_available(kind)
    dtype = torch.get_autocast_dtype(kind) if has_autocast and torch.is_autocast_enabled(kind) else x.dtype
    with torch.autocast(kind, enabled=False) if has_autocast else nullcontext():
        return _NormSiluConv.apply(x, norm.weight, norm.bias, scale, shift, conv.weight, conv.bias, norm, conv, dtype)


class _NormSiluConv(torch.autograd.Function):
    """The step and its gradient; `norm` and `conv` give sizes, strides and the implementation, the tensors the values."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, scale: Tensor | None, shift: Tensor | None, weight: Tensor,
        bias: Tensor | None, norm: nn.GroupNorm, conv: nn.Conv3d, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, gamma, beta, scale, shift, weight)
        ctx.norm, ctx.conv, ctx.dtype, ctx.has_bias = norm, conv, dtype, bias is not None
        active = _activated((x, gamma, beta, scale, shift), norm).to(dtype)
        return conv._conv_forward(active, weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, weight = ctx.saved_tensors
        given: list[Any] = [None if one is None else one.detach().requires_grad_() for one in inputs]
        with torch.enable_grad():
            active = _activated(given, ctx.norm).to(ctx.dtype)
        needs = ctx.needs_input_grad
        conv = ctx.conv
        seen, padding = with_margin(active.detach(), conv)
        to_seen, to_weight, to_bias = torch.ops.aten.convolution_backward(
            gradient, seen, weight.to(ctx.dtype), [weight.shape[0]], conv.stride, padding, conv.dilation,
            False, [0, 0, 0], conv.groups, [any(needs[:5]), needs[5], ctx.has_bias and needs[6]],
        )  # fmt: skip
        to_active = without_margin(to_seen, active)
        found: list[Tensor | None] = [None] * 5
        wanted = [number for number, one in enumerate(given) if one is not None and needs[number]]
        if wanted:
            gradients = torch.autograd.grad(active, [given[number] for number in wanted], to_active)
            for number, value in zip(wanted, gradients, strict=True):
                found[number] = value
        return (
            *found, None if to_weight is None else to_weight.to(weight.dtype),
            None if to_bias is None else to_bias.to(weight.dtype), None, None, None,
        )  # fmt: skip


def _activated(inputs: Sequence[Any], norm: nn.GroupNorm) -> Tensor:
    """SiLU of the normalised and modulated volume; a GPU norms in float32, as its autocast does.

    `inputs` are the volume, gamma, beta, scale and shift, the last two maybe None.
    """
    x, gamma, beta, scale, shift = inputs
    values = x.float() if x.device.type != "cpu" else x
    h = F.group_norm(values, norm.num_groups, gamma, beta, norm.eps)
    if scale is not None and shift is not None:
        h = h * (1 + _spread(scale, h)) + _spread(shift, h)
    return F.silu(h)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[:, :, None, None, None]
