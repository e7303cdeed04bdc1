"""Percentiles of many values, several times faster than numpy's."""

import math
from collections.abc import Sequence

import numpy as np


def percentiles(values: np.ndarray, wanted: Sequence[float]) -> list[float]:
    """The percentiles `wanted` (0..100), rising, of all `values`, interpolated linearly as `np.percentile` does.

    Each rank is selected among what lies above the one before, where numpy goes through everything for every rank, and for the
    extremes besides.
    """
    ordered = values.flatten()
    found, start = [], 0
    for percent in wanted:
        place = percent / 100 * (ordered.size - 1)
        rank = math.floor(place)
        ordered[start:].partition(rank - start)
        start = rank
        low = float(ordered[rank])
        high = float(ordered[rank + 1 :].min()) if place > rank else low
        found.append(low + (place - rank) * (high - low))
    return found
