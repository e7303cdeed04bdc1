"""Studies built on a label map."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from odiff.errors import UsageError
from odiff.phantom import JOINTS
from odiff.phantom.atlas import AtlasSource, atlas_shapes, read_atlas_labels, sampled_shape
from odiff.phantom.study import given_shapes, make_study

KNOWN = [name for name in JOINTS["knee"].labels if name != "background"]


@pytest.fixture
def label_map(tmp_path) -> Path:
    """A femur and a tibia as boxes, and a fibula beside the tibia: right of it as in a right knee, LPS."""
    array = np.zeros((100, 60, 90), np.uint8)
    array[55:, 15:45, 15:75] = 5
    array[:50, 15:45, 20:70] = 6
    array[:40, 30:42, 2:14] = 8
    image = sitk.GetImageFromArray(array)
    image.SetOrigin((-40, 10, 300))
    sitk.WriteImage(image, str(tmp_path / "map.nrrd"))
    return tmp_path / "map.nrrd"


VALUES = (("femur", (5,)), ("tibia", (6,)), ("fibula", (8,)))


def test_a_sampled_shape_is_the_mask_it_was_made_of():
    mask = np.zeros((30, 30, 30), bool)
    mask[8:20, 10:22, 9:25] = True
    shape = sampled_shape(mask, np.zeros(3))
    points = np.argwhere(np.ones_like(mask))[:, ::-1].astype(np.float32) * 0.8
    inside = np.zeros(len(points), bool)
    near = ((points >= shape.low) & (points <= shape.high)).all(axis=1)
    inside[near] = shape.distance(points[near]) < 0
    agreement = 2 * (inside & mask.ravel()).sum() / (inside.sum() + mask.sum())
    assert agreement > 0.97


def test_a_structure_cut_by_the_border_of_the_map_goes_on():
    mask = np.zeros((20, 20, 20), bool)
    mask[:, 5:15, 5:15] = True
    shape = sampled_shape(mask, np.zeros(3))
    middle = 10 * 0.8
    assert shape.distance(np.array([[middle, middle, 200.0]], np.float32))[0] < 0
    assert shape.low[2] < -100 and shape.low[0] > -20


def test_a_left_map_gives_the_same_right_joint_as_its_mirror_image(label_map, tmp_path):
    image = sitk.ReadImage(str(label_map))
    mirrored = sitk.GetImageFromArray(sitk.GetArrayFromImage(image)[:, :, ::-1])
    sitk.WriteImage(mirrored, str(tmp_path / "left.nrrd"))
    template = JOINTS["knee"].build(np.random.default_rng(0), dict.fromkeys(JOINTS["knee"].diagnoses, 0), {})
    right, left = (
        atlas_shapes(AtlasSource(path, VALUES), template, JOINTS["knee"].labels)
        for path in (label_map, tmp_path / "left.nrrd")
    )
    for name in right:
        assert np.allclose(right[name].low, left[name].low, atol=0.9)
    assert right["fibula"].high[0] < right["tibia"].high[0], "the fibula is lateral: towards -x in a right knee"


def test_studies_have_the_structures_of_the_map_and_synthesise_the_rest(label_map):
    study = make_study("knee", 0, 0, "tiny", AtlasSource(label_map, VALUES))
    seen = set().union(*(np.unique(series.mask).tolist() for series in study.series.values()))
    assert seen == set(JOINTS["knee"].labels.values())
    again = make_study("knee", 0, 0, "tiny", AtlasSource(label_map, VALUES))
    assert np.array_equal(again.series["axial"].image.array, study.series["axial"].image.array)


@pytest.mark.parametrize(
    ("content", "named"),
    [("{", "is not JSON"), ("[]", "must be an object"), ('{"femurr": 1}', "'femurr'"), ('{"femur": "5"}', "'5'")],
)
def test_broken_label_files_are_named(tmp_path, content, named):
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=named):
        read_atlas_labels(path, KNOWN)


def test_values_may_be_lists_and_must_occur(label_map, tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"femur": [5, 7]}))
    values = read_atlas_labels(path, KNOWN)
    assert values == (("femur", (5, 7)),)
    with pytest.raises(UsageError, match="7 does not occur"):
        given_shapes("knee", AtlasSource(label_map, values))


def test_an_unreadable_map_is_named(tmp_path):
    path = tmp_path / "map.nrrd"
    path.write_text("no image")
    with pytest.raises(UsageError, match=r"map\.nrrd"):
        given_shapes("knee", AtlasSource(path, VALUES))


@pytest.mark.real
def test_the_real_knee_map_makes_studies_with_every_structure(real_data):
    values = {"femoral_cartilage": 1, "patellar_cartilage": 4, "femur": 5, "tibia": 6, "patella": 7, "fibula": 8}
    values |= {"lateral_meniscus": 9, "medial_meniscus": 10}
    source = AtlasSource(
        real_data / "knee_label_bones_cart_men_fib.nrrd",
        (*((name, (value,)) for name, value in values.items()), ("tibial_cartilage", (2, 3))),
    )
    shapes = given_shapes("knee", source)
    assert shapes["fibula"].high[0] < shapes["tibia"].high[0], "a right knee's fibula is towards -x"
    study = make_study("knee", 0, 0, "demo", source)
    seen = set().union(*(np.unique(series.mask).tolist() for series in study.series.values()))
    assert seen == set(JOINTS["knee"].labels.values())
