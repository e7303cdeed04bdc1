"""Whole volumes from patch predictions, tiles blended with a Gaussian as nnU-Net does."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Predict = Callable[[Tensor], Iterable[Tensor]]
Tile = tuple[slice, slice, slice]
AIR = -1.0


def tile_starts(size: int, patch: int, step: float) -> list[int]:
    """Evenly spread first voxels of tiles along one axis, at most `step` patches apart; the last is flush with the end."""
    if size <= patch:
        return [0]
    count = int(np.ceil((size - patch) / (patch * step))) + 1
    return [round(place) for place in np.linspace(0, size - patch, count)]


def tiles(shape_zyx: Sequence[int], patch_zyx: Sequence[int], step: float) -> list[Tile]:
    """Slices of patches that cover a volume at least as large as the patch, row by row along the first axis."""
    starts = [tile_starts(size, patch, step) for size, patch in zip(shape_zyx, patch_zyx, strict=True)]
    depth, rows, columns = patch_zyx
    return [
        (slice(z, z + depth), slice(y, y + rows), slice(x, x + columns))
        for z in starts[0] for y in starts[1] for x in starts[2]
    ]  # fmt: skip


def importance(patch_zyx: Sequence[int], sigma: float = 1 / 8) -> Tensor:
    """Gaussian over the patch, sigma in patch sizes, 1 at the centre and never below 0.001."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n * sigma)) ** 2) for n in patch_zyx]
    weight = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return (weight / weight.max()).clamp(min=1e-3)


def sliding_window(
    predict: Predict, volume: Tensor, patch_zyx: Sequence[int], *, step_size: float = 0.5,
    mirror_axes: Sequence[int] = (), outside: float = AIR,
) -> Tensor:  # fmt: skip
    """Predict a volume of any size: the slabs of `sliding_slabs` as one, (classes, z, y, x) float32 on the CPU."""
    whole: Tensor | None = None
    done = 0
    for slab in sliding_slabs(
        predict, volume, patch_zyx, step_size=step_size, mirror_axes=mirror_axes, outside=outside
    ):
        if whole is None:
            whole = torch.empty((len(slab), *volume.shape[1:]))
        whole[:, done : done + slab.shape[1]] = slab
        done += slab.shape[1]
    if whole is None:
        raise ValueError(f"no tile in a volume of shape {tuple(volume.shape)}")
    return whole


def sliding_slabs(
    predict: Predict, volume: Tensor, patch_zyx: Sequence[int], *, step_size: float = 0.5,
    mirror_axes: Sequence[int] = (), swapped: Sequence[int] | None = None, outside: float = AIR,
) -> Iterator[Tensor]:  # fmt: skip
    """Predict a volume of any size from its first slice to its last, holding no more of it than one row of tiles.

    Where one tile is the whole volume and nothing is mirrored, no more is held than one slab of `predict`.

    Parameters
    ----------
    predict : (1, 1, *patch_zyx) -> slabs (1, classes, n, y, x) in order along z, together the patch.
    volume : (1, z, y, x); filled up with `outside` on both sides where smaller than the patch.
    step_size : distance of tiles in patches, in (0, 1].
    mirror_axes : spatial axes (0, 1, 2); predictions of all combinations of mirrored patches are averaged.
    swapped : for each class, the one that it becomes in a mirrored volume, where classes have a side.

    Yields
    ------
    (classes, n, y, x) float32 on the CPU, in order along z; a slab is overwritten once the next is asked for.
    """
    depth, rows, columns = volume.shape[1:]
    margin = [max(0, p - n) // 2 for n, p in zip(volume.shape[1:], patch_zyx, strict=True)]
    full = [max(n, p) for n, p in zip(volume.shape[1:], patch_zyx, strict=True)]
    inner = (slice(None), slice(None), slice(margin[1], margin[1] + rows), slice(margin[2], margin[2] + columns))
    places = tiles(full, patch_zyx, step_size)
    if len(places) == 1:
        tile = _cut(volume, places[0], margin, outside)
        slabs = [mirrored(predict, tile, mirror_axes, swapped)] if mirror_axes else predict(tile)
        for first, slab in _numbered(slabs):
            low, high = max(margin[0] - first, 0), min(margin[0] + depth - first, slab.shape[1])
            if low < high:
                yield slab[:, low:high][inner]
        return
    row = TileRow((patch_zyx[0], full[1], full[2]), importance(patch_zyx))
    for number, place in enumerate(places):
        answer = mirrored(predict, _cut(volume, place, margin, outside), mirror_axes, swapped)[0].float().cpu()
        row.add(answer, place)
        following = places[number + 1][0].start if number + 1 < len(places) else full[0]
        if following > place[0].start:
            first = max(0, margin[0] - place[0].start)
            finished = min(following, margin[0] + depth) - place[0].start
            yield row.finished(finished)[:, first:][inner]
            row.advance(following - place[0].start)


def _numbered(slabs: Iterable[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Slabs of one patch as (classes, n, y, x) float32 on the CPU, each with the number of its first slice."""
    done = 0
    for slab in slabs:
        yield done, slab[0].float().cpu()
        done += slab.shape[2]


class TileRow:
    """The weighted sum of the tiles of one row along z, as deep as a patch and as wide as the volume."""

    def __init__(self, shape_zyx: Sequence[int], weight: Tensor) -> None:
        self.weight = weight
        self.total: Tensor | None = None
        self.weights = torch.zeros(tuple(shape_zyx))

    def add(self, answer: Tensor, place: Tile) -> None:
        """Add the prediction (classes, *patch_zyx) of the tile at `place`."""
        if self.total is None:
            self.total = torch.zeros((len(answer), *self.weights.shape))
        self.total[:, :, place[1], place[2]].addcmul_(answer, self.weight)
        self.weights[:, place[1], place[2]] += self.weight

    def finished(self, slices: int) -> Tensor:
        """The blended prediction (classes, slices, y, x) of the first slices, which no later tile reaches."""
        if self.total is None:
            raise ValueError("no tile was added")
        return self.total[:, :slices].div_(self.weights[:slices])

    def advance(self, slices: int) -> None:
        """Drop the first slices and make room for as many behind the others."""
        for part in (self.weights[None], self.total):
            if part is None:
                continue
            kept = max(0, part.shape[1] - slices)
            for number in range(kept):
                part[:, number] = part[:, number + slices]
            part[:, kept:] = 0


def _cut(volume: Tensor, place: Tile, margin: Sequence[int], outside: float) -> Tensor:
    """The tile (1, 1, *patch) of a volume that begins at `margin` inside its frame."""
    spans = [(max(0, s.start - m), min(n, s.stop - m)) for s, m, n in zip(place, margin, volume.shape[1:], strict=True)]
    depth, rows, columns = (slice(low, high) for low, high in spans)
    inside = volume[:, depth, rows, columns]
    missing: list[int] = []
    for (low, high), s, m in reversed(list(zip(spans, place, margin, strict=True))):
        missing += [low - (s.start - m), (s.stop - m) - high]
    return (F.pad(inside, missing, value=outside) if any(missing) else inside)[None]


def split_tiles(image: np.ndarray, patch_zyx: Sequence[int]) -> list[np.ndarray]:
    """(z, y, x) -> tiles (1, z, y, x) of exactly the patch size; an axis up to a quarter too long is cropped, not tiled."""
    kept = [
        min(size, patch) if size <= 1.25 * patch else size for size, patch in zip(image.shape, patch_zyx, strict=True)
    ]
    full = [max(size, patch) for size, patch in zip(kept, patch_zyx, strict=True)]
    margin = [-((size - wanted) // 2) for size, wanted in zip(image.shape, full, strict=True)]
    volume = torch.from_numpy(np.ascontiguousarray(image))[None]
    return [_cut(volume, tile, margin, AIR)[0].contiguous().numpy() for tile in tiles(full, patch_zyx, 1.0)]


def joined_tiles(series: Sequence[Sequence[np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Tiles (1, z, y, x) of several series as one (n, 1, z, y, x), and for each the number of its series (n,)."""
    owner = [number for number, some in enumerate(series) for _ in some]
    return torch.from_numpy(np.stack([tile for some in series for tile in some])), torch.tensor(owner)


def mirrored(
    predict: Predict, patch: Tensor, mirror_axes: Sequence[int], swapped: Sequence[int] | None = None
) -> Tensor:
    """The mean prediction over all combinations of mirrored axes, each turned back; two mirrorings leave classes on their side."""
    combinations: list[list[int]] = [[]]
    for axis in mirror_axes:
        combinations += [[*chosen, axis + 2] for chosen in combinations]
    total = _whole(predict(patch), patch)
    for axes in combinations[1:]:
        back = torch.flip(_whole(predict(torch.flip(patch, axes)), patch), axes)
        total += back[:, swapped] if swapped and len(axes) % 2 else back
    return total.div_(len(combinations)) if len(combinations) > 1 else total


def _whole(slabs: Iterable[Tensor], patch: Tensor) -> Tensor:
    result, done = torch.empty(0), 0
    for slab in slabs:
        if not done:
            result = slab.new_empty((*slab.shape[:2], *patch.shape[2:]))
        result[:, :, done : done + slab.shape[2]] = slab
        done += slab.shape[2]
    return result
