"""Augmentation against scipy and numpy: each change is what it says, and nothing else."""

import random

import numpy as np
import pytest
import torch
from scipy import ndimage

from odiff.data.augmentation import augment
from odiff.data.intensities import blur, change_gamma, change_intensities
from odiff.data.warp import AIR, IGNORE, sample_image, sample_labels, source_yx
from odiff.learning.segmentation import no_augmentation
from odiff.plan import Augmentation

STRONG = Augmentation(1.0, 15, 0.15, 0.05, 0.2, 0.25, 0.3, 0.05, 0.7)
SHAPE = (5, 24, 37)


def some_map():
    """An affine map in plane, as (matrix, shift), and the offset that scipy wants for it."""
    angle = 0.2
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * 1.1
    shift, centre = np.array([1.3, -2.4]), (np.array(SHAPE[1:]) - 1) / 2
    return matrix, shift, centre - matrix @ (centre + shift)


def by_scipy(volume, mode, outside):
    matrix, _, offset = some_map()
    return np.stack([ndimage.affine_transform(p, matrix, offset, order=1, mode=mode, cval=outside) for p in volume])


def test_images_move_as_scipy_moves_every_slice_alone():
    image = np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(np.float32)
    matrix, shift, _ = some_map()
    moved = sample_image(torch.from_numpy(image.copy())[None], source_yx(SHAPE[1:], matrix, shift))[0].numpy()
    wanted = by_scipy(image, "grid-constant", AIR)
    assert (wanted == AIR).any()
    assert np.allclose(moved, wanted, atol=1e-4)


def test_a_moved_mask_has_the_label_with_the_largest_linear_share():
    """Counting the outside as a label of its own."""
    coarse = np.random.default_rng(0).choice(np.array([0, 3, 26], np.int16), (SHAPE[0], 8, 13))
    mask = coarse.repeat(3, axis=1).repeat(3, axis=2)[:, : SHAPE[1], : SHAPE[2]]
    mask[:, ::5, ::4] = 26
    values = np.array([IGNORE, 0, 3, 26])
    shares = np.stack([by_scipy((mask == v).astype(float), "grid-constant", float(v == IGNORE)) for v in values])
    matrix, shift, _ = some_map()
    moved = sample_labels(mask[None], source_yx(SHAPE[1:], matrix, shift))[0]
    ordered = np.sort(shares, axis=0)
    is_clear = ordered[-1] - ordered[-2] > 1e-4
    assert is_clear.mean() > 0.95
    assert moved.dtype == mask.dtype
    assert np.array_equal(moved[is_clear], values[shares.argmax(axis=0)][is_clear])
    assert set(np.unique(moved)) == set(values)


def test_a_mask_moved_by_whole_pixels_is_a_shifted_mask():
    mask = np.random.default_rng(0).integers(0, 5, SHAPE).astype(np.int16)
    moved = sample_labels(mask[None], source_yx(SHAPE[1:], np.eye(2), np.array([2.0, -3.0])))[0]
    assert np.array_equal(moved[:, 2:, :-3], mask[:, :-2, 3:])
    assert (moved[:, :2] == IGNORE).all() and (moved[:, :, -3:] == IGNORE).all()


@pytest.mark.parametrize("sigma", [0.2, 0.45, 0.7, 2.0])
@pytest.mark.parametrize("shape", [(6, 20, 30), (1, 8, 8), (3, 4, 5)])
def test_blur_is_scipys_gaussian(shape, sigma):
    volume = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    wanted = ndimage.gaussian_filter(volume.astype(np.float64), sigma, truncate=3.0)
    assert np.allclose(blur(torch.from_numpy(volume), sigma).numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.3])
def test_gamma_bends_intensities_and_keeps_mean_and_deviation(gamma):
    image = np.random.default_rng(0).uniform(-1.2, 1.1, (1, 6, 20, 20))
    bent = ((image - image.min()) / np.ptp(image)) ** gamma
    wanted = (bent - bent.mean()) / bent.std() * image.std() + image.mean()
    assert np.allclose(change_gamma(torch.from_numpy(image).float(), gamma).numpy(), wanted, atol=1e-4)


def test_gamma_leaves_a_flat_image_flat():
    assert torch.allclose(change_gamma(torch.full((1, 2, 4, 4), 0.3), 0.8), torch.tensor(0.3), atol=1e-5)


def test_noise_is_normal_and_no_stronger_than_the_plan_says():
    only_noise = Augmentation(1.0, 0, 0, 0, 0, 0, 0, 0.05, 0)
    spreads = []
    for seed in range(40):
        noise = change_intensities(torch.zeros(1, 8, 32, 32), only_noise, np.random.default_rng(seed)).numpy().ravel()
        spreads.append(noise.std())
        assert abs(noise.mean()) < 5 * noise.std() / np.sqrt(noise.size)
        assert np.mean(np.abs(noise) < noise.std()) == pytest.approx(0.683, abs=0.03)
    assert max(spreads) < 0.0515
    assert np.mean(spreads) == pytest.approx(0.025, abs=0.008)


def test_each_intensity_change_comes_as_often_as_the_plan_says():
    image = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    for field in ("brightness", "contrast", "gamma", "noise", "blur_voxels"):
        settings = Augmentation(**{**vars(no_augmentation()), "probability": 0.3, field: 0.3})
        rng = np.random.default_rng(0)
        changed = [not torch.equal(change_intensities(image.clone(), settings, rng), image) for _ in range(600)]
        assert np.mean(changed) == pytest.approx(0.3, abs=0.06), field


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_augmentation_changes_no_argument_and_no_global_generator(kind):
    image = np.random.default_rng(0).uniform(-1, 1, (1, 6, 20, 20)).astype(kind)
    mask = (image > 0).astype(np.int16)
    kept, kept_mask = image.copy(), mask.copy()
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
    changed, moved = augment(image, mask, STRONG, np.random.default_rng(3), mirror_axes=(2,))
    assert changed.dtype == np.float32
    assert changed.shape == image.shape and moved.shape == mask.shape
    assert np.array_equal(image, kept) and np.array_equal(mask, kept_mask)
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert before[1] == random.getstate()
    assert torch.equal(before[2], torch.get_rng_state())


def test_mirrored_samples_swap_sides():
    mask = np.zeros((1, 2, 3, 4), np.int16)
    mask[..., 0] = 1
    settings = no_augmentation()
    found = {
        tuple(
            augment(mask, mask, settings, np.random.default_rng(seed), mirror_axes=(2,), left_right=((1, 2),))[1][
                0, 0, 0
            ]
        )
        for seed in range(10)
    }
    assert found == {(1, 0, 0, 0), (0, 0, 0, 2)}
