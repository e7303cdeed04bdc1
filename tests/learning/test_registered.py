"""A diagnosis sees a joint at the template's place, in warm-up, training and prediction alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from odiff.data.batches import whole_view
from odiff.data.store import write_array
from odiff.learning import diagnosis
from odiff.learning.context import open_context
from odiff.learning.diagnose import build_diagnosis, embed_volume, load_diagnosis
from odiff.learning.diagnosis_data import items_of
from odiff.learning.embedding import embed_series
from odiff.learning.run import RunSettings
from odiff.learning.subsets import share_of
from odiff.learning.warm_up import cache_features, fit_template
from odiff.network.diagnosis import DiagnosisNetwork, FeatureChoice
from odiff.network.registration import moved, outlines

CHOICE = FeatureChoice(50, ("encoder_0",))
CPU = torch.device("cpu")
NEAR = 0.003  # volumes are read between voxels


@pytest.fixture(scope="module")
def context(planned, tmp_path_factory):
    changes = ["diagnosis.registered=true", "diagnosis.head_steps=2", "diagnosis.steps=2", "diagnosis.probe_cases=0"]
    return open_context(planned / "preprocessed", tmp_path_factory.mktemp("r"), "1", changes)


@pytest.fixture(scope="module")
def items(context):
    return items_of(context.dataset.cases, "axial", context.plan.diagnoses)


@pytest.fixture
def network(context, items):
    torch.manual_seed(0)
    found = build_diagnosis(context.plan, "axial", CHOICE).eval()
    fit_template(found, context.prepared("axial"), items, context.plan.views["axial"])
    return found


@pytest.fixture
def twice(context, items, network, tmp_path):
    """The middle of a volume, which becomes the template, and the same moved, as preprocessed series: only air is lost."""
    plan = context.plan.views["axial"]
    tile = torch.from_numpy(whole_view(context.prepared("axial"), items[0].series[0], plan.patch_zyx)[0])[None]
    air = torch.full_like(tile, float(tile.min()))
    margin = [max(1, size // 4) for size in plan.patch_zyx]
    inner = tuple(slice(by, size - by) for by, size in zip(margin, plan.patch_zyx, strict=True))
    air[(..., *inner)] = tile[(..., *inner)]
    network.registration.fit(outlines(air))
    for name, volume in (("home", air), ("away", moved(air, torch.tensor([[0, -2, 3]])))):
        write_array(tmp_path / f"{name}.b2nd", volume[0, 0].numpy().astype(np.float16))
    return tmp_path


def apart(one, other):
    """How far two are apart on average."""
    return (one - other).abs().mean()


def test_a_moved_volume_has_the_features_and_the_embedding_of_the_one_in_place(context, items, network, twice):
    plan = context.plan.views["axial"]
    at = [replace(items[0], series=(name,)) for name in ("home", "away")]
    found = cache_features(network, twice, at, plan).blocks["encoder_0"]
    assert apart(*found) < NEAR
    home, away = (
        embed_volume(network, whole_view(twice, n, plan.patch_zyx), context.plan, "axial") for n in ("home", "away")
    )
    assert apart(home, away) < NEAR
    network.registration = None
    unmoved = cache_features(network, twice, at, plan).blocks["encoder_0"]
    assert apart(*unmoved) > 20 * NEAR


def test_series_embedded_together_are_as_those_embedded_alone(context, network, in_float32):
    plan, prepared = context.plan, context.prepared("axial")
    names = [case.of_view("axial")[0].name for case in context.dataset.cases]
    together = embed_series(network, prepared, names, plan, "axial")
    patch = plan.views["axial"].patch_zyx
    alone = torch.stack([embed_volume(network, whole_view(prepared, n, patch), plan, "axial") for n in names])
    assert len(names) > plan.diagnosis.batch_size  # more than one batch of them
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-4) and apart(alone[0], alone[1]) > 1e-2


def test_training_sees_moved_volumes_and_keeps_the_template(context, tmp_path, monkeypatch):
    seen = []
    placed = DiagnosisNetwork.placed

    def spied(network, tiles, owner):
        seen.append(len(tiles))
        return placed(network, tiles, owner)

    monkeypatch.setattr(DiagnosisNetwork, "placed", spied)
    cases = context.dataset.cases
    share = share_of(cases, 1.0, context.plan.diagnoses)
    run = diagnosis.train_diagnosis(
        context, "axial", "0", cases, (), tmp_path / "run", None, RunSettings(0, CPU, 0), share
    )
    warm_up = seen[:-2]  # before one batch a step
    assert sum(warm_up) == len(cases) and max(warm_up) == context.plan.diagnosis.batch_size
    trained = load_diagnosis(run.checkpoint("final"), context.plan, "axial", CPU)
    assert trained.registration.template.any()
    norms = [pool.channel_norm for pool in trained.head.pools.values()]
    assert all((norm.scale != 1).all() and norm.mean.any() for norm in norms)
