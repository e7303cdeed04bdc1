"""Files are whole or absent."""

import shutil

import pytest

from odiff.errors import StorageError
from odiff.storage import atomic_path, write_json, write_text


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "plan.json"
    write_text(path, "earlier")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": float("nan")})
    assert path.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("I/O error: No space left on device (os error 28)")]
)
def test_a_full_disk_is_the_users_however_the_library_says_it(tmp_path, error):
    with pytest.raises(StorageError, match="disk is full"), atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert not list(tmp_path.iterdir())


def test_a_library_that_hides_the_reason_is_seen_through(tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr("odiff.storage.shutil.disk_usage", lambda _: full)
    with pytest.raises(StorageError, match="disk is full"), atomic_path(tmp_path / "a.b2nd"):
        raise RuntimeError("Error while creating the NDArray")


def test_a_bug_stays_a_bug(tmp_path):
    with pytest.raises(RuntimeError, match="bug"), atomic_path(tmp_path / "a.bin"):
        raise RuntimeError("bug")
