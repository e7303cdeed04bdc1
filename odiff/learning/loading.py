"""Trained networks, filled with their weights without drawing random ones first."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from odiff.training.checkpoint import Checkpoint, load_weights
from odiff.training.precision import place, precision_of

Network = TypeVar("Network", bound=nn.Module)


def trained_network(
    build: Callable[[], Network], checkpoint: Checkpoint, device: torch.device, is_compact: bool = False
) -> Network:
    """What `build` gives with the checkpoint's weights, on its device and in the layout that is fast there, ready to predict.

    `checkpoint` holds no tensors afterwards: each is held once. With `is_compact` the kernels of convolutions are kept in the type that
    autocast would round them to at each use, half the memory; such a network runs under autocast only.

    Raises
    ------
    CheckpointError
        A tensor is missing, left over, or has another shape.
    """
    with torch.device("meta"):
        network = build()
    weights = checkpoint.part("weights.")
    load_weights(network, weights, str(checkpoint.path))  # compares names and shapes; a meta tensor takes no values
    checkpoint.tensors.clear()
    dtype = precision_of(device).dtype if is_compact else None
    kernels = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Conv3d)}
    for name in weights:  # copies, so that no tensor keeps the file mapped into memory
        kind = dtype if dtype and name in kernels else weights[name].dtype
        weights[name] = weights[name].to(kind, copy=True)
    network.load_state_dict(weights, assign=True)
    return place(network, device).eval()
