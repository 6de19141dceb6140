"""Swaps: a whole file or folder takes the place of another of its kind, and must not be believed there."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

from bench.lab import museum
from bench.lab.museum import Museum
from bench.lab.same import essence
from bench.lab.verdict import Verdict

__all__ = ["TRIALS", "places", "prepare", "trial"]

TRIALS = 300
# What stands together, rows or samples with the manifest that lists them, and in whose place such another may come.
RESULTS = {"results.jsonl", "grid.png", "samples.npz", "manifest.json"}
FOLDERS = {
    "run": r"^out/[^/]+/[^/]+/\d+-\w+$",
    "protocol": r"/protocols/[^/]+$",
    "timing": r"/timing$",
    "baselines": r"/baselines/[^/]+$",
    "asked rows": r"/(likelihood|samplers|features)$",
}


def prepare(place: Path, trials: int) -> Museum:
    return museum.museum(place.parent)


def places(kept: Museum) -> dict[str, list[str]]:
    """Files, folders ("folder of ...") and rows with their manifest ("rows and manifest"), by kind, that can be exchanged."""
    found = {kind: names for kind, names in kept.kinds.items() if kind not in museum.OWN and kind != "report"}
    for path in sorted(p for p in kept.world.out.rglob("*") if p.is_dir()):
        name = path.relative_to(kept.world.root).as_posix()
        for kind, pattern in FOLDERS.items():
            if re.search(pattern, name) and "/external" not in name:
                found.setdefault(f"folder of {kind}", []).append(name)
        if (path / "results.jsonl").exists() and "/external/" not in name:
            found.setdefault("rows and manifest", []).append(name)
    return {kind: names for kind, names in found.items() if len(names) > 1}


def trial(kept: Museum, number: int, by: random.Random, place: Path) -> Verdict:
    """Every kind in turn; two of it by chance, one of which takes the other's place."""
    kinds = places(kept)
    kind = sorted(kinds)[number % len(kinds)]
    one, other = by.sample(kinds[kind], 2)
    world, (one, other) = kept.copy([one, other], place)
    source, to = world.root / one, world.root / other
    if kind == "rows and manifest":
        for name in RESULTS:
            if (source / name).exists() and (name in ("results.jsonl", "manifest.json") or (to / name).exists()):
                shutil.copy2(source / name, to / name)
    elif source.is_dir():
        if essence(source) == essence(to):
            return Verdict(kind, number, True, "no change", f"{one} is as {other}")
        shutil.rmtree(to)
        shutil.copytree(source, to)
    else:
        if source.read_bytes() == to.read_bytes():
            return Verdict(kind, number, True, "no change", f"{one} is as {other}")
        shutil.copy2(source, to)
    inside = other if to.is_file() else f"{other}/{'results.jsonl' if (to / 'results.jsonl').exists() else 'run.json'}"
    verbs = kept.verbs(inside)
    return museum.judge(kept, world, [other], kind, number, verbs, f"{one} in place of {other}")
