"""What pretraining, fusion and transfer are worth on phantom cohorts: experiments whose rows later become claims.

    python tests/benchmarks/claims.py FOLDER --list
    python tests/benchmarks/claims.py FOLDER --label-map FILE [--only knee_diagnosis] [--minutes 60] [--rows docs/claims]
    python tests/benchmarks/claims.py FOLDER --rows docs/claims --report docs

FOLDER keeps cohorts, weights and results. Experiments whose row exists are passed over, each one runs in a process of its own, as many
at once as ``--jobs`` says, and none is begun after ``--minutes``. nnU-Net gets the time of one core, so give it one (``taskset``).
``--trial 0.2`` runs everything on a fifth of the patients with few steps, to see that it works.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from claim_parts.cohorts import COHORTS, generator, scaled, write_cohort
from claim_parts.experiments import NNUNET, Experiment, experiments, needs, run
from claim_parts.page import read_rows, write_page
from claim_parts.training import like_of, prepare
from claim_parts.waiting import run_waiting

from odiff.storage import write_text
from odiff.training.device import use_cores

TRIAL_FRACTION = 0.5  # a tenth of so few patients is nobody
TRIAL_STEPS = (
    "pretrain.steps=4", "segmentation.steps=4", "diagnosis.steps=2", "diagnosis.head_steps=4", "diagnosis.probe_cases=16",
    "fusion.steps=4",
)  # fmt: skip


def main() -> None:
    """List, run one experiment, or run what is missing."""
    arguments = parse()
    if arguments.trial:
        for name, cohort in COHORTS.items():
            COHORTS[name] = scaled(cohort, arguments.trial)
    wanted = [one for one in experiments() if re.search(arguments.only, one.name)]
    if arguments.skip:
        wanted = [one for one in wanted if not re.search(arguments.skip, one.name)]
    if arguments.list:
        print("\n".join(f"{one.name}{' (done)' if row_of(arguments, one).exists() else ''}" for one in wanted))
    elif arguments.report:
        report(arguments)
    elif arguments.one:
        run_one(arguments, next(one for one in wanted if one.name == arguments.one))
    else:
        run_missing(arguments, wanted)


def parse() -> argparse.Namespace:
    """The flags; a trial's rows stay in its folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", metavar="PATTERN", help="experiments in whose name it is found")
    parser.add_argument("--skip", default="", metavar="PATTERN", help="but not these")
    parser.add_argument("--list", action="store_true", help="print the experiments")
    parser.add_argument("--one", metavar="NAME", help="run this one, in this process")
    parser.add_argument(
        "--rate-of-seed",
        type=int,
        metavar="SEED",
        help="take over the learning rate that this seed's row chose, and search none",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="experiments at once (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=1e9, metavar="M")
    parser.add_argument("--label-map", type=Path, metavar="FILE", help="bones and cartilage of a real knee")
    parser.add_argument("--rows", type=Path, metavar="FOLDER", help="where rows go (default: FOLDER/rows)")
    parser.add_argument(
        "--report", type=Path, metavar="DOCS", help="write claims.md, .json and .png from the rows, and end"
    )
    parser.add_argument(
        "--device", default="cpu", help="cpu or cuda; nnU-Net and the clock stay on the CPU (default: %(default)s)"
    )
    parser.add_argument("--trial", type=float, metavar="SHARE")
    arguments = parser.parse_args()
    if arguments.trial and arguments.rows:
        parser.error("--trial: its rows are no figures; leave --rows out")
    arguments.rows = arguments.rows or arguments.folder / "rows"
    return arguments


def report(arguments: argparse.Namespace) -> None:
    """The page, and a line of each claim on screen."""
    for finding in write_page(read_rows(arguments.rows), arguments.report):
        claim = finding.claim
        print(f"{claim.name:32} {claim.difference:+.3f} ({claim.low:+.3f} to {claim.high:+.3f}) {finding.verdict}")


def row_of(arguments: argparse.Namespace, experiment: Experiment) -> Path:
    """The file of an experiment's row."""
    return arguments.rows / f"{experiment.name}.json"


def run_missing(arguments: argparse.Namespace, wanted: list[Experiment]) -> None:
    """One process an experiment, until all are done or the time is up; each waits for those it needs."""
    prepare_all(arguments, wanted)

    def start(experiment: Experiment) -> subprocess.Popen[bytes]:
        print(experiment.name, flush=True)
        command = [sys.executable, *sys.argv, "--one", experiment.name]
        if arguments.jobs == 1:
            return subprocess.Popen(command)
        with (arguments.folder / f"{experiment.name}.log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    left = {one.name: one for one in wanted if not row_of(arguments, one).exists()}
    waiting = {name: needs(one) for name, one in left.items()}
    failed = run_waiting(waiting, lambda name: start(left[name]), arguments.jobs, 60 * arguments.minutes)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
    if not all(row_of(arguments, one).exists() for one in wanted):
        print("time is up; call again to go on")


def prepare_all(arguments: argparse.Namespace, wanted: list[Experiment]) -> None:
    """The cohorts and plans of the experiments, so that none makes what another one is making."""
    processes = max(2, arguments.jobs)
    for one in wanted:
        make_cohorts(arguments, one, processes)
        if one.job.recipe.preset != NNUNET:
            prepare(arguments.folder, one.job.cohort, one.job.recipe, like_of(one.job), processes)


def make_cohorts(arguments: argparse.Namespace, experiment: Experiment, processes: int) -> None:
    """The patients that an experiment needs, where they are missing."""
    for name in {experiment.job.cohort, like_of(experiment.job), experiment.job.pretrained} & set(COHORTS):
        write_cohort(arguments.folder, COHORTS[name], arguments.label_map, processes)


def run_one(arguments: argparse.Namespace, experiment: Experiment) -> None:
    """Train, score and write the row, with where it comes from."""
    use_cores()
    started, target = time.monotonic(), row_of(arguments, experiment)
    make_cohorts(arguments, experiment, 2)
    if arguments.trial:
        recipe = experiment.job.recipe
        less = replace(recipe, changes=(*recipe.changes, *TRIAL_STEPS))
        job = replace(experiment.job, recipe=less, fraction=max(TRIAL_FRACTION, experiment.job.fraction))
        experiment = replace(experiment, job=job)
    device = "cpu" if experiment.is_of_cpu else arguments.device
    experiment = replace(experiment, job=replace(experiment.job, device=device))
    row = run(arguments.folder, experiment, read_rows(arguments.rows), arguments.rate_of_seed)
    taken = "" if arguments.rate_of_seed is None else f" --rate-of-seed {arguments.rate_of_seed}"
    provenance = {
        "generator": generator(), "commit": commit(), "device": device_name(device),
        "command": f"claims.py FOLDER --one {target.stem}{taken}", "minutes": round((time.monotonic() - started) / 60, 1),
    }  # fmt: skip
    write_text(target, json.dumps(provenance | row, separators=(",", ":")) + "\n")


def device_name(device: str) -> str:
    """What a row was computed on."""
    return torch.cuda.get_device_name(device) if device != "cpu" else "cpu"


def commit() -> str:
    """The commit that is checked out, marked where files differ from it."""
    found = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
