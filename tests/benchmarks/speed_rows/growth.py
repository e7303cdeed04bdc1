"""Row g: whether time and memory stay flat as data grow, and whether a very large volume is predicted in little memory.

No peer takes part. Small phantom studies make what grows with the number of cases visible; the same ten studies stand under as many
names as are needed, so that the work per case is the same at every size.
"""

import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from odiff.geometry import VIEWS, Grid, write_volume
from odiff.phantom import write_phantom_dataset
from speed_rows.measure import Sample, Side, run_command
from speed_rows.preprocessing import OURS, WORKERS, command

STUDIES = 10
SIZES = (10, 100, 400, 1000)
DATASET = "Dataset001_Knee"
ROUNDS = 5
GROWS = 1.15
LARGE_ZYX = (400, 512, 512)
VIEW = "sagittal"
LIMIT_GB = 4.0
PREDICT = "from odiff.inference.command import main"


def run(names: Sequence[str], work: Path, repeats: int) -> list[dict[str, Any]]:
    """The row: seconds per case at the largest size; what it is flat against, and the large volume, in `details`.

    A command takes seconds to start, whatever it does, and these would hide growth at 10 cases and feign its absence at 100. So
    time is flat where a further case costs at most 15 % more between 400 and 1000 cases than between 100 and 400, by the median of
    rounds, each of which runs all sizes one after the other: 90 cases take little more than a start varies by, and a host's load
    changes within minutes. Memory is flat where the peak rises by at most 15 % from 10 to 1000 cases.
    """
    folder = work / "growth"
    sides = {cases: Side() for cases in SIZES}
    for _ in range(min(repeats, ROUNDS)):
        for cases, side in sides.items():
            side.samples.append(plan(folder, cases))
    seconds = {cases: median(side.seconds) for cases, side in sides.items()}
    peaks = {cases: side.peak_gb for cases, side in sides.items()}
    rounds = [further(one) for one in zip(*(side.seconds for side in sides.values()), strict=True)]
    growth = [one[-1] / one[-2] for one in rounds]
    is_flat = {"time": median(growth) <= GROWS, "memory": peaks[SIZES[-1]] <= GROWS * peaks[SIZES[0]]}
    last = sides[SIZES[-1]].seconds
    return [{
        "id": names[0], "what": f"plan and preprocess {' / '.join(map(str, SIZES))} small three-view studies (s per case of {SIZES[-1]})",
        "unit": "s", "ours": round(seconds[SIZES[-1]] / SIZES[-1], 5), "peer": None, "ratio": None, "memory_ratio": None,
        "memory_gb": {"ours": round(peaks[SIZES[-1]], 3), "peer": None},
        "spread": {"ours": [round(min(last) / SIZES[-1], 5), round(max(last) / SIZES[-1], 5)]}, "repeats": len(last),
        "details": {
            "flat": all(is_flat.values()), "flat_time": is_flat["time"], "flat_memory": is_flat["memory"],
            "seconds": {str(cases): round(value, 2) for cases, value in seconds.items()},
            "seconds_per_case": {str(cases): round(value / cases, 4) for cases, value in seconds.items()},
            "seconds_per_further_case": [round(value, 4) for value in further(list(seconds.values()))],
            "growth_of_a_further_case": [round(value, 3) for value in growth],
            "peak_gb": {str(cases): round(value, 3) for cases, value in peaks.items()},
            "large_volume": predict_large(folder),
        },
    }]  # fmt: skip


def further(seconds: Sequence[float]) -> list[float]:
    """What a further case costs between each size and the next, from the seconds that each took."""
    return [(d - c) / (b - a) for (a, c), (b, d) in pairwise(zip(SIZES, seconds, strict=True))]


def plan(folder: Path, cases: int) -> Sample:
    """The whole command on `cases` studies, from nothing."""
    raw, output = folder / f"raw_{cases}", folder / "preprocessed"
    once(raw, lambda made: write_cases(made / DATASET, studies(folder), cases))
    shutil.rmtree(output, ignore_errors=True)
    arguments = ["-d", "1", "-np", WORKERS, "--raw", str(raw), "--preprocessed", str(output)]
    return run_command(command(OURS, arguments))


def studies(folder: Path) -> Path:
    """The phantom dataset that cases are copies of."""
    return once(
        folder / "studies", lambda made: write_phantom_dataset(made, joint="knee", cases=STUDIES, seed=5, processes=2)
    )


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """`folder`, made by `make` unless an earlier call finished it."""
    done = folder.with_name(f"{folder.name}.done")
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        make(folder)
        done.touch()
    return folder


def write_cases(target: Path, source: Path, cases: int) -> None:
    """`cases` copies of the studies in `source`, in turn, each a patient of its own."""
    for part in ("imagesTr", "labelsTr"):
        (target / part).mkdir(parents=True)
    table = pd.read_csv(source / "cases.csv", dtype=str)
    rows = [table.iloc[number % STUDIES].to_dict() for number in range(cases)]
    for number, row in enumerate(rows):
        old, row["case"], row["patient"] = row["case"], f"knee_{number:05d}", f"P{number:05d}"
        for part in ("imagesTr", "labelsTr"):
            for view in VIEWS:
                shutil.copyfile(source / part / f"{old}_{view}.nii.gz", target / part / f"{row['case']}_{view}.nii.gz")
    pd.DataFrame(rows).to_csv(target / "cases.csv", index=False)
    shutil.copyfile(source / "dataset.json", target / "dataset.json")


def predict_large(folder: Path) -> dict[str, Any]:
    """Seconds and peak memory of odiff_predict on one volume of 400 slices of 512x512, with a model of random weights."""
    from speed_rows.knees import random_segmentation

    model, images = random_segmentation(folder / "model", VIEW), once(folder / "large", write_large)
    shutil.rmtree(folder / "predicted", ignore_errors=True)
    sample = run_command(
        command(PREDICT, ["-i", str(images), "-o", str(folder / "predicted"), "-m", str(model), "--device", "cpu"])
    )
    peak = round(sample.peak_gb, 3)
    shape = "x".join(map(str, LARGE_ZYX))
    return {"shape": shape, "seconds": round(sample.seconds, 1), "memory_gb": peak, "under_4_gb": peak < LIMIT_GB}


def write_large(folder: Path) -> None:
    """A phantom knee interpolated to many slices, its field of view kept."""
    import torch

    from speed_rows.joint_cases import draw_knee

    image, _, grid = draw_knee(0)
    array = torch.nn.functional.interpolate(torch.from_numpy(image)[None, None], size=LARGE_ZYX, mode="trilinear")[0, 0]
    a, b, c = (s * n / m for s, n, m in zip(grid.spacing_zyx_mm, grid.shape_zyx, LARGE_ZYX, strict=True))
    fine = Grid(LARGE_ZYX, (a, b, c), grid.origin_xyz_mm, grid.direction)
    write_volume(folder / f"large_{VIEW}.nii.gz", array.short().numpy(), fine)
