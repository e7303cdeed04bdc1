"""From one network to another: per cent, names, and too little is an error."""

import json
import logging
import shutil
from dataclasses import replace

import pytest
import torch

from odiff.errors import CheckpointError
from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.learning.asked import TrainOptions
from odiff.learning.run import RunSettings, describe_run
from odiff.learning.stages import train_view
from odiff.learning.transfer import load_backbone, with_head
from odiff.network.backbone import build_backbone, encoder_tensors
from odiff.network.paper import PAPER
from odiff.network.segmentation import SegmentationNetwork
from odiff.phantom import write_phantom_dataset
from odiff.plan import NetworkPlan, Normalisation, read_plan
from odiff.training.checkpoint import read_checkpoint, save_checkpoint

SETTINGS = RunSettings(0, torch.device("cpu"), 0)
NETWORK = NetworkPlan(
    (1, 2, 2), (32, 64, 128), ((1, 1, 1), (1, 2, 2), (2, 2, 2)), ((1, 3, 3), (3, 3, 3), (3, 3, 3)), 1, 32
)
OTHER_STEM = replace(NETWORK, kernels_zyx=((3, 3, 3), (3, 3, 3), (3, 3, 3)))


@pytest.fixture(scope="module")
def plan(planned):
    whole = read_plan(planned / "preprocessed" / "Dataset001_Knee" / "plans.json")
    return replace(whole, views={"axial": replace(whole.views["axial"], network=NETWORK)})


@pytest.fixture(scope="module")
def pretrained(plan, tmp_path_factory):
    """The checkpoint of a pretraining with `NETWORK`."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("pretrained") / "checkpoint_final.safetensors"
    weights = build_backbone(NETWORK).state_dict()
    save_checkpoint(
        path, {f"weights.{n}": t for n, t in weights.items()}, describe_run(plan, "axial", "pretrain", None, SETTINGS)
    )
    return path  # fmt: skip


def of_network(plan, network):
    return replace(plan.views["axial"], network=network)


def test_an_equal_network_takes_everything_and_only_the_head_is_new(plan, pretrained):
    network = SegmentationNetwork(NETWORK, 5, "decoder")
    found = with_head(load_backbone(network.backbone, pretrained, of_network(plan, NETWORK)), network)
    assert (found.encoder_per_cent, found.diffusion_network_per_cent) == (100, 100)
    assert found.left_behind == () and found.differs == {} and found.dataset == "Dataset001_Knee"
    assert set(found.new) == {name for name, _ in network.named_parameters() if not name.startswith("backbone.")}


def test_with_another_stem_what_fits_is_loaded_and_the_rest_is_named(plan, pretrained):
    network = build_backbone(OTHER_STEM)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = load_backbone(network, pretrained, of_network(plan, OTHER_STEM))
    given = read_checkpoint(pretrained).part("weights.")
    misfits = {name for name, tensor in before.items() if tensor.shape != given[name].shape}
    assert set(found.new) == set(found.left_behind) == misfits
    assert "stem.weight" in misfits and list(found.differs) == ["kernels_zyx"]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name] if name in misfits else given[name]), name
    encoder = {n: p.numel() for n, p in network.named_parameters() if n.split(".")[0] not in ("up", "decoder", "out")}
    kept = sum(size for name, size in encoder.items() if name not in misfits)
    assert found.encoder_per_cent == pytest.approx(100 * kept / sum(encoder.values()))
    assert 95 < found.encoder_per_cent < 100


def test_a_network_of_other_widths_is_an_error_that_names_both(plan, pretrained):
    wider = replace(NETWORK, channels=(32, 64, 160))
    with pytest.raises(CheckpointError, match=r"% of the encoder's parameters fit") as caught:
        load_backbone(build_backbone(wider), pretrained, of_network(plan, wider))
    assert "[32, 64, 128]" in str(caught.value) and "[32, 64, 160]" in str(caught.value)
    assert "--like Dataset001_Knee" in str(caught.value)


@pytest.mark.parametrize(
    ("left_out", "is_enough"),
    [("stem.weight", True), ("up.1.conv.weight", True), ("encoder.1.blocks.0.first.conv.weight", True), ("down.2.weight", False)],
)  # fmt: skip
def test_ninety_five_per_cent_of_the_encoder_is_the_border(plan, pretrained, tmp_path, left_out, is_enough):
    checkpoint = read_checkpoint(pretrained)
    weights = checkpoint.part("weights.")
    encoder = {n: t.numel() for n, t in weights.items() if n.split(".")[0] not in ("up", "decoder", "out")}
    assert is_enough == (encoder.get(left_out, 0) <= 0.05 * sum(encoder.values()))
    path = tmp_path / "less.safetensors"
    save_checkpoint(path, {f"weights.{n}": t for n, t in weights.items() if n != left_out}, checkpoint.meta)
    if is_enough:
        assert load_backbone(build_backbone(NETWORK), path, of_network(plan, NETWORK)).new == (left_out,)
        return
    with pytest.raises(CheckpointError, match="95 % are needed"):
        load_backbone(build_backbone(NETWORK), path, of_network(plan, NETWORK))


def test_another_normalisation_or_view_is_an_error(plan, pretrained):
    view = of_network(plan, NETWORK)
    for other, named in (
        (replace(view, normalisation=Normalisation("zscore", 1, 99, 3)), "normalisation"), (replace(view, view="coronal"), "axial"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=named):
            load_backbone(build_backbone(NETWORK), pretrained, other)


@pytest.mark.parametrize(
    ("network", "behind"), [(NETWORK, ("up", "decoder", "out")), (PAPER, ("output_blocks", "out"))]
)
def test_the_encoder_is_what_the_middle_needs(network, behind):
    with torch.device("meta"):
        names = list(build_backbone(network).state_dict())
    assert set(encoder_tensors(network, names)) == {name for name in names if name.split(".")[0] not in behind}


def test_an_ankle_is_diagnosed_from_a_knee(planned, tmp_path, caplog):
    shutil.copytree(planned / "preprocessed", tmp_path / "preprocessed")
    folder = tmp_path / "raw" / "Dataset002_Ankle"
    write_phantom_dataset(folder, joint="ankle", cases=6, seed=0, masked_cases=2, size="tiny")
    options = PlanningOptions(preset="cpu_demo", views=("axial",), like="Dataset001_Knee", processes=1)
    plan_and_preprocess(tmp_path / "raw", tmp_path / "preprocessed", "2", options, lambda _: None)
    results, few = tmp_path / "results", ("pretrain.steps=1", "diagnosis.steps=2", "diagnosis.head_steps=2")

    def train(dataset, *options):
        return train_view(
            tmp_path / "preprocessed", results, dataset, "axial", TrainOptions(*options), SETTINGS, few
        ).results

    knee = train("1", "pretrain").pretrain("axial").checkpoint("final")
    with caplog.at_level(logging.INFO):
        run = train("2", "diagnosis", "0", "Dataset001_Knee").task("axial", "diagnosis", "0")
    said = caplog.text
    assert f"from Dataset001_Knee ({knee}): 100.0 % of the encoder's parameters taken over" in said
    assert "new, at random: head." in said and "left behind: nothing" in said
    stored = json.loads(run.config.read_text())["transfer"]
    assert stored["encoder_per_cent"] == 100 and all(name.startswith("head.") for name in stored["new"])
    assert run.is_trained() and (run.validation / "predictions.csv").exists()
