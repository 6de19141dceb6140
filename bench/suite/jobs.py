"""The unfinished work of a grid as jobs for the workers, and what is recorded of a job that failed."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import measure, runs, scores, store
from bench.data.names import Name
from bench.progress import Progress
from bench.runs import Run
from bench.suite.grid import Grid, rows_folder
from bench.tiers import Budget, Tier
from bench.workers import SCORE, TRAIN, Job, Outcome, Place, cores, gpu_places
from paradigms.errors import BadInput
from reports.words import visible

__all__ = [
    *("Machine", "RunFailed", "failure_row", "is_evaluation", "is_training", "jobs_of", "machine_for"),
    *("record_failure", "timing_job"),
]

_log = logging.getLogger(__name__)

# Seconds of a job in proportion to those of a training: only for the order of jobs and the estimated time.
EVALUATE, SWEEP, TIME = 0.25, 1.0, 0.3

LAUNCH_BOUND = 5_000_000  # parameters: a network below leaves most of a large GPU idle
TOGETHER = 4  # such trainings on one GPU
SCORERS = 3  # workers that score on one GPU, at most: each holds half a gigabyte of it and its samples


class RunFailed(Exception):
    """A run ended without a model; the reason is in its run.json and its row."""


# --------------------------------------------------------------------------------------------------------- machine


@dataclass(frozen=True)
class Machine:
    """What a suite computes on.

    device:  of all its runs. workers: how many train at once; None: as many as the machine takes.
    places:  the workers on GPUs; None on a CPU, where all are alike.
    threads: of a worker. One, so that a run's bits do not depend on how many run at the same time.
    """

    device: torch.device
    workers: int | None
    places: Sequence[Place] | None
    threads: int = 1


def machine_for(device: str, budget: Budget, workers: int | None) -> Machine:
    """The device that is meant, with the workers for runs of this budget. Raises BadInput where there is none."""
    where, why = runs.device_for(device, budget)
    if why:
        _log.warning(why)
    return Machine(where, workers, _places(where, budget, workers))


def _places(device: torch.device, budget: Budget, workers: int | None) -> list[Place] | None:
    """The workers of a suite on GPUs, `workers` of which train; None on a CPU, where all are alike."""
    if device.type != "cuda":
        return None
    gpus = runs.gpus_of(device)
    trainers = workers or len(gpus) * (TOGETHER if budget.params < LAUNCH_BOUND else 1)
    return gpu_places(gpus, trainers, max(len(gpus), min(cores() - trainers, SCORERS * len(gpus))))


# -------------------------------------------------------------------------------------------------- work of the jobs


@contextmanager
def _returned(device: str) -> Iterator[None]:
    """Gives the memory of a GPU back after a job: the worker stays, and others share it.

    Raises RuntimeError, with the reason why the job itself failed, where the GPU no longer answers this process.
    """
    failure = ""
    try:
        yield
    except Exception as error:
        failure = str(error) or type(error).__name__
        raise
    finally:
        if device != "cpu":
            gc.collect()
            try:
                torch.cuda.empty_cache()
                torch.cuda.synchronize()
            except RuntimeError as error:
                reasons = [text.partition("\n")[0] for text in (failure, str(error)) if text]
                raise RuntimeError("; ".join(dict.fromkeys(reasons))) from error


def _train(run: Run, out: Path, device: str, threads: int, progress: Progress) -> str:
    with _returned(device):
        folder = runs.ensure(run, out, progress, device=device, threads=threads)
    info = runs.read_info(folder)
    if info.status != "ok":
        raise RunFailed(f"{info.status}: {info.reason}")
    return str(folder)


def _evaluate(folder: Path, tier: Tier, device: str, data: Name, progress: Progress) -> list[str]:
    """The reasons of the parts that failed."""
    with _returned(device):
        rows = scores.evaluate(folder, tier, progress, device, data=data)
    return sorted({f"{row.metric}: {row.reason}" for row in rows if row.status != "ok"})


def _baselines(dataset: Name, tier: Tier, folder: Path, progress: Progress) -> list[str]:
    rows = scores.score_baselines(dataset, tier, folder, progress)
    return sorted({f"{row.metric}: {row.reason}" for row in rows if row.status != "baseline"})


def _time(subjects: Sequence[measure.Subject], tier: Tier, device: str, threads: int, progress: Progress) -> None:
    measure.time_runs(subjects, tier, progress, device, threads)


# ------------------------------------------------------------------------------------------------------------- jobs


def jobs_of(grid: Grid, machine: Machine) -> list[Job]:
    """The trainings and evaluations that the compared runs lack, and the baselines where they are not there."""
    jobs = [job for place in grid.runs if place in grid.needed for job in _jobs_of_run(grid, place, machine)]
    if not scores.has_baselines(grid.dataset, grid.tier, grid.baselines):
        arguments = (grid.dataset, grid.tier, grid.baselines)
        jobs.append(Job("baselines", _baselines, arguments, (), grid.seconds * EVALUATE, SCORE))
    return jobs


def _jobs_of_run(grid: Grid, place: str, machine: Machine) -> Iterator[Job]:
    run, title, device = grid.runs[place], grid.titles[place], machine.device.type
    before = tuple(f"train {grid.titles[p]}" for p in grid.stands_on(run) if p not in grid.trained)
    if place not in grid.trained:
        arguments = (run, grid.out, device, machine.threads)
        yield Job(f"train {title}", _train, arguments, before, grid.seconds * run.share, TRAIN)
        before = (f"train {title}",)
    elif place in grid.pending:
        for parent in runs.wanting(run, grid.out).values():
            if parent.where not in grid.trained:
                _log.warning(runs.made_anew(run, parent, grid.out))
    if place in grid.places and place not in grid.scored:
        share = SWEEP if run.seed < grid.tier.sweep_seeds else EVALUATE
        scored = (run.folder(grid.out), grid.tier, device, grid.dataset)
        yield Job(f"evaluate {title}", _evaluate, scored, before, grid.seconds * share, SCORE)


def timing_job(grid: Grid, machine: Machine) -> Job | None:
    """The job that times the sampling of all runs that can be timed, or None where all their times are there."""
    subjects = [grid.subject(run) for run in grid.timed if grid.is_whole(run)]
    if not subjects or measure.is_timed(subjects, grid.tier, str(machine.device), machine.threads):
        return None
    arguments = (subjects, grid.tier, machine.device.type, machine.threads)
    return Job("time sampling", _time, arguments, (), grid.seconds * TIME, TRAIN)


def is_training(job: Job) -> bool:
    return job.work is _train


def is_evaluation(job: Job) -> bool:
    return job.work is _evaluate


# --------------------------------------------------------------------------------------------------------- failures


def failure_row(run: Run, reason: str, metric: str = "") -> store.Row:
    """The row that gives the reason why a planned run, or a metric of it, is missing."""
    return store.Row(
        run=run.id,
        status="failed",
        reason=reason,
        recipe=run.recipe,
        paradigm=run.definition.heading,
        tier=run.tier.name,
        dataset=run.dataset,
        seed=run.seed,
        conditional=run.conditional,
        metric=metric,
    )


def record_failure(run: Run, out: Path, outcome: Outcome) -> None:
    """Adds a row to a run's rows for a failure that left none (its process died, or what it needs failed).

    Adds none while another process writes into the folder, which will record how the run ends.
    """
    with suppress(_Busy), store.locked(run.folder(out), _busy):
        folder, before = rows_folder(run.folder(out), run.tier), list[store.Row]()
        with suppress(BadInput):
            before = store.load_rows(folder)
        if any(row.status in ("failed", "diverged") for row in before):
            return
        row = failure_row(run, outcome.failure, "evaluation" if before else "")
        store.save_rows(folder, [*before, row], key="failed")
        if outcome.trace:
            store.write_atomic(run.folder(out) / runs.ERROR, visible(outcome.trace, lines=True).encode())


class _Busy(Exception):
    pass


def _busy() -> None:
    raise _Busy
