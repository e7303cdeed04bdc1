"""The diffusion maths against what is known of a Gaussian."""

import pytest
import torch

from odiff.diffusion import ALPHA_BAR, add_noise, block_mask, min_snr_weight, sample, target, to_x0


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_signal_falls_from_nearly_one_to_nearly_zero(name):
    alpha_bar = ALPHA_BAR[name](1000)
    assert (alpha_bar[1:] < alpha_bar[:-1]).all()
    assert alpha_bar[0] > 0.999
    assert alpha_bar[-1] < 1e-4


def test_cosine_schedule_is_the_closed_form_of_nichol_and_dhariwal():
    t = torch.tensor([99.0, 499.0, 899.0], dtype=torch.float64)
    f = torch.cos(((t + 1) / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2
    f0 = torch.cos(torch.tensor(0.008 / 1.008 * torch.pi / 2, dtype=torch.float64)) ** 2
    assert ALPHA_BAR["cosine"](1000)[t.long()].numpy() == pytest.approx((f / f0).numpy(), rel=1e-9)


@pytest.mark.parametrize("prediction", ["x0", "epsilon", "v"])
def test_a_perfect_prediction_gives_the_clean_volume_back(prediction):
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 1, 4, 4, 4, generator=generator, dtype=torch.float64)
    alpha_bar_t = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    x_t = add_noise(x0, noise, alpha_bar_t)
    found = to_x0(prediction, target(prediction, x0, noise, alpha_bar_t), x_t, alpha_bar_t)
    assert torch.allclose(found, x0)


def test_noised_volumes_of_unit_variance_keep_it():
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 1, 1, 32, 32, 32, generator=generator)
    assert add_noise(x0, noise, torch.tensor([0.3])).var().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("prediction", ["x0", "epsilon", "v"])
def test_min_snr_weights_say_the_same_error_in_x0(prediction):
    """An error e in x0 is sqrt(SNR) e in epsilon and sqrt(SNR + 1) e in v, so weight times squared error agrees."""
    alpha_bar_t = ALPHA_BAR["cosine"](100)[5:95]
    snr = alpha_bar_t / (1 - alpha_bar_t)
    scale = {"x0": torch.ones_like(snr), "epsilon": snr, "v": snr + 1}[prediction]
    product = min_snr_weight(prediction, alpha_bar_t, 5.0) * scale
    expected = snr.clamp(max=5.0)
    assert (product / expected).std().item() == pytest.approx(0, abs=1e-9)


def test_the_perfect_denoiser_of_a_point_mass_generates_the_point():
    point = torch.full((1, 1, 2, 3, 4), 0.7)
    found = sample(lambda x, t: point, torch.randn(1, 1, 2, 3, 4), ALPHA_BAR["cosine"](1000), "x0", 8, 1.5)
    assert torch.equal(found, point)


def test_sampling_with_the_perfect_denoiser_of_a_gaussian_keeps_its_spread():
    """E[x0 | x_t] of N(0, s^2) is sqrt(abar) s^2 / (abar s^2 + 1 - abar) x_t; DDIM then ends near N(0, s^2)."""
    alpha_bar, s = ALPHA_BAR["cosine"](1000).float(), 0.5

    def denoise(x, t):
        a = alpha_bar[t].reshape(-1, 1, 1, 1, 1)
        return a.sqrt() * s**2 / (a * s**2 + 1 - a) * x

    noise = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    assert sample(denoise, noise, alpha_bar, "x0", 200, 10.0).std().item() == pytest.approx(s, rel=0.03)


def test_masks_hide_whole_blocks_at_the_asked_rate():
    hidden = block_mask((8, 32, 32), (2, 4, 4), torch.tensor([0.0, 0.3]), torch.Generator().manual_seed(0))
    assert hidden.shape == (2, 1, 8, 32, 32)
    assert not hidden[0].any()
    assert hidden[1].float().mean().item() == pytest.approx(0.3, abs=0.08)
    blocks = hidden[1, 0].reshape(4, 2, 8, 4, 8, 4).float().mean(dim=(1, 3, 5))
    assert set(blocks.unique().tolist()) == {0.0, 1.0}
