"""The calls at which a process can be stopped, and what is done to it there. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.progress import Plain, Progress

__all__ = ["Attack", "Call", "arm", "cut"]


@dataclass(frozen=True)
class Call:
    """kind: "fsync", "rename", "unlink" or "step" (a sign of progress, or of the display).
    what: the file's path, or what the sign says."""

    kind: str
    what: str


Attack = Callable[[int, Call, int | None], None]  # (how many calls were before, the call, the file's descriptor)


def arm(attack: Attack) -> None:
    """Calls `attack` before every fsync, rename and unlink, and at every sign of progress, of this process."""
    count = 0

    def tell(kind: str, what: object, file: int | None = None) -> None:
        nonlocal count
        count += 1
        attack(count - 1, Call(kind, str(what)), file)

    def wrapped(kind: str, real: Callable[..., Any], name: Callable[..., object]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            file = arguments[0] if kind == "fsync" else None
            tell(kind, name(*arguments), file if isinstance(file, int) else None)
            return real(*arguments, **named)

        return call

    os.fsync = wrapped("fsync", os.fsync, _path_of)
    os.replace = wrapped("rename", os.replace, lambda source, to, *_: to)
    os.rename = wrapped("rename", os.rename, lambda source, to, *_: to)
    os.unlink = wrapped("unlink", os.unlink, lambda path, *_: path)
    os.remove = os.unlink
    real = Progress.update

    def update(self: Progress, stage: str, done: int, total: int, **facts: Any) -> None:
        tell("step", f"{stage} {done}/{total}")
        real(self, stage, done, total, **facts)

    Progress.update = update  # type: ignore[method-assign]
    tick = Plain.tick

    def ticked(self: Plain) -> None:
        tell("step", "the display")
        tick(self)

    Plain.tick = ticked  # type: ignore[method-assign]


def _path_of(file: Any) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")
    except OSError:
        return "?"


def cut(file: int | None, by: random.Random) -> None:
    """Leaves a random part of a file that was being written."""
    if file is None:
        return
    with contextlib.suppress(OSError):  # of a folder
        os.ftruncate(file, by.randrange(os.fstat(file).st_size + 1))
