"""predictions.csv of a run, written and read."""

import numpy as np

from odiff.data.index import PreparedCase
from odiff.learning.diagnosis_scores import read_logits, write_scores


def test_cases_named_as_pandas_names_what_is_missing_are_read_again(tmp_path):
    names, logits = ("NA", "001", "null"), np.array([[0.5], [-1.25], [2.0]])
    cases = [PreparedCase(name, name, None, (), {"ACL": 1}, {}, {}) for name in names]
    write_scores(tmp_path, cases, logits, ("ACL",), seed=0)
    assert {name: row.tolist() for name, row in read_logits(tmp_path, ("ACL",)).items()} == {
        name: row.tolist() for name, row in zip(names, logits, strict=True)
    }
