"""Files are whole or absent."""

import errno
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from odiff.cli.runner import run
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


def test_a_file_where_a_folder_should_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.json", tmp_path / "file" / "b" / "a.json"):
        with pytest.raises(StorageError, match=r"file and no folder|file is where its folder"):
            write_json(path, {})


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_what_may_not_be_read_is_told_without_a_traceback(capsys, number):
    def body():
        raise PermissionError(number, "no", "/somewhere/locked")

    assert run("odiff_test", body) == 2
    assert "/somewhere/locked: you may not read or write it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "ask",
    [
        lambda: np.empty(2**50, np.uint8),
        lambda: torch.empty(2**50, dtype=torch.uint8),
        lambda: fails(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it")),
        lambda: fails(RuntimeError("CUDA error: out of memory")),
        lambda: fails(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
        lambda: list(DataLoader(KillsItself(), num_workers=1)),
        lambda: fails(OSError(errno.ENOMEM, "Cannot allocate memory")),
    ],
    ids=["numpy", "torch", "gpu", "driver", "cublas", "worker", "fork"],
)
def test_too_little_memory_is_told_with_what_to_do(capsys, ask):
    assert run("odiff_test", ask) == 2
    said = capsys.readouterr().err
    assert said.startswith("odiff_test: error: not enough memory (") and "--memory-gb" in said and said.count("\n") == 1


class KillsItself(Dataset):
    """As the system kills a process that takes too much."""

    def __len__(self):
        return 4

    def __getitem__(self, number):
        os.kill(os.getpid(), signal.SIGKILL)


def fails(error):
    """What torch raises, which no GPU is needed for."""
    raise error


def test_other_faults_of_torch_stay_bugs():
    with pytest.raises(RuntimeError, match="must match"):
        run("odiff_test", lambda: torch.ones(2) + torch.ones(3))
