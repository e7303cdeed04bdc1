"""Training batches as a function of their number: the same seed and number give the same batch, on any machine.

Nothing depends on the batches before, so that a resumed run meets exactly what an undisturbed one would have met.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch import Tensor
from torch.utils.data import Dataset

from odiff.data.augmentation import augment
from odiff.data.labels import IGNORE
from odiff.data.sliding_window import AIR, joined_tiles, split_tiles
from odiff.data.store import open_array
from odiff.plan import Augmentation, ViewPlan


@dataclass(frozen=True)
class BatchSource:
    """What every kind of batch is drawn from: the folder of one view, its plan, and the seed of the run."""

    folder: Path
    plan: ViewPlan
    augmentation: Augmentation
    left_right: tuple[tuple[int, int], ...]
    batch_size: int
    seed: int

    def draw(self, number: int, items: int) -> tuple[np.random.Generator, list[int]]:
        """The generator of batch `number`, and which of `items` it holds: each once per pass, in a new order."""
        places = range(number * self.batch_size, (number + 1) * self.batch_size)
        chosen = [int(self._order(place // items, items)[place % items]) for place in places]
        return np.random.default_rng([self.seed, 1, number]), chosen

    def _order(self, epoch: int, items: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0, epoch]).permutation(items)


def read_patch(array: blosc2.NDArray, start_zyx: Sequence[int], patch_zyx: Sequence[int], outside: float) -> np.ndarray:
    """(1, z, y, x) from a preprocessed array, `outside` where the patch reaches beyond the volume."""
    box = [[low, low + size] for low, size in zip(start_zyx, patch_zyx, strict=True)]
    return crop_and_pad_nd(array, box, pad_value=outside)[None]


def patch_start(shape_zyx: Sequence[int], patch_zyx: Sequence[int], rng: np.random.Generator) -> list[int]:
    """A random corner of the patch; a volume smaller than the patch is centred in it."""
    room = [size - patch for size, patch in zip(shape_zyx, patch_zyx, strict=True)]
    return [int(rng.integers(0, free + 1)) if free > 0 else free // 2 for free in room]


class PretrainBatches(Dataset):
    """Random patches of any series of the view, labelled or not: (b, 1, z, y, x) float32."""

    def __init__(self, source: BatchSource, names: Sequence[str]) -> None:
        self.source, self.names = source, tuple(names)

    def __getitem__(self, number: int) -> Tensor:
        """The batch of that number."""
        rng, chosen = self.source.draw(number, len(self.names))
        return torch.from_numpy(np.stack([self._one(self.names[item], rng) for item in chosen]))

    def _one(self, name: str, rng: np.random.Generator) -> np.ndarray:
        source = self.source
        array = open_array(source.folder / f"{name}.b2nd")
        image = read_patch(array, patch_start(array.shape, source.plan.patch_zyx, rng), source.plan.patch_zyx, AIR)
        return augment(image, None, source.augmentation, rng, mirror_axes=source.plan.mirror_axes)[0]


class SegmentationBatches(Dataset):
    """Patches with their masks; some are centred on a voxel of a random structure.

    Items are (image (b, 1, z, y, x) float32, classes (b, z, y, x) int16, `IGNORE` where nothing is known).
    """

    def __init__(
        self, source: BatchSource, names: Sequence[str], class_values: Sequence[int], foreground_fraction: float
    ) -> None:
        self.source, self.names = source, tuple(names)
        self.class_values = tuple(class_values)
        self.foreground_fraction = foreground_fraction

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """The batch of that number."""
        rng, chosen = self.source.draw(number, len(self.names))
        images, masks = zip(*(self._one(self.names[item], rng) for item in chosen), strict=True)
        return torch.from_numpy(np.stack(images)), class_indices(np.stack(masks), self.class_values)

    def _one(self, name: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        source, patch = self.source, self.source.plan.patch_zyx
        array, labels = (open_array(source.folder / f"{file}.b2nd") for file in (name, f"{name}_seg"))
        start = patch_start(array.shape, patch, rng)
        if rng.random() < self.foreground_fraction:
            places = open_array(source.folder / f"{name}_places.b2nd")[:]
            start = centred_on_structure(places, array.shape, patch, start, rng)
        image, mask = read_patch(array, start, patch, AIR), read_patch(labels, start, patch, IGNORE)
        image, moved = augment(
            image, mask, source.augmentation, rng, mirror_axes=source.plan.mirror_axes, left_right=source.left_right
        )
        return image, (mask if moved is None else moved)[0]


def centred_on_structure(
    places: np.ndarray,
    shape_zyx: Sequence[int],
    patch_zyx: Sequence[int],
    otherwise: list[int],
    rng: np.random.Generator,
) -> list[int]:
    """The corner of a patch around a random voxel of a random structure; `otherwise` where `places` holds none."""
    labels = places[:, 0]
    if not len(labels):
        return otherwise
    first, last = np.searchsorted(labels, rng.choice(np.unique(labels)) + np.array([0, 1]))
    centre = places[rng.integers(first, last), 1:]
    room = [size - patch for size, patch in zip(shape_zyx, patch_zyx, strict=True)]
    return [
        min(max(int(c) - patch // 2, 0), free) if free > 0 else free // 2
        for c, patch, free in zip(centre, patch_zyx, room, strict=True)
    ]


def class_indices(labels: np.ndarray, class_values: Sequence[int]) -> Tensor:
    """Label values (int16 at most) to the indices of the network's outputs, int16; all other values become `IGNORE`."""
    are_indices = tuple(class_values) == tuple(range(len(class_values)))
    if are_indices and labels.min(initial=0) >= IGNORE and labels.max(initial=0) < len(class_values):
        return torch.from_numpy(labels.astype(np.int16, copy=False))
    table = np.full(2**16, IGNORE, np.int16)
    table[list(class_values)] = np.arange(len(class_values))
    return torch.from_numpy(table[labels])


@dataclass(frozen=True)
class DiagnosisItem:
    """One case of a view: its series, and its labels (1, 0, or NaN where unknown)."""

    series: tuple[str, ...]
    targets: tuple[float, ...]


class DiagnosisBatches(Dataset):
    """Whole fields of view of one random series per case.

    Items are (tiles (n, 1, z, y, x) float32, owner (n,) int64 index of the case of each tile, targets (b, labels)).
    """

    def __init__(self, source: BatchSource, items: Sequence[DiagnosisItem]) -> None:
        self.source, self.items = source, tuple(items)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of that number."""
        rng, chosen = self.source.draw(number, len(self.items))
        images, owners = [], []
        for place, item in enumerate(self.items[index] for index in chosen):
            name = item.series[int(rng.integers(len(item.series)))]
            for image in whole_view(self.source.folder, name, self.source.plan.patch_zyx):
                images.append(self._augment(image, rng))
                owners.append(place)
        targets = torch.tensor([self.items[index].targets for index in chosen], dtype=torch.float32)
        return torch.from_numpy(np.stack(images)), torch.tensor(owners), targets

    def _augment(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return augment(image, None, self.source.augmentation, rng, mirror_axes=self.source.plan.mirror_axes)[0]


def whole_view(folder: Path, name: str, patch_zyx: Sequence[int]) -> list[np.ndarray]:
    """A preprocessed series as tiles (1, z, y, x) of the patch size that cover it; one, centred, where it fits."""
    return split_tiles(torch.from_numpy(open_array(folder / f"{name}.b2nd")[:]).float().numpy(), patch_zyx)


def whole_views(
    folder: Path, names: Sequence[str], patch_zyx: Sequence[int], at_once: int
) -> Iterator[tuple[range, Tensor, Tensor]]:
    """The tiles of `whole_view` of many series, series after another until there are `at_once` tiles.

    Yields
    ------
    Which of `names` they are, their tiles (n, 1, z, y, x), and for each tile the place (n,) of its series among these.
    """
    waiting: list[list[np.ndarray]] = []
    for number, name in enumerate(names):
        waiting.append(whole_view(folder, name, patch_zyx))
        if sum(map(len, waiting)) >= at_once or number == len(names) - 1:
            yield range(number + 1 - len(waiting), number + 1), *joined_tiles(waiting)
            waiting = []
