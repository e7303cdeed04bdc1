"""odiff_train DATASET VIEW: pretrain and fine-tune one view, or fuse."""

import argparse
import sys
from collections.abc import Sequence

from odiff.cli.runner import DONE, Roots, add_roots, parser, roots_of, run
from odiff.geometry import VIEWS
from odiff.vocabulary import AUTO, BASELINES, FUSED, PRECISIONS, TASKS


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, return the exit code."""
    arguments = _parser().parse_args(argv)
    return run("odiff_train", lambda: _body(arguments, roots_of(arguments)), arguments.verbose)


def _parser() -> argparse.ArgumentParser:
    result = parser(
        "Train one view: pretraining, segmentation, diagnosis. The same command resumes what was interrupted."
    )
    result.add_argument("dataset", help="1, 001 or Dataset001_Name")
    result.add_argument("view", choices=(*VIEWS, FUSED), help="one of the plan's views, or fused")
    result.add_argument(
        "--task",
        choices=TASKS,
        help="default: pretrain if missing, then every task that has labels; fused: pretrain (the views' shared code), diagnosis",
    )
    result.add_argument("--fold", help="0 to 4, or all for every case without validation (default: all five in turn)")
    result.add_argument(
        "--pretrained",
        default="auto",
        metavar="auto|none|PATH|DATASET",
        help="what to fine-tune from (default: %(default)s)",
    )
    result.add_argument(
        "--set", nargs="+", default=[], action="extend", metavar="FIELD=VALUE", help="override plan fields"
    )
    result.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    result.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    result.add_argument(
        "--precision",
        choices=(AUTO, *PRECISIONS),
        default=AUTO,
        help="type to compute in (default: what is fastest here)",
    )
    result.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: the cores that may be used)")
    result.add_argument("--workers", type=int, help="processes that load data (default: 0 without a GPU, else up to 8)")
    result.add_argument(
        "--label-fraction", type=float, default=1.0, metavar="F", help="train on this share of labelled patients"
    )
    result.add_argument(
        "--baseline",
        choices=BASELINES,
        help="train this network of MONAI from scratch instead; results go to PLAN_BASELINE",
    )
    result.add_argument("--validate-only", action="store_true", help="predict and score the validation cases again")
    result.add_argument(
        "--restart",
        action="store_true",
        help="move earlier runs aside and start anew; pretraining only where --task pretrain names it",
    )
    add_roots(result, "preprocessed", "results")
    return result


def _body(arguments: argparse.Namespace, roots: Roots) -> int:
    from odiff.learning.asked import TrainOptions
    from odiff.learning.run import RunSettings
    from odiff.learning.stages import train_view
    from odiff.training.device import choose_device, loading_processes, use_cores
    from odiff.training.precision import fix_precision

    device = choose_device(arguments.device)
    fix_precision(arguments.precision, device)
    use_cores(arguments.threads)
    options = TrainOptions(
        arguments.task, arguments.fold, arguments.pretrained, arguments.label_fraction, arguments.validate_only,
        arguments.baseline,
    )  # fmt: skip
    settings = RunSettings(arguments.seed, device, loading_processes(device, arguments.workers), arguments.restart)
    context = train_view(
        roots.need("preprocessed"),
        roots.need("results"),
        arguments.dataset,
        arguments.view,
        options,
        settings,
        tuple(arguments.set),
    )
    sys.stdout.write(f"done: {context.results.path / arguments.view}\n")
    return DONE
