"""Corruption: a file is damaged, and every command that reads it says so, makes it anew, or gives what it would have given."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.lab import museum
from bench.lab.museum import Museum
from bench.lab.verdict import Verdict

__all__ = ["DAMAGES", "TRIALS", "prepare", "trial"]

TRIALS = 1000


def prepare(place: Path, trials: int) -> Museum:
    return museum.museum(place.parent)


def trial(kept: Museum, number: int, by: random.Random, place: Path) -> Verdict:
    """Every kind of file in turn; the file and the damage by chance."""
    kinds = sorted(kept.kinds)
    kind = kinds[number % len(kinds)]
    name, damage = by.choice(kept.kinds[kind]), by.choice(list(DAMAGES))
    world, (name,) = kept.copy([name], place)
    path = world.root / name
    before = path.read_bytes()
    what = DAMAGES[damage](path, by, kept)
    if path.is_file() and not path.is_symlink() and path.read_bytes() == before:
        return Verdict(kind, number, True, "no change", f"{name}: {damage}")
    return museum.judge(kept, world, [name], kind, number, kept.verbs(name), f"{name}: {damage} {what}".rstrip())


# ---------------------------------------------------------------------------------------------------------- damages


def _bit(path: Path, by: random.Random, kept: Museum) -> str:
    data = bytearray(path.read_bytes())
    if not data:
        return ""
    at = by.randrange(8 * len(data))
    data[at // 8] ^= 1 << at % 8
    path.write_bytes(data)
    return str(at)


def _block(path: Path, by: random.Random, kept: Museum) -> str:
    data = bytearray(path.read_bytes())
    at = by.randrange(len(data) + 1)
    n = min(len(data) - at, by.choice((1, 16, 512, 4096)))
    data[at : at + n] = bytes(n) if by.random() < 0.5 else by.randbytes(n)
    path.write_bytes(data)
    return f"{n} at {at}"


def _cut(path: Path, by: random.Random, kept: Museum) -> str:
    size = by.randrange(path.stat().st_size + 1)
    os.truncate(path, size)
    return f"to {size}"


def _longer(path: Path, by: random.Random, kept: Museum) -> str:
    more = by.choice((b"\0", b"\n", b"{}\n", by.randbytes(40), path.read_bytes()))
    with open(path, "ab") as file:
        file.write(more)
    return repr(more[:12])


def _empty(path: Path, by: random.Random, kept: Museum) -> str:
    path.write_bytes(b"")
    return ""


def _gone(path: Path, by: random.Random, kept: Museum) -> str:
    path.unlink()
    return ""


def _other_kind(path: Path, by: random.Random, kept: Museum) -> str:
    """Another kind of file in its place; also a folder, a pipe, and a link to nothing."""
    how = by.choice(("file", "file", "file", "folder", "pipe", "link"))
    if how == "file":
        others = [kind for kind in sorted(kept.kinds) if kind != museum.kind_of(path.name)]
        name = by.choice(kept.kinds[by.choice(others)])
        shutil.copyfile(kept.world.root / name, path)
        return name
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    return how


def _other_json(path: Path, by: random.Random, kept: Museum) -> str:
    """Valid JSON with something else in it; of a file of lines, in one of them. Into what is no JSON goes some."""
    try:
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        at = by.randrange(len(lines))
        value = json.loads(lines[at])
    except (ValueError, IndexError):
        path.write_text(by.choice(("{}", "[]", "null", '{"files": {}}')))
        return "JSON in place of it"
    how = by.choice(("leaf", "leaf", "leaf", "key", "more", "whole", "deep", "line"))
    if how == "whole":
        value = by.choice(({}, [], None, "text", 1e308, [value], {"files": value}))
    elif how in ("key", "more") and isinstance(value, dict) and value:
        if how == "key":
            del value[by.choice(sorted(value))]
        else:
            value["unknown"] = 1
    elif how == "leaf":
        value = _changed(value, by)
    text = "[" * 100_000 if how == "deep" else json.dumps(value)
    if path.suffix == ".jsonl" and how == "line":
        lines.insert(at, lines[by.randrange(len(lines))])  # a line twice
        if by.random() < 0.5:
            lines = lines[:at] + lines[at + 2 :]  # or lost
    else:
        lines[at] = text
    path.write_text("".join(f"{line}\n" for line in lines))
    return how


def _changed(value: Any, by: random.Random) -> Any:
    """The same with one of its leaves another."""
    if isinstance(value, dict) and value:
        key = by.choice(sorted(value))
        return {**value, key: _changed(value[key], by)}
    if isinstance(value, list) and value:
        at = by.randrange(len(value))
        return [*value[:at], _changed(value[at], by), *value[at + 1 :]]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return by.choice((value + 1, -value - 1, value * 10 + 1, 1e308, str(value), [value]))
    return by.choice(("text", 7, None, [], {}, "../../x", "ok", True))


def _no_text(path: Path, by: random.Random, kept: Museum) -> str:
    """A byte that is in no UTF-8."""
    data = path.read_bytes()
    at = by.randrange(len(data) + 1)
    path.write_bytes(data[:at] + b"\xff" + data[at:])
    return f"at {at}"


DAMAGES: dict[str, Callable[[Path, random.Random, Museum], str]] = {
    "bit": _bit,
    "block": _block,
    "cut": _cut,
    "longer": _longer,
    "empty": _empty,
    "gone": _gone,
    "other kind": _other_kind,
    "other JSON": _other_json,
    "no UTF-8": _no_text,
}
