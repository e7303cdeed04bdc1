"""The loops in C of norm_silu.c and weight_gradient.c, where they were compiled when odiff was installed: on Linux, for AVX512 and AMX.

Without them `odiff.network.channels_last` and `odiff.network.weight_gradient` do the same by several of torch's functions. They run
in torch's own threads: the libraries ask for OpenMP and find that of torch, which is loaded for all to see.
"""

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

from odiff.network.processor import has_amx

PARTS = 32  # as norm_silu.c has it
# Lines narrower than a product and volumes of few voxels are faster by torch's products; values of sums, and blocks of 32 voxels, at once.
NARROWEST, FEWEST_VOXELS, SUMS, BLOCKS = 32, 2**14, 2**22, 32
TILES = 32  # channels that are multiplied at once
TYPES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}


@cache
def library() -> ctypes.CDLL | None:
    """The loops of norm and SiLU; None where they were not compiled, or the processor has no AVX512."""
    return _compiled("_norm_silu") if torch.backends.cpu.get_cpu_capability() == "AVX512" else None


@cache
def amx_library() -> ctypes.CDLL | None:
    """The products of weight gradients; None where they were not compiled, or there is no AMX that this process may use."""
    loops = _compiled("_weight_gradient") if library() is not None and has_amx() else None
    return loops if loops is not None and loops.ask_for_tiles() == 0 else None


def _compiled(name: str) -> ctypes.CDLL | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"{name}{suffix}")
        if path.exists():
            try:
                return ctypes.CDLL(str(path))
            except OSError:  # another torch, without OpenMP or with it hidden
                return None
    return None


def suits(*volumes: Tensor) -> bool:
    """Whether the loops are there, for volumes of one type that lie channels last on the CPU."""
    first = volumes[0]
    return (
        first.device.type == "cpu"
        and first.dtype in TYPES
        and all(one.dtype == first.dtype for one in volumes)
        and library() is not None
    )


def call(name: str, table: Tensor, *more: Tensor) -> None:
    """Call a loop on a table (voxels, channels), contiguous; `more` are what norm_silu.c says, float32 but for tables.

    ``moments`` (sums), ``activated`` (out, factor, offset) or, of a gradient, ``to_linear`` (x, factor, offset, sums) and ``to_volume``
    (x, factor, slope, constant). The second of two tables comes before the sizes.
    """
    loops = library()
    if loops is None:
        raise RuntimeError("the loops are not there")
    second = [more[0].data_ptr()] if name != "moments" else []
    rest = [one.data_ptr() for one in (more if name == "moments" else more[1:])]
    function = loops[f"{name}_{TYPES[table.dtype]}"]
    pointers = (*map(ctypes.c_void_p, (table.data_ptr(), *second)), *map(ctypes.c_int64, table.shape))
    function(*pointers, *map(ctypes.c_void_p, rest))


def sums_of(channels: int) -> Tensor:
    """Zeros for the sums of a loop, (parts, 2, channels) float32."""
    return torch.zeros(PARTS, 2, channels)


def weight_gradient(
    gradient: Tensor, x: Tensor, kernel_zyx: Sequence[int], padding_zyx: Sequence[int]
) -> Tensor | None:
    """Of a convolution's weight, (outputs, inputs, *kernel) float32; None where weight_gradient.c is not for it, or not there.

    Parameters
    ----------
    gradient, x : (b, outputs, z', y', x') and (b, inputs, z, y, x), stride and dilation 1.
    """
    volumes, out = (gradient, x), gradient.shape[2:]
    is_for_it = (
        all(one.dtype == torch.bfloat16 and one.device.type == "cpu" for one in volumes)
        and out[2] >= NARROWEST and len(x) * math.prod(out) >= FEWEST_VOXELS
    )  # fmt: skip
    loops = amx_library() if is_for_it else None
    if loops is None:
        return None
    wanted, seen = map(_in_tiles, volumes)
    outputs, inputs = wanted.shape[1], seen.shape[1]
    sizes = torch.tensor([len(x), *x.shape[2:], *out, inputs, outputs, *kernel_zyx, *padding_zyx])
    parts = max(8, min(PARTS, SUMS // (math.prod(kernel_zyx) * outputs * inputs)))
    found = torch.zeros(parts, *kernel_zyx, outputs, inputs)
    lines = max(1, min(out[1], BLOCKS * 32 // out[2]))
    pointers = [ctypes.c_void_p(one.data_ptr()) for one in (wanted, seen, sizes)]
    failed = loops.weight_gradient(*pointers, *map(ctypes.c_int64, (parts, lines)), ctypes.c_void_p(found.data_ptr()))
    return None if failed else found.sum(0).permute(3, 4, 0, 1, 2)[: gradient.shape[1], : x.shape[1]]


def _in_tiles(volume: Tensor) -> Tensor:
    """The volume channels last, with channels of zeros up to whole tiles; itself where it is so."""
    b, c, *size = volume.shape
    if c % TILES == 0:
        return volume.contiguous(memory_format=torch.channels_last_3d)
    table = volume.new_zeros(b, *size, c + -c % TILES)
    table[..., :c] = volume.permute(0, 2, 3, 4, 1)
    return table.permute(0, 4, 1, 2, 3)
