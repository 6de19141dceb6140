"""Commands of `bench` in forks of a process that has loaded everything, in a world of their own; and what can be done to them.

A `World` is a folder with a tier file, an output folder and a cache. `World.run` forks, does the jobs of a suite one after
the other in the fork instead of in workers (seconds a command, not ten), and tells how it ended.
"""

from __future__ import annotations

import builtins
import dataclasses
import gc
import hashlib
import importlib
import io
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from bench import cli, loop, runs
from bench.lab import inline
from bench.lab.attack import Attack, Call, arm
from bench.runs import budget
from bench.suite import stages
from reports import files

__all__ = ["CRASHED", "HUNG", "Ended", "Running", "World", "calls_of", "preload"]

_NUMBER = itertools.count()  # of the commands that this process began
HUNG = 124  # exit codes of forks that never ended, and of those that an exception ended
CRASHED = 99

# Small enough for seconds, and no clock decides on a number of steps: the cap in seconds is never near.
TIERS = """
[tiny]
base = "smoke"
summary = "for campaigns: seconds a run, steps by images"
match = "images"
seeds = 1
samples = 64
max_calls = 2
sweep = "main"
likelihood_n = 8
likelihood_calls = 8
timing_repeats = 1
timing_seconds = 0.001
mode_samples = 64
raw_seeds = 1
snapshot_seeds = 1
vectors = { flops = 1e13, seconds = 3600, images = 2_048, params = 2_000, batch = 128 }
small = { flops = 1e13, seconds = 3600, images = 1_024, params = 6_000, batch = 64 }
images = { flops = 1e13, seconds = 3600, images = 512, params = 6_000, batch = 32 }

[other]
base = "smoke"
summary = "another protocol for the same runs"
match = "images"
seeds = 1
samples = 48
max_calls = 2
likelihood_n = 4
likelihood_calls = 8
timing_repeats = 1
timing_seconds = 0.001
mode_samples = 48
vectors = { flops = 1e13, seconds = 3600, images = 2_048, params = 2_000, batch = 128 }
small = { flops = 1e13, seconds = 3600, images = 1_024, params = 6_000, batch = 64 }
images = { flops = 1e13, seconds = 3600, images = 512, params = 6_000, batch = 32 }
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: by that signal), what it printed and how long it took."""

    code: int
    out: str
    err: str
    seconds: float
    opened: frozenset[str] = frozenset()

    @property
    def trace(self) -> bool:
        """Whether a user would have seen a traceback."""
        return self.code == CRASHED or any("Traceback (most recent call last)" in text for text in (self.out, self.err))

    def last(self) -> str:
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1][:300] if lines else ""


@dataclass
class World:
    """A folder in which commands run, with paths relative to it.

    moved: files of the package itself, by the path they are read at, and the copies that are read in their place.
    """

    root: Path
    moved: Mapping[str, Path] = field(default_factory=dict)
    limit: float = 300.0

    @classmethod
    def new(cls, root: Path) -> World:
        root.mkdir(parents=True)
        (root / "tiers.toml").write_text(TIERS)
        return cls(root)

    def copied(self, to: Path) -> World:
        """The same world elsewhere."""
        shutil.copytree(self.root, to, symlinks=True)
        return World(to, {path: to / copy.relative_to(self.root) for path, copy in self.moved.items()}, self.limit)

    @property
    def out(self) -> Path:
        return self.root / "out"

    def start(self, *arguments: object, attack: Attack | None = None, watch: bool = False) -> Running:
        """Forks a process that does this command. watch: also notes which files it opens."""
        said = self.root.parent / f".{self.root.name}-{os.getpid()}-{next(_NUMBER)}"
        before = set(sys.modules)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = CRASHED
            try:
                code = _child(self, [str(a) for a in arguments], said, attack, watch)
            except BaseException:
                traceback.print_exc()
            finally:
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
                said.with_name(f"{said.name}.loaded").write_text("\n".join(sys.modules.keys() - before))
                os._exit(code)
        return Running(pid, said, self.limit)

    def run(self, *arguments: object, attack: Attack | None = None, watch: bool = False) -> Ended:
        """The same, waited for."""
        return self.start(*arguments, attack=attack, watch=watch).wait()


class Running:
    """A command that a fork is doing."""

    def __init__(self, pid: int, said: Path, limit: float) -> None:
        self.pid, self.said, self.limit, self.began = pid, said, limit, time.monotonic()

    def wait(self) -> Ended:
        """How it ended; one that takes too long is killed and counts as hung."""
        hung = False
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() - self.began > self.limit and not hung:
                os.kill(self.pid, signal.SIGKILL)
                hung = True
            time.sleep(0.005)
        code = HUNG if hung else os.waitstatus_to_exitcode(status)
        texts = []
        for suffix in ("out", "err", "opened", "loaded"):
            path = self.said.with_name(f"{self.said.name}.{suffix}")
            texts.append(path.read_text(errors="backslashreplace") if path.exists() else "")
            path.unlink(missing_ok=True)
        opened = frozenset(texts[2].splitlines())
        _load(texts[3].splitlines())
        return Ended(code, texts[0], texts[1], time.monotonic() - self.began, opened)


def _load(names: Sequence[str]) -> None:
    """Imports what a fork had to import, so that the next ones have it. What is no module of its own is left out."""
    if not names:
        return
    for name in sorted(names):
        with suppress(Exception):
            importlib.import_module(name)
    gc.freeze()


def _child(world: World, arguments: list[str], said: Path, attack: Attack | None, watch: bool) -> int:
    """The life of a fork; its exit code."""
    for number, suffix in ((1, "out"), (2, "err")):
        file = os.open(said.with_name(f"{said.name}.{suffix}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", line_buffering=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8", line_buffering=True)
    for handler in _handlers():
        handler.stream = sys.stderr
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(world.root)
    os.environ["BENCH_DATA"] = str(world.root / "cache")
    sys.argv = ["bench", *arguments]
    stages.perform = inline.perform
    Figure.savefig = _sketch  # type: ignore[assignment]
    budget._calibrate = _calibrated(world.root.with_name("plans"))
    loop.CHECKPOINT_SECONDS = 0.0  # every step can be lost, and every checkpoint be cut short
    if world.moved:
        _redirect(world.moved)
    if watch:
        _watch(world.root, said.with_name(f"{said.name}.opened"))
    if attack is not None:
        arm(attack)
    try:
        cli.app(arguments, prog_name="bench")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def _calibrated(known: Path) -> Callable[..., budget.Spending]:
    """In place of the steps that are counted and timed before a training, a third of a small suite: once for each run."""
    real = budget._calibrate

    def calibrate(run: runs.Run, *rest: Any) -> budget.Spending:
        path = known / f"{run.id}.json"
        if not path.exists():
            files.write(path, json.dumps(dataclasses.asdict(real(run, *rest))).encode())
        return budget.Spending(**json.loads(path.read_bytes()))

    return calibrate


def _sketch(figure: Figure, into: Any, **_: Any) -> None:
    """In place of a figure, which takes half a second: what it would show, as a hash."""
    digest = hashlib.sha256()
    for line in figure.findobj(Line2D):
        digest.update(np.asarray(line.get_xydata(), float).round(9).tobytes())
    for dots in figure.findobj(PathCollection):
        digest.update(np.asarray(dots.get_offsets(), float).round(9).tobytes())
    for text in figure.findobj(Text):
        digest.update(text.get_text().encode("utf-8", "backslashreplace"))
    into.write(f'<svg viewBox="0 0 1 1"><g id="{digest.hexdigest()}"/></svg>'.encode())


def _handlers() -> list[Any]:
    import logging

    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in list(logging.Logger.manager.loggerDict))]
    own = [h for logger in loggers for h in logger.handlers if isinstance(h, logging.StreamHandler)]
    return own


def calls_of(world: World, *arguments: object) -> tuple[Ended, list[Call]]:
    """Does a command and lists the calls at which it could have been stopped."""
    path = world.root.parent / f".{world.root.name}.calls"
    path.unlink(missing_ok=True)

    def note(index: int, call: Call, file: int | None) -> None:
        what = call.what
        if call.kind != "step" and os.path.isabs(what):
            what = os.path.relpath(what, world.root)
        with open(path, "a") as into:
            into.write(json.dumps([call.kind, what]) + "\n")

    ended = world.run(*arguments, attack=note)
    calls = [Call(*json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    return ended, calls


def _redirect(moved: Mapping[str, Path]) -> None:
    """Reads the copies of some files in their place, here and in what asks whether they are there."""
    names = {os.path.realpath(path): str(copy) for path, copy in moved.items()}

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **named: Any) -> Any:
            if isinstance(path, (str, os.PathLike)):
                text = os.fspath(path)
                path = names.get(text if isinstance(text, str) else "", path)
            return real(path, *arguments, **named)

        return call

    io.open = builtins.open = wrapped(builtins.open)
    os.open, os.stat = wrapped(os.open), wrapped(os.stat)


def _watch(root: Path, to: Path) -> None:
    """Notes each file below `root` that is opened."""
    begin, seen = f"{root}{os.sep}", set[str]()
    into = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            path = os.path.abspath(os.fspath(arguments[0]))
            if isinstance(path, str) and path.startswith(begin) and path not in seen:
                seen.add(path)
                os.write(into, f"{path[len(begin) :]}\n".encode(errors="surrogateescape"))

    sys.addaudithook(note)


def preload() -> None:
    """Imports what the commands will, so that forks have it."""
    import matplotlib.pyplot
    import pandas
    import scipy.stats
    import sklearn.covariance
    import torch._dynamo
    import torchmetrics

    import bench.data.digits
    import bench.measure
    import bench.scores
    import reports
    from bench.runs import code_version
    from paradigms import catalogue

    matplotlib.use("Agg")
    torch.set_num_threads(1)
    catalogue.recipes()
    gc.collect()
    gc.freeze()  # a fork that collects writes on no page that it shares
    code_version()  # read once: sources that change during a campaign do not make its own rows other code's
    del matplotlib, pandas, scipy, sklearn, torchmetrics, bench, reports
