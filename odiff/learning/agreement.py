"""Finding the directions in which the views of a case agree, from scans without labels.

The cells of each view are whitened on their leading principal components; the directions are the leading eigenvectors of the
correlation between all views' components: generalised canonical correlation in its MAXVAR form (Kettenring 1971). What one
hospital's sequence or one acquisition's noise puts into a single view correlates with nothing in the others and drops out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.isotonic import IsotonicRegression

COMPONENTS = (12, 25, 50, 100, 200, 400)
WIDTH = 200
HELD_OUT = 0.2


@dataclass(frozen=True)
class Whitening:
    """Cells (n, cells) to uncorrelated components of unit variance: ``(cells - mean) @ matrix``."""

    mean: np.ndarray
    matrix: np.ndarray

    def first(self, components: int) -> "Whitening":
        """The leading components alone."""
        return Whitening(self.mean, self.matrix[:, :components])


@dataclass(frozen=True)
class Agreement:
    """The chosen number of components, how much the views of held-out cases agree under each candidate, and what to trust.

    `weights` (width,) belong to the chosen directions in order: the root of the correlation that they keep in held-out cases.
    """

    components: int
    scores: dict[int, float]
    weights: np.ndarray


def whiten(cells: np.ndarray, components: int, seed: int) -> Whitening:
    """Principal components of the rows of `cells` (n, cells), scaled to unit variance."""
    found = PCA(components, svd_solver="randomized", random_state=seed).fit(cells)
    scale = np.sqrt(np.maximum(found.explained_variance_, 1e-12))
    return Whitening(found.mean_, found.components_.T / scale)


def agreeing_directions(parts: Sequence[np.ndarray], present: np.ndarray, width: int) -> list[np.ndarray]:
    """The leading eigenvectors of the correlation between the views' components, one block of rows per view.

    Parameters
    ----------
    parts : by view (n, components), rows of zeros where the view is missing.
    present : (n, views).

    Returns
    -------
    By view (components, width); correlations are over the cases that have both views.
    """
    sizes = [part.shape[1] for part in parts]
    ends = np.cumsum([0, *sizes])
    whole = np.eye(ends[-1])
    for i, first in enumerate(parts):
        for j in range(i):
            both = present[:, i] & present[:, j]
            block = first[both].T @ parts[j][both] / max(1, both.sum())
            whole[ends[i] : ends[i + 1], ends[j] : ends[j + 1]] = block
            whole[ends[j] : ends[j + 1], ends[i] : ends[i + 1]] = block.T
    values, vectors = np.linalg.eigh(whole)
    leading = vectors[:, np.argsort(-values)[:width]]
    return [leading[ends[i] : ends[i + 1]] for i in range(len(parts))]


def choose_components(
    cells: Sequence[np.ndarray], present: np.ndarray, patients: Sequence[str], seed: int
) -> Agreement:
    """How many components to whiten: those whose directions agree most between views of patients that were held out.

    Too few miss what the views share; with too many the views of the training cases agree by chance. A candidate's score is the sum
    over its directions of their squared correlation between views.

    Parameters
    ----------
    cells : by view (n, cells).
    present : (n, views).
    patients : whose each of the n cases is.
    """
    names = np.unique(patients)
    out = np.random.default_rng([seed, 8]).permutation(names)[: max(1, round(HELD_OUT * len(names)))]
    is_out = np.isin(patients, out)
    held_out, training = np.flatnonzero(is_out), np.flatnonzero(~is_out)
    most = max(most_components(one, column[training]) for one, column in zip(cells, present.T, strict=True))
    candidates = [one for one in COMPONENTS if one <= most] or [most]
    whitened = whiten_views(cells, present, training, candidates[-1], seed)
    scores, kept = {}, {}
    for components in candidates:
        maps = learn_maps(cells, present, training, [one.first(components) for one in whitened])
        rows = [(one[held_out] - mean) @ directions for one, (mean, directions) in zip(cells, maps, strict=True)]
        kept[components] = held_out_correlation(rows, present[held_out])
        scores[components] = float((kept[components] ** 2).sum())
    best = max(scores, key=lambda one: scores[one])
    falling = IsotonicRegression(increasing=False).fit_transform(np.arange(len(kept[best])), kept[best])
    return Agreement(best, scores, np.sqrt(falling))


def weighted_maps(
    cells: Sequence[np.ndarray], present: np.ndarray, agreement: Agreement, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`learn_maps` of all cases, each direction times its weight.

    Of all cases a rare view has more components, and so the maps may have more directions, than of those that the weights were measured
    on; the last, on which views agree least, are left out.
    """
    everyone = np.arange(len(present))
    whitened = whiten_views(cells, present, everyone, agreement.components, seed)
    maps = learn_maps(cells, present, everyone, whitened)
    return [(mean, directions[:, : len(agreement.weights)] * agreement.weights) for mean, directions in maps]


def most_components(cells: np.ndarray, is_present: np.ndarray) -> int:
    """As many components as a view can have: half as many as cases that have it."""
    return max(1, min(int(is_present.sum()) // 2, cells.shape[1]))


def held_out_correlation(rows: Sequence[np.ndarray], present: np.ndarray) -> np.ndarray:
    """The correlation of each direction between two views, averaged over the pairs of views: (width,), 0 where it is negative.

    `rows` are by view (n, width); `present` (n, views).
    """
    found = []
    for i, first in enumerate(rows):
        for j, second in enumerate(rows[:i]):
            both = present[:, i] & present[:, j]
            if both.sum() > 2:
                a, b = (one[both] - one[both].mean(axis=0) for one in (first, second))
                scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
                found.append(np.divide((a * b).sum(axis=0), scale, out=np.zeros(a.shape[1]), where=scale > 0))
    return np.maximum(np.mean(found, axis=0), 0.0) if found else np.zeros(rows[0].shape[1])


def whiten_views(
    cells: Sequence[np.ndarray], present: np.ndarray, used: np.ndarray, components: int, seed: int
) -> list[Whitening]:
    """`whiten` of each view, from those rows `used` of its `cells` where it is present; fewer components where it is rare."""
    return [
        whiten(one[used[column[used]]], min(components, most_components(one, column[used])), seed)
        for column, one in zip(present.T, cells, strict=True)
    ]


def learn_maps(
    cells: Sequence[np.ndarray], present: np.ndarray, used: np.ndarray, whitened: Sequence[Whitening]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """By view the mean (cells,) and the map to the shared directions (cells, width), from the rows `used` of `cells`.

    There are `WIDTH` directions, fewer where all views together have fewer components.
    """
    parts = []
    for column, one, whitening in zip(present.T, cells, whitened, strict=True):
        part = np.zeros((len(used), whitening.matrix.shape[1]))
        part[column[used]] = (one[used[column[used]]] - whitening.mean) @ whitening.matrix
        parts.append(part)
    directions = agreeing_directions(parts, present[used], WIDTH)
    return [(w.mean, w.matrix @ block) for w, block in zip(whitened, directions, strict=True)]
