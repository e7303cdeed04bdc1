"""The gradient of a convolution's weight where oneDNN gets it wrong, or never done: in bfloat16 on a CPU, above all with AMX.

There it is made of matrix products, one a tap: what each voxel's answer wants of what that tap saw. These are right, and with
AMX up to two and a half times as fast as oneDNN's gradients without it (docs/decisions.md). Those of large volumes are loops in C
where these were compiled (`odiff.network.native_convolution`), up to five times as fast again.
"""

import math
from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odiff.network.processor import has_amx

# What all taps see is copied side by side, for one product, up to so many values: many small products mostly wait for threads.
AT_ONCE = 2**24
# Else products are made of so many voxels at least and at most, and of about so many pieces.
LEAST, MOST, PIECES = 256, 2048, 32


def is_mishandled(x: Tensor, dtype: torch.dtype, conv: nn.Conv3d | nn.ConvTranspose3d) -> bool:
    """Whether oneDNN (3.12, of torch 2.13 and 2.14) is not to compute the gradient of the weight of ``conv(x)``, computed in `dtype`.

    In bfloat16 on a CPU it gives uninitialised memory where three taps go over two slices that it pads itself. With AMX a quarter
    of all shapes are wrong by 5 to 30 % or no numbers, write beyond their memory, or have threads wait for each other without end.
    """
    if x.device.type != "cpu" or dtype != torch.bfloat16 or conv.groups != 1:
        return False
    return has_amx() or (x.shape[2] == 2 and conv.kernel_size[0] == 3 and conv.stride[0] == 1)


def weight_gradient(gradient: Tensor, x: Tensor, conv: nn.Conv3d) -> Tensor:
    """Of a convolution's weight, by matrix products.

    Parameters
    ----------
    gradient : (b, outputs, z', y', x'), that of the answer.
    x : (b, inputs, z, y, x).

    Returns
    -------
    (outputs, inputs, *kernel) in the type of `x`, added up in float32 at least.
    """
    wants, sight = (_shifted if max(conv.stride) == 1 else _picked)(gradient, x, conv)
    (voxels, outputs), inputs, taps = wants.shape, x.shape[1], list(product(*map(range, conv.kernel_size)))
    if voxels * len(taps) * inputs <= AT_ONCE:
        found = (wants.t() @ torch.cat([sight(tap) for tap in taps], 1)).view(outputs, *conv.kernel_size, inputs)
        return found.permute(0, 4, 1, 2, 3)
    size = _chunk(voxels)
    # Each product would copy a strided table for itself.
    by_chunk = wants.view(-1, size, outputs).transpose(1, 2).contiguous()
    found = x.new_empty((*conv.kernel_size, outputs, inputs))
    for tap in taps:
        found[tap] = torch.bmm(by_chunk, sight(tap).view(-1, size, inputs)).sum(0)
    return found.permute(3, 4, 0, 1, 2)


Sight = Callable[[Sequence[int]], Tensor]


def _shifted(gradient: Tensor, x: Tensor, conv: nn.Conv3d) -> tuple[Tensor, Sight]:
    """What is wanted (voxels, outputs), and what each tap of stride 1 sees (voxels, inputs).

    Volumes with their margins are tables: a tap sees all of it, so many voxels further on, and in the margins nothing is wanted.
    """
    padding = padding_of(conv)
    size = [n + 2 * margin for n, margin in zip(x.shape[2:], padding, strict=True)]
    voxels = len(x) * math.prod(size)
    rows = _whole_chunks(voxels)

    def first(tap: Sequence[int]) -> int:
        down, along, across = (number * gap for number, gap in zip(tap, conv.dilation, strict=True))
        return (down * size[1] + along) * size[2] + across

    table = x.new_zeros(rows + first([n - 1 for n in conv.kernel_size]), x.shape[1])
    inside = (slice(None), *(slice(margin, margin + n) for margin, n in zip(padding, x.shape[2:], strict=True)))
    table[:voxels].view(len(x), *size, -1)[inside] = x.permute(0, 2, 3, 4, 1)
    wants = x.new_zeros(rows, gradient.shape[1])
    answered = (slice(None), *(slice(0, n) for n in gradient.shape[2:]))
    wants[:voxels].view(len(x), *size, -1)[answered] = gradient.permute(0, 2, 3, 4, 1)
    return wants, lambda tap: table[first(tap) : first(tap) + rows]


def _picked(gradient: Tensor, x: Tensor, conv: nn.Conv3d) -> tuple[Tensor, Sight]:
    """The same of any stride: what each tap sees is copied."""
    margins = [n for margin in reversed(padding_of(conv)) for n in (margin, margin)]
    seen, size = F.pad(x.permute(0, 2, 3, 4, 1), (0, 0, *margins)), gradient.shape[2:]
    voxels = len(x) * math.prod(size)
    more = _whole_chunks(voxels) - voxels

    def sight(tap: Sequence[int]) -> Tensor:
        steps = (
            slice(number * gap, number * gap + (have - 1) * step + 1, step)
            for number, gap, have, step in zip(tap, conv.dilation, size, conv.stride, strict=True)
        )
        here = (slice(None), *steps)
        return F.pad(seen[here].reshape(voxels, -1), (0, 0, 0, more))

    return F.pad(gradient.permute(0, 2, 3, 4, 1).reshape(voxels, -1), (0, 0, 0, more)), sight


def padding_of(conv: nn.Conv3d) -> list[int]:
    """In z, y and x."""
    return [int(n) for n in conv.padding]


def _whole_chunks(voxels: int) -> int:
    """So many voxels, or as many more as fill the last chunk."""
    return voxels + -voxels % _chunk(voxels)


def _chunk(voxels: int) -> int:
    """How many voxels a product adds up: many enough to be quick, few enough that there are some for each thread."""
    return min(MOST, max(LEAST, 2 ** math.ceil(math.log2(voxels / PIECES))))
