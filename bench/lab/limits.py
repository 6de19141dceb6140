"""What large cases cost: `python -m bench.lab.limits [lists] [many_runs] [samples] [--part 1] [--in FOLDER]`.

It makes the cases in a temporary folder, runs each command as a process of its own, and prints what it took beside what
it may take: CPU seconds and the peak of resident memory, both as the kernel counts them for that process and its
children, so that other work on the machine does not count. The limits are for the whole sizes; a part of them
(`--part 0.01`) shows in a minute that everything works. Exit code 1 where a command failed or a limit was passed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from bench import store
from bench.data import cifar, sets
from bench.script import answered
from bench.walk import walk
from paradigms import catalogue
from reports.files import fingerprint
from reports.layout import LOG

__all__ = ["Case", "Cost", "cost_of", "main"]

TIER = """[tiny]
base = "smoke"
samples = 50
sweep_seeds = 0
max_calls = 4
likelihood_n = 8
likelihood_calls = 20
vectors = {flops = 1e7, seconds = 60, images = 500, params = 2_000}
"""
RUNS, LINES, SAMPLES, FILES = 300, 1_000_000, 50_000, 20_000
GIB = 2**30


class Case(NamedTuple):
    """A command, and the most that it may cost.

    given:   arguments of `bench`.
    seconds: of CPU; None: as many as it takes.
    memory:  bytes.
    """

    name: str
    given: Sequence[str | Path]
    seconds: float | None
    memory: int


class Cost(NamedTuple):
    """What a process cost: its exit code, CPU seconds, peak of resident memory in bytes, and lines on stderr."""

    code: int
    seconds: float
    memory: int
    lines: list[str]


# Linux counts what a process's parent held when it was forked, so that the parent must be small.
WATCH = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def cost_of(command: Sequence[str | Path], environment: dict[str, str]) -> Cost:
    """Runs a command to its end."""
    watched = [sys.executable, "-c", WATCH, *command]
    done = subprocess.run(watched, capture_output=True, env=environment, check=True)
    code, seconds, memory = json.loads(done.stdout)
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(code, seconds, memory * unit, done.stderr.decode(errors="replace").splitlines())


# ----------------------------------------------------------------------------------------------------------- cases


def lists(_: Path, __: float) -> list[Case]:
    """What is said without a model."""
    asked = ["--help"], *(["list", what] for what in ("recipes", "samplers", "datasets", "tiers"))
    return [Case(" ".join(given), given, 1, GIB // 4) for given in asked]


def many_runs(folder: Path, part: float) -> list[Case]:
    """300 runs, trained and scored for this; then one of them gets a log of 1,000,000 lines."""
    tier, runs, long = folder / "tiny.toml", folder / "runs", folder / "long"
    tier.write_text(TIER)
    train(runs, tier, "rows", max(2, round(part * RUNS / len(catalogue.rows()))))
    one, *_, other = sorted({f.parent.name for f in walk(runs).holding("run.json") if (f / store.RESULTS).exists()})
    train(long, tier, one, 2)
    run = walk(long).holding(LOG)[0]
    lengthen(run / LOG, max(1_000, round(part * LINES)))
    store.write_manifest(run, {LOG: fingerprint((run / LOG).read_bytes())})
    return [
        Case("300 runs: list runs", ["list", "runs", "--out", runs], 2, GIB // 4),
        Case("300 runs: compare", ["compare", one, other, runs], 15, GIB),
        Case("300 runs: report", ["report", runs, "--to", folder / "report"], 40, GIB),
        Case("300 runs: the same report", ["report", runs, "--to", folder / "report"], 15, GIB),
        Case("1,000,000 lines of log: report", ["report", long, "--to", folder / "long-report"], None, 500 * 2**20),
    ]


def train(out: Path, tier: Path, recipes: str, seeds: int) -> None:
    """Fills a folder with the runs of a suite."""
    suite = "all", "--dataset", "ring8", "--tier", tier, "--recipes", recipes, "--seeds", str(seeds), "--no-timing"
    made = cost_of(bench(*suite, "--match", "images", "--jobs", "1", "--out", out), dict(os.environ))
    if made.code:
        raise RuntimeError("\n".join(made.lines))


def lengthen(path: Path, lines: int) -> None:
    """Continues a log by lines of about 459 bytes, like its last one."""
    last = json.loads(path.read_text().splitlines()[-1])
    last |= {f"term_{k}": 0.123456789012345678 for k in range(12)}
    with open(path, "a") as file:
        for k in range(lines):
            step = last["step"] + k + 1
            file.write(json.dumps({**last, "step": step, "images": step * 64, "loss": 1 / (k + 1)}) + "\n")


def samples(folder: Path, part: float) -> list[Case]:
    """50,000 samples in a file, and 20,000 in a folder of PNG files, scored on data of the shape of CIFAR-10."""
    n, files, rng = max(700, round(part * SAMPLES)), max(700, round(part * FILES)), np.random.default_rng(1)
    np.savez(folder / "samples.npz", samples=rng.integers(256, size=(n, 3, 32, 32), dtype=np.uint8))
    pictures = folder / "pictures"
    pictures.mkdir()
    for k in range(files):
        Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(pictures / f"{k:05d}.png")
    place = folder / "data" / "cifar10"
    place.mkdir(parents=True)
    for batch in cifar.CIFAR10.parts:
        records = rng.integers(256, size=(batch.size // cifar.RECORD, cifar.RECORD), dtype=np.uint8)
        records[:, 0] %= 10
        (place / batch.name).write_bytes(records.tobytes())
    return [
        Case(
            "50,000 samples in a file: evaluate", ["evaluate", folder / "samples.npz", "-d", "cifar10"], None, 2 * GIB
        ),
        Case("20,000 files: evaluate", ["evaluate", pictures, "--dataset", "cifar10"], None, 2 * GIB),
    ]


CASES: tuple[Callable[[Path, float], list[Case]], ...] = (lists, many_runs, samples)


# --------------------------------------------------------------------------------------------------------- program


def bench(*given: str | Path) -> list[str | Path]:
    """The command line `bench` in this Python; where it asks for CIFAR-10, random bytes in its files' place are right."""
    usual, random = "from bench.cli import app; app()", "from bench.lab import limits; limits.stand_in()"
    return [sys.executable, "-c", random if "cifar10" in given else usual, *given]


def stand_in() -> None:
    """`bench`, where the files that lie in the place of CIFAR-10's own are taken for them, whatever they hold."""
    from bench.cli import app

    place = Path(os.environ.get("BENCH_DATA", ".")) / "cifar10"
    if place.is_dir():
        found = [(part, hashlib.sha256((place / part.name).read_bytes()).hexdigest()) for part in cifar.CIFAR10.parts]
        parts = tuple(dataclasses.replace(part, sha256=digest) for part, digest in found)
        origin = dataclasses.replace(cifar.CIFAR10, parts=parts)
        sets.definitions()["cifar10"] = dataclasses.replace(sets.definitions()["cifar10"], origin=origin)
    app()


def main(arguments: Sequence[str] | None = None) -> None:
    """The program; raises SystemExit(1) where a limit was passed."""
    parser = argparse.ArgumentParser("python -m bench.lab.limits", description=__doc__)
    known = {cases.__name__: cases for cases in CASES}
    parser.add_argument("cases", nargs="*", choices=[*known, []], default=[], help="all by default")
    parser.add_argument("--part", type=float, default=1.0, help="of the sizes of the cases: 0.01 for a minute's look")
    parser.add_argument("--in", dest="folder", type=Path, help="an empty folder for the cases; else a temporary one")
    asked = parser.parse_args(arguments)
    passed = True
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="limits-") as made:
        folder = Path(made)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "BENCH_DATA": str(folder / "data"), "COLUMNS": "120"}
        heads = "case", "CPU-s", "may take", "peak MiB", "may take", "lines of progress", ""
        print(f"| {' | '.join(heads)} |\n| --- |{' ---: |' * 5} --- |", flush=True)
        for name in asked.cases or known:
            for case in known[name](folder, asked.part):
                passed &= shown(case, cost_of(bench(*case.given), environment))
    if not passed:
        raise SystemExit(1)


def shown(case: Case, cost: Cost) -> bool:
    """Prints what a case took; whether that is within its limits."""
    good = cost.code == 0 and cost.memory <= case.memory and (case.seconds is None or cost.seconds <= case.seconds)
    told = "" if case.seconds is None else f"{case.seconds:g}"
    verdict = "held" if good else f"exit code {cost.code}: {cost.lines[-1:]}" if cost.code else "passed its limit"
    print(
        f"| {case.name} | {cost.seconds:.1f} | {told} | {cost.memory / 2**20:,.0f} | {case.memory / 2**20:,.0f} | "
        f"{len(cost.lines)} | {verdict} |",
        flush=True,
    )
    return good


if __name__ == "__main__":
    raise SystemExit(answered(main)())
