"""From rows to ``claims.json``, ``claims.md`` and ``claims.png``."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from claim_parts.experiments import CLOCK, HIGHER, LOWER
from claim_parts.statements import CALIBRATION, LARGEST_ERROR, LEAST_DROP, SCRATCH_DROP, Rows, Statement, statements
from claim_parts.verdicts import CPU, Claim, calibration, contrast, device_of
from odiff.storage import write_text

CALIBRATED = "7_calibration"
COMMAND = "python tests/benchmarks/claims.py FOLDER --label-map FILE --rows docs/claims --only {only}"


@dataclass(frozen=True)
class Finding:
    """A claim, beside the figures that go with it and the command of its rows."""

    claim: Claim
    also: dict[str, float]
    command: str

    @property
    def is_met(self) -> bool:
        """Whether the claim is, by a shift that takes enough away to tell."""
        return self.claim.is_met and not self._is_of_weak_shift

    @property
    def verdict(self) -> str:
        """In a word, or a few."""
        if self._is_of_weak_shift and not self.claim.is_open:
            return f"**no**: too weak a shift to test ({SCRATCH_DROP} under {LEAST_DROP:g})"
        return self.claim.verdict

    @property
    def _is_of_weak_shift(self) -> bool:
        return self.also.get(SCRATCH_DROP, LEAST_DROP) < LEAST_DROP

    def to_plain(self) -> dict[str, Any]:
        """As claims.json holds it."""
        claim = self.claim
        numbers = {"difference": claim.difference, "low": claim.low, "high": claim.high, **self.also}
        return {
            "id": claim.name, **{name: round(value, 4) for name, value in numbers.items()}, "seeds": claim.seeds,
            "patients": claim.patients, "met": None if claim.is_open else self.is_met, "command": self.command,
        }  # fmt: skip


def read_rows(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows by arm and seed.

    Raises
    ------
    ValueError
        The rows are of several versions of the phantom.
    """
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    versions = Counter(json.dumps(row["generator"]) for row in rows)
    if len(versions) > 1:
        raise ValueError(f"{folder}: rows of several phantoms, {dict(versions)}; run the older ones again")
    return {(row["arm"], row["seed"]): row for row in rows}


def findings(rows: Rows, seed: int = 0) -> list[Finding]:
    """Every claim that the rows allow."""
    found = [one for statement in statements() if (one := _judge(rows, statement, seed)) is not None]
    calibrated = calibration(rows, CALIBRATION, np.random.default_rng(seed))
    if calibrated:
        (value, low, high, seeds, patients), expected = calibrated
        claim = Claim(
            CALIBRATED, "expected calibration error pooled over labels, all labels", value, low, high, seeds, patients,
            None, -np.inf, LARGEST_ERROR,
        )  # fmt: skip
        command = COMMAND.format(only="knee_diagnosis")
        found.append(Finding(claim, {"ece": value, "ece_expected": expected}, command))
    return found


def _judge(rows: Rows, statement: Statement, seed: int) -> Finding | None:
    found = contrast(rows, statement.terms(rows), statement.score, np.random.default_rng(seed))
    if found is None:
        return None
    also = {}
    for name, terms in statement.also.items():
        beside = contrast(rows, terms, statement.score, np.random.default_rng(seed))
        if beside is not None:
            also[name] = beside[0]
    claim = Claim(statement.name, statement.says, *found, statement.least, statement.low_over)
    return Finding(claim, also, COMMAND.format(only=statement.only))


def write_page(rows: Rows, folder: Path) -> list[Finding]:
    """The three files below `folder`; what was written."""
    found = findings(rows)
    generator = next(iter(rows.values()))["generator"] if rows else {}
    plain = {"generator": generator, "claims": [one.to_plain() for one in found]}
    write_text(folder / "claims.json", json.dumps(plain, indent=1) + "\n")
    draw(found, folder / "claims.png")
    write_text(folder / "claims.md", page(found, rows, generator))
    return found


def draw(found: Sequence[Finding], path: Path) -> None:
    """Each difference with its interval, and the bound that its lower end must clear."""
    figure = Figure(figsize=(8, 0.8 + 0.35 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(reversed(found)):
        claim = one.claim
        colour = "tab:grey" if claim.is_open else "tab:green" if one.is_met else "tab:red"
        axes.plot([claim.low, claim.high], [place, place], color=colour)
        axes.plot(claim.difference, place, "o", color=colour)
        bound = claim.high_under if np.isinf(claim.low_over) else claim.low_over
        axes.plot(bound, place, "|", color="black", markersize=12)
        if claim.least is not None:
            axes.plot(claim.least, place, "d", color="black", markersize=4, fillstyle="none")
    axes.set_yticks(range(len(found)), [one.claim.name for one in reversed(found)])
    axes.axvline(0, color="grey", linewidth=0.5)
    axes.set_xlabel(
        "difference, 95 % interval\nbar: bound of the interval, diamond: least difference; grey: seeds are missing"
    )
    figure.savefig(path, dpi=100, bbox_inches="tight")


def page(found: Sequence[Finding], rows: Rows, generator: dict[str, str]) -> str:
    """The text: a table of claims, and one of the arms behind them."""
    lines = [
        "# Claims", "",
        "Written by `python tests/benchmarks/claims.py FOLDER --rows docs/claims --report docs` from the rows in docs/claims; what the",
        "cohorts and arms are, and why claims fail, is in [decisions.md](decisions.md).", "",
        f"Phantom version {generator.get('version')}, hash {generator.get('hash')}. Differences are means over seeds, intervals 95 %",
        "from a bootstrap over patients and seeds.", "",
        "![differences and intervals](claims.png)", "",
        "| claim | says | difference | interval | seeds | patients | must show | met? |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for one in found:
        claim = one.claim
        beside = "".join(f"; {name} {value:.3f}" for name, value in one.also.items())
        lines.append(
            f"| `{claim.name}` | {claim.says}{beside} | {claim.difference:+.3f} | {claim.low:+.3f} to {claim.high:+.3f} | {claim.seeds} |"
            f" {claim.patients} | {claim.wanted} | {one.verdict} |"
        )
    judged = {one.claim.name for one in found}
    if missing := [name for name in (*(one.name for one in statements()), CALIBRATED) if name not in judged]:
        lines += ["", f"Rows are missing of {', '.join(f'`{name}`' for name in missing)}."]
    lines += [
        "",
        "## Arms",
        "",
        "Seconds are the median of the seeds that a CPU trained, pauses of a process included. A seed searched if it tried a rate on each",
        "side of its own; the others took over what seed 0 chose, or searched less.",
        *_clock(rows),
        "",
        "| arm | seeds | that searched | fine-tuning, s | pretraining, s | learning rate | rows from elsewhere |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in sorted({name for (name, _), row in rows.items() if "rate" in row}):
        of_arm = [row for (name, _), row in rows.items() if name == arm]
        timed = [row["seconds"] for row in of_arm if device_of(row) == CPU]
        tuning, before = (
            f"{np.median([seconds.get(what, 0.0) for seconds in timed]):.0f}" if timed else "-"
            for what in ("fine_tuning", "pretraining")
        )
        others = ", ".join(sorted({device_of(row) for row in of_arm} - {CPU}))
        rates = ", ".join(sorted({f"{row['rate']:g}" for row in of_arm}))
        searched = sum(map(has_searched, of_arm))
        lines.append(f"| {arm} | {len(of_arm)} | {searched} | {tuning} | {before} | x {rates} | {others} |")
    return "\n".join(lines) + "\n"


def has_searched(row: dict[str, Any]) -> bool:
    """Whether a row's rate was tried between others, or is the end of the grid."""
    tried, grid = sorted(map(float, row["tried"])), (*LOWER, 1.0, *HIGHER)
    return all(row["rate"] == end(grid) or row["rate"] != end(tried) for end in (min, max))


def _clock(rows: Rows) -> list[str]:
    """What the peers' time is counted in."""
    row = rows.get((CLOCK.arm, CLOCK.job.seed))
    if row is None:
        return []
    names = {"default": "pretraining", "paper": "pretraining as the paper does", "segmentation": "segmentation"}
    steps = ", ".join(f"{row['seconds'][key]:.2f} s of {name}" for key, name in names.items())
    return [f"A step takes {steps}, on one core of the CPU; peers get as long as our steps take there."]
