"""Training batches from preprocessed series."""

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from odiff.data.batches import (
    IGNORE,
    BatchSource,
    PretrainBatches,
    SegmentationBatches,
    centred_on_structure,
    class_indices,
    whole_view,
    whole_views,
)
from odiff.data.preprocessing import prepare
from odiff.data.store import open_array, structure_places, write_array, write_prepared
from odiff.errors import DatasetError
from odiff.experiment_planning import preprocess
from odiff.experiment_planning.presets import read_preset
from odiff.geometry import Grid, Volume
from odiff.learning.segmentation import no_augmentation
from odiff.plan import Augmentation, DiffusionPlan, NetworkPlan, ViewPlan

STRONG = Augmentation(1.0, 15, 0.15, 0.05, 0.2, 0.25, 0.3, 0.05, 0.7)
PATCH = (6, 12, 10)
RARE = 9


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three series of 8x20x24 with a background, a large structure and two voxels of a rare one."""
    folder = tmp_path_factory.mktemp("prepared")
    network = NetworkPlan((1, 1, 1), (32,), ((1, 1, 1),), ((3, 3, 3),), 1, 32)
    diffusion = DiffusionPlan(10, "cosine", "x0", "uniform", 5.0, 0.0, (1, 1, 1), (1,), ("mid",))
    plan = ViewPlan(
        "axial", (1.0, 1.0, 1.0), PATCH, read_preset("default").normalisation, network, diffusion, (), 2, 1, 1.0
    )
    grid = Grid((8, 20, 24), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    for number in range(3):
        rng = np.random.default_rng(number)
        mask = np.zeros(grid.shape_zyx, np.int16)
        mask[2:7, 4:15, 5:18] = 4
        mask[1, 17, 20:22] = RARE
        prepared = prepare(Volume(rng.uniform(5, 10, grid.shape_zyx).astype(np.float32), grid), mask, plan, False)
        write_prepared(folder, f"knee_{number}", prepared, "stamp")
    return BatchSource(folder, plan, STRONG, (), 2, 7)


def names(count=3):
    return [f"knee_{number}" for number in range(count)]


def segmentation_batches(source, foreground_fraction=0.5):
    return SegmentationBatches(source, names(), (0, 4, RARE), foreground_fraction)


@pytest.mark.parametrize("make", [segmentation_batches, lambda source: PretrainBatches(source, names())])
def test_a_batch_depends_on_seed_and_number_alone(source, make):
    batches = make(source)
    before = torch.get_rng_state()
    batches[0], batches[1]
    first, second = (torch.cat([part.flatten().float() for part in one[5]]) for one in (batches, make(source)))
    other_seed = torch.cat([part.flatten().float() for part in make(dataclasses.replace(source, seed=8))[5]])
    assert torch.equal(first, second)
    assert not torch.equal(first, other_seed)
    assert torch.equal(before, torch.get_rng_state())


def test_a_segmentation_batch_is_an_image_and_its_classes(source):
    image, classes = segmentation_batches(source)[0]
    assert image.shape == (2, 1, *PATCH) and image.dtype == torch.float32
    assert classes.shape == (2, *PATCH) and classes.dtype == torch.int16
    assert set(classes.unique().tolist()) <= {IGNORE, 0, 1, 2}


def test_patches_centred_on_structures_show_each_as_often(source):
    """Two voxels count as much as seven hundred."""
    batches = segmentation_batches(dataclasses.replace(source, augmentation=no_augmentation()), 1.0)
    patches = [patch for number in range(40) for patch in batches[number][1]]
    assert all((patch > 0).any() for patch in patches)
    share = np.mean([bool((patch == 2).any()) for patch in patches])
    assert 0.4 < share < 0.8


def test_an_unchanged_patch_is_a_piece_of_its_series(source):
    image = PretrainBatches(dataclasses.replace(source, augmentation=no_augmentation(), batch_size=1), names(1))[3][
        0, 0
    ]
    whole = torch.from_numpy(open_array(source.folder / "knee_0.b2nd")[:]).float()
    windows = whole.unfold(0, PATCH[0], 1).unfold(1, PATCH[1], 1).unfold(2, PATCH[2], 1)
    assert (windows == image).all(dim=-1).all(dim=-1).all(dim=-1).sum() == 1


def test_places_are_an_even_sample_of_each_structure():
    mask = np.random.default_rng(1).choice([IGNORE, 0, 3, 26], (6, 20, 30), p=[0.1, 0.5, 0.39, 0.01]).astype(np.int16)
    rows = structure_places(mask, most=200)
    assert rows.dtype == np.int16
    assert np.array_equal(mask[tuple(rows[:, 1:].T)], rows[:, 0])
    assert len(np.unique(rows, axis=0)) == len(rows)
    labels, counts = np.unique(rows[:, 0], return_counts=True)
    assert dict(zip(labels.tolist(), counts.tolist(), strict=True)) == {3: 200, 26: min(200, int((mask == 26).sum()))}
    assert rows[rows[:, 0] == 3, 2].mean() == pytest.approx(9.5, abs=1.5)


def test_a_mask_without_structures_has_no_places_and_leaves_the_patch_where_it_was(tmp_path):
    rows = structure_places(np.zeros((2, 3, 4), np.int16))
    assert rows.shape == (0, 4)
    assert centred_on_structure(rows, (2, 3, 4), (1, 1, 1), [1, 2, 3], np.random.default_rng(0)) == [1, 2, 3]


def test_neighbouring_labels_are_drawn_as_often_whatever_their_size():
    rows = np.array([[4, 0, 0, 0], *[[5, 0, 0, 20]] * 9], np.int16)
    rng = np.random.default_rng(0)
    starts = [centred_on_structure(rows, (1, 1, 30), (1, 1, 3), [0, 0, 0], rng)[2] for _ in range(400)]
    assert set(starts) == {0, 19}
    assert np.mean(np.array(starts) == 0) == pytest.approx(0.5, abs=0.1)


def test_a_patch_larger_than_the_volume_is_centred():
    rows = np.array([[4, 0, 0, 5]], np.int16)
    assert centred_on_structure(rows, (4, 8, 30), (8, 8, 10), [0, 0, 0], np.random.default_rng(0)) == [-2, 0, 0]


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 13, 26), (2, 0, 1)])
def test_class_indices_are_places_in_the_list_of_values(values):
    labels = np.random.default_rng(0).choice([-1, 0, 1, 2, 5, 13, 26], (3, 4, 5)).astype(np.int16)
    wanted = [values.index(label) if label in values else IGNORE for label in labels.ravel().tolist()]
    assert class_indices(labels, values).flatten().tolist() == wanted


def test_arrays_of_an_older_version_are_refused_and_made_again(source, tmp_path, monkeypatch):
    for file in source.folder.glob("knee_0*"):
        if "places" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    old = SegmentationBatches(dataclasses.replace(source, folder=tmp_path, batch_size=1), names(1), (0, 4, RARE), 1.0)
    with pytest.raises(DatasetError, match="run odiff_plan_and_preprocess again"):
        old[0]


def test_the_stamp_knows_the_format_of_the_arrays(planned, monkeypatch):
    from odiff.dataset import load_dataset
    from odiff.plan import read_plan

    dataset = load_dataset(planned / "raw" / "Dataset001_Knee")
    plan = read_plan(planned / "preprocessed" / "Dataset001_Knee" / "plans.json")
    series = next(series for case in dataset.cases for series in case.series if series.view in plan.views)
    before = preprocess.preprocess_stamp(series, plan, False)
    monkeypatch.setattr(preprocess, "FORMAT", 1)
    assert preprocess.preprocess_stamp(series, plan, False) != before


@given(st.lists(st.integers(1, 9), max_size=7), st.integers(1, 5))
def test_series_are_taken_together_until_there_are_tiles_enough(depths, at_once):
    with TemporaryDirectory() as folder:
        for number, depth in enumerate(depths):
            write_array(Path(folder) / f"s{number}.b2nd", np.full((2 * depth, 4, 4), number, np.float16))
        names = [f"s{number}" for number in range(len(depths))]
        found = list(whole_views(Path(folder), names, (4, 4, 4), at_once))
        for numbers, tiles, owner in found:
            alone = [whole_view(Path(folder), names[number], (4, 4, 4)) for number in numbers]
            assert np.array_equal(tiles.numpy(), np.concatenate([np.stack(one) for one in alone]))
            assert owner.tolist() == [place for place, one in enumerate(alone) for _ in one]
            assert len(numbers) == 1 or sum(map(len, alone[:-1])) < at_once
        assert [number for numbers, _, _ in found for number in numbers] == list(range(len(depths)))
