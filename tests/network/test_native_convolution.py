"""The loops in C of convolutions and of the gradients of their weights."""

import pytest
import torch
from torch.nn import functional as F

from odiff.network import convolution, native_convolution
from odiff.network.layers import Convolution

needs_convolutions = pytest.mark.skipif(
    native_convolution.convolutions() is None, reason="not compiled here, no products of bfloat16, or AMX"
)
needs_products = pytest.mark.skipif(
    native_convolution.weight_gradients() is None, reason="not compiled here, or no products of bfloat16"
)


EXACT = {  # whole numbers whose sums bfloat16 holds, and halves of those of even ones
    "whole": lambda size, source: torch.randint(-9, 9, size, generator=source),
    "even": lambda size, source: 2 * torch.randint(-4, 5, size, generator=source),
}


def any_numbers(size, source):
    return torch.randn(size, generator=source)


def of_convolution(shape, outputs, kernel, padding, draw, draw_weight):
    """In bfloat16 a volume, a weight and a gradient of the answer; in float64 the answer and the gradients of volume and weight."""
    source = torch.Generator().manual_seed(2)
    weight = draw_weight((outputs, shape[1], *kernel), source).to(torch.bfloat16)
    x = draw(shape, source).to(torch.bfloat16).contiguous(memory_format=torch.channels_last_3d)
    seen, weighted = (one.double().requires_grad_() for one in (x, weight))
    answer = F.conv3d(seen, weighted, padding=padding)
    gradient = draw(answer.shape, source).to(torch.bfloat16).contiguous(memory_format=torch.channels_last_3d)
    answer.backward(gradient.double())
    return x, weight, gradient, answer.detach(), seen.grad, weighted.grad


def spread(error, of):
    """Of errors, in parts of the values'."""
    return (error.square().mean() / of.square().mean()).sqrt().item()


@needs_convolutions
@pytest.mark.parametrize(("shape", "outputs", "kernel", "padding"), [
    ((1, 64, 3, 9, 40), 32, (3, 3, 3), (1, 1, 1)), ((2, 32, 4, 5, 33), 64, (1, 3, 3), (0, 1, 1)),
    ((1, 96, 1, 7, 64), 32, (3, 3, 3), (1, 1, 1)), ((1, 32, 5, 3, 134), 64, (3, 1, 3), (0, 0, 2)),
    ((3, 32, 2, 30, 5), 32, (3, 5, 3), (1, 0, 1)), ((1, 320, 3, 12, 16), 32, (3, 3, 3), (1, 1, 1)),
])  # fmt: skip
def test_a_convolution_of_whole_numbers_is_exact(shape, outputs, kernel, padding):
    x, weight, _, wanted, _, _ = of_convolution(shape, outputs, kernel, padding, EXACT["whole"], EXACT["even"])
    bias = torch.arange(outputs).to(torch.bfloat16)
    found = native_convolution.convolution(x, weight, bias, padding)
    assert torch.equal(found, (wanted + bias.double().view(-1, 1, 1, 1)).bfloat16())
    assert torch.equal(native_convolution.convolution(x, weight, None, padding), wanted.bfloat16())


@needs_convolutions
def test_a_layer_and_its_gradients_are_by_the_loops_and_right_within_the_rounding_of_their_terms(monkeypatch):
    """Each factor of a product is rounded once more, by up to 2**-9 of itself, and so is the answer."""
    shape, kernel, padding = (1, 64, 8, 40, 54), (3, 3, 3), (1, 1, 1)
    x, weight, gradient, *wanted = of_convolution(shape, 96, kernel, padding, any_numbers, any_numbers)
    layer = Convolution(64, 96, kernel, padding=padding, bias=False)
    layer.weight.data = weight.float()
    monkeypatch.setattr(F, "conv3d", None)
    monkeypatch.setattr(torch.ops.aten, "convolution_backward", None)
    seen = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = layer(seen)
        with torch.no_grad():
            assert torch.equal(layer(x), answer)
    answer.backward(gradient)
    assert answer.dtype == torch.bfloat16 and layer.weight.grad.dtype == torch.float32
    for found, true in zip((answer.detach(), seen.grad, layer.weight.grad), wanted, strict=True):
        assert spread(found.double() - true, true) < 2**-8


@needs_convolutions
def test_others_are_left_to_onednn():
    assert convolution.is_for_loops(torch.zeros(1, 64, 8, 32, 32), torch.bfloat16, Convolution(64, 64, 3, padding=1))
    cases = {
        "float32": (torch.float32, (1, 64, 8, 32, 32), {}), "a stride": (torch.bfloat16, (1, 64, 8, 32, 32), {"stride": 2}),
        "groups": (torch.bfloat16, (1, 64, 8, 32, 32), {"groups": 2}), "few voxels": (torch.bfloat16, (1, 64, 2, 8, 8), {}),
        "lines of half a tile": (torch.bfloat16, (1, 64, 8, 32, 12), {}), "nothing": (torch.bfloat16, (1, 64, 1, 32, 32), {"padding": 0}),
    }  # fmt: skip
    for name, (dtype, shape, settings) in cases.items():
        conv = Convolution(64, 64, 3, **({"padding": 1} | settings))
        assert not convolution.is_for_loops(torch.zeros(shape), dtype, conv), name


@needs_products
@pytest.mark.parametrize(("shape", "outputs", "kernel", "padding"), [
    ((1, 64, 3, 9, 40), 32, (3, 3, 3), (1, 1, 1)), ((2, 32, 4, 5, 33), 64, (1, 3, 3), (0, 1, 1)),
    ((1, 96, 1, 7, 64), 32, (3, 3, 3), (1, 1, 1)), ((3, 32, 2, 3, 70), 32, (1, 1, 1), (0, 0, 0)),
    ((1, 32, 3, 4, 134), 64, (1, 3, 3), (0, 1, 1)),
    ((1, 1, 5, 40, 36), 40, (3, 3, 3), (0, 0, 0)), ((1, 32, 2, 1, 37), 32, (3, 3, 5), (1, 1, 2)),
])  # fmt: skip
def test_the_gradient_of_a_weight_is_exact_for_whole_numbers(monkeypatch, shape, outputs, kernel, padding):
    """Beside it: oneDNN's own products by AMX are right before and after, which share the tiles."""
    monkeypatch.setattr(native_convolution, "FEWEST_VOXELS", 1)
    x, weight, gradient, *_, wanted = of_convolution(shape, outputs, kernel, padding, EXACT["whole"], EXACT["even"])
    before = F.conv3d(x, weight, padding=padding)
    found = native_convolution.weight_gradient(gradient, x, kernel, padding)
    assert torch.equal(before, F.conv3d(x, weight, padding=padding))
    assert torch.equal(found.double(), wanted)


@needs_products
def test_it_is_for_large_volumes_of_bfloat16_and_any_channels():
    x, _, gradient, *_ = of_convolution((1, 32, 4, 64, 64), 64, (3, 3, 3), (1, 1, 1), any_numbers, any_numbers)
    args = (3, 3, 3), (1, 1, 1)
    assert native_convolution.weight_gradient(gradient.float(), x.float(), *args) is None
    part = native_convolution.weight_gradient(gradient[:, :45].contiguous(), x[:, 3:], *args)
    assert torch.equal(part, native_convolution.weight_gradient(gradient, x, *args)[:45, 3:])
    of_few = native_convolution.weight_gradient(gradient[:, :, :1], x[:, :, :1], *args)
    assert of_few is None, "of few voxels torch is faster"


@needs_products
def test_they_are_the_same_with_any_number_of_threads():
    before, found = torch.get_num_threads(), []
    x, weight, gradient, *_ = of_convolution((1, 64, 4, 70, 66), 64, (3, 3, 3), (1, 1, 1), any_numbers, any_numbers)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            one = [native_convolution.weight_gradient(gradient, x, (3, 3, 3), (1, 1, 1))]
            if native_convolution.convolutions() is not None:
                one.append(native_convolution.convolution(x, weight, None, (1, 1, 1)))
            found.append(one)
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
