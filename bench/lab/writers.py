"""Writers: two processes write into one folder through `bench.store` at a time, and neither loses what it wrote."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench import store
from bench.lab.attack import Attack, Call, arm
from bench.lab.verdict import Verdict
from paradigms.errors import BadInput

__all__ = ["COLD", "TRIALS", "lingers", "prepare", "trial"]

TRIALS = 100
COLD = True  # needs nothing loaded but the store
PAUSE = 0.02  # seconds, at most, that a writer stops at each call: so that the two meet anywhere
KINDS = ("rows of two keys", "rows and files")


def lingers(seed: int) -> Attack:
    """Stops for a little at every call that writes."""
    by = random.Random(seed)

    def attack(index: int, call: Call, file: int | None) -> None:
        if call.kind != "step":
            time.sleep(by.random() * PAUSE)

    return attack


def prepare(place: Path, trials: int) -> None:
    """Nothing is needed."""


def trial(setup: None, number: int, by: random.Random, place: Path) -> Verdict:
    """Two processes keep rows under two keys; or one keeps rows, the other files."""
    kind = KINDS[number % len(KINDS)]
    place.mkdir(parents=True)
    rows = [store.Row(run="0-a", metric="fd", value=float(k)) for k in range(3)]
    store.save_rows(place, rows, "before")
    both = kind == "rows of two keys"
    mine = [replace(row, tier="one") for row in rows]
    theirs = [replace(row, tier="two") for row in rows]

    def files() -> None:
        with store.locked(place):
            store.write_manifest(place, {"grid.png": store.put(place / "grid.png", b"picture")})

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
            arm(lingers(seed))
            work()
            code = 0
        finally:
            os._exit(code)
    return pid
