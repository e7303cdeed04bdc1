"""Weights that the paper's authors released: read without running anything of the file, checked name by name."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from odiff.diffusion import ALPHA_BAR
from odiff.errors import CheckpointError

AVERAGE = "ema"
PREFIXES = ("denoise_fn.module.", "denoise_fn.")
BUFFER = "alphas_cumprod"
SHOWN = 5
TOLERANCE = 1e-4


def read_released(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The averaged weights of a released checkpoint, under the names of odiff's network.

    Parameters
    ----------
    path : a ``.pt`` file: a dict whose ``ema`` (or the file itself) maps ``denoise_fn.NAME`` or ``denoise_fn.module.NAME`` to tensors.
        Other names there are the schedule's buffers, which are compared with the cosine schedule and left out.
    shapes : shape of every tensor that the network has, by name.

    Raises
    ------
    CheckpointError
        The file cannot be read as tensors alone, or tensors are missing, extra, or of another shape; the message lists them.
    """
    weights = _network_weights(_state(path), path)
    missing = sorted(set(shapes) - set(weights))
    extra = sorted(set(weights) - set(shapes))
    misshapen = [
        f"{name} is {tuple(weights[name].shape)}, should be {shape}"
        for name, shape in shapes.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    faults = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (("missing", missing), ("extra", extra), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"{path}: not weights of the paper's network ({len(shapes)} tensors): {'; '.join(faults)}; give the file as its authors "
            "released it"
        )
    odd = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if odd:
        raise CheckpointError(f"{path}: tensor {odd[0]} holds NaN or Inf ({len(odd)} such tensors); get the file again")
    return {name: weights[name].float() for name in shapes}


# What files that are none do to the reader, whose stack machine they drive.
UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError,
    ImportError, MemoryError, AssertionError,
)  # fmt: skip


def _state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the .pt file of the released weights")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of other pickle protocols, before it refuses them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as fault:
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        reason = "a pickle that needs code to run" if "weights_only" in reason else reason
        raise CheckpointError(
            f"{path}: cannot be read as tensors alone ({reason}); odiff runs no code of a checkpoint: give the released .pt file"
        ) from None
    state = content.get(AVERAGE, content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state or not all(isinstance(one, Tensor) for one in state.values()):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{path}: expected a dict with the weights under {AVERAGE!r}, found {found}; give the released .pt file"
        )
    return state


def _network_weights(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        prefix = next((one for one in PREFIXES if name.startswith(one)), None)
        if prefix:
            weights[name[len(prefix) :]] = tensor
        elif name == BUFFER:
            _check_schedule(tensor, path)
    return weights


def _check_schedule(alpha_bar: Tensor, path: Path) -> None:
    wanted = ALPHA_BAR["cosine"](len(alpha_bar)).float()
    if not torch.allclose(alpha_bar.float(), wanted, atol=TOLERANCE):
        raise CheckpointError(
            f"{path}: its schedule ({BUFFER} of {len(alpha_bar)} steps) is not the cosine schedule of the paper"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
