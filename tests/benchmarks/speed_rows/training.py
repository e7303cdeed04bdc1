"""Rows a and b: one pretraining step, of the default plan and of the paper's network, against MONAI's network set up as the paper's.

The volume has 16x256x256 voxels, batch 1. Both sides take a whole step: noise, forward, loss, backward, optimiser, moving average
where there is one. Peer: MONAI's DiffusionModelUNet in float32 with Adam, as a user of the paper's recipe would run it.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from odiff.diffusion import ALPHA_BAR, denoising_loss, draw_corruption
from odiff.experiment_planning.fingerprint import ViewFingerprint
from odiff.experiment_planning.machine import this_machine
from odiff.experiment_planning.planner import Reasons, Tasks, plan_view
from odiff.experiment_planning.presets import read_preset
from odiff.experiment_planning.throughput import multiply_adds
from odiff.network.paper import PaperUNet
from odiff.network.unet import UNet
from odiff.plan import DiffusionPlan, ViewPlan
from odiff.training.device import use_cores
from odiff.training.loop import LoopSettings, start_state, update
from odiff.training.precision import precision_of
from speed_rows.diagnosis import paper_network
from speed_rows.measure import Side, Worker, alternate, make_row, serve

SHAPE_ZYX, SPACING_ZYX_MM = (16, 256, 256), (4.5, 0.6, 0.6)
CPU = torch.device("cpu")
PAPER = DiffusionPlan(1000, "cosine", "epsilon", "uniform", 5.0, 0.0, (1, 1, 1), (100,), ("mid_2",))
WHAT = {
    "a": "pretraining step, default plan against the paper's network",
    "b": "pretraining step, the paper's network on both sides",
}
SIDES = {"a": "default", "b": "paper"}


def default_plan() -> ViewPlan:
    """What the planner makes of a dataset of such volumes on this machine, knee segmentation and diagnosis to follow."""
    extent = tuple(n * s for n, s in zip(SHAPE_ZYX, SPACING_ZYX_MM, strict=True))
    seen = ViewFingerprint("sagittal", 1, 1, (SPACING_ZYX_MM,), (SHAPE_ZYX,), (extent,), 7.5, {}, {}, {})
    return plan_view(seen, Tasks(12, 8), read_preset("default"), this_machine(), (), Reasons("sagittal", []))


def count(build: Callable[[], nn.Module]) -> dict[str, Any]:
    """Millions of parameters, and billions of multiply-adds of one forward pass."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build().parameters())
    return {
        "parameters_m": round(parameters / 1e6, 2),
        "multiply_adds_g": round(multiply_adds(build, SHAPE_ZYX) / 1e9, 1),
    }


def prepare_ours(kind: str) -> tuple[dict[str, Any], Any]:
    """A step of odiff's own training loop, of the default plan's network or of the paper's."""
    torch.manual_seed(0)
    use_cores()
    plan = default_plan()
    build: Callable[[], nn.Module] = PaperUNet if kind == "paper" else lambda: UNet(plan.network)
    network = build()
    diffusion = plan.diffusion if kind == "default" else PAPER
    info = count(build) | {
        "patch_zyx": plan.patch_zyx,
        "stem_zyx": plan.network.stem_zyx if kind == "default" else (1, 1, 1),
    }
    info |= {"channels": plan.network.channels if kind == "default" else (64, 64, 128, 128, 256)}
    info |= {"precision": precision_of(CPU).name, "channels_last": precision_of(CPU).is_channels_last}
    settings = LoopSettings(10**6, 1, 1.0, 0.01, 0.999, 10**6, 10**6, CPU, 0, 0)
    state = start_state(network, {"backbone": list(network.parameters())}, settings)
    alpha_bar = ALPHA_BAR["cosine"](1000).float()
    volume = torch.randn(1, 1, *SHAPE_ZYX)

    def loss(network: nn.Module, batch: Tensor, number: int) -> Tensor:
        corruption = draw_corruption(batch.shape, diffusion, torch.Generator().manual_seed(number))
        return denoising_loss(network, batch, corruption, alpha_bar, diffusion)[0]

    return info, lambda: update(state, settings, iter([volume]), loss, lambda step: {"backbone": 1e-4})


def prepare_peer() -> tuple[dict[str, Any], Any]:
    """The paper's step with MONAI's network in float32: epsilon prediction, mean squared error, Adam."""
    torch.manual_seed(0)
    network = paper_network()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    alpha_bar = ALPHA_BAR["cosine"](1000).float()
    volume = torch.randn(1, 1, *SHAPE_ZYX)

    def step() -> None:
        t = torch.randint(0, 1000, (1,))
        noise = torch.randn_like(volume)
        signal = alpha_bar[t].reshape(-1, 1, 1, 1, 1)
        error = network(signal.sqrt() * volume + (1 - signal).sqrt() * noise, t) - noise
        error.square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    return count(paper_network) | {"precision": "float32"}, step


def run(names: Sequence[str], work: Path, repeats: int) -> list[dict[str, Any]]:
    """Row a, row b or both beside one peer, in turn."""
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker("training", kind)) for kind in (*(SIDES[name] for name in names), "peer")]
        *ours, peer = alternate(*workers, repeats=repeats)
        infos = [worker.info for worker in workers]
    limits = machine_limits()
    return [
        make_row(name, WHAT[name], side, peer, ours=info, peer=infos[-1], limits=limits | reached(side, info, limits))
        for name, side, info in zip(names, ours, infos, strict=False)
    ]


def reached(side: Side, info: dict[str, Any], limits: dict[str, float]) -> dict[str, float]:
    """How far a step gets towards the machine's matrix product; backward counts twice the forward pass."""
    gflops = 3 * 2 * info["multiply_adds_g"] / statistics.median(side.seconds)
    return {
        "reached_gflops": round(gflops, 1),
        "share_of_matrix_product": round(gflops / limits["matrix_product_gflops"], 2),
    }


def machine_limits() -> dict[str, float]:
    """Rate of a float32 matrix product, of one in bfloat16 where training uses it, and memory bandwidth of a copy; best of 5."""

    def best(work: Any) -> float:
        def once() -> float:
            started = time.perf_counter()
            work()
            return time.perf_counter() - started

        return min(once() for _ in range(5))

    dtype = precision_of(CPU).dtype or torch.float32
    a, b = (torch.randn(3072, 3072).to(dtype) for _ in range(2))
    source = torch.randn(1 << 26)
    target = torch.empty_like(source)
    return {
        "matrix_product_gflops": round(2 * 3072**3 / best(lambda: a @ b) / 1e9, 1),
        "copy_gb_per_s": round(2 * source.nbytes / best(lambda: target.copy_(source)) / 1e9, 1),
    }


if __name__ == "__main__":
    serve(prepare_peer if sys.argv[1] == "peer" else lambda: prepare_ours(sys.argv[1]))
