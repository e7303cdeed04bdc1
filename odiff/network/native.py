"""The loops in C where they were compiled when odiff was installed, on Linux for AVX512; here those of norm_silu.c.

Without them `odiff.network.channels_last` does the same by several of torch's functions. They run in torch's own threads: the
libraries ask for OpenMP and find that of torch, which is loaded for all to see. Those of convolutions: `odiff.network.native_convolution`.
"""

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.profiler import record_function

PARTS = 32  # as norm_silu.c has it
TYPES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}


@cache
def library() -> ctypes.CDLL | None:
    """The loops of norm and SiLU; None where they were not compiled, or the processor has no AVX512."""
    return compiled("norm_silu")


def compiled(name: str) -> ctypes.CDLL | None:
    """What a file of C of that name became; None where it was not compiled, cannot be loaded, or the processor has no AVX512."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_{name}{suffix}")
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
    with record_function("odiff::norm_silu"):
        function(*pointers, *map(ctypes.c_void_p, rest))


def sums_of(channels: int) -> Tensor:
    """Zeros for the sums of a loop, (parts, 2, channels) float32."""
    return torch.zeros(PARTS, 2, channels)
