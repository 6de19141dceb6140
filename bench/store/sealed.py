"""JSON files of the suite, and JSON objects with the sha256 of their content inside."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.store.files import damaged, put, read

__all__ = ["SEAL", "parse", "read_json", "read_sealed", "unsealed", "write_json", "write_sealed"]

SEAL = "sha256"  # the key of a sealed JSON object
DEEPEST = 16  # objects and lists in each other that a JSON file of the suite has at most
LONGEST = 1 << 26  # bytes of a JSON file of the suite: a manifest of thousands of files has not a tenth of it


def write_json(path: Path, value: Any) -> dict[str, Any]:
    """`put` of a value as JSON. A path that is no UTF-8 comes back as it was: its odd bytes are written as \\udcXX."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return put(path, text.encode("utf-8", "backslashreplace"))


def write_sealed(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """`put` of a JSON object with the sha256 of its content in it: for what is read before a manifest lists it."""
    return write_json(path, {**value, SEAL: _seal(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises BadInput when it is missing or was changed since."""
    return unsealed(path, read_json(path))


def unsealed(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object without its seal. Raises BadInput when it was changed since it was written to `path`."""
    value = dict(value)
    if value.pop(SEAL, None) != _seal(value):
        raise damaged(path, "is damaged or was edited (its sha256 does not match)")
    return value


def _seal(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises BadInput when the file is missing or not an object."""
    try:
        value = parse(read(path, LONGEST))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise damaged(path, "is not a JSON object")
    return value


def parse(text: bytes) -> Any:
    """The value of JSON in UTF-8 whose numbers are finite and whose keys are there once. Raises ValueError for other text."""
    try:
        value = json.loads(text.decode(), parse_constant=_finite, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(DEEPEST):
        if not (level := [inner for one in level for inner in _inside(one)]):
            return value
    raise ValueError("it is nested too deeply")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no finite number")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
