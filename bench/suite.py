"""A suite: the grid of runs of one `bench all`, from the plan to the report.

    plan the runs -> train (parents first) and evaluate in workers -> time alone on the machine -> report

Files are the interface: every stage finds on disk what the one before left there, so what is finished is not done again
and what was interrupted goes on.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench import measure, runs, scores, store
from bench.arithmetic import USUAL, Arithmetic, chosen
from bench.data.names import Name
from bench.inputs.recipes import ALL, FAMILY, ROWS
from bench.loop import LOG
from bench.progress import Display, Progress, duration
from bench.runs import Run
from bench.schedule import SCORE, TRAIN, Job, Outcome, Place, cores, gpu_places, perform
from bench.tiers import Budget, Tier
from paradigms import catalogue
from paradigms.contract import Paradigm
from paradigms.errors import BadInput
from reports.files import sweep
from reports.words import visible

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Result", "RunFailed", "damaged", "everything", "plan_runs", "records", "report"]

_log = logging.getLogger(__name__)

Show = Callable[[Mapping[str, float]], Display]

# Seconds of evaluation in proportion to those of training: only for the order and the time to go.
EVALUATE, SWEEP, TIME = 0.25, 1.0, 0.3


class RunFailed(Exception):
    """A run ended without a model; the reason is in its run.json and its row."""


@dataclass(frozen=True)
class Result:
    """What a suite came to.

    folders:  of the runs of the comparison, its timings and baselines. failures: (job, reason).
    symptoms: (job, folder, what its log says is wrong) of runs that finished or diverged.
    lost:     the rows that stand for folders that can not be trusted.
    trained, evaluated: how many jobs were done now; the others were found finished.
    """

    folders: tuple[Path, ...]
    run_folders: tuple[Path, ...]
    report: tuple[Path, ...]
    failures: tuple[tuple[str, str], ...]
    trained: int
    evaluated: int
    seconds: float
    skipped: Mapping[str, str] = field(default_factory=dict)
    tier: str = ""
    symptoms: tuple[tuple[str, str, str], ...] = ()
    lost: Mapping[Path, list[store.Row]] = field(default_factory=dict)

    def frame(self) -> DataFrame:
        return frame(self.folders, self.lost)

    def comparison(self) -> DataFrame:
        """The headline table of the report."""
        import reports

        return reports.comparison(self.frame(), records(self.run_folders, self.tier, equal=True), families())

    def as_json(self) -> dict[str, Any]:
        table = self.comparison()
        return {
            "table": [
                {k: v for k, v in row.items() if not (isinstance(v, float) and math.isnan(v))}
                for row in table.to_dict("records")
            ],
            "runs": [str(folder) for folder in self.run_folders],
            "report": [str(path) for path in self.report],
            "failures": [{"job": job, "reason": reason} for job, reason in self.failures],
            "symptoms": [{"job": job, "run": run, "symptom": text} for job, run, text in self.symptoms],
            "skipped": dict(self.skipped),
            "trained": self.trained,
            "evaluated": self.evaluated,
            "seconds": round(self.seconds, 2),
        }


# ------------------------------------------------------------------------------------------------------------ plan


def plan_runs(
    dataset: Name,
    names: Sequence[str],
    tier: Tier,
    seeds: int | None,
    conditional: bool,
    settings: Sequence[str] = (),
    arithmetic: Arithmetic = USUAL,
) -> tuple[list[Run], dict[str, str]]:
    """The runs of the grid, and the recipes that can not model this data with the reason.

    names: recipes or their aliases, and words for sets of them: "rows" (one per paradigm), "all", and "NAME+" (that
    paradigm with its variants). A member of a set that can not be run here is left out; raises BadInput for one that was
    asked for by its own name. `settings` are RECIPE.key=value, of these recipes and of what they need; raises BadInput for
    another's.
    """
    known = catalogue.recipes()
    asked: dict[str, bool] = {}  # by its own name
    for name in names:
        if name in (ROWS, ALL) or name.endswith(FAMILY):
            some = catalogue.rows() if name == ROWS else known if name == ALL else catalogue.family(name[:-1])
            members = [member for member in some if issubclass(known[member].paradigm, Paradigm)]
            asked |= {member: asked.get(member, False) for member in members}
            continue
        recipe = catalogue.get(name)
        if not issubclass(recipe.paradigm, Paradigm):
            raise BadInput(f"recipe '{name}' is a first stage for others and does not sample; it can not be compared")
        asked[recipe.name] = True
    found = runs.dataset(dataset)
    space = found.space if conditional else replace(found.space, classes=0)
    reasons = {name: runs.refusal(name, space) for name, own in asked.items() if not own}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    if not asked.keys() - skipped.keys():
        raise BadInput("; ".join([f"no recipe can model '{found.name}'", *(f"{n}: {r}" for n, r in skipped.items())]))
    own = _by_recipe(settings, asked)
    return [
        runs.plan(name, dataset, seed, tier, own[name], conditional=conditional, arithmetic=arithmetic)
        for name in asked
        if name not in skipped
        for seed in range(seeds or tier.seeds)
    ], skipped


def _by_recipe(settings: Sequence[str], names: Iterable[str]) -> dict[str, list[str]]:
    """RECIPE.key=value as the settings of each recipe (see `bench.runs.plan`): its own, and those of what it needs."""
    above = {name: {known.name for known in runs.needed(catalogue.get(name))} for name in names}
    found: dict[str, list[str]] = {name: [] for name in above}
    for setting in settings:
        name, dot, change = setting.partition(".")
        if not dot or "=" in name:
            raise BadInput(f"--set {setting}: write it as RECIPE.key=value, as in --set ddpm.batch=128")
        recipe = catalogue.get(name).name
        if recipe not in set(found).union(*above.values()):
            raise BadInput(
                f"--set {setting}: {name} is not among the recipes that are run, nor needed by one; add it to --recipes"
            )
        for own, settings_of in found.items():
            if recipe == own:
                settings_of.append(change)
            elif recipe in above[own]:
                settings_of.append(f"{recipe}.{change}")
    return found


def _with_parents(planned: Sequence[Run]) -> dict[str, Run]:
    """Every run that must be trained, by its place, parents before children."""
    found: dict[str, Run] = {}

    def visit(run: Run) -> None:
        for _, parent in run.parents:
            visit(parent)
        found.setdefault(run.where, run)

    for run in planned:
        visit(run)
    return found


def _job_names(found: Mapping[str, Run]) -> dict[str, str]:
    """A short name for each run: its recipe and seed, with its hash where that is not enough."""
    short = {where: f"{run.recipe} seed {run.seed}" for where, run in found.items()}
    twice = {name for name in short.values() if list(short.values()).count(name) > 1}
    return {where: f"{name} {found[where].id}" if name in twice else name for where, name in short.items()}


# --------------------------------------------------------------------------------------------------- work of jobs


@contextmanager
def _returned(device: str) -> Iterator[None]:
    """Gives the memory of a GPU back after a job: the worker stays, and others share it.

    Raises RuntimeError, with what the job itself failed of, where the GPU no longer answers this process.
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
                said = [text.partition("\n")[0] for text in (failure, str(error)) if text]
                raise RuntimeError("; ".join(dict.fromkeys(said))) from error


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


# ------------------------------------------------------------------------------------------------------ everything

LAUNCH_BOUND = 5_000_000  # parameters: a network below leaves most of a large GPU idle
TOGETHER = 4  # such trainings on one GPU
SCORERS = 3  # workers that score on one GPU, at most: each holds half a gigabyte of it and its samples


def _places(device: torch.device, budget: Budget, workers: int | None) -> list[Place] | None:
    """The workers of a suite on GPUs, `workers` of which train; None on a CPU, where all are alike."""
    if device.type != "cuda":
        return None
    gpus = runs.gpus_of(device)
    trainers = workers or len(gpus) * (TOGETHER if budget.params < LAUNCH_BOUND else 1)
    return gpu_places(gpus, trainers, max(len(gpus), min(cores() - trainers, SCORERS * len(gpus))))


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

    Raises BadInput before any work for what the user can mend; a run that fails is in `Result.failures` and in the
    report; one whose folder is damaged is named in a warning and in `Result.failures`, and the others go on. Results
    do not depend on `workers`.
    """
    began = time.monotonic()
    budget = tier.budget(runs.dataset(dataset).space)
    where, why = runs.device_for(device, budget)
    if why:
        _log.warning(why)
    # A run is computed on one thread, so that its bits do not depend on how many run beside it.
    threads = 1
    places = _places(where, budget, workers)
    computed = chosen(where, precision, compiled)
    planned, skipped = plan_runs(dataset, names, tier, seeds, conditional, settings, computed)
    everyone = _with_parents(planned)
    titles = _job_names(everyone)
    root = planned[0].folder(out).parents[1]
    baseline_folder = store.baselines_of(root, tier.name)
    seconds = tier.budget(planned[0].space).seconds

    if (line := runs.other_code(planned, out)) is not None:
        _log.warning(line)
    trained: set[str] = set()
    lost: dict[str, str] = {}  # what a damaged folder takes out of the suite, with the reason
    for place, run in everyone.items():
        try:
            if runs.is_finished(run.folder(out)):
                runs.tidy(run.folder(out))
                trained.add(place)
        except BadInput as error:
            lost[place] = str(error)
    wanted = {run.where for run in planned}
    ready = {place for place in wanted & trained if scores.is_evaluated(everyone[place].folder(out), tier, dataset)}
    timed = [run for run in planned if run.seed < tier.timing_seeds] if timing else []
    known = [_subject(run, out, tier) for run in timed if run.where in trained]
    to_time = len(known) < len(timed) or not measure.is_timed(known, tier, str(where), threads)

    def standing_on(run: Run) -> dict[str, Run]:
        """What must be there, or be made, before a run can be loaded or trained, by its place."""
        direct = runs.wanting(run, out).values() if run.where in trained else (parent for _, parent in run.parents)
        return {place: r for parent in direct for place, r in (*standing_on(parent).items(), (parent.where, parent))}

    asked = {run.where for run in timed} if to_time else set[str]()
    needs = {place: standing_on(everyone[place]) for place in wanted if place not in ready or place in asked}
    needed = wanted.union(*needs.values())
    for place in wanted - lost.keys():
        broken = next((titles[where] for where in needs.get(place, {}) if where in lost), None)
        if broken is not None:
            lost[place] = f"it needs {broken}, which is damaged"
    failures = [(titles[place], lost[place]) for place in everyone if place in lost and place in needed]
    gone = {run.folder(out): [_failure_row(run, lost[run.where])] for run in planned if run.where in lost}
    for name, reason in failures:
        _log.warning("warning: left out: %s: %s", name, reason)
    planned = [run for run in planned if run.where not in lost]
    everyone = {place: run for place, run in everyone.items() if place not in lost}
    if not planned:
        raise BadInput("; ".join(dict.fromkeys(reason for _, reason in failures)))
    wanted = {run.where for run in planned}
    needed = wanted.union(*(needs.get(place, {}) for place in wanted))
    jobs: list[Job] = []
    for place, run in everyone.items():
        if place not in needed:
            continue
        name, folder = titles[place], run.folder(out)
        before = tuple(f"train {titles[p]}" for p in standing_on(run) if p not in trained)
        if place not in trained:
            arguments = (run, out, where.type, threads)
            jobs.append(Job(f"train {name}", _train, arguments, before, seconds * run.share, TRAIN))
            before = (f"train {name}",)
        elif place in needs:
            for parent in runs.wanting(run, out).values():
                if parent.where not in trained:
                    _log.warning(runs.made_anew(run, parent, out))
        if place in wanted and place not in ready:
            share = SWEEP if run.seed < tier.sweep_seeds else EVALUATE
            jobs.append(
                Job(f"evaluate {name}", _evaluate, (folder, tier, where.type, dataset), before, seconds * share, SCORE)
            )
    if not scores.has_baselines(dataset, tier, baseline_folder):
        jobs.append(Job("baselines", _baselines, (dataset, tier, baseline_folder), (), seconds * EVALUATE, SCORE))

    by_job = {f"{verb} {titles[place]}": run for place, run in everyone.items() for verb in ("train", "evaluate")}

    def done(job: Job, outcome: Outcome) -> None:
        parts = outcome.value if isinstance(outcome.value, list) else []
        reasons = [outcome.failure] if outcome.failure else [f"in part: {text}" for text in parts if text]
        failures.extend((job.name, reason) for reason in reasons)
        if outcome.failure and job.name in by_job:
            with suppress(BadInput):  # where its folder should be is something else; the failure is told all the same
                _record_failure(by_job[job.name], out, outcome)

    if jobs or to_time:
        store.writable(out)
    run_folders = tuple(dict.fromkeys(run.folder(out) for run in planned))

    def shown() -> tuple[Checked, list[Path]]:
        """What there is, and the files of the report of it. Raises as `report`."""
        parts = ("", measure.TIMING, scores.ASKED, scores.PLANS)
        folders = [_measured(run, tier) / part for run in run_folders for part in parts]
        folders = [folder for folder in (*folders, baseline_folder) if store.has_rows(folder)]
        found = check(folders, run_folders, {planned[0].dataset: baseline_folder / scores.GRID})
        failures.extend((str(folder), reason) for folder, reason in found.damaged.items())
        gone.update({folder: _lost_rows(folder, reason) for folder, reason in found.damaged.items()})
        to = Path(out) / "report" / f"{root.name}-{baseline_folder.name}"
        try:
            return found, report(found, to, tier=tier.name, equal=True, lost=gone)
        except store.Unwritable as error:  # what the suite came to can be told all the same
            failures.append(("report", str(error)))
            return found, []

    costs = {job.name: job.cost for job in jobs}
    outcomes: dict[str, Outcome] = {}
    try:
        if jobs:
            with show(costs) as display:
                display.say(_announcement(planned, jobs, tier, skipped))
                outcomes = perform(jobs, display, workers, threads, done, places)
        subjects = [_subject(run, out, tier) for run in timed if run in planned and _is_whole(run, out)]
        if subjects and not measure.is_timed(subjects, tier, str(where), threads):
            # By itself: the workers are gone, and one process does nothing else.
            job = Job("time sampling", _time, (subjects, tier, where.type, threads), (), seconds * TIME, TRAIN)
            with show({job.name: job.cost}) as display:
                outcome = perform([job], display, 1, threads, places=places)[job.name]
            if not outcome.ok:
                failures.append((job.name, outcome.failure))
    except KeyboardInterrupt:  # what is there may be all that there will be
        with suppress(BadInput):  # nothing is
            if (files := shown()[1]) != []:
                _log.warning("stopped; %s shows what had ended", files[0])
        raise
    found, written = shown()
    ended = [name for name, outcome in outcomes.items() if outcome.ok]
    return Result(
        folders=found.folders,
        run_folders=found.run_folders,
        report=tuple(written),
        failures=tuple(failures),
        trained=sum(name.startswith("train ") for name in ended),
        evaluated=sum(name.startswith("evaluate ") for name in ended),
        seconds=time.monotonic() - began,
        skipped=skipped,
        tier=tier.name,
        symptoms=tuple(_symptoms(everyone, titles, out)),
        lost=gone,
    )


def _symptoms(everyone: Mapping[str, Run], titles: Mapping[str, str], out: Path) -> Iterator[tuple[str, str, str]]:
    for place, run in everyone.items():
        with suppress(BadInput):  # what failed before it began, or is damaged, is named as such
            if (text := runs.read_info(run.folder(out)).symptom) != "":
                yield titles[place], str(run.folder(out)), text


def _announcement(planned: Sequence[Run], jobs: Sequence[Job], tier: Tier, skipped: Mapping[str, str]) -> str:
    recipes = list(dict.fromkeys(run.recipe for run in planned))
    to_train = sum(job.work is _train for job in jobs)
    text = (
        f"{planned[0].dataset}, tier {tier.name}: {len(recipes)} recipes × {len(planned) // len(recipes)} seeds; "
        f"{to_train} runs to train, {sum(job.work is _evaluate for job in jobs)} to evaluate"
    )
    if seconds := sum(job.cost for job in jobs if job.work is _train):
        text += f"; training takes at most {duration(seconds)}, run after run, and scoring comes on top"
    return text + "".join(f"\nleft out: {name}: {reason}" for name, reason in skipped.items())


def _is_whole(run: Run, out: Path) -> bool:
    """Whether the run and all that it stands on can be loaded."""
    try:
        return runs.is_finished(run.folder(out)) and all(
            _is_whole(parent, out) for parent in runs.wanting(run, out).values()
        )
    except BadInput:
        return False


def _subject(run: Run, out: Path, tier: Tier) -> measure.Subject:
    paradigm = catalogue.get(run.recipe).paradigm
    assert issubclass(paradigm, Paradigm)  # plan_runs saw to it
    headline, *others = scores.plans(paradigm.card, tier.max_calls, tier.sweep if tier.sweep_seeds else "")
    return measure.Subject(run.folder(out), (headline,), tuple(others))


def _measured(folder: Path, tier: Tier) -> Path:
    """Where the rows of a run that may not have been trained are."""
    return runs.measured(folder, tier.name) if os.path.exists(folder / runs.INFO) else folder


def _failure_row(run: Run, reason: str, metric: str = "") -> store.Row:
    """Says of a planned run why it, or the metric, is not there."""
    recipe = catalogue.get(run.recipe)
    return store.Row(
        run=run.id,
        status="failed",
        reason=reason,
        recipe=run.recipe,
        paradigm=recipe.heading,
        tier=run.tier.name,
        dataset=run.dataset,
        seed=run.seed,
        conditional=run.conditional,
        metric=metric,
    )


def _record_failure(run: Run, out: Path, outcome: Outcome) -> None:
    """A failure that left no row of its own (its process died, or what it needs failed) gets one, beside those of before.

    None where another process writes there: it is then about to say more.
    """
    with suppress(_Busy), store.locked(run.folder(out), _busy):
        folder, before = _measured(run.folder(out), run.tier), list[store.Row]()
        with suppress(BadInput):
            before = store.load_rows(folder)
        if any(row.status in ("failed", "diverged") for row in before):
            return
        row = _failure_row(run, outcome.failure, "evaluation" if before else "")
        store.save_rows(folder, [*before, row], key="failed")
        if outcome.trace:
            store.write_atomic(run.folder(out) / runs.ERROR, visible(outcome.trace, lines=True).encode())


class _Busy(Exception):
    pass


def _busy() -> None:
    raise _Busy


# ---------------------------------------------------------------------------------------------------------- report


def families() -> dict[str, str]:
    """For each recipe the one that it varies, or itself: the report sets them together."""
    return {name: recipe.variant_of or name for name, recipe in catalogue.recipes().items()}


def records(folders: Sequence[Path], tier: str = "", equal: bool = False) -> list[dict[str, Any]]:
    """What each run.json holds, with the folder; folders without one are left out. Raises BadInput for a damaged one.

    tier: whose rows are shown. A run of another tier that this one has measured is told as one of its own, and by
          "trained" what tier's budget it had, unless the budgets are known to be `equal`.
    """
    found = []
    for folder in map(Path, folders):
        if os.path.exists(folder / runs.INFO):
            ended = runs.read_info(folder).status == "ok"  # then a manifest tells of both
            store.verify(folder, [name for name in (runs.INFO, LOG) if ended or name in store.manifest(folder)])
            record = {**store.read_sealed(folder / runs.INFO), "folder": str(folder)}
            if tier and record["tier"] != tier and runs.measured(folder, tier).exists():
                record |= {"tier": tier, "trained": "" if equal else record["tier"]}
            found.append(record)
    return found


@dataclass(frozen=True)
class Checked:
    """Folders of rows and of runs as they can be shown, for whatever shows them (see `check`).

    folders, run_folders: those that are whole.
    damaged:    why others are left out.
    incomplete: which files they lack that their manifests list, and which rows another copy of their run contradicts.
    grids:      the picture of samples of each folder that has one; real: of each data set that of its images.
    unseen:     why other pictures are not shown.
    """

    folders: tuple[Path, ...]
    run_folders: tuple[Path, ...]
    damaged: Mapping[Path, str]
    incomplete: tuple[str, ...]
    grids: Mapping[Path, bytes] = field(default_factory=dict)
    real: Mapping[str, bytes] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """A line for all that is wrong with the folders."""
        left_out = [f"left out: {reason}" for reason in self.damaged.values()]
        return [*left_out, *self.incomplete, *(f"picture left out: {reason}" for reason in self.unseen)]


def check(folders: Iterable[Path], run_folders: Iterable[Path], real: Mapping[str, Path] | None = None) -> Checked:
    """Looks at everything that a manifest vouches for, once.

    real: for each data set the picture of its images, beside the manifest that lists it; None where no pictures are shown.
    """
    kinds = [tuple(dict.fromkeys(map(Path, some))) for some in (folders, run_folders)]
    kinds.append((*kinds[1], *(path.parent for path in real.values())) if real is not None else ())
    bad = damaged(itertools.chain(*kinds))
    rows, records, pictured = (tuple(folder for folder in kind if folder not in bad) for kind in kinds)
    other = dict(_contradicting(rows))
    rows = tuple(folder for folder in rows if folder not in other)
    grids, unseen = dict[Path, bytes](), list[str]()
    for folder in dict.fromkeys(pictured):
        try:
            if os.path.exists(folder / scores.GRID):  # of one that is gone `incomplete` tells
                grids[folder] = store.read_verified(folder, scores.GRID)
        except BadInput as error:
            unseen.append(str(error))
    return Checked(
        rows,
        records,
        bad,
        (*other.values(), *_incomplete(dict.fromkeys((*rows, *records, *pictured)))),
        grids,
        {name: grids[path.parent] for name, path in (real or {}).items() if path.parent in grids},
        tuple(unseen),
    )


def damaged(folders: Iterable[Path]) -> dict[Path, str]:
    """Those of the folders whose records or rows can not be trusted, with the reason."""
    found: dict[Path, str] = {}
    for folder in dict.fromkeys(map(Path, folders)):
        try:
            records([folder])
            if store.has_rows(folder):
                store.load_rows(folder)
        except BadInput as error:
            found[folder] = str(error)
    return found


def _contradicting(folders: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Those of whole folders of rows that hold others of a run than a copy of it does, with the reason.

    Told as one, they would be averaged. What stands is the copy where the run was made, else the first.
    """
    copies: dict[tuple[str, str], dict[Path, bool]] = {}
    for folder in folders:
        home = store.owner(folder)
        with suppress(BadInput):  # of a run that is damaged, which is said
            if home is not None:
                info, part = runs.read_info(home), os.path.relpath(os.path.realpath(folder), os.path.realpath(home))
                at_home = home.absolute().as_posix().endswith(f"/{info.where}")
                copies.setdefault((info.id, part), {})[folder] = at_home
    for (run, _), some in copies.items():
        first = max(some, key=lambda folder: some[folder])  # of equals the first
        held = {folder: store.manifest(folder).get(store.RESULTS, {}).get("sha256") for folder in some}
        for folder in some:
            if held[folder] != held[first]:
                yield (
                    folder,
                    f"left out: {folder} holds other rows of the run {run} than {first}; delete one of the two",
                )


def _incomplete(folders: Iterable[Path]) -> Iterator[str]:
    """Which files that its manifest lists each of the folders lacks; of those that lack none, nothing."""
    for folder in folders:
        if names := store.missing(folder):
            made = not set(names) - {scores.GRID, scores.SAMPLES}
            how = "`bench all` or `bench evaluate` makes it anew" if made else "it stands by its rows alone"
            yield f"{folder} lacks {', '.join(names)}, which {store.MANIFEST} lists; {how}"


def frame(folders: Sequence[Path], lost: Mapping[Path, list[store.Row]]) -> DataFrame:
    """The rows that are shown of the folders, and those that stand for `lost` ones (see `_lost_rows`)."""

    def rows(folder: Path) -> list[store.Row]:
        return lost[folder] if folder in lost else scores.shown(folder)

    return store.frame(list(dict.fromkeys((*folders, *lost))), rows)


def _lost_rows(folder: Path, reason: str) -> list[store.Row]:
    """What stands in a table for a run, or a part of its rows, that can not be trusted: a failure that says so.

    None where not even its name is known.
    """
    folder = Path(folder)
    home = store.owner(folder)
    if home is None:
        return []
    whole = folder.resolve() == home.resolve()
    protocol = next((up.name for up in (folder, folder.parent) if up.parent.name == runs.PROTOCOLS), "")
    try:
        row = runs.base_row(runs.read_info(home))
    except BadInput:
        told: dict[str, Any] = {}
        with suppress(BadInput):
            told = store.read_json(home / runs.INFO)
        known = {name: told.get(name) for name in ("recipe", "paradigm", "tier", "dataset", "seed", "conditional")}
        known["run"] = told.get("id")
        if store.misplaced(home, told.get("id")):
            known["run"] = name = Path(os.path.abspath(home)).name
            known["seed"] = int(name.partition("-")[0])
        try:
            row = store.Row(**store.fitting(store.Row, known))
        except ValueError:
            return []
    part = "" if whole or folder.name == protocol else folder.name
    return [replace(row, status="failed", reason=reason, metric=part, tier=protocol or row.tier)]


def report(
    found: Checked,
    to: Path,
    formats: Sequence[str] | None = None,
    tier: str = "",
    equal: bool = False,
    lost: Mapping[Path, list[store.Row]] | None = None,
) -> list[Path]:
    """Writes the report of the rows in folders that were checked; returns its files, the page first. Raises BadInput.

    tier: shows what this one measured alone, of runs that were trained under others too (see `records`).
    lost: rows that stand for further runs, which are not there. A failure stands for each damaged folder.
    """
    import reports

    for line in found.warnings:
        _log.warning("warning: %s", line)
    lost = {**(lost or {}), **{folder: _lost_rows(folder, reason) for folder, reason in found.damaged.items()}}
    if not found.folders:
        raise BadInput(f"no results that are whole; {next(iter(found.damaged.values()), 'run `bench all` first')}")
    wanted = tuple(reports.FORMATS if formats is None else formats)
    key = _report_key(found, to, wanted, tier, lost)
    if (kept := _kept_report(to, key)) is not None:
        return kept
    try:
        rows = frame(found.folders, lost)
        told = [
            {**record, "grid": found.grids.get(Path(record["folder"]))}
            for record in records(found.run_folders, tier, equal)
        ]
        if tier:
            rows = rows[rows["tier"].isin(("", tier))]
            told = [record for record in told if record["tier"] == tier]
            if not len(rows):
                raise BadInput(f"no results of tier {tier}; make them: `bench evaluate RUN --tier {tier}`")
        with store.locked(to):
            _only_a_report(to, [name for one in wanted for name in reports.FILES.get(one, ())])
            # What an earlier report had is no part of this one; and what is written from here on is a report's.
            store.write_json(to / store.MANIFEST, {"schema": store.SCHEMA, "files": {}})
            sweep(to / "figures")
            written = reports.render(rows, told, found.real or None, to, wanted, families())
            store.write_manifest(to, {str(path.relative_to(to)): said for path, said in written.items()}, report=key)
    except OSError as error:
        raise store.Unwritable(
            f"can not write the report to {to}: {error.strerror or error}; choose another --to"
        ) from None
    except ValueError as error:
        raise BadInput(str(error)) from None
    return list(written)


def _only_a_report(folder: Path, names: Sequence[str]) -> None:
    """Raises Unwritable where a folder holds what no report wrote and one would replace: results, or a file of those names.

    A link may lead to somebody's files of the same names: behind one there must be nothing yet, or a report.
    """
    known, listed = False, dict[str, dict[str, Any]]()
    with suppress(BadInput):
        listed, known = store.manifest(folder), os.path.exists(folder / store.MANIFEST)
    if os.path.exists(folder / runs.INFO) or any("report" not in said for said in listed.values()):
        raise store.Unwritable(f"{folder} holds results, and no report; choose another --to")
    for path in (folder, folder / "figures"):
        if path.is_symlink() and not known and any(name != store.LOCK for name in os.listdir(path)):
            raise store.Unwritable(
                f"{path} is a link to {os.path.realpath(path)}, which holds other files and no report; choose another --to"
            )
    theirs = next((name for name in (store.MANIFEST, *names) if os.path.lexists(folder / name)), None)
    if not known and theirs is not None:
        raise store.Unwritable(
            f"{folder / theirs} is no part of a report that is known here; move or delete it, or choose another --to"
        )


def _report_key(
    found: Checked, to: Path, formats: Sequence[str], tier: str, lost: Mapping[Path, list[store.Row]]
) -> str:
    """All that a report depends on: what the folders hold and how they lie to it, and the sources that draw it."""
    import reports

    gone = [row for rows in lost.values() for row in rows]
    parts = (formats, tier, sorted(families().items()), gone, sorted(found.warnings))
    digest = hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape"))
    for folder in (*found.folders, *found.run_folders):
        held = sorted((n, f["sha256"]) for n, f in store.manifest(folder).items())
        place = os.path.relpath(folder, to)
        digest.update(f"{place}\0{held}\0{store.results_key(folder)}\0".encode("utf-8", "surrogateescape"))
    for path in reports.sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _kept_report(to: Path, key: str) -> list[Path] | None:
    """The files of the report, the page first, when it was made from the same things and is whole."""
    try:
        files = store.manifest(to)
        if not files or any(entry.get("report") != key for entry in files.values()):
            return None
        store.verify(to)
    except BadInput:
        return None
    return [to / name for name in sorted(files, key=lambda name: (name != "report.html", name))]
