"""Mean scores of structures over series, in any number of bootstrap samples."""

from collections.abc import Mapping, Sequence

import numpy as np

from odiff.metrics.classification import MACRO, MICRO, Samples

MEANS = (
    "dice", "hd95_mm", "assd_mm", "volume_error_ml", "absolute_volume_error_ml", "thickness_error_mm",
    "absolute_thickness_error_mm",
)  # fmt: skip
OF_ALL = ("dice", "hd95_mm", "assd_mm", "absolute_volume_error_ml")
ABSOLUTE = {
    "absolute_volume_error_ml": "volume_error_ml",
    "absolute_thickness_error_mm": "thickness_error_mm",
}


def sample_structures(labels: Sequence[str], values: Mapping[str, np.ndarray], counts: np.ndarray) -> Samples:
    """Mean over series of every score of every structure, of their mean (macro), and Dice of all voxels pooled (micro).

    Parameters
    ----------
    values : by score of `odiff.metrics.segmentation.score_case`, (series, labels); NaN where a label has no such score.
    counts : (repeats, series), one row per sample; a row of ones is the series themselves.

    Returns
    -------
    By label, then by score: (repeats,).
    """
    known = {**values, **{name: np.abs(values[signed]) for name, signed in ABSOLUTE.items() if signed in values}}
    weights = counts / counts.sum(axis=1, keepdims=True)
    means = {name: weights @ known[name] for name in MEANS if name in known}
    samples: Samples = {
        label: {name: mean[:, k] for name, mean in means.items() if not np.isnan(mean[:, k]).any()}
        for k, label in enumerate(labels)
    }
    samples[MACRO] = {name: means[name].mean(axis=1) for name in OF_ALL}
    samples[MICRO] = {"dice": pooled_dice(values, counts)}
    return samples


def pooled_dice(values: Mapping[str, np.ndarray], counts: np.ndarray) -> np.ndarray:
    """Dice of the voxels of all structures and series together, by volume: (repeats,); 1 where nothing is there at all."""
    sizes = values["volume_ml"] + values["reference_volume_ml"]
    overlap, whole = counts @ (values["dice"] * sizes).sum(axis=1), counts @ sizes.sum(axis=1)
    return np.divide(overlap, whole, out=np.ones(len(counts)), where=whole > 0)
