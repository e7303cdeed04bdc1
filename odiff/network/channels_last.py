"""Norm, modulation and SiLU of a channels-last volume, and their gradients: by compiled loops, else a piece at a time that fits the cache.

With channels last a volume is a table of voxels by channels, and normalising, modulating and SiLU are one product and one sum a
channel, then one function. On a CPU torch's own backward pass of the norm takes four times as long; on a GPU its norm copies the
volume to another layout and back (docs/performance.md).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from odiff.network import native

PIECE_VALUES = 2**18
GPU_PIECE_VALUES = 2**24


class Affine(NamedTuple):
    """What is done to each volume before SiLU, ``x * factor + offset``, and what that was made of; all (b, c)."""

    factor: Tensor
    offset: Tensor
    weight: Tensor
    mean: Tensor
    rstd: Tensor


def suits(x: Tensor) -> bool:
    """Whether a volume is one that this module is for."""
    is_known = x.device.type in ("cpu", "cuda")
    return is_known and x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)


def moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean, and one over the standard deviation, of each group of channels; (b, groups) each."""
    b, c = x.shape[:2]
    first, second = (torch.zeros((b, c), dtype=_dtype(x), device=x.device) for _ in range(2))
    if native.suits(x):
        for one, table in enumerate(_tables(x)):
            native.call("moments", table, sums := native.sums_of(c))
            first[one], second[one] = sums.sum(0)
    else:
        for n, (piece,) in _pieces(x):
            values = piece.to(first.dtype)
            first[n] += values.sum(1)
            second[n] += values.square().sum(1)
    size = x[0].numel() // groups
    mean, square = (one.view(b, groups, -1).sum(2) / size for one in (first, second))
    return mean, (square - mean.square()).clamp(min=0).add(eps).rsqrt()


def affine(
    moments: tuple[Tensor, Tensor], gamma: Tensor, beta: Tensor, scale: Tensor | None, shift: Tensor | None
) -> Affine:
    """Group norm with `gamma` and `beta` (c,), then ``* (1 + scale) + shift`` with (b, c) each or None, as one product and sum."""
    b, c = len(moments[0]), len(gamma)
    mean, rstd = (one.repeat_interleave(c // one.shape[1], dim=1) for one in moments)
    weight, bias = gamma.to(mean.dtype).expand(b, c), beta.to(mean.dtype).expand(b, c)
    if scale is not None and shift is not None:
        more = 1 + scale.to(mean.dtype)
        weight, bias = weight * more, bias * more + shift
    factor = weight * rstd
    return Affine(factor, bias - mean * factor, weight, mean, rstd)


def activated(x: Tensor, how: Affine, dtype: torch.dtype) -> Tensor:
    """``silu(x * factor + offset)`` in `dtype`, channels last."""
    out = torch.empty_like(x, dtype=dtype)
    if native.suits(x, out):
        for one, (table, target) in enumerate(zip(_tables(x), _tables(out), strict=True)):
            native.call("activated", table, target, how.factor[one], how.offset[one])
        return out
    factor, offset = how.factor[:, None], how.offset[:, None]
    for n, (target, piece) in _pieces(out, x):
        target.copy_(F.silu(torch.addcmul(offset[n], piece.to(factor.dtype), factor[n]), inplace=True))
    return out


def gradients(
    needs_x: bool, to_active: Tensor, how: Affine, groups: int, x: Tensor, gamma: Tensor, beta: Tensor,
    scale: Tensor | None, shift: Tensor | None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Those of x, gamma, beta, scale and shift, from the gradient of what `activated` gave, which is overwritten.

    The derivatives of group normalisation (Wu and He 2018) with the sums over voxels taken first: in each channel the gradient of
    x is a multiple of the gradient behind the norm, plus one of x, plus a constant.

    Parameters
    ----------
    needs_x : without it the gradient of x is None and its pass over the volume is saved.
    """
    dtype, factor, offset = how.factor.dtype, how.factor[:, None], how.offset[:, None]
    to_active = to_active.contiguous(memory_format=torch.channels_last_3d)
    behind, products = (torch.zeros_like(how.factor) for _ in range(2))
    if native.suits(to_active, x):
        for one, (table, seen) in enumerate(zip(_tables(to_active), _tables(x), strict=True)):
            native.call("to_linear", table, seen, how.factor[one], how.offset[one], sums := native.sums_of(x.shape[1]))
            behind[one], products[one] = sums.sum(0)
    else:
        for n, (gradient, piece) in _pieces(to_active, x):
            values = piece.to(dtype)
            linear = torch.addcmul(offset[n], values, factor[n])
            to_linear = torch.ops.aten.silu_backward(gradient.to(dtype), linear)
            behind[n] += to_linear.sum(1)
            products[n] += (values * to_linear).sum(1)
            gradient.copy_(to_linear)
    normalised = how.rstd * (products - how.mean * behind)
    to_x = _to_volume(x, to_active, how, behind, normalised, groups) if needs_x else None
    if scale is None or shift is None:
        return to_x, normalised.sum(0).to(gamma.dtype), behind.sum(0).to(beta.dtype), None, None
    modulation = 1 + scale.to(dtype)
    return (
        to_x, (modulation * normalised).sum(0).to(gamma.dtype), (modulation * behind).sum(0).to(beta.dtype),
        (gamma * normalised + beta * behind).to(scale.dtype), behind.to(shift.dtype),
    )  # fmt: skip


def _to_volume(x: Tensor, to_linear: Tensor, how: Affine, behind: Tensor, normalised: Tensor, groups: int) -> Tensor:
    """The gradient of x, written over `to_linear` where the types agree."""
    b, c = x.shape[:2]

    def mean_of_group(sums: Tensor) -> Tensor:
        means = sums.view(b, groups, -1).sum(2) * groups / x[0].numel()
        return means.repeat_interleave(c // groups, dim=1)

    slope = -how.rstd.square() * mean_of_group(how.weight * normalised)
    constant = -slope * how.mean - how.rstd * mean_of_group(how.weight * behind)
    if native.suits(to_linear, x):
        for one, (table, seen) in enumerate(zip(_tables(to_linear), _tables(x), strict=True)):
            native.call("to_volume", table, seen, how.factor[one], slope[one], constant[one])
        return to_linear
    slope, constant, factor = slope[:, None], constant[:, None], how.factor[:, None]
    out = to_linear if to_linear.dtype == x.dtype else torch.empty_like(x)
    for n, (target, gradient, piece) in _pieces(out, to_linear, x):
        values = torch.addcmul(constant[n], piece.to(slope.dtype), slope[n])
        target.copy_(values.addcmul_(gradient.to(slope.dtype), factor[n]))
    return out


def _tables(volume: Tensor) -> Tensor:
    """(b, voxels, channels) of a channels-last volume, without a copy."""
    return volume.permute(0, 2, 3, 4, 1).view(len(volume), -1, volume.shape[1])


def _pieces(*volumes: Tensor) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Which of the batch, and (some of the batch, voxels, channels) of each volume in turn: on a CPU one after the other."""
    b, c = volumes[0].shape[:2]
    tables = [_tables(one) for one in volumes]
    some, values = (1, PIECE_VALUES) if volumes[0].device.type == "cpu" else (b, GPU_PIECE_VALUES)
    for low in range(0, b, some):
        n = slice(low, low + some)
        for piece in zip(*(table[n].split(max(1, values // (some * c)), dim=1) for table in tables), strict=True):
            yield n, piece


def _dtype(x: Tensor) -> torch.dtype:
    """What is computed in: float32, or what is finer."""
    return torch.promote_types(x.dtype, torch.float32)
