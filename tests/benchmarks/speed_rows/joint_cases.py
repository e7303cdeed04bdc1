"""Knee cases of a clinical size with spacings that vary, in the folder conventions of both sides."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from odiff.geometry import Grid, write_volume
from odiff.phantom import JOINTS
from odiff.phantom.acquisition import SCANNERS, Size
from odiff.phantom.study import WARP_MM, acquire_view, draw_place, draw_warp
from odiff.storage import write_json

VIEW = "sagittal"
SIZE = Size(slices=26, pixels=336, slice_mm=4.0, pixel_mm=0.5)
ANATOMIES = 4
NOISE = 0.03
DATASET = "Dataset001_Knee"


@dataclass(frozen=True)
class Roots:
    """Where the two sides find the same files."""

    ours: Path
    peer: Path


def make_cases(work: Path, cases: int) -> Roots:
    """`cases` masked sagittal knees of about 24x320x320 voxels below `work`, unless they are there.

    Four anatomies are drawn; each case is one of them cropped differently, with fresh noise and a voxel size of its own, which
    is cheap and leaves no trace of interpolation.
    """
    roots = Roots(work / "odiff_raw", work / "nnUNet_raw")
    done = work / f"{cases}_cases"
    if done.exists():
        return roots
    for root in (roots.ours, roots.peer):
        shutil.rmtree(root, ignore_errors=True)
    drawn = [draw_knee(number) for number in range(ANATOMIES)]
    for number in range(cases):
        image, mask, grid = vary(*drawn[number % ANATOMIES], np.random.default_rng([2, number]))
        write_case(roots, f"knee_{number:03d}", image, mask, grid)
    describe(roots, cases)
    done.touch()
    return roots


def draw_knee(seed: int) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Magnitudes and labels (z, y, x), and their grid."""
    rng = np.random.default_rng([1, seed])
    knee = JOINTS["knee"]
    anatomy = knee.build(rng, {name: int(rng.integers(2)) for name in knee.diagnoses}, {})
    series = acquire_view(
        anatomy, knee.labels, VIEW, "R", SIZE, SCANNERS[0], draw_warp(rng, WARP_MM), draw_place("R", rng), rng
    )
    return series.image.array, series.mask, series.image.grid


def vary(
    image: np.ndarray, mask: np.ndarray, grid: Grid, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, Grid]:
    """A crop of up to 4 slices and 32 pixels with slices of 3.2 to 4.8 mm, pixels of 0.4 to 0.6 mm, and Rician noise."""
    lost = (int(rng.integers(5)), *[int(rng.integers(33))] * 2)
    box = tuple(slice(cut // 2, size - (cut - cut // 2)) for cut, size in zip(lost, image.shape, strict=True))
    kept = image[box]
    sigma = NOISE * float(np.percentile(kept, 99))
    noisy = np.hypot(kept + rng.normal(0, sigma, kept.shape), rng.normal(0, sigma, kept.shape))
    pixel = float(rng.uniform(0.4, 0.6))
    spacing = (float(rng.uniform(3.2, 4.8)), pixel, pixel)
    return (
        noisy.round().astype(np.int16),
        mask[box].astype(np.uint8),
        Grid(kept.shape, spacing, grid.origin_xyz_mm, grid.direction),
    )


def write_case(roots: Roots, name: str, image: np.ndarray, mask: np.ndarray, grid: Grid) -> None:
    """One image and mask into our folders, and the same files into nnU-Net's under its names."""
    ours, peer = roots.ours / DATASET, roots.peer / DATASET
    write_volume(ours / "imagesTr" / f"{name}_{VIEW}.nii.gz", image, grid)
    write_volume(ours / "labelsTr" / f"{name}_{VIEW}.nii.gz", mask, grid)
    for folder, renamed in (("imagesTr", f"{name}_0000.nii.gz"), ("labelsTr", f"{name}.nii.gz")):
        (peer / folder).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ours / folder / f"{name}_{VIEW}.nii.gz", peer / folder / renamed)


def describe(roots: Roots, cases: int) -> None:
    """dataset.json of both sides, with the same eleven structures."""
    labels = JOINTS["knee"].labels
    write_json(
        roots.ours / DATASET / "dataset.json",
        {
            "name": "knee",
            "joint": "knee",
            "file_ending": ".nii.gz",
            "views": [VIEW],
            "segmentation": {"labels": labels},
        },
    )
    write_json(
        roots.peer / DATASET / "dataset.json",
        {"channel_names": {"0": "PD"}, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"},
    )
