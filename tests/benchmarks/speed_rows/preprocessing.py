"""Row e: planning and preprocessing 60 knees whose spacings vary, whole commands from start to exit.

Both sides read the same files with two workers and resample images and masks to a spacing of their own choosing. nnU-Net is asked for
its 3d_fullres configuration alone and spared its dataset verification; ours always verifies.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speed_rows.joint_cases import DATASET, VIEW, Roots, make_cases
from speed_rows.measure import Sample, alternate, make_row, run_command

CASES = 60
WORKERS = "2"
OURS = "from odiff.experiment_planning.command import main"
PEER = "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry as main"


def run(names: Sequence[str], work: Path, repeats: int) -> list[dict[str, Any]]:
    """The row; `work` keeps the cases for a second call."""
    folder = work / "preprocessing"
    roots = make_cases(folder, CASES)
    outputs = Roots(folder / "odiff_preprocessed", folder / "nnUNet_preprocessed")
    ours, peer = alternate(lambda: plan_ours(roots, outputs), lambda: plan_peer(roots, outputs), repeats=repeats)
    what = f"plan and preprocess {CASES} cases of about 24x320x320, {WORKERS} workers (s per case)"
    return [make_row(names[0], what, ours, peer, items=CASES, **compared(outputs))]


def plan_ours(roots: Roots, outputs: Roots) -> Sample:
    """odiff_plan_and_preprocess, from nothing."""
    shutil.rmtree(outputs.ours, ignore_errors=True)
    arguments = ["-d", "1", "-np", WORKERS, "--raw", str(roots.ours), "--preprocessed", str(outputs.ours)]
    return run_command(command(OURS, arguments))


def plan_peer(roots: Roots, outputs: Roots) -> Sample:
    """nnUNetv2_plan_and_preprocess, from nothing."""
    shutil.rmtree(outputs.peer, ignore_errors=True)
    folders = {"nnUNet_raw": roots.peer, "nnUNet_preprocessed": outputs.peer, "nnUNet_results": outputs.peer}
    arguments = ["-d", "1", "-npfp", WORKERS, "-np", WORKERS, "-c", "3d_fullres"]
    return run_command(command(PEER, arguments), {key: str(path) for key, path in folders.items()})


def command(entry: str, arguments: list[str]) -> list[str]:
    """A console script by its function, so that this environment's is taken."""
    return [sys.executable, "-c", f"import sys; {entry}; sys.exit(main())", *arguments]


def compared(outputs: Roots) -> dict[str, Any]:
    """The spacings that the two sides resampled to, and how many cases each wrote."""
    ours = json.loads((outputs.ours / DATASET / "plans.json").read_text(encoding="utf-8"))
    peer = json.loads((outputs.peer / DATASET / "nnUNetPlans.json").read_text(encoding="utf-8"))
    written = (outputs.ours / DATASET / f"default_{VIEW}", outputs.peer / DATASET / "nnUNetPlans_3d_fullres")
    return {
        "spacing_zyx_mm": {"ours": ours["views"][VIEW]["spacing_zyx_mm"], "peer": peer["configurations"]["3d_fullres"]["spacing"]},
        "cases_written": {"ours": len(list(written[0].glob("*_seg.b2nd"))), "peer": len(list(written[1].glob("*_seg.b2nd")))},
    }  # fmt: skip
