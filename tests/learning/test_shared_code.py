"""The shared code: what views agree on is found without labels, and diagnoses are read from it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.linear_model import LogisticRegression

from odiff.data.index import PreparedCase, PreparedSeries
from odiff.data.recipe import write_recipe
from odiff.data.sliding_window import AIR
from odiff.data.store import open_array
from odiff.errors import CheckpointError, DatasetError, UsageError
from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.geometry import read_volume
from odiff.inference.predictor import CaseImages, Predictor
from odiff.learning import code_volumes, shared_code
from odiff.learning.agreement import (
    agreeing_directions,
    choose_components,
    learn_maps,
    weighted_maps,
    whiten,
    whiten_views,
)
from odiff.learning.asked import TrainOptions
from odiff.learning.code_diagnosis import (
    code_shares,
    find_code,
    fit_regressions,
    held_out_mix,
    match_spread,
    prepared_rows,
)
from odiff.learning.code_model import build_code, code_rows, one_tile
from odiff.learning.context import open_context
from odiff.learning.pretrained import ResultsFolder
from odiff.learning.run import RunSettings
from odiff.learning.shared_code import agreeing_cases, view_cells
from odiff.learning.stages import train_view
from odiff.network.shared_code import CodeDiagnosis, SharedCode, set_number
from odiff.phantom import JOINTS, write_phantom_dataset
from odiff.plan import read_plan
from odiff.training.checkpoint import read_checkpoint

FEW = ("diagnosis.steps=1", "diagnosis.head_steps=2", "fusion.steps=1", "pretrain.steps=1")
SETTINGS = RunSettings(0, torch.device("cpu"), 0)
VIEWS = ("sagittal", "coronal", "axial")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def views_of(n, rng, shared=4, own=8, cells=40, loud=3.0):
    """Three views of n cases: a few directions in common, and louder ones of their own. Also the common factors (n, shared)."""
    common = rng.normal(size=(n, shared))
    views = []
    for _ in range(3):
        place = np.linalg.qr(rng.normal(size=(cells, shared + own)))[0]
        private = loud * rng.normal(size=(n, own))
        views.append(np.concatenate([common, private], axis=1) @ place.T + 0.05 * rng.normal(size=(n, cells)))
    return views, common


def explained(rows, common):
    """The share of the variance of `common` that is linear in `rows`."""
    x = np.column_stack([rows, np.ones(len(rows))])
    rest = common - x @ np.linalg.lstsq(x, common, rcond=None)[0]
    return 1 - rest.var() / common.var()


def test_directions_of_two_views_are_those_of_canonical_correlation(rng):
    a, b = (part - part.mean(axis=0) for part in views_of(500, rng)[0][:2])
    parts = [a @ whiten(a, 12, 0).matrix, b @ whiten(b, 12, 0).matrix]
    first, second = agreeing_directions(parts, np.ones((500, 2), bool), 4)
    left, _, right = np.linalg.svd(parts[0].T @ parts[1])
    assert np.allclose(subspace_angles(first, left[:, :4]), 0, atol=1e-6)
    assert np.allclose(subspace_angles(second, right[:4].T), 0, atol=1e-6)


def test_what_views_share_is_kept_and_what_is_louder_in_one_is_not(rng):
    views, common = views_of(800, rng)
    present = np.ones((800, 3), bool)
    maps = learn_maps(views, present, np.arange(400), whiten_views(views, present, np.arange(400), 12, 0))
    rows = sum((one - mean) @ directions[:, :4] for one, (mean, directions) in zip(views, maps, strict=True))
    loudest = np.concatenate([(one - one.mean(axis=0)) @ whiten(one, 12, 0).matrix[:, :4] for one in views], axis=1)
    assert explained(rows[400:], common[400:]) > 0.95
    assert explained(loudest[400:], common[400:]) < 0.2


def test_cases_that_lack_a_view_teach_what_they_have(rng):
    views, common = views_of(900, rng)
    present = np.ones((900, 3), bool)
    present[np.arange(600), np.arange(600) % 3] = False
    maps = learn_maps(views, present, np.arange(600), whiten_views(views, present, np.arange(600), 12, 0))
    rows = sum((one - mean) @ directions[:, :4] for one, (mean, directions) in zip(views, maps, strict=True))
    assert explained(rows[600:], common[600:]) > 0.9


def test_correlations_are_over_the_cases_that_have_both_views(rng):
    present = rng.random((60, 3)) < 0.6
    parts = [rng.normal(size=(60, 4)) * seen[:, None] for seen in present.T]
    whole = np.eye(12)
    for a, b in np.ndindex(12, 12):
        both = present[:, a // 4] & present[:, b // 4]
        if a // 4 != b // 4:
            whole[a, b] = np.mean(parts[a // 4][both, a % 4] * parts[b // 4][both, b % 4])
    leading = np.linalg.eigh(whole)[1][:, -3:]
    assert np.allclose(subspace_angles(np.concatenate(agreeing_directions(parts, present, 3)), leading), 0, atol=1e-6)


def test_as_many_components_as_held_out_cases_agree_on(rng):
    """What is shared lies in quiet components beyond the loud ones; of few cases, many components agree by chance."""
    views, _ = views_of(600, rng, own=20, loud=2.0)
    agreement = choose_components(views, np.ones((600, 3), bool), np.arange(600).astype(str), 0)
    assert agreement.components == 25
    assert list(agreement.scores) == [12, 25] and agreement.scores[25] > 3
    assert np.all(np.diff(agreement.weights) <= 0) and agreement.weights[3] > 0.9 > 0.4 > agreement.weights[8]


def test_views_without_anything_in_common_get_next_to_no_weight(rng):
    views = [rng.normal(size=(300, 30)) for _ in range(3)]
    agreement = choose_components(views, np.ones((300, 3), bool), np.arange(300).astype(str), 0)
    assert agreement.weights.max() < 0.5 and (agreement.weights**2).mean() < 0.1


def test_both_visits_of_a_patient_are_on_one_side_when_components_are_chosen(rng):
    """What the views share here is the patient alone, drawn anew in each: known of visits that were seen, not of others."""
    person = [np.repeat(rng.normal(size=(150, 60)), 2, axis=0) for _ in range(2)]
    views = [one + 0.1 * rng.normal(size=one.shape) for one in person]
    patients = np.repeat(np.arange(150), 2).astype(str)
    by_patient = choose_components(views, np.ones((300, 2), bool), patients, 0)
    by_case = choose_components(views, np.ones((300, 2), bool), np.arange(300).astype(str), 0)
    assert by_patient.scores[50] < 2 < 6 < by_case.scores[50]


@pytest.mark.parametrize(("most", "fewest"), [(60, 20), (100, 40), (25, 20), (60, 60)])
def test_a_view_that_few_cases_have_is_learnt_from_all_of_them(rng, most, fewest):
    """Two views of most cases, the first and a third of the others: of all cases there are more directions than of the training ones."""
    n = most + fewest
    common = rng.standard_normal((n, 5))
    cells = [common @ rng.standard_normal((5, 300)) + 0.5 * rng.standard_normal((n, 300)) for _ in range(3)]
    present = np.array([[True, one < most, one >= most] for one in range(n)])
    agreement = choose_components(cells, present, [f"p{one}" for one in range(n)], seed=0)
    maps = weighted_maps(cells, present, agreement, seed=0)
    rows = [(one - mean) @ directions for one, (mean, directions) in zip(cells, maps, strict=True)]
    for view in range(3):
        seen = present[:, view]
        assert explained(rows[view][seen], common[seen]) > 0.8


def case_of(name, *views, patient=None):
    series = tuple(PreparedSeries(f"{name}_{view}", view, False) for view in views)
    return PreparedCase(name, patient or name, None, series, {}, {}, {})


def test_a_view_that_is_rare_beside_the_others_is_left_out_and_cases_are_drawn_from_pairs(monkeypatch):
    monkeypatch.setattr(shared_code, "CASES", 100)
    pairs = [case_of(f"pair{n}", "sagittal", "coronal") for n in range(300)]
    alone = [case_of(f"alone{n}", "sagittal") for n in range(3000)]
    rare = [case_of(f"rare{n}", "sagittal", "axial") for n in range(25)]
    views, cases = agreeing_cases([*alone, *pairs, *rare], VIEWS, 0)
    assert (
        views == ("sagittal", "coronal") and len(cases) == 100 and all(case.name.startswith("pair") for case in cases)
    )
    views, cases = agreeing_cases([*pairs[:40], *rare], VIEWS, 0)
    assert views == VIEWS and len(cases) == 65
    assert agreeing_cases([*alone, *pairs[:19]], VIEWS, 0) == ((), [])


def code_of(width=5):
    return SharedCode({view: (4, 8, 8) for view in VIEWS}, width)


def test_a_regression_for_each_set_of_views(rng):
    network = CodeDiagnosis(code_of(), 2)
    rows = torch.from_numpy(rng.normal(size=(80, 3, 5))).float()
    present = torch.ones((80, 3), dtype=torch.bool)
    present[:30, 1] = False
    truth = (rows[:, :, 0].sum(dim=1).numpy() > 0).astype(float)
    truth = np.stack([truth, np.where(np.arange(80) < 79, 0.0, 1.0)], axis=1)
    truth[:5, 0] = np.nan
    fit_regressions(network, rows, present, truth)
    for views in ((0, 2), (0, 1, 2), (1,)):
        kept = present[:, list(views)].all(dim=1).numpy() & ~np.isnan(truth[:, 0])
        x = rows[:, list(views)].sum(dim=1).numpy()
        expected = LogisticRegression(C=0.1, max_iter=1000).fit(x[kept], truth[kept, 0]).decision_function(x)
        seen = torch.zeros((80, 3), dtype=torch.bool)
        seen[:, list(views)] = True
        assert np.allclose(network(rows, seen)[:, 0].numpy(), expected, atol=1e-4)
    assert not network.weight[:, 1].any(), "a label with one positive case is learnt"


def test_labels_and_cases_that_the_code_knows_nothing_of_keep_their_logits():
    network = CodeDiagnosis(code_of(), 2)
    network.share.fill_(0.25)
    network.weight[7, 0, 0] = 1.0
    network.bias[7, 0] = 2.0
    rows, images = torch.zeros((3, 3, 5)), torch.full((3, 2), 4.0)
    rows[:, 1, 0] = 2.0
    present = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    assert set_number(present).tolist() == [7, 3, 0]
    assert network.mix(images, rows, present).tolist() == [[0.75 * 4 + 0.25 * 4, 4.0], [4.0, 4.0], [4.0, 4.0]]
    network.weight[7, 0, 0] = 3.0
    assert network.mix(images, rows, present)[0, 0] == 0.75 * 4 + 0.25 * 8


def test_the_share_falls_with_the_cases_of_the_rarer_kind():
    truth = np.array([[1.0, 0.0, np.nan]] * 4 + [[0.0, 0.0, 1.0]] * 12)
    assert code_shares(truth, 16).tolist() == pytest.approx([16 / 20, 1, 1])


def test_regressions_speak_as_loudly_as_the_networks_that_they_are_mixed_with(rng):
    network = CodeDiagnosis(code_of(), 3)
    rows = torch.from_numpy(rng.normal(size=(60, 3, 5))).float()
    present = torch.ones((60, 3), dtype=torch.bool)
    truth = np.stack([(rows[:, :, k].sum(dim=1).numpy() > 0).astype(float) for k in range(2)] + [np.zeros(60)], axis=1)
    fit_regressions(network, rows, present, truth)
    before = network(rows, present)
    images = torch.from_numpy(rng.normal(3, 9, (60, 3))).float()
    match_spread(network, images, rows, present)
    after = network(rows, present)
    factor = images[:, :2].var(dim=0, correction=0).sum().sqrt() / before[:, :2].var(dim=0, correction=0).sum().sqrt()
    assert torch.allclose(after, before * factor, rtol=1e-3, atol=1e-4)
    assert not after[:, 2].any(), "a label without regression has none of the spread"
    match_spread(network, torch.zeros((60, 3)), rows, present)
    assert torch.equal(network(rows, present), after), "silent networks say nothing of how loud to be"


def test_no_case_is_mixed_with_a_regression_that_saw_its_patient(rng):
    network = CodeDiagnosis(code_of(), 1)
    network.share.fill_(0.5)
    rows = torch.from_numpy(rng.normal(size=(40, 3, 5))).float()
    present, images = torch.ones((40, 3), dtype=torch.bool), torch.zeros((40, 1))
    patients = [f"p{number // 2}" for number in range(40)]
    truth = rng.integers(0, 2, (40, 1)).astype(float)
    before = held_out_mix(network, images, rows, present, truth, patients)
    turned = truth.copy()
    turned[:2] = 1 - turned[:2]
    after = held_out_mix(network, images, rows, present, turned, patients)
    assert before.any() and torch.equal(before[:2], after[:2]) and not torch.equal(before[2:], after[2:])


def test_series_of_one_view_are_averaged(planned, rng):
    plan = read_plan(planned / "preprocessed" / "Dataset001_Knee" / "plans.json")
    code = build_code(plan, ["sagittal", "axial"], 3)
    for view in code.views:
        count = len(code.part(view).mean)
        code.part(view).take(torch.zeros(count), torch.from_numpy(rng.normal(size=(count, 3))))
    first, second = (rng.normal(size=plan.views["axial"].patch_zyx).astype(np.float32) for _ in range(2))
    alone = [code(one_tile(one, plan, "axial"), "axial")[0] for one in (first, second)]
    rows, present = code_rows(code.views, code.width, {"axial": alone})
    assert torch.allclose(rows[0, 1], (alone[0] + alone[1]) / 2, atol=1e-5) and present.tolist() == [[False, True]]
    assert not rows[0, 0].any()


@pytest.mark.parametrize("at_once", [2, 32])
def test_codes_of_many_cases_are_those_of_each_case_alone(planned, tmp_path, rng, monkeypatch, at_once):
    monkeypatch.setattr(code_volumes, "AT_ONCE", at_once)
    context = open_context(planned / "preprocessed", tmp_path, "Dataset001_Knee")
    code = build_code(context.plan, ["sagittal", "axial"], 3)
    for view in code.views:
        part = code.part(view)
        part.take(torch.zeros(len(part.mean)), torch.from_numpy(rng.normal(size=(len(part.mean), 3))))
    cases = [
        *context.dataset.cases[:3],
        replace(context.dataset.cases[0], series=context.dataset.cases[0].of_view("axial")),
    ]
    rows, present = prepared_rows(context, code, code.views, cases, torch.device("cpu"))
    for number, case in enumerate(cases):
        codes = {
            view: [
                code(one_tile(open_array(context.prepared(view) / f"{one.name}.b2nd")[:], context.plan, view), view)[0]
                for one in case.of_view(view)
            ]
            for view in code.views
        }
        alone, there = code_rows(code.views, code.width, codes)
        assert torch.allclose(rows[number], alone[0], atol=1e-3) and torch.equal(present[number], there[0])
    assert present[-1].tolist() == [False, True] and rows[0].any()


def test_cells_are_the_same_however_many_cases_are_read_at_once(planned, tmp_path, monkeypatch):
    context = open_context(planned / "preprocessed", tmp_path, "Dataset001_Knee")
    one_less = replace(context.dataset.cases[1], series=context.dataset.cases[1].of_view("coronal"))
    cases, found = [*context.dataset.cases[:4], one_less], []
    for at_once in (2, 32):
        monkeypatch.setattr(code_volumes, "AT_ONCE", at_once)
        part = build_code(context.plan, ["axial"], 3).part("axial")
        found.append(view_cells(part, context, "axial", cases, torch.device("cpu")))
    assert np.allclose(*found, atol=1e-3)
    assert found[0][:4].any(axis=1).all() and not found[0][4].any()


def test_a_volume_of_any_size_becomes_its_middle_with_air_around_it(planned):
    plan = read_plan(planned / "preprocessed" / "Dataset001_Knee" / "plans.json")
    depth, rows, columns = plan.views["axial"].patch_zyx
    image = np.zeros((depth + 10, rows - 2, columns), np.float16)
    image[5:-5] = 1.0
    tile = one_tile(image, plan, "axial")
    assert tile.shape == (1, 1, depth, rows, columns)
    assert (tile[0, 0, :, 0] == AIR).all() and (tile[0, 0, :, -1] == AIR).all() and (tile[0, 0, :, 1:-1] == 1).all()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Twenty-four tiny knees, planned for two views that are trained for a step, and fused with their shared code."""
    root = tmp_path_factory.mktemp("cohort")
    write_phantom_dataset(root / "raw" / "Dataset001_Knee", joint="knee", cases=24, seed=2, test_cases=1, size="tiny")
    options = PlanningOptions(preset="cpu_demo", views=("sagittal", "axial"), processes=1)
    plan_and_preprocess(root / "raw", root / "preprocessed", "1", options, lambda _: None)
    for view in ("sagittal", "axial"):
        train(root, view, pretrained="none")
    train(root, "fused")
    return root


def train(root, view, few=FEW, settings=SETTINGS, **options):
    choices = TrainOptions(**{"task": "diagnosis", "fold": "0", **options})
    return train_view(root / "preprocessed", root / "results", "1", view, choices, settings, few).results


def test_the_fused_view_learns_its_code_first_and_says_how(cohort):
    run = train(cohort, "fused", validate_only=True).pretrain("fused")
    config = run.read_config()
    assert config["code_views"] == ["sagittal", "axial"] and config["cases"] == 24
    assert set(config["agreement_held_out"]) == {str(config["components"])}
    stored = read_checkpoint(run.checkpoint("final"))
    assert all(stored.tensors[f"weights.parts.{view}.registration.template"].any() for view in config["code_views"])
    assert config["components"] == 9  # half of the nineteen that are not held out
    before = run.checkpoint("final").stat().st_mtime_ns
    fold = train(cohort, "fused").task("fused", "diagnosis", "0")
    assert fold.read_config()["code_from"] == str(run.checkpoint("final"))
    assert fold.read_config()["code_shares"].keys() == set(JOINTS["knee"].diagnoses)
    assert run.checkpoint("final").stat().st_mtime_ns == before


def test_predictions_are_those_of_validation_and_the_code_takes_part(cohort, tmp_path):
    results = train(cohort, "fused", validate_only=True)
    name = sorted(read_predictions(results, "fused"))[0]
    raw = cohort / "raw" / "Dataset001_Knee" / "imagesTr"
    table = (cohort / "raw" / "Dataset001_Knee" / "cases.csv").read_text().splitlines()
    side = dict(zip(table[0].split(","), next(r for r in table if r.startswith(name)).split(","), strict=True))[
        "laterality"
    ]
    volumes = {view: (read_volume(raw / f"{name}_{view}.nii.gz"),) for view in ("sagittal", "axial")}

    def found(folder):
        predictor = Predictor(folder, folds=["0"], tasks=("diagnosis",), is_mirroring=False)
        return predictor.diagnose(CaseImages(volumes, side)).probabilities

    with_code = found(results.path)
    expected = read_predictions(results, "fused")[name]
    assert [with_code[label] for label in expected] == pytest.approx(list(expected.values()), abs=2e-3)
    bare = shutil.copytree(results.path, tmp_path / "bare")
    (bare / "fused" / "diagnosis" / "fold_0" / "checkpoint_code.safetensors").unlink()
    assert found(bare) != with_code


def read_predictions(results, view):
    folder = results.task(view, "diagnosis", "0").validation
    lines = [line.split(",") for line in (folder / "predictions.csv").read_text().splitlines()]
    places = [n for n, title in enumerate(lines[0]) if n and not title.endswith("_logit")]
    return {line[0]: {lines[0][n]: float(line[n]) for n in places} for line in lines[1:]}


def test_a_view_without_a_network_takes_no_part_in_training_either(cohort, tmp_path):
    """Prediction looks at the views that have one alone."""
    shutil.copytree(cohort / "preprocessed", tmp_path / "preprocessed")
    ignored = shutil.ignore_patterns("sagittal", "diagnosis")
    shutil.copytree(cohort / "results", tmp_path / "results", ignore=ignored)
    shutil.copytree(
        *(root / "results" / "Dataset001_Knee" / "cpu_demo" / "axial" / "diagnosis" for root in (cohort, tmp_path))
    )
    results = train(tmp_path, "fused")
    stored = read_checkpoint(results.task("fused", "diagnosis", "0").checkpoint("code")).tensors["weights.weight"]
    assert stored[2].any() and not stored[1].any() and not stored[3].any()


def test_a_fusion_of_views_that_were_trained_again_is_refused(cohort, tmp_path):
    for part in ("preprocessed", "results"):
        shutil.copytree(cohort / part, tmp_path / part)
    train(tmp_path, "axial", (*FEW, "diagnosis.steps=3"), pretrained="none")
    with pytest.raises(CheckpointError, match=r"stands on the axial model as it was, .*--restart"):
        train(tmp_path, "fused")
    shutil.rmtree(tmp_path / "results" / "Dataset001_Knee" / "cpu_demo" / "sagittal")
    with pytest.raises(CheckpointError, match=r"fused_views \['sagittal', 'axial'\], now \['axial'\]"):
        train(tmp_path, "fused")


def test_the_code_of_another_dataset_is_taken_if_it_is_of_the_same_joint(cohort, tmp_path, caplog):
    own = cohort / "results" / "Dataset001_Knee" / "cpu_demo" / "fused" / "pretrain" / "checkpoint_final.safetensors"
    results = ResultsFolder(tmp_path / "Dataset002_Other" / "cpu_demo")
    assert find_code("auto", results, cohort / "results", "knee") is None
    assert find_code("none", results, cohort / "results", "knee") is None
    for wanted in ("1", "Dataset001_Knee", str(own), str(own.parent)):
        assert find_code(wanted, results, cohort / "results", "knee") == own
    with caplog.at_level("INFO"):
        assert find_code("1", results, cohort / "results", "ankle") is None
    assert "1 has no shared code of the joint ankle" in caplog.text
    with pytest.raises(CheckpointError, match="shared code of the joint knee, the plan is of ankle"):
        find_code(str(own), results, cohort / "results", "ankle")
    with pytest.raises(UsageError, match="neither auto, none"):
        find_code("7", results, cohort / "results", "knee")
    network = (
        cohort
        / "results"
        / "Dataset001_Knee"
        / "cpu_demo"
        / "axial"
        / "diagnosis"
        / "fold_0"
        / "checkpoint_final.safetensors"
    )
    with pytest.raises(CheckpointError, match="holds no shared code"):
        find_code(str(network), results, cohort / "results", "knee")


def test_restarting_a_diagnosis_keeps_the_code_that_other_folds_go_by(cohort, tmp_path):
    for part in ("preprocessed", "results"):
        shutil.copytree(cohort / part, tmp_path / part)
    again = RunSettings(0, torch.device("cpu"), 0, restart=True)
    results = train(tmp_path, "fused", settings=again)
    assert not list(results.pretrain("fused").path.parent.glob("pretrain.old-*"))
    assert list(results.of_task("fused", "diagnosis").glob("fold_0.old-*"))
    train(tmp_path, "fused", settings=again, task="pretrain")
    assert list(results.pretrain("fused").path.parent.glob("pretrain.old-1"))
    with pytest.raises(CheckpointError, match="learnt with seed 0, now 1"):
        train(tmp_path, "fused", settings=RunSettings(1, torch.device("cpu"), 0), task=None)
    train(tmp_path, "fused", settings=RunSettings(1, torch.device("cpu"), 0, restart=True))


def test_pretraining_that_has_nothing_to_do_is_an_error(cohort, planned, tmp_path):
    for options, flag in (({"pretrained": "none"}, "--pretrained none"), ({"validate_only": True}, "--validate-only")):
        with pytest.raises(UsageError, match=f"leave {flag} out"):
            train(cohort, "fused", task="pretrain", **options)
    shutil.copytree(planned / "preprocessed", tmp_path / "preprocessed")
    with pytest.raises(DatasetError, match="too few cases"):
        train(tmp_path, "fused", task="pretrain")


def test_none_leaves_the_code_out_and_a_plan_without_share_learns_none(cohort, tmp_path):
    for options, few in (({"pretrained": "none"}, FEW), ({}, (*FEW, "fusion.code_cases=0"))):
        root = tmp_path / str(len(few))
        shutil.copytree(cohort / "preprocessed", root / "preprocessed")
        shutil.copytree(cohort / "results", root / "results", ignore=shutil.ignore_patterns("fused"))
        results = train(root, "fused", few, **options)
        assert not results.pretrain("fused").path.exists()
        assert not results.task("fused", "diagnosis", "0").checkpoint("code").exists()
    with pytest.raises(UsageError, match=r"fusion\.code_cases is 0"):
        train(root, "fused", (*FEW, "fusion.code_cases=0"), task="pretrain")


def test_too_few_cases_of_two_views_are_told_and_fused_without_a_code(planned, tmp_path, caplog):
    shutil.copytree(planned / "preprocessed", tmp_path / "preprocessed")
    train(tmp_path, "axial", pretrained="none")
    with caplog.at_level("INFO"):
        results = train(tmp_path, "fused")
    assert "fewer than 20 cases have scans of the same two views" in caplog.text
    assert results.task("fused", "diagnosis", "0").is_trained()


def test_a_code_of_another_grid_is_refused(cohort, tmp_path):
    shutil.copytree(cohort / "preprocessed", tmp_path / "preprocessed")
    shutil.copytree(cohort / "results", tmp_path / "results")
    shutil.rmtree(tmp_path / "results" / "Dataset001_Knee" / "cpu_demo" / "fused" / "diagnosis")
    plan = tmp_path / "preprocessed" / "Dataset001_Knee" / "plans.json"
    content = json.loads(plan.read_text())
    content["views"]["axial"]["spacing_zyx_mm"][0] *= 2
    plan.write_text(json.dumps(content))
    for view in ("axial", "sagittal"):
        write_recipe(tmp_path / "preprocessed" / "Dataset001_Knee" / f"cpu_demo_{view}", read_plan(plan), view)
    with pytest.raises(CheckpointError, match="spacing_zyx_mm"):
        train(tmp_path, "fused")
