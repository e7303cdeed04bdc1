"""Row c: diagnosis of a three-view study from files, against the paper's features of the same three files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speed_rows.measure import Worker, alternate, make_row, serve

if TYPE_CHECKING:
    from speed_rows.knees import Scan

PAPER_ZYX = (16, 256, 256)
TIME_STEPS = (200, 150, 50)


def run(names: Sequence[str], work: Path, repeats: int) -> list[dict[str, Any]]:
    """Both with their models loaded; each piece of work reads the three files anew.

    The row is of a study as large as the peer's input, so that both look at as many voxels; its details hold a larger study, of
    which odiff's plan keeps every voxel and the peer what it resizes to 16x256x256.
    """
    from speed_rows.knees import LARGE, PAPER_SIZED

    larger = measured("c, 24x320x320", LARGE, work, repeats)
    return [measured(names[0], PAPER_SIZED, work / "paper_sized", repeats, larger=larger)]


def measured(name: str, scan: Scan, work: Path, repeats: int, **details: Any) -> dict[str, Any]:
    """One row, of studies of the size `scan`."""
    from speed_rows.knees import random_diagnosis, write_knees

    write_knees(work / "raw", scan)
    random_diagnosis(work)
    with Worker("diagnosis", "ours", str(work)) as ours, Worker("diagnosis", "peer", str(work)) as peer:
        sides = alternate(ours, peer, repeats=repeats)
        what = f"diagnose a study of three views of {'x'.join(map(str, scan.shape_zyx))} from files"
        return make_row(name, what, *sides, ours=ours.info, peer=peer.info, **details)


def study(work: Path) -> dict[str, Path]:
    """The files of the case to diagnose by view."""
    from odiff.geometry import VIEWS
    from speed_rows.knees import DATASET

    return {view: work / "raw" / DATASET / "imagesTs" / f"new_{view}.nii.gz" for view in VIEWS}


def prepare_ours(work: Path) -> tuple[dict[str, Any], Callable[[], object]]:
    """odiff's default plan: files to probabilities, one fold of three views, their fusion and the shared code."""
    from odiff.geometry import read_volume
    from odiff.inference.predictor import CaseImages, Predictor
    from speed_rows.knees import random_diagnosis

    predictor, files = Predictor(random_diagnosis(work)), study(work)
    info = {
        "ours_patch_zyx": {view: plan.patch_zyx for view, plan in predictor.plan.views.items()},
        "ours_blocks": {view: next(iter(folds.values())).choice.blocks for view, folds in predictor.models.diagnosis.items()},
    }  # fmt: skip

    def diagnose() -> None:
        volumes = {view: (read_volume(path),) for view, path in files.items()}
        predictor.diagnose(CaseImages(volumes, "R"))

    return info, diagnose


def prepare_peer(work: Path) -> tuple[dict[str, Any], Callable[[], object]]:
    """The paper's network, one of random weights for each view, up to and including its middle block, float32."""
    import torch

    torch.manual_seed(0)
    files = study(work)
    networks = [paper_network().eval() for _ in files]

    @torch.inference_mode()
    def features() -> None:
        for network, path, time_step in zip(networks, files.values(), TIME_STEPS, strict=True):
            middle(network, paper_volume(path), time_step)

    parameters = sum(p.numel() for p in networks[0].parameters())
    return {"peer_input_zyx": PAPER_ZYX, "peer_parameters_millions": round(parameters / 1e6, 1)}, features


def paper_network() -> Any:
    """MONAI's diffusion U-Net with the paper's widths, one residual block a level, attention at the last."""
    from monai.networks.nets import DiffusionModelUNet

    return DiffusionModelUNet(
        spatial_dims=3, in_channels=1, out_channels=1, channels=(64, 64, 128, 128, 256), num_res_blocks=1,
        attention_levels=(False, False, False, False, True), num_head_channels=(0, 0, 0, 0, 256), norm_num_groups=32,
    )  # fmt: skip


def paper_volume(path: Path) -> Any:
    """A file as the paper's network takes it: (1, 1, 16, 256, 256), -1..1."""
    import SimpleITK as sitk
    import torch
    from torch.nn import functional as F

    volume = torch.from_numpy(sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat32)))[None, None]
    resized = F.interpolate(volume, size=PAPER_ZYX, mode="trilinear")
    low, high = resized.aminmax()
    return (resized - low) / (high - low) * 2 - 1


def middle(network: Any, volume: Any, time_step: int) -> Any:
    """The activations after the middle block."""
    import torch
    from monai.networks.nets.diffusion_model_unet import get_timestep_embedding

    time = network.time_embed(get_timestep_embedding(torch.tensor([time_step]), network.block_out_channels[0]))
    h = network.conv_in(volume)
    for block in network.down_blocks:
        h, _ = block(hidden_states=h, temb=time, context=None)
    return network.middle_block(hidden_states=h, temb=time, context=None)


if __name__ == "__main__":
    side = {"ours": prepare_ours, "peer": prepare_peer}[sys.argv[1]]
    serve(lambda: side(Path(sys.argv[2])))
