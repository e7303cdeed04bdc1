"""The calibration of a view as its results folder keeps it."""

from dataclasses import dataclass

from odiff.errors import CheckpointError
from odiff.learning.pretrained import ResultsFolder
from odiff.metrics.calibration import Calibration
from odiff.plan import from_plain
from odiff.storage import read_json

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class StoredCalibration:
    """A calibration, the folds it was fitted on, and how many cases."""

    labels: tuple[str, ...]
    folds: tuple[str, ...]
    cases: int
    calibration: Calibration


def read_calibration(results: ResultsFolder, view: str, task: str = "diagnosis") -> StoredCalibration | None:
    """The calibration of a view (or ``fused``); None where there is none."""
    path = results.of_task(view, task) / CALIBRATION
    if not path.exists():
        return None
    content = read_json(path, CheckpointError, "train again, or delete it")
    return from_plain(StoredCalibration, content, str(path), CheckpointError)
