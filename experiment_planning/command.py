"""odiff_plan_and_preprocess: verify, fingerprint, plan, preprocess."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from odiff.cli.runner import Roots, add_roots, parser, roots_of, run
from odiff.experiment_planning.parallel import warm_up
from odiff.geometry import VIEWS


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, plan each dataset, return the exit code."""
    arguments = _parser().parse_args(argv)
    return run("odiff_plan_and_preprocess", lambda: _body(arguments, roots_of(arguments)), arguments.verbose)


def _parser() -> argparse.ArgumentParser:
    result = parser("Verify datasets, measure them, plan, and preprocess. A second run does only what is missing.")
    result.add_argument(
        "-d", "--datasets", nargs="+", required=True, metavar="DATASET", help="1, 001 or Dataset001_Name"
    )
    result.add_argument("--preset", default="default", help="where to start from (default: %(default)s; see plans/)")
    result.add_argument(
        "--memory-gb", type=float, metavar="GB", help="memory that training may take (default: most of what is free)"
    )
    result.add_argument(
        "--hours", type=float, metavar="H",
        help="plan what pretraining and one fold of each task, over all views, can learn in H hours on this machine",
    )  # fmt: skip
    result.add_argument("--views", nargs="+", choices=VIEWS, metavar="VIEW", help="plan these views only")
    result.add_argument(
        "-np", "--processes", type=int, default=2, metavar="N", help="work in N processes (default: %(default)s)"
    )
    result.add_argument(
        "--set", nargs="+", default=[], action="extend", metavar="FIELD=VALUE", help="override plan fields"
    )
    result.add_argument("--like", metavar="DATASET", help="take network and normalisation from that dataset's plan")
    result.add_argument("--device", default="auto", help="plan for this device (default: the GPU where there is one)")
    result.add_argument(
        "--dry-run", action="store_true", help="verify, measure and show the plan; write no plan, no volumes"
    )
    result.add_argument("--skip-bad", action="store_true", help="go on without the cases that have faults")
    add_roots(result, "raw", "preprocessed")
    return result


def _body(arguments: argparse.Namespace, roots: Roots) -> int:
    if arguments.processes > 1:
        warm_up()
    from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess

    options = PlanningOptions(
        preset=arguments.preset, memory_gb=arguments.memory_gb, views=tuple(arguments.views or ()),
        processes=arguments.processes, overrides=tuple(arguments.set), like=arguments.like, device=arguments.device,
        is_dry_run=arguments.dry_run, skip_bad=arguments.skip_bad, hours=arguments.hours,
    )  # fmt: skip
    raw: Path = roots.need("raw")
    for wanted in arguments.datasets:
        plan_and_preprocess(raw, roots.need("preprocessed"), wanted, options, sys.stdout.write)
    return 0
