"""Runs: resumed, restarted, refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from odiff.errors import CheckpointError, DatasetError, OdiffError, TrainingError, UsageError
from odiff.learning import diagnosis, pretrain, segmentation
from odiff.learning.asked import TrainOptions
from odiff.learning.context import open_context
from odiff.learning.run import RunSettings
from odiff.learning.stages import train_view
from odiff.network.heads import ATTENTION
from odiff.storage import file_digest
from odiff.training import loop, run_folder
from odiff.training.checkpoint import FORMAT, read_checkpoint, save_checkpoint, tensors_digest
from odiff.training.loop import LoopSettings, train
from odiff.training.precision import Precision
from odiff.training.progress import running_mean
from odiff.training.run_folder import RunFolder

SETTINGS = RunSettings(0, torch.device("cpu"), 0)
FEW = (
    "pretrain.steps=4", "pretrain.checkpoint_every=2", "segmentation.steps=4", "segmentation.checkpoint_every=2",
    "diagnosis.steps=4", "diagnosis.checkpoint_every=2", "diagnosis.head_steps=2", "diagnosis.validate_every=2",
    "segmentation.validate_every=2",
)  # fmt: skip
MODULES = {"pretrain": pretrain, "segmentation": segmentation, "diagnosis": diagnosis}


class PowerCutError(Exception):
    """Stands for whatever ends a process."""


def folder_of(results, task):
    run = "pretrain" if task == "pretrain" else f"{task}/fold_0"
    return results / "Dataset001_Knee" / "cpu_demo" / "axial" / run


def train_task(planned, results, task, settings=SETTINGS, few=FEW, fold="0", **options):
    choices = TrainOptions(task, None if task == "pretrain" else fold, **{"pretrained": "none", **options})
    return train_view(planned / "preprocessed", results, "1", "axial", choices, settings, few)


@pytest.mark.parametrize("task", ["pretrain", "segmentation", "diagnosis"])
def test_an_interrupted_and_resumed_run_ends_like_an_undisturbed_one(planned, tmp_path, monkeypatch, task):
    train_task(planned, tmp_path / "whole", task)

    def cut_at_three(state, settings, folder, batches, loss, *rest):
        def until_three(network, batch, number):
            if number == 3:
                raise PowerCutError
            return loss(network, batch, number)

        train(state, settings, folder, batches, until_three, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(MODULES[task], "train", cut_at_three)
        with pytest.raises(PowerCutError):
            train_task(planned, tmp_path / "cut", task)
    train_task(planned, tmp_path / "cut", task)
    whole, cut = (folder_of(tmp_path / name, task) for name in ("whole", "cut"))
    a, b = (read_checkpoint(folder / "checkpoint_final.safetensors") for folder in (whole, cut))
    assert a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor, b.tensors[name]), name
    lines = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (whole, cut)]
    assert [[entry["step"] for entry in one] for one in lines] == [[1, 2, 3, 4]] * 2
    assert [entry["loss"] for entry in lines[0]] == [entry["loss"] for entry in lines[1]]


def test_a_finished_run_is_left_alone_and_restart_moves_it_aside(planned, tmp_path):
    context = train_task(planned, tmp_path, "pretrain")
    final = context.results.pretrain("axial").checkpoint("final")
    before = final.stat().st_mtime_ns, final.read_bytes()
    train_task(planned, tmp_path, "pretrain")
    assert final.read_bytes() == before[1]
    train_task(planned, tmp_path, "pretrain", RunSettings(0, torch.device("cpu"), 0, restart=True))
    assert (final.parent.parent / "pretrain.old-1" / final.name).read_bytes() == before[1]


def test_a_loss_that_is_no_number_ends_the_training_and_names_the_rate(planned, tmp_path):
    few = (*FEW, "pretrain.learning_rate=1e30", "pretrain.warmup_steps=1", "pretrain.steps=4")
    with pytest.raises(TrainingError, match=r"axial pretrain: the loss is .* pretrain\.learning_rate"):
        train_task(planned, tmp_path, "pretrain", few=few)


def test_a_run_with_another_seed_is_refused_and_nothing_is_lost(planned, tmp_path):
    context = train_task(planned, tmp_path, "pretrain")
    final = context.results.pretrain("axial").checkpoint("final")
    before = final.read_bytes()
    with pytest.raises(CheckpointError, match="seed 0, now 1"):
        train_task(planned, tmp_path, "pretrain", RunSettings(1, torch.device("cpu"), 0))
    assert final.read_bytes() == before


def test_a_checkpoint_of_another_network_is_refused(planned, tmp_path):
    train_task(planned, tmp_path, "pretrain")
    wider = (*FEW, "views.axial.network.channels=[64,64,128]")
    with pytest.raises(OdiffError, match="network"):
        train_task(planned, tmp_path, "segmentation", few=wider, pretrained="auto")


def test_fine_tuning_never_starts_silently_from_scratch(planned, tmp_path):
    with pytest.raises(OdiffError, match="odiff_train Dataset001_Knee axial --task pretrain"):
        train_task(planned, tmp_path, "segmentation", pretrained="auto")
    with pytest.raises(OdiffError, match=r"nowhere\.safetensors"):
        train_task(planned, tmp_path, "segmentation", pretrained="nowhere.safetensors")


def test_segmentation_starts_from_encoder_and_decoder_of_the_pretrained_model(planned, tmp_path):
    few = (*FEW, "segmentation.learning_rate=1e-12", "segmentation.steps=1")
    context = train_task(planned, tmp_path, "pretrain", few=few)
    train_task(planned, tmp_path, "segmentation", few=few, pretrained="auto")
    given = read_checkpoint(context.results.pretrain("axial").checkpoint("final")).part("weights.")
    run = context.results.task("axial", "segmentation", "0")
    found = read_checkpoint(run.checkpoint("final")).part("weights.backbone.")
    for name, tensor in given.items():
        if not name.startswith("out."):
            assert torch.allclose(tensor, found[name], atol=1e-6), name


@pytest.mark.parametrize("fraction", [0.0, 1.5])
def test_a_label_fraction_is_a_share(planned, tmp_path, fraction):
    with pytest.raises(UsageError, match="--label-fraction"):
        train_task(planned, tmp_path, "segmentation", label_fraction=fraction)


def test_a_share_of_the_labels_has_results_of_its_own_beside_those_of_all(planned, tmp_path):
    whole = train_task(planned, tmp_path, "segmentation").results
    part = train_task(planned, tmp_path, "segmentation", label_fraction=0.5).results
    runs = [results.task("axial", "segmentation", "0") for results in (whole, part)]
    assert runs[1].path == whole.path / "axial" / "segmentation" / "fraction_0.5" / "fold_0"
    assert (whole.folds("axial", "segmentation"), part.folds("axial", "segmentation")) == (["0"], ["0"])
    series, configs = zip(*((set(run.read_config()["train"]), run.read_config()) for run in runs), strict=True)
    assert series[1] < series[0] and [one["label_fraction"] for one in configs] == [1.0, 0.5]
    assert configs[1]["patients"] == configs[0]["patients"] // 2


def test_a_share_from_which_no_diagnosis_can_be_told_is_refused(planned, tmp_path):
    with pytest.raises(DatasetError, match=r"no diagnosis is computable.*--label-fraction 0\.5"):
        train_task(planned, tmp_path, "diagnosis", label_fraction=0.5)
    with pytest.raises(UsageError, match="that is none; give 0"):
        train_task(planned, tmp_path, "diagnosis", label_fraction=0.01)
    assert not list(tmp_path.rglob("config.json"))


def test_a_restart_warns_once_of_each_diagnosis_that_cannot_be_told(planned, tmp_path, caplog):
    train_task(planned, tmp_path, "diagnosis", replace(SETTINGS, restart=True))
    warned = [record.getMessage() for record in caplog.records if "is not computable" in record.getMessage()]
    assert warned and len(warned) == len(set(warned))


def test_fold_all_trains_on_every_labelled_case_and_validates_nothing(planned, tmp_path):
    context = train_task(planned, tmp_path, "segmentation", fold="all")
    run = context.results.task("axial", "segmentation", "all")
    assert len(run.read_config()["train"]) == 4
    assert not run.validation.exists()


def test_validate_only_scores_a_trained_run_again(planned, tmp_path):
    context = train_task(planned, tmp_path, "segmentation")
    run = context.results.task("axial", "segmentation", "0")
    summary = run.validation / "summary.json"
    before = json.loads(summary.read_text())
    shutil.rmtree(run.validation)
    train_task(planned, tmp_path, "segmentation", validate_only=True)
    assert json.loads(summary.read_text()) == before


@pytest.mark.parametrize(("task", "scores"), [("segmentation", "summary.json"), ("diagnosis", "predictions.csv")])
def test_a_finished_run_that_is_trained_further_is_validated_again(planned, tmp_path, task, scores):
    run = train_task(planned, tmp_path, task).results.task("axial", task, "0")
    (run.validation / scores).write_text("of the network before")
    train_task(planned, tmp_path, task)
    assert (run.validation / scores).read_text() == "of the network before"
    train_task(planned, tmp_path, task, few=(*FEW, f"{task}.steps=6"))
    assert (run.validation / scores).read_text() != "of the network before"


@pytest.mark.parametrize("validate_only", [False, True])
@pytest.mark.parametrize(("task", "field"), [("segmentation", "labels"), ("diagnosis", "diagnoses")])
def test_a_run_for_other_labels_is_refused(planned, tmp_path, task, field, validate_only):
    shutil.copytree(planned / "preprocessed", tmp_path / "preprocessed")
    train_task(tmp_path, tmp_path, task)
    path = tmp_path / "preprocessed" / "Dataset001_Knee" / "plans.json"
    plan = json.loads(path.read_text())
    if task == "diagnosis":
        plan[field] = plan[field][::-1]
    else:
        plan[field] = {("patella" if name == "patella" else f"{name}_2"): n for name, n in plan[field].items()}
        plan[field] = {"background": 0} | {name: n for name, n in plan[field].items() if n}
    path.write_text(json.dumps(plan))
    with pytest.raises(CheckpointError, match=f"was trained for {field} .*--restart"):
        train_task(tmp_path, tmp_path, task, validate_only=validate_only)


@pytest.mark.parametrize("change", ["prediction=epsilon", "schedule=linear", "time_steps=500"])
def test_a_pretraining_of_another_process_is_refused_and_of_other_probes_is_not(planned, tmp_path, change):
    train_task(planned, tmp_path, "pretrain")
    with pytest.raises(CheckpointError, match="was trained with diffusion"):
        train_task(planned, tmp_path, "pretrain", few=(*FEW, f"views.axial.diffusion.{change}"))
    train_task(planned, tmp_path, "pretrain", few=(*FEW, "views.axial.diffusion.probe_time_steps=[50]"))


@pytest.mark.parametrize("task", ["segmentation", "diagnosis"])
def test_a_run_whose_pretraining_went_on_is_refused(planned, tmp_path, task):
    train_task(planned, tmp_path, "pretrain")
    train_task(planned, tmp_path, task, pretrained="auto")
    train_task(planned, tmp_path, task, pretrained="auto")
    train_task(planned, tmp_path, "pretrain", few=(*FEW, "pretrain.steps=5"))
    with pytest.raises(CheckpointError, match=r"stands on the pretrained model as it was, .*--restart"):
        train_task(planned, tmp_path, task, pretrained="auto")


@pytest.mark.parametrize("stored", [ATTENTION, "local"])
def test_a_diagnosis_interrupted_before_its_first_checkpoint_ends_like_an_undisturbed_one(
    planned, tmp_path, monkeypatch, stored
):
    monkeypatch.setattr(diagnosis, "choose_pooling", lambda *_: (stored, {stored: 0.9}))
    few = (*FEW, "diagnosis.pooling=auto")
    train_task(planned, tmp_path / "start", "pretrain")
    start = str(folder_of(tmp_path / "start", "pretrain") / "checkpoint_final.safetensors")
    train_task(planned, tmp_path / "whole", "diagnosis", few=few, pretrained=start)

    def cut(*_):
        raise PowerCutError

    with monkeypatch.context() as patched:
        patched.setattr(diagnosis, "train", cut)
        with pytest.raises(PowerCutError):
            train_task(planned, tmp_path / "cut", "diagnosis", few=few, pretrained=start)
    train_task(planned, tmp_path / "cut", "diagnosis", few=few, pretrained=start)
    a, b = (
        read_checkpoint(folder_of(tmp_path / name, "diagnosis") / "checkpoint_final.safetensors").tensors
        for name in ("whole", "cut")
    )
    assert a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_a_run_goes_on_in_float16_that_was_begun_in_another_type(planned, tmp_path, monkeypatch):
    train_task(planned, tmp_path, "pretrain")
    monkeypatch.setattr(loop, "precision_of", lambda _: Precision("float16", False, "for the test"))
    train_task(planned, tmp_path, "pretrain", few=(*FEW, "pretrain.steps=5"))
    latest = read_checkpoint(folder_of(tmp_path, "pretrain") / "checkpoint_latest.safetensors")
    assert latest.meta["step"] == 5 and latest.meta["scaler"]["scale"] > 1


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    network = torch.nn.Linear(1, 1)
    rest = LoopSettings(1, 1, 0.0, 0.0, 0.9, 1, 1, torch.device("cpu"), 0, 0)
    state = loop.start_state(network, {"all": list(network.parameters())}, rest)
    for score, best in [(0.9, 0.9), (float("nan"), 0.9), (0.1, 0.9), (0.95, 0.95)]:
        loop._keep_best(state, RunFolder(tmp_path), {"score": score}, {})
        assert state.best == best


def test_the_running_mean_passes_over_what_is_no_number():
    assert running_mean([1, float("inf"), 3, 5], window=2).tolist() == [1, 1, 3, 4]
    assert running_mean([float("nan"), 2], window=1)[1] == 2


def test_a_second_call_writes_no_final_model_again(planned, tmp_path):
    """Predictions know it by its digest, and what stands on it by that of its tensors, whatever it is described as."""
    train_task(planned, tmp_path, "diagnosis")
    path = folder_of(tmp_path, "diagnosis") / "checkpoint_final.safetensors"
    before = path.stat().st_mtime_ns, tensors_digest(path)
    train_task(planned, tmp_path, "diagnosis")
    assert path.stat().st_mtime_ns == before[0]
    stored = read_checkpoint(path)
    save_checkpoint(path, stored.tensors, stored.meta | {"threads": 77})
    assert tensors_digest(path) == before[1] != file_digest(path)


def test_others_may_read_a_checkpoint_as_far_as_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "a.safetensors", {"x": torch.ones(1)}, {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


def test_folds_keep_patients_apart_and_cover_every_case_once(planned, tmp_path):
    context = open_context(planned / "preprocessed", tmp_path, "1")
    patients = {case.name: case.patient for case in context.dataset.cases}
    seen = []
    for split in context.splits:
        assert not {patients[c] for c in split["train"]} & {patients[c] for c in split["val"]}
        seen += split["val"]
    assert sorted(seen) == sorted(patients)


def test_a_truncated_checkpoint_is_named(planned, tmp_path):
    context = train_task(planned, tmp_path, "pretrain")
    final = context.results.pretrain("axial").checkpoint("final")
    final.write_bytes(final.read_bytes()[:1000])
    with pytest.raises(OdiffError, match=r"checkpoint_final\.safetensors"):
        train_task(planned, tmp_path, "segmentation", pretrained="auto")


def test_a_checkpoint_of_another_format_is_refused_with_both_formats(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, {"format": FORMAT - 1, "odiff": "0.0.9"})
    with pytest.raises(CheckpointError, match=rf"odiff 0\.0\.9 in format {FORMAT - 1}, this one reads {FORMAT}"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_a_dataset_without_labels_for_the_task_says_so(planned, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(planned, root)
    path = root / "preprocessed" / "Dataset001_Knee" / "plans.json"
    plan = json.loads(path.read_text())
    plan["diagnoses"] = []
    path.write_text(json.dumps(plan))
    with pytest.raises(DatasetError, match=r"diagnosis\.labels"):
        train_task(root, tmp_path, "diagnosis")


def test_a_linear_probe_is_logged_during_pretraining_and_chooses_nothing(planned, tmp_path):
    context = train_task(
        planned, tmp_path, "pretrain", few=(*FEW, "pretrain.probe_every=2", "diagnosis.probe_cases=10")
    )
    lines = [json.loads(line) for line in context.results.pretrain("axial").metrics.read_text().splitlines()]
    assert ["probe_auroc" in line for line in lines] == [False, True, False, True]
    assert all(line["score"] == -line["watched_loss"] for line in lines if "score" in line)


@pytest.mark.parametrize("task", ["pretrain", "segmentation"])
def test_a_folder_that_another_process_trains_into_is_left_alone(planned, tmp_path, task):
    results = tmp_path / "results"
    folder = folder_of(results, task)
    with RunFolder(folder).alone():
        for settings in (SETTINGS, replace(SETTINGS, restart=True)):
            with pytest.raises(TrainingError, match=f"{re.escape(str(folder))}: another process trains"):
                train_task(planned, results, task, settings)
        assert not folder.exists()
        if task != "pretrain":
            train_task(planned, results, task, fold="1")
    train_task(planned, results, task)
    assert RunFolder(folder).is_trained()


def test_what_is_refused_before_it_begins_leaves_no_folder(planned, tmp_path):
    with pytest.raises(CheckpointError):
        train_task(planned, tmp_path, "segmentation", pretrained="auto")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_pretraining_is_found_by_many_at_once(planned, tmp_path):
    train_task(planned, tmp_path, "pretrain")
    run = RunFolder(folder_of(tmp_path, "pretrain"))
    steps = run.read_metrics()
    with run.alone():
        train_task(planned, tmp_path, "pretrain")
    assert run.read_metrics() == steps


def test_a_file_system_without_locks_is_told_and_trained_on(tmp_path, monkeypatch, caplog):
    def refuse(lock):
        raise NotImplementedError

    monkeypatch.setattr(run_folder.FileLock, "acquire", refuse)
    with RunFolder(tmp_path / "fold_0").alone():
        pass
    assert "knows no locks" in caplog.text


def test_a_folder_is_free_again_when_who_trained_into_it_was_killed(tmp_path):
    run = RunFolder(tmp_path / "fold_0")
    script = "import sys, time, pathlib; from odiff.training.run_folder import RunFolder\n"
    script += "with RunFolder(pathlib.Path(sys.argv[1])).alone(): print('in', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, str(run.path)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(TrainingError), run.alone():
            pass
        process.kill()
    with run.alone():
        pass
