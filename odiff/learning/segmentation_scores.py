"""Validation of segmentation: whole series predicted, written and scored on their original grid."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odiff.data.batches import IGNORE
from odiff.data.store import open_array, read_stored
from odiff.geometry import write_volume
from odiff.learning.segment import Segmenter, labels_on_grid, probability_slabs
from odiff.metrics.segmentation import mean_scores, score_case
from odiff.plan import Plan
from odiff.storage import write_json


def validate_segmentation(
    prepared: Path, names: Sequence[str], network: Segmenter, plan: Plan, view: str, folder: Path
) -> dict[str, Any]:
    """Predict whole validation series, write them and ``summary.json`` with scores on the original grid."""
    device = next(network.parameters()).device
    cases: dict[str, Any] = {}
    for name in names:
        stored = read_stored(prepared, name)
        image = open_array(prepared / f"{name}.b2nd")[:]
        slabs = probability_slabs([network], image, plan, view, device)
        predicted = labels_on_grid(slabs, stored.geometry, plan)
        write_volume(folder / f"{name}{plan.file_ending}", predicted, stored.geometry.grid)
        truth = open_array(prepared / f"{name}_truth.b2nd")[:]
        cases[name] = score_case(predicted, truth, plan.labels, stored.geometry.grid.spacing_zyx_mm, truth == IGNORE)
    summary = {"mean": mean_scores(list(cases.values())), "cases": cases}
    write_json(folder / "summary.json", summary)
    return summary
