"""Rows a and b: one pretraining step, of the default plan and of the paper's network, against MONAI's network set up as the paper's.

The volume has 16x256x256 voxels, batch 1. Both sides take a whole step: noise, forward, loss, backward, optimiser, moving average
where there is one. Peer: MONAI's DiffusionModelUNet in float32 with Adam, as a user of the paper's recipe would run it; on a GPU a
second one under bfloat16 autocast stands in the row's details. Memory is that of the process, on a GPU what it took of the card.
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
from odiff.training.device import finish, use_cores
from odiff.training.graphs import record
from odiff.training.loop import LoopSettings, start_state, update
from odiff.training.precision import precision_of
from speed_rows.diagnosis import paper_network
from speed_rows.measure import Side, Worker, alternate, make_row, serve

SHAPE_ZYX, SPACING_ZYX_MM = (16, 256, 256), (4.5, 0.6, 0.6)
PAPER = DiffusionPlan(1000, "cosine", "epsilon", "uniform", 5.0, 0.0, (1, 1, 1), (100,), ("mid_2",))
WHAT = {
    "a": "pretraining step, default plan against the paper's network",
    "b": "pretraining step, the paper's network on both sides",
}
SIDES = {"a": "default", "b": "paper"}
PEER, PEER_MIXED = "peer", "peer_bfloat16"


def default_plan(device: str) -> ViewPlan:
    """What the planner makes of a dataset of such volumes on this device, knee segmentation and diagnosis to follow."""
    extent = tuple(n * s for n, s in zip(SHAPE_ZYX, SPACING_ZYX_MM, strict=True))
    seen = ViewFingerprint("sagittal", 1, 1, (SPACING_ZYX_MM,), (SHAPE_ZYX,), (extent,), 7.5, {}, {}, {})
    return plan_view(
        seen, Tasks(12, 8), read_preset("default"), this_machine(device=device), (), Reasons("sagittal", [])
    )


def count(build: Callable[[], nn.Module]) -> dict[str, Any]:
    """Millions of parameters, and billions of multiply-adds of one forward pass."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build().parameters())
    return {
        "parameters_m": round(parameters / 1e6, 2),
        "multiply_adds_g": round(multiply_adds(build, SHAPE_ZYX) / 1e9, 1),
    }


def prepare_ours(kind: str, on: str = "cpu") -> tuple[dict[str, Any], Any]:
    """A step of odiff's own training loop, of the default plan's network or of the paper's."""
    torch.manual_seed(0)
    use_cores()
    plan, device = default_plan(on), torch.device(on)
    build: Callable[[], nn.Module] = PaperUNet if kind == "paper" else lambda: UNet(plan.network)
    network = build()
    diffusion = plan.diffusion if kind == "default" else PAPER
    info = count(build) | {
        "patch_zyx": plan.patch_zyx,
        "stem_zyx": plan.network.stem_zyx if kind == "default" else (1, 1, 1),
    }
    info |= {"channels": plan.network.channels if kind == "default" else (64, 64, 128, 128, 256)}
    info |= {"precision": precision_of(device).name, "channels_last": precision_of(device).is_channels_last}
    settings = LoopSettings(10**6, 1, 1.0, 0.01, 0.999, 10**6, 10**6, device, 0, 0)
    state = start_state(network, {"backbone": list(network.parameters())}, settings)
    record(state.network, (1, 1, *SHAPE_ZYX), device, settings.accumulate)
    alpha_bar = ALPHA_BAR["cosine"](1000).float().to(device)
    volume = torch.randn(1, 1, *SHAPE_ZYX)

    def loss(network: nn.Module, batch: Tensor, number: int) -> Tensor:
        corruption = draw_corruption(batch.shape, diffusion, torch.Generator(device).manual_seed(number))
        return denoising_loss(network, batch, corruption, alpha_bar, diffusion)[0]

    def step() -> None:
        update(state, settings, iter([volume]), loss, lambda step: {"backbone": 1e-4})
        finish(device)

    return info, step


def prepare_peer(on: str = "cpu", is_mixed: bool = False) -> tuple[dict[str, Any], Any]:
    """The paper's step with MONAI's network, in float32 or under bfloat16 autocast: epsilon prediction, mean squared error, Adam."""
    torch.manual_seed(0)
    device = torch.device(on)
    network = paper_network().to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    alpha_bar = ALPHA_BAR["cosine"](1000).float().to(device)
    volume = torch.randn(1, 1, *SHAPE_ZYX, device=device)

    def step() -> None:
        t = torch.randint(0, 1000, (1,), device=device)
        noise = torch.randn_like(volume)
        signal = alpha_bar[t].reshape(-1, 1, 1, 1, 1)
        with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed):
            error = network(signal.sqrt() * volume + (1 - signal).sqrt() * noise, t) - noise
        error.square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        finish(device)

    return count(paper_network) | {"precision": "bfloat16 autocast" if is_mixed else "float32"}, step


def run(names: Sequence[str], work: Path, repeats: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Row a, row b or both beside one peer, in turn."""
    peers = (PEER,) if device == "cpu" else (PEER, PEER_MIXED)
    kinds = (*(SIDES[name] for name in names), *peers)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker("training", kind, device)) for kind in kinds]
        sides = alternate(*workers, repeats=repeats)
        infos = [worker.info for worker in workers]
    limits, peer = machine_limits(torch.device(device)), sides[len(names)]
    rows = []
    for name, side, info in zip(names, sides, infos, strict=False):
        details = {"ours": info, "peer": infos[len(names)], "limits": limits | reached(side, info, limits)}
        if len(peers) > 1:
            details["against_bfloat16"] = make_row(name, "", side, sides[-1])
        rows.append(make_row(name, WHAT[name], side, peer, **details))
    return rows


def reached(side: Side, info: dict[str, Any], limits: dict[str, float]) -> dict[str, float]:
    """How far a step gets towards the machine's matrix product; backward counts twice the forward pass."""
    gflops = 3 * 2 * info["multiply_adds_g"] / statistics.median(side.seconds)
    return {
        "reached_gflops": round(gflops, 1),
        "share_of_matrix_product": round(gflops / limits["matrix_product_gflops"], 2),
    }


def machine_limits(device: torch.device) -> dict[str, float]:
    """Rate of a matrix product in the type that training uses, and memory bandwidth of a copy; best of 5."""

    def best(work: Any) -> float:
        def once() -> float:
            finish(device)
            started = time.perf_counter()
            work()
            finish(device)
            return time.perf_counter() - started

        return min(once() for _ in range(5))

    dtype, size = precision_of(device).dtype or torch.float32, 3072 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.randn(1 << (26 if device.type == "cpu" else 30), device=device)
    target = torch.empty_like(source)
    return {
        "matrix_product_gflops": round(2 * size**3 / best(lambda: a @ b) / 1e9, 1),
        "copy_gb_per_s": round(2 * source.nbytes / best(lambda: target.copy_(source)) / 1e9, 1),
    }


if __name__ == "__main__":
    side, where = sys.argv[1:3]
    serve(lambda: prepare_peer(where, side == PEER_MIXED) if side in (PEER, PEER_MIXED) else prepare_ours(side, where))
