"""What tests share: a small phantom dataset and the real scans."""

import os
from pathlib import Path

import pytest

from odiff.phantom import write_phantom_dataset


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory):
    """Six tiny knees, four with masks, and two held out; shared, so do not change it."""
    folder = tmp_path_factory.mktemp("phantom") / "Dataset001_Knee"
    write_phantom_dataset(folder, joint="knee", cases=6, seed=1, test_cases=2, masked_cases=4, size="tiny")
    return folder


@pytest.fixture()
def real_data():
    """The folder of real scans."""
    folder = os.environ.get("ODIFF_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set ODIFF_TEST_DATA to the folder of real scans to run this test")
    return Path(folder)
