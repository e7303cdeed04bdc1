"""odiff_evaluate -d alone: the best variant, the largest-component step, and the command to predict with."""

import json
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest

from odiff.data.store import open_array
from odiff.errors import CheckpointError
from odiff.inference import command as predict_command
from odiff.inference.evaluate.best import choose, predict_commands
from odiff.inference.evaluate.command import main
from odiff.inference.evaluate.cross_validation import Variant, collect_variants, labels_to_clean, read_prepared
from odiff.inference.evaluate.run import decide_postprocessing
from odiff.inference.evaluate.tables import Evaluation
from odiff.inference.postprocessing import decided_before, read_postprocessing, write_postprocessing
from odiff.learning.pretrained import ResultsFolder
from odiff.metrics.segmentation import dice
from odiff.plan import read_plan
from odiff.training.checkpoint import save_checkpoint

from .conftest import call_for


def test_the_best_variant_of_each_task_is_named_with_its_lead(evaluated):
    _, summary, printed = evaluated
    segmentation, diagnosis = summary["choices"]["segmentation"], summary["choices"]["diagnosis"]
    assert segmentation["best"] == "better/axial"
    assert diagnosis["best"] == "better/fused (concat)"
    assert segmentation["to_runner_up"]["difference"] > 0
    assert diagnosis["to_runner_up"]["interval"][1] > 0
    assert [one["variant"] for one in segmentation["ranked"]] == ["better/axial", "cpu_demo/axial"]
    assert diagnosis["ranked"][0]["macro_auroc"] == 1
    assert "best: better/fused (concat), ahead of" in printed


def test_a_baseline_is_a_variant_of_its_own_though_it_has_the_name_of_its_plan(evaluated, tmp_path):
    roots, _, _ = evaluated
    results = tmp_path / "Dataset001_Knee"
    for name in ("cpu_demo", "cpu_demo_unet3d"):
        shutil.copytree(roots / "results" / "Dataset001_Knee" / "cpu_demo", results / name)
    prepared = read_prepared(roots / "preprocessed" / "Dataset001_Knee")
    variants, _ = collect_variants(results, prepared, 1)
    names = [one.name for one in variants]
    assert len(names) == len(set(names)) and "cpu_demo_unet3d/axial" in names
    commands = predict_commands({"segmentation": choose(variants[2:], "segmentation", 10)}, "Dataset001_Knee", None)
    assert "-p cpu_demo_unet3d" in commands[0]


def test_a_damaged_plan_and_a_stale_fusion_are_passed_over_and_the_others_scored(crossed):
    prepared = read_prepared(crossed / "preprocessed" / "Dataset001_Knee")
    results = crossed / "results" / "Dataset001_Knee"
    (results / "cpu_demo" / "axial" / "segmentation" / "fold_1" / "checkpoint_final.safetensors").write_bytes(b"half")
    config = results / "better" / "fused" / "diagnosis" / "fold_0" / "config.json"
    stale = {"fused_views": ["axial"], "origins_sha256": {"axial": "0" * 64}}
    config.write_text(json.dumps(json.loads(config.read_text()) | stale))
    variants, notes = collect_variants(results, prepared, 1)
    assert [one.name for one in variants] == ["better/axial", "cpu_demo/fused (concat)"]
    assert len(notes) == 2 and all(note.startswith("passed over: ") for note in notes)
    assert "stands on the axial model as it was" in notes[0] and "damaged checkpoint" in notes[1]
    write_postprocessing(results / "cpu_demo", {"axial": ("femur",), "gone": ("tibia",)})
    assert main(call_for(crossed)) == 0
    kept = {name: json.loads((results / name / "postprocessing.json").read_text()) for name in ("cpu_demo", "better")}
    assert kept == {"cpu_demo": {"axial": ["femur"], "gone": ["tibia"]}, "better": {"axial": ["femur"]}}
    for path in results.glob("*/*/*/fold_*/checkpoint_final.safetensors"):
        path.write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"no validation predictions .* passed over: .*damaged"):
        collect_variants(results, prepared, 1)


def test_every_fold_is_scored_out_of_fold_and_can_be_compared_later(evaluated):
    roots, _, _ = evaluated
    folder = roots / "results" / "Dataset001_Knee" / "evaluation"
    cases = pd.read_csv(folder / "cpu_demo" / "axial" / "segmentation_cases.csv")
    assert cases["series"].nunique() == 4, "the masked cases of both folds"
    assert pd.read_csv(folder / "cpu_demo" / "fused" / "diagnosis_cases.csv")["case"].nunique() == 6
    assert {row for row in pd.read_csv(folder / "scores.csv")["variant"]} == {
        "better/axial", "better/fused (concat)", "cpu_demo/axial", "cpu_demo/fused (concat)",
    }  # fmt: skip
    assert (
        main(["--compare", str(folder / "cpu_demo" / "axial"), str(folder / "better" / "axial"), "--bootstrap", "20"])
        == 0
    )


def test_largest_components_are_kept_exactly_where_they_raise_dice(evaluated):
    """A speck of femur far away costs Dice in every mask; no other structure has one."""
    roots, summary, printed = evaluated
    folder = roots / "results" / "Dataset001_Knee" / "better"
    assert json.loads((folder / "postprocessing.json").read_text()) == {"axial": ["femur"]}
    decided = summary["postprocessing"]["better"]["axial"]
    plan = read_plan(roots / "preprocessed" / "Dataset001_Knee" / "plans.json")
    before = []
    for path in sorted((roots / "preprocessed" / "Dataset001_Knee" / "better_axial").glob("*_truth.b2nd")):
        truth = open_array(path)[:]
        found = truth.copy()
        found[0, :2, :2] = 1
        before.append(dice(found == plan.labels["femur"], truth == plan.labels["femur"]))
    assert decided["femur"]["dice"] == pytest.approx(np.mean(before))
    assert decided["femur"]["largest_component_dice"] == 1
    assert decided["femur"]["is_kept"] and not decided["tibia"]["is_kept"]
    assert "better/axial: femur" in printed
    assert read_postprocessing(folder, plan) == {"axial": ("femur",)}


def test_what_was_decided_of_a_view_that_is_passed_over_stays(tmp_path):
    run = ResultsFolder(tmp_path).task("axial", "segmentation", "0")
    save_checkpoint(run.checkpoint("final"), {}, {})
    write_postprocessing(tmp_path, {"axial": ("femur",), "coronal": ("tibia",)})
    gain = {"femur": (0.5, 0.5), "tibia": (0.5, 0.6)}
    variant = Variant("plan", "sagittal", tmp_path, Evaluation(None, None), gain, None)
    decide_postprocessing([variant])
    assert decided_before(tmp_path) == {"axial": ("femur",), "sagittal": ("tibia",)}, "coronal has no model any more"
    (tmp_path / "postprocessing.json").write_text("[")
    assert decided_before(tmp_path) == {}


def test_equal_dice_is_no_improvement():
    assert labels_to_clean({"same": (0.7, 0.7), "worse": (0.7, 0.6), "better": (0.7, 0.8)}) == ("better",)


def test_the_printed_command_parses_and_names_the_best_models(evaluated):
    roots, summary, printed = evaluated
    (command,) = summary["commands"]
    assert f"  {command}\n" in printed
    name, *arguments = shlex.split(command)
    found = predict_command._parser().parse_args(arguments)
    assert (name, found.plan, found.diagnose_by, found.dataset) == (
        "odiff_predict",
        "better",
        "fused",
        "Dataset001_Knee",
    )
    chosen = predict_command.model_folder(found.results, found.dataset, found.plan)
    assert chosen == roots / "results" / "Dataset001_Knee" / "better"


def test_tasks_that_are_best_in_different_plans_get_a_command_each(crossed):
    for fold in (0, 1):
        run = crossed / "results" / "Dataset001_Knee" / "better" / "fused" / "diagnosis" / f"fold_{fold}"
        target = crossed / "results" / "Dataset001_Knee" / "cpu_demo" / "fused" / "diagnosis" / f"fold_{fold}"
        (run / "validation" / "predictions.csv").replace(target / "validation" / "predictions.csv")
    assert main(call_for(crossed)) == 0
    summary = json.loads((crossed / "results" / "Dataset001_Knee" / "evaluation" / "summary.json").read_text())
    better, demo = (shlex.split(command) for command in summary["commands"])
    assert better[better.index("-p") + 1] == "better" and better[better.index("--task") + 1] == "segmentation"
    assert demo[demo.index("-p") + 1] == "cpu_demo" and demo[demo.index("--diagnose-by") + 1] == "fused"
    assert better[better.index("-o") + 1] != demo[demo.index("-o") + 1]


def test_a_late_fusion_that_was_not_validated_is_told(crossed, caplog):
    folder = crossed / "results" / "Dataset001_Knee" / "cpu_demo" / "fused" / "tabular"
    for fold in (0, 1):
        (folder / f"fold_{fold}").mkdir(parents=True)
        (folder / f"fold_{fold}" / "checkpoint_final.safetensors").write_bytes(b"")
        (folder / f"fold_{fold}" / "config.json").write_text("{}")
    good = folder.parents[2] / "better" / "fused" / "diagnosis" / "fold_0" / "validation"
    shutil.copytree(good, folder / "fold_0" / "validation")
    assert main(call_for(crossed)) == 0
    told = [record.getMessage() for record in caplog.records if "was not validated" in record.getMessage()]
    assert len(told) == 1 and f"{folder / 'fold_1'}" in told[0] and "--fold 1 --validate-only" in told[0]


def test_a_fusion_that_reads_the_case_table_is_scored_with_it_as_it_predicts(crossed):
    """The plan's noisy fusion, beside a late fusion that is right about every case but one, which has no row in the table."""
    folder = crossed / "results" / "Dataset001_Knee" / "cpu_demo"
    index = crossed / "preprocessed" / "Dataset001_Knee" / "index.json"
    content = json.loads(index.read_text())
    without = content["cases"][0]
    without["tabular"] = dict.fromkeys(without["tabular"])
    index.write_text(json.dumps(content))
    for fold in (0, 1):
        run = folder / "fused" / "tabular" / f"fold_{fold}"
        good = folder.parent / "better" / "fused" / "diagnosis" / f"fold_{fold}" / "validation"
        shutil.copytree(good, run / "validation")
        (run / "checkpoint_final.safetensors").write_bytes(b"")
        (run / "config.json").write_text("{}")
    assert main(call_for(crossed)) == 0
    scored = pd.read_csv(folder.parent / "evaluation" / "cpu_demo" / "fused" / "diagnosis_cases.csv")
    noisy = pd.concat(
        pd.read_csv(folder / "fused" / "diagnosis" / f"fold_{fold}" / "validation" / "predictions.csv").set_index(
            "case"
        )
        for fold in (0, 1)
    )
    assert len(scored) == len(noisy) * len(without["diagnoses"])
    for row in scored.itertuples():
        expected = noisy.loc[row.case, row.label] if row.case == without["name"] else 0.1 + 0.8 * row.truth
        assert row.probability == pytest.approx(expected, abs=1e-5)
    summary = json.loads((folder.parent / "evaluation" / "summary.json").read_text())
    assert "cpu_demo/fused (concat with the table)" in {v["variant"] for v in summary["choices"]["diagnosis"]["ranked"]}


def test_a_variant_of_too_few_patients_is_listed_and_not_ranked(crossed):
    folder = crossed / "results" / "Dataset001_Knee" / "better" / "fused" / "diagnosis"
    table = folder / "fold_0" / "validation" / "predictions.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:3]))
    (folder / "fold_1" / "validation" / "predictions.csv").unlink()
    assert main(call_for(crossed)) == 0
    found = json.loads((crossed / "results" / "Dataset001_Knee" / "evaluation" / "summary.json").read_text())
    ranked = {one["variant"]: one for one in found["choices"]["diagnosis"]["ranked"]}
    assert ranked["better/fused (concat)"]["macro_auroc"] is None
    assert "2 of 6 patients" in ranked["better/fused (concat)"]["note"]
    assert found["choices"]["diagnosis"]["best"] != "better/fused (concat)"
    assert found["choices"]["diagnosis"]["patients"] == 6


def test_a_case_validated_by_two_folds_is_an_error(crossed, capsys):
    folder = crossed / "results" / "Dataset001_Knee" / "better" / "fused" / "diagnosis"
    table = folder / "fold_0" / "validation" / "predictions.csv"
    (folder / "fold_1" / "validation" / "predictions.csv").write_text(table.read_text())
    assert main(call_for(crossed)) == 2
    assert "was validated twice" in capsys.readouterr().err


def test_without_validation_predictions_it_names_odiff_train(planned, tmp_path, capsys):
    (tmp_path / "results" / "Dataset001_Knee" / "default").mkdir(parents=True)
    arguments = ["-d", "1", "--preprocessed", str(planned / "preprocessed"), "--results", str(tmp_path / "results")]
    assert main(arguments) == 2
    assert "odiff_train Dataset001_Knee VIEW" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"axial": ["femr"]}', "did you mean 'femur'"), ('{"axia": []}', "did you mean 'axial'"),
        ('{"axial": ["background"]}', "unknown label 'background'"), ('["femur"]', "postprocessing.json"),
        ('{"axial": "femur"}', "expected a list"), ("{", "broken JSON"),
    ],
)  # fmt: skip
def test_a_broken_postprocessing_file_is_named(planned, tmp_path, content, named):
    plan = read_plan(planned / "preprocessed" / "Dataset001_Knee" / "plans.json")
    (tmp_path / "postprocessing.json").write_text(content)
    with pytest.raises(CheckpointError, match=named):
        read_postprocessing(tmp_path, plan)
