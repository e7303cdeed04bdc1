"""Volumes of few slices."""

import pytest
import torch
from torch import nn

from odiff.network.fused import norm_silu_conv
from odiff.network.layers import convolution, norm


def step(conv, norm_layer, x, is_fused, dtype):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        if is_fused:
            return norm_silu_conv(x, norm_layer, conv)
        return conv(nn.functional.silu(norm_layer(x)))


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gradients_in_bfloat16_are_those_of_float32_to_rounding(depth, memory_format, is_fused):
    torch.manual_seed(0)
    conv = convolution(16, 16, (3, 3, 3)).to(memory_format=memory_format)
    norm_layer, x = norm(16), torch.randn(2, 16, depth, 8, 8).to(memory_format=memory_format).requires_grad_()
    plain = nn.functional.conv3d(nn.functional.silu(norm_layer(x)), conv.weight, conv.bias, padding=1)
    wanted = torch.autograd.grad(plain.square().mean(), [conv.weight, conv.bias, x])
    for dtype, tolerance in ((torch.bfloat16, 0.03), (torch.float32, 1e-5)):
        for _ in range(4):
            _ = [torch.full((size,), 1e30) for size in (64, 512, 4096, 2**15)]  # what uninitialised memory may hold
            answer = step(conv, norm_layer, x, is_fused, dtype).float()
            assert answer.shape == plain.shape
            found = torch.autograd.grad(answer.square().mean(), [conv.weight, conv.bias, x])
            for one, other in zip(found, wanted, strict=True):
                assert (one - other).norm() < tolerance * other.norm()


def test_gradients_over_few_slices_of_many_channels_end():
    """With AMX they would not."""
    torch.manual_seed(0)
    conv = convolution(256, 128, (3, 3, 3)).to(memory_format=torch.channels_last_3d)
    x = torch.randn(1, 256, 2, 32, 32).to(memory_format=torch.channels_last_3d)
    (wanted,) = torch.autograd.grad(conv(x).square().mean(), [conv.weight])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = conv(x)
    (found,) = torch.autograd.grad(answer.float().square().mean(), [conv.weight])
    assert (found - wanted).norm() < 0.03 * wanted.norm()
