"""Pooling and fusion are chosen where one is clearly better on cases that did not teach it."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from odiff.errors import CheckpointError
from odiff.learning import clear_choice
from odiff.learning.asked import TrainOptions
from odiff.learning.clear_choice import clearly_best
from odiff.learning.context import open_context
from odiff.learning.diagnose import stored_choice
from odiff.learning.fusion_batches import EmbeddedCases
from odiff.learning.fusion_choice import InnerFold, held_out_logits
from odiff.learning.inner_folds import inner_folds, out_of_fold_logits
from odiff.learning.pooling_choice import CANDIDATES, choose_pooling
from odiff.learning.run import RunSettings
from odiff.learning.stages import train_view
from odiff.learning.warm_up import CachedFeatures
from odiff.metrics.classification import macro_score
from odiff.network.diagnosis import FeatureChoice
from odiff.network.fusion import FUSIONS
from odiff.network.heads import DiagnosisHead

CELLS = (4, 6, 6)
CPU = RunSettings(0, torch.device("cpu"), 0)


@given(st.dictionaries(st.sampled_from("abc"), st.floats(0, 1)), st.integers(1, 10_000))
def test_the_usual_gives_way_to_a_clear_gain_alone(scores, cases):
    chosen = clearly_best(scores, "a", cases)
    margin = 0.03 * math.sqrt(100 / cases)
    ahead = max(scores.values(), default=0.0) - scores.get("a", 0.5)
    assert (chosen != "a") == (ahead > margin)
    if chosen != "a":
        assert scores[chosen] == max(scores.values())


@pytest.fixture
def cached():
    """Sixty cases whose label lifts every cell of one channel by far less than a cell's own noise."""
    torch.manual_seed(0)
    targets = (torch.arange(60) % 2).float()[:, None]
    features = torch.randn(60, 8, *CELLS)
    features[:, 3] += 0.5 * targets[:, :, None, None]
    return CachedFeatures({"mid": features.half()}, torch.arange(60), targets)


@pytest.fixture
def recipe(planned, tmp_path):
    context = open_context(planned / "preprocessed", tmp_path, "1")
    return replace(context.plan.diagnosis, head_steps=200, head_rate=0.005)


def head(kind):
    return DiagnosisHead({"mid": (8, CELLS)}, 1, 0.0, kind)


def test_every_pooling_is_scored_and_what_is_spread_out_is_read_by_means(cached, recipe):
    patients = [str(case) for case in range(60)]
    chosen, scores = choose_pooling(head, cached, patients, recipe, 0)
    assert set(scores) == set(CANDIDATES)
    assert scores["none"] > 0.9
    assert chosen == clearly_best(scores, "attention", 60)


def test_few_patients_give_the_usual_pooling_and_no_score(cached, recipe):
    patients = [str(case % 29) for case in range(60)]
    assert choose_pooling(head, cached, patients, recipe, 0) == ("attention", {})


def test_no_case_teaches_the_head_that_scores_it(cached, recipe):
    patients = [str(case // 2) for case in range(60)]
    wrong = replace(cached, targets=cached.targets.clone())
    wrong.targets[:2] = 1 - wrong.targets[:2]
    right, flipped = (out_of_fold_logits(partial(head, "none"), one, patients, recipe, 0) for one in (cached, wrong))
    assert torch.equal(right[:2], flipped[:2])
    assert not torch.equal(right, flipped)
    for train, held_out in inner_folds(patients):
        assert not {patients[case] for case in train} & {patients[case] for case in held_out}


@pytest.mark.parametrize("variant", sorted(FUSIONS))
def test_a_fusion_is_scored_on_cases_that_did_not_teach_it(variant, recipe, planned, tmp_path):
    """One view knows the label, the other is noise; under the same heads a flipped label changes no logit of its own case."""
    torch.manual_seed(0)
    fusion = open_context(planned / "preprocessed", tmp_path, "1").plan.fusion
    targets = (torch.arange(60) % 2).float()[:, None]
    heads = {view: head("none") for view in ("sagittal", "axial")}
    embedded = {view: torch.randn(60, 1, 8) for view in heads}
    embedded["axial"][:, 0, 0] += 3 * targets[:, 0]
    for one in heads.values():
        one.weight.data = torch.eye(8)[:1]
    cases = EmbeddedCases(embedded, torch.ones(60, 2, dtype=torch.bool))
    folds = [InnerFold(train, held, heads, cases) for train, held in inner_folds([str(n) for n in range(60)])]
    logits = held_out_logits(variant, folds, targets, fusion, 0)
    assert macro_score("auroc", targets.numpy(), logits.numpy()) > 0.75
    flipped = targets.clone()
    flipped[0] = 1 - flipped[0]
    again = held_out_logits(variant, folds, flipped, fusion, 0)
    assert torch.equal(logits[0], again[0])
    assert not torch.equal(logits, again)


@pytest.mark.slow
def test_a_run_keeps_what_it_chose_and_the_figures(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(clear_choice, "FEWEST_PATIENTS", 6)
    changes = (
        "fusion.variant=auto", "diagnosis.pooling=auto", "diagnosis.head_steps=4", "diagnosis.steps=1", "fusion.steps=2",
        "pretrain.steps=1", "fusion.code_cases=0",
    )  # fmt: skip

    def run(view, task, *more):
        options = TrainOptions(task, "all")
        context = train_view(planned / "preprocessed", tmp_path, "1", view, options, CPU, (*changes, *more))
        return context.results.task(view, task, "all") if task != "pretrain" else None

    for view in ("sagittal", "axial"):
        run(view, "pretrain")
        own = run(view, "diagnosis").read_config()
        assert set(own["pooling_scores"]) == set(CANDIDATES)
        assert own["features"]["pooling"] == clearly_best(own["pooling_scores"], "attention", 6)
    fused = run("fused", "diagnosis")
    config = fused.read_config()
    assert set(config["variant_scores"]) == set(FUSIONS)
    assert config["variant"] in FUSIONS
    fused.write_config(config | {"variant_scores": {"concat": 0.9}, "variant": config["variant"]})
    assert run("fused", "diagnosis").read_config()["variant_scores"] == {"concat": 0.9}
    with pytest.raises(CheckpointError, match=r"fusion\.variant.*--restart"):
        run("fused", "diagnosis", f"fusion.variant={'gated' if config['variant'] != 'gated' else 'concat'}")
    kept = fused.read_config()
    assert (kept["variant"], kept["variant_scores"]) == (config["variant"], {"concat": 0.9})
    with pytest.raises(CheckpointError, match=r"diagnosis\.pooling.*--restart"):
        run("axial", "diagnosis", f"diagnosis.pooling={'none' if own['features']['pooling'] != 'none' else 'local'}")


def test_a_choice_of_before_pooling_was_one_has_the_plan_s():
    old = {"features": {"time_step": 50, "blocks": ["mid"]}, "plan": {"diagnosis": {"pooling": "selfattn"}}}
    assert stored_choice(old) == FeatureChoice(50, ("mid",), "selfattn")
    assert stored_choice({**old, "plan": {"diagnosis": {"pooling": "auto"}}}).pooling == "attention"
