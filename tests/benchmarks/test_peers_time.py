"""Which row tells how long an arm takes, so that its peers get as long."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from claim_parts.experiments import ALL, DEFAULT, FEW, SEGMENTED, Experiment, cpu_seconds
from claim_parts.training import Job

OURS = Experiment(Job("knee", DEFAULT, "knee", ALL, 1), "segmentation", SEGMENTED)


def row_of(fraction, seed, seconds, **device):
    job = replace(OURS.job, fraction=fraction, seed=seed)
    return {(replace(OURS, job=job).arm, seed): {"seconds": {"fine_tuning": seconds}, **device}}


def test_peers_get_what_an_arm_took_on_the_cpu_its_own_row_first():
    rows = row_of(FEW, 0, 1.0)
    assert cpu_seconds(OURS, rows) == {"fine_tuning": 1.0}
    rows |= row_of(ALL, 0, 2.0, device="cpu")
    assert cpu_seconds(OURS, rows) == {"fine_tuning": 2.0}
    rows |= row_of(ALL, 1, 3.0, device="a GPU")
    assert cpu_seconds(OURS, rows) == {"fine_tuning": 2.0}
    rows |= row_of(ALL, 1, 4.0, device="cpu")
    assert cpu_seconds(OURS, rows) == {"fine_tuning": 4.0}


def test_without_a_row_of_the_cpu_there_is_no_time_to_give():
    with pytest.raises(SystemExit, match="run one first"):
        cpu_seconds(OURS, row_of(ALL, 1, 3.0, device="a GPU"))
