"""Templates of dataset.json: the label sets of knee, ankle and shoulder, with the abbreviations of the paper's code."""

from importlib import resources

from odiff.errors import UsageError

FOLDER, ENDING = "templates", ".json"
NOTES = {"knee": "its eleven structures are this project's choice: the paper does not list its own"}


def template_names() -> list[str]:
    """The templates that are installed."""
    files = resources.files("odiff.experiment_planning").joinpath(FOLDER).iterdir()
    return sorted(file.name.removesuffix(ENDING) for file in files if file.name.endswith(ENDING))


def read_template(name: str) -> str:
    """The text of a template, as it is to become dataset.json.

    Raises
    ------
    UsageError
        There is no such template; the message lists those there are.
    """
    names = template_names()
    if name not in names:
        raise UsageError(f"--template {name}: no such template; known are {', '.join(names)}")
    file = resources.files("odiff.experiment_planning").joinpath(FOLDER).joinpath(f"{name}{ENDING}")
    return file.read_text(encoding="utf-8")
