"""Which plan predictions go by: that of each model, not of whatever run lies beside it."""

from dataclasses import replace

import pytest

from odiff.errors import CheckpointError
from odiff.inference.trained_plans import trained_plans
from odiff.plan import read_plan, to_plain
from odiff.training.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def plan(planned):
    return read_plan(planned / "preprocessed" / "Dataset001_Knee" / "plans.json")


@pytest.fixture
def saved(tmp_path):
    """Writes a checkpoint of a plan."""

    def save(name, plan):
        save_checkpoint(tmp_path / f"{name}.safetensors", {}, {"plan": to_plain(plan)})
        return tmp_path / f"{name}.safetensors"

    return save


def at_step(plan, step):
    return replace(plan, segmentation=replace(plan.segmentation, time_step=step))


def test_each_view_segments_as_its_own_plan_says(plan, saved):
    runs = {view: {"0": saved(view, at_step(plan, step))} for view, step in (("sagittal", 7), ("axial", 9))}
    found = trained_plans(runs, {})
    assert {view: one.segmentation.time_step for view, one in found.segmentation.items()} == {"sagittal": 7, "axial": 9}
    assert list(found.plan.views) == ["sagittal", "axial"]


def test_names_come_from_the_runs_that_answer_by_them(plan, saved):
    masks = replace(plan, diagnoses=())
    labels = replace(plan, labels={}, left_right=(), views={"sagittal": plan.views["sagittal"]})
    found = trained_plans({"axial": {"0": saved("masks", masks)}}, {"sagittal": {"0": saved("labels", labels)}}).plan
    assert (
        found.labels == plan.labels and found.diagnoses == plan.diagnoses and set(found.views) == {"axial", "sagittal"}
    )


@pytest.mark.parametrize("views", [("axial", "axial"), ("axial", "sagittal")])
def test_networks_that_answer_otherwise_are_not_used_together(plan, saved, views):
    files = [saved("first", plan), saved("second", replace(plan, diagnoses=plan.diagnoses[::-1]))]
    runs = {}
    for fold, (view, file) in enumerate(zip(views, files, strict=True)):
        runs.setdefault(view, {})[str(fold)] = file
    with pytest.raises(CheckpointError, match=r"first.*was trained with diagnoses .*second.* with .*--restart"):
        trained_plans({}, runs)


def test_folds_of_one_view_see_volumes_alike(plan, saved):
    with pytest.raises(CheckpointError, match=r"segmentation\.time_step 1, .* with 2"):
        trained_plans({"axial": {str(step): saved(step, at_step(plan, step)) for step in (1, 2)}}, {})
    finer = {**plan.views, "axial": replace(plan.views["axial"], spacing_zyx_mm=(9.0, 9.0, 9.0))}
    with pytest.raises(CheckpointError, match="spacing_zyx_mm"):
        trained_plans({}, {"axial": {"0": saved("a", plan), "1": saved("b", replace(plan, views=finer))}})
