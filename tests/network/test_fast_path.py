"""The fast paths compute what plain float32 computes, within the rounding that theory allows.

A result that went through L roundings of unit roundoff u is off by about sqrt(L) u relative to its size, where the errors are
independent; the constant 8 covers the growth through layers (Higham 2002, section 2.8 and 3.1).
"""

import math
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from odiff.diffusion import ALPHA_BAR, Corruption, denoising_loss, draw_corruption
from odiff.errors import UsageError
from odiff.network import channels_last, layers, native, native_convolution, unet
from odiff.network.fused import norm_silu_conv
from odiff.network.layers import Convolution
from odiff.network.unet import UNet
from odiff.plan import DiffusionPlan, NetworkPlan
from odiff.training.device import _quota, usable_cores, use_cores
from odiff.training.precision import autocast, fastest_precision, fix_precision, place, precision_of

PLAN = NetworkPlan((1, 2, 2), (32, 64), ((1, 1, 1), (1, 2, 2)), ((1, 3, 3), (3, 3, 3)), 1, 32)
DIFFUSION = DiffusionPlan(1000, "cosine", "x0", "min_snr", 5.0, 0.5, (2, 4, 4), (50,), ("mid",))
CPU = torch.device("cpu")
GPU = pytest.param(
    torch.device("cuda"), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"), id="cuda"
)
UNIT_ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-11}
ROUNDINGS = 40
SCALE = 2.0**12  # as in training, so that no gradient falls below what float16 holds


@pytest.fixture(params=["compiled", "torch"])
def loops(request, monkeypatch):
    """All loops in C, those of convolutions for small volumes too, and torch's functions in their place."""
    if request.param == "torch":
        for module, name in (
            (native, "library"),
            (native_convolution, "convolutions"),
            (native_convolution, "weight_gradients"),
        ):
            monkeypatch.setattr(module, name, lambda: None)
    elif native.library() is None:
        pytest.skip("the loops were not compiled here, or the processor has no AVX512")
    else:
        for name in ("FEWEST_ANSWERS", "FEWEST_PRODUCTS", "FEWEST_VOXELS", "NARROWEST"):
            monkeypatch.setattr(native_convolution, name, 1)
        monkeypatch.setattr(native_convolution, "WASTE", 2)


def network(seed=0):
    torch.manual_seed(seed)
    made = UNet(PLAN)
    for module in made.modules():
        if isinstance(module, layers.FilmSiluConv):
            nn.init.normal_(module.conv.weight, std=0.05)
            nn.init.normal_(module.film.weight, std=0.1)
    return made


def forward_loss_gradients(made, batch, answer=None, device=CPU):
    x0 = torch.randn((batch, 1, 4, 16, 16), generator=torch.Generator().manual_seed(1))
    drawn = draw_corruption(x0.shape, DIFFUSION, torch.Generator().manual_seed(2))
    corruption = Corruption(*(one.to(device) for one in (drawn.t, drawn.noise, drawn.hidden)))
    alpha_bar = ALPHA_BAR["cosine"](1000).float().to(device)
    loss, denoised = denoising_loss(answer or made, x0.to(device), corruption, alpha_bar, DIFFUSION)
    (loss * SCALE).backward()
    return denoised, loss.detach(), {name: p.grad / SCALE for name, p in made.named_parameters()}


def plain_step(x, norm, conv, scale=None, shift=None):
    h = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    if scale is not None:
        h = h * (1 + scale[:, :, None, None, None]) + shift[:, :, None, None, None]
    return F.conv3d(F.silu(h), conv.weight, conv.bias, conv.stride, conv.padding)


def plainly(made, batch):
    """Everything by torch's own functions, weights and activations in float64: the reference."""

    def embedded(t, channels):
        return layers.time_embedding(t, channels).double()

    made = made.double()
    with (
        mock.patch.object(layers, "norm_silu_conv", plain_step), mock.patch.object(unet, "time_embedding", embedded)
    ):  # fmt: skip
        return forward_loss_gradients(made, batch, lambda x, t: made(x.double(), t))


def off(found, wanted):
    found, wanted = (one.detach().cpu().double() for one in (found, wanted))
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.usefixtures("loops")
def test_forward_loss_and_gradients_agree_with_the_plain_path(device, name, batch):
    wanted, wanted_loss, wanted_gradients = plainly(network(), batch)
    try:
        fix_precision(name, device)
        made = place(network(), device)
        with autocast(device):
            found, loss, gradients = forward_loss_gradients(made, batch, device=device)
    finally:
        fix_precision("auto", device)
    bound = 8 * math.sqrt(ROUNDINGS) * UNIT_ROUNDOFF[name]
    assert off(found, wanted) < bound
    assert off(loss, wanted_loss) < bound
    everything = [torch.cat([g[n].flatten() for n in gradients]) for g in (gradients, wanted_gradients)]
    assert off(*everything) < bound


@pytest.mark.parametrize("is_channels_last", [False, True])
@pytest.mark.parametrize("is_modulated", [False, True])
@pytest.mark.usefixtures("loops")
def test_the_step_that_recomputes_has_the_gradients_of_autograd(is_modulated, is_channels_last):
    torch.manual_seed(0)
    norm, conv = nn.GroupNorm(2, 8), Convolution(8, 6, (1, 3, 3), padding=(0, 1, 1)).double()
    norm = norm.double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    form = torch.channels_last_3d if is_channels_last else torch.contiguous_format
    x = torch.randn(2, 8, 3, 5, 4, dtype=torch.float64).to(memory_format=form).requires_grad_()
    film = [torch.randn(2, 8, dtype=torch.float64, requires_grad=True) for _ in range(2)] if is_modulated else []
    inputs = [x, *film, norm.weight, norm.bias, conv.weight, conv.bias]
    weight = torch.randn(2, 6, 3, 5, 4, dtype=torch.float64)
    answers = []
    for step in (norm_silu_conv, plain_step):
        y = step(x, norm, conv, *film)
        answers.append([y, *torch.autograd.grad((y * weight).sum(), inputs)])
    for found, wanted in zip(*answers, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.usefixtures("loops")
def test_what_is_frozen_gets_no_gradient_and_the_rest_does(form):
    norm, conv = nn.GroupNorm(1, 4), Convolution(4, 4, 3, padding=1)
    conv.weight.requires_grad_(False)
    x = torch.randn(1, 4, 2, 4, 4).to(memory_format=form)
    norm_silu_conv(x, norm, conv).sum().backward()
    assert conv.weight.grad is None
    assert conv.bias.grad is not None and norm.weight.grad is not None
    norm.requires_grad_(False)
    x.requires_grad_()
    norm.weight.grad = None
    norm_silu_conv(x, norm, conv).sum().backward()
    assert norm.weight.grad is None
    assert x.grad is not None


@pytest.mark.usefixtures("loops")
def test_a_table_of_several_pieces_is_as_one():
    torch.manual_seed(0)
    norm, conv = nn.GroupNorm(2, 8), Convolution(8, 4, 1)
    x = torch.randn(2, 8, 3, 5, 4).to(memory_format=torch.channels_last_3d).requires_grad_()
    answers = []
    for values in (2**18, 8 * 7):
        with mock.patch.object(channels_last, "PIECE_VALUES", values):
            y = norm_silu_conv(x, norm, conv)
            answers.append([y, *torch.autograd.grad(y.square().sum(), [x, norm.weight, norm.bias])])
    for one, other in zip(*answers, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_one_small_volume_takes_onednn_and_gets_the_same_answer():
    torch.manual_seed(0)
    conv = Convolution(8, 8, (3, 3, 3), padding=(1, 1, 1))
    x = torch.randn(1, 8, 4, 8, 8)
    assert layers._takes_slow_path(x) == torch.backends.mkldnn.is_available()
    assert not layers._takes_slow_path(torch.cat([x, x]))
    wanted = F.conv3d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    assert off(conv(x), wanted) < 8 * math.sqrt(8 * 27) * UNIT_ROUNDOFF["float32"]


def test_a_precision_that_is_asked_for_is_taken_until_auto_is():
    usual = fastest_precision(CPU)
    try:
        fix_precision("float16", CPU)
        assert precision_of(CPU).dtype == torch.float16
        assert precision_of(CPU).value_bytes == 2
    finally:
        fix_precision("auto", CPU)
    assert precision_of(CPU) == usual


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("200000 100000", 2), ("50000 100000", 0)])
def test_a_containers_quota_counts_in_whole_cores(text, cores):
    assert _quota(text) == cores
    assert usable_cores() >= 1


@pytest.mark.parametrize("wanted", [0, -1])
def test_no_threads_cannot_be_asked_for(wanted):
    with pytest.raises(UsageError, match=f"--threads {wanted}: must be at least 1"):
        use_cores(wanted)


def test_threads_are_set_as_asked():
    before = torch.get_num_threads()
    try:
        assert use_cores(1) == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
