"""Timing ours and a peer in turn, in processes of their own, with the peak memory of each.

A row module is also a program: ``python -m speed_rows.training ours ...`` (from this folder's parent) prepares once, then does
one piece of work for every line it is sent, so that both sides can be timed in alternation without being set up again.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent.parent
SAMPLE_EVERY_S = 0.2  # every 0.02 s cost a command of 7 s two of them on two cores, for the same peaks to 2 %
GIB = 2**30


@dataclass(frozen=True)
class Sample:
    """One timed piece of work: wall-clock seconds, and the largest resident memory of its process tree so far, GiB."""

    seconds: float
    peak_gb: float


@dataclass
class Side:
    """All samples of one side of a row."""

    samples: list[Sample] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        return [sample.seconds for sample in self.samples]

    @property
    def peak_gb(self) -> float:
        return max(sample.peak_gb for sample in self.samples)


class Worker:
    """A row module running as a process that was prepared once and is asked for one piece of work after another."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"speed_rows.{module}", *arguments],
            cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.info: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended with exit code {self.process.wait()}")
        return json.loads(line)

    def __call__(self) -> Sample:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return Sample(**self._read())

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve(prepare: Callable[[], tuple[dict[str, Any], Callable[[], object]]]) -> None:
    """The other end of `Worker`: `prepare` gives what to tell of the set-up, and the work to time."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    info, work = prepare()

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    answer(info)
    for _ in sys.stdin:
        started = time.perf_counter()
        work()
        answer({"seconds": time.perf_counter() - started, "peak_gb": own_peak_gb()})


def own_peak_gb() -> float:
    """Largest resident memory of this process ever, GiB (VmHWM; Linux only); where it computes on a GPU, the card's that torch took."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved() / GIB
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    raise RuntimeError("no VmHWM in /proc/self/status")


def run_command(command: Sequence[str], environment: dict[str, str] | None = None) -> Sample:
    """A whole command from start to exit; its tree's memory is sampled as it runs.

    A page that several processes share is counted once (PSS): forked workers would else be counted with all of their parent.
    """
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=HERE, env={**os.environ, **(environment or {})}, stdout=output, stderr=subprocess.STDOUT
        )
        peak, stop = [0.0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, stop))
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - started
        stop.set()
        watcher.join()
        if code:
            output.seek(0)
            sys.exit(f"{' '.join(command)} ended with exit code {code}:\n{output.read()[-4000:]}")
    return Sample(seconds, peak[0])


def _watch(pid: int, peak: list[float], stop: threading.Event) -> None:
    while not stop.wait(SAMPLE_EVERY_S):
        try:
            root = psutil.Process(pid)
            tree = [root, *root.children(recursive=True)]
        except psutil.Error:
            return
        total = 0
        for one in tree:
            try:
                total += one.memory_full_info().pss
            except psutil.Error:
                continue
        peak[0] = max(peak[0], total / GIB)


def alternate(*sides: Callable[[], Sample], repeats: int, warmups: int = 1) -> tuple[Side, ...]:
    """`repeats` samples of each side, taken in turn after `warmups` uncounted ones; a worker's memory is its largest since it began."""
    found = tuple(Side() for _ in sides)
    for number in range(-warmups, repeats):
        for side, work in zip(found, sides, strict=True):
            sample = work()
            if number >= 0:
                side.samples.append(sample)
    return found


def make_row(name: str, what: str, ours: Side, peer: Side, /, items: int = 1, **details: Any) -> dict[str, Any]:
    """One row of the table: seconds per item and ratios, peer over ours.

    `items` is how many pieces (cases, batches) one sample holds. `spread` gives the smallest and largest value of each figure;
    the ratio is the median of the ratios of neighbours in time.
    """
    ratios = [b / a for a, b in zip(ours.seconds, peer.seconds, strict=True)]
    return {
        "id": name, "what": what, "unit": "s",
        "ours": round(statistics.median(ours.seconds) / items, 5), "peer": round(statistics.median(peer.seconds) / items, 5),
        "ratio": round(statistics.median(ratios), 2), "memory_ratio": round(peer.peak_gb / ours.peak_gb, 2),
        "memory_gb": {"ours": round(ours.peak_gb, 3), "peer": round(peer.peak_gb, 3)},
        "spread": {
            "ours": [round(min(ours.seconds) / items, 5), round(max(ours.seconds) / items, 5)],
            "peer": [round(min(peer.seconds) / items, 5), round(max(peer.seconds) / items, 5)],
            "ratio": [round(min(ratios), 2), round(max(ratios), 2)],
        },
        "repeats": len(ratios), "details": details,
    }  # fmt: skip
