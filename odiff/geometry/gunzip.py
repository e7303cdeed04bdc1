"""Reading gzip files by ISA-L, which unpacks twice as fast as zlib, or by zlib where the machine has no ISA-L."""

import gzip
import zlib
from pathlib import Path
from typing import IO, cast

try:
    from isal import igzip as fastest
    from isal.igzip_lib import IsalError
except ImportError:  # it is built for x86-64 and ARM64 only
    fastest, IsalError = gzip, zlib.error  # type: ignore[assignment, misc]

# What reading a damaged file may raise; isal's stubs call its error class an instance.
FAULTS = cast(tuple[type[Exception], ...], (EOFError, OSError, zlib.error, IsalError))


def is_packed(path: Path) -> bool:
    """Whether the name says gzip."""
    return path.name.lower().endswith(".gz")


def open_unpacked(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked where its name says gzip; `FAULTS` may come while it is read."""
    return cast(IO[bytes], fastest.open(path)) if is_packed(path) else path.open("rb")
