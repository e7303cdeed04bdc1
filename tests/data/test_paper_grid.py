"""The paper's grid: order of operations and of axes, on volumes that no symmetry hides anything in."""

import json
from importlib import resources

import numpy as np
import pytest
import SimpleITK as sitk

from odiff.data.paper_grid import middle_slices, paper_image
from odiff.data.preprocessing import prepare
from odiff.data.restoring import restore_labels
from odiff.experiment_planning.presets import read_preset
from odiff.geometry import read_volume
from odiff.inference.import_weights import released_plan


def volume_of(tmp_path, stored_ijk):
    """A NIfTI file whose array is `stored_ijk`, with an oblique direction and a flipped axis."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored_ijk.T))
    image.SetSpacing((0.5, 0.7, 4.0))
    image.SetDirection((0, 0, 1, -1, 0, 0, 0, -1, 0))
    sitk.WriteImage(image, str(tmp_path / "case_sagittal.nii.gz"))
    return read_volume(tmp_path / "case_sagittal.nii.gz")


def by_hand(stored_ijk, size):
    """Permute (i, j, k) to (k, i, j), take slices, interpolate pixel centres linearly, then -1..1: the recipe in numpy."""
    turned = np.transpose(stored_ijk, (2, 0, 1)).astype(float)
    k = turned.shape[0]
    taken = turned[k // 2 - 8 : k // 2 + 8]

    def along(values, axis):
        old = values.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        return np.apply_along_axis(lambda row: np.interp(place, np.arange(old), row), axis, values)

    resized = along(along(taken, 1), 2)
    return (resized - resized.min()) / (resized.max() - resized.min()) * 2 - 1


@pytest.mark.parametrize("shape_ijk", [(30, 23, 20), (23, 40, 17)])
def test_the_recipe_is_followed_on_an_asymmetric_volume(tmp_path, shape_ijk):
    stored = np.random.default_rng(0).normal(size=shape_ijk).astype(np.float32)
    stored[3, :, :] += 4
    stored[:, 5, :] -= 2
    image, crop = paper_image(volume_of(tmp_path, stored), (16, 64, 64))
    assert np.allclose(image, by_hand(stored, 64), atol=1e-5)
    assert image.min() == -1 and image.max() == pytest.approx(1)
    assert crop[0] == (shape_ijk[2] // 2 - 8, shape_ijk[2] // 2 + 8)


def test_a_stored_value_is_found_where_the_recipe_puts_it(tmp_path):
    stored = np.zeros((256, 256, 20), np.float32)
    stored[200, 31, 9] = 5
    plan = released_plan("sagittal").views["sagittal"]
    image = prepare(volume_of(tmp_path, stored), None, plan, is_left=True).image
    assert image.shape == (16, 256, 256)
    assert np.unravel_index(image.argmax(), image.shape) == (9 - 2, 200, 31)


def test_too_few_slices_are_interpolated(tmp_path):
    image, crop = paper_image(volume_of(tmp_path, np.random.default_rng(0).random((8, 9, 5))), (16, 32, 32))
    assert image.shape == (16, 32, 32) and crop[0] == (0, 5)
    assert middle_slices(40, 16) == (12, 28)


def test_masks_come_back_to_the_file(tmp_path):
    stored = np.zeros((40, 30, 20), np.float32)
    stored[10:25, 8:20, 4:16] = 1
    volume = volume_of(tmp_path, stored)
    mask = (volume.array > 0).astype(np.int16)
    prepared = prepare(volume, mask, released_plan("axial").views["axial"], is_left=False)
    assert prepared.mask.shape == (16, 256, 256)
    import torch

    scores = torch.stack([torch.from_numpy(prepared.mask == value).float() for value in (0, 1)])
    back = restore_labels([scores], (0, 1), prepared.geometry)
    kept = slice(20 // 2 - 8, 20 // 2 + 8)
    overlap = 2 * (back[kept] & mask[kept]).sum() / (back[kept].sum() + mask[kept].sum())
    assert back.shape == mask.shape and overlap > 0.97


def test_the_preset_is_the_paper_s():
    preset = read_preset("paper")
    stored = json.loads(resources.files("odiff.plans").joinpath("paper.json").read_text())
    assert stored["limits"]["fixed_patch_zyx"] == [16, 256, 256]
    assert (preset.diffusion.prediction, preset.diffusion.schedule, preset.diffusion.time_steps) == (
        "epsilon", "cosine", 1000,
    )  # fmt: skip
    assert (preset.pretrain.steps, preset.pretrain.learning_rate, preset.limits.batch_size) == (21500, 1e-4, 10)
    assert (preset.pretrain.ema_decay, preset.pretrain.ema_every, preset.pretrain.ema_after) == (0.995, 10, 2000)
    assert not preset.flip_left_joints and preset.pretrain.augmentation.probability == 0
