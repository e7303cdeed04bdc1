"""A dataset as nnU-Net wants it: one nnU-Net dataset per view, with the same folds."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odiff.data.labels import IGNORE, mark_unknown
from odiff.dataset import Case, Dataset, DatasetDescription, Series, Split, list_series
from odiff.errors import DatasetError, UsageError
from odiff.experiment_planning.nnunet.layout import (
    ANOTHER,
    CHANNEL,
    ENDINGS,
    IGNORED,
    ORIGIN,
    PREPROCESSED,
    RAW,
    SPLITS,
    Origin,
    OriginCase,
    consecutive_labels,
    link_or_copy,
    place_image,
    renumbered,
)
from odiff.experiment_planning.parallel import run_parallel
from odiff.geometry import VIEWS, read_mask, write_volume
from odiff.plan import to_plain
from odiff.storage import read_json, write_json

LARGEST_ID = 999


@dataclass(frozen=True)
class Written:
    """One nnU-Net dataset that was written, and the folds that nnU-Net cannot train, as one side of them is empty."""

    folder: Path
    cases: int
    empty_folds: tuple[int, ...]


def write_nnunet(
    dataset: Dataset, splits: Sequence[Split], target: Path, views: Sequence[str], first_id: int | None, processes: int
) -> list[Written]:
    """Write every view that has masks.

    Parameters
    ----------
    splits : odiff's folds, by case; empty where there are none.
    target : takes ``nnUNet_raw`` and ``nnUNet_preprocessed``.
    first_id : number of the sagittal dataset, coronal and axial follow; by default 100 + 10 times the dataset's own number.

    Raises
    ------
    DatasetError
        There are no masks, a mask holds an undeclared value, or a folder of that name holds something else.
    """
    found = []
    for view in views:
        series = {one.name: case for case in dataset.cases for one in case.series if one.view == view and one.mask}
        if series:
            folder = target / RAW / nnunet_name(dataset.folder.name, view, first_id)
            found.append(_write_view(dataset, splits, folder, view, series, processes))
    if not found:
        raise DatasetError(
            f"{dataset.folder}: no mask in labelsTr for the views {', '.join(views)}; nnU-Net needs masks to train"
        )
    return found


def nnunet_name(dataset: str, view: str, first_id: int | None) -> str:
    """``Dataset001_Knee`` -> ``Dataset110_KneeSagittal``; nnU-Net's numbers have three digits.

    Raises
    ------
    UsageError
        The numbers would go beyond 999.
    """
    number, _, name = dataset.removeprefix("Dataset").partition("_")
    first = 100 + 10 * int(number) if first_id is None else first_id
    if not 0 < first <= LARGEST_ID - len(VIEWS) + 1:
        raise UsageError(f"--first-id {first}: must be in 1..{LARGEST_ID - len(VIEWS) + 1}; choose one")
    return f"Dataset{first + VIEWS.index(view):03d}_{name}{view.capitalize()}"


def _write_view(
    dataset: Dataset, splits: Sequence[Split], folder: Path, view: str, of_series: dict[str, Case], processes: int
) -> Written:
    description = dataset.description
    ending = description.file_ending if description.file_ending in ENDINGS else ANOTHER
    training = [one for case in dataset.cases for one in case.series if one.name in of_series]
    test = list_series(dataset.folder / "imagesTs", description.file_ending, [view])[0]
    check_folder(folder, dataset.folder.name, {f"{one.name}_{CHANNEL}{ending}" for one in training})
    jobs = [(one, one.mask, folder, "Tr", ending, description) for one in training]
    for one in test:
        mask = dataset.folder / "labelsTs" / one.image.name
        jobs.append((one, mask if mask.exists() else None, folder, "Ts", ending, description))
    for _ in run_parallel(write_series, jobs, processes, f"{view} to nnU-Net"):
        pass
    write_json(folder / "dataset.json", nnunet_json(dataset, view, of_series, ending))
    folds = series_folds(splits, of_series)
    if folds:
        write_folds(folder.parent.parent / PREPROCESSED / folder.name / SPLITS, folds)
    empty = tuple(number for number, fold in enumerate(folds) if not (fold["train"] and fold["val"]))
    return Written(folder, len(training), empty)


def check_folder(folder: Path, dataset: str, images: set[str]) -> None:
    """Raise a `DatasetError` where `folder` is of another dataset, or its number another's, or it has other images than `images`."""
    number = folder.name.partition("_")[0]
    others = [path for path in sorted(folder.parent.glob(f"{number}_*")) if path != folder]
    stored = read_json(folder / "dataset.json", DatasetError, "") if (folder / "dataset.json").exists() else None
    if others or (stored is not None and stored.get(ORIGIN, {}).get("dataset") != dataset):
        raise DatasetError(f"{(others or [folder])[0]}: holds another dataset; choose numbers with --first-id")
    stray = sorted(path.name for path in (folder / "imagesTr").glob("*") if path.name not in images)
    if stray:
        raise DatasetError(
            f"{folder / 'imagesTr' / stray[0]}: belongs to no masked series of {dataset}; remove it, and its label"
        )


def write_series(
    series: Series, mask: Path | None, folder: Path, part: str, ending: str, description: DatasetDescription
) -> None:
    """One image and, where there is one, its mask with nnU-Net's values."""
    place_image(series.image, folder / f"images{part}" / f"{series.name}_{CHANNEL}{ending}", ending)
    if mask is None:
        return
    target = folder / f"labels{part}" / f"{series.name}{ending}"
    values = nnunet_values(description)
    if not description.sparse_slices and mask.name.endswith(ending) and keeps_values(values, description):
        link_or_copy(mask, target)
        return
    labels = read_mask(mask)
    known = mark_unknown(labels.array, labels.grid, series.view, description.ignore_label, description.sparse_slices)
    write_volume(target, renumbered(known, values, str(mask)), labels.grid, like=mask)


def nnunet_values(description: DatasetDescription) -> dict[int, int]:
    """Value in odiff, `IGNORE` for unknown -> value in nnU-Net."""
    numbers = consecutive_labels(description.labels, has_ignored(description))
    return {IGNORE if name == IGNORED else description.labels[name]: number for name, number in numbers.items()}


def keeps_values(values: dict[int, int], description: DatasetDescription) -> bool:
    """Whether a file has nnU-Net's values already."""
    return all(value == (description.ignore_label if old == IGNORE else old) for old, value in values.items())


def has_ignored(description: DatasetDescription) -> bool:
    """Whether masks may have voxels whose truth is unknown; a `DatasetError` where a label has nnU-Net's name for them."""
    if IGNORED in description.labels:
        raise DatasetError(
            f"{description.name}: segmentation.labels: nnU-Net keeps the name {IGNORED!r} to itself; rename the label"
        )
    return description.ignore_label is not None or description.sparse_slices


def nnunet_json(dataset: Dataset, view: str, of_series: dict[str, Case], ending: str) -> dict[str, Any]:
    """nnU-Net's dataset.json, with the way back under ``odiff``."""
    description = dataset.description
    unknown = description.ignore_label
    if unknown is None and description.sparse_slices:
        unknown = max(description.labels.values()) + 1
    origin = Origin(
        dataset.folder.name, description.joint, view, description.labels, unknown, description.left_right,
        {name: OriginCase(case.name, case.patient, case.laterality) for name, case in sorted(of_series.items())},
    )  # fmt: skip
    return {
        "name": f"{description.name} {view}",
        "channel_names": {"0": "MRI"},
        "labels": consecutive_labels(description.labels, has_ignored(description)),
        "numTraining": len(of_series),
        "file_ending": ending,
        ORIGIN: to_plain(origin),
    }


def series_folds(splits: Iterable[Split], of_series: dict[str, Case]) -> list[Split]:
    """Folds of masked series from folds of cases: all series of a case stay on its side."""
    return [
        {part: sorted(name for name, case in of_series.items() if case.name in set(split[part])) for part in ("train", "val")}
        for split in splits
    ]  # fmt: skip


def write_folds(path: Path, folds: list[Split]) -> None:
    """Write nnU-Net's splits_final.json; a `DatasetError` where there is another one already."""
    if path.exists() and read_json(path, DatasetError, "delete it") != folds:
        raise DatasetError(
            f"{path}: holds other folds than odiff's; delete it, and what was trained on them, to have these"
        )
    write_json(path, folds)


def next_steps(written: Sequence[Written], say: Callable[[str], object]) -> None:
    """Tell what was written, and how nnU-Net is started on it."""
    for one in written:
        say(f"{one.folder}: {one.cases} cases\n")
        for fold in one.empty_folds:
            say(f"note: {one.folder.name}: fold {fold} has no masked series on one side; nnU-Net cannot train it\n")
    root, numbers = written[0].folder.parent.parent, " ".join(str(int(one.folder.name[7:10])) for one in written)
    say(f"export nnUNet_raw={root / RAW} nnUNet_preprocessed={root / PREPROCESSED}\n")
    say(f"nnUNetv2_plan_and_preprocess -d {numbers} --verify_dataset_integrity\n")
