"""Files that are written whole or not at all, and what to do about a damaged one."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.data.whole import read_whole
from paradigms.errors import BadInput
from reports import files
from reports.layout import INFO, RESULTS

__all__ = ["Unwritable", "damaged", "put", "read", "writable", "write_atomic"]


class Unwritable(BadInput):
    """A place can not be written to, or is full."""


def write_atomic(path: Path, data: bytes) -> None:
    """`reports.files.write` for the user's files: raises Unwritable when the place can not be written to or is full."""
    try:
        files.write(path, data)
    except OSError as error:
        raise Unwritable(
            f"can not write {path}: {error.strerror or error}; free the place or choose another --out"
        ) from None


def writable(folder: Path) -> None:
    """Proves that files can be written into a folder, before any work; leaves none behind. Raises Unwritable."""
    folder = Path(folder)
    absent = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
            pass
    except OSError as error:
        raise Unwritable(f"can not write to {folder}: {error.strerror or error}; choose another folder") from None
    finally:
        for parent in absent:  # whoever writes makes them again
            with suppress(OSError):
                parent.rmdir()


def put(path: Path, data: bytes) -> dict[str, Any]:
    """Writes a file atomically and returns what a manifest says of it (see `write_manifest`)."""
    write_atomic(path, data)
    return files.fingerprint(data)


def read(path: Path, limit: int | None = None) -> bytes:
    if not os.path.exists(path):
        raise BadInput(f"{path} is missing; is {path.parent} the folder of a finished run?")
    return read_whole(path, limit)


def damaged(path: Path, how: str) -> BadInput:
    if path.name == RESULTS:  # made from the weights, which are worth more than it
        return BadInput(f"{path} {how}; delete this file, and `bench all` or `bench evaluate` makes it anew")
    if path.suffix == ".png":  # drawn with the rows
        return BadInput(
            f"{path} {how}; delete {path.parent / RESULTS}, and `bench all` or `bench evaluate` makes both anew"
        )
    if path.name.startswith("plan-"):
        return BadInput(f"{path} {how}; delete this file and run the same command again")
    if path.suffix == ".pt":  # a checkpoint
        return BadInput(f"{path} {how}; delete the folder {path.parent} to train anew")
    verb = "train" if os.path.exists(path.parent / INFO) else "evaluate"
    return BadInput(f"{path} {how}; delete the folder {path.parent}, and `bench all` or `bench {verb}` makes it anew")
