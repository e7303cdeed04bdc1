"""Label maps cleaned of small components."""

import numpy as np
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from odiff.data.labels import keep_largest


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.02, 0.3))
def test_the_largest_component_is_simpleitks(seed, share):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((6, 9, 10)) < share, rng.choice([3, 7], (6, 9, 10)), 0).astype(np.uint8)
    found = keep_largest(labels, [3])
    assert np.array_equal(found == 7, labels == 7)
    image = sitk.GetImageFromArray((labels == 3).astype(np.uint8))
    parts = sitk.GetArrayFromImage(sitk.ConnectedComponent(image, True))
    sizes = np.bincount(parts.ravel(), minlength=2)[1:]
    largest = np.isin(parts, 1 + np.flatnonzero(sizes == sizes.max())) & (parts > 0)
    assert np.array_equal(found == 3, largest)


def test_labels_that_are_absent_or_not_asked_for_stay_as_they_are():
    labels = np.zeros((3, 4, 5), np.int16)
    labels[0, 0, 0] = labels[2, 3, 4] = 2
    for values in ([], [5]):
        found = keep_largest(labels, values)
        assert np.array_equal(found, labels) and found is not labels
