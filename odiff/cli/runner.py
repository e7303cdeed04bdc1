"""What all commands share: roots, errors without tracebacks, exit codes."""

import argparse
import errno
import logging
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from odiff import __version__
from odiff.errors import OdiffError, UsageError
from odiff.storage import NO_ROOM

log = logging.getLogger(__name__)
NO_MEMORY = (
    "close what else uses it, plan what takes less (odiff_plan_and_preprocess --memory-gb GB), or use --device cpu"
)
MAY_NOT = "you may not read or write it; change its permissions, or choose another folder"
SAID_WITHOUT_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "is killed by signal: Killed")
DONE, SOME_FAILED, USERS, INTERRUPTED = 0, 3, 2, 130


@dataclass(frozen=True)
class Roots:
    """The three folders that everything lies in; None where neither flag nor environment names it."""

    raw: Path | None
    preprocessed: Path | None
    results: Path | None

    def need(self, name: str) -> Path:
        """One of raw, preprocessed, results; a `UsageError` that tells how to set it."""
        path = getattr(self, name)
        if path is None:
            raise UsageError(
                f"where is the {name} folder? set the environment variable odiff_{name}, or give --{name} FOLDER"
            )
        return path


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the flags that every command has; mistyped flags are errors, never abbreviations."""
    result = argparse.ArgumentParser(description=description, allow_abbrev=False)
    result.add_argument("--version", action="version", version=f"odiff {__version__}")
    result.add_argument("--verbose", action="store_true", help="say what runs, and where an error came from")
    return result


def add_roots(target: argparse.ArgumentParser, *names: str) -> None:
    """``--raw``, ``--preprocessed`` and ``--results``, in place of the environment variables."""
    for name in names:
        target.add_argument(
            f"--{name}", type=Path, metavar="FOLDER", help=f"in place of the environment variable odiff_{name}"
        )


def roots_of(arguments: argparse.Namespace) -> Roots:
    """The roots from flags or environment."""

    def one(name: str) -> Path | None:
        given = getattr(arguments, name, None) or os.environ.get(f"odiff_{name}")
        return Path(given) if given else None

    return Roots(one("raw"), one("preprocessed"), one("results"))


def run(program: str, body: Callable[[], int], is_verbose: bool = False) -> int:
    """Call `body`; an `OdiffError` becomes one line on stderr and exit code 2, a bug keeps its traceback."""
    logging.basicConfig(level=logging.DEBUG if is_verbose else logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("matplotlib", "PIL", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    log.debug("%s of odiff %s, Python %s, %s", program, __version__, platform.python_version(), platform.platform())
    try:
        return body()
    except OdiffError as error:
        log.debug("where it came from", exc_info=True)
        sys.stderr.write(f"{program}: error: {error}\n")
        return USERS
    except KeyboardInterrupt:
        again = "the same command without --restart" if "--restart" in sys.argv else "the same command"
        sys.stderr.write(f"\n{program}: interrupted; {again} goes on from the last checkpoint\n")
        return INTERRUPTED
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return _without_memory(program, error)
        if error.errno in (errno.EACCES, errno.EPERM):
            sys.stderr.write(f"{program}: error: {error.filename or 'a file'}: {MAY_NOT}\n")
            return USERS
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        sys.stderr.write(f"{program}: error: {error.filename or 'a file'}: cannot be written: {NO_ROOM[error.errno]}\n")
        return USERS
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _without_memory(program, error)


def _without_memory(program: str, error: Exception) -> int:
    log.debug("where it came from", exc_info=True)
    said = str(error).splitlines()[0] if str(error) else "no more was told"
    sys.stderr.write(f"{program}: error: not enough memory ({said}): {NO_MEMORY}\n")
    return USERS


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or torch found no memory; torch is known by what it says, lest --help imports it.

    It says so of a GPU that it, the driver or cuBLAS filled, of a CPU, and of a loading process that the system killed for memory.
    """
    said = f"{error} {error.__cause__}"
    return isinstance(error, MemoryError) or any(one in said for one in SAID_WITHOUT_MEMORY)
