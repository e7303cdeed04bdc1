"""Why a number of a view's plan is what it is, collected while planning."""

from dataclasses import dataclass
from typing import Any

from odiff.plan import Decision


@dataclass
class Reasons:
    """Collects the decisions of one view."""

    view: str
    found: list[Decision]

    def add(self, field: str, value: Any, rule: str, source: str) -> None:
        """Remember why `field` of this view is `value`."""
        self.found.append(Decision(f"views.{self.view}.{field}", value, rule, source))
