"""Pictures to judge by eye: slices with structures outlined."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from odiff.geometry import Volume, canonical_frame, canonical_spacing, to_canonical
from odiff.storage import atomic_path


def draw_overlay(
    path: Path,
    volume: Volume,
    view: str,
    masks: dict[str, np.ndarray],
    labels: dict[str, int],
    title: str = "",
    slices: int = 4,
) -> None:
    """A row of slices of the image, then one row per mask (z, y, x as stored) drawn over it.

    Rows are slices spread over the part of the volume that any mask touches, in the canonical frame of `view`.
    """
    frame = canonical_frame(volume.grid, view)
    image = to_canonical(volume.array, frame)
    turned = {name: to_canonical(mask, frame) for name, mask in masks.items()}
    shown = _slices(list(turned.values()), len(image), slices)
    spacing = canonical_spacing(volume.grid, frame)
    low, high = np.percentile(image, (1, 99.5))
    figure = Figure(figsize=(2.6 * slices + 1.6, 2.7 * (1 + len(turned))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1 + len(turned), slices, squeeze=False)
    for row, (name, mask) in zip(axes, [("image", None), *turned.items()], strict=True):
        row[0].set_title(name, fontsize="small", loc="left")
        for axis, number in zip(row, shown, strict=True):
            axis.set_axis_off()
            axis.imshow(image[number], cmap="gray", vmin=low, vmax=high, aspect=spacing[1] / spacing[2])
            if mask is not None:
                axis.imshow(_coloured(mask[number], labels), aspect=spacing[1] / spacing[2])
    _legend(figure, labels)
    figure.suptitle(title, fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)


def _slices(masks: Sequence[np.ndarray], depth: int, count: int) -> list[int]:
    touched = [np.flatnonzero((mask > 0).any(axis=(1, 2))) for mask in masks]
    found = np.concatenate(touched) if touched else np.array([], int)
    low, high = (int(found.min()), int(found.max())) if len(found) else (0, depth - 1)
    return [round(place) for place in np.linspace(low, high, count + 2)[1:-1]]


def _colours(labels: dict[str, int]) -> dict[int, tuple[float, ...]]:
    values = [value for name, value in labels.items() if name != "background"]
    return {value: colormaps["tab20"](index % 20) for index, value in enumerate(values)}


def _coloured(mask: np.ndarray, labels: dict[str, int]) -> np.ndarray:
    picture = np.zeros((*mask.shape, 4))
    for value, colour in _colours(labels).items():
        picture[mask == value] = (*colour[:3], 0.55)
    return picture


def _legend(figure: Figure, labels: dict[str, int]) -> None:
    """The structures beside the pictures, which the layout keeps free for them."""
    colours = _colours(labels)
    names = {value: name for name, value in labels.items()}
    patches = [Patch(color=colour, label=names[value]) for value, colour in colours.items()]
    if patches:
        figure.legend(handles=patches, loc="outside right upper", fontsize="x-small", frameon=False)
