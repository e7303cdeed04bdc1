"""Released weights: imported strictly, nothing of the file is run, and the features are the released network's."""

import pickle

import pytest
import torch

import odiff
from odiff.diffusion import ALPHA_BAR
from odiff.errors import UsageError
from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.inference.import_command import main
from odiff.learning.asked import TrainOptions
from odiff.learning.context import open_context
from odiff.learning.run import RunSettings
from odiff.learning.stages import train_view

PREFIXES = pytest.mark.parametrize("prefix", ["denoise_fn.", "denoise_fn.module."])


def released(weights, prefix="denoise_fn.", **changes):
    state = {"betas": torch.zeros(1000), "alphas_cumprod": ALPHA_BAR["cosine"](1000).float()}
    state |= {prefix + name: tensor for name, tensor in weights.items()} | changes
    return {"step": 21500, "model": {}, "ema": state, "opt": {}}


def run_import(tmp_path, content, capsys):
    source = tmp_path / "pose0.pt"
    torch.save(content, source)
    code = main(["-i", str(source), "-v", "axial", "-o", str(tmp_path / "axial")])
    return code, capsys.readouterr().err


@PREFIXES
def test_imported_weights_give_the_released_activations(
    tmp_path, official_weights, official_input, official_activations, is_official, prefix, capsys
):
    code, _ = run_import(tmp_path, released(official_weights, prefix), capsys)
    assert code == 0
    model = odiff.load_pretrained(tmp_path / "axial")
    found = model.features(official_input, 100)
    assert set(found) == set(official_activations.files) - {"x_t"} == set(model.blocks)
    assert all(is_official(name, activation) for name, activation in found.items())
    assert model.plan.view == "axial"


def test_only_what_is_asked_for_is_returned(tmp_path, official_weights, official_input, capsys):
    run_import(tmp_path, released(official_weights), capsys)
    model = odiff.load_pretrained(tmp_path / "axial")
    found = model.features(official_input[..., :16, :16], torch.tensor([100]), blocks=["mid_2", "in_3"])
    assert list(found) == ["mid_2", "in_3"] and found["mid_2"].dtype == torch.float32
    with pytest.raises(UsageError, match=r"mid_3.*did you mean 'mid_"):
        model.features(official_input, 100, blocks=["mid_3"])


def test_what_is_missing_extra_or_misshapen_is_listed(tmp_path, official_weights, capsys):
    weights = dict(official_weights)
    weights["out.5.weight"] = weights.pop("out.2.weight")
    weights["out.2.bias"] = torch.zeros(3)
    code, message = run_import(tmp_path, released(weights), capsys)
    assert code == 2 and "Traceback" not in message
    assert "1 missing: out.2.weight" in message
    assert "1 extra: out.5.weight" in message
    assert "out.2.bias is (3,), should be (1,)" in message
    assert not (tmp_path / "axial").exists()


class Harmful:
    def __reduce__(self):
        import os

        return (os.mkdir, ("harm",))


def test_code_in_the_file_is_never_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, message = run_import(tmp_path, {"ema": Harmful()}, capsys)
    assert code == 2 and "runs no code" in message
    assert not (tmp_path / "harm").exists()
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Harmful()))
    assert main(["-i", str(tmp_path / "old.pt"), "-v", "axial", "-o", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [{"weights": 3}, [1, 2], {"ema": {"a": 1}}, {"ema": {}}])
def test_other_files_of_torch_are_told_apart(tmp_path, content, capsys):
    code, message = run_import(tmp_path, content, capsys)
    assert code == 2 and "expected a dict with the weights under 'ema'" in message


@pytest.mark.parametrize("keep", [0, 10, 5000])
def test_truncated_files_are_the_users(tmp_path, official_weights, keep, capsys):
    source = tmp_path / "cut.pt"
    torch.save(released(official_weights), source)
    source.write_bytes(source.read_bytes()[:keep])
    assert main(["-i", str(source), "-v", "axial", "-o", str(tmp_path / "axial")]) == 2
    assert "cut.pt" in capsys.readouterr().err


def test_broken_values_and_another_schedule_are_refused(tmp_path, official_weights, capsys):
    nan = official_weights | {"out.2.bias": torch.tensor([float("nan")])}
    assert "NaN or Inf" in run_import(tmp_path, released(nan), capsys)[1]
    linear = released(official_weights, alphas_cumprod=ALPHA_BAR["linear"](1000).float())
    assert "not the cosine schedule" in run_import(tmp_path, linear, capsys)[1]


def test_a_folder_in_use_is_not_overwritten(tmp_path, official_weights, capsys):
    run_import(tmp_path, released(official_weights), capsys)
    before = (tmp_path / "axial" / "checkpoint_final.safetensors").stat().st_mtime_ns
    code, message = run_import(tmp_path, released(official_weights), capsys)
    assert code == 2 and "is not empty" in message
    assert (tmp_path / "axial" / "checkpoint_final.safetensors").stat().st_mtime_ns == before


def import_into(root, source, dataset="1"):
    roots = ["--preprocessed", str(root / "preprocessed"), "--results", str(root / "results")]
    return main(["-i", str(source), "-v", "axial", "-d", dataset, *roots])


def test_a_dataset_planned_as_the_paper_s_starts_from_imported_weights(
    tmp_path, phantom_dataset, official_weights, capsys
):
    options = PlanningOptions(preset="paper", views=("axial",), processes=1)
    plan_and_preprocess(phantom_dataset.parent, tmp_path / "preprocessed", "1", options, lambda _: None)
    torch.save(released(official_weights), tmp_path / "pose0.pt")
    pretraining = open_context(tmp_path / "preprocessed", tmp_path / "results", "1").results.pretrain("axial")
    with pretraining.alone():
        assert import_into(tmp_path, tmp_path / "pose0.pt") == 2
    assert "another process trains into this folder" in capsys.readouterr().err
    assert import_into(tmp_path, tmp_path / "pose0.pt") == 0
    settings = RunSettings(0, torch.device("cpu"), 0)
    context = train_view(
        tmp_path / "preprocessed", tmp_path / "results", "1", "axial", TrainOptions("pretrain"), settings
    )
    model = odiff.load_pretrained(context.results.pretrain("axial").path)
    assert torch.equal(model.network.state_dict()["out.2.weight"], official_weights["out.2.weight"])


def test_a_dataset_with_another_network_takes_no_released_weights(tmp_path, planned, official_weights, capsys):
    torch.save(released(official_weights), tmp_path / "pose0.pt")
    (tmp_path / "preprocessed").symlink_to(planned / "preprocessed")
    assert import_into(tmp_path, tmp_path / "pose0.pt") == 2
    assert "plan with odiff_plan_and_preprocess -d 1 --preset paper" in capsys.readouterr().err
