"""The grid of a comparison: the runs that are compared, the runs they stand on, and what of these is on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from bench import measure, runs, scores, store
from bench.arithmetic import USUAL, Arithmetic
from bench.data.names import Name
from bench.inputs.recipes import ALL, FAMILY, ROWS
from bench.runs import Run
from bench.tiers import Tier
from paradigms import catalogue
from paradigms.contract import Paradigm
from paradigms.errors import BadInput
from reports.layout import REPORT

__all__ = ["Grid", "grid_of", "plan_runs", "rows_folder"]


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
    named itself. `settings` are RECIPE.key=value, of these recipes and of what they need; raises BadInput for another's.
    """
    asked = _asked(names)
    found = runs.dataset(dataset)
    space = found.space if conditional else replace(found.space, classes=0)
    reasons = {name: runs.refusal(name, space) for name, by_name in asked.items() if not by_name}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    if not asked.keys() - skipped.keys():
        raise BadInput("; ".join([f"no recipe can model '{found.name}'", *(f"{n}: {r}" for n, r in skipped.items())]))
    own = _by_recipe(settings, asked)
    return [
        runs.define(name, dataset, seed, tier, own[name], conditional=conditional, arithmetic=arithmetic)
        for name in asked
        if name not in skipped
        for seed in range(seeds or tier.seeds)
    ], skipped


def _asked(names: Sequence[str]) -> dict[str, bool]:
    """The recipes that the names mean, and whether each was named itself (and not only as a member of a set)."""
    known = catalogue.recipes()
    asked: dict[str, bool] = {}
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
    return asked


def _by_recipe(settings: Sequence[str], names: Iterable[str]) -> dict[str, list[str]]:
    """RECIPE.key=value as the settings of each recipe (see `bench.runs.define`): its own, and those of what it needs."""
    known = catalogue.recipes()
    above = {name: {needed.name for needed in runs.needed(known[name])} for name in names}
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


# ------------------------------------------------------------------------------------------------------------ grid


@dataclass(frozen=True, eq=False)
class Grid:
    """The runs of a comparison and the state of their folders. A run's place is `Run.where`.

    compared: the runs that are compared.
    runs:     these and all that they stand on, by place, parents before children.
    titles:   a short name for each run, by place.
    skipped:  the recipes that can not model the data, with the reason.
    dataset:  by what the data is loaded.
    tier:     the budget and the protocol of evaluation.
    out:      the output folder.
    trained:  the places of finished runs. scored: those of compared runs whose scores are complete.
    damaged:  the places of runs that can not be used, with the reason: a damaged folder, or one that they stand on.
    timed:    the compared runs whose sampling is timed. untimed: some of these have no times yet.
    """

    compared: tuple[Run, ...]
    runs: Mapping[str, Run]
    titles: Mapping[str, str]
    skipped: Mapping[str, str]
    dataset: Name
    tier: Tier
    out: Path
    trained: frozenset[str] = frozenset()
    scored: frozenset[str] = frozenset()
    damaged: Mapping[str, str] = field(default_factory=dict)
    timed: tuple[Run, ...] = ()
    untimed: bool = False

    @property
    def root(self) -> Path:
        """The folder of the data set's runs."""
        return self.compared[0].folder(self.out).parents[1]

    @property
    def baselines(self) -> Path:
        """The folder of what the tier measures without a run."""
        return store.baselines_of(self.root, self.tier.name)

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return Path(self.out) / REPORT / f"{self.root.name}-{self.baselines.name}"

    @property
    def seconds(self) -> float:
        """The most seconds that the tier gives to training a run with a full share of the budget."""
        return self.tier.budget(self.compared[0].space).seconds

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the compared runs."""
        return tuple(dict.fromkeys(run.folder(self.out) for run in self.compared))

    @cached_property
    def places(self) -> frozenset[str]:
        """The places of the compared runs."""
        return frozenset(run.where for run in self.compared)

    @cached_property
    def pending(self) -> Mapping[str, Mapping[str, Run]]:
        """For each compared run that is to be trained, scored or timed, by place: what it stands on, by place."""
        to_time = {run.where for run in self.timed} if self.untimed else set[str]()
        return {
            place: self.stands_on(self.runs[place])
            for place in self.places
            if place not in self.scored or place in to_time
        }

    @cached_property
    def needed(self) -> frozenset[str]:
        """The places of the compared runs and of what the pending ones stand on."""
        return self.places.union(*self.pending.values())

    @property
    def left_out(self) -> dict[str, str]:
        """The damaged runs that are needed, by place, with the reason."""
        return {place: self.damaged[place] for place in self.runs if place in self.damaged and place in self.needed}

    def stands_on(self, run: Run) -> dict[str, Run]:
        """The runs that must exist before a run can be loaded or trained, by place, parents before children."""
        if run.where in self.trained:
            direct = list(runs.wanting(run, self.out).values())
        else:
            direct = [parent for _, parent in run.parents]
        found: dict[str, Run] = {}
        for parent in direct:
            found |= {**self.stands_on(parent), parent.where: parent}
        return found

    def is_whole(self, run: Run) -> bool:
        """Whether the run and all that it stands on can be loaded, by what is on disk now."""
        try:
            return runs.is_finished(run.folder(self.out)) and all(
                self.is_whole(parent) for parent in runs.wanting(run, self.out).values()
            )
        except BadInput:
            return False

    def subject(self, run: Run) -> measure.Subject:
        """What is timed of a compared run: its headline plan, and briefly the plans of the tier's sweep."""
        paradigm = run.definition.paradigm
        assert issubclass(paradigm, Paradigm)  # plan_runs saw to it
        sweep = self.tier.sweep if self.tier.sweep_seeds else ""
        headline, *others = scores.plans(paradigm.card, self.tier.max_calls, sweep)
        return measure.Subject(run.folder(self.out), (headline,), tuple(others))

    def without_damaged(self) -> Grid:
        """The grid of the runs that can be used. Raises BadInput, with the reasons, where none can."""
        compared = tuple(run for run in self.compared if run.where not in self.damaged)
        if not compared:
            raise BadInput("; ".join(dict.fromkeys(self.left_out.values())))
        return replace(
            self,
            compared=compared,
            runs={place: run for place, run in self.runs.items() if place not in self.damaged},
            timed=tuple(run for run in self.timed if run.where not in self.damaged),
        )


def grid_of(
    compared: Sequence[Run],
    skipped: Mapping[str, str],
    dataset: Name,
    tier: Tier,
    out: Path,
    device: torch.device,
    threads: int,
    timing: bool,
) -> Grid:
    """The grid of planned runs, with what of it is finished and what is damaged. timing: whether runs are timed."""
    known = _with_parents(compared)
    grid = Grid(tuple(compared), known, _titles(known), skipped, dataset, tier, out)
    trained, damaged = _on_disk(grid)
    timed = tuple(run for run in compared if run.seed < tier.timing_seeds) if timing else ()
    grid = replace(grid, trained=trained, damaged=damaged, timed=timed)
    finished = [grid.subject(run) for run in timed if run.where in trained]
    grid = replace(
        grid,
        scored=frozenset(
            place for place in grid.places & trained if scores.is_evaluated(known[place].folder(out), tier, dataset)
        ),
        untimed=len(finished) < len(timed) or not measure.is_timed(finished, tier, str(device), threads),
    )
    return replace(grid, damaged={**damaged, **_standing_on_damaged(grid)})


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


def _titles(found: Mapping[str, Run]) -> dict[str, str]:
    """A short name for each run: its recipe and seed, with its hash where several runs have these."""
    short = {where: f"{run.recipe} seed {run.seed}" for where, run in found.items()}
    twice = {name for name in short.values() if list(short.values()).count(name) > 1}
    return {where: f"{name} {found[where].id}" if name in twice else name for where, name in short.items()}


def _on_disk(grid: Grid) -> tuple[frozenset[str], dict[str, str]]:
    """The places of finished runs, and of runs whose folder is damaged with the reason."""
    trained, damaged = set[str](), dict[str, str]()
    for place, run in grid.runs.items():
        folder = run.folder(grid.out)
        try:
            if runs.is_finished(folder):
                runs.tidy(folder)
                trained.add(place)
        except BadInput as error:
            damaged[place] = str(error)
    return frozenset(trained), damaged


def _standing_on_damaged(grid: Grid) -> dict[str, str]:
    """The compared runs that stand on a damaged one, by place, with the reason."""
    found: dict[str, str] = {}
    for place in grid.places - grid.damaged.keys():
        broken = next((where for where in grid.pending.get(place, {}) if where in grid.damaged), None)
        if broken is not None:
            found[place] = f"it needs {grid.titles[broken]}, which is damaged"
    return found


def rows_folder(folder: Path, tier: Tier) -> Path:
    """Where the rows of a run are, which may not have been trained."""
    if not os.path.exists(folder / runs.INFO):
        return folder
    return runs.measured(folder, runs.read_info(folder), tier.name)
