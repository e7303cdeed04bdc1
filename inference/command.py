"""odiff_predict: folder to folder."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from odiff.cli.runner import DONE, SOME_FAILED, Roots, add_roots, parser, roots_of, run
from odiff.dataset import find_dataset
from odiff.errors import CheckpointError, DatasetError, UsageError
from odiff.geometry import VIEWS
from odiff.vocabulary import AUTO, CHECKPOINTS, FUSED, PRECISIONS, PREDICTED

USUAL_PLAN = "default"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, predict, return the exit code."""
    arguments = _parser().parse_args(argv)
    return run("odiff_predict", lambda: _body(arguments, roots_of(arguments)), arguments.verbose)


def _parser() -> argparse.ArgumentParser:
    result = parser("Segment and diagnose every case of a folder. A second call does only what is missing.")
    result.add_argument(
        "-i", "--input", type=Path, required=True, metavar="IN", help="images <case>_<view>[_<k>], maybe cases.csv"
    )
    result.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="takes segmentations and diagnosis.csv"
    )
    model = result.add_mutually_exclusive_group(required=True)
    model.add_argument("-d", "--dataset", help="the dataset trained on: 1, 001 or Dataset001_Name")
    model.add_argument("-m", "--model", type=Path, metavar="FOLDER", help="a model folder: odiff_results/DATASET/PLAN")
    result.add_argument("-p", "--plan", help=f"with -d: the plan's name (default: {USUAL_PLAN}, or the only one)")
    result.add_argument(
        "-f", "--folds", nargs="+", metavar="FOLD", help="folds to ensemble (default: all that are trained)"
    )
    result.add_argument("--task", choices=PREDICTED, help="only one of the tasks (default: all that are trained)")
    result.add_argument(
        "--diagnose-by", choices=(*VIEWS, FUSED), help="default: fused where it is trained, else the mean of the views"
    )
    result.add_argument("--checkpoint", choices=CHECKPOINTS, default="final", help="default: %(default)s")
    result.add_argument(
        "--step-size", type=float, default=0.5, metavar="S", help="distance of tiles in patches (default: %(default)s)"
    )
    result.add_argument(
        "--save-probabilities", action="store_true", help="also write <case>_<view>.npz with class probabilities"
    )
    result.add_argument(
        "--fuse-segmentation",
        action="store_true",
        help="also write OUT/fused/: probabilities of all views of a case, averaged where they overlap",
    )
    result.add_argument("--disable-tta", action="store_true", help="no mirroring at test time")
    result.add_argument(
        "--cases", type=Path, metavar="FILE", help="a case table with laterality, in place of IN/cases.csv"
    )
    result.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    result.add_argument(
        "--precision",
        choices=(AUTO, *PRECISIONS),
        default=AUTO,
        help="type to compute in (default: what is fastest here)",
    )
    result.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: the cores that may be used)")
    add_roots(result, "results")
    return result


def _body(arguments: argparse.Namespace, roots: Roots) -> int:
    if not 0 < arguments.step_size <= 1:
        raise UsageError(f"--step-size {arguments.step_size}: must be above 0 and at most 1")
    model = arguments.model or model_folder(roots.need("results"), arguments.dataset, arguments.plan)
    if not model.is_dir():
        raise CheckpointError(f"{model}: no such model folder; train one first with odiff_train")
    from odiff.inference.predict import predict_folder
    from odiff.inference.predictor import Predictor
    from odiff.training.device import choose_device, use_cores
    from odiff.training.precision import fix_precision

    device = choose_device(arguments.device)
    fix_precision(arguments.precision, device)
    use_cores(arguments.threads)
    predictor = Predictor(
        model,
        folds=arguments.folds,
        checkpoint=arguments.checkpoint,
        device=device,
        step_size=arguments.step_size,
        is_mirroring=not arguments.disable_tta,
        tasks=(arguments.task,) if arguments.task else PREDICTED,
        diagnose_by=arguments.diagnose_by,
    )
    outcome = predict_folder(
        predictor,
        arguments.input,
        arguments.output,
        cases_file=arguments.cases,
        save_probabilities=arguments.save_probabilities,
    )
    for note in outcome.notes:
        sys.stdout.write(f"note: {note}\n")
    sys.stdout.write(f"model: {model}\n")
    sys.stdout.write(
        f"{outcome.segmented} series segmented, {outcome.diagnosed} cases diagnosed, {outcome.skipped} cases done before "
        f"-> {arguments.output}\n"
    )
    failed = outcome.failed
    if arguments.fuse_segmentation:
        from odiff.inference.fuse_views import fuse_folder

        written, unread = fuse_folder(predictor, arguments.input, arguments.output, arguments.cases)
        failed = tuple(dict.fromkeys((*failed, *unread)))
        sys.stdout.write(f"{written} fused segmentations -> {arguments.output / 'fused'}\n")
    for message in failed:
        sys.stderr.write(f"odiff_predict: failed: {message}\n")
    return SOME_FAILED if failed else DONE


def model_folder(results: Path, wanted: str, plan: str | None) -> Path:
    """The model folder of a dataset: that of `plan`; without one the usual one, or the only one there is.

    Raises
    ------
    CheckpointError
        Nothing was trained on the dataset, or no plan is called `plan`, or there are several and none is the usual one.
    """
    try:
        folder = find_dataset(results, wanted)
    except DatasetError as error:
        raise CheckpointError(f"{error}; train first: odiff_train {wanted} VIEW") from None
    if (folder / (plan or USUAL_PLAN)).is_dir():
        return folder / (plan or USUAL_PLAN)
    from odiff.inference.models import plan_folders

    plans = [path.name for path in plan_folders(folder)]
    if plan is None and len(plans) == 1:
        return folder / plans[0]
    raise CheckpointError(
        f"{folder}: no plan {plan or USUAL_PLAN}; there: {', '.join(plans) or 'nothing'}; choose one with -p, or train first"
    )
