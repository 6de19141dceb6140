"""`bench all` and `bench train`: many recipes under one budget with their comparison, or one recipe."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench import tiers
from bench.cli import shown
from bench.cli.options import (
    LARGEST_INT,
    MOST_THREADS,
    CompileOption,
    ConditionalOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    MatchOption,
    NameOption,
    OutOption,
    PrecisionOption,
    Recipe,
    TestOption,
    TierOption,
    complete_recipes,
    workers_of,
)
from bench.cli.program import fail
from bench.inputs.data import announced, place_of
from bench.inputs.recipes import check_recipe, listed_recipes
from bench.inputs.runs import Runs
from bench.inputs.targets import check_folder

if TYPE_CHECKING:
    from bench.runs import Info


def all_(
    dataset: DatasetOption = "digits",
    test: TestOption = None,
    called: NameOption = None,
    tier: TierOption = "quick",
    recipes: Annotated[
        str,
        typer.Option(
            "--recipes",
            "-r",
            help="Recipes separated by commas; NAME+: with its variants; rows: one per paradigm; all: every variant.",
            autocompletion=complete_recipes,
        ),
    ] = "rows",
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, max=tiers.MOST_SEEDS, help="Training seeds; the tier's own by default."),
    ] = None,
    match: MatchOption = None,
    conditional: ConditionalOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    compiled: CompileOption = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change the config of a recipe, or of one that is needed: RECIPE.key=value. Repeatable."
        ),
    ] = None,
    jobs: Annotated[
        str,
        typer.Option(
            "--jobs",
            "-j",
            help="Worker processes that train; auto: a core each, four to a GPU, one where networks are large.",
        ),
    ] = "auto",
    out: OutOption = Path("runs"),
    timing: Annotated[bool, typer.Option(help="Time sampling, alone on the machine, at the end.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Train, score and time recipes under one budget, and write the comparison.

    The same command again trains nothing that is there; interrupted, it goes on where it was.

    [bold]Examples[/bold]
    \b
        bench all
        bench all --tier smoke --recipes gan,vae,ddpm
        bench all --recipes gan+,flow-matching
        bench all --dataset fashion-mnist@14 --tier minutes
        bench all --dataset fashion-mnist --tier standard --seeds 5 --device cuda
        bench all --dataset cifar10 --tier gpu-minute --device cuda --precision bf16
        bench all --recipes ddpm,gan --set ddpm.lr=1e-3 --set gan.batch=64
        bench all --dataset ring8 --match seconds --json > ring8.json
        bench all --dataset folder:my-images@32 --test my-other-images --name mine
    """
    chosen, workers, runs = tiers.matched(tier, match), workers_of(jobs), Runs(out)
    place = place_of(dataset, runs, test, called)
    names = listed_recipes(recipes)
    check_folder(out)

    from bench import suite

    result = suite.everything(
        announced(place, runs).place,
        names,
        chosen,
        out,
        shown.display(as_json),
        seeds=seeds,
        conditional=conditional,
        device=device,
        workers=workers,
        timing=timing,
        settings=settings or (),
        precision=precision,
        compiled=compiled,
    )
    if as_json:
        shown.print_json(result.as_json())
    else:
        shown.comparison(result)
    if result.failures:
        raise typer.Exit(1)


def train(
    recipe: Recipe,
    dataset: DatasetOption = "digits",
    test: TestOption = None,
    called: NameOption = None,
    tier: TierOption = "quick",
    seed: Annotated[int, typer.Option("--seed", min=0, max=LARGEST_INT, help="Training seed.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change the recipe's config: key=value, or RECIPE.key=value of one it needs."),
    ] = None,
    match: MatchOption = None,
    conditional: ConditionalOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    compiled: CompileOption = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, max=MOST_THREADS, help="CPU threads; by default every core above 16 pixels, else one."
        ),
    ] = None,
    out: OutOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Train one recipe (and what it needs first). The same command resumes what was interrupted.

    [bold]Examples[/bold]
    \b
        bench train flow-matching
        bench train ddpm --dataset fashion-mnist --seed 1 --conditional
        bench train vae --set lr=5e-4 --set batch=128
    """
    chosen, runs = tiers.matched(tier, match), Runs(out)
    check_recipe(recipe)
    place = place_of(dataset, runs, test, called)
    check_folder(out)

    from bench.inputs.training import training_of
    from bench.runs import read_info

    training = training_of(
        recipe,
        announced(place, runs),
        seed,
        chosen,
        out,
        settings or (),
        conditional=conditional,
        device=device,
        precision=precision,
        compiled=compiled,
        threads=threads,
    )
    if training.note:
        print(training.note, file=sys.stderr)
    with shown.working(f"train {recipe} seed {seed}", as_json) as progress:
        folder = training.ensure(progress)
    info = read_info(folder)
    if as_json:
        shown.print_json({"folder": str(folder), **dataclasses.asdict(info)})
    else:
        _show_trained(folder, info)
    if info.status != "ok":
        raise typer.Exit(fail(f"{recipe} {info.status}: {info.reason} (see {folder})", 1))


def _show_trained(folder: Path, info: Info) -> None:
    """Prints what a training came to and the commands that may follow; its symptom, if any, on stderr."""
    from bench.progress import duration
    from paradigms.contract import Paradigm

    if info.status == "ok":
        draws = issubclass(info.definition.paradigm, Paradigm)
        verbs = ("sample", "evaluate") if draws else ("evaluate",)
        following = [f"bench {verb} {shlex.quote(str(folder))}" for verb in verbs]
        print(
            f"{folder}\n{info.params_trained:,} parameters, {info.steps:,} steps, {info.images:,} images in "
            f"{duration(info.seconds)} ({info.images_per_second:,.0f} images/s, {info.threads} thread"
            f"{'s' if info.threads > 1 else ''} on {info.device_name})\n"
            f"next: {'  or  '.join(following)}"
        )
    if info.symptom:
        print(f"warning: {folder}: {info.symptom}", file=sys.stderr)
