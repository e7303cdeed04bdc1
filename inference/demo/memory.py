"""Peak resident memory of this process and its children, sampled."""

import threading
from types import TracebackType

import psutil


class PeakMemory:
    """Context manager; `peak_gb` is the largest sum over the process tree seen every `interval` seconds, in GiB."""

    def __init__(self, interval: float = 0.25) -> None:
        self.interval, self.peak_gb = interval, 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while True:
            self.peak_gb = max(self.peak_gb, tree_memory_gb(me))
            if self._stop.wait(self.interval):
                return


def tree_memory_gb(process: psutil.Process) -> float:
    """Resident memory of a process and all its children now, GiB."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.Error:
            continue
    return total / 2**30
