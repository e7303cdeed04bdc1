"""What nnU-Net is given to learn from."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from claim_parts.nnunet import turned

from odiff.phantom import JOINTS, make_study


def test_slices_run_from_the_same_side_in_left_and_right_knees_and_in_either_order():
    found, kinds = [], set()
    for number in range(24):
        study = make_study("knee", number, 5, "tiny")
        series = study.series["sagittal"]
        array = turned(series.image, series.mask, study.laterality)
        assert np.array_equal(turned(series.image, array, study.laterality), series.mask)
        places = [
            np.argwhere(array == JOINTS["knee"].labels[f"{side}_meniscus"])[:, 0].mean()
            for side in ("medial", "lateral")
        ]
        found.append(places[0] - places[1])
        kinds.add((study.laterality, series.image.grid.direction[2] < 0))
    assert min(found) > 2 and len(kinds) == 4
