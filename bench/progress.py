"""Progress: what work says of itself, and how a terminal or a log file shows it.

Work calls `progress.update(stage, done, total, **facts)` once per step or chunk and knows nothing of screens, processes
or signals. The call is cheap (events are thinned to ten a second) and is also the one safe place to stop: where a stop
was asked for it raises KeyboardInterrupt, between two steps and never inside one, so a checkpoint is always whole.

Imports no torch, and rich only where bars are drawn, so that the command line starts fast.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Protocol, Self, TextIO

__all__ = ["Display", "Event", "Progress", "Silent", "display", "duration", "graceful_stop"]

EVERY = 0.1  # seconds between two events of one stage


@dataclass(frozen=True)
class Event:
    """One sign of life.

    job:   whose; names are unique within a suite.
    stage: "train", "evaluate ddim-50" ...; a new stage starts a new count.
    done, total: in the units of the stage (steps, samples).
    facts: numbers worth a glance. `images` = images processed so far in this stage (becomes images/s), `loss` ...
    """

    job: str
    stage: str
    done: int
    total: int
    facts: Mapping[str, Any] = field(default_factory=dict)


class Progress:
    """What work reports to.

    emit:     takes each Event; None: nobody is listening.
    stopping: asked at every update; True makes that update raise KeyboardInterrupt.
    """

    def __init__(
        self,
        job: str = "",
        emit: Callable[[Event], None] | None = None,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        self.job = job
        self._emit = emit
        self._stopping = stopping
        self._last = 0.0
        self._stage = ""

    def update(self, stage: str, done: int, total: int, **facts: Any) -> None:
        """Say that `done` of `total` is done. Raises KeyboardInterrupt where a stop was asked for."""
        if self._stopping is not None and self._stopping():
            raise KeyboardInterrupt
        if self._emit is None:
            return
        now = time.monotonic()
        if now - self._last >= EVERY or stage != self._stage or done >= total:
            self._last, self._stage = now, stage
            self._emit(Event(self.job, stage, done, total, facts))

    def named(self, job: str) -> Progress:
        """The same listener under another job's name."""
        return Progress(job, self._emit, self._stopping)


@dataclass
class Stopping:
    """Whether a stop was asked for, when called; `times`: how often."""

    times: int = 0

    def __call__(self) -> bool:
        return self.times > 0


@contextlib.contextmanager
def graceful_stop(
    signals: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM),
) -> Iterator[Stopping]:
    """Turn the first Ctrl-C into a request that `Progress.update` honours; the second interrupts at once.

    Yields `stopping`, to be given to a Progress. Outside the main thread signals can not be caught: nothing is changed.
    """
    stopping = Stopping()

    def ask(number: int, frame: FrameType | None) -> None:
        stopping.times += 1
        if stopping.times > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = {s: signal.signal(s, ask) for s in signals}
    try:
        yield stopping
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8 s, 3 min 05 s, 2 h 10 min."""
    s = round(max(0.0, seconds))
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    return f"{s // 3600} h {s % 3600 // 60:02d} min"


# ------------------------------------------------------------------------------------------------------- displays


class Meter:
    """How far the work is, and how fast: fractions weighted by cost, images per second over the last few seconds."""

    def __init__(self, costs: Mapping[str, float]) -> None:
        self.costs = dict(costs)
        self.began = time.monotonic()
        self.fraction = dict.fromkeys(costs, 0.0)
        self.finished: set[str] = set()
        self.latest: dict[str, Event] = {}
        self.rates: dict[str, float] = {}
        self._marks: dict[str, tuple[str, float, float]] = {}  # stage, time, images
        self._free = 0.0  # cost of jobs that took no time: cache hits say nothing of the speed

    def event(self, event: Event) -> None:
        self.latest[event.job] = event
        if event.total > 0:
            self.fraction[event.job] = min(1.0, max(0.0, event.done / event.total))
        images = event.facts.get("images")
        if images is None:
            self.rates.pop(event.job, None)
            return
        now, mark = time.monotonic(), self._marks.get(event.job)
        if mark is None or mark[0] != event.stage or images < mark[2]:
            self._marks[event.job] = (event.stage, now, float(images))
            self.rates.pop(event.job, None)
        elif now - mark[1] >= 1.0:
            rate, old = (images - mark[2]) / (now - mark[1]), self.rates.get(event.job)
            self.rates[event.job] = rate if old is None else 0.7 * old + 0.3 * rate
            self._marks[event.job] = (event.stage, now, float(images))

    def finish(self, job: str, seconds: float) -> None:
        self.finished.add(job)
        self.fraction[job] = 1.0
        self.latest.pop(job, None)
        self.rates.pop(job, None)
        if seconds < 1.0:
            self._free += self.costs.get(job, 1.0)

    @property
    def total(self) -> float:
        return sum(self.costs.values()) or 1.0

    @property
    def done(self) -> float:
        return sum(self.fraction.get(job, 0.0) * cost for job, cost in self.costs.items())

    @property
    def images_per_second(self) -> float:
        return sum(self.rates.values())

    @property
    def eta(self) -> float | None:
        """Seconds to go at the pace so far; None before there is a pace."""
        elapsed, worked = time.monotonic() - self.began, self.done - self._free
        if elapsed < 2.0 or worked <= 0.005 * self.total:
            return None
        return elapsed * (self.total - self.done) / worked

    def line(self) -> str:
        parts = [f"{len(self.finished)}/{len(self.costs)} jobs", f"{100 * self.done / self.total:.0f} %"]
        if self.images_per_second:
            parts.append(f"{self.images_per_second:,.0f} images/s")
        parts.append(f"{duration(time.monotonic() - self.began)} so far")
        if self.eta is not None:
            parts.append(f"about {duration(self.eta)} to go")
        return ", ".join(parts)


class Display(Protocol):
    """Where a suite shows itself. Used as a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def event(self, event: Event) -> None: ...
    def started(self, job: str) -> None: ...
    def finished(self, job: str, seconds: float, failure: str = "") -> None: ...
    def tick(self) -> None:
        """Called a few times a second, whether or not anything happened."""

    def say(self, text: str) -> None:
        """A line that stays."""


class Silent:
    """Shows nothing: for --json, for tests."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...
    def event(self, event: Event) -> None: ...
    def started(self, job: str) -> None: ...
    def finished(self, job: str, seconds: float, failure: str = "") -> None: ...
    def tick(self) -> None: ...
    def say(self, text: str) -> None: ...


class Plain:
    """Plain lines for log files and pipes: no control codes, one line every few seconds at most, failures at once."""

    def __init__(self, costs: Mapping[str, float], stream: TextIO, every: float = 5.0) -> None:
        self.meter = Meter(costs)
        self.stream = stream
        self.every = every
        self._last = time.monotonic()
        self._single = len(costs) == 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def event(self, event: Event) -> None:
        self.meter.event(event)
        self.tick()

    def started(self, job: str) -> None: ...

    def finished(self, job: str, seconds: float, failure: str = "") -> None:
        self.meter.finish(job, seconds)
        if failure:
            self.say(f"failed: {job}: {failure}")

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._last < self.every:
            return
        self._last = now
        running = "; ".join(f"{_title(e)} {e.done}/{e.total}{_facts(e)}" for e in self.meter.latest.values())
        if self._single and running:
            rate = self.meter.images_per_second
            eta = self.meter.eta
            self.say(
                running
                + (f", {rate:,.0f} images/s" if rate else "")
                + (f", about {duration(eta)} to go" if eta is not None else "")
            )
        else:
            self.say(self.meter.line() + (f" | {running}" if running else ""))

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class Bars:
    """A bar per running job and one for the whole, redrawn in place. Needs a terminal."""

    def __init__(self, costs: Mapping[str, float], stream: TextIO) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        from bench.terminal import console

        self.meter = Meter(costs)
        self._single = len(costs) == 1
        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
            console=console(file=getattr(stream, "rich_proxied_file", stream)),
            transient=True,
            refresh_per_second=8,
            expand=True,
        )
        self._whole = self._bars.add_task("all", total=self.meter.total, note="", visible=not self._single)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def event(self, event: Event) -> None:
        self.meter.event(event)
        self.started(event.job)
        rate = self.meter.rates.get(event.job)
        note = (f"{rate:,.0f} images/s" if rate else "") + _facts(event)
        if self._single and self.meter.eta is not None:
            note += f", about {duration(self.meter.eta)} to go"
        self._bars.update(
            self._tasks[event.job],
            description=_title(event),
            completed=event.done,
            total=event.total or None,
            note=note.strip(),
        )

    def started(self, job: str) -> None:
        if job not in self._tasks:
            self._tasks[job] = self._bars.add_task(job, total=None, note="")

    def finished(self, job: str, seconds: float, failure: str = "") -> None:
        self.meter.finish(job, seconds)
        if job in self._tasks:
            self._bars.remove_task(self._tasks.pop(job))
        if failure:
            self.say(f"failed: {job}: {failure}")
        self.tick()

    def tick(self) -> None:
        self._bars.update(self._whole, completed=self.meter.done, note=self.meter.line())

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _title(event: Event) -> str:
    """Job and stage without saying anything twice: "train gan seed 0", "evaluate gan seed 0: ddim-50"."""
    verb, _, rest = event.stage.partition(" ")
    if event.stage in event.job:
        return event.job
    return f"{event.job}: {rest if rest and event.job.startswith(verb) else event.stage}"


def _facts(event: Event) -> str:
    """The facts worth printing with a count: everything but the image counter."""
    shown = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in event.facts.items() if k != "images"]
    return f" ({', '.join(shown)})" if shown else ""


def display(costs: Mapping[str, float], stream: TextIO | None = None, quiet: bool = False) -> Display:
    """The display that suits where the output goes: bars on a terminal, plain lines elsewhere, nothing when quiet.

    costs: every job's expected cost, in any unit; weights the overall bar.
    """
    stream = sys.stderr if stream is None else stream
    if quiet:
        return Silent()
    if not stream.isatty():
        return Plain(costs, stream)
    return Bars(costs, stream)
