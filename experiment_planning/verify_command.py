"""odiff_verify_dataset: list every problem of a dataset, or print a template to start one from."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from odiff.cli.runner import DONE, USERS, Roots, add_roots, parser, roots_of, run
from odiff.dataset import find_dataset
from odiff.experiment_planning.label_templates import NOTES, read_template
from odiff.experiment_planning.verify import Report, verify_dataset

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, verify, print, return 0 without faults and 2 with."""
    arguments = _parser().parse_args(argv)
    return run("odiff_verify_dataset", lambda: _body(arguments, roots_of(arguments)), arguments.verbose)


def _parser() -> argparse.ArgumentParser:
    result = parser("List every problem of a dataset: file, field, value, and what to do.")
    what = result.add_mutually_exclusive_group(required=True)
    what.add_argument("dataset", nargs="?", help="1, 001, Dataset001_Name, or a folder")
    what.add_argument("--template", metavar="JOINT", help="print a dataset.json to start from: knee, ankle or shoulder")
    result.add_argument(
        "-np", "--processes", type=int, default=2, metavar="N", help="read in N processes (default: %(default)s)"
    )
    result.add_argument("--splits", type=Path, metavar="FILE", help="a splits_final.json to check for leaks")
    add_roots(result, "raw")
    return result


def _body(arguments: argparse.Namespace, roots: Roots) -> int:
    if arguments.template is not None:
        sys.stdout.write(read_template(arguments.template))
        if arguments.template in NOTES:
            log.info("%s: %s", arguments.template, NOTES[arguments.template])
        return DONE
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
