"""The words of the commands' flags: apart from what they mean, and the same."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from odiff import vocabulary
from odiff.inference.models import LoadedModels
from odiff.learning.fine_tuning_stage import TASK
from odiff.network.baselines import BASELINES
from odiff.training.precision import NAMES

COMMANDS = [one for one in entry_points(group="console_scripts") if one.value.startswith("odiff.")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.name)
def test_help_is_shown_without_torch(command, tmp_path):
    code = (
        f"import sys\nfrom {command.module} import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "usage:" in found.stdout and found.stdout.endswith("\nFalse\n"), found.stderr


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (vocabulary.PRECISIONS, NAMES),
        (vocabulary.BASELINES, BASELINES),
        (vocabulary.TASKS, {"pretrain", *TASK}),
        (vocabulary.PREDICTED, set(vocabulary.PREDICTED) & set(LoadedModels.__annotations__)),
    ],
    ids=["precisions", "baselines", "tasks", "predicted"],
)
def test_every_word_means_something(words, meant):
    assert set(words) == set(meant)
