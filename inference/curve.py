"""A label-efficiency curve: its points, and as a table, a CSV file and a picture."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from odiff.storage import atomic_path, write_text

SCORE = {"diagnosis": "AUROC", "segmentation": "Dice"}
MEAN = {"diagnosis": "macro", "segmentation": "mean"}
TABLE, PICTURE = "label_efficiency.csv", "label_efficiency.png"


@dataclass(frozen=True)
class CurvePoint:
    """One score of one label (or their mean) at one share of the labels; None where `state` says why.

    `patients` is the mean over the folds of how many patients were learnt from; `low` and `high` are a 95 % interval over the
    patients that were scored.
    """

    label_fraction: float
    folds: str
    patients: float | None
    label: str
    score: float | None
    low: float | None
    high: float | None
    state: str = ""


def curve_text(points: Sequence[CurvePoint], task: str) -> str:
    """The curve as a table for the terminal: one line a share, the labels beside their mean, and what is not computable."""
    rest = [label for label in dict.fromkeys(point.label for point in points) if label != MEAN[task]]
    header = ["labels", "patients", f"{MEAN[task]} {SCORE[task]}", "95 % interval", "labels scored", *rest]
    rows = [header]
    for fraction in dict.fromkeys(point.label_fraction for point in points):
        at = {point.label: point for point in points if point.label_fraction == fraction}
        mean = at[MEAN[task]]
        interval = f"{mean.low:.3f} to {mean.high:.3f}" if mean.low is not None and mean.high is not None else "-"
        scored = sum(at[label].score is not None for label in rest if label in at)
        patients = "-" if mean.patients is None else f"{mean.patients:g}"
        cells = [_told(at[label].score) if label in at else "-" for label in rest]
        rows.append(
            [f"{100 * fraction:g} %", patients, _told(mean.score), interval, f"{scored} of {len(rest)}", *cells]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [f"{100 * point.label_fraction:g} %, {point.label}: {point.state}" for point in points if point.state]
    return "\n".join([*lines, *notes]) + "\n"


def _told(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def write_curve(folder: Path, points: Sequence[CurvePoint], task: str) -> None:
    """Write label_efficiency.csv, every point with its interval and state, and label_efficiency.png."""
    table = pd.DataFrame([asdict(point) for point in points])
    write_text(folder / TABLE, table.round(5).to_csv(index=False))
    draw_curve(folder / PICTURE, points, task)


def draw_curve(path: Path, points: Sequence[CurvePoint], task: str) -> None:
    """The mean with its intervals over each label's thin line, labels on a logarithmic axis."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for label in dict.fromkeys(point.label for point in points):
        known = [point for point in points if point.label == label and point.score is not None]
        shares, scores = [100 * point.label_fraction for point in known], [point.score or 0.0 for point in known]
        if label != MEAN[task]:
            axis.plot(shares, scores, linewidth=0.8, alpha=0.6, marker=".", label=label)
            continue
        low = [
            score - (point.low if point.low is not None else score) for point, score in zip(known, scores, strict=True)
        ]
        high = [
            (point.high if point.high is not None else score) - score
            for point, score in zip(known, scores, strict=True)
        ]
        errors = np.clip([low, high], 0, None)
        axis.errorbar(shares, scores, yerr=errors, color="black", marker="o", capsize=3, linewidth=2, label=label)
    if task == "diagnosis":
        axis.axhline(0.5, color="0.7", linestyle=":")
    axis.set_xscale("log")
    ticks = sorted({100 * point.label_fraction for point in points})
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("labelled patients, %")
    axis.set_ylabel(SCORE[task])
    axis.legend(fontsize="x-small", loc="best", ncols=2)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
