"""Whether two folders of runs hold the same: every file, bit for bit, but for what clocks say.

Of a report the pictures in its page are compared, and of its other files that they are there: times are all over them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import store
from paradigms.errors import BadInput

__all__ = ["differences", "essence", "timeless"]

CLOCKS = frozenset(
    {"seconds", "cpu_seconds", "seconds_total", "seconds_per_step", "images_per_second", "started", "finished"}
    | {"contended", "resumed", "code", "codes", "sha256", "python", "platform"}
)
TIMED = frozenset({"value", "error", "low", "high", "n", "reason"})  # of a timing's row
_TIMES = re.compile("seconds|^([Tt]ime|[Ll]atency|[Tt]hroughput)")  # in columns of a comparison too
_PICTURE = re.compile(r"data:image/\w+;base64,[\w+/=]+")


def timeless(value: Any) -> Any:
    """JSON without what clocks and interruptions decide."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in CLOCKS and not _TIMES.search(k)}
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return sorted(value)  # names of files, in the order of their making
    return [timeless(v) for v in value] if isinstance(value, list) else value


def essence(root: Path) -> dict[str, str]:
    """By its path below `root`, what each file holds, in short; locks apart."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.name.endswith(".lock") or (path.is_dir() and not path.is_symlink()):
            continue
        found[name] = _essence(path, name) if path.is_file() else "no file"
    return found


def _essence(path: Path, name: str) -> str:
    try:
        data = path.read_bytes()
        if name.startswith("report/") or "/report/" in name:
            # Times are all over it: its pictures, and that it is there.
            return _hash(*_PICTURE.findall(data.decode())) if path.suffix == ".html" else "there"
        if path.name == store.MANIFEST:
            store.verify(path.parent)
            return f"lists {', '.join(store.manifest(path.parent))}"
        if path.suffix == ".json":
            return _hash(json.dumps(timeless(json.loads(data)), sort_keys=True))
        if path.suffix == ".jsonl":
            rows = [timeless(json.loads(line)) for line in data.decode().splitlines()]
            if path.parent.name == "timing":
                rows = [{k: v for k, v in row.items() if k not in TIMED} for row in rows]
            return _hash(*(json.dumps(row, sort_keys=True) for row in rows))
    except (BadInput, ValueError, RecursionError, OSError) as error:
        return f"damaged: {error}"
    return hashlib.sha256(data).hexdigest()


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "backslashreplace")).hexdigest()


def differences(reference: dict[str, str], root: Path, apart: Callable[[str], bool] = lambda name: False) -> list[str]:
    """What is missing below `root`, is left over there, or holds something else, a line each."""
    found = essence(root)
    lines = [f"missing: {name}" for name in reference.keys() - found.keys() if not apart(name)]
    lines += [f"left over: {name}" for name in found.keys() - reference.keys() if not apart(name)]
    for name in reference.keys() & found.keys():
        if reference[name] != found[name] and not apart(name):
            why = found[name] if found[name].startswith("damaged") else "other content"
            lines.append(f"differs: {name} ({why})")
    return sorted(lines)
