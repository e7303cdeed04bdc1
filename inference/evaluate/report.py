"""Scores as text on the screen and as one flat CSV."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from odiff.metrics.classification import MACRO, MICRO

TITLES = {
    "dice": "Dice", "hd95_mm": "HD95 mm", "assd_mm": "ASSD mm", "volume_error_ml": "volume error ml",
    "absolute_volume_error_ml": "|volume error| ml", "thickness_error_mm": "thickness error mm", "auroc": "AUROC", "ap": "AP", "f1": "F1",
    "sensitivity_at_90_specificity": "sens at 90 % spec", "brier": "Brier", "calibration_error": "ECE",
}  # fmt: skip
SHOWN = {
    "segmentation": ("dice", "hd95_mm", "assd_mm", "volume_error_ml", "thickness_error_mm"),
    "diagnosis": ("auroc", "ap", "f1", "sensitivity_at_90_specificity", "brier", "calibration_error"),
}
MAIN = {"segmentation": "dice", "diagnosis": "auroc"}
COLUMNS = ("task", "group", "value", "label", "score", "estimate", "low", "high", "patients")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text, the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def cell(scores: Mapping[str, Any], name: str) -> str:
    """``0.812 [0.78, 0.84]``; a dash where it cannot be computed or does not apply."""
    value = scores.get(name)
    if value is None:
        return "-"
    interval = scores.get(f"{name}_interval")
    return f"{value:.3f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def as_text(summary: Mapping[str, Any]) -> str:
    """A table per task, and one of the groups."""
    parts = [task_table(task, summary[task]) for task in SHOWN if task in summary]
    groups = group_table(summary.get("groups", {}))
    return "\n".join([*parts, groups] if groups else parts)


def task_table(task: str, found: Mapping[str, Any]) -> str:
    """One line per label, then macro and micro; 95 % intervals in brackets."""
    scored = {**found["labels"], MACRO: found[MACRO], MICRO: found[MICRO]}
    names = [name for name in SHOWN[task] if any(name in scores for scores in scored.values())]
    counted = task == "diagnosis"
    rows = [[task, *(["positive"] if counted else []), *(TITLES[name] for name in names)]]
    for label, scores in scored.items():
        count = f"{scores['positive']} of {scores['known']}" if "known" in scores else ""
        rows.append([label, *([count] if counted else []), *(cell(scores, name) for name in names)])
    unit = "series" if task == "segmentation" else "cases"
    return f"{found['rows']} {unit} of {found['patients']} patients, [95 % interval over patients]\n" + aligned(rows)


def group_table(groups: Mapping[str, Any]) -> str:
    """Macro Dice and macro AUROC of every group; empty without groups."""
    rows = [["group", "patients", "Dice", "AUROC"]]
    for column, values in groups.items():
        for value, tasks in values.items():
            patients = max(found["patients"] for found in tasks.values())
            cells = [_of_group(tasks.get(task), MAIN[task]) for task in SHOWN]
            rows.append([f"{column} {value}", str(patients), *cells])
    return aligned(rows) if len(rows) > 1 else ""


def _of_group(found: Mapping[str, Any] | None, name: str) -> str:
    if found is None:
        return "-"
    return cell(found[MACRO], name) if MACRO in found else "too few"


def as_csv(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Every score with its interval, one a row; a first column ``variant`` where there are several summaries."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    is_many = list(summaries) != [""]
    writer.writerow((["variant"] if is_many else []) + list(COLUMNS))
    for variant, summary in summaries.items():
        for row in flat(summary):
            writer.writerow(([variant] if is_many else []) + row)
    return text.getvalue()


def flat(summary: Mapping[str, Any]) -> Iterator[list[Any]]:
    """The rows of scores.csv; group and value are empty for all patients together."""
    for task in SHOWN:
        if task in summary:
            yield from _rows(task, "", "", summary[task])
    for column, values in summary.get("groups", {}).items():
        for value, tasks in values.items():
            for task, found in tasks.items():
                yield from _rows(task, column, value, found)


def _rows(task: str, column: str, value: str, found: Mapping[str, Any]) -> Iterator[list[Any]]:
    if MACRO not in found:
        return
    for label, scores in {**found["labels"], MACRO: found[MACRO], MICRO: found[MICRO]}.items():
        for name, estimate in scores.items():
            if name.endswith("_interval") or name in ("positive", "known"):
                continue
            low, high = scores.get(f"{name}_interval", (None, None))
            numbers = ["" if number is None else f"{number:.6g}" for number in (estimate, low, high)]
            yield [task, column, value, label, name, *numbers, found["patients"]]


def comparison_text(found: Mapping[str, Any]) -> str:
    """Differences of two evaluations, second minus first, with interval and p values."""
    lines = [f"{found['second']} minus {found['first']}\n"]
    for task in SHOWN:
        if task not in found:
            continue
        names = [name for name in SHOWN[task] if any(name in one for one in found[task]["differences"].values())]
        rows = [[task, "score", "first", "second", "difference", "p", "Wilcoxon p"]]
        for label, scores in found[task]["differences"].items():
            rows += [_difference_row(label, name, scores[name], found[task]) for name in names if name in scores]
        lines.append(
            f"{found[task]['patients']} patients shared, paired by {found[task]['paired_by']}\n" + aligned(rows)
        )
    return "\n".join(lines)


def _difference_row(label: str, name: str, one: Mapping[str, Any], task: Mapping[str, Any]) -> list[str]:
    low, high = one["interval"]
    tested = task["wilcoxon"].get(label) if name == "dice" else None
    difference = f"{one['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
    scores = [f"{one['first']:.3f}", f"{one['second']:.3f}", difference, f"{one['p']:.3g}"]
    return [label, TITLES[name], *scores, "" if tested is None else f"{tested:.3g}"]
