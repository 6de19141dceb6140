"""A GPU shared by several workers: many may train and score on it at once, but whoever times something has it alone.

Files in the temporary folder, locked by the system: a lock ends with the process that holds it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["Share", "alone_on", "beside_others"]

Tell = Callable[[], None]


class Share:
    """A part of a GPU, held by one process; of a CPU there is nothing to hold.

    Whoever comes adds a byte to the file that all lock, so that those who are there can tell.
    """

    def __init__(self, file: int | None = None, crowded: bool = False) -> None:
        self._file, self._crowded, self._came = file, crowded, _size(file)

    @property
    def crowded(self) -> bool:
        """Whether anybody else had a part of the GPU since this one was taken, at any moment of it."""
        self._crowded = self._crowded or _size(self._file) != self._came
        return self._crowded


def _size(file: int | None) -> int:
    return 0 if file is None else os.fstat(file).st_size


@contextmanager
def beside_others(device: torch.device, waiting: Tell) -> Iterator[Share]:
    """Held while training, or drawing and scoring samples; waits while someone has the GPU alone, or waits for that."""
    with _held(device, fcntl.LOCK_SH, waiting) as share:
        yield share


@contextmanager
def alone_on(device: torch.device, waiting: Tell = lambda: None) -> Iterator[None]:
    """Held while something is timed; waits until nobody else has a part of the GPU. `waiting` is called meanwhile."""
    with _held(device, fcntl.LOCK_EX, waiting):
        yield


@contextmanager
def _held(device: torch.device, how: int, waiting: Tell) -> Iterator[Share]:
    name = _name(device)
    if name is None:
        yield Share()
        return
    folder = Path(tempfile.gettempdir())
    # Whoever wants it alone keeps the gate while they wait, so that nobody new overtakes them.
    with open(folder / f"{name}.gate", "a") as gate, open(folder / f"{name}.lock", "ab", buffering=0) as lock:
        _take(gate.fileno(), fcntl.LOCK_EX, waiting)
        _take(lock.fileno(), how, waiting)
        others = how == fcntl.LOCK_SH and not _free(lock.fileno())
        lock.write(b".")
        share = Share(lock.fileno(), others)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield share


def _name(device: torch.device) -> str | None:
    """What all processes of a user call a GPU, whichever of them they see; None for a CPU."""
    if device.type != "cuda":
        return None
    return f"bench-{os.getuid()}-{torch.cuda.get_device_properties(device).uuid}"


def _free(file: int) -> bool:
    """Whether nobody but us holds a part, asked by who holds one and the gate, which keeps others from coming."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        fcntl.flock(file, fcntl.LOCK_SH)  # the question may have cost ours


def _take(file: int, how: int, waiting: Tell) -> None:
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waiting()
            time.sleep(0.1)
