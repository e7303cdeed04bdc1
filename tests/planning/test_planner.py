"""From fingerprints to plans, and plans as files."""

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odiff.errors import OdiffError, PlanError, UsageError
from odiff.experiment_planning.fingerprint import ViewFingerprint
from odiff.experiment_planning.memory import pretrain_counts, training_memory_gb
from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.experiment_planning.planner import Machine, Reasons, Tasks, plan_view
from odiff.experiment_planning.presets import read_preset
from odiff.network.unet import UNet
from odiff.plan import plan_from_plain, read_plan, to_plain
from odiff.plan.overrides import apply_overrides

LAPTOP = Machine(8.0, 2, "cpu")


def seen(spacings, extent, view="sagittal"):
    return ViewFingerprint(view, len(spacings), 0, tuple(spacings), (), (extent,), 1.0, {}, {}, {})


def planned_view(spacings, extent, preset="default", machine=LAPTOP, classes=0):
    reasons = Reasons("sagittal", [])
    plan = plan_view(
        seen(spacings, extent), Tasks(classes, diagnosis_batch=4), read_preset(preset), machine, (), reasons
    )
    return plan, {decision.field.removeprefix("views.sagittal."): decision for decision in reasons.found}


def test_the_recorded_reason_of_the_stem_holds_the_limits_of_its_preset():
    for preset, words in (("default", ("within 1x", "24 remain")), ("cpu_demo", ("within 1.6x", "14 remain"))):
        _, reasons = planned_view([(6.0, 2.2, 2.2)], (96.0, 140.0, 140.0), preset)
        assert all(word in reasons["network.stem_zyx"].rule for word in words)


def bottleneck_of(plan):
    sizes = plan.patch_zyx
    for by in (plan.network.stem_zyx, *plan.network.strides_zyx):
        sizes = tuple(n // s for n, s in zip(sizes, by, strict=True))
    return sizes


@pytest.mark.parametrize("preset", ["default", "cpu_demo"])
def test_the_thirty_slice_knee_keeps_four_slices_at_the_bottleneck(preset):
    plan, reasons = planned_view([(3.5, 0.4, 0.4)], (105.0, 150.0, 150.0), preset)
    assert bottleneck_of(plan)[0] >= 4
    assert {"spacing_zyx_mm", "patch_zyx", "network.stem_zyx", "network.strides_zyx", "batch_size"} <= set(reasons)
    assert all(decision.rule and decision.source for decision in reasons.values())


def test_spacing_is_the_median_and_the_tenth_percentile_of_thick_slices():
    spacings = [(3.0, 0.5, 0.5), (4.0, 0.5, 0.6), (5.0, 0.7, 0.5)]
    plan, _ = planned_view(spacings, (60.0, 80.0, 80.0))
    assert plan.spacing_zyx_mm == (pytest.approx(3.2), 0.5, 0.5)
    plan, _ = planned_view([(1.0, 0.5, 0.5), (1.4, 0.5, 0.5), (2.0, 0.5, 0.5)], (40.0, 40.0, 40.0))
    assert plan.spacing_zyx_mm[0] == pytest.approx(1.4)


def test_isotropic_volumes_stay_isotropic_when_they_are_coarsened():
    plan, reasons = planned_view([(1.5, 1.5, 1.5)], (130.0, 180.0, 240.0))
    assert len({round(s, 3) for s in plan.spacing_zyx_mm}) == 1
    assert plan.spacing_zyx_mm[0] > 1.5
    assert "coarsened" in reasons["spacing_zyx_mm"].rule


def test_less_memory_means_a_smaller_batch_then_a_smaller_patch_and_at_last_an_error():
    knee = ([(3.5, 0.4, 0.4)], (105.0, 150.0, 150.0))
    roomy, _ = planned_view(*knee, classes=12, machine=Machine(64.0, 2, "cpu"))
    tight, _ = planned_view(*knee, classes=12, machine=Machine(2.0, 2, "cpu"))
    assert roomy.batch_size * roomy.accumulate == 4
    assert tight.batch_size < roomy.batch_size and tight.batch_size * tight.accumulate >= 4
    assert tight.estimated_memory_gb <= 2.0
    with pytest.raises(PlanError, match="--memory-gb"):
        planned_view(*knee, classes=12, machine=Machine(0.1, 2, "cpu"))


@settings(max_examples=60)
@given(
    st.tuples(st.floats(0.4, 12), st.floats(0.25, 2.5)), st.tuples(st.floats(15, 200), st.floats(30, 320)),
    st.sampled_from(["default", "cpu_demo"]), st.floats(1.5, 40),
)  # fmt: skip
def test_every_plan_fits_its_memory_and_its_network(spacing, extent, preset, memory):
    try:
        plan, _ = planned_view(
            [(spacing[0], spacing[1], spacing[1])], (extent[0], extent[1], extent[1]), preset,
            Machine(memory, 2, "cpu"), 12,
        )  # fmt: skip
    except PlanError as error:
        assert "--memory-gb" in str(error)
        return
    assert plan.estimated_memory_gb <= memory + 0.01
    assert all(size > 0 for size in bottleneck_of(plan))
    sizes = plan.patch_zyx
    for by in (plan.network.stem_zyx, *plan.network.strides_zyx):
        assert all(n % s == 0 for n, s in zip(sizes, by, strict=True))
        sizes = tuple(n // s for n, s in zip(sizes, by, strict=True))


def test_what_autograd_keeps_is_counted_as_on_a_real_network():
    plan, _ = planned_view([(3.5, 0.4, 0.4)], (105.0, 150.0, 150.0), "cpu_demo")
    network, patch = UNet(plan.network), (8, 32, 32)
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = network(torch.zeros(1, 1, *patch), torch.zeros(1))
    weights = {parameter.data_ptr() for parameter in network.parameters()}
    counts = pretrain_counts(plan.network, patch)
    assert result.requires_grad
    assert counts.kept == sum(size for place, size in kept.items() if place not in weights)
    assert counts.parameters == sum(parameter.numel() for parameter in network.parameters())


def test_memory_grows_with_batch_patch_and_precision():
    plan, _ = planned_view([(3.5, 0.4, 0.4)], (105.0, 150.0, 150.0))
    small = training_memory_gb(plan.network, plan.patch_zyx, 1, 12, 2)
    assert small < training_memory_gb(plan.network, plan.patch_zyx, 2, 12, 2)
    assert small < training_memory_gb(plan.network, plan.patch_zyx, 1, 12, 4)
    assert small > training_memory_gb(plan.network, plan.patch_zyx, 1, 0, 2)


def test_a_dry_run_shows_the_plan_and_writes_none(planned, tmp_path):
    shown = []
    options = PlanningOptions(preset="cpu_demo", views=("axial",), is_dry_run=True, processes=1)
    plan_and_preprocess(planned / "raw", tmp_path, "1", options, shown.append)
    assert "patch" in "".join(shown)
    assert not list(tmp_path.rglob("plans*.json")) and not list(tmp_path.rglob("*.b2nd"))


def test_like_takes_the_network_of_another_dataset(planned, tmp_path):
    root = tmp_path / "roots"
    shutil.copytree(planned, root)
    shutil.copytree(root / "raw" / "Dataset001_Knee", root / "raw" / "Dataset002_Other")
    options = PlanningOptions(preset="default", views=("axial",), like="1", is_dry_run=True, processes=1)
    plan = plan_and_preprocess(root / "raw", root / "preprocessed", "2", options, lambda _: None)
    first = read_plan(root / "preprocessed" / "Dataset001_Knee" / "plans.json")
    assert plan.views["axial"].network == first.views["axial"].network
    assert plan.views["axial"].normalisation == first.views["axial"].normalisation
    assert plan.planned_like == "Dataset001_Knee"


@pytest.fixture(scope="module")
def plain(planned):
    return json.loads((planned / "preprocessed" / "Dataset001_Knee" / "plans.json").read_text())


def test_plans_survive_the_way_to_json_and_back(plain):
    plan = plan_from_plain(plain, "here")
    assert plan_from_plain(json.loads(json.dumps(to_plain(plan))), "here") == plan


@pytest.mark.parametrize(
    ("content", "named"),
    [("{", "line 1"), ("[]", "schema_version"), ('{"schema_version": 999}', "schema_version is 999")],
)
def test_broken_and_foreign_plans_name_the_file_and_the_command(tmp_path, content, named):
    path = tmp_path / "plans.json"
    path.write_text(content)
    with pytest.raises(PlanError, match=named) as caught:
        read_plan(path)
    assert str(path) in str(caught.value) and "odiff_plan_and_preprocess" in str(caught.value)


def test_overrides_change_one_field_and_refuse_unknown_ones(plain):
    changed = apply_overrides(plain, ["pretrain.steps=7", "views.axial.diffusion.schedule=linear"])
    assert changed["pretrain"]["steps"] == 7
    assert plan_from_plain(changed, "x").views["axial"].diffusion.schedule == "linear"
    assert plain["pretrain"]["steps"] != 7
    for wrong, named in (
        ("pretrain.stepz=7", "did you mean 'steps'"), ("pretrain", "FIELD=VALUE"), ("pretrain.steps.x=1", "single value"),
        ("=3", "FIELD=VALUE"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=named):
            apply_overrides(plain, [wrong])


@settings(max_examples=200)
@given(data=st.data())
def test_any_damage_to_a_plan_is_an_error_of_the_user(plain, data):
    """One leaf replaced by anything JSON can hold: a plan or an `OdiffError`, never another exception."""
    content = json.loads(json.dumps(plain))
    place, parent = content, content
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        parent, place = place, place[key]
    scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=4)
    parent[key] = data.draw(
        scalars | st.lists(scalars, max_size=4) | st.dictionaries(st.text(max_size=3), scalars, max_size=2)
    )
    try:
        plan_from_plain(content, "plans.json")
    except OdiffError as error:
        assert str(error)
