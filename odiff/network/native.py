"""The loops of norm_silu.c, where they were compiled when odiff was installed: on Linux, for processors with AVX512.

Without them `odiff.network.channels_last` does the same by several of torch's functions. They run in torch's own threads: the
library asks for OpenMP and finds that of torch, which is loaded for all to see.
"""

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

PARTS = 32  # as norm_silu.c has it
TYPES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}


@cache
def library() -> ctypes.CDLL | None:
    """The compiled loops; None where there are none, or the processor has no AVX512."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_norm_silu{suffix}")
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
