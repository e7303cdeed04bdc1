"""What the networks of one fold, and the shared code, make of all volumes of a case."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from odiff.data.sliding_window import joined_tiles, split_tiles
from odiff.learning.code_model import one_tile
from odiff.learning.diagnose import embed_placed
from odiff.network.diagnosis import DiagnosisNetwork
from odiff.network.registration import shrunk, together
from odiff.network.shared_code import SharedCode
from odiff.plan import Plan

Images = Mapping[str, Sequence[np.ndarray]]


class CaseEmbedding(NamedTuple):
    """By view one row for each volume, on the CPU: of its network, before any fusion, (labels, width), and of the code, (width,)."""

    embedded: dict[str, list[Tensor]]
    codes: dict[str, list[Tensor]]


def embed_case(
    networks: Mapping[str, DiagnosisNetwork], code: SharedCode | None, images: Images, plan: Plan
) -> CaseEmbedding:
    """Preprocessed volumes (z, y, x) of one case by view, each view with a network, all brought to their templates at once."""
    seen = [
        (view, *joined_tiles([split_tiles(image, plan.views[view].patch_zyx)]))
        for view in networks
        for image in images.get(view, ())
    ]
    coded = (
        [
            (view, code.part(view), shrunk(one_tile(image, plan, view)))
            for view in code.views
            for image in images.get(view, ())
        ]
        if code
        else []
    )
    whole = [
        (networks[view].registration if len(tiles) == 1 else None, tiles.to(networks[view].head.weight.device))
        for view, tiles, _ in seen
    ]
    placed = together([*whole, *((part.registration, small) for _, part, small in coded)])
    found = CaseEmbedding({}, {})
    for (view, _, owner), tiles in zip(seen, placed[: len(seen)], strict=True):
        row = embed_placed(networks[view], tiles, owner.to(tiles.device), 1, plan, view)[0].cpu()
        found.embedded.setdefault(view, []).append(row)
    for (view, part, _), small in zip(coded, placed[len(seen) :], strict=True):
        found.codes.setdefault(view, []).append(part.of_placed(small)[0])
    return found
