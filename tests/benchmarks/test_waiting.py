"""Processes that wait for one another."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from claim_parts.waiting import run_waiting

NEEDS = {"c": ["a"], "d": ["c", "elsewhere"], "a": [], "b": []}


def starter(begun, ends, fails=()):
    def start(name):
        begun.append(name)
        code = f"import pathlib, sys; pathlib.Path({str(ends)!r}, {name!r}).touch(); sys.exit({int(name in fails)})"
        return subprocess.Popen([sys.executable, "-c", code])

    return start


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_is_needed_has_ended_before_what_needs_it_starts(tmp_path, jobs):
    begun, ended_before = [], {}
    start = starter(begun, tmp_path)

    def watch(name):
        ended_before[name] = {path.name for path in tmp_path.iterdir()}
        return start(name)

    assert run_waiting(NEEDS, watch, jobs, 60.0) == []
    assert sorted(begun) == list("abcd")
    assert "a" in ended_before["c"] and "c" in ended_before["d"]
    assert begun[0] == "a", "the first that waits for nothing"


def test_what_needs_a_failure_is_left_and_the_rest_is_done(tmp_path):
    begun = []
    assert run_waiting(NEEDS, starter(begun, tmp_path, fails="a"), 2, 60.0) == ["a"]
    assert sorted(begun) == ["a", "b"]


def test_no_more_run_at_once_than_are_asked_for():
    running, most = [], 0

    def start(name):
        nonlocal most
        running[:] = [one for one in running if one.poll() is None]
        running.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(.2)"]))
        most = max(most, len(running))
        return running[-1]

    run_waiting(dict.fromkeys("abcdef", ()), start, 2, 60.0)
    assert most == 2


def test_nothing_is_started_when_the_time_is_up():
    begun = []
    started = time.monotonic()
    assert run_waiting({"a": []}, begun.append, 1, -1.0) == []
    assert begun == [] and time.monotonic() - started < 5
