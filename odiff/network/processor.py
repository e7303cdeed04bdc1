"""What the CPU has instructions for, as far as torch tells; its questions have no public names."""

import os

import torch

UNLIMITED = ("", "ALL", "DEFAULT")


def has_amx() -> bool:
    """Whether it multiplies tiles of bfloat16, and oneDNN was not told by ONEDNN_MAX_CPU_ISA to leave them alone."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return (limit in UNLIMITED or "AMX" in limit) and _says("_is_amx_tile_supported")


def has_bfloat16() -> bool:
    """Whether it multiplies bfloat16 at all."""
    return has_amx() or _says("_is_avx512_bf16_supported")


def _says(question: str) -> bool:
    ask = getattr(torch.cpu, question, None)
    return bool(ask and ask())
