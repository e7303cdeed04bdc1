"""A dataset of nnU-Net with one channel as a view of a dataset of odiff."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odiff.dataset import Split, check_splits, parse_description, parse_name, read_description
from odiff.errors import DatasetError
from odiff.experiment_planning.nnunet.layout import (
    CHANNEL,
    IGNORED,
    ORIGIN,
    Origin,
    OriginCase,
    link_or_copy,
    place_new,
    renumbered,
    same_labels,
)
from odiff.experiment_planning.parallel import run_parallel
from odiff.geometry import read_mask, write_volume
from odiff.plan import from_plain, to_plain
from odiff.storage import read_json, write_json, write_text

ADVICE = "give the folder DatasetXXX_Name in nnUNet_raw"
FIELDS: dict[str, tuple[type, str]] = {
    "labels": (dict, 'values by name, as {"background": 0}'),
    "channel_names": (dict, 'names by number, as {"0": "MRI"}'),
    "file_ending": (str, "an ending, as .nii.gz"),
}
COLUMNS = ("case", "patient", "laterality")


@dataclass(frozen=True)
class NnunetDataset:
    """A dataset of nnU-Net: labels by name, ``ignore`` among them, and where odiff wrote it, what it came from."""

    folder: Path
    name: str
    file_ending: str
    labels: dict[str, int]
    origin: Origin | None


def open_nnunet(folder: Path) -> NnunetDataset:
    """Read nnU-Net's dataset.json.

    Raises
    ------
    DatasetError
        It is missing or broken, has several channels, or labels that are regions.
    """
    path = folder / "dataset.json"
    content = read_json(path, DatasetError, ADVICE)
    for key, (kind, expected) in FIELDS.items():
        if not isinstance(content, dict) or key not in content:
            raise DatasetError(f"{path}: {key} is missing: not a dataset of nnU-Net; {ADVICE}")
        if not isinstance(content[key], kind):
            raise DatasetError(f"{path}: {key} is {content[key]!r}, expected {expected}; {ADVICE}")
    if "dataset" in content:
        raise DatasetError(f"{path}: lists its files under dataset; put them into imagesTr and labelsTr")
    channels = list(content["channel_names"].values())
    if len(channels) != 1:
        raise DatasetError(
            f"{path}: channel_names has {len(channels)} channels ({', '.join(map(str, channels))}); odiff reads one"
        )
    regions = [name for name, value in content["labels"].items() if not isinstance(value, int)]
    if regions:
        raise DatasetError(f"{path}: labels.{regions[0]} is a region of several values; odiff reads one value a label")
    origin = from_plain(Origin, content[ORIGIN], f"{path}: {ORIGIN}", DatasetError) if ORIGIN in content else None
    return NnunetDataset(folder, content.get("name", folder.name), content["file_ending"], content["labels"], origin)


def series_of(found: NnunetDataset, view: str, part: str) -> dict[str, str]:
    """nnU-Net's cases in ``imagesTr`` or ``imagesTs`` -> their names as series of odiff."""
    suffix = f"_{CHANNEL}{found.file_ending}"
    names = sorted(path.name.removesuffix(suffix) for path in (found.folder / f"images{part}").glob(f"*{suffix}"))
    return {name: name if found.origin and parse_name(name, [view]) else f"{name}_{view}" for name in names}


def read_nnunet(found: NnunetDataset, view: str, target: Path, processes: int) -> int:
    """Write an nnU-Net dataset as the series of `view` into a raw dataset folder, which may hold other views already.

    Returns
    -------
    How many training series there are.

    Raises
    ------
    DatasetError
        There are no images, a mask holds an undeclared value, or `target` has other labels.
    """
    training = series_of(found, view, "Tr")
    if not training:
        raise DatasetError(f"{found.folder / 'imagesTr'}: no images named <case>_{CHANNEL}{found.file_ending}")
    description = description_of(found, view, target)
    jobs = [
        (found, case, name, target, part)
        for part in ("Tr", "Ts")
        for case, name in series_of(found, view, part).items()
    ]
    for _ in run_parallel(read_series, jobs, processes, f"{view} from nnU-Net"):
        pass
    if found.origin:
        add_cases(target / "cases.csv", found.origin.cases)
    write_json(target / "dataset.json", description)
    return len(training)


def read_series(found: NnunetDataset, case: str, name: str, target: Path, part: str) -> None:
    """One image and, where there is one, its mask with odiff's values."""
    ending = found.file_ending
    image, mask = (
        found.folder / f"images{part}" / f"{case}_{CHANNEL}{ending}",
        found.folder / f"labels{part}" / f"{case}{ending}",
    )
    place_new(target / f"images{part}" / f"{name}{ending}", lambda place: link_or_copy(image, place))
    if mask.exists():
        values = odiff_values(found)
        place_new(
            target / f"labels{part}" / f"{name}{ending}", lambda place: write_mask(mask, values, place), same_labels
        )


def write_mask(mask: Path, values: Mapping[int, int], place: Path) -> None:
    """The mask with `values` for its own; linked where they are the same."""
    if all(old == new for old, new in values.items()):
        link_or_copy(mask, place)
        return
    labels = read_mask(mask)
    write_volume(place, renumbered(labels.array, values, str(mask)), labels.grid, like=mask)


def odiff_values(found: NnunetDataset) -> dict[int, int]:
    """Value in nnU-Net -> value in odiff: the one it came from, else the same."""
    if found.origin is None:
        return {value: value for value in found.labels.values()}
    back = dict(found.origin.labels)
    if found.origin.ignore_label is not None:
        back[IGNORED] = found.origin.ignore_label
    return {value: back.get(name, value) for name, value in found.labels.items()}


def description_of(found: NnunetDataset, view: str, target: Path) -> dict[str, Any]:
    """odiff's dataset.json: that of `target` with the view added, or a new one.

    Raises
    ------
    DatasetError
        The one that is there has other labels, or another file ending.
    """
    values = odiff_values(found)
    labels = {name: values[value] for name, value in found.labels.items()}
    segmentation: dict[str, Any] = {"labels": {name: value for name, value in labels.items() if name != IGNORED}}
    if IGNORED in labels:
        segmentation["ignore_label"] = labels[IGNORED]
    if found.origin and found.origin.left_right:
        segmentation["left_right"] = to_plain(found.origin.left_right)
    new = {
        "name": target.name.partition("_")[2], "joint": found.origin.joint if found.origin else "unknown",
        "file_ending": found.file_ending, "views": [view], "segmentation": segmentation,
    }  # fmt: skip
    wanted = parse_description(new, f"{found.folder / 'dataset.json'}: as odiff reads it")
    if not (target / "dataset.json").exists():
        return new
    there = read_description(target)
    for field in ("file_ending", "labels", "ignore_label"):
        if getattr(there, field) != getattr(wanted, field):
            raise DatasetError(
                f"{target / 'dataset.json'}: {field} is {getattr(there, field)}, {found.folder} has {getattr(wanted, field)}; "
                "choose another folder with -d"
            )
    content = read_json(target / "dataset.json", DatasetError, "")
    return {**content, "views": [*there.views, *({view} - set(there.views))]}


def add_cases(path: Path, cases: Mapping[str, OriginCase]) -> None:
    """Add the rows that cases.csv lacks; cells of columns that nnU-Net does not know stay empty."""
    rows: list[dict[str, str]] = []
    columns = list(COLUMNS)
    if path.exists():
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            columns, rows = list(table.fieldnames or COLUMNS), list(table)
    known = {row["case"] for row in rows}
    fresh = {one.case: one for one in cases.values() if one.case not in known}
    rows += [{"case": one.case, "patient": one.patient, "laterality": one.laterality or ""} for one in fresh.values()]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_folds(found: NnunetDataset, view: str, splits: Path, target: Path, patient_of: dict[str, str]) -> int:
    """nnU-Net's folds as folds of cases in `target`, joined with those there, which may be of other views; how many.

    Raises
    ------
    DatasetError
        They are broken, have a patient on both sides, or do not go with those in `target`.
    """
    cases = {name: case_of(series, view) for name, series in series_of(found, view, "Tr").items()}
    identity = {name: name for name in cases}
    folds: list[Split] = [
        {part: sorted({cases[name] for name in split[part]}) for part in ("train", "val")}
        for split in check_splits(read_json(splits, DatasetError, "give another with --splits"), str(splits), identity)
    ]
    if target.exists():
        there = check_splits(read_json(target, DatasetError, "delete it"), str(target), patient_of)
        if len(there) != len(folds):
            raise DatasetError(f"{target}: has {len(there)} folds, {splits} has {len(folds)}; delete one of them")
        folds = [
            {part: sorted({*old[part], *new[part]}) for part in new} for old, new in zip(there, folds, strict=True)
        ]
    write_json(target, check_splits(folds, str(splits), patient_of))
    return len(folds)


def case_of(series: str, view: str) -> str:
    """The case of a series by its name."""
    parsed = parse_name(series, [view])
    if parsed is None:
        raise ValueError(f"{series}: not a series of view {view}")
    return parsed[0]
