"""Rows of the case table as numbers."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from odiff.data.tabular import FURTHEST, MISSING, UNSEEN, encode, fit_columns, has_table, hide_cells

KINDS = {"age": "continuous", "weight": "continuous", "injury": "categorical"}
NUMBERS = st.none() | st.floats(-1e6, 1e6)
ROWS = st.lists(
    st.fixed_dictionaries({"age": NUMBERS, "weight": NUMBERS, "injury": st.none() | st.text(max_size=3)}), max_size=12
)


def test_numbers_are_standardised_over_the_training_cases():
    ages = [20.0, 30.0, 55.0, 61.0]
    rows = [{"age": age, "weight": None, "injury": None} for age in ages]
    values = encode(rows, fit_columns(rows, KINDS)).values[:, 0]
    assert np.allclose(values.numpy(), StandardScaler().fit_transform(np.array(ages)[:, None])[:, 0])


def test_missing_and_never_seen_are_states_of_their_own():
    columns = fit_columns([{"age": 20.0, "injury": "fall"}, {"age": 40.0, "injury": "twist"}], KINDS)
    rows = [{"age": 30.0, "injury": "fall"}, {"age": None, "injury": None}, {"injury": "burn"}]
    table = encode(rows, columns)
    assert table.values[:, 2].tolist() == [0, 1, 1] and table.values[:, 0].tolist() == [0, 0, 0]
    assert table.codes[:, 0].tolist()[1:] == [MISSING, UNSEEN]
    assert table.codes[0, 0] not in (MISSING, UNSEEN)
    assert [has_table(row) for row in rows] == [True, False, True]


@settings(max_examples=60)
@given(ROWS, ROWS)
def test_any_rows_become_finite_numbers_and_known_codes(training, others):
    columns = fit_columns(training, KINDS)
    table = encode(others, columns)
    assert tuple(table.values.shape) == (len(others), 4) and tuple(table.codes.shape) == (len(others), 1)
    assert bool(torch.isfinite(table.values).all()) and float(table.values.abs().max() if others else 0) <= FURTHEST
    assert all(0 <= code < len(columns.categorical["injury"]) + 2 for code in table.codes[:, 0].tolist())


def test_hidden_cells_look_like_missing_and_unseen_ones_and_the_others_stay():
    rows = [{"age": float(number), "weight": 1.0 * number, "injury": "fall"} for number in range(400)]
    table = encode(rows, fit_columns(rows, KINDS))
    hidden = hide_cells(table, 0.5, np.random.default_rng(0))
    gone = hidden.values[:, 2] == 1
    assert 0.4 < gone.float().mean() < 0.6
    assert not hidden.values[gone, 0].any() and torch.equal(hidden.values[~gone, 0], table.values[~gone, 0])
    shares = [float((hidden.codes == code).float().mean()) for code in (MISSING, UNSEEN)]
    assert all(0.18 < share < 0.32 for share in shares)
    assert not table.values[:, 2].any() and not (hide_cells(table, 0.0, np.random.default_rng(0)).codes < 2).any()
