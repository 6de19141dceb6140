"""The jobs of a suite without workers: one after the other, in this process."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence

from bench.progress import Display, Progress, graceful_stop
from bench.workers import Job, Outcome, Place
from paradigms.errors import BadInput

__all__ = ["perform"]


def perform(
    jobs: Sequence[Job],
    display: Display,
    workers: int | None = None,
    threads: int | None = 1,
    done: Callable[[Job, Outcome], None] | None = None,
    places: Sequence[Place] | None = None,
) -> dict[str, Outcome]:
    """As `bench.workers.perform`, in whose place it is put: each job after what it needs, and told how it ended.

    Of the seconds of a small suite most are spent where each worker loads the libraries. workers, threads and places mean
    nothing here. Raises KeyboardInterrupt once a job has ended in which Ctrl-C was heard.
    """
    outcomes, todo = dict[str, Outcome](), list(jobs)
    with graceful_stop() as stopping:
        while todo:
            job = next(j for j in todo if all(name in outcomes for name in j.needs))
            todo.remove(job)
            display.started(job.name)
            outcomes[job.name] = outcome = _done(job, outcomes, stopping)
            display.finished(job.name, outcome.seconds, outcome.failure)
            if done is not None:
                done(job, outcome)
            if stopping():
                raise KeyboardInterrupt
    return outcomes


def _done(job: Job, outcomes: Mapping[str, Outcome], stopping: Callable[[], bool]) -> Outcome:
    lost = next((name for name in job.needs if not outcomes[name].ok), None)
    if lost is not None:
        return Outcome(failure=f"not run: '{lost}' failed")
    try:
        return Outcome(value=job.work(*job.args, Progress(job.name, None, stopping)))
    except BadInput as error:
        return Outcome(failure=str(error))
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        return Outcome(failure=f"{type(error).__name__}: {text}".rstrip(": "), trace=traceback.format_exc())
