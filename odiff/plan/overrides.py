"""`--set pretrain.steps=200`: change one field of nested plain data, refusing names that do not exist."""

import copy
import json
from collections.abc import Sequence
from typing import Any

from odiff.errors import UsageError
from odiff.plan.parse import closest


def apply_overrides(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `content` with every ``dotted.path=value`` of `overrides` applied; values are JSON or bare text.

    Raises
    ------
    UsageError
        There is no ``=``, or no such field; the message names the closest one.
    """
    changed = copy.deepcopy(content)
    for override in overrides:
        path, sign, text = override.partition("=")
        if not sign or not path:
            raise UsageError(f"--set {override}: expected FIELD=VALUE, for example --set pretrain.steps=200")
        parent, key = _find(changed, path.strip(), override)
        parent[key] = _value(text)
    return changed


def _find(content: Any, path: str, override: str) -> tuple[Any, Any]:
    names = path.split(".")
    for depth, name in enumerate(names):
        where = ".".join(names[:depth]) or "the plan"
        if not isinstance(content, dict):
            raise UsageError(f"--set {override}: {where} is a single value and has no field {name!r}")
        if name not in content:
            raise UsageError(f"--set {override}: {where} has no field {name!r}{closest(name, content)}")
        if depth + 1 < len(names):
            content = content[name]
    return content, names[-1]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
