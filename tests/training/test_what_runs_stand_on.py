"""What a run stands on: its cases, its arrays, its pretraining, and what of it is begun anew."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from odiff.errors import CheckpointError, PlanError, UsageError
from odiff.learning.run import RunSettings
from odiff.learning.stages import TrainOptions, is_pretrained, train_view

SETTINGS = RunSettings(0, torch.device("cpu"), 0)
FEW = (
    "pretrain.steps=2", "segmentation.steps=2", "diagnosis.steps=2", "diagnosis.head_steps=2", "fusion.steps=2",
)  # fmt: skip


def train_task(roots, results, task, *more, view="axial", pretrained="none", settings=SETTINGS, **options):
    choices = TrainOptions(task, None if task == "pretrain" else "0", pretrained, **options)
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


def test_validating_trains_nothing(planned, tmp_path):
    train_task(planned, tmp_path, "segmentation")
    context = train_task(planned, tmp_path, "diagnosis")
    train_task(planned, tmp_path, None, pretrained="auto", validate_only=True)
    assert not context.results.pretrain("axial").path.exists()
    with pytest.raises(UsageError, match="--validate-only: pretraining validates on nothing"):
        train_task(planned, tmp_path, "pretrain", validate_only=True)


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
