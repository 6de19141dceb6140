"""A GPU shared by several workers: many may train on it, but steps are timed for a plan only by one who has it alone.

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

__all__ = ["alone_on", "training_on"]

Tell = Callable[[], None]


@contextmanager
def training_on(device: torch.device, waiting: Tell) -> Iterator[None]:
    """Held while training; waits while someone has the GPU alone, or waits for that. Nothing on a CPU."""
    with _held(device, fcntl.LOCK_SH, waiting):
        yield


@contextmanager
def alone_on(device: torch.device, waiting: Tell) -> Iterator[None]:
    """Held while steps are timed; waits until nobody trains. `waiting` is called meanwhile. Nothing on a CPU."""
    with _held(device, fcntl.LOCK_EX, waiting):
        yield


@contextmanager
def _held(device: torch.device, how: int, waiting: Tell) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    name = f"bench-{os.getuid()}-{torch.cuda.get_device_properties(device).uuid}"
    folder = Path(tempfile.gettempdir())
    # Whoever wants it alone keeps the gate while they wait, so that no new training overtakes them.
    with open(folder / f"{name}.gate", "a") as gate, open(folder / f"{name}.lock", "a") as lock:
        _take(gate.fileno(), fcntl.LOCK_EX, waiting)
        _take(lock.fileno(), how, waiting)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


def _take(file: int, how: int, waiting: Tell) -> None:
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waiting()
            time.sleep(0.1)
