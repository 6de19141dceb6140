"""`bench report` and `bench compare`: what the rows of many runs say together."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import reports
from bench import tiers
from bench.cli import shown
from bench.cli.options import JsonOption, RunsArgument, complete_dataset, complete_run
from bench.inputs.data import name_in_rows
from bench.inputs.recipes import is_recipe
from bench.inputs.runs import Runs, is_run
from bench.inputs.targets import check_folder
from paradigms.errors import BadInput, unknown
from reports.layout import BASELINES, GRID, REPORT

if TYPE_CHECKING:
    from reports.compare import Selector, UnknownName

COMPARED = "A recipe, RECIPE:SAMPLER-STEPS, RECIPE:raw (not averaged weights), or a run's folder."


def report(
    runs: RunsArgument = Path("runs"),
    to: Annotated[Path | None, typer.Option("--to", help="Where; RUNS/report by default.")] = None,
    formats: Annotated[str, typer.Option("--formats", help="Any of html, md, tex, csv.")] = ",".join(reports.FORMATS),
    tier: Annotated[
        str,
        typer.Option(
            "--tier", "-t", help="Only what this tier measured, of runs of other tiers too; else each by its own."
        ),
    ] = "",
) -> None:
    """Write the comparison of all finished runs in a folder: an offline page, Markdown, LaTeX and CSV tables.

    [bold]Examples[/bold]
    \b
        bench report
        bench report runs/digits --to digits-report --formats md,csv
        bench report --tier standard
    """
    wanted = _formats_of(formats)
    if not runs.is_dir():
        raise BadInput(f"there is no folder {runs}; run `bench all` first, or name the folder that holds the runs")
    found, tier = Runs(runs), tiers.name_of(tier)
    shown.warn_of_lost(found)
    folders = found.results(tier)
    from bench.runs import slug

    target = to or runs / (f"report-{slug(tier)}" if tier else REPORT)
    check_folder(target)

    from bench import suite

    checked = suite.check(folders, found.folders, _real_grids(folders))
    for path in suite.report(checked, target, wanted, tier):
        print(path)
    if found.lost or checked.warnings:
        raise typer.Exit(1)  # each was named in a warning


def _formats_of(text: str) -> list[str]:
    """The formats in a list html,md. Raises BadInput."""
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    for name in wanted:
        if name not in reports.FORMATS:
            raise unknown("format", name, reports.FORMATS)
    if not wanted:
        raise BadInput(f"--formats is empty; give any of {', '.join(reports.FORMATS)}")
    return wanted


def _real_grids(folders: Iterable[Path]) -> dict[str, Path]:
    """A picture of real images for each data set whose baselines are among these folders of rows."""
    from bench import store

    grids: dict[str, Path] = {}
    for folder in folders:
        if folder.parent.name == BASELINES:
            with contextlib.suppress(BadInput):  # the report names a damaged folder
                rows = store.load_rows(folder)
                grids.update({rows[0].dataset: folder / GRID} if rows else {})
    return grids


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=COMPARED, autocompletion=complete_run)],
    b: Annotated[str, typer.Argument(metavar="B", help="The same.", autocompletion=complete_run)],
    runs: RunsArgument = Path("runs"),
    metric: Annotated[
        str, typer.Option("--metric", help="What is asked, as in fd; by default what leads the report.")
    ] = "",
    dataset: Annotated[
        str,
        typer.Option("--dataset", "-d", help="Where both were run, if on several.", autocompletion=complete_dataset),
    ] = "",
    tier: Annotated[
        str, typer.Option("--tier", "-t", help="As this tier measured both; by default each as its own did.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Say in words whether A is better than B: the difference, its interval, the test, and what would be needed.

    Training seeds are the unit. Plans and averagings of the same trained models are compared in pairs.

    [bold]Examples[/bold]
    \b
        bench compare flow-matching vae
        bench compare ddpm:ddim-20 ddpm:ancestral-100 --metric fd
        bench compare gan gan-hinge results/ --dataset digits --json
        bench compare runs/digits/vae/0-3f2a91c04d runs/digits/vae/1-3f2a91c04d
    """
    from bench import suite
    from reports import compare as comparing

    under, tier = Runs(runs), tiers.name_of(tier)
    shown.warn_of_lost(under)
    dataset = name_in_rows(dataset, under)
    sides = [Side.of(text) for text in (a, b)]
    folders, run_folders = _compared(under, sides, tier)
    checked = suite.check(folders, run_folders)
    for line in checked.warnings:
        print(f"warning: {line}", file=sys.stderr)
    one, other = (side.selector() for side in sides)
    try:
        rows, records = suite.frame(checked.folders, {}), suite.records(checked.run_folders, tier)
        found = comparing.compare(rows, records, one, other, metric, dataset, tier)
    except comparing.UnknownName as error:
        raise _unknown_side(error, under, dataset, tier) from None
    except comparing.NotComparable as error:
        raise BadInput(str(error)) from None
    if as_json:
        shown.print_json(found.as_json())
        return
    print(found.verdict())
    heads, lines = found.table()
    shown.table(heads, lines, numeric=heads[1:6])
    for note in found.notes:
        print(note)


@dataclass(frozen=True)
class Side:
    """One side of a comparison as typed. base: a recipe or a run's folder. details: a plan, and "raw" or "ema"."""

    base: str
    details: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Side:
        """The side in BASE[:DETAIL...]."""
        base, *details = text.split(":")
        return cls(base, tuple(details))

    @property
    def is_run(self) -> bool:
        return is_run(Path(self.base))

    def selector(self) -> Selector:
        """What selects this side's rows. Raises BadInput."""
        from reports.compare import Selector

        weights = [detail for detail in self.details if detail in ("raw", "ema")]
        plans = [detail for detail in self.details if detail not in weights]
        if len(weights) > 1 or len(plans) > 1 or not all(self.details):
            typed = ":".join((self.base, *self.details))
            raise BadInput(f"{typed}: write RECIPE, RECIPE:SAMPLER-STEPS or RECIPE:raw, as in ddpm:ddim-20")
        run, name = "", self.base
        if self.is_run:
            from bench.runs import read_info

            info = read_info(Path(self.base))
            run, name = info.id, info.recipe
        elif os.sep in self.base:
            raise BadInput(f"there is no run {self.base}; see `bench list runs`")
        else:
            from paradigms.catalogue import names

            name = names().get(name, name)
        return Selector(name, run, plans[0] if plans else "", weights[0] if weights else "")


def _compared(under: Runs, sides: Iterable[Side], tier: str) -> tuple[list[Path], list[Path]]:
    """The folders of rows and the run folders that a comparison is made from: those under a folder, and sides elsewhere."""
    more, run_folders = list[Path](), under.folders
    known = {folder.resolve() for folder in under.with_rows}
    for side in sides:
        if side.is_run:
            folder = Path(side.base)
            some = [path for path in Runs(folder).with_rows if path.resolve() not in known]
            known |= {path.resolve() for path in some}
            more += some
            if folder.resolve() not in {path.resolve() for path in run_folders}:
                run_folders = [*run_folders, folder]
    return under.results(tier, more), run_folders


def _unknown_side(error: UnknownName, under: Runs, dataset: str, tier: str) -> BadInput:
    """The line on a name without results: for a recipe the command that makes them, else the nearest known name."""
    if error.what != "recipe" or not is_recipe(error.name):
        return unknown(error.what, error.name, error.known)
    trained = [info for info in under.infos() if info.get("recipe") == error.name]
    data = dataset or next((str(info.get("dataset", "")) for info in trained), "")
    again = f"bench evaluate {error.name}" if trained else f"bench all --recipes {error.name}"
    again += f" --dataset {shlex.quote(data)}" if data else ""
    again += f" --tier {shlex.quote(tier)}" if tier else ""
    again += f" --out {shlex.quote(str(under.root))}" if under.root != Path("runs") else ""
    where = (f" on {dataset}" if dataset else "") + (f" by tier {tier}" if tier else "")
    return BadInput(f"no results of {error.name}{where} in {under.root}; make them: {again}")
