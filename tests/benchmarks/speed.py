"""The speed table: odiff against the peers a user would pick instead, in one run, in alternation.

    pip install ".[benchmark]" && python tests/benchmarks/speed.py --json FILE [--only a,c] [--repeats 5] [--work FOLDER]

Rows a to f run by default; g (growth with the dataset) is run apart with ``--only g``. Ratios are peer over ours: above 1 odiff
is faster or smaller. Every row is written as soon as it is there.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

ROWS = {
    "a": "training", "b": "training", "c": "diagnosis", "d": "segmentation", "e": "preprocessing", "f": "loading", "g": "growth",
}  # fmt: skip
DEFAULT = "abcdef"
PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "SimpleITK",
    "batchgenerators",
    "blosc2",
    "monai",
    "nnunetv2",
    "batchgeneratorsv2",
)


def machine(device: str) -> dict[str, Any]:
    """What the figures were taken on."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.processor(),
    )  # fmt: skip
    flags = Path("/proc/cpuinfo").read_text()
    return {
        "cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "avx512_bf16": "avx512_bf16" in flags, "amx_bf16": "amx_bf16" in flags, "platform": platform.platform(),
        "gpu": None if device == "cpu" else torch.cuda.get_device_name(device),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of everything that takes part."""
    found = {"python": platform.python_version(), "odiff": metadata.version("odiff-mri")}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def print_row(row: dict[str, Any]) -> None:
    """One line of the table; a row without a peer shows what it found instead of ratios."""
    if row["ratio"] is None:
        print(f"| {row['id']} | {row['what']} | {row['ours']} | - | - | {json.dumps(row['details'])} |", flush=True)
        return
    low, high = row["spread"]["ratio"]
    print(
        f"| {row['id']} | {row['what']} | {row['ours']} | {row['peer']} | {row['ratio']} ({low} to {high}) | {row['memory_ratio']} |",
        flush=True,
    )


def main() -> int:
    """Run the rows, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--only", default=",".join(DEFAULT), metavar="a,c", help="rows to run (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="counted samples of each side (default: %(default)s)")
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="for data that can be used again (default: temporary)"
    )
    parser.add_argument("--device", default="cpu", help="of rows a and b: cpu or cuda (default: %(default)s)")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    on_device = {} if arguments.device == "cpu" else {"device": arguments.device}
    if on_device and set(wanted) - {"a", "b"}:
        parser.error(f"--device {arguments.device}: rows a and b only; give --only a,b")
    if unknown := [name for name in wanted if name not in ROWS]:
        parser.error(f"--only {arguments.only}: no row {unknown[0]!r}; there are {', '.join(ROWS)}")
    report: dict[str, Any] = {"machine": machine(arguments.device), "versions": versions(), "rows": []}
    print("| row | work | ours, s | peer, s | ratio (spread) | memory ratio |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        for module, names in groupby(wanted, key=ROWS.__getitem__):
            rows = importlib.import_module(f"speed_rows.{module}").run(
                list(names), work.resolve(), arguments.repeats, **on_device
            )
            report["rows"] += rows
            for row in rows:
                print_row(row)
            if arguments.json:
                arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
