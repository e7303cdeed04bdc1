"""odiff_import_weights: the paper's released weights become a pretrained model."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from odiff.cli.runner import DONE, Roots, add_roots, parser, roots_of, run
from odiff.geometry import VIEWS


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, import, return the exit code."""
    arguments = _parser().parse_args(argv)
    return run("odiff_import_weights", lambda: _body(arguments, roots_of(arguments)), arguments.verbose)


def _parser() -> argparse.ArgumentParser:
    result = parser(
        "Make a pretrained model of a checkpoint that OrthoDiffusion's authors released. Nothing proves which of their files is "
        "which plane, so you say it. No code of the file is run."
    )
    result.add_argument("-i", "--input", type=Path, required=True, metavar="FILE", help="the released .pt file")
    result.add_argument("-v", "--view", choices=VIEWS, required=True, help="the plane it was trained on")
    target = result.add_mutually_exclusive_group(required=True)
    target.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="for odiff_train --pretrained FOLDER")
    target.add_argument(
        "-d", "--dataset", help="a dataset planned with --preset paper, which then starts from these weights"
    )
    add_roots(result, "preprocessed", "results")
    return result


def _body(arguments: argparse.Namespace, roots: Roots) -> int:
    from odiff.inference.import_weights import import_into_dataset, import_into_folder

    if arguments.output:
        done = import_into_folder(arguments.input, arguments.view, arguments.output)
    else:
        done = import_into_dataset(
            arguments.input, arguments.view, roots.need("preprocessed"), roots.need("results"), arguments.dataset
        )
    sys.stdout.write(f"done: {done.path}\n")
    return DONE
