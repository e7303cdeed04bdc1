"""The phantom keeps its word."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.metrics import roc_auc_score

from odiff.errors import UsageError
from odiff.geometry import VIEWS, view_angle_deg
from odiff.phantom import JOINTS, make_study
from odiff.phantom.study import BENT_FROM_TO_MM, HINGE_YZ_MM, bent
from odiff.phantom.table import COLUMNS, OF_TRAUMA, OF_WEAR, draw_table


@pytest.fixture(scope="module", params=sorted(JOINTS))
def joint(request):
    return request.param


@pytest.fixture(scope="module")
def studies(joint):
    return [make_study(joint, number, 3, "tiny") for number in range(12)]


def test_the_same_seed_gives_the_same_voxels(joint, studies):
    again = make_study(joint, 5, 3, "tiny")
    for view in VIEWS:
        assert np.array_equal(again.series[view].image.array, studies[5].series[view].image.array)
    assert again.diagnoses == studies[5].diagnoses


def test_true_lesion_maps_tell_every_diagnosis(joint, studies):
    """The label check: a lesion is somewhere in the study if and only if its diagnosis is 1, so its AUROC is 1."""
    for study in studies:
        seen = np.bitwise_or.reduce(
            [np.bitwise_or.reduce(series.lesion, axis=None) for series in study.series.values()]
        )
        for bit, name in enumerate(JOINTS[joint].diagnoses):
            assert bool(seen >> bit & 1) == bool(study.diagnoses[name]), name


def test_views_agree_with_their_direction_cosines(studies):
    for study in studies:
        for view, series in study.series.items():
            assert view_angle_deg(series.image.grid, view) < 15


def seen_from(series, other):
    """The labels of `other` at the voxels of `series`, -1 outside its field of view."""
    own, grid = series.image.grid, other.image.grid
    index = np.stack(np.meshgrid(*[np.arange(n) for n in own.shape_zyx], indexing="ij"), axis=-1)
    world = np.asarray(own.origin_xyz_mm) + (index * np.asarray(own.spacing_zyx_mm)) @ own.normals()
    place = np.rint((world - np.asarray(grid.origin_xyz_mm)) @ grid.normals().T / np.asarray(grid.spacing_zyx_mm))
    inside = ((place >= 0) & (place < np.asarray(grid.shape_zyx))).all(axis=-1)
    labels = np.full(own.shape_zyx, -1)
    labels[inside] = other.mask[tuple(place[inside].astype(int).T)]
    return labels


def test_the_views_of_a_study_show_the_joint_in_the_same_place(joint, studies):
    bones = list(JOINTS[joint].labels.values())[1:3]
    overlaps = []
    for study in studies:
        for view in VIEWS:
            for other in set(VIEWS) - {view}:
                there = seen_from(study.series[view], study.series[other])
                ours, theirs = (np.isin(one, bones) & (there >= 0) for one in (study.series[view].mask, there))
                overlaps.append(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))
    assert np.median(overlaps) > 0.7 and np.min(overlaps) > 0.5


def test_every_structure_is_drawn_somewhere(joint, studies):
    values = set()
    for study in studies:
        for series in study.series.values():
            values |= set(np.unique(series.mask).tolist())
    assert values == set(JOINTS[joint].labels.values())


def test_left_and_right_joints_are_both_there(studies):
    assert {study.laterality for study in studies} == {"L", "R"}


def test_hospitals_change_the_scanner_and_not_the_patient(joint, studies):
    """The same patients elsewhere: diagnoses and laterality stay, and every hospital that was asked for is there."""
    elsewhere = [make_study(joint, number, 3, "tiny", centers=("F", "I")) for number in range(12)]
    assert {study.center for study in elsewhere} == {"F", "I"}
    assert {study.field_strength_t for study in elsewhere} == {3.0, 0.55}
    for here, there in zip(studies, elsewhere, strict=True):
        assert (here.diagnoses, here.laterality) == (there.diagnoses, there.laterality)


def test_an_unknown_hospital_is_named():
    with pytest.raises(UsageError, match="--centers Z"):
        make_study("knee", 0, 3, "tiny", centers=("A", "Z"))


def test_messy_cohorts_keep_the_voxels_that_are_there(studies, joint):
    messy = [make_study(joint, number, 3, "tiny", messy=0.5) for number in range(12)]
    names = [set(study.series) for study in messy]
    assert any(len(one & set(VIEWS)) < 3 for one in names) and any(one - set(VIEWS) for one in names)
    assert any(study.laterality is None for study in messy)
    unknown = [value is None for study in messy for value in study.diagnoses.values()]
    assert 0.25 < np.mean(unknown) < 0.75
    for clean, study in zip(studies, messy, strict=True):
        assert all(study.diagnoses[name] in (None, value) for name, value in clean.diagnoses.items())
        for view in set(study.series) & set(VIEWS):
            assert np.array_equal(study.series[view].image.array, clean.series[view].image.array)


def test_age_tells_of_wear_injury_of_trauma_and_neither_of_an_effusion(joint):
    rng = np.random.default_rng(0)
    names = JOINTS[joint].diagnoses
    truth = rng.integers(0, 2, (3000, len(names)))
    rows = [draw_table(dict(zip(names, map(int, one), strict=True)), rng) for one in truth]
    assert all(set(row) == set(COLUMNS) for row in rows)
    assert 0.05 < np.mean([row["age"] is None for row in rows]) < 0.15
    age = np.array([row["age"] or 47 for row in rows])
    injured = np.array([row["injury"] in ("twist", "fall") for row in rows])
    for number, name in enumerate(names):
        by_age, by_injury = (roc_auc_score(truth[:, number], column) for column in (age, injured))
        assert (by_age > 0.6) == (name in OF_WEAR), name
        assert (by_injury > 0.55) == (name in OF_TRAUMA), name


def test_a_bent_joint_turns_rigidly_above_the_joint_line_and_not_at_all_below():
    rng = np.random.default_rng(0)
    points = rng.uniform(-60, 60, (400, 3))
    turned = bent(points, 0.2)
    low, high = BENT_FROM_TO_MM
    below, above = points[:, 2] <= low, points[:, 2] >= high
    assert np.allclose(turned[below], points[below])
    assert np.allclose(pdist(turned[above]), pdist(points[above]))
    upright = np.array([[0.0, HINGE_YZ_MM[0], 100.0]])
    y, z = bent(upright, 0.2)[0, 1:] - np.array(HINGE_YZ_MM)
    assert np.arctan2(y, z) == pytest.approx(-0.2)
