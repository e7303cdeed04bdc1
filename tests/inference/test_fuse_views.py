"""Views averaged in the patient's space."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from odiff.dataset import Series
from odiff.geometry import Grid, read_mask
from odiff.inference.fuse_views import Shares, fuse_folder, fuse_onto, resampled
from odiff.learning.segment import class_values
from odiff.plan import Plan, read_plan

# The same 24 mm cube seen in sagittal slices along x and in axial slices along z (LPS, voxel centres).
SAGITTAL = Grid((24, 24, 6), (1.0, 1.0, 4.0), (1.5, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
AXIAL = Grid((6, 24, 24), (4.0, 1.0, 1.0), (0.0, 0.0, 1.5), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def places(grid):
    """World coordinates of every voxel centre, (3, z, y, x)."""
    z, y, x = np.meshgrid(*[np.arange(n) for n in grid.shape_zyx], indexing="ij")
    dz, dy, dx = grid.spacing_zyx_mm
    return np.stack([grid.origin_xyz_mm[0] + x * dx, grid.origin_xyz_mm[1] + y * dy, grid.origin_xyz_mm[2] + z * dz])


def linear_share(grid):
    """A probability that is linear in space, so that linear interpolation is exact."""
    x, y, z = places(grid)
    first = 0.2 + 0.01 * x + 0.005 * y + 0.008 * z
    return np.stack([first, 1 - first]).astype(np.float32)


@pytest.mark.parametrize(("source", "onto"), [(SAGITTAL, AXIAL), (AXIAL, SAGITTAL)])
def test_probabilities_land_where_they_belong_in_the_patient(source, onto):
    moved = resampled(linear_share(source), source, onto)
    low, high = places(source).reshape(3, -1).min(axis=1), places(source).reshape(3, -1).max(axis=1)
    at = places(onto)
    inside = ((at >= low[:, None, None, None]) & (at <= high[:, None, None, None])).all(axis=0)
    assert inside.mean() > 0.7 and (moved[0][inside] > -0.5).all()
    assert np.allclose(moved[:, inside], linear_share(onto)[:, inside], atol=1e-5)


def test_views_are_averaged_only_where_both_are():
    series = Series("a", "sagittal", None, Path("a_sagittal.nii.gz"))
    own = Shares(series, SAGITTAL, np.stack([np.ones(SAGITTAL.shape_zyx), np.zeros(SAGITTAL.shape_zyx)]))
    half = Grid((3, 24, 24), AXIAL.spacing_zyx_mm, AXIAL.origin_xyz_mm, AXIAL.direction)
    other = Shares(series, half, np.stack([np.zeros(half.shape_zyx), np.ones(half.shape_zyx)]))
    fused = fuse_onto(own, [other])
    z = places(SAGITTAL)[2]
    covered = (z >= 1.5) & (z <= 9.5)
    assert np.allclose(fused[0][covered], 0.5, atol=1e-6) and np.allclose(fused[0][z > 12], 1)
    assert np.allclose(fused.sum(axis=0), 1)


@dataclass(frozen=True)
class SureOf:
    """Stands in for a predictor: each view is all of one class."""

    plan: Plan
    by_view: dict[str, int]

    def can_segment(self, view):
        return view in self.by_view

    def segment_with_probabilities(self, volume, view, laterality):
        shares = np.zeros((len(class_values(self.plan)), *volume.grid.shape_zyx), np.float16)
        shares[self.by_view[view]] = 1
        return shares.argmax(axis=0), shares

    def cleaned(self, labels, view):
        return labels


def test_series_that_are_refused_are_left_out_and_the_others_fused(planned, tmp_path):
    images = tmp_path / "in"
    shutil.copytree(planned / "raw" / "Dataset001_Knee" / "imagesTs", images)
    predictor = SureOf(
        read_plan(planned / "preprocessed" / "Dataset001_Knee" / "plans.json"), {"sagittal": 1, "axial": 2}
    )
    case, other = sorted({path.name.rsplit("_", 1)[0] for path in images.iterdir()})
    shutil.copy(images / f"{case}_sagittal.nii.gz", images / f"{case}_axial_1.nii.gz")  # lies across its name
    (images / f"{other}_axial.nii.gz").write_bytes(b"damaged")
    written, failed = fuse_folder(predictor, images, tmp_path)
    assert written == 2 and {path.name for path in (tmp_path / "fused").iterdir()} == {
        f"{case}_axial.nii.gz", f"{case}_sagittal.nii.gz",
    }  # fmt: skip
    assert len(failed) == 2 and "87 degrees from axial" in failed[0] and f"{other}_axial" in failed[1]
    found = read_mask(tmp_path / "fused" / f"{case}_sagittal.nii.gz").array
    assert set(np.unique(found)) == {class_values(predictor.plan)[1]}  # where two views draw, the lower class
    assert fuse_folder(predictor, images, tmp_path) == (0, failed)
