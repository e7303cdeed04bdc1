"""Where fine-tuning starts from: `auto`, `none`, a checkpoint, or another dataset's pretraining."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odiff.dataset import find_dataset
from odiff.errors import CheckpointError, DatasetError, UsageError
from odiff.learning.run import stands_on
from odiff.training.run_folder import RunFolder


@dataclass(frozen=True)
class ResultsFolder:
    """Fixed names under ``odiff_results/<dataset>/<plan>``.

    Runs that learn from a share of the labels lie in a folder of their own, so that they never stand for the full model.
    """

    path: Path
    label_fraction: float = 1.0

    def pretrain(self, view: str) -> RunFolder:
        """The diffusion model of a view."""
        return RunFolder(self.path / view / "pretrain")

    def of_task(self, view: str, task: str) -> Path:
        """The folder of all folds of a task; `view` may be ``fused``."""
        folder = self.path / view / task
        return folder if self.label_fraction == 1 else folder / f"fraction_{self.label_fraction:g}"

    def task(self, view: str, task: str, fold: str) -> RunFolder:
        """One fold of a task."""
        return RunFolder(self.of_task(view, task) / f"fold_{fold}")

    def folds(self, view: str, task: str) -> list[str]:
        """The folds of a task that are trained to the end, in order."""
        folders = sorted(self.of_task(view, task).glob("fold_*"))
        return [
            folder.name[len("fold_") :]
            for folder in folders
            if ".old-" not in folder.name and RunFolder(folder).is_trained()
        ]


def find_pretrained(
    wanted: str, results: ResultsFolder, results_root: Path | None, dataset: str, view: str
) -> Path | None:
    """The pretrained checkpoint that `wanted` stands for; None for ``none``.

    Parameters
    ----------
    wanted : ``auto`` (this dataset's), ``none``, a checkpoint file, a folder holding one, or a dataset's name.

    Raises
    ------
    CheckpointError, UsageError
        There is no such model; never falls back to random weights silently.
    """
    if wanted == "none":
        return None
    if wanted == "auto":
        path = results.pretrain(view).checkpoint("final")
        if not path.exists():
            raise CheckpointError(
                f"{path}: no pretrained {view} model; run odiff_train {dataset} {view} --task pretrain, "
                "or train from scratch with --pretrained none"
            )
        return path
    if given := named_checkpoint(wanted):
        return given
    path = results_of_dataset(wanted, results.path.name, results_root).pretrain(view).checkpoint("final")
    if not path.exists():
        raise CheckpointError(f"{path}: no pretrained {view} model; run odiff_train {wanted} {view} --task pretrain")
    return path


def started_from(results: ResultsFolder, view: str, config: Mapping[str, Any]) -> str | None:
    """The pretrained checkpoint that a run of a view, so described, began with; None without.

    Where it is not there any more and the view's own is the same, that one: the results were moved since.
    """
    stored, own = config["pretrained"], results.pretrain(view).checkpoint("final")
    is_moved = stored is not None and not Path(stored).exists() and own.exists() and stands_on(config, pretrained=own)
    return str(own) if is_moved else stored


def named_checkpoint(wanted: str) -> Path | None:
    """The checkpoint that is a file of that name or in a folder of that name; None where there is none."""
    given = Path(wanted)
    return next((path for path in (given, RunFolder(given).checkpoint("final")) if path.is_file()), None)


def results_of_dataset(wanted: str, plan_name: str, results_root: Path | None) -> ResultsFolder:
    """The results of another dataset, by number or name; a `UsageError` where there are none."""
    reason = "there is no results folder"
    if results_root:
        try:
            return ResultsFolder(find_dataset(results_root, wanted) / plan_name)
        except DatasetError as error:
            reason = str(error)
    raise UsageError(f"--pretrained {wanted}: neither auto, none, a checkpoint, nor a dataset with results ({reason})")
