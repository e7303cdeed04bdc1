"""Pictures of an evaluation: ROC, precision and recall, reliability, and Dice of each structure."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from odiff.inference.evaluate.tables import DiagnosisTable, Evaluation, SegmentationTable
from odiff.metrics.bootstrap import BINS, bin_of
from odiff.metrics.classification import is_computable, label_score
from odiff.storage import atomic_path


def draw_plots(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Write the pictures that there is something to draw for; the paths written."""
    written = []
    if evaluation.diagnosis is not None and any(True for _ in curves_of(evaluation.diagnosis)):
        for name, draw in (("roc", _draw_roc), ("precision_recall", _draw_pr), ("reliability", _draw_reliability)):
            written.append(_save(folder / f"{name}.png", evaluation.diagnosis, draw))
    if evaluation.segmentation is not None:
        written.append(_save_dice(folder / "dice.png", evaluation.segmentation))
    return written


def curves_of(table: DiagnosisTable) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, truth and probability, the known alone, of each computable label."""
    for k, label in enumerate(table.labels):
        truth = table.truth[:, k]
        if is_computable(truth, table.rows.patients):
            known = ~np.isnan(truth)
            yield label, truth[known], table.probability[known, k]


def _draw_roc(axis: Axes, table: DiagnosisTable) -> None:
    for number, (label, truth, probability) in enumerate(curves_of(table)):
        false, true, _ = roc_curve(truth, probability)
        text = f"{label} {label_score('auroc', truth, probability):.2f}"
        axis.plot(false, true, color=_colour(number), label=text, linewidth=1.2)
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axis.set_xlabel("1 - specificity")
    axis.set_ylabel("sensitivity")
    axis.set_title("ROC, AUROC", fontsize="small")


def _draw_pr(axis: Axes, table: DiagnosisTable) -> None:
    for number, (label, truth, probability) in enumerate(curves_of(table)):
        precision, recall, _ = precision_recall_curve(truth, probability)
        text = f"{label} {label_score('ap', truth, probability):.2f} (prevalence {truth.mean():.2f})"
        axis.step(recall, precision, where="post", color=_colour(number), label=text, linewidth=1.2)
    axis.set_xlabel("recall (sensitivity)")
    axis.set_ylabel("precision")
    axis.set_title("precision and recall, average precision", fontsize="small")


def _draw_reliability(axis: Axes, table: DiagnosisTable) -> None:
    for number, (label, truth, probability) in enumerate(curves_of(table)):
        mean, share = reliability(truth, probability)
        text = f"{label} {label_score('calibration_error', truth, probability):.2f}"
        axis.plot(mean, share, color=_colour(number), marker=".", linewidth=0.8, label=text)
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axis.set_xlabel("mean predicted probability")
    axis.set_ylabel("share of positives")
    axis.set_title(f"reliability in {BINS} bins, calibration error", fontsize="small")


def reliability(truth: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean probability and share of positives of each bin that holds cases; truth 1 or 0, all (cases,)."""
    number = bin_of(probability)
    counts = np.bincount(number, minlength=BINS)
    kept = counts > 0
    sums = (np.bincount(number, weights, minlength=BINS)[kept] for weights in (probability, truth))
    mean, share = (total / counts[kept] for total in sums)
    return mean, share


def _colour(number: int) -> tuple[float, ...]:
    return colormaps["tab20"](number % 20)


def _save(path: Path, table: DiagnosisTable, draw: Callable[[Axes, DiagnosisTable], None]) -> Path:
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    draw(axis, table)
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.01, 1.01)
    figure.legend(loc="outside right upper", fontsize="x-small", frameon=False)
    return _write(path, figure)


def _save_dice(path: Path, table: SegmentationTable) -> Path:
    """A box and every series of each structure."""
    figure = Figure(figsize=(1.5 + 0.62 * len(table.labels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    dice = table.values["dice"]
    places = np.arange(1, len(table.labels) + 1)
    axis.boxplot(list(dice.T), positions=places, widths=0.55, showfliers=False)
    shift = np.linspace(-0.18, 0.18, len(dice)) if len(dice) > 1 else np.zeros(1)
    for place, column in zip(places, dice.T, strict=True):
        axis.plot(place + shift, column, ".", color="tab:blue", alpha=0.5, markersize=4)
    axis.set_xticks(places, table.labels, rotation=40, ha="right", fontsize="small")
    axis.set_ylim(-0.02, 1.02)
    axis.set_ylabel("Dice")
    axis.set_title(f"{len(dice)} series of {table.rows.patient_count} patients", fontsize="small")
    return _write(path, figure)


def _write(path: Path, figure: Figure) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return path
