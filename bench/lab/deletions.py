"""Deletions: a file that a manifest, a run.json or a cache promises is gone, at rest or while training, and is missed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

from bench import store
from bench.lab import museum
from bench.lab.attack import Call
from bench.lab.museum import SAID, TIER, VECTORS, Museum
from bench.lab.same import differences, essence
from bench.lab.verdict import Verdict
from bench.lab.warm import HUNG, World, calls_of

__all__ = ["TRIALS", "prepare", "trial"]

TRIALS = 200
WHILE = 4  # one trial in so many deletes while a suite is at work
# Logs, snapshots, checkpoints and what else lies in a run's folder while it is made.
FILES = (
    "log.jsonl",
    "at-*.safetensors",
    "state.pt",
    "prepared.pt",
    "run.json",
    "samples.npz",
    "grid.png",
    "manifest.json",
)


def prepare(place: Path, trials: int) -> tuple[Museum, World, dict[str, str], list[Call]]:
    """The museum, and a suite's end without harm with the calls on its way."""
    kept = museum.museum(place.parent)
    world = World.new(place / "reference")
    _, calls = calls_of(world, *_suite(kept))
    return kept, world, essence(world.root), calls


def _suite(kept: Museum) -> tuple[str, ...]:
    return ("all", "--dataset", VECTORS, "--tier", TIER, "--recipes", kept.chain, "--no-timing", "--out", "out")


def trial(
    setup: tuple[Museum, World, dict[str, str], list[Call]], number: int, by: random.Random, place: Path
) -> Verdict:
    """Every kind of file in turn; every so many trials one while a suite trains and scores."""
    kept, _, reference, calls = setup
    if number % WHILE == WHILE - 1:
        return _while(kept, reference, calls, number, by, place)
    kinds = sorted(set(kept.kinds) - museum.OWN)
    kind = kinds[(number - number // WHILE) % len(kinds)]
    name = by.choice(kept.kinds[kind])
    world, (name,) = kept.copy([name], place)
    (world.root / name).unlink()
    verdict = museum.judge(kept, world, [name], kind, number, kept.verbs(name), f"{name} deleted")
    if verdict.held and verdict.how in ("harmless", "not read") and _promised(kept.world.root / name):
        return Verdict(kind, number, False, "not missed", verdict.detail)
    return verdict


def _promised(path: Path) -> bool:
    """Whether the manifest beside a file lists it; what none lists, as a checkpoint, may be made anew or done without."""
    return path.exists() and path.name in store.manifest(path.parent)


def _while(
    kept: Museum, reference: dict[str, str], calls: list[Call], number: int, by: random.Random, place: Path
) -> Verdict:
    pattern = FILES[number // WHILE % len(FILES)]
    at = by.choice([k for k, call in enumerate(calls) if "report" not in call.what])
    world = World.new(place)
    ended = world.run(
        *_suite(kept), attack=_deletes(world.root, pattern, at, world.root.with_name(f".{place.name}.gone"))
    )
    said = world.root.with_name(f".{place.name}.gone")
    gone = said.read_text() if said.exists() else ""
    said.unlink(missing_ok=True)
    kind = f"while at work: {pattern}"
    what = f"{gone} deleted at call {at} or later; bench {' '.join(_suite(kept))}: exit {ended.code}"
    if ended.code == HUNG or ended.trace:
        return Verdict(kind, number, False, "hang" if ended.code == HUNG else "traceback", f"{what}: {ended.last()}")
    if not gone:
        return Verdict(kind, number, True, "no such file", what)
    if ended.code or SAID.search(ended.err):
        return Verdict(kind, number, True, "said", what)
    lines = differences(reference, world.root)
    if lines:
        return Verdict(kind, number, False, "not missed", f"{what}: {'; '.join(lines[:5])}")
    return Verdict(kind, number, True, "made anew", what)


def _deletes(root: Path, pattern: str, at: int, note: Path) -> Callable[[int, Call, int | None], None]:
    def attack(index: int, call: Call, file: int | None) -> None:
        if index < at or note.exists():
            return
        found = sorted(p for p in root.glob(f"out/*/*/*/{pattern}") if not re.search("baselines", str(p)))
        if found:
            note.write_text(found[-1].relative_to(root).as_posix())  # first, as deleting is a call too
            found[-1].unlink()

    return attack
