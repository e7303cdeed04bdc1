"""Inner out-of-fold logits know nothing of the labels of the case that they score."""

from dataclasses import replace

import pytest
import torch

from odiff.learning.context import open_context
from odiff.learning.inner_logits import inner_logits
from odiff.learning.run import RunSettings
from odiff.network.diagnosis import FeatureChoice

SETTINGS = RunSettings(0, torch.device("cpu"), 0)
CHOICE = FeatureChoice(50, ("encoder_0",))


@pytest.fixture(scope="module")
def context(planned, tmp_path_factory):
    return open_context(
        planned / "preprocessed", tmp_path_factory.mktemp("r"), "1", ["diagnosis.head_steps=3", "diagnosis.dropout=0"]
    )


def logits_of(context, cases):
    return inner_logits(context, "axial", CHOICE, None, cases, SETTINGS)


def test_a_case_s_own_labels_do_not_reach_its_logits_but_reach_those_of_others(context):
    cases = list(context.dataset.cases)
    before, present = logits_of(context, cases)
    flipped = {name: None if value is None else 1 - value for name, value in cases[0].diagnoses.items()}
    cases[0] = replace(cases[0], diagnoses=flipped)
    after, _ = logits_of(context, cases)
    assert present.all()
    own = [case.patient == cases[0].patient for case in cases]
    assert torch.equal(before[own], after[own])
    assert not torch.allclose(before, after)


def test_a_case_without_the_view_is_marked(context):
    cases = list(context.dataset.cases)
    cases[1] = replace(cases[1], series=tuple(one for one in cases[1].series if one.view != "axial"))
    logits, present = logits_of(context, cases)
    assert present.tolist() == [True, False, *[True] * (len(cases) - 2)]
    assert (logits[1] == 0).all()


def test_one_patient_alone_gives_no_logits(context):
    _, present = logits_of(context, list(context.dataset.cases)[:1])
    assert present.tolist() == [True]
