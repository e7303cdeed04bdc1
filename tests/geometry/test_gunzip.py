"""Files unpacked by ISA-L beside the standard library's gzip."""

import gzip
import importlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odiff.geometry import gunzip

SCAN = np.random.default_rng(0).normal(200, 60, 20000).astype("<i2").tobytes()


def outcome(open_it, path, faults):
    """The bytes of a file, or None where it is found to be damaged."""
    try:
        with open_it(path) as file:
            return file.read()
    except faults:
        return None


@given(
    level=st.sampled_from([0, 1, 6]), members=st.integers(1, 2), cut=st.none() | st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.999999), st.integers(1, 255)), max_size=3), tail=st.binary(max_size=12),
)  # fmt: skip
@settings(max_examples=300)
def test_a_file_however_damaged_is_judged_as_gzip_judges_it(tmp_path_factory, level, members, cut, flips, tail):
    content = bytearray(gzip.compress(SCAN, level) * members)
    for place, mask in flips:
        content[int(place * len(content))] ^= mask
    if cut is not None:
        content = content[: int(cut * len(content))]
    path = tmp_path_factory.getbasetemp() / "damaged.nii.gz"
    path.write_bytes(bytes(content) + tail)
    assert outcome(gunzip.open_unpacked, path, gunzip.FAULTS) == outcome(gzip.open, path, gunzip.FAULTS)


def test_plain_files_come_as_they_are(tmp_path):
    (tmp_path / "a.nii").write_bytes(SCAN)
    assert outcome(gunzip.open_unpacked, tmp_path / "a.nii", gunzip.FAULTS) == SCAN


def test_machines_without_it_use_the_standard_library(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(SCAN)[:-9])
    monkeypatch.setitem(sys.modules, "isal", None)
    try:
        without = importlib.reload(gunzip)
        assert without.fastest is gzip
        with pytest.raises(without.FAULTS):
            without.open_unpacked(path).read()
    finally:
        monkeypatch.undo()
        importlib.reload(gunzip)
