"""A table of numbers as a picture, each written in its cell."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from odiff.storage import atomic_path

BRIGHT = 0.6


def draw_heat_map(
    path: Path, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str,
    limits: tuple[float, float] = (0.0, 1.0), marked: Collection[tuple[int, int]] = (),
) -> None:  # fmt: skip
    """Draw `values` (rows, columns); NaN stays empty.

    Parameters
    ----------
    limits : values of the darkest and the brightest colour.
    marked : (row, column) of the cells to frame.
    """
    figure = Figure(figsize=(1.8 + 1.1 * len(columns), 1.2 + 0.38 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    low, high = limits
    picture = axis.imshow(values, vmin=low, vmax=high, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(columns)), list(columns))
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set_title(title, fontsize="small")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "black" if value > low + BRIGHT * (high - low) else "white"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize="small")
    for row, column in marked:
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2.5))
    figure.colorbar(picture, ax=axis)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
