"""Reads files that may be anything: pipes, devices and what is too large are refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from paradigms.errors import BadInput

__all__ = ["read_whole"]


def read_whole(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a regular file, of at most `limit`. Raises BadInput.

    Nothing else is read: a pipe would be waited for, and a device such as /dev/zero has no end.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadInput(f"{path} is no regular file but a pipe or a device; put a file in its place")
            data = b"" if limit is not None and status.st_size > limit else file.read()
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist") from None
    except OSError as error:
        raise BadInput(f"can not read {path}: {error.strerror or error}") from None
    if limit is not None and max(len(data), status.st_size) > limit:
        raise BadInput(f"{path} holds {max(len(data), status.st_size):,} bytes, and at most {limit:,} are read")
    return data


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe, too, without a wait for who writes into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
