"""Predictions on the network's grid back to the grid of the file, slab by slab, so that no volume of all classes is ever held."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from odiff.data.preprocessing import SeriesGeometry, slices_of
from odiff.data.resampling import neighbours, resample
from odiff.geometry import canonical_shape, from_canonical, mirror

SLAB_BYTES = 2**25
ROUNDING = 1e-5


def restore_labels(slabs: Iterable[Tensor], values: Sequence[int], geometry: SeriesGeometry) -> np.ndarray:
    """The label of the largest probability on the file's own grid.

    Parameters
    ----------
    slabs : (classes, n, y, x), in order along z, together the network's grid; any scores that compare between classes.
    values : the label value of each class; the first is the background, which fills what was cropped away.

    Returns
    -------
    (z, y, x) of the file, in the smallest of uint8, int16 and int32 that holds all values.
    """
    table = torch.tensor(tuple(values), dtype=label_type(values))
    labels = _Canvas(geometry, (), table.numpy().dtype, values[0])
    for restored, classes in restored_slabs(slabs, geometry, is_pruned=True):
        labels.add(table[classes][restored.max(dim=0).indices].numpy())
    return labels.on_grid()


def restore_all(
    slabs: Iterable[Tensor], values: Sequence[int], geometry: SeriesGeometry
) -> tuple[np.ndarray, np.ndarray]:
    """As `restore_labels`, and the probabilities themselves (classes, z, y, x) on the file's grid, float16."""
    table = torch.tensor(tuple(values), dtype=label_type(values))
    labels = _Canvas(geometry, (), table.numpy().dtype, values[0])
    maps = _Canvas(geometry, (len(values),), np.dtype(np.float16), 0)
    maps.full[0] = 1
    for restored, _ in restored_slabs(slabs, geometry, is_pruned=False):
        labels.add(table[restored.max(dim=0).indices].numpy())
        maps.add(restored.half().numpy())
    return labels.on_grid(), maps.on_grid()


def label_type(values: Sequence[int]) -> torch.dtype:
    """The smallest integers that hold all `values`."""
    for kind in (torch.uint8, torch.int16):
        if torch.iinfo(kind).min <= min(values) and max(values) <= torch.iinfo(kind).max:
            return kind
    return torch.int32


def restored_slabs(
    slabs: Iterable[Tensor], geometry: SeriesGeometry, is_pruned: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Slabs on the network's grid -> slabs on the cropped grid of the file, what `resample` of the whole volume gives.

    Parameters
    ----------
    is_pruned : leave out the classes that cannot be the largest anywhere in a slab: interpolation is a weighted mean, so a
        class whose scores all lie below the smallest mean over the classes stays below the largest one.

    Yields
    ------
    (classes, n, y, x) float32 in order along z, and the numbers of its classes.
    """
    shape = tuple(high - low for low, high in geometry.crop)
    below, above, share = neighbours(geometry.shape_zyx[0], shape[0])
    ready = seen = 0
    last: Tensor | None = None
    for piece in _pieces(slabs, shape):
        scores = piece if last is None else torch.cat([last, piece], dim=1)
        last = piece[:, -1:].clone()
        first, seen = seen - scores.shape[1] + piece.shape[1], seen + piece.shape[1]
        until = int(np.searchsorted(above, seen, side="left"))
        classes = torch.arange(len(scores))
        if is_pruned:
            bound = scores.mean(dim=0).amin() - ROUNDING
            classes = torch.nonzero(scores.flatten(1).amax(dim=1) >= bound)[:, 0]
            scores = scores[classes] if len(classes) < len(scores) else scores
        plane = resample(scores.float(), (scores.shape[1], *shape[1:]))
        step = max(1, SLAB_BYTES // (4 * len(plane) * shape[1] * shape[2]))
        for low in range(ready, until, step):
            block = slice(low, min(low + step, until))
            yield _between(plane, below[block] - first, above[block] - first, share[block]), classes
        ready = until


def _between(plane: Tensor, below: np.ndarray, above: np.ndarray, share: np.ndarray) -> Tensor:
    if not share.any() and len(below) == below[-1] - below[0] + 1:
        return plane[:, below[0] : below[-1] + 1]
    weight = torch.from_numpy(share)[None, :, None, None]
    return torch.lerp(plane[:, below], plane[:, above], weight)


def _pieces(slabs: Iterable[Tensor], shape_zyx: Sequence[int]) -> Iterator[Tensor]:
    """Slabs cut so that one, brought up in plane, stays within `SLAB_BYTES`."""
    for slab in slabs:
        yield from slab.split(max(1, SLAB_BYTES // (4 * len(slab) * shape_zyx[1] * shape_zyx[2])), dim=1)


class _Canvas:
    """An array of the canonical frame that is filled slab by slab inside the crop."""

    def __init__(self, geometry: SeriesGeometry, lead: tuple[int, ...], kind: np.dtype, outside: float) -> None:
        self.geometry = geometry
        self.full = np.full((*lead, *canonical_shape(geometry.grid, geometry.frame)), outside, kind)
        self.done = geometry.crop[0][0]

    def add(self, slab: np.ndarray) -> None:
        _, rows, columns = slices_of(self.geometry.crop)
        depth = slab.shape[-3]
        self.full[..., self.done : self.done + depth, rows, columns] = slab
        self.done += depth

    def on_grid(self) -> np.ndarray:
        """In the file's own order of axes."""
        full = mirror(self.full, self.geometry.view) if self.geometry.is_mirrored else self.full
        return np.ascontiguousarray(from_canonical(full, self.geometry.frame))
