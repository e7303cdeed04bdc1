"""One look at a series verifies and measures it; workers change nothing but the time."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from odiff.dataset import dataset_series, read_description
from odiff.experiment_planning.fingerprint import fingerprint_series, is_stale
from odiff.experiment_planning.parallel import run_parallel
from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.experiment_planning.verify import survey_dataset, verify_dataset
from odiff.geometry import read_volume, write_volume


@pytest.fixture
def dataset(tmp_path, phantom_dataset):
    return shutil.copytree(phantom_dataset, tmp_path / "raw" / phantom_dataset.name)


def test_a_survey_finds_what_verification_and_fingerprint_find_apart(dataset):
    report, measured = survey_dataset(dataset, processes=1, is_measured=lambda _: True)
    description = read_description(dataset)
    series = dataset_series(dataset, description)[0]
    assert report == verify_dataset(dataset, processes=1)
    assert measured == {one.name: fingerprint_series(one, description.labels) for one in series}


def test_two_processes_find_what_one_finds(dataset):
    assert survey_dataset(dataset, processes=2, is_measured=lambda _: True) == survey_dataset(
        dataset, processes=1, is_measured=lambda _: True
    )


def test_only_the_series_asked_for_are_measured_and_none_with_a_fault(dataset):
    path = dataset / "imagesTr/knee_00001_axial.nii.gz"
    path.write_bytes(path.read_bytes()[:-400])
    report, measured = survey_dataset(dataset, processes=1, is_measured=lambda one: one.view == "axial")
    assert report.faulty_cases == {"knee_00001"}
    assert sorted(measured) == [f"knee_0000{number}_axial" for number in (0, 2, 3, 4, 5)]


def test_a_series_whose_file_changed_is_stale(dataset):
    _, measured = survey_dataset(dataset, processes=1, is_measured=lambda _: True)
    series = dataset_series(dataset, read_description(dataset))[0]
    assert not any(is_stale(one, measured) for one in series)
    volume = read_volume(series[0].image)
    write_volume(series[0].image, (volume.array + 1).astype(np.int16), volume.grid)
    assert [one.name for one in series if is_stale(one, measured)] == [series[0].name]


def test_a_second_run_measures_and_writes_nothing_anew(dataset, tmp_path):
    said: list[str] = []
    options = PlanningOptions(preset="cpu_demo", views=("axial",), processes=1)
    for _ in range(2):
        plan_and_preprocess(tmp_path / "raw", tmp_path / "preprocessed", "1", options, said.append)
    told = [line for line in said if line.startswith(("fingerprint", "preprocess"))]
    assert ["6 series measured" in told[0], "6 series done" in told[1]] == [True, True]
    assert ["0 series measured" in told[2], "0 series done, 6 up to date" in told[3]] == [True, True]


@pytest.mark.parametrize("processes", [1, 2])
def test_every_job_gives_its_result_and_the_first_error_is_raised(processes):
    assert dict(run_parallel(abs, [(-n,) for n in range(9)], processes, "test")) == {n: n for n in range(9)}
    with pytest.raises(ValueError, match="three"):
        list(run_parallel(int, [("three" if n == 3 else str(n),) for n in range(9)], processes, "test"))


@pytest.mark.skipif(sys.platform != "linux" or sys.version_info < (3, 11), reason="workers import for themselves there")
def test_workers_come_with_the_installed_package_beside_a_folder_of_its_name(tmp_path):
    (tmp_path / "here" / "odiff").mkdir(parents=True)
    (tmp_path / "here" / "odiff" / "__init__.py").write_text("raise RuntimeError('not the installed one')")
    (tmp_path / "script.py").write_text(
        "from odiff.experiment_planning.parallel import PRELOADED, run_parallel\n"
        "if __name__ == '__main__':\n"
        "    there = f\"set({PRELOADED}) <= set(__import__('sys').modules)\"\n"
        "    print(dict(run_parallel(eval, [(there,), (there,)], 2, 'test')))\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], cwd=tmp_path / "here", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in ("{0: True, 1: True}", "{1: True, 0: True}"), done.stderr
