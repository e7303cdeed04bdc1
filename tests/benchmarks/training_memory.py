"""Peak memory of training, measured against the plan's estimate.

    python tests/benchmarks/training_memory.py FOLDER [--only 4 5] [--precision float32] [--device cuda] [--json FILE]

FOLDER is filled with phantom datasets on the first call. Every measurement trains a few steps of one task in a process of
its own and samples the resident memory of its tree; the idle process with everything imported is subtracted. With
``--device cuda`` it is the card's memory that is measured: what torch gave out, and what it took of the card.
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
    Setting(10, "standard", "paper", "sagittal", 6.0),
)

CHILD = """
import json, sys
from pathlib import Path
import torch
from odiff.inference.demo.memory import PeakMemory, tree_memory_gb
from odiff.learning.run import RunSettings
from odiff.learning.asked import TrainOptions
from odiff.learning.stages import train_view
from dataclasses import asdict
from odiff.experiment_planning.memory import diagnosis_counts, pretrain_counts, segmentation_counts, task_memory_gb
from odiff.learning.usual_blocks import usual_blocks
from odiff.training.precision import fix_precision, precision_of
import odiff.inference.predict, psutil
idle = tree_memory_gb(psutil.Process())
folder, number, view, task, precision, on, overrides = Path(sys.argv[1]), *sys.argv[2:7], tuple(sys.argv[7:])
device = torch.device(on)
fix_precision(precision, device)
with PeakMemory(0.02) as memory:
    options = TrainOptions(task, "all", "none" if task != "pretrain" else "auto")
    settings = RunSettings(0, device, 0, restart=True)
    context = train_view(folder / "preprocessed", folder / "results", number, view, options, settings, overrides)
plan = context.plan.views[view]
network, patch, value_bytes = plan.network, plan.patch_zyx, precision_of(device).value_bytes
is_cpu = on == "cpu"
measured = {"measured": memory.peak_gb - idle} if is_cpu else {
    "measured": torch.cuda.max_memory_allocated() / 2**30, "reserved": torch.cuda.max_memory_reserved() / 2**30}
head = context.plan.segmentation.head
classes, cases = len(context.plan.labels), context.plan.diagnosis.batch_size if context.plan.diagnoses else 0
print(json.dumps({
    **measured, "patch": patch, "stem": network.stem_zyx, "channels": network.channels,
    "estimates": asdict(task_memory_gb(network, patch, plan.batch_size, classes, value_bytes, cases, head, is_cpu)),
    "batch": cases if task == "diagnosis" else plan.batch_size, "value_bytes": value_bytes, "classes": classes,
    **asdict({
        "pretrain": lambda: pretrain_counts(network, patch),
        "segmentation": lambda: segmentation_counts(network, patch, classes, head),
        "diagnosis": lambda: diagnosis_counts(network, patch, usual_blocks(plan)[-1]),
    }[task]()),
}))
"""


def prepare(folder: Path, setting: Setting, device: str) -> None:
    """A phantom dataset and its plan, where missing."""
    from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
    from odiff.phantom import write_phantom_dataset

    raw = folder / "raw" / f"Dataset{setting.number:03d}_Knee"
    if not (raw / "dataset.json").exists():
        write_phantom_dataset(raw, joint="knee", cases=6, seed=0, size=setting.size)
    options = PlanningOptions(preset=setting.preset, views=(setting.view,), memory_gb=setting.memory_gb, device=device)
    plan_and_preprocess(folder / "raw", folder / "preprocessed", str(setting.number), options, lambda _: None)


def main() -> None:
    """Measure every setting and task, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of settings")
    parser.add_argument(
        "--precision", default="auto", help="as of odiff_train; the plan is made with auto all the same"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write every row with the counts behind its estimate")
    arguments = parser.parse_args()
    rows = []
    print("| setting | patch | batch | task | estimate GB | measured GB | ratio |\n|---|---|---|---|---|---|---|")
    for setting in SETTINGS:
        if arguments.only and setting.number not in arguments.only:
            continue
        prepare(arguments.folder, setting, arguments.device)
        for task in ("pretrain", "segmentation", "diagnosis"):
            command = [
                sys.executable,
                "-c",
                CHILD,
                str(arguments.folder),
                str(setting.number),
                setting.view,
                task,
                arguments.precision,
                arguments.device,
                *STEPS,
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append(found | {"setting": setting.number, "task": task, "precision": arguments.precision})
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1))
            name = f"{setting.size}, {setting.preset}, {setting.view}, {setting.memory_gb or 'free'} GB"
            patch, ratio = "x".join(map(str, found["patch"])), found["estimates"][task] / found["measured"]
            row = (
                name,
                patch,
                found["batch"],
                task,
                f"{found['estimates'][task]:.2f}",
                f"{found['measured']:.2f}",
                f"{ratio:.2f}",
            )
            print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
