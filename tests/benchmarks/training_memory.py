"""Peak memory of training, measured against the plan's estimate.

    python tests/benchmarks/training_memory.py FOLDER

FOLDER is filled with phantom datasets on the first call. Every measurement trains a few steps of one task in a process of
its own and samples the resident memory of its tree; the idle process with everything imported is subtracted.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

STEPS = ("pretrain.steps=2", "segmentation.steps=2", "diagnosis.steps=2", "diagnosis.head_steps=2")


@dataclass(frozen=True)
class Setting:
    """One dataset and the plan it gets."""

    number: int
    size: str
    preset: str
    view: str = "sagittal"
    memory_gb: float | None = None


SETTINGS = (
    Setting(1, "demo", "cpu_demo"),
    Setting(2, "standard", "cpu_demo"),
    Setting(3, "demo", "default"),
    Setting(4, "standard", "default", "sagittal", 4.0),
    Setting(5, "standard", "default", "coronal", 4.0),
    Setting(6, "standard", "default", "axial", 4.0),
    Setting(7, "standard", "default", "sagittal", 2.0),
    Setting(8, "standard", "default", "coronal", 2.0),
    Setting(9, "standard", "default", "axial", 2.0),
)

CHILD = """
import json, sys
from pathlib import Path
import torch
from odiff.inference.demo.memory import PeakMemory, tree_memory_gb
from odiff.learning.run import RunSettings
from odiff.learning.stages import TrainOptions, train_view
import odiff.inference.predict, psutil
idle = tree_memory_gb(psutil.Process())
folder, number, view, task, overrides = Path(sys.argv[1]), *sys.argv[2:5], tuple(sys.argv[5:])
with PeakMemory(0.02) as memory:
    options = TrainOptions(task, "all", "none" if task != "pretrain" else "auto")
    settings = RunSettings(0, torch.device("cpu"), 0, restart=True)
    context = train_view(folder / "preprocessed", folder / "results", number, view, options, settings, overrides)
plan = context.plan.views[view]
print(json.dumps({"measured": memory.peak_gb - idle, "estimate": plan.estimated_memory_gb, "patch": plan.patch_zyx,
                  "stem": plan.network.stem_zyx, "channels": plan.network.channels, "batch": plan.batch_size}))
"""


def prepare(folder: Path, setting: Setting) -> None:
    """A phantom dataset and its plan, where missing."""
    from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
    from odiff.phantom import write_phantom_dataset

    raw = folder / "raw" / f"Dataset{setting.number:03d}_Knee"
    if not (raw / "dataset.json").exists():
        write_phantom_dataset(raw, joint="knee", cases=6, seed=0, size=setting.size)
    options = PlanningOptions(preset=setting.preset, views=(setting.view,), memory_gb=setting.memory_gb)
    plan_and_preprocess(folder / "raw", folder / "preprocessed", str(setting.number), options, lambda _: None)


def main() -> None:
    """Measure every setting and task, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of settings")
    arguments = parser.parse_args()
    print("| setting | patch | batch | task | estimate GB | measured GB | ratio |\n|---|---|---|---|---|---|---|")
    for setting in SETTINGS:
        if arguments.only and setting.number not in arguments.only:
            continue
        prepare(arguments.folder, setting)
        for task in ("pretrain", "segmentation", "diagnosis"):
            command = [
                sys.executable,
                "-c",
                CHILD,
                str(arguments.folder),
                str(setting.number),
                setting.view,
                task,
                *STEPS,
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            name = f"{setting.size}, {setting.preset}, {setting.view}, {setting.memory_gb or 'free'} GB"
            patch, ratio = "x".join(map(str, found["patch"])), found["estimate"] / found["measured"]
            row = (
                name,
                patch,
                found["batch"],
                task,
                f"{found['estimate']:.2f}",
                f"{found['measured']:.2f}",
                f"{ratio:.2f}",
            )
            print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
