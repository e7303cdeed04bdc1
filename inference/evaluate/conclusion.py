"""What a cross-validation comes to, as text: the variants in order, the clean-up that helps, the command to use."""

from collections.abc import Mapping, Sequence
from typing import Any

from odiff.inference.evaluate.best import Choice
from odiff.inference.evaluate.report import TITLES, aligned


def conclusion(choices: Mapping[str, Choice], decided: Mapping[str, Any], commands: Sequence[str]) -> str:
    """The last lines on the screen.

    Parameters
    ----------
    decided : by plan, view and label, Dice without and with the largest-component step, and whether it is kept.
    """
    parts = [_ranking(choice) for choice in choices.values()]
    if decided:
        parts.append(_clean_up(decided))
    return "\n".join([*parts, "predict with:\n" + "".join(f"  {command}\n" for command in commands)])


def _ranking(choice: Choice) -> str:
    rows = [
        [f"  {one.variant.name}", "-" if one.score is None else f"{one.score:.3f}", one.note] for one in choice.ranked
    ]
    title = f"{choice.task}: macro {TITLES[choice.score]} on {choice.patients} shared patients\n"
    return title + aligned(rows) + _lead(choice)


def _lead(choice: Choice) -> str:
    if choice.best is None:
        return "  none can be scored: too few patients\n"
    if choice.difference is None:
        return f"  best: {choice.best.name}; nothing to compare it with\n"
    low, high = choice.difference.interval
    return (
        f"  best: {choice.best.name}, ahead of {choice.ranked[1].variant.name} by {choice.difference.difference:.3f} "
        f"[{low:.3f}, {high:.3f}], p = {choice.difference.p:.3g}\n"
    )


def _clean_up(decided: Mapping[str, Any]) -> str:
    rows = [
        [f"  {plan}/{view}: {label}", f"{one['dice']:.4f}", "->", f"{one['largest_component_dice']:.4f}"]
        for plan, views in decided.items()
        for view, labels in views.items()
        for label, one in labels.items()
        if one["is_kept"]
    ]
    title = "structures of which only the largest component is kept, and their Dice"
    return f"{title}\n{aligned(rows)}" if rows else f"{title}: none\n"
