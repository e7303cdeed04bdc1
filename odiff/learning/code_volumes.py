"""What the shared code sees of many preprocessed series, as learning it and from it do."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from odiff.data.store import open_array
from odiff.learning.code_model import one_tile
from odiff.learning.context import Context
from odiff.network.bending import AT_ONCE
from odiff.network.registration import shrunk


def small_volumes(context: Context, view: str, names: Sequence[str], device: torch.device) -> Iterator[Tensor]:
    """The series of a view, shrunk, (n, 1, z, y, x) on the device, `AT_ONCE` and in the end fewer at a time."""
    prepared = context.prepared(view)
    for first in range(0, len(names), AT_ONCE):
        some = (open_array(prepared / f"{name}.b2nd")[:] for name in names[first : first + AT_ONCE])
        yield torch.cat([shrunk(one_tile(image, context.plan, view)) for image in some]).to(device)
