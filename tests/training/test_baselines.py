"""The paper's comparisons from MONAI: same plan, batches and results, trained from scratch."""

import functools
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from odiff.errors import CheckpointError, OdiffError, PlanError, UsageError
from odiff.inference.command import main as predict
from odiff.learning import diagnosis
from odiff.learning.asked import TrainOptions, from_scratch
from odiff.learning.context import open_context
from odiff.learning.run import RunSettings
from odiff.learning.segment import build_segmentation, fitted_tile, probability_slabs
from odiff.learning.stages import train_view
from odiff.network import baselines
from odiff.network.backbone import block_shapes, blocks_of, build_backbone, build_diffusion
from odiff.plan import NetworkPlan, read_plan
from odiff.training.checkpoint import read_checkpoint
from odiff.training.loop import train

SETTINGS = RunSettings(0, torch.device("cpu"), 0)
PLAN = NetworkPlan((1, 4, 2), (64, 128), ((1, 1, 1), (1, 2, 2)), ((1, 3, 3), (3, 3, 3)), 1, 32)
SMALL = {
    "UNet": {}, "resnet18": {"widen_factor": 1 / 64},
    "UNETR": {"hidden_size": 24, "num_heads": 2, "mlp_dim": 24, "feature_size": 4},
}  # fmt: skip
FEW = ("segmentation.steps=1", "diagnosis.steps=1", "fusion.steps=1")


@pytest.fixture
def small(monkeypatch):
    """MONAI's networks with a fraction of their widths."""
    networks = pytest.importorskip("monai.networks.nets")
    for name, settings in SMALL.items():
        monkeypatch.setattr(networks, name, functools.partial(getattr(networks, name), **settings))
    monkeypatch.setattr(baselines, "RESNET_CHANNELS", 8)


@pytest.fixture(scope="module")
def plan(planned):
    return read_plan(planned / "preprocessed" / "Dataset001_Knee" / "plans.json")


def run(planned, results, baseline, view="axial", few=FEW):
    options = TrainOptions(fold="0", baseline=baseline)
    return train_view(planned / "preprocessed", results, "1", view, options, SETTINGS, few)


def test_the_unet_halves_as_often_as_the_plan_with_the_stem_as_levels_of_its_own(small):
    channels, strides = baselines.unet_levels(PLAN)
    assert strides == ((1, 2, 2), (1, 2, 1), (1, 2, 2))
    assert channels == (16, 32, 64, 128)
    built = baselines.build_unet3d(PLAN, (4, 32, 32), 3)
    assert (built.channels, built.strides) == (channels, strides)


@pytest.mark.parametrize("name", ["unet3d", "unetr"])
def test_logits_lie_on_the_patch_whatever_its_size(small, name):
    patch = (10, 24, 40)
    network = baselines.BaselineSegmentation(replace(PLAN, architecture=name), patch, 3).eval()
    with torch.no_grad():
        found = network(torch.randn(2, 1, *patch), torch.zeros(2))
        slab, *rest = network.slabs(torch.randn(1, 1, *patch), torch.zeros(1))
    assert tuple(found.shape) == (2, 3, *patch) and network.classes == 3
    assert tuple(slab.shape) == (1, 3, *patch) and not rest


def test_the_resnet_is_read_at_one_position(small):
    named = replace(PLAN, architecture="resnet18")
    network = build_backbone(named).eval()
    found = network.features(torch.randn(2, 1, 10, 24, 40), torch.zeros(2))
    assert {name: tuple(one.shape[1:]) for name, one in found.items()} == {
        name: (block.channels, *block_shapes(named, (10, 24, 40))[name]) for name, block in blocks_of(named).items()
    }


def test_gradients_in_bfloat16_are_reproducible_where_the_trunk_has_two_slices(small):
    torch.manual_seed(0)
    network = build_backbone(replace(PLAN, architecture="resnet18")).to(memory_format=torch.channels_last_3d).train()
    x = torch.randn(2, 1, 10, 24, 40)

    def gradients():
        _ = [torch.full((size,), 1e30) for size in (64, 512, 4096)]  # what uninitialised memory may hold
        with torch.autocast("cpu", dtype=torch.bfloat16):
            answer = network.features(x, torch.zeros(2))["pooled"].float()
        return torch.autograd.grad(answer.square().mean(), list(network.parameters()))

    first = gradients()
    assert all(torch.equal(a, b) for _ in range(3) for a, b in zip(first, gradients(), strict=True))


def test_a_network_of_one_size_gets_patches_of_that_size_alone(small, plan):
    of_unetr, of_unet = (baselines.with_baseline(plan, name) for name in ("unetr", "unet3d"))
    patch = plan.views["axial"].patch_zyx
    longer = [n + 2 for n in patch]
    assert (
        tuple(fitted_tile(longer, of_unetr.views["axial"]))
        == patch
        != tuple(fitted_tile(longer, of_unet.views["axial"]))
    )
    network = build_segmentation(of_unetr, "axial").eval()
    image = np.zeros(longer, np.float32)
    whole = torch.cat(
        [s.clone() for s in probability_slabs([network], image, of_unetr, "axial", torch.device("cpu"))], dim=1
    )
    assert tuple(whole.shape) == (len(plan.labels), *longer)
    assert torch.allclose(whole.sum(dim=0), torch.ones(longer), atol=1e-2)


def test_a_baseline_sees_no_noise_and_trains_its_one_layer_head_from_the_first_step(plan):
    noisy = replace(plan, segmentation=replace(plan.segmentation, is_noised=True))
    found = baselines.with_baseline(noisy, "resnet18")
    assert not found.segmentation.is_noised
    assert (found.diagnosis.head_steps, found.diagnosis.pooling) == (0, "none")
    same = replace(found, views=plan.views, segmentation=noisy.segmentation, diagnosis=plan.diagnosis)
    assert same == noisy, "nothing else differs"
    kept = ("spacing_zyx_mm", "patch_zyx", "normalisation", "batch_size", "mirror_axes")
    assert all(getattr(found.views[v], field) == getattr(plan.views[v], field) for v in plan.views for field in kept)


@pytest.mark.parametrize(
    ("name", "task"), [("unet3d", "segmentation"), ("unetr", "segmentation"), ("resnet18", "diagnosis")]
)
def test_a_baseline_trains_beside_the_plan_and_predicts_from_its_folder_alone(small, planned, tmp_path, name, task):
    context = run(planned, tmp_path / "results", name)
    assert context.results.path == tmp_path / "results" / "Dataset001_Knee" / f"cpu_demo_{name}"
    done = context.results.task("axial", task, "0")
    assert done.is_trained() and (done.validation / "summary.json").exists()
    meta = read_checkpoint(done.checkpoint("final")).meta
    assert meta["plan"]["views"]["axial"]["network"]["architecture"] == name and meta["pretrained"] is None
    assert not context.results.pretrain("axial").path.exists()
    images = planned / "raw" / "Dataset001_Knee" / "imagesTs"
    assert predict(["-i", str(images), "-o", str(tmp_path / "out"), "-m", str(context.results.path)]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert ("knee_00006_axial.nii.gz" in written) == (task == "segmentation")
    assert ("diagnosis.csv" in written) == (task == "diagnosis")


def test_views_of_a_baseline_are_fused_but_not_by_a_gate(small, planned, tmp_path):
    for view in ("axial", "sagittal", "fused"):
        context = run(planned, tmp_path, "resnet18", view)
    assert context.results.task("fused", "diagnosis", "0").is_trained()
    with pytest.raises(UsageError, match="gated learns from heads on pretrained features"):
        run(planned, tmp_path, "resnet18", "fused", (*FEW, "fusion.variant=gated"))


def test_running_statistics_are_resumed(small, planned, tmp_path, monkeypatch):
    few = ("diagnosis.steps=4", "diagnosis.checkpoint_every=2", "diagnosis.validate_every=2")
    run(planned, tmp_path / "whole", "resnet18", few=few)

    def cut(state, settings, folder, batches, loss, *rest):
        def until_three(network, batch, number):
            if number == 3:
                raise KeyboardInterrupt
            return loss(network, batch, number)

        train(state, settings, folder, batches, until_three, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(diagnosis, "train", cut)
        with pytest.raises(KeyboardInterrupt):
            run(planned, tmp_path / "cut", "resnet18", few=few)
    run(planned, tmp_path / "cut", "resnet18", few=few)
    final = "Dataset001_Knee/cpu_demo_resnet18/axial/diagnosis/fold_0/checkpoint_final.safetensors"
    whole, cut_short = (read_checkpoint(tmp_path / name / final).tensors for name in ("whole", "cut"))
    assert any("running_mean" in name for name in whole)
    assert all(torch.equal(tensor, cut_short[name]) for name, tensor in whole.items())


def test_a_baseline_never_goes_on_with_another_ones_run(small, planned, tmp_path):
    context = run(planned, tmp_path, "unet3d")
    other = tmp_path / "Dataset001_Knee" / "cpu_demo_unetr"
    context.results.path.rename(other)
    with pytest.raises(CheckpointError, match="architecture"):
        run(planned, tmp_path, "unetr")


def test_without_monai_the_extra_is_named(planned, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(OdiffError, match=r'pip install "odiff-mri\[baselines\]"'):
        run(planned, tmp_path, "resnet18")
    assert not list(tmp_path.rglob("config.json"))


MISTAKES = {
    "another task": ({"baseline": "unet3d", "task": "diagnosis"}, "network for segmentation"),
    "an unknown one": ({"baseline": "resnet81"}, "did you mean 'resnet18'"),
    "a pretrained model": ({"baseline": "unet3d", "pretrained": "2"}, "from scratch only"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_a_baseline_cannot_do_is_refused(mistake):
    options, named = MISTAKES[mistake]
    with pytest.raises(UsageError, match=named):
        from_scratch(TrainOptions(**options))


def test_a_baseline_is_never_pretrained(small, planned, tmp_path):
    with pytest.raises(PlanError, match="resnet18"):
        build_diffusion(replace(PLAN, architecture="resnet18"))
    with pytest.raises(PlanError, match="--baseline"):
        build_backbone(replace(PLAN, architecture="unet3d"))
    context = open_context(planned / "preprocessed", tmp_path, "1", baseline="unet3d")
    assert (
        json.loads((context.folder / "plans.json").read_text())["views"]["axial"]["network"]["architecture"] == "unet"
    )
