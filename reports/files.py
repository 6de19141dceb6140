"""Files that are whole or not there, and what a manifest says of them. The one place that writes atomically.

A file is written next to its place, synced and renamed, so that a reader finds what was there before or all of the new
one. While it is written it is locked: what nobody locks was left half-written by a writer that died, whatever processes
there are here, and the next writer in the folder removes it (`sweep`), from another container or host too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["fingerprint", "is_at", "sweep", "write"]

# Neither a link, which may lead out of the folder, nor a pipe, which would be waited for.
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def fingerprint(data: bytes) -> dict[str, Any]:
    """What a manifest says of a file that holds these bytes: its sha256 in hex digits and its size."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def write(path: Path, data: bytes) -> None:
    """Writes `data` so that `path` holds either what it held before or all of it, whatever happens in between.

    Raises OSError when the place can not be written to or is full; then nothing half-written stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    with os.fdopen(_locked(temporary), "wb") as file:
        try:
            file.truncate(0)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    # The rename itself is durable only once the folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _locked(path: Path) -> int:
    """The descriptor of a new or half-written file that nobody else holds, locked until it is closed."""
    while True:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | _PLAIN, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if is_at(path, file):  # neither removed nor renamed before it was locked
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def sweep(folder: Path, name: str = "") -> None:
    """Removes what writers that died left half-written in a folder, or of one file there. What can not be, stays."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            half = re.fullmatch(r"\.(.+)\.\d+\.tmp", entry.name)
            if half and name in ("", half[1]):
                with suppress(OSError):
                    if entry.is_file(follow_symlinks=False):
                        _remove(entry.path)
                    else:
                        os.unlink(entry)  # a link or a pipe is no writer's


def _remove(path: str) -> None:
    """Removes a file that nobody has locked. Raises OSError."""
    file = os.open(path, os.O_WRONLY | _PLAIN)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(Path(path), file):  # and not what the same writer has begun since
            os.unlink(path)
    finally:
        os.close(file)
