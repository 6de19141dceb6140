"""Files that are whole or not there, and what a manifest says of them. The one place that writes atomically.

A file is written beside its place, synced and renamed, so that a reader finds what was there before or all of the new
one. What a writer that died left half-written is removed by the next one in the folder (`sweep`).
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["fingerprint", "sweep", "write"]

_in_work = set[str]()  # what this process is writing, so that `sweep` does not take it for what a dead one left


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
    _in_work.add(os.path.realpath(temporary))
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        _in_work.discard(os.path.realpath(temporary))
    # The rename itself is durable only once the folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sweep(folder: Path, name: str = "", locked: bool = False) -> None:
    """Removes what writers that died left half-written in a folder, or of one file there. What can not be, stays.

    locked: the caller holds the folder's lock, so nobody else writes there: the number of a dead process may have been
    given to another one since.
    """
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            half = re.fullmatch(r"\.(.+)\.(\d+)\.tmp", entry.name)
            if half and name in ("", half[1]) and (locked or not _is_written(entry.path, int(half[2]))):
                with suppress(OSError):
                    os.unlink(entry)


def _is_written(path: str, pid: int) -> bool:
    """Whether the process with this number is there to finish a file; a dead one may have had that of this one."""
    if pid == os.getpid():
        return os.path.realpath(path) in _in_work
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
