"""What of a plan the arrays of a view were made with, beside them, so that nothing is trained on arrays of another plan."""

from pathlib import Path
from typing import Any

from odiff.errors import PlanError
from odiff.plan import Plan, to_plain
from odiff.storage import read_json, write_json

FILE = "preprocessing.json"


def recipe_of(plan: Plan, view: str) -> dict[str, Any]:
    """Every field of a plan that preprocessing of a view reads, as JSON holds it."""
    one = plan.views[view]
    shape = {"patch_zyx": one.patch_zyx} if one.grid != "canonical" else {}
    fields = {
        "spacing_zyx_mm": one.spacing_zyx_mm, "normalisation": one.normalisation, "grid": one.grid, **shape,
        "flip_left_joints": plan.flip_left_joints, "ignore_label": plan.ignore_label, "sparse_slices": plan.sparse_slices,
        "left_right": plan.left_right,
    }  # fmt: skip
    return {name: to_plain(value) for name, value in fields.items()}


def write_recipe(folder: Path, plan: Plan, view: str) -> None:
    """Write it into the folder of a view's arrays."""
    write_json(folder / FILE, recipe_of(plan, view))


def check_recipe(folder: Path, plan: Plan, view: str) -> None:
    """Raise a `PlanError` where the arrays in `folder` were made with another plan; earlier versions wrote no such file."""
    if not (folder / FILE).exists():
        return
    advice = f"preprocess again: odiff_plan_and_preprocess -d {plan.dataset}"
    stored, now = read_json(folder / FILE, PlanError, advice), recipe_of(plan, view)
    for name, value in now.items():
        if stored.get(name) != value:
            raise PlanError(
                f"{folder}: was preprocessed with {name} {stored.get(name)}, the plan of view {view} has {value}; {advice}, with "
                "--set where the value came from there"
            )
