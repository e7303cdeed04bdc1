"""The fingerprint: what the planner needs to know of a dataset, measured once per series."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from odiff.data.body import body_box, body_mask
from odiff.data.labels import label_counts
from odiff.data.percentiles import percentiles
from odiff.dataset import Case, Dataset, Series
from odiff.errors import DatasetError, OdiffError
from odiff.experiment_planning.parallel import run_parallel
from odiff.geometry import Volume, canonical_frame, canonical_spacing, read_mask, read_volume, to_canonical
from odiff.plan import from_plain, to_plain
from odiff.storage import read_json, size_and_time, write_json

FINGERPRINT = "dataset_fingerprint.json"
PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)


@dataclass(frozen=True)
class SeriesFingerprint:
    """One series in its canonical frame; `stamp` changes when its files do."""

    name: str
    view: str
    stamp: str
    spacing_zyx_mm: tuple[float, float, float]
    shape_zyx: tuple[int, int, int]
    intensities: tuple[float, ...]
    label_volumes_ml: dict[str, float]
    is_masked: bool


@dataclass(frozen=True)
class ViewFingerprint:
    """All series of a view; shapes and extents are those of the body crop."""

    view: str
    series: int
    masked: int
    spacings_zyx_mm: tuple[tuple[float, float, float], ...]
    shapes_zyx: tuple[tuple[int, int, int], ...]
    extents_zyx_mm: tuple[tuple[float, float, float], ...]
    anisotropy: float
    intensity_percentiles: dict[str, float]
    label_frequency: dict[str, float]
    label_volume_ml: dict[str, float]


@dataclass(frozen=True)
class Fingerprint:
    """What dataset_fingerprint.json holds."""

    dataset: str
    cases: int
    patients: int
    unknown_laterality: int
    has_laterality: bool
    diagnoses: dict[str, dict[str, int]]
    groups: dict[str, dict[str, int]]
    views: dict[str, ViewFingerprint]
    series: dict[str, SeriesFingerprint]


def file_stamp(series: Series) -> str:
    """Size and time of the files of a series; another one means they changed, or that one is missing."""
    return "+".join(size_and_time(path) for path in (series.image, series.mask) if path is not None)


def fingerprint_series(series: Series, labels: dict[str, int]) -> SeriesFingerprint:
    """Read and measure one series.

    Raises
    ------
    ImageError
        A file cannot be read.
    """
    stamp, volume = file_stamp(series), read_volume(series.image)
    counts = {} if series.mask is None else label_counts(read_mask(series.mask).array)
    return measure(series, stamp, volume, counts, labels)


def measure(
    series: Series, stamp: str, volume: Volume, counts: dict[int, int], labels: dict[str, int]
) -> SeriesFingerprint:
    """The fingerprint of a series already read; its intensities are percentiles inside the body.

    Parameters
    ----------
    counts : voxels of each value of its mask, which lies on the grid of the volume.
    """
    frame = canonical_frame(volume.grid, series.view)
    image = to_canonical(volume.array, frame)
    body = body_mask(image)
    depth, rows, columns = (high - low for low, high in body_box(body))
    voxel_ml = float(np.prod(volume.grid.spacing_zyx_mm)) / 1000
    is_masked = series.mask is not None
    volumes = {n: round(counts.get(v, 0) * voxel_ml, 4) for n, v in labels.items() if v} if is_masked else {}
    return SeriesFingerprint(
        series.name, series.view, stamp, canonical_spacing(volume.grid, frame), (depth, rows, columns),
        tuple(percentiles(image[body], PERCENTILES)), volumes, is_masked,
    )  # fmt: skip


def fingerprint_dataset(
    dataset: Dataset, folder: Path, views: Sequence[str], processes: int = 2,
    measured: Mapping[str, SeriesFingerprint] | None = None,
) -> tuple[Fingerprint, int]:  # fmt: skip
    """Measure every series of `views`, reusing what ``dataset_fingerprint.json`` in `folder` still knows.

    Parameters
    ----------
    measured : fingerprints taken just now, while verifying.

    Returns
    -------
    The fingerprint, also written to `folder`, and how many series were measured anew.
    """
    path = folder / FINGERPRINT
    known = known_series(folder) | dict(measured or {})
    wanted = [series for case in dataset.cases for series in case.series if series.view in views]
    missing = [series for series in wanted if is_stale(series, known)]
    jobs = [(series, dataset.description.labels) for series in missing]
    for _, result in run_parallel(fingerprint_series, jobs, processes, "fingerprint"):
        known[result.name] = result
    fresh = len(missing) + sum(series.name in (measured or {}) for series in wanted)
    found = {series.name: known[series.name] for series in wanted}
    fingerprint = summarise(dataset, found)
    write_json(path, to_plain(fingerprint))
    return fingerprint, fresh


def known_series(folder: Path) -> dict[str, SeriesFingerprint]:
    """What an earlier run measured, by name of the series; nothing where its file is missing or of another version."""
    if not (folder / FINGERPRINT).exists():
        return {}
    try:
        return dict(read_fingerprint(folder / FINGERPRINT).series)
    except OdiffError:
        return {}


def is_stale(series: Series, known: Mapping[str, SeriesFingerprint]) -> bool:
    """Whether a series was never measured, or its files have changed since."""
    return series.name not in known or known[series.name].stamp != file_stamp(series)


def read_fingerprint(path: Path) -> Fingerprint:
    """Read ``dataset_fingerprint.json``."""
    return from_plain(
        Fingerprint, read_json(path, DatasetError, "run odiff_plan_and_preprocess again"), str(path), DatasetError
    )


def summarise(dataset: Dataset, series: dict[str, SeriesFingerprint]) -> Fingerprint:
    """The dataset's fingerprint from those of its series."""
    cases = dataset.cases
    views = sorted({one.view for one in series.values()})
    diagnoses = {name: _states(cases, name) for name in dataset.description.diagnoses}
    return Fingerprint(
        dataset=dataset.folder.name, cases=len(cases), patients=len({case.patient for case in cases}),
        unknown_laterality=sum(case.laterality is None for case in cases),
        has_laterality=any(case.laterality is not None for case in cases), diagnoses=diagnoses,
        groups={name: _counts(cases, name) for name in dataset.description.groups},
        views={view: _summarise_view(view, [s for s in series.values() if s.view == view]) for view in views}, series=series,
    )  # fmt: skip


def _states(cases: Sequence[Case], diagnosis: str) -> dict[str, int]:
    known = [case.diagnoses.get(diagnosis) for case in cases]
    return {"positive": known.count(1), "negative": known.count(0), "unknown": known.count(None)}


def _counts(cases: Sequence[Case], group: str) -> dict[str, int]:
    values = [case.groups.get(group) or "unknown" for case in cases]
    return {value: values.count(value) for value in sorted(set(values))}


def _summarise_view(view: str, series: list[SeriesFingerprint]) -> ViewFingerprint:
    masked = [one for one in series if one.is_masked]
    names = sorted({name for one in masked for name in one.label_volumes_ml})
    volumes = {name: [one.label_volumes_ml.get(name, 0.0) for one in masked] for name in names}
    intensities = np.median([one.intensities for one in series], axis=0)
    spacings = np.asarray([one.spacing_zyx_mm for one in series])
    return ViewFingerprint(
        view=view, series=len(series), masked=len(masked),
        spacings_zyx_mm=tuple(one.spacing_zyx_mm for one in series), shapes_zyx=tuple(one.shape_zyx for one in series),
        extents_zyx_mm=tuple(_extent(one) for one in series),
        anisotropy=round(float(np.median(spacings[:, 0] / spacings[:, 1:].max(axis=1))), 3),
        intensity_percentiles={str(p): float(v) for p, v in zip(PERCENTILES, intensities, strict=True)},
        label_frequency={name: round(float(np.mean(np.asarray(v) > 0)), 4) for name, v in volumes.items()},
        label_volume_ml={name: round(float(np.median(v)), 4) for name, v in volumes.items()},
    )  # fmt: skip


def _extent(series: SeriesFingerprint) -> tuple[float, float, float]:
    a, b, c = (round(n * s, 3) for n, s in zip(series.shape_zyx, series.spacing_zyx_mm, strict=True))
    return a, b, c
