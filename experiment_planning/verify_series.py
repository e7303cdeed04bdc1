"""What can be wrong with one series: its file, its view, its mask."""

from dataclasses import dataclass

import numpy as np

from odiff.dataset import DatasetDescription, Series
from odiff.errors import ImageError
from odiff.geometry import Grid, nearest_view, read_mask, read_volume, same_grid, view_angle_deg

FAULT_ANGLE_DEG, NOTE_ANGLE_DEG = 60.0, 45.0


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


def check_series(series: Series, description: DatasetDescription) -> tuple[list[Finding], set[int]]:
    """Findings of one series, and the label values that its mask holds."""
    path = str(series.image)
    try:
        volume = read_volume(series.image)
    except ImageError as error:
        return [Finding(path, "file", "unreadable", _without(path, error), series.case)], set()
    findings = [
        Finding(path, "geometry", note, "mended while reading; nothing to do", series.case, "note")
        for note in volume.notes
    ]
    if float(volume.array.max()) == float(volume.array.min()):
        findings.append(
            Finding(path, "voxels", f"all {volume.array.flat[0]:g}", "the image is empty; export it again", series.case)
        )
    findings += _check_view(series, volume.grid)
    if series.mask is None:
        return findings, set()
    mask_findings, values = _check_mask(series, volume.grid, description)
    return findings + mask_findings, values


def _check_view(series: Series, grid: Grid) -> list[Finding]:
    angle = view_angle_deg(grid, series.view)
    if angle is None or angle <= NOTE_ANGLE_DEG:
        return []
    value = f"{series.view}, {angle:.0f} degrees from its slices"
    if angle > FAULT_ANGLE_DEG:
        advice = f"the direction cosines say {nearest_view(grid)}; rename the file, or mend its geometry"
        return [Finding(str(series.image), "view", value, advice, series.case)]
    return [Finding(str(series.image), "view", value, "an oblique series; fine if meant so", series.case, "note")]


def _check_mask(series: Series, grid: Grid, description: DatasetDescription) -> tuple[list[Finding], set[int]]:
    path, case = str(series.mask), series.case
    if series.mask is None:
        return [], set()
    if not description.labels:
        return [
            Finding(
                path, "segmentation.labels", "missing", "declare the labels in dataset.json, or remove the mask", case
            )
        ], set()
    try:
        mask = read_mask(series.mask)
    except ImageError as error:
        return [Finding(path, "file", "unreadable", _without(path, error), case)], set()
    if not same_grid(mask.grid, grid):
        return [
            Finding(
                path,
                "grid",
                _difference(mask.grid, grid),
                f"draw or resample it on the grid of {series.image.name}",
                case,
            )
        ], set()
    values = {int(value) for value in np.unique(mask.array)}
    allowed = set(description.labels.values()) | (
        {description.ignore_label} if description.ignore_label is not None else set()
    )
    findings = [
        Finding(path, "label", str(value), "is not in segmentation.labels of dataset.json; declare or erase it", case)
        for value in sorted(values - allowed)
    ]
    if values <= {0}:
        findings.append(
            Finding(path, "label", "none", "the mask is empty; fine if nothing is there to segment", case, "note")
        )
    return findings, values


def _difference(mask: Grid, image: Grid) -> str:
    if mask.shape_zyx != image.shape_zyx:
        return f"{'x'.join(map(str, mask.shape_zyx))} voxels, the image has {'x'.join(map(str, image.shape_zyx))}"
    for field in ("spacing_zyx_mm", "origin_xyz_mm", "direction"):
        ours, theirs = getattr(mask, field), getattr(image, field)
        if not np.allclose(ours, theirs, atol=1e-3):
            return f"{field} {[round(v, 3) for v in ours]}, the image has {[round(v, 3) for v in theirs]}"
    return "shifted by a fraction of a voxel"


def _without(path: str, error: ImageError) -> str:
    return str(error).removeprefix(f"{path}: ")
