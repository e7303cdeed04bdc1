"""plans.json on disk."""

from collections.abc import Sequence
from pathlib import Path

from odiff.errors import PlanError
from odiff.plan.bounds import check_plan
from odiff.plan.overrides import apply_overrides
from odiff.plan.parse import from_plain, to_plain
from odiff.plan.schema import SCHEMA_VERSION, Plan
from odiff.storage import read_json, write_json

REPLAN = "run odiff_plan_and_preprocess -d DATASET again"


def read_plan(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """The plan in `path` with ``--set`` overrides applied, checked.

    Raises
    ------
    PlanError
        Missing file, broken JSON, another schema version, unknown field or impossible value.
    UsageError
        An override names no field.
    """
    content = read_json(path, PlanError, REPLAN)
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        found = content.get("schema_version") if isinstance(content, dict) else content
        raise PlanError(f"{path}: schema_version is {found!r}, this odiff reads {SCHEMA_VERSION}; {REPLAN}")
    return plan_from_plain(apply_overrides(content, overrides), str(path))


def plan_from_plain(content: object, where: str) -> Plan:
    """A checked plan from what `json.load` gave; messages start with `where`."""
    plan = from_plain(Plan, content, where)
    check_plan(plan, where)
    return plan


def write_plan(path: Path, plan: Plan) -> None:
    """Write `plan` as JSON a person can read."""
    write_json(path, to_plain(plan))
