"""The device, and how many cores of it may be used."""

import os
from pathlib import Path

import torch

from odiff.errors import UsageError

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


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


def usable_cores() -> int:
    """Cores that this process may really use: its affinity, and a container's quota (cgroup v2) where there is one.

    Threads beyond them do not only idle: they wait for each other, and convolutions run several times slower.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(CPU_QUOTA.read_text(encoding="utf-8")) if CPU_QUOTA.exists() else None
    return cores if quota is None else max(1, min(cores, quota))


def _quota(text: str) -> int | None:
    """Whole cores of ``cpu.max``, "<microseconds> <period>" or "max <period>"."""
    given, period = text.split()
    return None if given == "max" else int(given) // int(period)


def use_cores(wanted: int | None = None) -> int:
    """Compute with `wanted` threads, or with one a physical core that this process may use; the number of threads.

    Raises
    ------
    UsageError
        `wanted` is no number of threads.
    """
    if wanted is not None and wanted < 1:
        raise UsageError(f"--threads {wanted}: must be at least 1")
    threads = wanted or min(torch.get_num_threads(), usable_cores())
    torch.set_num_threads(threads)
    return threads


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what was asked of it, as who times it must; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def loading_processes(device: torch.device, wanted: int | None = None) -> int:
    """How many processes load data: `wanted`, or none on a CPU, where they would take the cores that compute."""
    if wanted is not None:
        return wanted
    return 0 if device.type == "cpu" else min(8, usable_cores() // 2)
