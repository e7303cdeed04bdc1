"""odiff_convert_nnunet: the same dataset and folds for nnU-Net, or a dataset of nnU-Net for odiff."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from odiff.cli.runner import DONE, Roots, add_roots, parser, roots_of, run
from odiff.dataset import find_dataset, load_dataset, read_splits
from odiff.errors import UsageError
from odiff.experiment_planning.nnunet.layout import PREPROCESSED, SPLITS
from odiff.geometry import VIEWS


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, convert, return the exit code."""
    arguments = _parser().parse_args(argv)
    convert = _to if arguments.to else _from
    return run("odiff_convert_nnunet", lambda: convert(arguments, roots_of(arguments)), arguments.verbose)


def _parser() -> argparse.ArgumentParser:
    result = parser("Write a dataset and its folds in nnU-Net's format, one nnU-Net dataset per view, or read one.")
    way = result.add_mutually_exclusive_group(required=True)
    way.add_argument("--to", type=Path, metavar="FOLDER", help="takes nnUNet_raw/ and nnUNet_preprocessed/")
    way.add_argument("--from", dest="source", type=Path, metavar="FOLDER", help="a DatasetXXX_Name in nnUNet_raw")
    result.add_argument(
        "-d", "--dataset",
        help="with --to: the dataset to convert; with --from: the DatasetXXX_Name to write into (default: the same name)",
    )  # fmt: skip
    result.add_argument(
        "--view",
        nargs="+",
        choices=VIEWS,
        help="with --to: these views only; with --from: the one that its images are of",
    )
    result.add_argument(
        "--first-id", type=int, metavar="N", help="with --to: number of the sagittal dataset, the other views follow"
    )
    result.add_argument(
        "--splits", type=Path, metavar="FILE", help="with --from: its splits_final.json (default: beside nnUNet_raw)"
    )
    result.add_argument(
        "-np", "--processes", type=int, default=2, metavar="N", help="work in N processes (default: %(default)s)"
    )
    add_roots(result, "raw", "preprocessed")
    return result


def _to(arguments: argparse.Namespace, roots: Roots) -> int:
    if arguments.dataset is None:
        raise UsageError("--to: which dataset? give it with -d")
    from odiff.experiment_planning.nnunet.write import next_steps, write_nnunet
    from odiff.experiment_planning.preprocess import write_splits

    dataset = load_dataset(find_dataset(roots.need("raw"), arguments.dataset))
    folder = roots.need("preprocessed") / dataset.folder.name
    write_splits(dataset, folder)
    folds = []
    if (folder / SPLITS).exists():
        folds = read_splits(folder / SPLITS, {case.name: case.patient for case in dataset.cases})
    else:
        sys.stdout.write("note: labelled cases of two patients or more are needed for folds; none written\n")
    views = arguments.view or dataset.description.views
    written = write_nnunet(dataset, folds, arguments.to.resolve(), views, arguments.first_id, arguments.processes)
    next_steps(written, sys.stdout.write)
    return DONE


def _from(arguments: argparse.Namespace, roots: Roots) -> int:
    from odiff.experiment_planning.nnunet.read import open_nnunet, read_folds, read_nnunet

    source: Path = arguments.source.resolve()
    found = open_nnunet(source)
    views = arguments.view or ([found.origin.view] if found.origin else [])
    if len(views) != 1 or (found.origin and views[0] != found.origin.view):
        known = f"it was written as {found.origin.view}" if found.origin else f"one of {', '.join(VIEWS)}"
        raise UsageError(
            f"--view {' '.join(views) or 'is missing'}: which view are the images of {source.name}? {known}"
        )
    name = arguments.dataset or source.name
    if not re.fullmatch(r"Dataset\d{3,}_.+", name):
        raise UsageError(f"-d {name}: give the whole name of the folder to write, for example Dataset005_Knee")
    folder: Path = roots.need("raw") / name
    series = read_nnunet(found, views[0], folder, arguments.processes)
    sys.stdout.write(f"{folder}: {series} {views[0]} series\n")
    splits = arguments.splits or source.parent.parent / PREPROCESSED / source.name / SPLITS
    if arguments.splits or splits.exists():
        target = roots.need("preprocessed") / name / SPLITS
        patient_of = {case.name: case.patient for case in load_dataset(folder).cases}
        sys.stdout.write(f"{target}: {read_folds(found, views[0], splits, target, patient_of)} folds\n")
    return DONE
