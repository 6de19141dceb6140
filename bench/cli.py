"""The command line: `bench all`, `train`, `sample`, `evaluate`, `time`, `report`, `list`, `data`.

Nothing here imports torch, pandas or scikit-learn before work starts, so that help and completion answer at once. A
user's mistake is one line on stderr and exit code 2; a run that failed is exit code 1; Ctrl-C saves, says how to go on
and exits with 130.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from paradigms.errors import BadInput, unknown

if TYPE_CHECKING:
    from rich.console import Console

    from bench.progress import Display, Progress
    from bench.schedule import Job, Outcome
    from bench.store import Row
    from bench.tiers import Tier
    from paradigms.contract import Card, Plan

__all__ = ["app"]

# typer carries its own copy of click since 0.16 or so; this is the base of its errors in either case.
_ClickException = typer.BadParameter.__mro__[2]


class Verbs(TyperGroup):
    """The group of verbs. Turns every way to end into one line and an exit code."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal without ± must not end an hour's work
        given = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(given, *rest, standalone_mode=False, **extra)
        except _ClickException as error:
            command = getattr(getattr(error, "ctx", None), "command_path", "bench")
            code = _fail(f"{error.format_message().rstrip('.')}; see {command} --help")  # type: ignore[attr-defined]
        except typer.Abort:
            code = 130
        code = code if isinstance(code, int) else 0
        if standalone_mode:
            sys.exit(code)
        return code

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BadInput as error:
            raise typer.Exit(_fail(str(error))) from None
        except KeyboardInterrupt:
            again = shlex.join(["bench", *_arguments(ctx)])
            print(f"\nstopped. What was done is kept; to go on:\n  {again}", file=sys.stderr)
            raise typer.Exit(130) from None


def _arguments(ctx: Any) -> list[str]:
    """The command line after `bench`, as it was given."""
    return ctx.meta["arguments"] if "arguments" in ctx.meta else sys.argv[1:]


def _fail(message: str, code: int = 2) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


app = typer.Typer(
    cls=Verbs,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback(invoke_without_command=True)
def bench(ctx: typer.Context) -> None:
    """Train, time, score and compare ways of learning to generate, under one protocol.

    [bold]Start here[/bold]

        bench all                         seven paradigms on real digits, in minutes, on a laptop

        bench all --tier smoke            the same path in about a minute, to see that it works

        bench list recipes                what there is

    [bold]Then[/bold]

        bench train flow-matching --dataset fashion-mnist

        bench sample flow-matching --dataset fashion-mnist --to grid.png

        bench evaluate my-samples.npz --dataset digits
    """
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


# ------------------------------------------------------------------------------------------ options, completion


def _complete_recipe(incomplete: str) -> list[str]:
    from paradigms.catalogue import names

    return _completions(names(), incomplete)


def _complete_recipes(incomplete: str) -> list[str]:
    """The last of a list a,b,c."""
    from paradigms.catalogue import names

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in _completions([*names(), *([] if comma else ["all"])], last)]


def _complete_dataset(incomplete: str) -> list[str]:
    from bench.data.names import NAMES

    return _completions(NAMES, incomplete)


def _complete_tier(incomplete: str) -> list[str]:
    from bench.tiers import tiers

    return _completions(tiers(), incomplete)


def _complete_run(incomplete: str) -> list[str]:
    """Run folders under runs/, and recipes."""
    folders = [str(path.parent) for path in Path("runs").glob("*/*/*/run.json")]
    return _completions([*sorted(folders), *_complete_recipe(incomplete)], incomplete)


def _completions(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


MATCHES = ("flops", "images", "seconds")
KINDS = ("recipes", "datasets", "tiers", "runs", "samplers")
FORMATS = ("html", "md", "tex", "csv")

DatasetOption = Annotated[
    str,
    typer.Option("--dataset", "-d", help="Data set; see `bench list datasets`.", autocompletion=_complete_dataset),
]
TierOption = Annotated[
    str,
    typer.Option(
        "--tier",
        "-t",
        help="Budget and evaluation: smoke, quick, standard, full, or FILE.toml:NAME.",
        autocompletion=_complete_tier,
    ),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
ConditionalOption = Annotated[bool, typer.Option("--conditional", help="Tell the model the class labels.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, and nothing else.")]
MatchOption = Annotated[
    str | None,
    typer.Option(
        "--match",
        help="What makes budgets equal: flops, images or seconds.",
        autocompletion=lambda incomplete: _completions(MATCHES, incomplete),
    ),
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Change the recipe's config: key=value. Repeatable.")]
RUN_HELP = "A run's folder, or a recipe's name: its newest finished run on --dataset under --out."
ForceOption = Annotated[bool, typer.Option("--force", help="Measure again what is already known.")]


# ------------------------------------------------------------------------------------------------------- bench all


@app.command("all")
def all_(
    ctx: typer.Context,
    dataset: DatasetOption = "digits",
    tier: TierOption = "quick",
    recipes: Annotated[
        str,
        typer.Option("--recipes", "-r", help="Recipes separated by commas, or all.", autocompletion=_complete_recipes),
    ] = "all",
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Training seeds; the tier's own by default.")] = None,
    match: MatchOption = None,
    conditional: ConditionalOption = False,
    device: DeviceOption = "auto",
    jobs: Annotated[
        str, typer.Option("--jobs", "-j", help="Worker processes; auto: a core each, one on a GPU.")
    ] = "auto",
    out: OutOption = Path("runs"),
    timing: Annotated[bool, typer.Option(help="Time sampling, alone on the machine, at the end.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Train, score and time recipes under one budget, and write the comparison.

    The same command again trains nothing that is there; interrupted, it goes on where it was.

    [bold]Examples[/bold]

        bench all

        bench all --tier smoke --recipes gan,vae,ddpm

        bench all --dataset fashion-mnist --tier standard --seeds 5 --device cuda

        bench all --dataset ring8 --match seconds --json > ring8.json
    """
    chosen, count = _tier(tier, match), _jobs(jobs)
    _check_dataset(dataset)
    if recipes != "all":
        _check_recipes(recipes.split(","))
    _writable_folder(out)

    from bench import suite

    with _display_of(as_json) as show:
        result = suite.everything(
            dataset,
            None if recipes == "all" else [name.strip() for name in recipes.split(",")],
            chosen,
            out,
            show,
            seeds=seeds,
            conditional=conditional,
            device=device,
            workers=count,
            timing=timing,
        )
    if as_json:
        _print_json(result.as_json())
    else:
        _comparison(result)
    if result.failures:
        raise typer.Exit(1)
