"""Options that several commands have, how a shell completes them, and what their texts mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from bench import tiers
from bench.inputs.recipes import SETS
from bench.inputs.runs import Runs
from paradigms.errors import BadInput
from reports.words import visible

LARGEST_INT = 2**63 - 1  # that files of the suite hold
MOST_THREADS = 1024  # with far more, OpenMP ends the process


# ------------------------------------------------------------------------------------------------------ completion


def completions(names: Iterable[str], incomplete: str) -> list[str]:
    """The names that begin so and that a terminal can show."""
    return [name for name in names if name.startswith(incomplete) and name == visible(name)]


def completed_by(names: Iterable[str]) -> Callable[[str], list[str]]:
    """What completes one of a few fixed names."""
    return lambda incomplete: completions(names, incomplete)


def complete_recipe(incomplete: str) -> list[str]:
    """Recipes."""
    from paradigms.catalogue import names

    return completions(names(), incomplete)


def complete_recipes(incomplete: str) -> list[str]:
    """Lists a,b,c of recipes, of which the last is completed."""
    from paradigms.catalogue import names

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in completions([*names(), *([] if comma else SETS)], last)]


def complete_dataset(incomplete: str) -> list[str]:
    """Data sets that have a name."""
    from bench.data.names import known

    return completions(known(), incomplete)


def complete_tier(incomplete: str) -> list[str]:
    """Shipped tiers."""
    return completions(tiers.tiers(), incomplete)


def complete_run(incomplete: str) -> list[str]:
    """Run folders under runs/, the newest first, and recipes."""
    folders = [str(folder) for folder, _ in Runs(Path("runs")).newest_first]
    return completions([*folders, *complete_recipe(incomplete)], incomplete)


# -------------------------------------------------------------------------------------------------- shared options

RUN_HELP = "A run's folder, or a recipe's name: its newest finished run on --dataset under --out."

Recipe = Annotated[str, typer.Argument(help="See `bench list recipes`.", autocompletion=complete_recipe)]
RunsArgument = Annotated[Path, typer.Argument(help="A folder with runs in it, at any depth.")]
DatasetOption = Annotated[
    str,
    typer.Option("--dataset", "-d", help="Data set; see `bench list datasets`.", autocompletion=complete_dataset),
]
OfRunOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        "-d",
        help="Data set of a recipe's runs, digits by default; beside a run's folder: where its images are now.",
        autocompletion=complete_dataset,
    ),
]
TestOption = Annotated[
    Path | None, typer.Option("--test", help="Of folder:PATH: another folder of images, to be held out.")
]
NameOption = Annotated[str | None, typer.Option("--name", help="Of your own data: what tables call them.")]
TierOption = Annotated[
    str,
    typer.Option(
        "--tier",
        "-t",
        help="Budget and evaluation: smoke, quick, minutes, gpu-minute, standard, gpu, full, or FILE.toml:NAME.",
        autocompletion=complete_tier,
    ),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
PrecisionOption = Annotated[
    str,
    typer.Option("--precision", help="Of the networks: fp32, tf32 (on a GPU) or bf16. Likelihoods are always fp32."),
]
CompileOption = Annotated[bool, typer.Option("--compile", help="Compile the networks for training.")]
ConditionalOption = Annotated[bool, typer.Option("--conditional", help="Tell the model the class labels.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, and nothing else.")]
MatchOption = Annotated[
    str | None,
    typer.Option(
        "--match",
        help="What makes budgets equal: flops, images or seconds.",
        autocompletion=completed_by(tiers.MATCHES),
    ),
]


# ------------------------------------------------------------------------------------------------ texts as things


def workers_of(text: str) -> int | None:
    """The number of worker processes in --jobs; None for auto. Raises BadInput."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise BadInput(f"--jobs {text}: give a number of worker processes, or auto")
    return int(text)
