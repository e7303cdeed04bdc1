"""Convolutions in bfloat16 and the gradients of their weights by the loops of convolution.c and weight_gradient.c, where they are faster.

They are by AMX, or by AVX512's products of pairs and Winograd's sums of neighbours, two thirds of the products of three taps (F(2, 3) and
F(3, 2); Lavin and Gray 2016). These sums are rounded to bfloat16 like their terms: gradients of weights are 1.5 to 1.6 times as
far off as by rounding these alone (docs/decisions.md).
"""

import ctypes
import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.autograd.profiler import record_function

from odiff.network import native
from odiff.network.processor import has_amx, has_bfloat16

CHANNELS, PAIRS = 32, 16  # of each side, and of voxels, that are multiplied at once
# Convolutions of fewer voxels, or of fewer inputs and taps of other lines, are faster by oneDNN, as are lines that fill no tiles.
FEWEST_ANSWERS, FEWEST_PRODUCTS, ABREAST, WASTE = 2**11, 192, 8, 1.15
# Tiles of a piece of a line, as convolution.c has it; values of laid-out lines, and lines, that are worked on together.
PIECE, IN_CACHE, MOST_LINES = 32, 2**18, 8
# Of gradients, lines narrower than a product and volumes of few voxels; values of sums, and blocks of 32 voxels, at once.
NARROWEST, FEWEST_VOXELS, SUMS, BLOCKS = 32, 2**14, 2**22, 32
LEAST_PARTS, MOST_PARTS = 8, 32


@cache
def convolutions() -> ctypes.CDLL | None:
    """Those of AVX512; None where they were not compiled, there are no products of bfloat16, or AMX, with which oneDNN is faster."""
    return native.compiled("convolution") if has_bfloat16() and not has_amx() else None


@cache
def weight_gradients() -> ctypes.CDLL | None:
    """None where they were not compiled, or the processor has no products of bfloat16."""
    return native.compiled("weight_gradient") if has_bfloat16() else None


@cache
def _may_use_tiles(loops: ctypes.CDLL) -> bool:
    return has_amx() and loops.ask_for_tiles() == 0


def suits(size: Sequence[int], outputs: int, kernel_zyx: Sequence[int], padding_zyx: Sequence[int]) -> bool:
    """Whether a convolution of a volume (b, inputs, z, y, x) with stride and dilation 1 is faster by the loops, and they are there."""
    b, inputs, *seen = size
    z, y, x = (n + 2 * margin - k + 1 for n, margin, k in zip(seen, padding_zyx, kernel_zyx, strict=True))
    return (
        kernel_zyx[2] == 3 and inputs % CHANNELS == outputs % CHANNELS == 0 and min(z, y, x) > 0
        and b * z * y * x >= FEWEST_ANSWERS and kernel_zyx[0] * kernel_zyx[1] * inputs >= FEWEST_PRODUCTS
        and x + -x % ABREAST <= WASTE * x and convolutions() is not None
    )  # fmt: skip


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, padding_zyx: Sequence[int]) -> Tensor:
    """That of a volume which `suits`, with stride and dilation 1.

    Parameters
    ----------
    x, weight, bias : (b, inputs, z, y, x), (outputs, inputs, *kernel) and (outputs,) or None, bfloat16 on the CPU.

    Returns
    -------
    (b, outputs, z', y', x') bfloat16, channels last.

    Raises
    ------
    RuntimeError
        Where the loops are not there.
    MemoryError
    """
    loops = convolutions()
    if loops is None:
        raise RuntimeError("the loops are not there")
    outputs, inputs, *kernel = weight.shape
    x = x.contiguous(memory_format=torch.channels_last_3d)
    out = [n + 2 * margin - k + 1 for n, margin, k in zip(x.shape[2:], padding_zyx, kernel, strict=True)]
    found = torch.empty((len(x), outputs, *out), dtype=x.dtype, memory_format=torch.channels_last_3d)
    biases = torch.zeros(outputs) if bias is None else bias.float()
    sizes = torch.tensor([*_sizes(x, found), *kernel, *padding_zyx])
    lines = max(1, min(MOST_LINES, IN_CACHE // (4 * kernel[0] * PIECE * inputs) - kernel[1] + 1))
    products = _products(weight)
    pointers = [ctypes.c_void_p(one.data_ptr()) for one in (x, products, biases, sizes)]
    with record_function("odiff::convolution"):
        failed = loops.convolution(*pointers, ctypes.c_int64(lines), ctypes.c_void_p(found.data_ptr()))
    if failed:
        raise MemoryError("convolution.c")
    return found


def _products(weight: Tensor) -> Tensor:
    """What each of a tile's four products multiplies, (outputs / 32, 4, taps of z and y, inputs / 2, 32, 2)."""
    outputs, inputs, *kernel = weight.shape
    first, middle, last = weight.float().unbind(-1)
    ends = (first + last) / 2
    four = torch.stack([first, ends + middle / 2, ends - middle / 2, last])
    in_blocks = four.view(4, outputs // CHANNELS, CHANNELS, inputs // 2, 2, kernel[0] * kernel[1])
    return in_blocks.permute(1, 0, 5, 3, 2, 4).to(weight.dtype).contiguous()


def weight_gradient(
    gradient: Tensor, x: Tensor, kernel_zyx: Sequence[int], padding_zyx: Sequence[int]
) -> Tensor | None:
    """Of a convolution's weight, (outputs, inputs, *kernel) float32; None where the loops are not faster, or not there.

    Parameters
    ----------
    gradient, x : (b, outputs, z', y', x') and (b, inputs, z, y, x), stride and dilation 1.
    """
    volumes, out = (gradient, x), gradient.shape[2:]
    is_for_it = (
        all(one.dtype == torch.bfloat16 and one.device.type == "cpu" for one in volumes)
        and out[2] >= NARROWEST and len(x) * math.prod(out) >= FEWEST_VOXELS
    )  # fmt: skip
    loops = weight_gradients() if is_for_it else None
    if loops is None:
        return None
    wanted, seen = map(_in_tiles, volumes)
    outputs, inputs = wanted.shape[1], seen.shape[1]
    has_tiles = _may_use_tiles(loops)
    # Lines are made up to 64 voxels with Winograd, to 32 without.
    by_winograd = not has_tiles and kernel_zyx[2] == 3 and out[2] % (4 * PAIRS) not in range(1, 2 * PAIRS + 1)
    sizes = torch.tensor([*_sizes(seen, wanted), *kernel_zyx, *padding_zyx])
    parts = max(LEAST_PARTS, min(MOST_PARTS, SUMS // (math.prod(kernel_zyx) * outputs * inputs)))
    found = torch.zeros(parts, *kernel_zyx[:2], 4 if by_winograd else kernel_zyx[2], outputs, inputs)
    lines = max(1, min(out[1], BLOCKS * 32 // out[2]))
    pointers = [ctypes.c_void_p(one.data_ptr()) for one in (wanted, seen, sizes)]
    numbers = map(ctypes.c_int64, (parts, lines, by_winograd, has_tiles))
    with record_function("odiff::weight_gradient"):
        failed = loops.weight_gradient(*pointers, *numbers, ctypes.c_void_p(found.data_ptr()))
    if failed:
        return None
    taps = found.sum(0)
    if by_winograd:
        first, added, subtracted, last = taps.unbind(2)
        outer = (added + subtracted) / 2
        taps = torch.stack([first + outer, (added - subtracted) / 2, outer - last], 2)
    return taps.permute(3, 4, 0, 1, 2)[: gradient.shape[1], : x.shape[1]]


def _sizes(x: Tensor, answer: Tensor) -> list[int]:
    return [len(x), *x.shape[2:], *answer.shape[2:], x.shape[1], answer.shape[1]]


def _in_tiles(volume: Tensor) -> Tensor:
    """The volume channels last, with channels of zeros up to whole tiles; itself where it is so."""
    b, c, *size = volume.shape
    if c % CHANNELS == 0:
        return volume.contiguous(memory_format=torch.channels_last_3d)
    table = volume.new_zeros(b, *size, c + -c % CHANNELS)
    table[..., :c] = volume.permute(0, 2, 3, 4, 1)
    return table.permute(0, 4, 1, 2, 3)
