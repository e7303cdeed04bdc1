"""What tests share: a small phantom dataset and the real scans."""

import os
import shutil
from pathlib import Path

import hypothesis
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers that compute with every core each wait for one another; read when torch is imported, by commands they start too.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.phantom import write_phantom_dataset
from odiff.training.precision import AUTO, fix_precision

hypothesis.settings.register_profile("odiff", deadline=None)  # no example fails for being slow: the machine may be busy
hypothesis.settings.load_profile("odiff")


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory):
    """Six tiny knees, four with masks, and two held out; shared, so do not change it."""
    folder = tmp_path_factory.mktemp("phantom") / "Dataset001_Knee"
    write_phantom_dataset(folder, joint="knee", cases=6, seed=1, test_cases=2, masked_cases=4, size="tiny")
    return folder


@pytest.fixture(scope="session")
def planned(phantom_dataset, tmp_path_factory):
    """Roots of raw, preprocessed and results, the phantom planned for two views; copy it before writing to it."""
    root = tmp_path_factory.mktemp("planned")
    shutil.copytree(phantom_dataset, root / "raw" / phantom_dataset.name)
    options = PlanningOptions(preset="cpu_demo", views=("sagittal", "axial"), processes=1)
    plan_and_preprocess(root / "raw", root / "preprocessed", "1", options, lambda _: None)
    return root


@pytest.fixture()
def real_data():
    """The folder of real scans."""
    folder = os.environ.get("ODIFF_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set ODIFF_TEST_DATA to the folder of real scans to run this test")
    return Path(folder)


@pytest.fixture
def in_float32():
    """The same rounding on every processor."""
    fix_precision("float32", torch.device("cpu"))
    yield
    fix_precision(AUTO, torch.device("cpu"))
