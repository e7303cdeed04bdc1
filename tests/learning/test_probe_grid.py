"""--task probe: the grid is scored inside the training patients, the choice once outside."""

import json
import shutil
from dataclasses import replace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch

from odiff.errors import CheckpointError, DatasetError, UsageError
from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.learning import probe_grid
from odiff.learning.asked import TrainOptions
from odiff.learning.clear_choice import CASES, MARGIN
from odiff.learning.context import open_context
from odiff.learning.heat_map import draw_heat_map
from odiff.learning.probe_grid import plan_of_grid
from odiff.learning.probes import choose, held_out_score
from odiff.learning.run import ORIGINS, RunSettings
from odiff.learning.stages import train_view
from odiff.learning.usual_blocks import usual_blocks
from odiff.network.diagnosis import FeatureChoice
from odiff.phantom import write_phantom_dataset
from odiff.plan import read_plan

SETTINGS = RunSettings(0, torch.device("cpu"), 0)
BLOCKS = ["encoder_0", "encoder_1", "decoder_0"]
WHOLE = (
    "pretrain.steps=1", "diagnosis.steps=1", "diagnosis.head_steps=1",
    f"views.axial.diffusion.probe_blocks={json.dumps(BLOCKS)}",
)  # fmt: skip
FEW = (*WHOLE, "views.axial.diffusion.probe_time_steps=[10,150]")


def run(root, task, fold="0", few=FEW, settings=SETTINGS, **options):
    choices = TrainOptions(task, fold, **options)
    return train_view(root / "preprocessed", root / "results", "1", "axial", choices, settings, few)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Eleven knees, planned and pretrained for one view; shared, so do not change it."""
    root = tmp_path_factory.mktemp("probe")
    write_phantom_dataset(root / "raw" / "Dataset001_Knee", joint="knee", cases=11, seed=2, test_cases=0, size="tiny")
    options = PlanningOptions(preset="cpu_demo", views=("axial",), processes=1)
    plan_and_preprocess(root / "raw", root / "preprocessed", "1", options, lambda _: None)
    run(root, "pretrain")
    return root


@pytest.fixture
def root(pretrained, tmp_path):
    return shutil.copytree(pretrained, tmp_path / "copy")


@pytest.fixture
def scored(monkeypatch):
    """The time steps that were scored, in order."""
    seen = []

    def remember(backbone, folder, items, patients, plan, time_step, device):
        seen.append(time_step)
        return original(backbone, folder, items, patients, plan, time_step, device)

    original = probe_grid.score_time_step
    monkeypatch.setattr(probe_grid, "score_time_step", remember)
    return seen


def config_of(root, task="probe", fold="0"):
    return json.loads(
        (
            root / "results" / "Dataset001_Knee" / "cpu_demo" / "axial" / task / f"fold_{fold}" / "config.json"
        ).read_text()
    )


def test_time_steps_of_an_edited_plan_join_the_grid_and_those_of_the_call_are_it(root):
    context = open_context(root / "preprocessed", root / "results", "1")
    axial = context.plan.views["axial"]
    edited = replace(axial, diffusion=replace(axial.diffusion, probe_time_steps=(20, 5000)))
    plan = replace(context, plan=replace(context.plan, views={"axial": edited}))
    assert plan_of_grid(plan, "axial").diffusion.probe_time_steps == (10, 20, 50, 100, 150, 200)
    asked = open_context(root / "preprocessed", root / "results", "1", FEW)
    assert plan_of_grid(asked, "axial").diffusion.probe_time_steps == (10, 150)


def test_the_grid_is_a_table_a_picture_and_a_choice_that_diagnosis_takes(root, scored):
    context = run(root, "probe", few=WHOLE)
    folder = context.results.task("axial", "probe", "0").path
    table = pd.read_csv(folder / "probe.csv", index_col="block")
    steps = [10, 50, 100, 150, 200]
    assert list(table.columns) == [f"t={step}" for step in steps] and scored == steps
    assert list(table.index) == BLOCKS
    assert table.notna().all(axis=None) and table.stack().between(0, 1).all()
    config = config_of(root)
    assert config["scores"] == {str(step): table[f"t={step}"].to_dict() for step in steps}
    assert config["held_out"]["cases"] == len(context.cases_of_fold("0", "val"))
    assert (folder / "probe.png").stat().st_size > 1000
    config["features"] = {"time_step": 150, "blocks": ["decoder_0"]}
    (folder / "config.json").write_text(json.dumps(config))
    run(root, "diagnosis")
    taken = config_of(root, "diagnosis")
    assert taken["features"] == config["features"] | {"pooling": "attention"}
    assert taken["features_from"] == "probe/fold_0"
    assert taken["probes"]["t=150 decoder_0"] == table.loc["decoder_0", "t=150"]


def test_diagnosis_takes_no_choice_that_saw_other_patients_or_another_model(root):
    run(root, "probe")
    path = root / "results/Dataset001_Knee/cpu_demo/axial/probe/fold_0/config.json"
    config = config_of(root)
    for field, value in (("train", config["train"][1:]), (ORIGINS, {"pretrained": "0" * 64})):
        path.write_text(json.dumps({**config, field: value, "features": {"time_step": 150, "blocks": ["decoder_0"]}}))
        run(root, "diagnosis", settings=replace(SETTINGS, restart=True))
        taken = config_of(root, "diagnosis")
        assert taken["features_from"] == "this run" and taken["features"]["time_step"] != 150


def test_validation_patients_change_the_honest_figure_and_nothing_else(root, monkeypatch):
    run(root, "probe")
    before = config_of(root)
    original = probe_grid.probe_fold

    def with_flipped_labels(context, view, fold, training, validation, *rest):
        known = [{k: None if v is None else 1 - v for k, v in case.diagnoses.items()} for case in validation]
        validation = [replace(case, diagnoses=labels) for case, labels in zip(validation, known, strict=True)]
        return original(context, view, fold, training, validation, *rest)

    monkeypatch.setattr("odiff.learning.fine_tuning_stage.probe_fold", with_flipped_labels)
    run(root, "probe", settings=replace(SETTINGS, restart=True))
    after = config_of(root)
    assert after["scores"] == before["scores"] and after["features"] == before["features"]
    assert after["held_out"]["auroc"] == pytest.approx(1 - before["held_out"]["auroc"], abs=2e-4)


def test_an_interrupted_grid_goes_on_and_a_finished_one_is_not_scored_again(root, scored, monkeypatch):
    counted = probe_grid.score_time_step

    def cut(*arguments):
        if arguments[5] == 150:
            raise KeyboardInterrupt
        return counted(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(probe_grid, "score_time_step", cut)
        with pytest.raises(KeyboardInterrupt):
            run(root, "probe")
    run(root, "probe")
    assert scored == [10, 150]
    first = config_of(root)
    run(root, "probe")
    assert scored == [10, 150] and config_of(root) == first
    run(root, "probe", settings=replace(SETTINGS, restart=True))
    assert scored == [10, 150] * 2 and config_of(root) == first
    assert (root / "results/Dataset001_Knee/cpu_demo/axial/probe/fold_0.old-1/probe.csv").exists()


def test_another_pretrained_model_is_never_mixed_in(root):
    run(root, "probe")
    run(root, "pretrain", few=(*FEW, "pretrain.steps=2"), settings=replace(SETTINGS, restart=True))
    with pytest.raises(CheckpointError, match=r"stands on the pretrained model as it was.*--restart"):
        run(root, "probe")


def test_time_steps_may_be_set_and_fold_all_has_no_honest_figure(root, scored):
    run(root, "probe", fold="all", few=(*WHOLE, "views.axial.diffusion.probe_time_steps=[5,20]"))
    assert scored == [5, 20]
    assert config_of(root, fold="all")["held_out"] == {"auroc": None, "cases": 0}
    assert config_of(root, fold="all")["plan"]["views"]["axial"]["diffusion"]["probe_time_steps"] == [5, 20]


def test_too_few_patients_and_models_without_pretraining_are_refused(root, planned, tmp_path):
    with pytest.raises(DatasetError, match="probes need 6"):
        run(root, "probe", label_fraction=0.5)
    with pytest.raises(UsageError, match="read a pretrained model"):
        run(root, "probe", pretrained="none")
    with pytest.raises(UsageError, match="network for diagnosis"):
        run(root, "probe", baseline="resnet18")
    with pytest.raises(CheckpointError, match="--task pretrain"):
        train_view(planned / "preprocessed", tmp_path, "1", "axial", TrainOptions("probe", "all"), SETTINGS, FEW)


def test_a_choice_must_beat_the_default_blocks_clearly(pretrained):
    plan = read_plan(pretrained / "preprocessed" / "Dataset001_Knee" / "plans.json").views["axial"]
    plan = replace(plan, diffusion=replace(plan.diffusion, probe_time_steps=(10, 50)))
    cells = {(step, block): 0.7 for step in (10, 50) for block in plan.diffusion.probe_blocks}
    usual = usual_blocks(plan)
    little = cells | {(50, "mid"): 0.7 + MARGIN, (50, "decoder_0"): 0.7 + MARGIN / 2}
    assert choose(little, plan, CASES).blocks == usual
    clear = cells | {(50, "mid"): 0.7 + 2 * MARGIN, (50, "decoder_0"): 0.7 + MARGIN}
    assert choose(clear, plan, CASES) == FeatureChoice(50, ("mid", "decoder_0"))
    assert choose(clear, plan, CASES // 4) == FeatureChoice(10, usual), "a quarter of the cases, twice the margin"
    assert choose({}, plan, CASES) == FeatureChoice(10, usual)


def test_another_time_step_must_be_clearly_better_too(pretrained):
    plan = read_plan(pretrained / "preprocessed" / "Dataset001_Knee" / "plans.json").views["axial"]
    plan = replace(plan, diffusion=replace(plan.diffusion, probe_time_steps=(10, 50)))
    usual = usual_blocks(plan)
    for gain, step in ((MARGIN / 2, 10), (2 * MARGIN, 50)):
        cells = {(10, block): 0.7 for block in plan.diffusion.probe_blocks}
        cells |= {(50, block): 0.7 + gain if block in usual else 0.7 for block in plan.diffusion.probe_blocks}
        assert choose(cells, plan, CASES) == FeatureChoice(step, usual)


def test_held_out_probes_find_what_was_planted_and_nothing_in_noise():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (400, 2)).astype(float)
    features = rng.normal(size=(400, 12))
    features[:, 3] += 4 * truth[:, 0]
    features[:, 4] -= 4 * truth[:, 1]
    truth[::7, 0] = np.nan
    known, new = slice(0, 300), slice(300, 400)
    assert held_out_score(features[known], truth[known], features[new], truth[new]) > 0.97
    noise = rng.normal(size=(400, 12))
    assert abs(held_out_score(noise[known], truth[known], noise[new], truth[new]) - 0.5) < 0.12
    assert held_out_score(noise[known], np.zeros((300, 2)), noise[new], truth[new]) is None


def test_marked_cells_are_framed_in_red(tmp_path):
    values = np.array([[0.5, np.nan], [0.9, 0.7]])
    for name, marked in (("plain", ()), ("marked", ((1, 0),))):
        draw_heat_map(tmp_path / f"{name}.png", values, ["a", "b"], ["x", "y"], "title", (0.5, 1.0), marked)
    plain, marked = (matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3] for name in ("plain", "marked"))
    red = [(one[..., 0] > 0.9) & (one[..., 1:] < 0.1).all(axis=-1) for one in (plain, marked)]
    assert red[0].sum() == 0 and red[1].sum() > 50
