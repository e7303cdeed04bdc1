"""Gradients of convolutions in bfloat16."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from odiff.network import weight_gradient
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


@pytest.mark.parametrize(
    ("kernel", "settings"),
    [
        ((3, 3, 3), {"padding": 1}),
        ((1, 3, 3), {"padding": (0, 1, 1)}),
        ((3, 3, 3), {"padding": (1, 1, 0), "stride": (1, 2, 3)}),
        ((2, 1, 3), {"padding": (1, 0, 2), "dilation": (1, 1, 2)}),
    ],
)
@pytest.mark.parametrize("at_once", [weight_gradient.AT_ONCE, 0])
def test_gradient_of_a_weight_is_that_of_autograd(kernel, settings, at_once, monkeypatch):
    monkeypatch.setattr(weight_gradient, "AT_ONCE", at_once)
    torch.manual_seed(0)
    conv = nn.Conv3d(3, 5, kernel, **settings).double()
    x = torch.randn(2, 3, 4, 7, 9, dtype=torch.float64)
    answer = conv(x)
    gradient = torch.randn_like(answer)
    (wanted,) = torch.autograd.grad(answer, [conv.weight], gradient)
    assert torch.allclose(weight_gradient.weight_gradient(gradient, x, conv), wanted)


IN_BFLOAT16 = """
import torch
from odiff.network.layers import Convolution, Transposed
torch.set_num_threads(2)
for kind, channels, size, kernel, settings in [
    (Convolution, (64, 64), (4, 64, 64), 3, {"padding": 1}),  # with AMX wrong by a fifth, or as memory was
    (Convolution, (256, 256), (2, 32, 32), 3, {"padding": 1}),  # never ended, and so the next four
    (Convolution, (256, 256), (4, 32, 32), (1, 3, 3), {"padding": (0, 1, 1)}),
    (Convolution, (160, 160), (5, 32, 32), (1, 3, 3), {"padding": (0, 1, 1)}),
    (Convolution, (128, 128), (4, 64, 64), 3, {"padding": 1, "stride": 2}),
    (Transposed, (160, 160), (3, 24, 16), (1, 2, 2), {"stride": (1, 2, 2)}),
    (Convolution, (64, 64), (6, 80, 52), 1, {}),  # wrong
]:
    torch.manual_seed(0)
    layer = kind(*channels, kernel, **settings).to(memory_format=torch.channels_last_3d)
    x = torch.randn(1, channels[0], *size).to(memory_format=torch.channels_last_3d)
    plain = layer(x)
    there = torch.randn_like(plain)
    wanted = torch.autograd.grad(plain, [layer.weight, layer.bias], there)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = layer(x)
    assert answer.dtype == torch.bfloat16 and (answer - plain).norm() < 0.01 * plain.norm()
    for one, other in zip(torch.autograd.grad(answer.float(), [layer.weight, layer.bias], there), wanted, strict=True):
        assert (one - other).norm() < 0.01 * other.norm(), (kind, channels, size)
"""


def test_gradients_in_bfloat16_are_right_where_those_of_onednn_are_not():
    """A process of its own: a gradient that waits for itself cannot be interrupted, one that writes where it must not ends it."""
    subprocess.run([sys.executable, "-c", IN_BFLOAT16], check=True, timeout=180)
