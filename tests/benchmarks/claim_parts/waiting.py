"""Processes that wait for one another, several at once."""

import subprocess
import time
from collections.abc import Callable, Iterable, Mapping

POLL_S = 0.1


def run_waiting(
    needs: Mapping[str, Iterable[str]], start: Callable[[str], subprocess.Popen[bytes]], jobs: int, seconds: float
) -> list[str]:
    """Run a process of each name, in their order but for those that wait; none is started after `seconds`.

    Parameters
    ----------
    needs : by name those that must have ended well before; what is not a name here is not waited for.
    jobs : how many processes run at once.

    Returns
    -------
    The names whose process failed; what needs them is not started.
    """
    begun, left, failed = time.monotonic(), list(needs), []
    running: dict[str, subprocess.Popen[bytes]] = {}
    while running or left:
        for name, process in list(running.items()):
            if process.poll() is not None:
                del running[name]
                if process.returncode:
                    failed.append(name)
        open_ones = {*left, *running, *failed}
        ready = [name for name in left if not open_ones & {*needs[name]}] if len(running) < jobs else []
        if time.monotonic() - begun > seconds:
            left, ready = [], []
        for name in ready[: jobs - len(running)]:
            left.remove(name)
            running[name] = start(name)
        if not running and not ready:
            break
        time.sleep(POLL_S)
    return failed
