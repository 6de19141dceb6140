"""Random commands and hostile files against the command line: `python -m bench.lab.fuzz [TRIALS] [--seed N] [--only WORD]`.

A trial is one `bench` command, put together at random from the verbs, arguments and options that the command line has,
with usual, odd and hostile values. Two of three trials first make one file or folder hostile: run.json, rows, manifests,
weights, checkpoints, plans, samples, pictures, cards of feature networks, tiers, and what is a link, a pipe or a folder
where a file should be. Content is damaged, of a wrong type, deep, huge, no UTF-8, full of terminal escapes, or a pickle;
for each of them sealed and listed anew as well, so that every hash fits.

All run in one warm process and one folder that is put right after each trial. Tiers are cut to seconds, trainings to a
few steps, workers do their jobs in this process, and nothing is asked of the network. What can be held against a
command:

    traceback   an exception that nobody caught, or a traceback or torch's advice to load unsafely in what it says
    exit code   another than 0, 1 and 2
    control     a terminal escape, bidirectional or other unseen character in what it says
    hang        more than --limit seconds of the processor, or half as long hardly any
    outside     a file written, moved or deleted outside the folders of runs, caches and results
    execution   a planted pickle ran
    others      one bad folder, and the good ones beside it were not listed, reported or compared

Prints a table, kind x tried x held, and each command that did not hold; exit code 1 where there is one. A trial depends
on the seed and its own number alone, so `--first N 1` repeats the N-th.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import os
import pickle
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import numpy as np
import torch
import typer
from PIL import Image
from safetensors.numpy import save as save_tensors

from bench import cli, runs, scores, store, tiers
from bench.features import WEIGHTS as SHIPPED
from bench.lab import inline
from bench.loop import train
from bench.progress import Progress
from bench.runs.budget import Spending
from bench.script import answered
from paradigms import catalogue
from paradigms.contract import Paradigm
from paradigms.errors import BadInput
from reports.figures.drawing import save
from reports.layout import LOG, STATE

__all__ = ["Finding", "World", "main", "table", "trials"]

DATA = "ring8"
NETWORK = "net.safetensors"  # a classifier that is given for a network of features
TIER = "tiny"
STEPS = 4
LIMIT = 60.0  # seconds of a command
ESCAPES = ("\x1b]0;owned\x07\x1b[2J", "\u202egnp.x", "\x9b2J", "a\rb", "\u2028", "\x7f\x08", "\U000e0041")
UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # but for newlines and tabs
MARK = "EXECUTED"  # a folder that a planted pickle makes
ADVICE = ("Traceback (most recent call last)", "weights_only", "Weights only load")


@dataclass(frozen=True)
class Finding:
    """What was held against a trial. kind: what was hostile; fault: one of those above; command, detail: to repeat it."""

    kind: str
    fault: str
    number: int
    command: str
    detail: str


# ----------------------------------------------------------------------------------------------------------- world


class Planted:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.mark,)


@dataclass
class World:
    """A folder with two finished runs of a recipe, one of another, and files of every kind that is read.

    The second run of the first recipe, `bad`, is what is made hostile; `good` are the others.
    """

    root: Path
    bad: Path = field(init=False)
    good: tuple[Path, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for name in ("home", "cache", "outside", "tmp"):
            (self.root / name).mkdir()
        (self.root / "outside" / "canary").write_text("alive")
        space = runs.dataset(DATA).space
        steps = {
            name: recipe.paradigm.card.default.steps or 1
            for name, recipe in catalogue.recipes().items()
            if issubclass(recipe.paradigm, Paradigm) and not recipe.needs and runs.refusal(name, space) is None
        }
        # Those that draw samples in the fewest steps: what is written and said is the same.
        self.recipes = able = sorted(steps, key=lambda name: steps[name])[:2]
        tier = tiers.get("smoke")
        planned = [runs.define(name, DATA, seed, tier) for name, seed in zip([able[0], able[0], able[1]], (0, 1, 0))]
        folders = [runs.ensure(run, self.runs, device="cpu") for run in planned]
        for folder in folders:
            scores.evaluate(folder, tier, Progress())
        scores.score_baselines(DATA, tier, self.runs / DATA / "baselines" / tier.name, Progress())
        (folders[0].parent / "1-0000000000").mkdir()
        unfinished = folders[0].parent / "1-0000000000" / STATE
        unfinished.write_bytes(b"")
        self.good, self.bad = (folders[0], folders[2]), folders[1]
        rng = np.random.default_rng(0)
        points, levels = rng.normal(size=(64, 2)).astype(np.float32), rng.integers(0, 17, (64, 1, 8, 8), np.uint8)
        np.savez(self.root / "points.npz", samples=points, labels=np.zeros(64, np.int64))
        np.savez(self.root / "levels.npz", samples=levels)
        np.save(self.root / "points.npy", points)
        (self.root / "points.safetensors").write_bytes(save_tensors({"samples": points}))
        (self.root / "pictures").mkdir()
        for k in range(8):
            Image.fromarray(levels[k, 0] * 15).save(self.root / "pictures" / f"{k}.png")
        shutil.copy(SHIPPED / "digits.safetensors", self.root / NETWORK)
        (self.root / "mine.toml").write_text('[mine]\nbase = "smoke"\nseeds = 1\n')
        self.kept = Path(f"{self.root}.kept")
        shutil.copytree(self.root, self.kept, symlinks=True)

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def mark(self) -> Path:
        return self.root / MARK

    def restore(self) -> None:
        for path in self.root.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        shutil.copytree(self.kept, self.root, symlinks=True, dirs_exist_ok=True)


# ---------------------------------------------------------------------------------------------------------- values


def _hostile_text(rng: random.Random) -> str:
    return rng.choice(
        [
            *ESCAPES,
            *("", " ", ".", "..", "/", "~", "-1", "0", "1.5", "nan", "inf", "1e308", "-1e400", "true", "a" * 300),
            *("../outside/x", "/dev/null", "/proc/self/mem", "x/" * 40, "=1+1", "<script>", "[bold]x[/bold]", "a,b,,c"),
            *(
                "ä",
                "名前",
                os.fsdecode(b"\xff\xfe"),
                "a b",
                "a'b\"c",
                "%s%n",
                "{0}",
                "\\",
                "--",
                "-x",
                ":",
                "=",
                "a:b:c",
            ),
        ]
    )


def _hostile_value(rng: random.Random) -> Any:
    """A JSON value that is not what was expected."""
    values: list[Any] = [None, True, -1, 0, 1.5, 10**30, 10**400, 1e308, -1e308, "x", [], {}, [[]], [None], {"a": []}]
    values += [float("nan"), float("inf")]
    values += ["\ud800", "\0", "/dev/zero", "../outside/canary", "a" * 5000, "2026-13-45", *ESCAPES]
    return rng.choice(values)


def _usual(name: str, world: World, rng: random.Random) -> str:
    """A value that an argument or option of this name may have in earnest."""
    bad, good = str(world.bad), str(world.good[0])
    samples = [str(world.root / name) for name in ("points.npz", "points.npy", "points.safetensors", "levels.npz")]
    samples += [str(world.root / "pictures")]
    first = world.recipes[0]
    known = {
        "recipes": [first, ",".join(world.recipes)],
        "recipe": world.recipes,
        "run": [bad, good, *world.recipes, str(world.runs / DATA)],
        "what": [bad, good, *samples, *world.recipes],
        "chosen": [bad, good, *world.recipes],
        "a": [bad, good, *world.recipes, f"{first}:raw"],
        "b": [bad, good, *world.recipes],
        "runs": [str(world.runs), str(world.runs / DATA), str(world.bad)],
        "dataset": [DATA, DATA, "digits", f"folder:{world.root / 'pictures'}@8"],
        "name": ["digits", DATA, f"folder:{world.root / 'pictures'}@8"],
        "tier": ["smoke", "smoke", f"{world.root / 'mine.toml'}:mine", f"{world.root / 'mine.toml'}"],
        "out": [str(world.runs)],
        "to": [str(world.root / "made" / name) for name in ("x.png", "x.npz", "x.svg", "x")],
        "formats": ["md", "csv", "csv,md", "tex"],
        "features": [str(world.root / NETWORK), f"{world.root / NETWORK}:size=8,channels=3"],
        "source": samples,
        "test": [str(world.root / "pictures")],
        "sampler": ["euler", "heun", "ancestral", "ddim-4", "push"],
        "steps": ["1", "2", "4"],
        "jobs": ["1", "2", "auto"],
        "device": ["cpu", "auto", "cuda"],
        "match": ["flops", "images", "seconds"],
        "precision": ["fp32", "tf32", "bf16"],
        "likelihood": ["exact", "elbo", "iwae:K=2"],
        "metric": ["w2", "nll", "fd"],
        "kind": ["runs", "recipes"],
        "seeds": ["1", "2"],
        "settings": ["lr=1e-3", "batch=8", f"{first}.batch=8"],
        "option": ["eta=0.5"],
        "span": ["0..1", "-1..1"],
        "resize": ["bicubic", "area"],
        "called": ["mine"],
        "label": ["0", "3"],
    }
    return rng.choice(known.get(name, ["1", "2", "8"]))


@lru_cache(maxsize=1)
def _commands() -> dict[str, Any]:
    return dict(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


def _command(world: World, rng: random.Random, verbs: Sequence[str] = (), odd: float = 0.2) -> list[str]:
    """A command line from what the command line itself says that it takes."""
    commands = _commands()
    verb = rng.choice(list(verbs or commands))
    if rng.random() < odd / 20:
        verb = _hostile_text(rng)
    if verb not in commands:
        return [verb]
    words, last = [verb], list[str]()
    for param in commands[verb].params:
        name = param.name
        if name == "help":
            continue
        flag = getattr(param, "is_flag", False)
        text = _hostile_text(rng) if rng.random() < odd else _usual(name, world, rng)
        if param.param_type_name == "argument":
            if verb == "list" and name == "what":
                text = text if rng.random() < odd else "runs"
            if param.required or rng.random() < 0.8:
                last += [text]
        elif name in ("out", "device", "recipes") or (name == "to" and verb == "sample") or rng.random() < 0.2:
            option = rng.choice([o for o in param.opts if o.startswith("--")] or param.opts)
            words += [option] if flag else [option, text]
    if verb == "all" and "--no-timing" not in words:
        words += ["--no-timing"]
    return words + (["--"] if any(text.startswith("-") for text in last) else []) + last


# -------------------------------------------------------------------------------------------------------- mutations


def _damage(data: bytes, rng: random.Random) -> bytes:
    """Bytes made worse, whatever they are."""
    at = rng.randrange(len(data) + 1)
    return rng.choice(
        [
            b"",
            data[:at],
            data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
            data + data,
            bytes(64),
            b"\xff\xfe" + data,
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"null",
            b"[]",
            b"{}",
            b'"x"',
            b"1" * 5000,
            b"NaN",
            b'{"schema": 3, "schema": 3}',
            pickle.dumps(Planted(Path(MARK))),
            b"\x1b[2J\x1b]0;x\x07",
            b"\xe2\x80\xae",
        ]
    )


def _twisted(value: Any, rng: random.Random) -> Any:
    """A JSON value with one part replaced, taken away or added."""
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        change = rng.random()
        if isinstance(value[key], (dict, list)) and value[key] and change < 0.5:
            return {**value, key: _twisted(value[key], rng)}
        if change < 0.75:
            return {**value, key: _hostile_value(rng)}
        if change < 0.85:
            return {k: v for k, v in value.items() if k != key}
        return {**value, rng.choice(["new", "", ESCAPES[0], "\0", "schema"]): _hostile_value(rng)}
    if isinstance(value, list) and value:
        at = rng.randrange(len(value))
        return [*value[:at], _hostile_value(rng), *value[at + 1 :]]
    return _hostile_value(rng)


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def _listed(folder: Path, *names: str) -> None:
    """The manifest made to fit what lies there."""
    path = folder / store.MANIFEST
    with contextlib.suppress(Exception):
        files = json.loads(path.read_bytes())
        for name in names:
            data = (folder / name).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            files["files"][name] = {**files["files"].get(name, {}), "sha256": digest, "bytes": len(data)}
        path.write_bytes(_dumped(files))


def _info(world: World, rng: random.Random) -> None:
    (world.bad / runs.INFO).write_bytes(_damage((world.bad / runs.INFO).read_bytes(), rng))


def _info_sealed(world: World, rng: random.Random) -> None:
    value = json.loads((world.bad / runs.INFO).read_bytes())
    value.pop(store.SEAL)
    for _ in range(rng.choice([1, 1, 2])):
        value = _twisted(value, rng)
    seal = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    (world.bad / runs.INFO).write_bytes(_dumped({**value, store.SEAL: seal}))
    if rng.random() < 0.8:
        _listed(world.bad, runs.INFO)


def _rows_damaged(world: World, rng: random.Random) -> None:
    path = world.bad / store.RESULTS
    path.write_bytes(_damage(path.read_bytes(), rng))
    if rng.random() < 0.8:
        _listed(world.bad, store.RESULTS)


def _rows_twisted(world: World, rng: random.Random) -> None:
    path = world.bad / store.RESULTS
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    key = rng.choice(list(rows[0]))
    value = _hostile_value(rng)
    chosen = range(len(rows)) if rng.random() < 0.5 else [rng.randrange(len(rows))]
    for at in chosen:
        rows[at] = {**rows[at], key: value} if rng.random() < 0.9 else _twisted(rows[at], rng)
    path.write_bytes(b"".join(_dumped(row) + b"\n" for row in rows))
    _listed(world.bad, store.RESULTS)


def _manifest(world: World, rng: random.Random) -> None:
    path = world.bad / store.MANIFEST
    if rng.random() < 0.5:
        path.write_bytes(_damage(path.read_bytes(), rng))
        return
    value = json.loads(path.read_bytes())
    names = ["../../../../outside/canary", "/dev/zero", "/dev/stdin", "..", "", "\0", ESCAPES[0], "a" * 300, "report"]
    if rng.random() < 0.5:
        value["files"][rng.choice(names)] = {"sha256": "0" * 64, "bytes": 1}
    else:
        value = _twisted(value, rng)
    path.write_bytes(_dumped(value))


def _weights(world: World, rng: random.Random) -> None:
    name = rng.choice([path.name for path in world.bad.glob("*.safetensors")])
    data = (world.bad / name).read_bytes()
    others = [save_tensors({"ema.x": np.zeros(3)}), save_tensors({}), b"\xff" * 8, pickle.dumps(Planted(world.mark))]
    (world.bad / name).write_bytes(rng.choice([_damage(data, rng), *others]))
    if rng.random() < 0.8:
        _listed(world.bad, name)


def _log(world: World, rng: random.Random) -> None:
    path = world.bad / LOG
    lines = path.read_bytes().splitlines()
    at = rng.randrange(len(lines))
    lines[at] = rng.choice([_damage(lines[at], rng), _dumped(_twisted(json.loads(lines[at]), rng))])
    path.write_bytes(b"\n".join(lines))
    if rng.random() < 0.8:
        _listed(world.bad, LOG)


def _checkpoint(world: World, rng: random.Random) -> None:
    """An unfinished run whose checkpoint passes its hash."""
    for path in world.bad.iterdir():
        if path.name != runs.INFO:
            path.unlink() if not path.is_dir() else shutil.rmtree(path)
    info = {**json.loads((world.bad / runs.INFO).read_bytes()), "status": "training"}
    info.pop(store.SEAL)
    store.write_sealed(world.bad / runs.INFO, info)
    good = io.BytesIO()
    state: Any = {"loop": {}, "done": 1, "seconds": 0.0, "cpu_seconds": 0.0, "resumed": [], "prepare_flops": 0.0}
    torch.save(rng.choice([{}, [1], None, 3, "x", state, _twisted(state, rng)]), good)
    data = rng.choice([good.getvalue(), pickle.dumps(Planted(world.mark)), _damage(good.getvalue(), rng)])
    (world.bad / STATE).write_bytes(hashlib.sha256(data).digest() + data)


def _plan(world: World, rng: random.Random) -> None:
    path = rng.choice(list(world.bad.parent.glob("plan-*.json")))
    value = json.loads(path.read_bytes())
    value.pop(store.SEAL)
    twisted = _twisted(value, rng)
    seal = hashlib.sha256(json.dumps(twisted, sort_keys=True).encode()).hexdigest()
    sealed = _dumped({**twisted, store.SEAL: seal})
    path.write_bytes(rng.choice([_damage(path.read_bytes(), rng), sealed, sealed]))
    shutil.rmtree(world.bad)


def _odd_place(world: World, rng: random.Random) -> None:
    """A link, a pipe, a file or a folder where another thing should be, or a name that should not be there."""
    names = [runs.INFO, store.RESULTS, store.MANIFEST, runs.WEIGHTS, LOG, "grid.png", STATE, "error.txt"]
    place = rng.choice([world.bad / rng.choice(names), world.bad, world.bad.parent / "2-0123456789"])
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    how = rng.randrange(8)
    if how == 0:
        place.mkdir()
    elif how == 1:
        os.mkfifo(place)
    elif how == 2:
        place.symlink_to(place)
    elif how == 3:
        place.symlink_to(world.root / "outside")
    elif how == 4:
        place.symlink_to(rng.choice(["/dev/zero", "/dev/null", "/proc/self", "nowhere"]))
    elif how == 5:
        place.write_bytes(b"")
    elif how == 6:
        place.symlink_to("..")
    else:
        odd = place.parent / rng.choice([*ESCAPES[:2], os.fsdecode(b"\xff"), "\n", "a\nb"])
        shutil.copytree(world.good[0], odd)


def _samples(world: World, rng: random.Random) -> None:
    for name in ("points.npz", "points.npy", "points.safetensors", "levels.npz"):
        path = world.root / name
        arrays: list[Any] = [np.zeros((0, 2)), np.zeros((4, 2), complex), np.array(["a", "b"]), np.float32(1.0)]
        arrays += [np.full((64, 2), np.nan, np.float32), np.full((64, 2), 1e38, np.float32), np.zeros((2, 3, 4, 5, 6))]
        out = io.BytesIO()
        pickled = np.array([Planted(world.mark)], dtype=object)
        np.savez(out, **{rng.choice(["samples", "x", "labels", ESCAPES[0]]): rng.choice([*arrays, pickled])})
        choices = [_damage(path.read_bytes(), rng), out.getvalue(), pickle.dumps(Planted(world.mark))]
        path.write_bytes(rng.choice(choices))


def _pictures(world: World, rng: random.Random) -> None:
    folder = world.root / "pictures"
    path = rng.choice(sorted(folder.iterdir()))
    how = rng.randrange(5)
    if how == 0:
        path.write_bytes(_damage(path.read_bytes(), rng))
    elif how == 1:
        path.unlink()
        os.mkfifo(path)
    elif how == 2:
        path.rename(folder / f"{rng.choice(ESCAPES)}.png")
    elif how == 3:
        (folder / rng.choice(ESCAPES)).mkdir()
        path.rename(next(p for p in folder.iterdir() if p.is_dir()) / "x.png")
    else:
        (folder / "loop").symlink_to(folder)
        (folder / "gone.png").symlink_to("nowhere")


def _network(world: World, rng: random.Random) -> None:
    path = world.root / NETWORK
    path.write_bytes(rng.choice([_damage(path.read_bytes(), rng), pickle.dumps(Planted(world.mark))]))


def _tier(world: World, rng: random.Random) -> None:
    path = world.root / "mine.toml"
    line = f"seeds = {rng.choice(['-1', '1.5', 'inf', 'true', '1e308', '[]', '9' * 30, 'nan', '0'])}\n"
    text = f"[mine]\nbase = {json.dumps(rng.choice(['smoke', 'x', *ESCAPES[:2]]))}\n{line}".encode()
    path.write_bytes(rng.choice([_damage(path.read_bytes(), rng), text]))


def _nothing(world: World, rng: random.Random) -> None:
    """Leaves all as it is."""


ALL = ("list", "report", "compare", "sample", "evaluate", "time", "all", "train")
# What is made hostile, how, and the verbs that read it. After those marked, the good folders must be served.
Mutation = Callable[[World, random.Random], None]
KINDS: Mapping[str, tuple[Mutation, tuple[str, ...], bool]] = {
    "run.json, damaged": (_info, ALL, True),
    "run.json, sealed": (_info_sealed, ALL, True),
    "rows, damaged": (_rows_damaged, ALL, True),
    "rows, wrong": (_rows_twisted, ALL, True),
    "manifest": (_manifest, ALL, True),
    "weights": (_weights, ("sample", "evaluate", "time", "all", "report"), True),
    "log": (_log, ("report", "all", "train"), True),
    "checkpoint": (_checkpoint, ("train", "train", "all", "list"), True),
    "plan": (_plan, ("train", "all"), False),
    "links, pipes, places": (_odd_place, ALL, True),
    "samples": (_samples, ("evaluate", "data"), False),
    "pictures": (_pictures, ("data", "evaluate", "train"), False),
    "network": (_network, ("evaluate",), False),
    "tier": (_tier, ("train", "evaluate", "list"), False),
}
COMMANDS = "commands"


# ----------------------------------------------------------------------------------------------------------- trials


class Hang(BaseException):
    """A command took longer than it may."""


def _cut(tier: tiers.Tier) -> tiers.Tier:
    """A tier of milliseconds."""
    few = {"samples": 32, "likelihood_n": 4, "likelihood_calls": 8, "mode_samples": 32, "max_calls": 4, "draws": 1}
    few |= {"timing_repeats": 1, "sweep_seeds": 0, "raw_seeds": 0, "snapshot_seeds": 0, "seeds": 2}
    cut = {name: min(value, getattr(tier, name)) for name, value in few.items()}
    return dataclasses.replace(tier, **cut, timing_seconds=0.001)


def _calibrated(run: runs.Run, *_: object) -> Spending:
    return Spending(4, 100, "", STEPS, 8, 1e3, 1e-3, "flops")


def _few_steps(*args: Any, steps: int, **rest: Any) -> Any:
    return train(*args, steps=min(steps, STEPS), **rest)


def _sketched(figure: Any, kind: str) -> bytes:
    """Of twenty figures one is drawn, the others are painted but not saved: that takes most of a report's time."""
    _drawn[0] += 1
    return save(figure, kind) if _drawn[0] % 20 == 0 else b'<svg viewBox="0 0 1 1"></svg>'


_drawn = [0]


def _no_network(*_: object, **__: object) -> Any:
    raise urllib.error.URLError("there is no network here")


@contextlib.contextmanager
def _stubbed(root: Path) -> Iterator[None]:
    """Nothing that takes long, and homes and caches inside `root`."""
    get, everyone = tiers.get, tiers.tiers
    places = {"HOME": "home", "BENCH_DATA": "cache", "XDG_CACHE_HOME": "cache", "TMPDIR": "tmp"}
    with contextlib.ExitStack() as stack:
        for target, new in {
            "bench.tiers.get": lambda which: _cut(get(which)),
            "bench.tiers.tiers": lambda: {name: _cut(tier) for name, tier in everyone().items()},
            "bench.runs.budget._calibrate": _calibrated,
            "bench.runs.training.train": _few_steps,
            "bench.suite.stages.perform": inline.perform,
            "bench.loop.compile_networks": lambda model: None,
            "reports.figures.drawing.save": _sketched,
            "urllib.request.urlopen": _no_network,
        }.items():
            stack.enter_context(mock.patch(target, new))
        stack.enter_context(mock.patch.dict(os.environ, {k: str(root / v) for k, v in places.items()}))
        stack.enter_context(mock.patch.object(tempfile, "tempdir", str(root / "tmp")))
        yield


class Watch:
    """Files that are written, moved or deleted, told by Python's own audit events while a command runs."""

    def __init__(self) -> None:
        self.allowed: list[Path] | None = None
        self.broken: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event == "open":
            path, _, flags = args
            writes = (
                bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)) if isinstance(flags, int) else False
            )
            if not writes:
                return
            names = [path]
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"):
            names = [args[0]]
        elif event in ("os.rename", "os.link", "os.symlink"):
            names = list(args[:2])
        else:
            return
        for name in names:
            if isinstance(name, (str, bytes)) and name not in ("", os.devnull):
                real = Path(os.path.realpath(os.fsdecode(name)))
                if not any(real == place or place in real.parents for place in self.allowed):
                    self.broken.append(f"{event} {real}")


@lru_cache(maxsize=1)
def _watch() -> Watch:
    return Watch()  # a hook can not be taken away, so there is one


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises Hang in what takes more than so many seconds of the processor, or for half of them hardly any, as what waits."""
    began = last = time.process_time()

    def late(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.process_time()
        if now - began > seconds or now - last < seconds / 100:
            raise Hang
        last = now

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds / 2, seconds / 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _ran(words: Sequence[str]) -> tuple[int | None, str, str]:
    """(exit code, what was said, the traceback of what nobody caught) of a command."""
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict", write_through=True)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = cli.app(list(words), standalone_mode=False)
        trace = ""
    except SystemExit as error:
        code, trace = error.code, ""
    except Exception:
        code, trace = 1, traceback.format_exc()
    return code, said.buffer.getvalue().decode("utf-8", "replace"), trace


def _held(world: World, words: Sequence[str], limit: float, asked: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(fault, detail) of each thing that is held against a command. asked: places that it names itself."""
    watch = _watch()
    inside = [world.root / name for name in ("runs", "home", "cache", "tmp", "made")]
    watch.allowed, watch.broken = [Path(os.path.realpath(place)) for place in (*map(str, inside), *asked)], []
    try:
        with _limited(limit):
            code, said, trace = _ran(words)
    except Hang:
        yield "hang", f"more than {limit:g} s"
        return
    finally:
        watch.allowed = None
    if trace:
        yield "traceback", "\n".join(trace.strip().splitlines()[-5:])
    if code not in (0, 1, 2, None):
        yield "exit code", repr(code)
    if advice := next((text for text in ADVICE if text in said), ""):
        yield "traceback", f"it says: {advice}"
    unseen = {c for c in said if c not in "\n\t" and unicodedata.category(c) in UNSEEN}
    if unseen:
        yield "control", f"{sorted(unseen)!r}"
    if watch.broken:
        yield "outside", "; ".join(watch.broken[:3])
    if (world.root / "outside" / "canary").read_text() != "alive":
        yield "outside", "the canary is dead"
    if world.mark.exists() or Path(MARK).exists():
        yield "execution", "a planted pickle ran"


def _served(world: World) -> Iterator[tuple[str, str]]:
    """What one bad folder takes from the others."""
    code, said, trace = _ran(["list", "runs", "--json", "--out", str(world.runs)])
    if trace or code not in (0, None) or not all(json.dumps(str(f))[1:-1] in said for f in world.good):
        yield "others", f"list: {said[:300]}{trace[-300:]}"
    code, said, trace = _ran(["report", str(world.runs), "--formats", "csv", "--to", str(world.root / "made" / "r")])
    table = world.root / "made" / "r" / "report.csv"
    named = {(row["recipe"], row["seed"]) for row in csv.DictReader(table.open())} if table.exists() else set()
    wanted = {(folder.parent.name, folder.name.partition("-")[0]) for folder in world.good}
    if trace or code not in (0, 1, None) or not wanted <= named:
        yield "others", f"report: {said[:300]}{trace[-300:]}"
    code, said, trace = _ran(["compare", *map(str, world.good), str(world.runs)])
    if trace or code not in (0, 1, None):
        yield "others", f"compare: {said[:300]}{trace[-300:]}"


def trials(
    count: int,
    seed: int = 0,
    first: int = 0,
    only: str = "",
    limit: float = LIMIT,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Counter[str], list[Finding]]:
    """Runs `count` trials from number `first` on; how many of each kind there were, and what was held against them.

    only: kinds whose name holds this word.
    """
    kinds = [name for name in (COMMANDS, *KINDS) if only in name]
    if not kinds:
        raise BadInput(f"no kind holds '{only}'; there are {', '.join((COMMANDS, *KINDS))}")
    tried, found = Counter[str](), list[Finding]()
    here, recursion = os.getcwd(), sys.getrecursionlimit()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        root = Path(os.path.realpath(place)) / "world"
        root.mkdir()
        with _stubbed(root), _quiet(), contextlib.ExitStack() as stack:
            world = World(root)
            os.chdir(root)
            try:
                stack.enter_context(mock.patch("bench.scores.quality.rows", return_value=[]))
                for number in range(first, first + count):
                    rng = random.Random(f"{seed}/{number}")
                    kind = COMMANDS if COMMANDS in kinds and rng.random() < 1 / 3 else rng.choice(kinds)
                    mutate, verbs, shared = KINDS.get(kind, (_nothing, (), False))
                    mutate(world, random.Random(f"{seed}/{number}/{kind}"))
                    odd = 0.3 if kind == COMMANDS else 0.03
                    words = _command(world, rng, verbs, odd)
                    faults = [*_held(world, words, limit, words)]
                    if shared and number % 4 == 0:
                        world.restore()
                        mutate(world, random.Random(f"{seed}/{number}/{kind}"))
                        try:
                            with _limited(limit):
                                faults += _served(world)
                        except Hang:
                            faults.append(("hang", "list, report or compare"))
                    tried[kind] += 1
                    for fault, detail in faults:
                        found.append(Finding(kind, fault, number, shlex.join(["bench", *words]), detail))
                        tell(f"{number} {kind}: {fault}: {found[-1].command!a}\n    {detail!a}")
                    world.restore()
                    _drawn[0] = number
                    runs.dataset.cache_clear() if kind == "pictures" else None
            finally:
                os.chdir(here)
                sys.setrecursionlimit(recursion)
    return tried, found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of libraries are not what is looked at."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def table(tried: Mapping[str, int], found: Sequence[Finding]) -> list[tuple[str, str, str, str]]:
    """(kind, tried, held, what did not) with a line for all."""
    lines = []
    for kind in (name for name in (COMMANDS, *KINDS) if tried.get(name)):
        mine = [f for f in found if f.kind == kind]
        faults = Counter(f.fault for f in mine)
        held = tried[kind] - len({f.number for f in mine})
        lines.append((kind, f"{tried[kind]:,}", f"{held:,}", ", ".join(f"{n} {name}" for name, n in faults.items())))
    held = sum(tried.values()) - len({f.number for f in found})
    return [*lines, ("all", f"{sum(tried.values()):,}", f"{held:,}", "")]


@answered
def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("trials", type=int, nargs="?", default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--only", default="", help="kinds whose name holds this word")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of a command")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tried, found = trials(asked.trials, asked.seed, asked.first, asked.only, asked.limit, print)
    for kind, count, held, faults in [("kind", "tried", "held", ""), *table(tried, found)]:
        print(f"{kind:24s}{count:>8s}{held:>8s}  {faults}")
    if found:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
