"""From fingerprints to plans, and plans as files."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odiff.dataset import DatasetDescription
from odiff.errors import DatasetError, OdiffError, PlanError, UsageError
from odiff.experiment_planning import pipeline, preprocess
from odiff.experiment_planning.fingerprint import ViewFingerprint
from odiff.experiment_planning.memory import pretrain_counts, training_memory_gb
from odiff.experiment_planning.mirroring import sided_labels
from odiff.experiment_planning.parallel import run_parallel
from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.experiment_planning.planner import Machine, Reasons, Tasks, plan_view
from odiff.experiment_planning.presets import read_preset
from odiff.learning.context import open_context
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


@pytest.mark.parametrize("memory", [6.0, 10.0, 14.0, 20.0, 30.0])
@pytest.mark.parametrize(("preset", "wanted"), [("default", 4), ("paper", 10)])
def test_a_step_learns_from_as_many_cases_whatever_the_memory(preset, wanted, memory):
    plan, _ = planned_view([(3.0, 0.4, 0.4)], (96.0, 154.0, 154.0), preset, Machine(memory, 4, "cpu"))
    assert plan.batch_size * plan.accumulate == wanted


@pytest.fixture
def again(planned, tmp_path):
    """Plans the phantom once more, in a copy."""
    for part in ("raw", "preprocessed"):
        shutil.copytree(planned / part, tmp_path / part)
    folder = tmp_path / "preprocessed" / "Dataset001_Knee"

    def plan(**options):
        chosen = PlanningOptions(**{"preset": "cpu_demo", "views": ("sagittal", "axial"), "processes": 1, **options})
        plan_and_preprocess(tmp_path / "raw", tmp_path / "preprocessed", "1", chosen, lambda _: None)
        return folder

    return plan


def test_the_same_command_keeps_the_plan_whatever_is_free_and_edited(again, monkeypatch):
    monkeypatch.setattr(pipeline, "this_machine", lambda *_: Machine(0.2, 4, "cpu"))
    folder = again()
    plan = json.loads((folder / "plans.json").read_text())
    plan["pretrain"]["steps"] = 77
    (folder / "plans.json").write_text(json.dumps(plan))
    again()
    assert read_plan(folder / "plans.json").pretrain.steps == 77
    monkeypatch.undo()
    again(overrides=("segmentation.steps=5",))
    again(overrides=("segmentation.steps=6",))
    assert read_plan(folder / "plans.json").segmentation.steps == 6
    first, second = (read_plan(folder / f"plans.cpu_demo{number}.json") for number in ("", "-2"))
    assert first.pretrain.steps == 77 and second.segmentation.steps == 5


def test_training_refuses_arrays_of_which_some_are_of_the_plan_before(again, monkeypatch):
    real, seen = preprocess.prepare, []

    def stop_at_the_third(*arguments):
        seen.append(1)
        if len(seen) > 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(preprocess, "prepare", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        again(overrides=("views.axial.spacing_zyx_mm=[9.0,3.0,3.0]",))
    monkeypatch.undo()
    folder = again(is_dry_run=True)
    with pytest.raises(DatasetError, match="preprocessing is not finished: run odiff_plan_and_preprocess"):
        open_context(folder.parent, folder, "1")
    again(overrides=("views.axial.spacing_zyx_mm=[9.0,3.0,3.0]",))
    assert open_context(folder.parent, folder, "1").dataset.cases


def test_a_bad_case_is_skipped_though_folds_name_it(again):
    folder = again()
    raw = folder.parent.parent / "raw" / "Dataset001_Knee"
    (raw / "imagesTr" / "knee_00001_axial.nii.gz").write_bytes(b"no image")
    again(skip_bad=True)
    context = open_context(folder.parent, folder, "1")
    names = {case.name for case in context.dataset.cases}
    assert "knee_00001" not in names and len(names) == 5
    assert {case for fold in context.splits for part in fold.values() for case in part} == names


def test_cases_in_no_fold_are_told_and_a_table_that_is_gone_is_gone(again, caplog):
    folder = again()
    splits = json.loads((folder / "splits_final.json").read_text())
    (folder / "splits_final.json").write_text(json.dumps([{"train": splits[0]["train"][:-1], "val": splits[0]["val"]}]))
    again()
    assert "1 labelled cases are in no fold" in caplog.text
    (folder.parent.parent / "raw" / "Dataset001_Knee" / "cases.csv").unlink()
    again()
    assert not (folder / "cases.csv").exists()


def test_raw_and_preprocessed_data_need_folders_of_their_own(planned):
    with pytest.raises(UsageError, match="folder of its own"):
        plan_and_preprocess(planned / "raw", planned / "raw", "1", PlanningOptions(), lambda _: None)


def test_like_takes_the_diffusion_over_and_refuses_another_grid(planned, tmp_path):
    for part in ("raw", "preprocessed"):
        shutil.copytree(planned / part, tmp_path / part)
    shutil.copytree(tmp_path / "raw" / "Dataset001_Knee", tmp_path / "raw" / "Dataset002_Other")
    source = tmp_path / "preprocessed" / "Dataset001_Knee" / "plans.json"
    plan = json.loads(source.read_text())
    plan["views"]["axial"]["diffusion"] |= {"prediction": "v", "time_steps": 900, "schedule": "linear"}
    source.write_text(json.dumps(plan))
    options = PlanningOptions(preset="cpu_demo", views=("axial",), processes=1, like="1", is_dry_run=True)

    def planned_like(**changes):
        return plan_and_preprocess(
            tmp_path / "raw", tmp_path / "preprocessed", "2", replace(options, **changes), lambda _: None
        )

    found = planned_like().views["axial"].diffusion
    assert (found.prediction, found.time_steps, found.schedule) == ("v", 900, "linear")
    with pytest.raises(PlanError, match="give --preset cpu_demo too"):
        planned_like(preset="paper")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("views.axial.normalisation.upper_percentile=150", "upper_percentile must be 0 to 100"),
        ("views.axial.normalisation.lower_percentile=99.9", "upper_percentile must be above 99.9"),
        ("views.axial.normalisation.clip=0", "clip must be above 0"),
        ("views.axial.normalisation.clip=Infinity", "finite"),
        ("pretrain.learning_rate=1e400", "pretrain.learning_rate must be a finite number"),
        ("views.axial.network.stem_zyx=[0,1,1]", "at least 1"),
        ("views.axial.network.time_channels=63", "even"),
        ("views.axial.diffusion.time_steps=50", "time_step"),
        ("segmentation.time_step=5000", "segmentation.time_step, in .* must be 0 to"),
        ("views.axial.mirror_axes=[7]", "mirror_axes must be 0 to 2"),
        ("diagnosis.batch_size=0", "diagnosis.batch_size must be at least 1"),
        ("pretrain.checkpoint_every=0", "pretrain.checkpoint_every must be at least 1"),
        ("diagnosis.dropout=1.5", r"diagnosis\.dropout must be in \[0, 1\)"),
        ("pretrain.ema_decay=3", r"pretrain\.ema_decay must be in \[0, 1\)"),
        ("segmentation.second_beta=2", r"segmentation\.second_beta must be in"),
        ("segmentation.foreground_fraction=5", "foreground_fraction must be 0 to 1"),
        ("pretrain.augmentation.probability=2", r"augmentation\.probability must be 0 to 1"),
        ("pretrain.augmentation.scale=-1", r"augmentation\.scale must be at least 0"),
        ("pretrain.weight_decay=-1", r"pretrain\.weight_decay must be at least 0"),
        ("views.axial.diffusion.mask_block_zyx=[0,4,4]", r"mask_block_zyx\[0\] must be at least 1"),
        ('name="a/b"', "plain name"),
    ],
)
def test_values_that_no_run_can_work_with_are_named(plain, change, named):
    with pytest.raises(PlanError, match=named):
        plan_from_plain(apply_overrides(plain, [change]), "plan")


@pytest.mark.parametrize("change", ["limits.batch_size=0", "network.largest_channels=16", "network.time_channels=0"])
def test_presets_that_nothing_can_be_planned_from_are_refused(change):
    with pytest.raises(PlanError, match=f"{change.partition('=')[0]} must be at least"):
        read_preset("default", [change])


@pytest.mark.parametrize(
    ("name", "is_sided"),
    [
        ("medial_meniscus", True), ("medial meniscus", True), ("MedialMeniscus", True), ("meniscus (medial)", True), ("lcl", True),
        ("LCLTear", True), ("left-femur", True), ("femur", False), ("ACL", False), ("bilateral", False), ("rightmost", False),
    ],
)  # fmt: skip
def test_labels_of_one_side_are_known_however_they_are_written(name, is_sided):
    description = DatasetDescription("K", "knee", ".nii.gz", ("axial",), {name: 1}, None, False, (), (), {}, ())
    assert sided_labels(description) == ([name] if is_sided else [])


def test_pairs_are_swapped_as_labels_and_never_as_diagnoses():
    pair, labels = (("MM", "LM"),), {"background": 0, "MM": 1, "LM": 2}
    masks = DatasetDescription("K", "knee", ".nii.gz", ("axial",), labels, None, False, pair, (), {}, ())
    assert sided_labels(masks) == []
    assert sided_labels(replace(masks, diagnoses=("MM", "LM"))) == ["MM", "LM"]


def test_a_worker_that_is_killed_is_told():
    with pytest.raises(OdiffError, match=r"a worker process was killed.*-np 1"):
        list(run_parallel(os._exit, [(9,), (9,)], 2, "test"))
