"""Checkpoints that describe themselves: weights in safetensors with their plan, step and versions beside them."""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from odiff.errors import CheckpointError
from odiff.storage import atomic_path, digest_of_file
from odiff.vocabulary import restart_flags

# Counted up when networks name their tensors in another way.
FORMAT = 4


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and the description they were saved with."""

    path: Path
    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix`, without it."""
        return {name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and their JSON description to one safetensors file, whole or not at all."""
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(whole, temporary, metadata={"odiff": json.dumps(meta)})
        temporary.chmod(0o666 & ~_umask())  # the library lets nobody else read it


def _umask() -> int:
    """What new files are not allowed, which can be asked for only by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of `save_checkpoint`.

    Raises
    ------
    CheckpointError
        The file is missing, truncated, not one of odiff's, or of a version that named its tensors otherwise.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return Checkpoint(path, tensors, _described(path, file))


def read_meta(path: Path) -> dict[str, Any]:
    """What a checkpoint was saved with, without its tensors.

    Raises
    ------
    CheckpointError
        As `read_checkpoint` raises it.
    """
    with _opened(path) as file:
        return _described(path, file)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file of a checkpoint, its faults as `CheckpointError`."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:  # also of one that may not be read
        if path.exists():
            raise CheckpointError(f"{path}: you may not read it; change its permissions") from None
        raise CheckpointError(f"{path}: no such checkpoint; train with odiff_train first") from None
    except (SafetensorError, OSError) as fault:
        again = restart_flags(path.parent.name)
        raise CheckpointError(
            f"{path}: damaged checkpoint ({fault}); train it again with odiff_train {again}"
        ) from None


def _described(path: Path, file: Any) -> dict[str, Any]:
    """The description in an open checkpoint, which is of this format."""
    meta = (file.metadata() or {}).get("odiff")
    if meta is None:
        raise CheckpointError(f"{path}: not a checkpoint of odiff: it has no description")
    described: dict[str, Any] = json.loads(meta)
    if described.get("format", FORMAT) != FORMAT:
        raise CheckpointError(
            f"{path}: written by odiff {described.get('odiff')} in format {described['format']}, this one reads {FORMAT}; train again "
            f"with odiff_train {restart_flags(path.parent.name)}"
        )
    return described


def read_description(path: Path) -> dict[str, Any]:
    """What a checkpoint was saved with, without its tensors; empty where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {}).get("odiff", "{}"))
    except (SafetensorError, OSError):
        return {}
    return found


def tensors_digest(path: Path) -> str:
    """SHA-256 of a checkpoint's tensors alone, whatever it is described as: the file behind its header."""
    with path.open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + header)
        return digest_of_file(file)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], where: str, new: tuple[str, ...] = ()) -> None:
    """Load `weights` strictly; only parameters whose names start with one of `new` may stay as they are.

    Raises
    ------
    CheckpointError
        A tensor is missing, left over, or has another shape.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in weights and not name.startswith(new or ("\0",))]
    unknown = [name for name in weights if name not in own]
    differing = [name for name in weights if name in own and own[name].shape != weights[name].shape]
    for what, names in (("lacks", missing), ("has unknown", unknown), ("has another shape for", differing)):
        if names:
            raise CheckpointError(
                f"{where}: the checkpoint {what} {names[0]} ({len(names)} in all): it was trained with another plan; "
                f"train again with {restart_flags(Path(where).parent.name)}, or plan with --like"
            )
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)
