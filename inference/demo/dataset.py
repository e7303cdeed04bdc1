"""The phantom dataset that a command writes: whole, or begun anew by the next call."""

import shutil
from pathlib import Path
from typing import Any

from odiff.dataset.description import DESCRIPTION
from odiff.errors import UsageError
from odiff.phantom import write_phantom_dataset

UNFINISHED = ".unfinished"


def write_dataset(folder: Path, *, seed: int, **settings: Any) -> None:
    """`write_phantom_dataset` with these settings; what an interrupted call left in `folder` is written anew.

    Raises
    ------
    UsageError
        As there, or a negative seed.
    """
    if seed < 0:
        raise UsageError(f"--seed {seed}: must be at least 0")
    unfinished = folder / UNFINISHED
    if folder.exists() and any(path != unfinished for path in folder.iterdir()):
        raise UsageError(f"{folder}: is not empty; choose another folder")
    shutil.rmtree(unfinished, ignore_errors=True)
    write_phantom_dataset(unfinished, seed=seed, **settings)
    for path in sorted(
        unfinished.iterdir(), key=lambda path: path.name == DESCRIPTION
    ):  # last what tells that it is whole
        path.rename(folder / path.name)
    unfinished.rmdir()
