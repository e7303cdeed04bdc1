"""samples.png: what the diffusion model makes of noise, beside real volumes."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from odiff.diffusion import sample
from odiff.plan import ViewPlan
from odiff.storage import atomic_path

SAMPLER_STEPS = 12


@torch.no_grad()
def generate(network: nn.Module, plan: ViewPlan, alpha_bar: Tensor, count: int, seed: int) -> Tensor:
    """Volumes (count, 1, z, y, x) from noise; the same seed gives the same volumes."""
    device = next(network.parameters()).device
    noise = torch.randn((count, 1, *plan.patch_zyx), generator=torch.Generator().manual_seed(seed))
    return sample(
        network, noise.to(device), alpha_bar, plan.diffusion.prediction, SAMPLER_STEPS, plan.normalisation.clip
    )


def draw_rows(path: Path, rows: dict[str, Tensor]) -> None:
    """Middle slices of volumes (b, 1, z, y, x), one titled row per entry, all in the window -1..1."""
    columns = max(len(volumes) for volumes in rows.values())
    figure = Figure(figsize=(2.2 * columns, 2.4 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (title, volumes) in zip(axes, rows.items(), strict=True):
        for axis in row:
            axis.set_axis_off()
        row[0].set_title(title, fontsize="small", loc="left")
        for axis, volume in zip(row, volumes, strict=False):
            axis.imshow(_middle(volume), cmap="gray", vmin=-1, vmax=1)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)


def _middle(volume: Tensor) -> np.ndarray:
    return volume[0, volume.shape[1] // 2].float().cpu().numpy()
