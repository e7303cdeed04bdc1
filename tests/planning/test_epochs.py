"""Recipes that count in epochs."""

from odiff.experiment_planning.epochs import steps_of
from odiff.experiment_planning.pipeline import PlanningOptions, make_plan, verified
from odiff.experiment_planning.presets import read_preset


def test_the_paper_s_epochs_become_steps_over_the_labelled_cases_of_a_fold(phantom_dataset, tmp_path):
    options = PlanningOptions(preset="paper", views=("axial",), processes=1, is_dry_run=True)
    plan = make_plan(verified(phantom_dataset, tmp_path, options, lambda _: None), tmp_path, options).plan
    epochs = read_preset("paper").epochs
    assert plan.diagnosis.steps == epochs.diagnosis * 1  # six diagnosed cases, four to train on, one batch of eight
    assert plan.diagnosis.head_steps == epochs.diagnosis_head * 1
    assert plan.segmentation.steps == epochs.segmentation * 1  # four masked cases, three to train on, one batch of ten


def test_steps_cover_every_training_case_once_an_epoch():
    assert steps_of(5, 100, 8) == 5 * 10
    assert steps_of(1, 0, 8) == 1
