"""Late fusion with the case table, on logits and tables whose worth is known."""

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from odiff.data.tabular import encode, fit_columns
from odiff.learning.tabular import fit_mix, held_out_logits, learn_tabular
from odiff.learning.tabular_model import TabularModel, build_table
from odiff.network.tabular import TabularFusion
from odiff.phantom import JOINTS
from odiff.phantom.table import COLUMNS, OF_WEAR, draw_table
from odiff.plan import FusionRecipe

RECIPE = FusionRecipe("concat", 1, 0.003, 0.01, tabular_steps=60, tabular_rate=0.006)
LABELS = JOINTS["knee"].diagnoses


def cohort(cases, seed):
    """Truth, rows of the phantom's table, and logits of images with an AUROC of .76 for every label."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((cases, len(LABELS))) < 0.45).astype(float)
    rows = [draw_table(dict(zip(LABELS, map(int, one), strict=True)), rng) for one in truth]
    return truth, rows, truth - 0.5 + rng.normal(0, 1, truth.shape)


def aurocs(truth, logits):
    return {name: roc_auc_score(truth[:, k], logits[:, k]) for k, name in enumerate(LABELS)}


def learnt(cohort, rows=None):
    truth, own, logits = cohort
    return learn_tabular(
        logits, truth, rows or own, [f"p{n}" for n in range(len(truth))], COLUMNS, RECIPE, seed=0
    )  # fmt: skip


def shuffled(rows):
    return [rows[number] for number in np.random.default_rng(1).permutation(len(rows))]


@pytest.fixture(scope="module")
def training():
    return cohort(300, 0)


@pytest.fixture(scope="module")
def model(training):
    return learnt(training)


@pytest.fixture(scope="module")
def unseen():
    return cohort(2000, 1)


def test_the_mix_helps_where_the_table_tells_and_leaves_the_rest(model, unseen):
    truth, rows, logits = unseen
    images, mixed = aurocs(truth, logits), aurocs(truth, model.mix(logits, rows))
    shares = dict(zip(LABELS, model.network.shares.tolist(), strict=True))
    for name in set(LABELS) & set(OF_WEAR):
        assert mixed[name] > images[name] + 0.04 and shares[name] > 0.2, name
    assert abs(mixed["EFFU"] - images["EFFU"]) < 0.01 and shares["EFFU"] < 0.01, "no column tells of an effusion"


def test_a_table_of_noise_gets_no_share_and_changes_nothing(training, unseen):
    _, rows, logits = unseen
    model = learnt(training, shuffled(training[1]))
    assert max(model.network.shares.tolist()) < 0.01
    assert np.allclose(model.mix(logits, shuffled(rows)), logits, atol=1e-3)


def test_a_case_without_a_row_keeps_the_logits_of_its_images(model, training):
    _, rows, logits = training
    mixed = model.mix(logits[:3], [{}, dict.fromkeys(COLUMNS), {"shoe_size": 43.0}])
    assert np.allclose(mixed, logits[:3])
    assert not np.allclose(model.mix(logits[:3], rows[:3]), logits[:3])


def test_missing_columns_and_new_categories_are_no_obstacle(model):
    found = model.mix(np.zeros((3, len(LABELS))), [{"age": 50.0}, {"injury": "bicycle"}, {"sex": "F"}])
    assert np.isfinite(found).all()


def test_out_of_fold_logits_of_a_patient_do_not_know_its_labels():
    truth, rows, _ = cohort(40, 2)
    patients = [f"p{number // 2}" for number in range(40)]
    columns = fit_columns(rows, COLUMNS)
    table, targets = encode(rows, columns), torch.from_numpy(truth).float()
    turned = targets.clone()
    turned[6:8] = 1 - turned[6:8]
    before, after = (held_out_logits(table, one, patients, columns, RECIPE, 0) for one in (targets, turned))
    assert np.array_equal(before[6:8], after[6:8])
    assert not np.allclose(before, after)


def test_the_mix_of_one_label_is_a_logistic_regression_on_both_logits():
    rng = np.random.default_rng(0)
    truth = (rng.random(500) < 0.5).astype(float)
    tabular, images = (truth[:, None] * (0.8, 1.2) + rng.normal(0, 1, (500, 2))).T
    share, scale, bias = fit_mix(tabular, images, truth)
    fitted = LogisticRegression(C=1e6).fit(np.stack([tabular, images], axis=1), truth)
    assert [share * scale, (1 - share) * scale, bias] == pytest.approx(
        [*fitted.coef_[0], fitted.intercept_[0]], abs=0.01
    )


def test_a_table_that_says_the_opposite_and_a_label_of_one_case_get_no_share():
    rng = np.random.default_rng(0)
    truth = (rng.random(200) < 0.5).astype(float)
    assert fit_mix(1 - 2 * truth, rng.normal(0, 1, 200), truth)[0] == 0
    assert fit_mix(np.arange(5.0), np.arange(5.0), np.array([0.0, 0, 0, 0, 1])) == (0, 1, 0)


def test_the_formula_is_that_of_the_design():
    columns = fit_columns([{"age": 20.0, "sex": "F", "injury": "fall"}, {"age": 40.0, "sex": "M"}], COLUMNS)
    torch.manual_seed(0)
    network = TabularFusion(build_table(columns, 2)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    row, images = {"age": 33.0, "sex": "M", "injury": None}, np.array([[0.3, -1.2]])
    table = encode([row], columns)
    with torch.no_grad():
        own = network.table(table.values, table.codes).numpy()
    m, scale, bias = (one.detach().numpy() for one in (network.mix, network.scale, network.bias))
    wanted = scale * (expit(m) * own + (1 - expit(m)) * images) + bias
    assert np.allclose(TabularModel(network, columns).mix(images, [row]), wanted, atol=1e-5)
    assert np.allclose(logit(network.shares.detach().numpy()), m, atol=1e-5)
