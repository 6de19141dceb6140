"""Races: two commands write one folder or output folder at a time, and leave what one after the other would have left."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from bench.lab import museum
from bench.lab.museum import TIER, VECTORS, Museum
from bench.lab.same import differences, essence
from bench.lab.verdict import Verdict
from bench.lab.warm import HUNG, World
from bench.lab.writers import lingers

__all__ = ["TRIALS", "prepare", "trial"]

TRIALS = 60
KINDS = (
    "two evaluations",
    "two suites",
    "a suite and a training",
    "two trainings",
)


def prepare(place: Path, trials: int) -> Museum:
    return museum.museum(place.parent)


def trial(kept: Museum, number: int, by: random.Random, place: Path) -> Verdict:
    """Every kind of pair in turn."""
    kind = KINDS[number % len(KINDS)]
    first = kept._folders(VECTORS)[0]
    force = ("evaluate", first, "--tier", TIER, "--force", "--json")
    suite, training = kept._suite(VECTORS), kept._training(museum.LATER[0])
    pairs = {
        "two evaluations": (
            force,
            by.choice((force, ("evaluate", first, "--tier", museum.OTHER, "--force", "--json"))),
        ),
        "two suites": (suite, suite),
        "a suite and a training": (
            suite,
            ("train", kept.plain, "--dataset", VECTORS, "--tier", TIER, "--seed", "1", "--out", "out", "--json"),
        ),
        "two trainings": (training, training),
    }
    world = kept.world.copied(place)
    _unfinished(kept, kind, world)
    reference = _reference(kept, kind, place, pairs[kind])
    running = [world.start(*verb, attack=lingers(by.randrange(1 << 30))) for verb in pairs[kind]]
    ended = [one.wait() for one in running]
    what = "; ".join(
        f"bench {' '.join(v)}: exit {e.code}: {e.last()[:100]}" for v, e in zip(pairs[kind], ended, strict=True)
    )
    if any(e.trace for e in ended):
        return Verdict(kind, number, False, "traceback", what)
    if any(e.code == HUNG for e in ended):
        return Verdict(kind, number, False, "hang", what)
    if any(e.code for e in ended):
        return Verdict(kind, number, False, "failed", what)
    if lines := differences(reference, world.root, lambda name: "/asked" in name or name.startswith("rep")):
        return Verdict(kind, number, False, lines[0].split(":")[0], f"{what}: {'; '.join(lines[:6])}")
    return Verdict(kind, number, True, "equal")


_KNOWN: dict[tuple[tuple[str, ...], ...], dict[str, str]] = {}


def _reference(kept: Museum, kind: str, place: Path, pair: tuple[tuple[str, ...], ...]) -> dict[str, str]:
    """What the commands leave one after the other."""
    if pair not in _KNOWN:
        world = kept.world.copied(place.with_name(f"{place.name}-alone"))
        _unfinished(kept, kind, world)
        for verb in pair:
            world.run(*verb)
        _KNOWN[pair] = essence(world.root)
        shutil.rmtree(world.root)
    return _KNOWN[pair]


def _unfinished(kept: Museum, kind: str, world: World) -> None:
    """Takes away what a suite then has to make: a run, the scores and times of another, the baselines."""
    if kind not in ("two suites", "a suite and a training"):
        return
    first, second = kept._folders(VECTORS)
    shutil.rmtree(world.root / second)
    shutil.rmtree(world.root / first / "timing")
    (world.root / first / "results.jsonl").unlink()
    shutil.rmtree(world.out / VECTORS / "baselines")
