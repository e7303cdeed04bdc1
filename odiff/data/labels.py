"""Label maps: what values they hold."""

import numpy as np

IGNORE = -1
LARGEST_TABLE = 1 << 20


def label_counts(labels: np.ndarray) -> dict[int, int]:
    """How many voxels have each value that occurs, values rising; integers of any sign."""
    lowest = int(labels.min())
    if int(labels.max()) - lowest > LARGEST_TABLE:
        values, counts = np.unique(labels, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    counts = np.bincount(labels.ravel() - lowest)
    return {int(place) + lowest: int(counts[place]) for place in np.flatnonzero(counts)}
