"""The device and the precision that is fast on it."""

import os

import torch

from odiff.errors import UsageError


def choose_device(wanted: str) -> torch.device:
    """`auto`: the first GPU, else the CPU; anything else as torch names devices.

    Raises
    ------
    UsageError
        The device does not exist here.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as fault:
        raise UsageError(
            f"--device {wanted}: cannot be used here ({str(fault).splitlines()[0]}); try --device auto"
        ) from None
    return device


def is_bf16_fast(device: torch.device) -> bool:
    """Whether convolutions in bfloat16 run on special instructions of the device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(has and has())


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision where it pays, full precision elsewhere."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_bf16_fast(device))


def loading_processes(device: torch.device, wanted: int | None = None) -> int:
    """How many processes load data: `wanted`, or none on a CPU, where they would take the cores that compute."""
    if wanted is not None:
        return wanted
    return 0 if device.type == "cpu" else min(8, (os.cpu_count() or 2) // 2)
