"""CUDA graphs: a GPU is given a whole pass through a network at once, where kernel after kernel it waits for Python.

A step of a network for 16x64x64 voxels keeps an H100 busy for 5 ms and takes 30 without (docs/performance.md).
"""

import logging

import torch
from torch import nn

from odiff.network.diagnosis import DiagnosisNetwork
from odiff.network.paper import PaperUNet
from odiff.network.segmentation import SegmentationNetwork
from odiff.network.unet import UNet
from odiff.training.precision import precision_of

log = logging.getLogger(__name__)
KNOWN = (UNet, PaperUNet, SegmentationNetwork)


def record(network: nn.Module, shape: tuple[int, ...], device: torch.device, accumulate: int) -> bool:
    """Let training passes of ``network(x, t)`` replay a recording of one; whether they do.

    Prediction, and passes in evaluation mode, are not recorded. Where the GPU cannot record, or gradients of several passes are added
    up, which would be written over each other, the network stays as it was.

    Parameters
    ----------
    shape : of x, (b, 1, z, y, x), the same in every pass; t is (b,) int64.
    """
    if accumulate > 1 or not isinstance(network, KNOWN):
        return False
    return _is_recorded(network, shape, device)


def record_diagnosis(network: DiagnosisNetwork, shape: tuple[int, ...], device: torch.device) -> bool:
    """As `record`, of what a diagnosis network does with batches of tiles of a shape; batches of more tiles stay as they were."""
    passes = network.tile_embedding()
    if not _is_recorded(passes, shape, device):
        return False
    network.recorded = passes, torch.Size(shape)
    return True


def _is_recorded(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    x, t = torch.zeros(shape, device=device), torch.zeros(shape[0], dtype=torch.long, device=device)
    dtype, before = precision_of(device).dtype, network.training
    network.train()
    try:
        # a stream to record on is made on the current device, whichever the network is on
        with (
            torch.cuda.device(device),
            torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False),
        ):
            torch.cuda.make_graphed_callables(network, (x, t), allow_unused_input=True)
    except RuntimeError as fault:
        log.warning("training runs without a CUDA graph, slower: %s", str(fault).splitlines()[0])
        return False
    finally:
        network.train(before)
        network.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()  # what the passes before the recording held
    return True
