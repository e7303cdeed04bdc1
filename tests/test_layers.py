"""Imports point down: a package knows only those below it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    ("odiff.errors",), ("odiff.storage",), ("odiff.geometry", "odiff.plan"), ("odiff.dataset", "odiff.diffusion", "odiff.metrics"),
    ("odiff.cli.runner",), ("odiff.phantom", "odiff.network"), ("odiff.data",), ("odiff.training",), ("odiff.learning",),
    ("odiff.experiment_planning", "odiff.cli"), ("odiff.inference",), ("odiff.api",),
)  # fmt: skip
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FOLDERS = ("odiff", "experiment_planning", "inference")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def layer_of(module: str) -> str | None:
    known = [name for name in RANK if module == name or module.startswith(name + ".")]
    return max(known, key=len, default=None)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "odiff" else ("odiff", *parts)).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return {name for name in found if name.startswith("odiff.")}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_from_its_own_layer_and_below(path):
    own = layer_of(module_of(path))
    if own is None:
        return
    for name in imports_of(path):
        other = layer_of(name)
        if other is not None and other != own:
            assert RANK[other] < RANK[own], f"{module_of(path)} imports {name}"
