"""Label efficiency: a score at 1, 5, 10, 25, 50 and 100 % of the labels."""

import argparse
import sys
from collections.abc import Sequence

from odiff.cli.runner import DONE, Roots, add_roots, parser, roots_of, run
from odiff.geometry import VIEWS
from odiff.inference.curve import MEAN, PICTURE, TABLE, curve_text, write_curve
from odiff.inference.label_efficiency import FRACTIONS, collect_curve, run_curve
from odiff.learning.context import open_context
from odiff.learning.run import RunSettings
from odiff.training.device import choose_device, loading_processes, use_cores
from odiff.training.precision import fix_precision
from odiff.vocabulary import AUTO, FUSED, PRECISIONS


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train where asked, collect, return the exit code."""
    arguments = _parser().parse_args(argv)
    return run("odiff_evaluate", lambda: _body(arguments, roots_of(arguments)), arguments.verbose)


def _parser() -> argparse.ArgumentParser:
    result = parser("The score at growing shares of the labels, with intervals, as a table, a CSV file and a picture.")
    result.add_argument("-d", "--dataset", required=True, help="1, 001 or Dataset001_Name")
    result.add_argument("--view", required=True, choices=(*VIEWS, FUSED), help="one of the plan's views, or fused")
    result.add_argument("--task", choices=tuple(MEAN), default="diagnosis", help="default: %(default)s")
    result.add_argument(
        "--fractions",
        type=float,
        nargs="+",
        default=list(FRACTIONS),
        metavar="F",
        help="default: 0.01 0.05 0.1 0.25 0.5 1",
    )
    result.add_argument("--fold", help="this fold alone (default: all that are trained; with --run, all)")
    result.add_argument("--run", action="store_true", help="train what is missing of the curve")
    result.add_argument(
        "--pretrained", default="auto", metavar="auto|none|PATH|DATASET", help="as odiff_train (with --run)"
    )
    result.add_argument(
        "--set", nargs="+", default=[], action="extend", metavar="FIELD=VALUE", help="override plan fields (with --run)"
    )
    result.add_argument(
        "--seed", type=int, default=0, help="of the order of patients and the training (default: %(default)s)"
    )
    result.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    result.add_argument(
        "--precision", choices=(AUTO, *PRECISIONS), default=AUTO, help="type to compute in (default: the fastest)"
    )
    result.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: the cores that may be used)")
    add_roots(result, "preprocessed", "results")
    return result


def _body(arguments: argparse.Namespace, roots: Roots) -> int:
    preprocessed, results = roots.need("preprocessed"), roots.need("results")
    overrides, fractions = tuple(arguments.set), tuple(sorted(set(arguments.fractions)))
    if arguments.run:
        device = choose_device(arguments.device)
        fix_precision(arguments.precision, device)
        use_cores(arguments.threads)
        run_curve(
            preprocessed, results, arguments.dataset, arguments.view, arguments.task,
            RunSettings(arguments.seed, device, loading_processes(device)), fractions, arguments.fold, arguments.pretrained,
            overrides,
        )  # fmt: skip
    context = open_context(preprocessed, results, arguments.dataset, overrides)
    context.view_plan_exists(arguments.view)
    points = collect_curve(context, arguments.view, arguments.task, fractions, arguments.fold, arguments.seed)
    folder = context.results.of_task(arguments.view, arguments.task)
    write_curve(folder, points, arguments.task)
    sys.stdout.write(curve_text(points, arguments.task))
    sys.stdout.write(f"-> {folder / TABLE}, {folder / PICTURE}\n")
    return DONE
