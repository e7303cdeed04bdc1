"""The folder of one training run: what is in it, and how a run is found done, resumed or moved aside."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from odiff.errors import CheckpointError, TrainingError
from odiff.storage import explained, read_json, write_json, write_text
from odiff.vocabulary import restart_flags

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """Fixed names inside a run's folder."""

    path: Path

    def checkpoint(self, kind: str) -> Path:
        """`kind` is latest, best or final; beside a fusion also ``code``, what reads the views' shared code."""
        return self.path / f"checkpoint_{kind}.safetensors"

    @property
    def metrics(self) -> Path:
        """One JSON object per line: step, loss, rates, and what validation found."""
        return self.path / "metrics.jsonl"

    @property
    def config(self) -> Path:
        """The effective plan and every choice of this run."""
        return self.path / "config.json"

    @property
    def validation(self) -> Path:
        """Predictions and scores of the validation cases."""
        return self.path / "validation"

    def forget_validation(self) -> None:
        """Remove the scores of the network before more steps: where they are missing validation is made anew."""
        for name in ("predictions.csv", "summary.json"):
            (self.validation / name).unlink(missing_ok=True)

    def is_trained(self) -> bool:
        """Whether all steps were made."""
        return self.checkpoint("final").exists()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others from training into the folder meanwhile; the lock lies beside it and ends with the process at the latest.

        Raises
        ------
        TrainingError
            Another process has it.
        """
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0)
        new = [folder for folder in self.path.parents if not folder.exists()]
        try:
            with explained(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                lock.acquire()
        except Timeout:
            raise TrainingError(
                f"{self.path}: another process trains into this folder; wait until it ends, or stop it first"
            ) from None
        except NotImplementedError:
            log.warning("%s: its file system knows no locks: see to it that no other process trains there", self.path)
        try:
            yield
        finally:
            lock.release()
            if not self.path.exists():  # refused before it began: nothing shall be left
                Path(lock.lock_file).unlink(missing_ok=True)
                _remove_empty(new)

    def move_aside(self) -> Path | None:
        """Rename an earlier run to ``<name>.old-N``; None where there is none."""
        if not self.path.exists():
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        self.path.rename(aside)
        return aside

    def write_config(self, config: dict[str, Any]) -> None:
        """Store the run's configuration."""
        write_json(self.config, config)

    def read_config(self) -> dict[str, Any]:
        """The stored configuration."""
        return read_json(self.config, CheckpointError, f"train again with odiff_train {restart_flags(self.path.name)}")

    def append_metrics(self, entry: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; a line cut short by a crash is left out."""
        if not self.metrics.exists():
            return []
        return [entry for line in self.metrics.read_text(encoding="utf-8").splitlines() if (entry := _parse(line))]

    def drop_metrics_after(self, step: int) -> None:
        """Forget what was logged after the checkpoint that a run resumes from."""
        kept = [entry for entry in self.read_metrics() if entry["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(entry) + "\n" for entry in kept))


def _parse(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the innermost first, until one holds something."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
