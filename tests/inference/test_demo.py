"""The demo computes where it is told to."""

import pytest
import torch

from odiff.errors import UsageError
from odiff.inference.demo import command, dataset
from odiff.inference.demo.dataset import write_dataset

RESULT = {
    "dice": dict.fromkeys(("model", "floor", "untrained"), 0.5), "auroc": dict.fromkeys(("model", "floor", "untrained")),
    "auroc_per_label": {}, "seconds": 1.0, "peak_memory_gb": 1.0,
}  # fmt: skip


def test_the_device_and_the_seed_that_are_named_are_the_ones_that_train(monkeypatch, tmp_path, capsys):
    seen = []
    monkeypatch.setattr(
        "odiff.inference.demo.pipeline.run_demo", lambda folder, settings, say: seen.append(settings) or RESULT
    )
    assert command.main(["-o", str(tmp_path), "--device", "cpu", "--seed", "3"]) == 0
    assert [(one.device, one.seed) for one in seen] == [(torch.device("cpu"), 3)]
    assert "0.500" in capsys.readouterr().out


@pytest.mark.parametrize("device", ["cuda:97", "abacus"])
def test_a_device_that_is_not_there_is_named_before_anything_is_written(device, tmp_path, capsys):
    assert command.main(["-o", str(tmp_path / "demo"), "--device", device]) == 2
    assert f"--device {device}: cannot be used here" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_dataset_that_was_interrupted_is_written_anew(monkeypatch, tmp_path):
    def cut_short(folder, **settings):
        (folder / "imagesTr").mkdir(parents=True)
        raise KeyboardInterrupt

    folder = tmp_path / "knees"
    with monkeypatch.context() as patched:
        patched.setattr(dataset, "write_phantom_dataset", cut_short)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(folder, joint="knee", cases=1, seed=0)
    write_dataset(folder, joint="knee", cases=1, seed=0, size="tiny")
    assert sorted(path.name for path in folder.iterdir()) == ["cases.csv", "dataset.json", "imagesTr", "labelsTr"]
    with pytest.raises(UsageError, match="not empty"):
        write_dataset(folder, joint="knee", cases=1, seed=0)
    with pytest.raises(UsageError, match="--seed -1"):
        write_dataset(tmp_path / "other", joint="knee", cases=1, seed=-1)
