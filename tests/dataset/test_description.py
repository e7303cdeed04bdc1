"""What dataset.json says of cartilage."""

import pytest

from odiff.dataset import parse_description
from odiff.errors import DatasetError

LABELS = {"background": 0, "femur": 1, "Femoral_Cartilage": 2, "meniscus": 3}


def described(**segmentation):
    content = {"name": "Knee", "file_ending": ".nii.gz", "segmentation": {"labels": LABELS, **segmentation}}
    return parse_description(content, "dataset.json")


def test_labels_called_cartilage_are_cartilage_unless_others_are_declared():
    assert described().cartilage == ("Femoral_Cartilage",)
    assert described(cartilage=["meniscus"]).cartilage == ("meniscus",)
    assert described(cartilage=[]).cartilage == ()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["menisc"], "segmentation.cartilage: unknown label 'menisc'; did you mean 'meniscus'"),
        (["background"], "background is no cartilage"),
        ("femur", "expected a list"),
    ],
)
def test_impossible_cartilage_is_named(given, named):
    with pytest.raises(DatasetError, match=named):
        described(cartilage=given)
