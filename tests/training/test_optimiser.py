"""The moving average of a network."""

import pytest
import torch
from torch import nn

from odiff.training.optimiser import moving_average, update_average


def test_the_average_follows_weights_slowly_and_takes_over_running_statistics():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = moving_average(network)
    before = network[0].weight.detach().clone()
    for step in range(3):
        with torch.no_grad():
            network[0].weight.add_(1.0)
        network(torch.randn(8, 2) * 3 + 5)
        update_average(average, network, 0.9, step)
    shares = [min(0.9, (1 + step) / (10 + step)) for step in range(3)]
    wanted = 0.0
    for number, share in enumerate(shares, start=1):
        wanted = share * wanted + (1 - share) * number
    assert (average[0].weight - before).mean().item() == pytest.approx(wanted, rel=1e-4)
    assert torch.equal(average[1].running_mean, network[1].running_mean)
    assert torch.equal(average[1].num_batches_tracked, torch.tensor(3))
