"""Number type and memory layout in which convolutions run fastest on a device.

The rules come from measurements (docs/performance.md) and ask the device what it can, so that the same machine always
computes alike and a resumed run ends like an undisturbed one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from odiff.errors import UsageError
from odiff.network.processor import has_bfloat16
from odiff.vocabulary import AUTO

NAMES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
Network = TypeVar("Network", bound=nn.Module)
AMPERE = (8, 0)


@dataclass(frozen=True)
class Precision:
    """`name` of the type that convolutions run in, whether volumes lie channels last, and the reason of both."""

    name: str
    is_channels_last: bool
    reason: str

    @property
    def dtype(self) -> torch.dtype | None:
        """The type of autocast; None for float32 throughout."""
        return NAMES[self.name]

    @property
    def memory_format(self) -> torch.memory_format:
        """How volumes and convolution weights lie in memory."""
        return torch.channels_last_3d if self.is_channels_last else torch.contiguous_format

    @property
    def value_bytes(self) -> int:
        """Bytes of an activation that autograd keeps."""
        return 4 if self.dtype is None else 2


_CHOSEN: dict[str, Precision] = {}


def fastest_precision(device: torch.device) -> Precision:
    """What measured fastest on devices that can what this one can."""
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= AMPERE:
            return Precision("bfloat16", True, "the GPU multiplies bfloat16 on tensor cores")
        return Precision("float16", True, "the GPU has no bfloat16; float16 with a scaled loss")
    if device.type != "cpu":
        return Precision("float32", False, f"nothing is known of {device.type}")
    capability = torch.backends.cpu.get_cpu_capability()
    if has_bfloat16():
        return Precision("bfloat16", True, "the CPU has bfloat16 instructions (AMX or AVX512-bf16)")
    if capability == "AVX512":
        return Precision("float32", True, "AVX512 without bfloat16: channels last runs 1.1x faster")
    return Precision("float32", False, f"{capability}: float32 channels last runs several times slower here")


def fix_precision(wanted: str, device: torch.device) -> None:
    """For the rest of this process: `auto`, or the type in place of what `fastest_precision` says for that kind of device.

    Like `torch.set_num_threads` it is a setting of the process; commands call it once.

    Raises
    ------
    UsageError
        There is no such type.
    """
    _CHOSEN.pop(device.type, None)
    torch.backends.cudnn.allow_tf32 = wanted != "float32"
    if wanted == AUTO:
        return
    if wanted not in NAMES:
        raise UsageError(f"--precision {wanted}: must be one of {', '.join((AUTO, *NAMES))}")
    usual = fastest_precision(device)
    is_channels_last = usual.is_channels_last or (device.type == "cpu" and wanted != "float32")
    _CHOSEN[device.type] = Precision(wanted, is_channels_last, f"asked for; {usual.name} is usual: {usual.reason}")


def precision_of(device: torch.device) -> Precision:
    """The precision that networks on `device` train and predict in."""
    return _CHOSEN.get(device.type) or fastest_precision(device)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within it a GPU multiplies float32 as float32; left to itself torch lets convolutions round to TF32, 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision where it pays, float32 elsewhere."""
    dtype = precision_of(device).dtype
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def place(network: Network, device: torch.device) -> Network:
    """The network on `device`, its weights laid out as `precision_of` says."""
    return network.to(device, memory_format=precision_of(device).memory_format)  # type: ignore[call-overload]
