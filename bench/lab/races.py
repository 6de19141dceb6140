"""Races: two processes write one folder at a time, and what is there in the end is what one after the other would have left."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench import store
from bench.lab import museum
from bench.lab.attack import Call, arm
from bench.lab.museum import TIER, VECTORS, Museum
from bench.lab.same import differences
from bench.lab.verdict import Verdict
from bench.lab.warm import HUNG
from paradigms.errors import BadInput

__all__ = ["TRIALS", "prepare", "trial"]

TRIALS = 60
PAUSE = 0.02  # seconds, at most, that a writer stops at each call: so that the two meet anywhere
KINDS = (
    "rows of two keys",
    "rows and files",
    "two evaluations",
    "two suites",
    "a suite and a training",
    "two trainings",
)


def prepare(place: Path, trials: int) -> Museum:
    return museum.museum(place.parent)


def trial(kept: Museum, number: int, by: random.Random, place: Path) -> Verdict:
    """Every kind of pair in turn, of which the first two are of the store alone and quick."""
    kind = KINDS[number % len(KINDS)]
    if kind.startswith("rows"):
        return _of_rows(kind, number, by, place)
    first, second = (folder for folder in kept._folders(VECTORS))
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
    if kind in ("two suites", "a suite and a training"):  # something to do
        shutil.rmtree(world.root / second)
        for name in ("results.jsonl", "timing"):
            path = world.root / first / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(world.out / VECTORS / "baselines")
    reference = _reference(kept, kind, place, pairs[kind])
    running = [world.start(*verb, attack=_lingers(by.randrange(1 << 30))) for verb in pairs[kind]]
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
    from bench.lab.same import essence

    if pair not in _KNOWN:
        world = kept.world.copied(place.with_name(f"{place.name}-alone"))
        if kind in ("two suites", "a suite and a training"):
            first, second = kept._folders(VECTORS)
            shutil.rmtree(world.root / second)
            for name in ("results.jsonl", "timing"):
                path = world.root / first / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.rmtree(world.out / VECTORS / "baselines")
        for verb in pair:
            world.run(*verb)
        _KNOWN[pair] = essence(world.root)
        shutil.rmtree(world.root)
    return _KNOWN[pair]


def _lingers(seed: int) -> Callable[[int, Call, int | None], None]:
    by = random.Random(seed)

    def attack(index: int, call: Call, file: int | None) -> None:
        if call.kind != "step":
            time.sleep(by.random() * PAUSE)

    return attack


# ---------------------------------------------------------------------------------------------------------- the store


def _of_rows(kind: str, number: int, by: random.Random, place: Path) -> Verdict:
    """Two processes keep rows in one folder, under two keys; or one keeps rows, the other files."""
    place.mkdir(parents=True)
    rows = [store.Row(run="0-a", metric="fd", value=float(k)) for k in range(3)]
    store.save_rows(place, rows, "before")
    both = kind == "rows of two keys"
    mine = [replace(row, tier="one") for row in rows]
    theirs = [replace(row, tier="two") for row in rows]

    def files() -> None:
        store.write_atomic(place / "grid.png", b"picture")
        store.write_manifest(place, ["grid.png"])

    seeds = by.randrange(1 << 30), by.randrange(1 << 30)
    works: list[Callable[[], None]] = [lambda: store.save_rows(place, mine, "one")]
    works.append((lambda: store.save_rows(place, theirs, "two")) if both else files)
    codes = [
        os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for pid in [_forked(w, s) for w, s in zip(works, seeds, strict=True)]
    ]
    try:
        store.verify(place)
        key, tier = store.results_key(place), store.load_rows(place)[0].tier
        listed = store.manifest(place)
    except BadInput as error:
        return Verdict(kind, number, False, "damaged", f"{codes}: {error}")
    if any(codes):
        return Verdict(kind, number, False, "failed", str(codes))
    if key != tier:
        return Verdict(kind, number, False, "under the other's key", f"rows of '{tier}' are kept as those of '{key}'")
    if not both and "grid.png" not in listed:
        return Verdict(kind, number, False, "lost an entry", f"the manifest lists {', '.join(listed)}")
    return Verdict(kind, number, True, "equal")


def _forked(work: Callable[[], None], seed: int) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            arm(_lingers(seed))
            work()
            code = 0
        finally:
            os._exit(code)
    return pid
