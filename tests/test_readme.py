"""What the README tells can be typed."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = {
    "odiff_verify_dataset": "odiff.experiment_planning.verify_command",
    "odiff_plan_and_preprocess": "odiff.experiment_planning.command",
    "odiff_train": "odiff.cli.train",
    "odiff_predict": "odiff.inference.command",
    "odiff_evaluate": "odiff.inference.evaluate.command",
    "odiff_convert_nnunet": "odiff.experiment_planning.nnunet.command",
    "odiff_import_weights": "odiff.inference.import_command",
    "odiff_demo": "odiff.inference.demo.command",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = sorted(
    {
        part.strip()
        for block in blocks("bash")
        for line in block.splitlines()
        for part in line.split("#")[0].split("&&")
        if part.strip().startswith("odiff_")
    }
    | {command for command in re.findall(r"`(odiff_\w+ [^`]+)`", README)}
)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme_parses(line):
    name, *arguments = shlex.split(line.split(" > ")[0].replace("DATASET VIEW", "1 axial").replace(" VIEW", " axial"))
    importlib.import_module(MODULES[name])._parser().parse_args(arguments)


def test_the_readme_names_every_command():
    assert set(MODULES) == set(
        re.findall(r"\bodiff_(?:verify|plan|train|predict|evaluate|demo|convert|import)\w*", README)
    )


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_blocks_import_what_is_there(number):
    code = blocks("python")[number]
    tree = ast.parse(code)
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(tree, "README.md", "exec"), {})


@pytest.mark.parametrize("target", re.findall(r"\]\(((?!http)[^)]+)", README))
def test_links_lead_somewhere(target):
    path, _, section = target.partition("#")
    page = ROOT / path
    assert page.exists()
    if section:
        headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert section in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
