"""postprocessing.json of a model folder: by view, the labels of which only the largest component is kept."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from odiff.data.labels import keep_largest
from odiff.errors import CheckpointError
from odiff.plan import Plan
from odiff.plan.parse import closest, convert
from odiff.storage import read_json, write_json

POSTPROCESSING = "postprocessing.json"
ADVICE = "run odiff_evaluate -d DATASET again, or delete it"

Kept = dict[str, tuple[str, ...]]


def read_postprocessing(folder: Path, plan: Plan) -> Kept:
    """View to label names; empty where odiff_evaluate has not decided yet.

    Raises
    ------
    CheckpointError
        Broken JSON, or a view or label that the plan lacks.
    """
    path = folder / POSTPROCESSING
    if not path.exists():
        return {}
    content = read_json(path, CheckpointError, ADVICE)
    kept = convert(Kept, content, str(path), CheckpointError)
    if not isinstance(kept, dict):
        raise CheckpointError(f"{path}: expected an object; {ADVICE}")
    foreground = [name for name in plan.labels if name != "background"]
    for view, names in kept.items():
        if view not in plan.views:
            raise CheckpointError(f"{path}: view {view!r} is not in the plan{closest(view, plan.views)}; {ADVICE}")
        for name in names:
            if name not in foreground:
                raise CheckpointError(f"{path}: {view}: unknown label {name!r}{closest(name, foreground)}; {ADVICE}")
    return kept


def decided_before(folder: Path) -> Kept:
    """What the file holds, whatever plan it is of; nothing where it is missing or broken."""
    try:
        return convert(Kept, read_json(folder / POSTPROCESSING, CheckpointError, ADVICE), "", CheckpointError)
    except CheckpointError:
        return {}


def write_postprocessing(folder: Path, kept: Mapping[str, tuple[str, ...]]) -> None:
    """Store the decision beside the models, where odiff_predict finds it."""
    write_json(folder / POSTPROCESSING, {view: list(names) for view, names in kept.items()})


def cleaned(labels: np.ndarray, names: tuple[str, ...], plan: Plan) -> np.ndarray:
    """Label values (z, y, x) with only the largest component left of each structure in `names`."""
    return keep_largest(labels, [plan.labels[name] for name in names]) if names else labels
