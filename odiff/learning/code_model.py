"""The shared code as prediction needs it; learning it is `odiff.learning.shared_code` and `odiff.learning.code_diagnosis`.

Apart from them, because what learns needs packages that are slow to import.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from odiff.data.sliding_window import split_tiles
from odiff.network.shared_code import CodeDiagnosis, SharedCode
from odiff.plan import Plan
from odiff.training.checkpoint import load_weights, read_checkpoint

CODE = "code"


def build_code(plan: Plan, views: Sequence[str], width: int) -> SharedCode:
    """The code of these views, not learnt yet."""
    return SharedCode({view: plan.views[view].patch_zyx for view in views}, width)


def one_tile(image: np.ndarray, plan: Plan, view: str) -> Tensor:
    """A preprocessed volume (z, y, x) as (1, 1, z, y, x) of the view's patch size: its middle, with air around it."""
    patch = plan.views[view].patch_zyx
    margin = [max(0, size - wanted) // 2 for size, wanted in zip(image.shape, patch, strict=True)]
    middle = image[tuple(slice(low, low + wanted) for low, wanted in zip(margin, patch, strict=True))]
    return torch.from_numpy(split_tiles(middle.astype(np.float32), patch)[0][None])


def code_rows(views: Sequence[str], width: int, codes: Mapping[str, list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Codes (width,) of one case by view -> rows (1, views, width), the series of a view averaged, and which are there."""
    rows, present = torch.zeros((1, len(views), width)), torch.zeros((1, len(views)), dtype=torch.bool)
    for number, view in enumerate(views):
        if found := codes.get(view):
            rows[0, number], present[0, number] = torch.stack(found).mean(dim=0), True
    return rows, present


def load_code_diagnosis(path: Path, plan: Plan) -> CodeDiagnosis:
    """A trained diagnosis from the shared code, ready to predict."""
    checkpoint = read_checkpoint(path)
    code = build_code(plan, checkpoint.meta["code_views"], checkpoint.meta["width"])
    network = CodeDiagnosis(code, len(plan.diagnoses))
    load_weights(network, checkpoint.part("weights."), str(path))
    return network.eval()
