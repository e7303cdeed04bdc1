"""Training batches as a function of their number: the same seed and number give the same batch, on any machine.

Nothing depends on the batches before, so that a resumed run meets exactly what an undisturbed one would have met.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch import Tensor
from torch.utils.data import Dataset

from odiff.data.augmentation import augment
from odiff.data.labels import IGNORE
from odiff.data.sliding_window import AIR, split_tiles
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


def read_patch(
    folder: Path, name: str, start_zyx: Sequence[int], patch_zyx: Sequence[int], outside: float
) -> np.ndarray:
    """(1, z, y, x) from a preprocessed array, `outside` where the patch reaches beyond the volume."""
    box = [[low, low + size] for low, size in zip(start_zyx, patch_zyx, strict=True)]
    return crop_and_pad_nd(open_array(folder / f"{name}.b2nd"), box, pad_value=outside)[None]


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
        shape = open_array(source.folder / f"{name}.b2nd").shape
        start = patch_start(shape, source.plan.patch_zyx, rng)
        image = read_patch(source.folder, name, start, source.plan.patch_zyx, AIR).astype(np.float32)
        return augment(image, None, source.augmentation, rng, mirror_axes=source.plan.mirror_axes)[0]


class SegmentationBatches(Dataset):
    """Patches with their masks; some are centred on a voxel of a random structure.

    Items are (image (b, 1, z, y, x) float32, classes (b, z, y, x) int64, `IGNORE` where nothing is known).
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
        mask = open_array(source.folder / f"{name}_seg.b2nd")[:]
        start = patch_start(mask.shape, patch, rng)
        if rng.random() < self.foreground_fraction:
            start = _centred_on_structure(mask, patch, start, rng)
        image = read_patch(source.folder, name, start, patch, AIR).astype(np.float32)
        labels = read_patch(source.folder, f"{name}_seg", start, patch, IGNORE)
        image, moved = augment(
            image, labels, source.augmentation, rng, mirror_axes=source.plan.mirror_axes, left_right=source.left_right
        )
        return image, (labels if moved is None else moved)[0]


def _centred_on_structure(
    mask: np.ndarray, patch_zyx: Sequence[int], otherwise: list[int], rng: np.random.Generator
) -> list[int]:
    values = [value for value in np.unique(mask) if value > 0]
    if not values:
        return otherwise
    voxels = np.argwhere(mask == rng.choice(values))
    centre = voxels[rng.integers(len(voxels))]
    room = [size - patch for size, patch in zip(mask.shape, patch_zyx, strict=True)]
    return [
        int(np.clip(c - patch // 2, 0, free)) if free > 0 else free // 2
        for c, patch, free in zip(centre, patch_zyx, room, strict=True)
    ]


def class_indices(labels: np.ndarray, class_values: Sequence[int]) -> Tensor:
    """Label values, however numbered, to the indices of the network's outputs; others become `IGNORE`."""
    indices = np.full(labels.shape, IGNORE, np.int64)
    for index, value in enumerate(class_values):
        indices[labels == value] = index
    return torch.from_numpy(indices)


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
    return split_tiles(open_array(folder / f"{name}.b2nd")[:].astype(np.float32), patch_zyx)
