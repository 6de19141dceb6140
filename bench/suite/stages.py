"""The course of a suite: plan, look at what is there, train and evaluate in workers, time, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench import measure, runs, scores, store
from bench.arithmetic import chosen
from bench.data.names import Name
from bench.progress import Display, duration
from bench.runs import Run
from bench.suite.checked import Checked, check
from bench.suite.grid import Grid, grid_of, plan_runs, rows_folder
from bench.suite.jobs import (
    Machine,
    failure_row,
    is_evaluation,
    is_training,
    jobs_of,
    machine_for,
    record_failure,
    timing_job,
)
from bench.suite.reporting import report
from bench.suite.result import Result
from bench.tiers import Tier
from bench.workers import Job, Outcome, perform
from paradigms.errors import BadInput

__all__ = ["everything"]

_log = logging.getLogger(__name__)

Show = Callable[[Mapping[str, float]], Display]


def everything(
    dataset: Name,
    names: Sequence[str],
    tier: Tier,
    out: Path,
    show: Show,
    *,
    seeds: int | None = None,
    conditional: bool = False,
    device: str = "auto",
    workers: int | None = None,
    timing: bool = True,
    settings: Sequence[str] = (),
    precision: str = "fp32",
    compiled: bool = False,
) -> Result:
    """Trains, evaluates and times what is not there yet, and writes the report. `show` makes a display for some jobs.

    Raises BadInput before any work for what the user can correct; a run that fails is in `Result.failures` and in the
    report; one whose folder is damaged is named in a warning and in `Result.failures`, and the others go on. Results
    do not depend on `workers`.
    """
    began = time.monotonic()
    machine = machine_for(device, tier.budget(runs.dataset(dataset).space), workers)
    computed = chosen(machine.device, precision, compiled)
    compared, skipped = plan_runs(dataset, names, tier, seeds, conditional, settings, computed)
    if (line := runs.other_code(compared, out)) is not None:
        _log.warning(line)
    found = grid_of(compared, skipped, dataset, tier, out, machine.device, machine.threads, timing)
    ending = Ending.of_damaged(found)
    grid = found.without_damaged()
    jobs = jobs_of(grid, machine)
    if jobs or grid.untimed:
        store.writable(out)
    try:
        _work(grid, jobs, machine, show, ending)
        _time(grid, machine, show, ending)
    except KeyboardInterrupt:  # nothing may come after what is there now
        with suppress(BadInput):  # there is nothing yet
            if (files := _report(grid, ending)[1]) != []:
                _log.warning("stopped; %s shows what had ended", files[0])
        raise
    checked, written = _report(grid, ending)
    return _result(grid, checked, written, ending, time.monotonic() - began)


@dataclass(eq=False)
class Ending:
    """How the work on a grid has ended so far.

    failures: (job or folder, reason). lost: by folder the rows that stand for what can not be used.
    done:     the names of jobs that ended well.
    """

    failures: list[tuple[str, str]] = field(default_factory=list)
    lost: dict[Path, list[store.Row]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    @classmethod
    def of_damaged(cls, grid: Grid) -> Ending:
        """The ending of the damaged runs of a grid, each named in a warning."""
        failures = [(grid.titles[place], reason) for place, reason in grid.left_out.items()]
        for name, reason in failures:
            _log.warning("warning: left out: %s: %s", name, reason)
        lost = [run for run in grid.compared if run.where in grid.damaged]
        return cls(failures, {run.folder(grid.out): [failure_row(run, grid.damaged[run.where])] for run in lost})

    def of_job(self, job: Job, outcome: Outcome, run: Run | None, out: Path) -> None:
        """Records how a job ended, which works on `run` if on any."""
        parts = outcome.value if isinstance(outcome.value, list) else []
        reasons = [outcome.failure] if outcome.failure else [f"in part: {text}" for text in parts if text]
        self.failures.extend((job.name, reason) for reason in reasons)
        if outcome.failure and run is not None:
            with suppress(BadInput):  # the path of its folder is something else; the failure is reported all the same
                record_failure(run, out, outcome)


def _work(grid: Grid, jobs: Sequence[Job], machine: Machine, show: Show, ending: Ending) -> None:
    """Trains and evaluates in workers."""
    if not jobs:
        return
    by_job = {f"{verb} {grid.titles[place]}": run for place, run in grid.runs.items() for verb in ("train", "evaluate")}

    def done(job: Job, outcome: Outcome) -> None:
        ending.of_job(job, outcome, by_job.get(job.name), grid.out)

    with show({job.name: job.cost for job in jobs}) as display:
        display.say(_announcement(grid, jobs))
        outcomes = perform(jobs, display, machine.workers, machine.threads, done, machine.places)
    ending.done.extend(name for name, outcome in outcomes.items() if outcome.ok)


def _time(grid: Grid, machine: Machine, show: Show, ending: Ending) -> None:
    """Times sampling by itself: the workers are gone, and one process does nothing else."""
    job = timing_job(grid, machine)
    if job is None:
        return
    with show({job.name: job.cost}) as display:
        outcome = perform([job], display, 1, machine.threads, places=machine.places)[job.name]
    if not outcome.ok:
        ending.failures.append((job.name, outcome.failure))


def _report(grid: Grid, ending: Ending) -> tuple[Checked, list[Path]]:
    """What can be shown, and the files of the report of it. Raises as `report`."""
    parts = ("", measure.TIMING, scores.ASKED, scores.PLANS)
    folders = [rows_folder(run, grid.tier) / part for run in grid.folders for part in parts]
    folders = [folder for folder in (*folders, grid.baselines) if store.has_rows(folder)]
    found = check(folders, grid.folders, {grid.compared[0].dataset: grid.baselines / scores.GRID})
    ending.failures.extend((str(folder), reason) for folder, reason in found.damaged.items())
    ending.lost.update(found.lost)
    try:
        return found, report(found, grid.report, tier=grid.tier.name, equal=True, lost=ending.lost)
    except store.Unwritable as error:  # the result of the suite can be shown all the same
        ending.failures.append(("report", str(error)))
        return found, []


def _result(grid: Grid, found: Checked, written: Sequence[Path], ending: Ending, seconds: float) -> Result:
    return Result(
        folders=found.folders,
        run_folders=found.run_folders,
        report=tuple(written),
        failures=tuple(ending.failures),
        trained=sum(name.startswith("train ") for name in ending.done),
        evaluated=sum(name.startswith("evaluate ") for name in ending.done),
        seconds=seconds,
        skipped=grid.skipped,
        tier=grid.tier.name,
        symptoms=tuple(_symptoms(grid)),
        lost=ending.lost,
    )


def _symptoms(grid: Grid) -> Iterator[tuple[str, str, str]]:
    """(title, folder, what its log says is wrong) of each run of a grid."""
    for place, run in grid.runs.items():
        folder = run.folder(grid.out)
        with suppress(BadInput):  # a run that failed before it began, or is damaged, is among the failures
            if (text := runs.read_info(folder).symptom) != "":
                yield grid.titles[place], str(folder), text


def _announcement(grid: Grid, jobs: Sequence[Job]) -> str:
    """The lines that a suite begins with: how many runs there are to train and to evaluate, and how long it may take."""
    recipes = list(dict.fromkeys(run.recipe for run in grid.compared))
    text = (
        f"{grid.compared[0].dataset}, tier {grid.tier.name}: "
        f"{len(recipes)} recipes × {len(grid.compared) // len(recipes)} seeds; "
        f"{sum(map(is_training, jobs))} runs to train, {sum(map(is_evaluation, jobs))} to evaluate"
    )
    if seconds := sum(job.cost for job in jobs if is_training(job)):
        text += f"; training takes at most {duration(seconds)}, run after run, and scoring comes on top"
    return text + "".join(f"\nleft out: {name}: {reason}" for name, reason in grid.skipped.items())
