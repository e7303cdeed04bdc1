"""What the CPU has instructions for, as far as torch tells; its questions have no public names."""

import torch


def has_amx() -> bool:
    """Whether it multiplies tiles of bfloat16."""
    return _says("_is_amx_tile_supported")


def has_bfloat16() -> bool:
    """Whether it multiplies bfloat16 at all."""
    return has_amx() or _says("_is_avx512_bf16_supported")


def _says(question: str) -> bool:
    ask = getattr(torch.cpu, question, None)
    return bool(ask and ask())
