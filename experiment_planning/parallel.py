"""Work on many files at once, with a bar, in processes that are there at once."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from odiff.errors import OdiffError

T = TypeVar("T")
SAFE_PATH = "PYTHONSAFEPATH"
# Imported once, by the process that workers are forked from: all that verification and preprocessing use.
PRELOADED = ["odiff.experiment_planning.preprocess", "odiff.experiment_planning.verify_series"]


def run_parallel(
    work: Callable[..., T], jobs: Sequence[tuple[Any, ...]], processes: int, title: str
) -> Iterator[tuple[int, T]]:
    """Yield (number of the job, result) as they finish.

    At most two jobs a process are waiting, so that memory does not grow with the dataset. The first exception stops
    what has not started and is raised.
    """
    bar = tqdm(total=len(jobs), desc=title, unit="series", disable=not jobs)
    with bar:
        if processes <= 1 or len(jobs) <= 1:
            for number, job in enumerate(jobs):
                yield number, work(*job)
                bar.update()
            return
        yield from _in_pool(work, jobs, processes, bar)


def _in_pool(
    work: Callable[..., T], jobs: Sequence[tuple[Any, ...]], processes: int, bar: tqdm
) -> Iterator[tuple[int, T]]:
    warm_up()
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=_context(), initializer=_one_thread) as pool:
        waiting: dict[Any, int] = {}
        queue: Iterable[int] = iter(range(len(jobs)))
        try:
            for number in queue:
                waiting[pool.submit(work, *jobs[number])] = number
                if len(waiting) >= 2 * processes:
                    yield from _finished(waiting, bar)
            while waiting:
                yield from _finished(waiting, bar)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _finished(waiting: dict[Any, int], bar: tqdm) -> Iterator[tuple[int, Any]]:
    future = next(as_completed(waiting))
    number = waiting.pop(future)
    bar.update()
    try:
        found = future.result()
    except BrokenProcessPool:
        raise OdiffError(
            "a worker process was killed, most likely because memory ran out; give -np 1, or fewer processes than now"
        ) from None
    yield number, found


def warm_up() -> None:
    """Start importing for the workers in the background, where they are forked, so that the caller can go on with its own.

    The server is told not to look into the current folder, where a checkout has a folder `odiff` that is not the installed package.
    """
    if _context().get_start_method() != "forkserver":
        return
    from multiprocessing import forkserver

    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


def _context() -> BaseContext:
    """On Linux workers are forked from a server that did nothing but import; elsewhere each imports for itself.

    Importing torch takes longer than a hundred small files. The server has started no threads, so that forking it is safe where
    forking the caller might not be. Before Python 3.11 it cannot be kept from the current folder: beside a folder `odiff` the
    workers import, whose path is the caller's.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    is_misled = sys.version_info < (3, 11) and Path("odiff").is_dir()
    context.set_forkserver_preload([] if is_misled else PRELOADED)
    return context


def _one_thread() -> None:
    import blosc2
    import torch

    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
