"""The noise that features are read under, and that of training."""

import torch

from odiff.learning.features import NOISE_SEED, feature_noise, step_noise

CPU = torch.device("cpu")


def test_features_are_read_under_one_noise_whoever_asked_for_it_first():
    shape = torch.Size((3, 1, 2, 5, 7))
    with torch.inference_mode():
        first = feature_noise(shape, CPU)
    again = feature_noise(shape, CPU)
    wanted = torch.randn((1, *shape[1:]), generator=torch.Generator().manual_seed(NOISE_SEED))
    assert torch.equal(first, again) and torch.equal(again, wanted.expand(shape))
    weight = torch.ones(shape, requires_grad=True)
    (weight * again).sum().backward()  # kept for the backward pass, which an inference tensor cannot be
    assert torch.equal(weight.grad, again)


def test_the_noise_of_a_step_follows_from_seed_and_number():
    shape = torch.Size((1, 1, 2, 3, 4))
    assert torch.equal(step_noise(shape, 1, 5, CPU), step_noise(shape, 1, 5, CPU))
    assert not torch.equal(step_noise(shape, 1, 5, CPU), step_noise(shape, 1, 6, CPU))
    assert not torch.equal(step_noise(shape, 1, 5, CPU), step_noise(shape, 2, 5, CPU))
