"""Real scans are read, framed and planned; they are found through ODIFF_TEST_DATA."""

import json
import shutil

import numpy as np
import pytest
import torch

from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.experiment_planning.verify import verify_dataset
from odiff.geometry import canonical_frame, canonical_spacing, from_canonical, nearest_view, read_volume, to_canonical
from odiff.network.bending import bent, control_points
from odiff.network.registration import Registration, centre_weight, displacements, moved, outlines, shrunk_shape

pytestmark = pytest.mark.real

VIEWS = {
    "knee_sag_mese_te06.nii.gz": "sagittal", "knees_ax_dixon_water.nii.gz": "axial", "lowerleg_ax.nii.gz": "axial",
    "thigh_ax_dixon_te460.nii.gz": "axial", "ankle_foot_sag_3d.nii.gz": None, "cspine_sag_t2.nii.gz": None,
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_thick_slices_tell_their_view_and_isotropic_volumes_fit_any(real_data, name):
    assert nearest_view(read_volume(real_data / name).grid) == VIEWS[name]


def test_one_volume_stored_in_three_planes_is_the_same_in_the_canonical_frame(real_data):
    volumes = [read_volume(real_data / f"ankle_foot_{plane}_3d.nii.gz") for plane in ("sag", "cor", "ax")]
    turned = [to_canonical(v.array, canonical_frame(v.grid, "axial")) for v in volumes]
    assert np.array_equal(turned[0], turned[1])
    assert np.array_equal(turned[0], turned[2])


def test_an_oblique_knee_keeps_its_slices_as_first_axis(real_data):
    volume = read_volume(real_data / "knee_sag_mese_te50.nii.gz")
    frame = canonical_frame(volume.grid, "sagittal")
    assert canonical_spacing(volume.grid, frame)[0] == pytest.approx(4.0, abs=0.01)
    assert np.array_equal(from_canonical(to_canonical(volume.array, frame), frame), volume.array)


def leg_dataset(real_data, folder, labels):
    dataset = folder / "raw" / "Dataset011_Leg"
    for part, source in (("imagesTr", "lowerleg_ax.nii.gz"), ("labelsTr", "lowerleg_ax_label.nii.gz")):
        (dataset / part).mkdir(parents=True)
        shutil.copy(real_data / source, dataset / part / "leg_axial.nii.gz")
    description = {"name": "leg", "file_ending": ".nii.gz", "views": ["axial"]}
    description["segmentation"] = {"labels": {"background": 0, **labels}}
    (dataset / "dataset.json").write_text(json.dumps(description))
    return dataset


def test_a_real_mask_with_values_13_to_26_is_verified_and_preprocessed(real_data, tmp_path):
    leg_dataset(real_data, tmp_path, {f"muscle_{value}": value for value in range(13, 27)})
    said: list[str] = []
    options = PlanningOptions(preset="cpu_demo", processes=1)
    plan = plan_and_preprocess(tmp_path / "raw", tmp_path / "preprocessed", "11", options, said.append)
    assert plan.views["axial"].spacing_zyx_mm[0] == pytest.approx(6.0, abs=0.01)
    assert "preprocess: 1 series done" in "".join(said)


def test_an_undeclared_value_of_a_real_mask_is_named(real_data, tmp_path):
    dataset = leg_dataset(real_data, tmp_path, {f"muscle_{value}": value for value in range(13, 26)})
    (finding,) = verify_dataset(dataset, processes=1).faults
    assert (finding.field, finding.value) == ("label", "26")


def test_a_real_knee_that_was_bent_is_brought_onto_another_echo_of_itself(real_data):
    early, late = (
        torch.from_numpy(read_volume(real_data / f"knee_sag_mese_te{echo}.nii.gz").array.astype(np.float32))[None, None]
        for echo in ("06", "50")
    )
    late = late / late.std()
    registration = Registration(late.shape[2:])
    registration.template.copy_(outlines(early / early.std())[0, 0])
    points = control_points(shrunk_shape(late.shape[2:]))
    by = 0.1 * (2 * torch.rand((1, 3, *points), generator=torch.Generator().manual_seed(0)) - 1)
    away = moved(bent(late, by), torch.tensor([[0, 12, -9]]))
    only_moved = moved(
        away,
        (displacements(outlines(away), registration.template) * torch.tensor(registration.shrinkage)).round(),
    )
    weight = centre_weight(late.shape[2:])
    errors = [float(((one - late).abs() * weight).mean()) for one in (away, only_moved, registration(away))]
    assert errors[1] < 0.7 * errors[0] and errors[2] < 0.87 * errors[1]
