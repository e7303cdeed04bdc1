"""dataset.json: what a dataset says about itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odiff.errors import DatasetError
from odiff.geometry import VIEWS
from odiff.plan.parse import closest, convert
from odiff.storage import read_json

DESCRIPTION = "dataset.json"
ADVICE = "write one, or start from a template: odiff_verify_dataset --template knee > dataset.json"
TABULAR = ("continuous", "categorical")
TWO_FILES = (".mhd", ".nhdr", ".hdr", ".img")
TOP = ("name", "joint", "file_ending", "views", "segmentation", "diagnosis", "tabular", "groups", "cases")
SEGMENTATION = ("labels", "ignore_label", "sparse_slices", "left_right", "cartilage")


@dataclass(frozen=True)
class ListedFile:
    """One entry of the explicit file list `cases`: paths absolute or relative to the dataset folder."""

    case: str
    view: str
    image: str
    mask: str | None = None


@dataclass(frozen=True)
class DatasetDescription:
    """The fields of dataset.json, with defaults filled in."""

    name: str
    joint: str
    file_ending: str
    views: tuple[str, ...]
    labels: dict[str, int]
    ignore_label: int | None
    sparse_slices: bool
    left_right: tuple[tuple[str, str], ...]
    diagnoses: tuple[str, ...]
    tabular: dict[str, str]
    groups: tuple[str, ...]
    cases: tuple[ListedFile, ...] | None = None
    cartilage: tuple[str, ...] = ()


def read_description(folder: Path) -> DatasetDescription:
    """Read and check ``dataset.json`` of a dataset folder.

    Raises
    ------
    DatasetError
        Missing file, broken JSON, an unknown or missing key, or an impossible value; each with the key's name.
    """
    path = folder / DESCRIPTION
    return parse_description(read_json(path, DatasetError, ADVICE), str(path))


def parse_description(content: Any, where: str) -> DatasetDescription:
    """The description in what `json.load` gave; messages start with `where`."""
    _known_keys(content, TOP, where)
    segmentation, diagnosis = content.get("segmentation", {}), content.get("diagnosis", {})
    _known_keys(segmentation, SEGMENTATION, f"{where}: segmentation")
    _known_keys(diagnosis, ("labels",), f"{where}: diagnosis")
    for key in ("name", "file_ending"):
        if key not in content:
            raise DatasetError(f"{where}: {key} is missing; {ADVICE}")

    def take(source: dict[str, Any], key: str, kind: Any, default: Any) -> Any:
        return convert(kind, source.get(key, default), f"{where}: {key}", DatasetError)

    description = DatasetDescription(
        name=take(content, "name", str, ""),
        joint=take(content, "joint", str, "unknown"),
        file_ending=take(content, "file_ending", str, ""),
        views=take(content, "views", tuple[str, ...], list(VIEWS)),
        labels=take(segmentation, "labels", dict[str, int], {}),
        ignore_label=take(segmentation, "ignore_label", int | None, None),
        sparse_slices=take(segmentation, "sparse_slices", bool, False),
        left_right=take(segmentation, "left_right", tuple[tuple[str, str], ...], []),
        diagnoses=take(diagnosis, "labels", tuple[str, ...], []),
        tabular=take(content, "tabular", dict[str, str], {}),
        groups=take(content, "groups", tuple[str, ...], []),
        cases=take(content, "cases", tuple[ListedFile, ...] | None, None),
        cartilage=take(segmentation, "cartilage", tuple[str, ...], _named_cartilage(segmentation)),
    )
    _check(description, where)
    return description


def _named_cartilage(segmentation: dict[str, Any]) -> list[str]:
    """The labels called cartilage, which stand for a list that is not given."""
    labels = segmentation.get("labels", {})
    return [name for name in labels if "cartilage" in name.lower()] if isinstance(labels, dict) else []


def _known_keys(content: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(content, dict):
        raise DatasetError(f"{where}: expected an object, got {content!r}")
    for key in content:
        if key not in known:
            raise DatasetError(f"{where}: unknown key {key!r}{closest(key, known)}")


def _check(found: DatasetDescription, where: str) -> None:
    _check_files(found, where)
    for entry in found.cases or ():
        if entry.view not in found.views:
            raise DatasetError(
                f"{where}: cases: {entry.case}: view {entry.view!r} is not in views{closest(entry.view, found.views)}"
            )
    for column, kind in found.tabular.items():
        if kind not in TABULAR:
            raise DatasetError(f"{where}: tabular.{column} must be one of {', '.join(TABULAR)}, got {kind!r}")
    _check_labels(found, where)
    names = (*found.diagnoses, *found.tabular, *found.groups)
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise DatasetError(
            f"{where}: {', '.join(sorted(repeated))} is listed twice among diagnosis.labels, tabular and groups"
        )


def _check_files(found: DatasetDescription, where: str) -> None:
    if not found.file_ending.startswith("."):
        raise DatasetError(
            f"{where}: file_ending must start with a dot, got {found.file_ending!r}; for example .nii.gz"
        )
    if found.file_ending.lower() in TWO_FILES:
        raise DatasetError(
            f"{where}: file_ending {found.file_ending}: images in two files cannot be written whole; convert them to one file each, "
            "for example .nii.gz, .mha or .nrrd"
        )
    if not found.views:
        raise DatasetError(f"{where}: views is empty; list some of {', '.join(VIEWS)}")
    for view in found.views:
        if view not in VIEWS:
            raise DatasetError(f"{where}: views: unknown view {view!r}{closest(view, VIEWS)}")


def _check_labels(found: DatasetDescription, where: str) -> None:
    if not found.labels:
        return
    if found.labels.get("background") != 0:
        raise DatasetError(
            f'{where}: segmentation.labels must hold "background": 0, got {found.labels.get("background")!r}'
        )
    values = list(found.labels.values())
    shared = {value for value in values if values.count(value) > 1}
    if shared:
        raise DatasetError(f"{where}: segmentation.labels: value {min(shared)} stands for more than one label")
    if min(values) < 0 or max(values) > 32767:
        raise DatasetError(
            f"{where}: segmentation.labels: values must lie in 0..32767, got {min(values)} to {max(values)}"
        )
    if found.ignore_label in values:
        raise DatasetError(f"{where}: segmentation.ignore_label {found.ignore_label} is also the value of a label")
    _check_named(found, where)


def _check_named(found: DatasetDescription, where: str) -> None:
    for key, names in (("left_right", [n for pair in found.left_right for n in pair]), ("cartilage", found.cartilage)):
        for name in names:
            if name not in found.labels:
                raise DatasetError(f"{where}: segmentation.{key}: unknown label {name!r}{closest(name, found.labels)}")
    if "background" in found.cartilage:
        raise DatasetError(f"{where}: segmentation.cartilage: background is no cartilage; leave it out")
