"""progress.png: loss, rates and scores over the steps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from odiff.storage import atomic_path
from odiff.training.run_folder import RunFolder

KNOWN = ("step", "seconds")


def draw_progress(folder: RunFolder) -> None:
    """Draw what metrics.jsonl holds: the loss with its running mean, every score, and the seconds of a step."""
    entries = folder.read_metrics()
    if not entries:
        return
    scores = sorted({key for entry in entries for key in entry if not key.startswith("rate_")} - {*KNOWN, "loss"})
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    steps = [entry["step"] for entry in entries]
    losses = [entry["loss"] for entry in entries]
    top.plot(steps, losses, color="0.75", linewidth=0.7, label="loss")
    top.plot(steps, running_mean(losses), color="tab:blue", label="running mean")
    top.set_ylabel("loss")
    top.legend(loc="upper right")
    for key in scores:
        kept = [(entry["step"], entry[key]) for entry in entries if entry.get(key) is not None]
        middle.plot(*zip(*kept, strict=True), marker=".", label=key)
    middle.set_ylabel("scores")
    if scores:
        middle.legend(loc="lower right", fontsize="small")
    bottom.plot(steps, [entry["seconds"] for entry in entries], color="tab:green", linewidth=0.7)
    bottom.set_ylabel("seconds a step")
    bottom.set_xlabel("step")
    with atomic_path(folder.path / "progress.png") as temporary:
        figure.savefig(temporary, format="png", dpi=80)


def running_mean(values: Sequence[float], window: int = 50) -> np.ndarray:
    """Mean of up to `window` values before and at each step, of those that are finite; NaN where none is."""
    known, found = np.isfinite(values), np.asarray(values, float)
    sums, counts = (np.cumsum(np.concatenate([[0.0], one])) for one in (np.where(known, found, 0.0), known))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    count = counts[ends] - counts[starts]
    return np.divide(sums[ends] - sums[starts], count, out=np.full(len(values), np.nan), where=count > 0)
