"""The compiled loops, beside float64 and beside torch's functions; what they are compared on has odd sizes too."""

import os
import platform
import shutil
import subprocess
import sys

import pytest
import torch

from odiff.network import channels_last, native, native_convolution
from odiff.network.processor import has_amx

SHAPES = [(1, 64, 3, 5, 7), (2, 40, 4, 6, 5), (3, 96, 2, 9, 4), (1, 200, 1, 3, 3), (1, 64, 16, 40, 40)]
UNIT = {torch.bfloat16: 2.0**-9, torch.float32: 2.0**-24}
needs_loops = pytest.mark.skipif(native.library() is None, reason="the loops were not compiled here, or no AVX512")


def volumes(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, gradient = (3 * torch.randn(shape, generator=generator) + number for number in (1, 0))
    return [one.to(dtype).contiguous(memory_format=torch.channels_last_3d) for one in (x, gradient)]


def worked(x, gradient, dtype=None):
    """All that a step computes: moments, answer, and every gradient."""
    c, b = x.shape[1], len(x)
    generator = torch.Generator().manual_seed(1)
    gamma, beta, scale, shift = (0.5 + torch.rand(size, generator=generator) for size in (c, c, (b, c), (b, c)))
    modulation = [one.to(dtype or torch.float32) for one in (gamma, beta, scale, shift)]
    moments = channels_last.moments(x, 8, 1e-5)
    how = channels_last.affine(moments, *modulation)
    found = channels_last.activated(x, how, x.dtype)
    kept = gradient.clone(memory_format=torch.preserve_format)
    return [*moments, found, *channels_last.gradients(True, kept, how, 8, x, *modulation)]


@needs_loops
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_loops_compute_what_float64_does(shape, dtype):
    """Float64 takes the way through torch's functions, which test_fast_path.py holds to autograd."""
    x, gradient = volumes(shape, dtype)
    plain = worked(x.double(), gradient.double(), torch.float64)
    for found, wanted in zip(worked(x, gradient), plain, strict=True):
        off = (found.double() - wanted).abs().max() / wanted.abs().max()
        assert off < 16 * max(UNIT[dtype], UNIT[torch.float32] * 4)


@needs_loops
def test_they_take_the_place_of_torch(monkeypatch):
    x, gradient = volumes((1, 64, 2, 4, 4), torch.bfloat16)
    called = []
    real = native.call
    monkeypatch.setattr(native, "call", lambda name, *rest: (called.append(name), real(name, *rest)))
    worked(x, gradient)
    assert called == ["moments", "activated", "to_linear", "to_volume"]
    called.clear()
    worked(x, gradient.float())
    assert called == ["moments", "activated"], "a gradient of another type is torch's"


@needs_loops
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_none(value):
    """The loss's watch ends a training by them."""
    x, gradient = volumes((1, 64, 2, 4, 4), torch.bfloat16)
    gradient[0, 5, 1, 2, 3] = value
    *_, to_x, to_gamma, to_beta, _, _ = worked(x, gradient)
    assert not to_x.isfinite().all() and not to_gamma[5].isfinite() and not to_beta[5].isfinite()
    x[0, 5, 1, 2, 3] = value
    mean, _, found, *_ = worked(x, gradient)
    assert not mean.isfinite().all() and not found.isfinite().all()


@needs_loops
def test_sums_are_the_same_with_any_number_of_threads():
    x, gradient = volumes((2, 72, 5, 33, 31), torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append([one.clone() for one in worked(x, gradient)[:3]])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@needs_loops
def test_numbers_far_out_neither_overflow_nor_vanish():
    x = torch.tensor([-1e4, -200.0, -88.0, -20.0, 0.0, 20.0, 88.0, 1e4]).repeat(8).view(1, 64, 1, 1, 1)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    ones, zeros = torch.ones(1, 64), torch.zeros(1, 64)
    found = channels_last.activated(x, channels_last.Affine(ones, zeros, ones, zeros, ones), torch.float32)
    assert torch.allclose(found, torch.nn.functional.silu(x), rtol=1e-6, atol=1e-30)


def test_they_are_there_where_they_can_be_compiled():
    """So that an installation which lost them is noticed."""
    can = sys.platform == "linux" and platform.machine() == "x86_64" and shutil.which(os.environ.get("CC", "gcc"))
    if not can or torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("no compiler here, or no AVX512")
    assert native.library() is not None, "install odiff again: pip install ."
    knows_amx = subprocess.run([can, "-mamx-bf16", "-E", "-x", "c", os.devnull], capture_output=True, check=False)
    if has_amx() and knows_amx.returncode == 0:
        assert native_convolution.weight_gradients() is not None, "install odiff again: pip install ."


def test_a_processor_without_avx512_is_left_to_torch(tmp_path):
    program = "from odiff.network import native; print(native.library())"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "None"


@pytest.mark.parametrize(
    ("limit", "is_used"),
    [("", True), ("all", True), ("AVX512_CORE_AMX", True), ("AVX512_CORE_BF16", False), ("avx2", False)],
)
def test_amx_is_left_alone_where_onednn_is_told_to(monkeypatch, limit, is_used):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert has_amx() is is_used
