"""odiff_evaluate: score predictions, choose after cross-validation, or compare two evaluations."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from odiff.cli.runner import DONE, SOME_FAILED, Roots, add_roots, parser, roots_of, run
from odiff.dataset import DatasetDescription, find_dataset, parse_description, read_description
from odiff.dataset.description import ADVICE
from odiff.errors import CheckpointError, DatasetError, UsageError
from odiff.metrics.bootstrap import REPEATS
from odiff.storage import read_json
from odiff.vocabulary import EVALUATION

if TYPE_CHECKING:
    from odiff.inference.evaluate.run import EvaluateOptions

CURVE = "--label-efficiency"
USES = "give -p PREDICTIONS with -d DATASET or --dataset-json FILE, -d DATASET alone after cross-validation, or --compare A B"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, evaluate, return the exit code; ``--label-efficiency`` has flags of its own."""
    given = sys.argv[1:] if argv is None else list(argv)
    if CURVE in given:
        from odiff.inference.label_efficiency_command import main as curve  # imports what training needs

        return curve([argument for argument in given if argument != CURVE])
    arguments = _parser().parse_args(given)
    return run("odiff_evaluate", lambda: _body(arguments, roots_of(arguments)), arguments.verbose)


def _parser() -> argparse.ArgumentParser:
    result = parser(
        "Score predictions against references (-p); or, after cross-validation, score all trained variants out of fold, name the "
        "best and the command to predict with (-d alone); or test two evaluations against each other (--compare)."
    )
    result.add_argument("-p", "--predictions", type=Path, metavar="FOLDER", help="an output folder of odiff_predict")
    result.add_argument("-r", "--references", type=Path, metavar="FOLDER", help="label files named as the predictions")
    result.add_argument("-d", "--dataset", help="1, 001 or Dataset001_Name: its dataset.json and cases.csv are used")
    result.add_argument("--dataset-json", type=Path, metavar="FILE", help="a dataset.json in place of -d")
    result.add_argument(
        "--cases",
        type=Path,
        metavar="FILE",
        help="known diagnoses, patients, groups (default: cases.csv by -r, or of -d)",
    )
    result.add_argument(
        "--compare", type=Path, nargs="+", metavar="FOLDER", help="evaluations to test against the first"
    )
    result.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"default: PREDICTIONS/{EVALUATION}; --compare writes only with -o",
    )
    result.add_argument(
        CURVE,
        action="store_true",
        help=f"the score at 1 to 100 %% of the labels, and nothing else; its flags: odiff_evaluate {CURVE} --help",
    )
    result.add_argument("--allow-missing", action="store_true", help="leave out references that have no prediction")
    result.add_argument("--bootstrap", type=int, default=REPEATS, metavar="N", help="samples (default: %(default)s)")
    result.add_argument("-np", "--processes", type=int, default=2, metavar="N", help="default: %(default)s")
    add_roots(result, "raw", "preprocessed", "results")
    return result


def _body(arguments: argparse.Namespace, roots: Roots) -> int:
    check_uses(arguments)
    from odiff.inference.evaluate.references import References
    from odiff.inference.evaluate.run import EvaluateOptions, compare, evaluate_predictions

    options = EvaluateOptions(arguments.allow_missing, arguments.processes, arguments.bootstrap)
    if arguments.compare:
        compare(arguments.compare, arguments.output, arguments.bootstrap, sys.stdout.write)
        return DONE
    if not arguments.predictions:
        return _cross_validation(arguments, roots, options)
    description, folder = find_description(arguments, roots)
    references = References(description, arguments.references, arguments.cases, folder)
    output = arguments.output or arguments.predictions / EVALUATION
    _, failed = evaluate_predictions(arguments.predictions, references, output, options, sys.stdout.write)
    for message in failed:
        sys.stderr.write(f"odiff_evaluate: failed: {message}\n")
    return SOME_FAILED if failed else DONE


def check_uses(arguments: argparse.Namespace) -> None:
    """Raise a `UsageError` where the flags belong to none of the three uses, or to two."""
    if arguments.bootstrap < 1:
        raise UsageError(f"--bootstrap {arguments.bootstrap}: must be at least 1")
    others = [arguments.predictions, arguments.references, arguments.dataset, arguments.dataset_json, arguments.cases]
    if arguments.compare:
        if any(others):
            raise UsageError(f"--compare takes evaluations and no other input; {USES}")
        if len(arguments.compare) < 2:
            raise UsageError("--compare needs two evaluations or more, each an output folder of odiff_evaluate")
        return
    if arguments.dataset and arguments.dataset_json:
        raise UsageError("-d and --dataset-json name the same thing; give one of them")
    if not arguments.dataset and not (arguments.predictions and arguments.dataset_json):
        raise UsageError(USES)
    if not arguments.predictions and (arguments.references or arguments.cases or arguments.output):
        raise UsageError(f"-r, --cases and -o belong to -p PREDICTIONS; {USES}")


def _cross_validation(arguments: argparse.Namespace, roots: Roots, options: "EvaluateOptions") -> int:
    try:
        results = find_dataset(roots.need("results"), arguments.dataset)
    except DatasetError as error:
        raise CheckpointError(f"{error}; train first: odiff_train {arguments.dataset} VIEW") from None
    preprocessed = find_dataset(roots.need("preprocessed"), results.name)
    from odiff.inference.evaluate.run import evaluate_cross_validation

    given = str(arguments.results) if arguments.results else None
    evaluate_cross_validation(preprocessed, results, options, sys.stdout.write, given)
    return DONE


def find_description(arguments: argparse.Namespace, roots: Roots) -> tuple[DatasetDescription, Path | None]:
    """dataset.json as ``--dataset-json`` or ``-d`` names it, and the dataset's folder: raw where there is one, else preprocessed.

    Raises
    ------
    DatasetError
        There is no such file or dataset.
    """
    path = arguments.dataset_json
    if path:
        return parse_description(read_json(path, DatasetError, ADVICE), str(path)), None
    root = roots.raw if roots.raw or not roots.preprocessed else roots.preprocessed
    folder = find_dataset(root or roots.need("raw"), arguments.dataset)
    return read_description(folder), folder
