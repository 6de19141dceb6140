"""Kills: a suite is stopped at some call, taken up again by the same command, and must end as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench import runs
from bench.lab import museum
from bench.lab.attack import Attack, Call, cut
from bench.lab.same import differences, essence
from bench.lab.verdict import Verdict
from bench.lab.warm import HUNG, Ended, World, calls_of
from paradigms import catalogue
from paradigms.contract import Paradigm
from reports import files

__all__ = ["TRIALS", "Setup", "cases", "prepare", "trial"]

TRIALS = 100
DATA = ("ring8", "digits")
REAL = 10  # one trial in so many kills real processes
FEW_STEPS = 16
AGAIN = 3  # kills of an episode, at most
# What of a command is going on at a call, by the first of these that fits what is written or said.
STAGES = {
    "plan": r"plan-|^plan ",
    "prepare": r"prepared",
    "checkpoint": r"state\.pt",
    "weights": r"weights\.safetensors|at-\d+|parents\.safetensors",
    "baselines": r"baseline",
    "timing": r"timing|^time|^warm",
    "report": r"(^|/)report/",
    "cache": r"(^|/)cache/",
    "evaluation": r"results\.jsonl|grid\.png|samples\.npz|^evaluate",
    "train": r"^train|log\.jsonl",
    "record": r"run\.json|manifest\.json|error\.txt",
}
WAYS = ("killed", "killed", "killed", "terminated", "interrupted", "interrupted twice")
REAL_WAYS = ("worker killed", "parent killed", "group killed", "parent terminated", "group interrupted")


@dataclass(frozen=True)
class Case:
    """A suite to be killed, and what it comes to when it is not."""

    arguments: tuple[str, ...]
    reference: dict[str, str]
    calls: tuple[Call, ...]


class Setup:
    """The suites to be killed, and what each comes to, found when it is first asked for and kept in `place`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.commands = cases()
        self.known: dict[int, Case] = {}

    def case(self, number: int) -> Case:
        """The suite of a trial."""
        k = number % len(self.commands)
        if k not in self.known:
            command, kept = self.commands[k], self.place / f"{k}.json"
            if not kept.exists():
                world = World.new(self.place / f"{os.getpid()}-{k}")
                ended, calls = calls_of(world, *command)
                if ended.code:
                    raise RuntimeError(f"bench {' '.join(command)} does not end unharmed: {ended.last()}")
                files.write(kept, json.dumps([essence(world.root), [vars(call) for call in calls]]).encode())
                shutil.rmtree(world.root)
            reference, listed = json.loads(kept.read_bytes())
            self.known[k] = Case(command, reference, tuple(Call(**values) for values in listed))
        return self.known[k]


def cases() -> list[tuple[str, ...]]:
    """The commands: each row of the comparison, the longest chain of needs, one on a first stage.

    All on vectors, and on images those that draw them in few steps: what is written is the same.
    """
    known = catalogue.recipes()
    samples = {name: recipe.paradigm for name, recipe in known.items() if issubclass(recipe.paradigm, Paradigm)}

    def depth(name: str) -> int:
        return 1 + max((depth(need.recipe) for need in known[name].needs.values()), default=0)

    def steps(name: str) -> int:
        return samples[name].card.default.steps or 1

    chain = max(samples, key=lambda name: (depth(name), -len(name)))
    names = dict.fromkeys([chain, museum.staged(known), *(name for name in catalogue.rows() if name in samples)])
    found = list[tuple[str, ...]]()
    for data in DATA:  # one after the other, so that few trials see all paradigms on vectors first
        for recipe in names:
            space = runs.dataset(data).space
            if runs.refusal(recipe, space) is None and (not space.is_image or steps(recipe) <= FEW_STEPS):
                found.append(
                    ("all", "--dataset", data, "--tier", "tiers.toml:tiny", "--recipes", recipe, "--out", "out")
                )
    return found


def prepare(place: Path, trials: int) -> Setup:
    return Setup(place.with_name("references"))


def trial(setup: Setup, number: int, by: random.Random, place: Path) -> Verdict:
    """An episode: up to three kills, then the same command to its end."""
    real = number % REAL == REAL - 1
    case = setup.case(number // REAL if real else number - number // REAL)
    world = World.new(place)
    stages = sorted({stage(call) for call in case.calls} - {""})
    wanted = by.choice(stages)
    at = by.choice([k for k, call in enumerate(case.calls) if stage(call) == wanted])
    way = REAL_WAYS[number // REAL % len(REAL_WAYS)] if real else by.choice(WAYS)
    kind = f"processes: {way}" if real else f"killed at {wanted}" if way == "killed" else way
    told, stopped = list[str](), False
    for _ in range(1 if real else by.randint(1, AGAIN)):
        seed = by.randrange(1 << 30)
        ended = (
            _kill_real(world, case, way, at, seed)
            if real
            else world.run(*case.arguments, attack=_attack(at, way, seed))
        )
        told.append(f"{way} at call {at} ({case.calls[at % len(case.calls)].what}): exit {ended.code}")
        stopped = stopped or ended.code != 0
        if (wrong := _odd(ended, way)) != "":
            return Verdict(kind, number, False, wrong, "; ".join(told) + f": {ended.last()}")
        at, way = by.randrange(len(case.calls)), by.choice(WAYS) if not real else way
    ended = world.run(*case.arguments)
    where = f"bench {' '.join(case.arguments)}: {'; '.join(told)}; then exit {ended.code}"
    if ended.code or ended.trace:
        return Verdict(kind, number, False, "does not go on", f"{where}: {ended.last()}")
    if lines := differences(case.reference, world.root):
        return Verdict(kind, number, False, lines[0].split(":")[0], f"{where}: {'; '.join(lines[:6])}")
    # A command that had ended before it was stopped proves nothing: those are counted by themselves.
    return Verdict(
        kind if stopped else f"{kind}, ended before", number, True, "equal" if stopped else "not stopped", where
    )


def stage(call: Call) -> str:
    """What is going on at a call; "" for what is none of it."""
    return next((name for name, pattern in STAGES.items() if re.search(pattern, call.what)), "")


SIGNALS = {
    "killed": [signal.SIGKILL],
    "terminated": [signal.SIGTERM],
    "interrupted": [signal.SIGINT],
    "interrupted twice": [signal.SIGINT, signal.SIGINT],
}


def _attack(at: int, way: str, seed: int) -> Attack:
    signals = list(SIGNALS[way])

    def attack(index: int, call: Call, file: int | None) -> None:
        if index < at or not signals:
            return
        if way == "killed":
            cut(file, random.Random(seed))
        os.kill(os.getpid(), signals.pop(0))

    return attack


def _odd(ended: Ended, way: str) -> str:
    """What should not be of the way a stopped command ended; "" for nothing."""
    if ended.trace:
        return "traceback"
    if ended.code == HUNG:
        return "hang"
    # A worker that was killed is a failure of its job; what had ended before was not stopped.
    expected = {0, -signal.SIGKILL, -signal.SIGTERM, 130} | ({1} if "worker" in way else set())
    return "" if ended.code in expected else "exit code"


def _kill_real(world: World, case: Case, way: str, at: int, seed: int) -> Ended:
    who, how = way.split(" ")
    once = world.root.parent / f".{world.root.name}.once"
    once.unlink(missing_ok=True)
    told = {
        "role": "parent"
        if who == "parent"
        else random.Random(seed).choice(["parent", "worker"])
        if who == "group"
        else "worker",
        "at": at // 3,  # the calls are shared out between the processes
        "signals": [int(number) for number in SIGNALS[how]],
        "whom": "group" if who == "group" else "self",
        "seed": seed,
        "once": str(once),
    }
    environment = {**os.environ, "BENCH_LAB": json.dumps(told), "BENCH_DATA": str(world.root / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.lab.victim", *case.arguments, "--jobs", "2"],
        cwd=world.root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=world.limit)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        code = HUNG
    once.unlink(missing_ok=True)
    return Ended(code, out, err, 0.0)
