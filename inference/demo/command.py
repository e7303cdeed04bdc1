"""odiff_demo: the whole job on the phantom, or just a phantom dataset."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from odiff.cli.runner import DONE, parser, run
from odiff.errors import UsageError
from odiff.inference.demo.dataset import write_dataset
from odiff.phantom import JOINTS
from odiff.phantom.acquisition import SIZES
from odiff.phantom.atlas import AtlasSource, read_atlas_labels


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, return the exit code."""
    arguments = _parser().parse_args(argv)
    return run("odiff_demo", lambda: _body(arguments), arguments.verbose)


def _parser() -> argparse.ArgumentParser:
    result = parser("Plan, train, predict and score a phantom cohort of knees: 8 minutes on two CPU cores.")
    result.add_argument(
        "-o", "--output", type=Path, default=Path("odiff_demo"), metavar="FOLDER", help="default: %(default)s"
    )
    result.add_argument("-np", "--processes", type=int, default=2, metavar="N", help="default: %(default)s")
    result.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    result.add_argument("--write-dataset", type=Path, metavar="DIR", help="only write a phantom dataset folder")
    result.add_argument(
        "--joint", choices=sorted(JOINTS), default="knee", help="with --write-dataset (default: %(default)s)"
    )
    result.add_argument(
        "--cases", type=int, default=20, help="with --write-dataset: training cases (default: %(default)s)"
    )
    result.add_argument(
        "--test-cases", type=int, default=0, help="with --write-dataset: held-out cases (default: %(default)s)"
    )
    result.add_argument(
        "--size", choices=sorted(SIZES), default="standard", help="with --write-dataset (default: %(default)s)"
    )
    result.add_argument(
        "--atlas", type=Path, metavar="LABELMAP", help="with --write-dataset: build the studies on this label map"
    )
    result.add_argument(
        "--atlas-labels",
        type=Path,
        metavar="JSON",
        help='what its values are: {"femur": 5, "tibial_cartilage": [2, 3]}',
    )
    result.add_argument(
        "--messy",
        type=float,
        default=0.0,
        metavar="F",
        help="with --write-dataset: share of missing views, second series and unknown labels (default: %(default)s)",
    )
    result.add_argument(
        "--centers", nargs="*", default=(), metavar="A", help="with --write-dataset: hospitals A to J (default: A to D)"
    )
    result.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return result


def _body(arguments: argparse.Namespace) -> int:
    if arguments.atlas and not arguments.write_dataset:
        raise UsageError("--atlas: give --write-dataset DIR, the folder to write the studies to")
    if bool(arguments.atlas) != bool(arguments.atlas_labels):
        raise UsageError("--atlas and --atlas-labels belong together: the label map, and which structure each value is")
    if arguments.write_dataset:
        atlas = _atlas(arguments) if arguments.atlas else None
        with tqdm(total=arguments.cases + arguments.test_cases, desc="phantom", unit="case") as bar:
            write_dataset(
                arguments.write_dataset, joint=arguments.joint, cases=arguments.cases, seed=arguments.seed,
                test_cases=arguments.test_cases, size=arguments.size, processes=arguments.processes, progress=bar.update,
                atlas=atlas, messy=arguments.messy, centers=tuple(arguments.centers),
            )  # fmt: skip
        return DONE
    from odiff.inference.demo.pipeline import DemoSettings, run_demo
    from odiff.training.device import choose_device, use_cores

    device = choose_device(arguments.device)
    use_cores()
    settings = DemoSettings(seed=arguments.seed, processes=arguments.processes, device=device)
    result = run_demo(arguments.output, settings, sys.stdout.write)
    sys.stdout.write(as_table(result, arguments.output))
    return DONE


def _atlas(arguments: argparse.Namespace) -> AtlasSource:
    """The label map, and a line on what comes from it and what is synthesised."""
    known = [name for name in JOINTS[arguments.joint].labels if name != "background"]
    source = AtlasSource(arguments.atlas, read_atlas_labels(arguments.atlas_labels, known))
    made = [name for name in known if name not in source.structures]
    sys.stdout.write(f"from {arguments.atlas}: {', '.join(source.structures)}\n")
    sys.stdout.write(f"synthesised: {', '.join([*made, 'skin, fat, muscles, fluid, vessels and lesions'])}\n")
    return source


def as_table(result: dict[str, Any], folder: Path) -> str:
    """Model, floor and untrained network side by side."""
    lines = [f"{'':12s}{'model':>10s}{'floor':>10s}{'untrained':>10s}"]
    rows = {"Dice": result["dice"], "AUROC": result["auroc"]}
    rows |= {f"  {name}": scores for name, scores in result["auroc_per_label"].items()}
    for name, scores in rows.items():
        cells = (
            f"{scores[who]:10.3f}" if scores[who] is not None else f"{'-':>10s}"
            for who in ("model", "floor", "untrained")
        )
        lines.append(f"{name:12s}{''.join(cells)}")
    lines.append(f"{result['seconds']:.0f} s, peak memory {result['peak_memory_gb']:.1f} GB")
    lines.append(f"look at {folder / 'overlays'}, {folder / 'predictions'}, {folder / 'results.json'}")
    return "\n".join(lines) + "\n"
