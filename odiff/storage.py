"""Files that are either whole or absent: written under a temporary name, then renamed."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from odiff.errors import OdiffError, StorageError

NO_ROOM = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "your disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "you may not write there; choose another folder or change its permissions",
    errno.EPERM: "you may not write there; choose another folder or change its permissions",
    errno.ENOTDIR: "a part of its path is a file and no folder; choose another folder",
    errno.EEXIST: "a file is where its folder should be; choose another folder",
    errno.EISDIR: "a folder of that name is there; choose another name, or move it away",
}


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` with the same ending; rename it to `path` when the block succeeds.

    The parent folder is made. When the block fails nothing is left behind and an earlier `path` stays as it was.

    Raises
    ------
    StorageError
        The disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
    finally:
        with suppress(OSError):  # the first fault is the one to tell
            temporary.unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what a full disk or a folder without permission makes of writing `path` into a `StorageError`."""
    try:
        yield
    except OdiffError:
        raise
    except Exception as error:
        reason = error.errno if isinstance(error, OSError) else None
        if reason not in NO_ROOM and is_full(path.parent, error):
            reason = errno.ENOSPC
        if reason is None or reason not in NO_ROOM:
            raise
        raise StorageError(f"{path}: cannot be written: {NO_ROOM[reason]}") from error


def is_full(folder: Path, error: Exception, least_bytes: int = 2**16) -> bool:
    """Whether a failed write is the disk's fault: libraries in C and Rust hide the error number."""
    if os.strerror(errno.ENOSPC) in str(error):
        return True
    try:
        return shutil.disk_usage(folder).free < least_bytes
    except OSError:
        return False


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON that a person can read, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, error: type[OdiffError], advice: str) -> Any:
    """Read a JSON file; `error` with the line and column, and `advice`, where that is not possible."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: not found; {advice}") from None
    except json.JSONDecodeError as fault:
        raise error(
            f"{path}: broken JSON at line {fault.lineno}, column {fault.colno}: {fault.msg}; {advice}"
        ) from None
    except (OSError, UnicodeDecodeError) as fault:
        raise error(f"{path}: cannot be read: {fault}; {advice}") from None


def size_and_time(path: Path) -> str:
    """Size and time of a file, which tell whether it changed without reading it; ``missing`` where there is none."""
    status = path.stat() if path.exists() else None
    return f"{status.st_size}-{status.st_mtime_ns}" if status else "missing"


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return digest_of_file(file)


def digest_of_file(file: IO[bytes], block: int = 2**20) -> str:
    """SHA-256 of an open file, from where it stands."""
    found = hashlib.sha256()
    while part := file.read(block):
        found.update(part)
    return found.hexdigest()
