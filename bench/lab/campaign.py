"""Campaigns against the suite's own reliability: `python -m bench.lab.campaign [NAME|all] [--trials N] [--seed S]`.

kills       a suite is killed or told to stop at some call; the same command goes on, and all ends as if unharmed
corruption  a file is damaged; every command that reads it says so, makes it anew, or gives what it would have given
swaps       a whole file or folder takes another's place, and is not believed
deletions   a file that a manifest or run.json promises is gone, also while training: it is missed
races       two evaluations share a run's folder, two suites or trainings an output folder
writers     two processes write into one folder through the store

Trials are numbered and drawn from the seed: what did not hold is repeated alone by `--only TRIAL` under the same seed. With
`--log FILE` each verdict is written there as it comes, and the same command goes on after the trials that stand there. Ends
with exit code 1 when something did not hold. Needs an operating system with fork.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded; a fork inherits no threads

import argparse
import json
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.lab import corruption, deletions, kills, races, swaps, writers
from bench.lab.verdict import Verdict
from bench.lab.warm import preload

__all__ = ["CAMPAIGNS", "Log", "campaign", "main", "table"]

CAMPAIGNS: dict[str, ModuleType] = {
    "kills": kills,
    "corruption": corruption,
    "swaps": swaps,
    "deletions": deletions,
    "races": races,
    "writers": writers,
}


def campaign(
    name: str,
    place: Path,
    trials: int | None = None,
    seed: int = 0,
    only: int | None = None,
    jobs: int = 1,
    done: Collection[int] = (),
) -> Iterator[Verdict]:
    """The verdicts of a campaign, as they come. What it needs lies in `place`; the worlds of trials that held are removed.

    done: the numbers of trials that are left out.
    """
    module = CAMPAIGNS[name]
    count = module.TRIALS if trials is None else trials
    numbers = [number for number in (range(count) if only is None else [only]) if number not in done]
    if not numbers:
        return
    shutil.rmtree(place / name, ignore_errors=True)  # of an earlier campaign
    _SETUPS[name] = module.prepare(place / name, count)
    arguments = [(name, number, seed, place / name / f"trial-{number}") for number in numbers]
    if jobs == 1:
        yield from map(_one, arguments)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(_one, arguments)


_SETUPS: dict[str, Any] = {}  # not sent to the processes that do the trials: they are forks, and learn as they go


def _one(task: tuple[str, int, int, Path]) -> Verdict:
    name, number, seed, place = task
    verdict: Verdict = CAMPAIGNS[name].trial(_SETUPS[name], number, random.Random(f"{seed} {name} {number}"), place)
    if verdict.held:
        shutil.rmtree(place, ignore_errors=True)
    return verdict


@dataclass(frozen=True)
class Log:
    """A file with a line for each verdict: the campaign, the seed and the verdict, as JSON. None: nothing is kept."""

    path: Path | None

    def verdicts(self, name: str, seed: int) -> list[Verdict]:
        """Those of a campaign under a seed that were written; a last line that was cut short is no verdict."""
        found = list[Verdict]()
        for line in self.path.read_text().splitlines() if self.path is not None and self.path.exists() else ():
            with suppress(ValueError):
                values = json.loads(line)
                if (values.pop("campaign"), values.pop("seed")) == (name, seed):
                    found.append(Verdict(**values))
        return found

    def add(self, name: str, seed: int, verdict: Verdict) -> None:
        if self.path is not None:
            with self.path.open("a") as file:  # on a line of its own, whatever the one before came to
                file.write("\n" + json.dumps({"campaign": name, "seed": seed, **vars(verdict)}) + "\n")


def table(verdicts: Sequence[Verdict]) -> list[tuple[str, str, str, str]]:
    """Lines of kind × tried × held × how."""
    kinds = Counter(v.kind for v in verdicts)
    held = Counter(v.kind for v in verdicts if v.held)
    lines = [("kind", "tried", "held", "how")]
    for kind in sorted(kinds):
        how = Counter(v.how if v.held else v.how.upper() for v in verdicts if v.kind == kind)
        lines.append(
            (kind, str(kinds[kind]), str(held[kind]), ", ".join(f"{n} {what}" for what, n in how.most_common()))
        )
    lines.append(("all", str(len(verdicts)), str(sum(held.values())), ""))
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lab.campaign", description=__doc__.split("\n")[0])
    parser.add_argument("which", nargs="?", default="all", choices=[*CAMPAIGNS, "all"])
    parser.add_argument("--trials", type=int, help="of each campaign; its own number by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="TRIAL", help="this one alone, as it is among --trials")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="keeps there the worlds of trials that did not hold, and what later campaigns of the same code need",
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="of verdicts; trials that stand there are not done again"
    )
    parser.add_argument("--json", action="store_true", help="prints every verdict as JSON, and nothing else")
    given = parser.parse_args(arguments)
    if given.keep is not None:
        _own(given.keep, parser)
    names = list(CAMPAIGNS) if given.which == "all" else [given.which]
    if not all(getattr(CAMPAIGNS[name], "COLD", False) for name in names):
        preload()
    found, log = dict[str, list[Verdict]](), Log(given.log)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with tempfile.TemporaryDirectory(prefix="bench-lab-") as scratch, suppress(KeyboardInterrupt):
        place = Path(scratch).resolve() if given.keep is None else given.keep.resolve()
        for name in names:
            began, found[name] = time.monotonic(), log.verdicts(name, given.seed) if given.only is None else []
            done = {verdict.trial for verdict in found[name]}
            try:
                for verdict in campaign(name, place, given.trials, given.seed, given.only, given.jobs, done):
                    found[name].append(verdict)
                    log.add(name, given.seed, verdict)
                    if not verdict.held and not given.json:
                        print(f"{_again(name, given.seed, verdict)}: {verdict.detail}", flush=True)
            finally:  # what there is by then, after Ctrl-C too
                if not given.json:
                    _print(name, found[name], time.monotonic() - began)
    if given.json:
        print(json.dumps({name: [vars(v) for v in verdicts] for name, verdicts in found.items()}, indent=1))
    return 0 if all(verdict.held for verdicts in found.values() for verdict in verdicts) else 1


def _own(folder: Path, parser: argparse.ArgumentParser) -> None:
    """Marks a folder in which worlds are made and removed; ends the program where it holds anything else."""
    mark = folder / ".bench-lab"
    if folder.exists() and not mark.exists() and any(folder.iterdir()):
        parser.error(f"--keep {folder}: it holds other files; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _stop(*_: object) -> None:
    """Ctrl-C, once: what it leaves is cleared away in peace."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _again(name: str, seed: int, verdict: Verdict) -> str:
    """How a trial is repeated, and what it came to."""
    return f"{name} --seed {seed} --only {verdict.trial}: {verdict.kind}: {verdict.how}"


def _print(name: str, verdicts: Sequence[Verdict], seconds: float) -> None:
    lines = table(verdicts)
    widths = [max(len(line[k]) for line in lines) for k in range(4)]
    print(f"\n{name}, {seconds:.0f} s")
    for kind, tried, held, how in lines:
        print(f"  {kind:<{widths[0]}}  {tried:>{widths[1]}}  {held:>{widths[2]}}  {how}".rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
