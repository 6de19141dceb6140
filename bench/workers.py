"""A suite's jobs over local worker processes.

Jobs form a graph: evaluating a run needs its training, a distilled recipe needs its teacher. Whatever is ready and
heads the longest remaining path goes first, so that recipes others wait for are not left to the end. Workers are
persistent (torch is imported, data and feature networks are loaded once each) and compute with a fixed number of
threads. A job is a pure function of its arguments, so results depend neither on the number of workers nor on the order.

Each worker has a pipe of its own: a queue shared by processes has a lock, and a worker that is killed while it holds
the lock would hang the suite. A worker that dies (out of memory, kill -9) fails its job and is replaced; so is one whose
process can use its GPU no more (see `is_spoiled`).

Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from bench.progress import Display, Event, Progress, Stopping, graceful_stop
from bench.terminal import shown
from paradigms.errors import BadInput, out_of_memory

__all__ = ["Job", "Outcome", "Place", "cores", "critical_paths", "gpu_places", "is_spoiled", "perform"]

LAST = 5.0  # seconds for a process to end that has closed its pipe: its job has failed, this only finds the reason
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Job:
    """One piece of work: `work(*args, progress)` in a worker.

    work:  a module-level function; its arguments and its result must pickle.
    needs: names of the jobs that must have succeeded.
    place: the kind of worker that it is for, where there are several kinds (see `Place`).
    cost:  expected cost in any one unit; decides the order and weights the overall bar, never a result.
    """

    name: str
    work: Callable[..., Any]
    args: tuple[Any, ...] = ()
    needs: tuple[str, ...] = ()
    cost: float = 1.0
    place: str = ""


@dataclass(frozen=True)
class Place:
    """Where one worker computes.

    kind:        of the jobs that it takes; "" for all.
    environment: variables that it starts with: the GPU that it sees, say.
    """

    kind: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def takes(self, job: Job) -> bool:
        return self.kind in ("", job.place)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: a value, or a failure in one line (with the traceback where there was one)."""

    value: Any = None
    failure: str = ""
    trace: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.failure


def cores() -> int:
    """How many processes can compute at once: physical cores open to this process, within a container's CPU quota."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    physical = set()
    for cpu in allowed:
        # Two hardware threads of one core share its arithmetic units: two one-thread jobs on them win nothing.
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            physical.add(topology.read_text().strip())
        except OSError:
            physical.add(str(cpu))
    count = len(physical)
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    return max(1, count)


TRAIN, SCORE = "train", "score"  # kinds of places on a machine with GPUs


def gpu_places(gpus: Sequence[str], trainers: int, scorers: int) -> list[Place]:
    """Workers on GPUs, each of which sees one of them: those that train, and those that draw samples and score them.

    gpus: each as CUDA_VISIBLE_DEVICES names it. Scoring is mostly the CPU's work, so that it has workers of its own and
    keeps no GPU from training.
    """

    def seen(k: int) -> dict[str, str]:
        # The second lets matrix products repeat their bits; it is read when CUDA starts.
        return {"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)], "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}

    return [Place(kind, seen(k)) for kind, n in ((TRAIN, trainers), (SCORE, scorers)) for k in range(n)]


_SPOILED = re.compile(
    "CUDA error(?!: out of memory)|device-side assert|illegal memory access|unspecified launch failure"
)


def is_spoiled(failure: str) -> bool:
    """Whether a failure is of a kernel that went wrong on a GPU: whatever its process asks of CUDA later fails likewise.

    Want of memory is not: the next job may need less.
    """
    return _SPOILED.search(failure) is not None


def critical_paths(jobs: Sequence[Job]) -> dict[str, float]:
    """For each job the cost of the longest chain that starts with it. Raises ValueError on a cycle or unknown need."""
    by_name = {job.name: job for job in jobs}
    if len(by_name) != len(jobs):
        raise ValueError("two jobs share a name")
    waiting: dict[str, list[str]] = {name: [] for name in by_name}
    for job in jobs:
        for need in job.needs:
            if need not in by_name:
                raise ValueError(f"job '{job.name}' needs '{need}', which is not among the jobs")
            waiting[need].append(job.name)
    length: dict[str, float] = {}
    missing = {name: len(after) for name, after in waiting.items()}
    ready = [name for name, count in missing.items() if not count]
    while ready:
        name = ready.pop()
        length[name] = by_name[name].cost + max((length[after] for after in waiting[name]), default=0.0)
        for need in set(by_name[name].needs):
            missing[need] -= by_name[name].needs.count(need)
            if not missing[need]:
                ready.append(need)
    if len(length) != len(jobs):
        raise ValueError(f"jobs wait for each other: {', '.join(sorted(by_name.keys() - length.keys()))}")
    return length


def perform(
    jobs: Sequence[Job],
    display: Display,
    workers: int | None = None,
    threads: int | None = 1,
    done: Callable[[Job, Outcome], None] | None = None,
    places: Sequence[Place] | None = None,
) -> dict[str, Outcome]:
    """Run every job, each after what it needs; returns the outcomes by name.

    workers: processes; None = `cores()`. threads: per process; None leaves the libraries' own choice.
    done: called with each outcome as it comes, in this process. places: of the workers, in place of `workers` equal ones;
    raises ValueError for a job that none of them takes.

    A failed job fails those that need it and no other. On Ctrl-C (or SIGTERM) the workers are asked to stop at the next
    safe point, where training writes its checkpoint; then KeyboardInterrupt is raised. However long a step takes, its
    worker is waited for; a second Ctrl-C stops at once.
    """
    paths = critical_paths(jobs)
    todo = sorted(jobs, key=lambda job: (-paths[job.name], job.name))
    outcomes: dict[str, Outcome] = {}
    places = [Place()] * min(workers or cores(), len(jobs)) if places is None else _used(places, jobs)

    def settle(job: Job, outcome: Outcome) -> None:
        outcomes[job.name] = outcome
        display.finished(job.name, outcome.seconds, outcome.failure)
        if done is not None:
            done(job, outcome)

    with graceful_stop() as stopping, _pool(places, threads, stopping, display) as pool:
        while len(outcomes) < len(jobs):
            while (lost := _lost(todo, outcomes)) is not None:
                job, cause = lost
                todo.remove(job)
                settle(job, Outcome(failure=f"not run: '{cause}' failed"))
            for job in [j for j in todo if all(n in outcomes and outcomes[n].ok for n in j.needs)]:
                worker = next((w for w in pool if w.job is None and w.place.takes(job)), None)
                if worker is None:
                    continue
                if not worker.process.is_alive():
                    worker.renew()
                todo.remove(job)
                worker.give(job)
                display.started(job.name)
            busy = [w for w in pool if w.job is not None]
            for signalled in wait([w.pipe for w in busy], timeout=0.25) if busy else ():
                worker = next(w for w in busy if w.pipe is signalled)
                message = worker.read()
                if isinstance(message, Event):
                    display.event(message)
                else:
                    current, worker.job = worker.job, None
                    assert current is not None  # only busy workers are waited for
                    settle(current, message)
                    if is_spoiled(message.failure):
                        display.say(
                            f"{current.name} left its process unable to use the GPU; jobs after it get a new one"
                        )
                        worker.stop()
            display.tick()
            if stopping():
                raise KeyboardInterrupt
    return outcomes


def _lost(todo: Sequence[Job], outcomes: Mapping[str, Outcome]) -> tuple[Job, str] | None:
    """A job that can not run any more, and the first of its needs that failed or was not run; None where there is none.

    Asked until there is none: each job that is lost may lose others.
    """
    failed = {name for name, outcome in outcomes.items() if not outcome.ok}
    return next(((job, need) for job in todo for need in job.needs if need in failed), None)


def _used(places: Sequence[Place], jobs: Sequence[Job]) -> list[Place]:
    """No more places of a kind than there are jobs for it. Raises ValueError for a job without one."""
    for job in jobs:
        if not any(place.takes(job) for place in places):
            raise ValueError(f"job '{job.name}' is for a '{job.place}' worker, of which there is none")
    used: list[Place] = []
    for place in places:
        alike = sum(other.kind == place.kind for other in used)
        if alike < sum(place.takes(job) for job in jobs):
            used.append(place)
    return used


# ------------------------------------------------------------------------------------------------------- the workers


class Worker:
    """A process that computes, the parent's end of its pipe, and the job it has."""

    def __init__(self, place: Place, threads: int | None) -> None:
        self.place = place
        self.threads = threads
        self.job: Job | None = None
        self._start()

    def _start(self) -> None:
        context = mp.get_context("spawn")
        self.pipe, child_end = context.Pipe()
        # The numerical libraries read these once, when they are loaded: set them before the child exists.
        threads = {} if self.threads is None else dict.fromkeys(THREADS, str(self.threads))
        with _environment({**threads, **self.place.environment}), _deaf_children():
            self.process: SpawnProcess = context.Process(target=_work, args=(child_end, self.threads), daemon=True)
            self.process.start()
        child_end.close()  # or the end of the child would not be seen here
        self.began = time.monotonic()

    def give(self, job: Job) -> None:
        self.job, self.began = job, time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # died while idle: read() will say so
            self.pipe.send(job)

    def read(self) -> Event | Outcome:
        """What the worker sent; a failed outcome when it is gone."""
        seconds = time.monotonic() - self.began
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(LAST)  # the pipe closes a moment before the exit code is known
            failure = _death(self.process.exitcode)
            self.stop()  # if it hangs: it is replaced before the next job
            return Outcome(failure=failure, seconds=seconds)
        return message if isinstance(message, Event) else replace(message, seconds=seconds)

    def wait_until_gone(self, hurry: Callable[[], bool]) -> None:
        """Until the process has ended, or `hurry` says not to wait.

        What it sends is read on: unread, it could fill the pipe and keep the process from ending.
        """
        while self.process.is_alive() and not hurry():
            if self.pipe in wait([self.pipe, self.process.sentinel], timeout=0.25):
                try:
                    self.pipe.recv()
                except (EOFError, OSError):
                    self.process.join(LAST)
                    return

    def stop(self) -> None:
        """Ends the process, and with it what it holds of a GPU; `renew` starts another where one is needed."""
        self.process.kill()
        self.process.join()

    def renew(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        self.pipe.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.process.close()


def _death(code: int | None) -> str:
    if code is None:
        return "its process closed its pipe and does not end"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"its process was killed ({name}{'; out of memory?' if name == 'SIGKILL' else ''})"
    return f"its process ended unexpectedly (exit code {code})"


@contextlib.contextmanager
def _pool(places: Sequence[Place], threads: int | None, stopping: Stopping, display: Display) -> Iterator[list[Worker]]:
    """Workers that are gone when the block ends: at once when idle or at a second Ctrl-C, else after their checkpoint."""
    pool: list[Worker] = []
    try:
        pool.extend(Worker(place, threads) for place in places)
        yield pool
    finally:
        try:
            asked = stopping.times
            busy = [w for w in pool if w.job is not None and w.process.is_alive()] if asked < 2 else []
            for worker in busy:
                worker.process.terminate()
            if busy:
                with contextlib.suppress(OSError):  # the reader of the output may be gone; the checkpoints are not
                    display.say("stopping after the step at hand; Ctrl-C again stops at once, without a checkpoint")
            for worker in busy:
                worker.wait_until_gone(lambda: stopping.times > asked)
        finally:  # at a second Ctrl-C too
            for worker in pool:
                worker.close()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes that start meanwhile never hear Ctrl-C, not even before their first line runs; this one hears it after.

    Ctrl-C reaches the whole group; the parent decides and sends SIGTERM.
    """
    resource_tracker.ensure_running()  # it unblocks the signal where it has to be started first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@shown()
def _work(pipe: Connection, threads: int | None) -> None:
    """A worker's life: take a job, do it, say how it ended; leave when the parent closes the pipe or is gone.

    It is started deaf to Ctrl-C (see `_deaf_children`).
    """
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, ask)

    def emit(event: Event) -> None:
        try:
            pipe.send(event)
        except (BrokenPipeError, ConnectionError):
            raise KeyboardInterrupt from None  # the parent is gone: save and leave, rather than compute for nobody

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    while not asked:
        try:
            if not pipe.poll(0.2):
                continue
            job: Job = pipe.recv()
        except (EOFError, OSError):
            return
        except Exception as error:  # the job did not unpickle: a programming error, but not the end of the suite
            pipe.send(Outcome(failure=f"{type(error).__name__}: {error}", trace=traceback.format_exc()))
            continue
        try:
            message = Outcome(value=job.work(*job.args, Progress(job.name, emit, lambda: asked)))
        except KeyboardInterrupt:
            return
        except BadInput as error:
            message = Outcome(failure=str(error))
        except Exception as error:
            text = str(error).strip().splitlines()
            kind = "out of memory" if out_of_memory(error) else type(error).__name__
            line = f"{kind}: {text[0] if text else ''}".rstrip(": ")
            message = Outcome(failure=line, trace=traceback.format_exc())
        try:
            pipe.send(message)
        except (BrokenPipeError, ConnectionError):
            return
        except Exception as error:
            pipe.send(Outcome(failure=f"its result can not be sent: {error}", trace=traceback.format_exc()))
