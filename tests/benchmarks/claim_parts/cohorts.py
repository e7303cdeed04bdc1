"""The cohorts of the claims: phantom patients by hospital, some without labels, and knees of real anatomy.

Labelled patients come from hospitals A and C, 3 T both. Scans without labels come from these and four more, whose sequences differ; J
(fat less suppressed, other noise and pixels) and I (another field strength) are in nobody's training.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import odiff.phantom
from odiff.data.index import read_index
from odiff.phantom import JOINTS, PHANTOM_VERSION, make_study
from odiff.phantom.atlas import AtlasSource
from odiff.phantom.writer import as_csv, dataset_json, describe, write_study
from odiff.storage import write_json, write_text

SIZE = "demo"
OWN, ELSEWHERE = ("A", "C"), ("A", "C", "E", "F", "G", "H")
VALIDATION_SHARE = 0.2
ATLAS_VALUES = (
    ("femur", (5,)), ("tibia", (6,)), ("patella", (7,)), ("fibula", (8,)), ("femoral_cartilage", (1,)),
    ("tibial_cartilage", (2, 3)), ("patellar_cartilage", (4,)), ("medial_meniscus", (10,)), ("lateral_meniscus", (9,)),
)  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Patients of one kind; the first `masked` have masks."""

    name: str
    cases: int
    seed: int
    centers: tuple[str, ...]
    is_labelled: bool = True
    masked: int = 0


@dataclass(frozen=True)
class Cohort:
    """A training dataset and its test sets."""

    dataset: str
    joint: str
    training: tuple[Group, ...]
    tests: tuple[Group, ...]
    is_real_anatomy: bool = False


COHORTS = {
    "knee": Cohort(
        "Dataset001_Knee", "knee",
        (Group("labelled", 200, 101, OWN, masked=100), Group("unlabelled", 1000, 102, ELSEWHERE, is_labelled=False)),
        (
            Group("same", 400, 103, OWN, masked=100),
            Group("centre", 200, 104, ("J",), masked=100),
            Group("field", 200, 105, ("I",), masked=100),
        ),
    ),
    "ankle": Cohort("Dataset002_Ankle", "ankle", (Group("labelled", 200, 111, OWN),), (Group("same", 200, 112, OWN),)),
    "shoulder": Cohort(
        "Dataset003_Shoulder", "shoulder", (Group("labelled", 200, 121, OWN),), (Group("same", 200, 122, OWN),)
    ),
    "atlas": Cohort(
        "Dataset004_Atlas", "knee",
        (Group("labelled", 200, 131, OWN, masked=100),),
        (Group("same", 200, 133, OWN, masked=100),), is_real_anatomy=True,
    ),
}  # fmt: skip


def scaled(cohort: Cohort, share: float) -> Cohort:
    """The cohort with that share of its patients, to try the machinery on; its figures are no claims."""

    def less(groups: tuple[Group, ...]) -> tuple[Group, ...]:
        return tuple(
            replace(one, cases=math.ceil(one.cases * share), masked=math.ceil(one.masked * share)) for one in groups
        )

    return replace(cohort, training=less(cohort.training), tests=less(cohort.tests))


def generator() -> dict[str, str]:
    """The version of the phantom, and a hash of its code and of one study of each joint as it is written."""
    seen = hashlib.sha256()
    for path in sorted(Path(odiff.phantom.__file__).parent.glob("*.py")):
        seen.update(path.read_bytes())
    for joint in JOINTS:
        for series in make_study(joint, 0, 0, "tiny").series.values():
            seen.update(series.image.array.round().astype("int16").tobytes())
    return {"version": str(PHANTOM_VERSION), "hash": seen.hexdigest()[:16]}


def write_cohort(folder: Path, cohort: Cohort, label_map: Path | None, processes: int) -> None:
    """``folder/raw/<dataset>`` and ``folder/test/<dataset>/<group>``; what is complete is kept."""
    atlas = None
    if cohort.is_real_anatomy:
        if label_map is None:
            raise SystemExit("--label-map FILE: the knees of real anatomy need the label map")
        atlas = AtlasSource(label_map, ATLAS_VALUES)
    _write(folder / "raw" / cohort.dataset, cohort, cohort.training, "Tr", atlas, processes)
    for group in cohort.tests:
        _write(folder / "test" / cohort.dataset / group.name, cohort, (group,), "Ts", atlas, processes)


def _write(
    folder: Path, cohort: Cohort, groups: tuple[Group, ...], part: str, atlas: AtlasSource | None, processes: int
) -> None:
    if (folder / "dataset.json").exists():
        return
    jobs = [(folder, cohort.joint, group, number, part, atlas) for group in groups for number in range(group.cases)]
    with get_context("spawn").Pool(processes) as pool:
        rows = list(pool.imap(_write_one, jobs, chunksize=8))
    write_text(folder / "cases.csv", as_csv(rows))
    write_json(folder / "dataset.json", dataset_json(cohort.joint))


def _write_one(job: tuple[Path, str, Group, int, str, AtlasSource | None]) -> dict[str, Any]:
    folder, joint, group, number, part, atlas = job
    study = make_study(joint, number, group.seed, SIZE, atlas, centers=group.centers)
    name = f"{group.name}_{number:04d}"
    write_study(folder, name, study, part, number < group.masked)
    row = {"case": name, "patient": name, **describe(study)}
    return row if group.is_labelled else row | dict.fromkeys(study.diagnoses)


def write_splits(prepared: Path) -> None:
    """One fold: a fifth of the labelled patients validates, with the same share of those that have masks."""
    names = sorted(case.name for case in read_index(prepared).cases)
    every = round(1 / VALIDATION_SHARE)
    held_out = [name for name in names if name.startswith("labelled")][every - 1 :: every]
    training = [name for name in names if name not in set(held_out)]
    write_json(prepared / "splits_final.json", [{"train": training, "val": held_out}])
