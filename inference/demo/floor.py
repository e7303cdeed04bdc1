"""Trivial predictors: what any model has to beat."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from odiff.data.preprocessing import PreparedVolume
from odiff.data.resampling import resample
from odiff.data.store import open_array

GRID_ZYX = (8, 8, 8)
BINS = 16
COMPONENTS = 100


def coarse_features(image: np.ndarray) -> np.ndarray:
    """A histogram and a coarse copy of a volume (z, y, x) around -1..1: all a linear model gets to see."""
    histogram = np.histogram(image, BINS, (-1.5, 1.5))[0] / image.size
    coarse = resample(torch.from_numpy(np.ascontiguousarray(image, np.float32))[None], GRID_ZYX)[0].numpy()
    return np.concatenate([histogram, coarse.ravel()])


def linear_probabilities(train: np.ndarray, truth: np.ndarray, test: np.ndarray) -> np.ndarray:
    """One logistic regression per label on whitened principal components of features (cases, f); truth (cases, labels), NaN unknown.

    Whitened, because lesions are not where intensities vary most (docs/decisions.md).
    """
    columns = []
    components = min(COMPONENTS, len(train) // 2)
    for label in range(truth.shape[1]):
        known = ~np.isnan(truth[:, label])
        if len(np.unique(truth[known, label])) < 2:
            columns.append(np.full(len(test), 0.5))
            continue
        whitened = PCA(components, whiten=True, random_state=0)
        model = make_pipeline(whitened, LogisticRegression(C=0.1, max_iter=1000))
        model.fit(train[known], truth[known, label])
        columns.append(model.predict_proba(test)[:, 1])
    return np.stack(columns, axis=1)


def frequent_labels(
    folder: Path, names: Sequence[str], shape_zyx: tuple[int, int, int], values: Sequence[int]
) -> np.ndarray:
    """Share of each label at each place over training masks stretched to one shape: (labels, *shape)."""
    total = np.zeros((len(values), *shape_zyx), np.float32)
    for name in names:
        mask = open_array(folder / f"{name}_seg.b2nd")[:]
        for index, value in enumerate(values):
            share = torch.from_numpy((mask == value).astype(np.float32))[None]
            total[index] += resample(share, shape_zyx)[0].numpy()
    return total / max(1, len(names))


def frequent_segmentation(frequency: np.ndarray, prepared: PreparedVolume) -> torch.Tensor:
    """The label frequencies stretched to a new volume; scores (labels, z, y, x) to take the largest of."""
    return resample(torch.from_numpy(frequency), prepared.image.shape)
