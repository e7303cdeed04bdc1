"""Whether a loss still falls: one that is no number ends a training, one that rises for good is told."""

import logging
import math
import statistics
from collections import deque
from collections.abc import Sequence

from odiff.errors import TrainingError
from odiff.vocabulary import restart_flags

log = logging.getLogger(__name__)
WINDOW = 50
RISE = 2.0
# A batch of one case draws one time step, and its loss differs tenfold from that of the next: medians double by chance (p .04).
CHANCE = 1e-4
# So many losses in a row may be no number in float16, whose scaler leaves such steps out.
OVERFLOWS = 20


class LossWatch:
    """Sees every loss of a run, in order.

    A learning rate that is too high shows as a loss that falls and then rises again; pretraining of which the end looks harmless may
    have lost a third of its steps so (docs/decisions.md, "Pretraining was too fast to be stable").
    """

    def __init__(self, title: str, field: str, may_overflow: bool = False) -> None:
        """`title` and `field`, the plan's learning rate, are for the messages."""
        self.title, self.field, self.may_overflow = title, field, may_overflow
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.least, self.lowest = math.inf, list[float]()
        self.overflows = 0
        self.has_told = False

    @property
    def restart(self) -> str:
        """The flags that begin the run anew."""
        return restart_flags(self.field.partition(".")[0])

    def see(self, step: int, loss: float, rate: float) -> None:
        """Take the loss of a step and the learning rate it was made with.

        Raises
        ------
        TrainingError
            It is no number, and not only for a few steps of float16.
        """
        if not math.isfinite(loss):
            self.overflows += 1
            if not self.may_overflow or self.overflows > OVERFLOWS:
                raise TrainingError(
                    f"{self.title}: the loss is {loss} at step {step}, with a learning rate of {rate:.3g}; the checkpoints before it are "
                    f"kept; train again with {self.restart} and a smaller --set {self.field}=..."
                )
            return
        self.overflows = 0
        self.recent.append(loss)
        if len(self.recent) < WINDOW:
            return
        now = statistics.median(self.recent)
        if now > RISE * self.least and not self.has_told and _is_greater(self.recent, self.lowest):
            self.has_told = True
            log.warning(
                "%s: the loss rose from %.3g to %.3g (medians of %d steps) at step %d, with a learning rate of %.3g; if it does not "
                "come back, train again with %s and a smaller --set %s=...",
                self.title, self.least, now, WINDOW, step, rate, self.restart, self.field,
            )  # fmt: skip
        if now < self.least:
            self.least, self.lowest = now, list(self.recent)


def _is_greater(now: Sequence[float], before: Sequence[float]) -> bool:
    """By more than chance (Mann and Whitney's test of ranks)."""
    from scipy.stats import mannwhitneyu  # slow to import, and hardly any training needs it

    return bool(mannwhitneyu(list(now), list(before), alternative="greater").pvalue < CHANCE)
