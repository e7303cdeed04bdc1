"""Embedding many preprocessed series, as training and validation do."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from odiff.data.batches import whole_views
from odiff.learning.diagnose import embed_tiles
from odiff.network.diagnosis import DiagnosisNetwork
from odiff.plan import Plan


@torch.no_grad()
def embed_series(network: DiagnosisNetwork, prepared: Path, names: Sequence[str], plan: Plan, view: str) -> Tensor:
    """Preprocessed series of a folder, by name -> (series, labels, width) on the CPU, each as `embed_volume` embeds it."""
    found = torch.zeros((len(names), *network.head.weight.shape))
    for numbers, tiles, owner in whole_views(prepared, names, plan.views[view].patch_zyx, network.read_at_once):
        found[numbers.start : numbers.stop] = embed_tiles(network, tiles, owner, len(numbers), plan, view).cpu()
    return found
