"""odiff_verify_dataset: list every problem of a dataset."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from odiff.cli.runner import DONE, USERS, Roots, add_roots, parser, roots_of, run
from odiff.dataset import find_dataset
from odiff.experiment_planning.verify import Report, verify_dataset


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, verify, print, return 0 without faults and 2 with."""
    arguments = _parser().parse_args(argv)
    return run("odiff_verify_dataset", lambda: _body(arguments, roots_of(arguments)), arguments.verbose)


def _parser() -> argparse.ArgumentParser:
    result = parser("List every problem of a dataset: file, field, value, and what to do.")
    result.add_argument("dataset", help="1, 001, Dataset001_Name, or a folder")
    result.add_argument(
        "-np", "--processes", type=int, default=2, metavar="N", help="read in N processes (default: %(default)s)"
    )
    result.add_argument("--splits", type=Path, metavar="FILE", help="a splits_final.json to check for leaks")
    add_roots(result, "raw")
    return result


def _body(arguments: argparse.Namespace, roots: Roots) -> int:
    given = Path(arguments.dataset)
    folder = given if (given / "dataset.json").exists() else find_dataset(roots.need("raw"), arguments.dataset)
    report = verify_dataset(folder, processes=arguments.processes, splits=arguments.splits)
    sys.stdout.write(as_text(report, folder))
    return USERS if report.faults else DONE


def as_text(report: Report, folder: Path) -> str:
    """One line per finding, and a summary."""
    lines = [f"{finding.severity}: {finding}" for finding in report.findings]
    notes = len(report.findings) - len(report.faults)
    lines.append(f"{folder}: {len(report.faults)} faults, {notes} notes")
    return "\n".join(lines) + "\n"
