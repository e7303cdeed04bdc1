"""What can be wrong with one series: its file, its view, its mask."""

from dataclasses import dataclass, field

import numpy as np

from odiff.data.labels import label_counts
from odiff.dataset import DatasetDescription, Series
from odiff.errors import ImageError
from odiff.experiment_planning.fingerprint import SeriesFingerprint, file_stamp, measure
from odiff.geometry import FAULT_ANGLE_DEG, Grid, nearest_view, read_mask, read_volume, same_grid, view_angle_deg

NOTE_ANGLE_DEG = 45.0


@dataclass(frozen=True)
class Finding:
    """One problem; `case` is None where it is the dataset's."""

    file: str
    field: str
    value: str
    advice: str
    case: str | None
    severity: str = "fault"

    def __str__(self) -> str:
        case = f" (case {self.case})" if self.case else ""
        return f"{self.file}{case}: {self.field} = {self.value}: {self.advice}"


@dataclass(frozen=True)
class Survey:
    """All that one look at a series tells: findings, the values of its mask, and its fingerprint where that was wanted."""

    findings: tuple[Finding, ...]
    values: frozenset[int] = frozenset()
    fingerprint: SeriesFingerprint | None = None


@dataclass(frozen=True)
class SeenMask:
    """Findings of a mask; voxels of each value where it could be read and lies on the grid of its image."""

    findings: tuple[Finding, ...] = ()
    counts: dict[int, int] = field(default_factory=dict)


def survey_series(series: Series, description: DatasetDescription, is_measured: bool) -> Survey:
    """Read a series once: verify it and, where it is wanted and without fault, take its fingerprint."""
    if missing := [path for path in (series.image, series.mask) if path and not path.exists()]:
        advice = "correct dataset.json, or what a link of that name leads to, or put the file there"
        return Survey(tuple(Finding(str(one), "file", "missing", advice, series.case) for one in missing))
    path, stamp = str(series.image), file_stamp(series)
    try:
        volume = read_volume(series.image)
    except ImageError as error:
        return Survey((Finding(path, "file", "unreadable", _without(path, error), series.case),))
    findings = [
        Finding(path, "geometry", note, "mended while reading; nothing to do", series.case, "note")
        for note in volume.notes
    ]
    if float(volume.array.max()) == float(volume.array.min()):
        findings.append(
            Finding(path, "voxels", f"all {volume.array.flat[0]:g}", "the image is empty; export it again", series.case)
        )
    findings += _check_view(series, volume.grid)
    mask = _check_mask(series, volume.grid, description)
    findings += mask.findings
    fingerprint = None
    if is_measured and not any(finding.severity == "fault" for finding in findings):
        fingerprint = measure(series, stamp, volume, mask.counts, description.labels)
    return Survey(tuple(findings), frozenset(mask.counts), fingerprint)


def _check_view(series: Series, grid: Grid) -> list[Finding]:
    angle = view_angle_deg(grid, series.view)
    if angle is None or angle <= NOTE_ANGLE_DEG:
        return []
    value = f"{series.view}, {angle:.0f} degrees from its slices"
    if angle > FAULT_ANGLE_DEG:
        advice = f"the direction cosines say {nearest_view(grid)}; rename the file, or mend its geometry"
        return [Finding(str(series.image), "view", value, advice, series.case)]
    return [Finding(str(series.image), "view", value, "an oblique series; fine if meant so", series.case, "note")]


def _check_mask(series: Series, grid: Grid, description: DatasetDescription) -> SeenMask:
    if series.mask is None:
        return SeenMask()
    path, case = str(series.mask), series.case
    if not description.labels:
        advice = "declare the labels in dataset.json, or remove the mask"
        return SeenMask((Finding(path, "segmentation.labels", "missing", advice, case),))
    try:
        mask = read_mask(series.mask)
    except ImageError as error:
        return SeenMask((Finding(path, "file", "unreadable", _without(path, error), case),))
    if not same_grid(mask.grid, grid):
        advice = f"draw or resample it on the grid of {series.image.name}"
        return SeenMask((Finding(path, "grid", _difference(mask.grid, grid), advice, case),))
    counts = label_counts(mask.array)
    ignored = set() if description.ignore_label is None else {description.ignore_label}
    odd = sorted(set(counts) - set(description.labels.values()) - ignored)
    findings = [
        Finding(path, "label", str(value), "is not in segmentation.labels of dataset.json; declare or erase it", case)
        for value in odd
    ]
    if set(counts) <= {0}:
        advice = "the mask is empty; fine if nothing is there to segment"
        findings.append(Finding(path, "label", "none", advice, case, "note"))
    return SeenMask(tuple(findings), counts)


def _difference(mask: Grid, image: Grid) -> str:
    if mask.shape_zyx != image.shape_zyx:
        return f"{'x'.join(map(str, mask.shape_zyx))} voxels, the image has {'x'.join(map(str, image.shape_zyx))}"
    for name in ("spacing_zyx_mm", "origin_xyz_mm", "direction"):
        ours, theirs = getattr(mask, name), getattr(image, name)
        if not np.allclose(ours, theirs, atol=1e-3):
            return f"{name} {[round(v, 3) for v in ours]}, the image has {[round(v, 3) for v in theirs]}"
    return "shifted by a fraction of a voxel"


def _without(path: str, error: ImageError) -> str:
    return str(error).removeprefix(f"{path}: ")
