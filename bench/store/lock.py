"""One writer in a folder at a time: between processes, and between threads of one."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.store.files import Unwritable
from reports import files
from reports.layout import LOCK

__all__ = ["locked"]

_mine = threading.local()  # the locks that a thread holds


@contextmanager
def locked(folder: Path, waiting: Callable[[], object] = lambda: None, name: str = "") -> Iterator[None]:
    """Holds the lock that every writer into a folder holds: between processes, and between threads of this one.

    The system drops it when its holder dies, so none is ever stale. Who holds it may take it again. What dead writers
    left half-written is removed. waiting: called again and again while another holds it; what it raises ends that.
    name: locks one file in the folder, where several may be written at once. Raises Unwritable.
    """
    folder = Path(folder)
    path = folder / (f".{name}.lock" if name else LOCK)
    key, held = os.path.realpath(path), _mine.__dict__.setdefault("held", set())
    if key in held:
        yield
        return
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Neither a link, which may lead out of the folder, nor a pipe, which would be waited for.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            file = os.fdopen(os.open(path, flags, 0o666), "wb", 0)  # closing it drops the lock
        except OSError as error:
            raise Unwritable(f"can not write {folder}: {error.strerror or error}; choose another --out") from None
        with file:
            pause = 0.002
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waiting()
                    time.sleep(pause)
                    pause = min(2 * pause, 0.1)
                except OSError as error:
                    raise Unwritable(f"can not lock {path}: {error.strerror}; choose another --out") from None
            if not files.is_at(path, file.fileno()):  # the folder was deleted meanwhile, and the lock with it
                continue
            held.add(key)
            try:
                files.sweep(folder, name)
                yield
            finally:
                held.discard(key)
        return
