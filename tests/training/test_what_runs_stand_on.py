"""What a run stands on: its cases, its arrays, its pretraining, and what of it is begun anew."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from odiff.errors import CheckpointError, PlanError, TrainingError, UsageError
from odiff.learning import segmentation
from odiff.learning.asked import TrainOptions
from odiff.learning.pretrained import ResultsFolder
from odiff.learning.pretraining_stage import is_pretrained
from odiff.learning.run import RunSettings
from odiff.learning.stages import train_view
from odiff.training.checkpoint import read_checkpoint, read_description

SETTINGS = RunSettings(0, torch.device("cpu"), 0)
FEW = (
    "pretrain.steps=2", "segmentation.steps=2", "diagnosis.steps=2", "diagnosis.head_steps=2", "fusion.steps=2",
)  # fmt: skip


def train_task(roots, results, task, *more, view="axial", pretrained="none", settings=SETTINGS, fold="0", **options):
    choices = TrainOptions(task, None if task == "pretrain" else fold, pretrained, **options)
    return train_view(roots / "preprocessed", results, "1", view, choices, settings, (*FEW, *more))


@pytest.fixture
def roots(planned, tmp_path):
    """A preprocessed dataset to change."""
    shutil.copytree(planned / "preprocessed", tmp_path / "preprocessed")
    return tmp_path


@pytest.mark.parametrize("task", ["segmentation", "diagnosis"])
def test_a_fold_that_learnt_from_other_cases_is_neither_resumed_nor_validated(roots, task):
    train_task(roots, roots, task)
    path = roots / "preprocessed" / "Dataset001_Knee" / "splits_final.json"
    path.write_text(json.dumps(json.loads(path.read_text())[::-1]))
    for validate_only in (False, True):
        with pytest.raises(CheckpointError, match=r"fold_0: learnt from \d+ of the fold, of which .*--restart"):
            train_task(roots, roots, task, validate_only=validate_only)
    train_task(roots, roots, task, settings=replace(SETTINGS, restart=True))


@pytest.mark.parametrize(
    "change", ["views.axial.spacing_zyx_mm=[9,9,9]", "views.axial.normalisation.clip=7", "flip_left_joints=false"]
)
def test_arrays_that_were_made_with_another_plan_are_not_trained_on(planned, tmp_path, change):
    field = change.partition("=")[0].split(".")
    field = field[2] if len(field) > 2 else field[0]
    with pytest.raises(PlanError, match=f"preprocessed with {field} .*odiff_plan_and_preprocess -d"):
        train_task(planned, tmp_path, "segmentation", change)
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_no_network_has_is_named(planned, tmp_path):
    with pytest.raises(PlanError, match=r"views\.axial\.diffusion\.probe_blocks: no block 'foo'"):
        train_task(planned, tmp_path, "diagnosis", 'views.axial.diffusion.probe_blocks=["foo"]')


def test_a_finished_run_without_its_latest_checkpoint_is_left_alone(planned, tmp_path):
    run = train_task(planned, tmp_path, "pretrain").results.pretrain("axial")
    run.checkpoint("latest").unlink()
    before = run.checkpoint("final").read_bytes(), run.read_metrics()
    train_task(planned, tmp_path, "pretrain")
    assert (run.checkpoint("final").read_bytes(), run.read_metrics()) == before
    with pytest.raises(CheckpointError, match="finished after 2 steps and cannot go on to 4 without checkpoint_latest"):
        train_task(planned, tmp_path, "pretrain", "pretrain.steps=4")
    assert (run.checkpoint("final").read_bytes(), run.read_metrics()) == before


def test_a_pretraining_that_goes_on_is_not_taken_for_done(planned, tmp_path):
    context = train_task(planned, tmp_path, "pretrain")
    more = replace(context, plan=replace(context.plan, pretrain=replace(context.plan.pretrain, steps=4)))
    assert is_pretrained(context, "axial", SETTINGS) and not is_pretrained(more, "axial", SETTINGS)
    assert not is_pretrained(context, "axial", replace(SETTINGS, restart=True))


def test_what_others_stand_on_is_begun_anew_only_by_its_name(planned, tmp_path):
    context = train_task(planned, tmp_path, "pretrain")
    before = context.results.pretrain("axial").checkpoint("final").stat().st_mtime_ns
    train_task(planned, tmp_path, None, pretrained="auto")
    train_task(planned, tmp_path, None, pretrained="auto", settings=replace(SETTINGS, restart=True))
    assert context.results.pretrain("axial").checkpoint("final").stat().st_mtime_ns == before
    for task in ("segmentation", "diagnosis"):
        assert (context.results.of_task("axial", task) / "fold_0.old-1").exists()


def test_an_interrupted_restart_leaves_no_earlier_fold_to_be_taken_for_done(planned, tmp_path, monkeypatch):
    for task in ("segmentation", "diagnosis"):
        train_task(planned, tmp_path, task)
        train_task(planned, tmp_path, task, fold="1")
    results = tmp_path / "Dataset001_Knee" / "cpu_demo" / "axial"
    again, slow = replace(SETTINGS, restart=True), "segmentation.learning_rate=0.00001"
    with ResultsFolder(results.parent).task("axial", "segmentation", "1").alone(), pytest.raises(TrainingError):
        train_task(planned, tmp_path, None, settings=again, fold=None)
    assert not list(results.glob("*/*.old-1")), "another process has fold 1: all stay"
    with monkeypatch.context() as patched:
        patched.setattr(segmentation, "train", interrupted)
        with pytest.raises(UsageError, match="nothing to --restart"):
            train_task(planned, tmp_path, None, settings=again, fold=None, validate_only=True)
        with pytest.raises(UsageError, match="--pretrained nowhere: neither"):
            train_task(planned, tmp_path, None, settings=again, fold=None, pretrained="nowhere")
        assert not list(results.glob("*/*.old-1")), "what cannot be trained moves nothing"
        with pytest.raises(KeyboardInterrupt):
            train_task(planned, tmp_path, None, slow, settings=again, fold=None)
    assert len(list(results.glob("*/*.old-1"))) == 4 and not (results / "diagnosis" / "fold_1").exists()
    assert not [path for path in results.glob("*/.*.lock") if "fold_0" not in path.name]
    train_task(planned, tmp_path, None, slow, fold=None)
    for fold in ("0", "1"):
        used = read_description(results / "segmentation" / f"fold_{fold}" / "checkpoint_final.safetensors")
        assert used["plan"]["segmentation"]["learning_rate"] == 1e-5
    assert len(list(results.glob("*/*.old-*"))) == 4, "none is moved again"


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("task", ["segmentation", "diagnosis"])
def test_a_run_on_arrays_made_otherwise_is_refused_though_they_were_made_anew(roots, task):
    train_task(roots, roots, task)
    for path in roots.rglob("preprocessing.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"flip_left_joints": False}))
    calls = [{}, {"validate_only": True}, *([{"view": "fused"}] if task == "diagnosis" else [])]
    for call in calls:
        with pytest.raises(CheckpointError, match="preprocessed with flip_left_joints True, the plan now"):
            train_task(roots, roots, task, "flip_left_joints=false", **call)


def test_a_trained_run_that_noted_no_cases_is_not_credited_with_those_of_now(planned, tmp_path, caplog):
    for task in ("segmentation", "diagnosis"):
        run = train_task(planned, tmp_path, task).results.task("axial", task, "0")
        run.write_config({key: value for key, value in run.read_config().items() if key != "train"})
        caplog.clear()
        train_task(planned, tmp_path, task, f"{task}.steps=4")
        assert "noted no cases" in caplog.text and "train" not in run.read_config()
        described = read_description(run.checkpoint("final"))
        assert described["step"] == 4 and "train" not in described


def test_what_is_broken_of_a_pretraining_is_begun_anew_by_its_name(planned, tmp_path):
    run = train_task(planned, tmp_path, "pretrain").results.pretrain("axial")
    final = run.checkpoint("final")
    final.write_bytes(final.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"damaged checkpoint .* odiff_train --task pretrain --restart"):
        read_checkpoint(final)
    run.config.write_text("{")
    with pytest.raises(CheckpointError, match="--task pretrain --restart"):
        run.read_config()
    task = train_task(planned, tmp_path, "segmentation").results.task("axial", "segmentation", "0")
    task.config.write_text("{")
    with pytest.raises(CheckpointError, match="odiff_train --restart"):
        task.read_config()


def test_a_fusion_of_views_that_were_trained_again_is_not_validated(planned, tmp_path):
    for view in ("sagittal", "axial"):
        train_task(planned, tmp_path, "diagnosis", view=view)
    run = train_task(planned, tmp_path, "diagnosis", "fusion.variant=concat", view="fused")
    run = run.results.task("fused", "diagnosis", "0")
    train_task(planned, tmp_path, "diagnosis", view="fused", validate_only=True)
    run.checkpoint("latest").unlink()
    with pytest.raises(CheckpointError, match=r"trained with fusion\.variant concat, now 'linear_add'"):
        train_task(planned, tmp_path, "diagnosis", "fusion.variant=linear_add", view="fused")
    train_task(planned, tmp_path, "diagnosis", "diagnosis.learning_rate=0.1", settings=replace(SETTINGS, restart=True))
    before = (run.validation / "predictions.csv").stat().st_mtime_ns
    with pytest.raises(CheckpointError, match="stands on the axial model as it was"):
        train_task(planned, tmp_path, "diagnosis", view="fused", validate_only=True)
    assert (run.validation / "predictions.csv").stat().st_mtime_ns == before


def test_validating_trains_nothing(planned, tmp_path):
    train_task(planned, tmp_path, "segmentation")
    context = train_task(planned, tmp_path, "diagnosis")
    train_task(planned, tmp_path, None, pretrained="auto", validate_only=True)
    assert not context.results.pretrain("axial").path.exists()
    with pytest.raises(UsageError, match="--validate-only: pretraining validates on nothing"):
        train_task(planned, tmp_path, "pretrain", validate_only=True)
    with pytest.raises(UsageError, match="--validate-only: probes are scored"):
        train_task(planned, tmp_path, "probe", pretrained="auto", validate_only=True)


def test_results_may_be_moved(planned, tmp_path):
    for view in ("sagittal", "axial"):
        train_task(planned, tmp_path / "a", "pretrain", view=view)
        train_task(planned, tmp_path / "a", "diagnosis", view=view, pretrained="auto")
    (tmp_path / "a").rename(tmp_path / "b")
    run = train_task(planned, tmp_path / "b", None, "fusion.variant=gated", view="fused", pretrained="auto").results
    assert run.task("fused", "diagnosis", "0").read_config()["variant"] == "gated"
    before = run.task("axial", "diagnosis", "0").checkpoint("final").stat().st_mtime_ns
    train_task(planned, tmp_path / "b", "diagnosis", pretrained="auto")
    assert run.task("axial", "diagnosis", "0").checkpoint("final").stat().st_mtime_ns == before


@pytest.mark.parametrize(("seed", "workers", "flag"), [(-1, 0, "--seed -1"), (0, -2, "--workers -2")])
def test_counts_below_zero_are_named(seed, workers, flag):
    with pytest.raises(UsageError, match=f"{flag}: must be at least 0"):
        RunSettings(seed, torch.device("cpu"), workers)
