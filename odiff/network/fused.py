"""Normalisation, SiLU and convolution as one step of autograd that keeps its input alone.

Left to itself autograd keeps the input of the norm, the input of SiLU and the input of the convolution, three or four volumes of
the same size. Only the first is kept here; the others are computed again in the backward pass, which costs a norm and a SiLU,
a few per cent of the convolution's time (docs/performance.md).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odiff.network import channels_last
from odiff.network.convolution import convolution_backward


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
    kind, dtype = x.device.type, computed_in(x)
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        return _NormSiluConv.apply(x, norm.weight, norm.bias, scale, shift, conv.weight, conv.bias, norm, conv, dtype)


def computed_in(x: Tensor) -> torch.dtype:
    """The type in which a convolution of `x` computes: that of autocast where it is on."""
    kind = x.device.type
    is_cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if is_cast else x.dtype


class _NormSiluConv(torch.autograd.Function):
    """The step and its gradient; `norm` and `conv` give sizes, strides and the implementation, the tensors the values."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, scale: Tensor | None, shift: Tensor | None, weight: Tensor,
        bias: Tensor | None, norm: nn.GroupNorm, conv: nn.Conv3d, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        inputs = (x, gamma, beta, scale, shift)
        moments = channels_last.moments(x, norm.num_groups, norm.eps) if channels_last.suits(x) else None
        ctx.save_for_backward(*inputs, weight, *(moments or ()))
        ctx.norm, ctx.conv, ctx.dtype, ctx.has_bias = norm, conv, dtype, bias is not None
        if moments:
            active = channels_last.activated(x, channels_last.affine(moments, *inputs[1:]), dtype)
        else:
            active = _activated(inputs, norm).to(dtype)
        return conv._conv_forward(active, weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, weight, moments = saved[:5], saved[5], saved[6:]
        active, to_inputs = _recomputed(inputs, moments, ctx.norm, ctx.dtype)
        needs = [one is not None and need for one, need in zip(inputs, ctx.needs_input_grad, strict=False)]
        wanted = [any(needs), ctx.needs_input_grad[5], ctx.has_bias and ctx.needs_input_grad[6]]
        to_active, to_weight, to_bias = convolution_backward(gradient, active, weight.to(ctx.dtype), ctx.conv, wanted)
        found = to_inputs(to_active, needs) if to_active is not None else [None] * 5
        return (
            *(one if need else None for one, need in zip(found, needs, strict=True)),
            None if to_weight is None else to_weight.to(weight.dtype),
            None if to_bias is None else to_bias.to(weight.dtype), None, None, None,
        )  # fmt: skip


def _recomputed(
    inputs: Sequence[Any], moments: tuple[Tensor, Tensor], norm: nn.GroupNorm, dtype: torch.dtype
) -> tuple[Tensor, Callable[[Tensor, Sequence[bool]], Sequence[Tensor | None]]]:
    """What the convolution saw, and what turns its gradient into those of the inputs that need one."""
    if moments:
        x, *modulation = inputs
        how = channels_last.affine(moments, *modulation)

        def by_table(to_active: Tensor, needs: Sequence[bool]) -> Sequence[Tensor | None]:
            return channels_last.gradients(needs[0], to_active, how, norm.num_groups, x, *modulation)

        return channels_last.activated(x, how, dtype), by_table
    given: list[Any] = [None if one is None else one.detach().requires_grad_() for one in inputs]
    with torch.enable_grad():
        active = _activated(given, norm).to(dtype)

    def by_autograd(to_active: Tensor, needs: Sequence[bool]) -> Sequence[Tensor | None]:
        wanted = [number for number, need in enumerate(needs) if need]
        gradients = torch.autograd.grad(active, [given[number] for number in wanted], to_active)
        found: list[Tensor | None] = [None] * 5
        for number, value in zip(wanted, gradients, strict=True):
            found[number] = value
        return found

    return active.detach(), by_autograd


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
