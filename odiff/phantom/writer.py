"""Phantom cohorts as dataset folders, one study in memory at a time."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from odiff.errors import UsageError
from odiff.geometry import VIEWS, write_volume
from odiff.phantom.atlas import AtlasSource
from odiff.phantom.study import JOINTS, PHANTOM_VERSION, Study, given_shapes, make_study, scanners_of
from odiff.phantom.table import COLUMNS
from odiff.storage import write_json, write_text

Progress = Callable[[int], None]
Job = tuple[str, int, int, str, AtlasSource | None, float, tuple[str, ...]]


def write_phantom_dataset(
    folder: Path, *, joint: str, cases: int, seed: int, test_cases: int = 0, masked_cases: int | None = None,
    size: str = "demo", processes: int = 1, progress: Progress | None = None, atlas: AtlasSource | None = None,
    messy: float = 0.0, centers: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Write a dataset folder of phantom studies.

    Parameters
    ----------
    cases, test_cases : studies in imagesTr, and held-out ones in imagesTs with their truth in labelsTs.
    masked_cases : how many training cases have masks; all by default.
    progress : called with 1 after each study.
    atlas : a label map to take structures from.
    messy, centers : share of cases and labels with a gap, and hospitals, see `make_study`.

    Raises
    ------
    UsageError
        An unknown joint or hospital, no cases, a folder that holds something already, or an atlas that cannot be used.
    """
    if joint not in JOINTS:
        raise UsageError(f"--joint {joint}: not one of {', '.join(JOINTS)}")
    if cases < 1:
        raise UsageError(f"--cases {cases}: must be at least 1")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder}: is not empty; choose another folder")
    if atlas:
        given_shapes(joint, atlas)
    scanners_of(centers)
    if not 0 <= messy < 1:
        raise UsageError(f"--messy {messy}: must be at least 0 and below 1")
    masked = cases if masked_cases is None else masked_cases
    rows = []
    jobs = [(joint, number, seed, size, atlas, messy, centers) for number in range(cases + test_cases)]
    for number, study in _studies(jobs, processes):
        is_test = number >= cases
        name = f"{joint}_{number:05d}"
        write_study(folder, name, study, "Ts" if is_test else "Tr", is_test or number < masked)
        rows.append({"case": name, "patient": f"P{number:05d}", **describe(study)})
        if progress:
            progress(1)
    write_text(folder / "cases.csv", as_csv(sorted(rows, key=lambda row: row["case"])))
    write_json(folder / "dataset.json", dataset_json(joint))


def _studies(jobs: Sequence[Job], processes: int) -> Iterator[tuple[int, Study]]:
    if processes <= 1:
        yield from map(_numbered_study, jobs)
        return
    from multiprocessing import get_context

    with get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_numbered_study, jobs)


def _numbered_study(job: Job) -> tuple[int, Study]:
    return job[1], make_study(*job)


def write_study(folder: Path, name: str, study: Study, part: str, is_masked: bool) -> None:
    """Images into ``images<part>`` and, where masked, label maps into ``labels<part>``."""
    for suffix, series in study.series.items():
        file = f"{name}_{suffix}.nii.gz"
        write_volume(folder / f"images{part}" / file, series.image.array.round().astype("int16"), series.image.grid)
        if is_masked:
            write_volume(folder / f"labels{part}" / file, series.mask.astype("uint8"), series.image.grid)


def describe(study: Study) -> dict[str, Any]:
    """The row of cases.csv but for case and patient."""
    return {
        "laterality": study.laterality, "center": study.center, "field_strength_t": study.field_strength_t,
        **study.table, **study.diagnoses,
    }  # fmt: skip


def dataset_json(joint: str) -> dict[str, Any]:
    """The description of a phantom cohort."""
    return {
        "name": f"{joint} phantom {PHANTOM_VERSION}",
        "joint": joint,
        "file_ending": ".nii.gz",
        "views": list(VIEWS),
        "segmentation": {"labels": JOINTS[joint].labels},
        "diagnosis": {"labels": list(JOINTS[joint].diagnoses)},
        "tabular": dict(COLUMNS),
        "groups": ["center", "field_strength_t"],
    }


def as_csv(rows: list[dict[str, Any]]) -> str:
    """A case table with the columns of its first row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
