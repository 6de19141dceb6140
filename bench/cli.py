"""The command line: `bench all`, `train`, `sample`, `evaluate`, `time`, `compare`, `report`, `list`, `data`.

Nothing here imports torch, pandas or scikit-learn before work starts, so that help and completion answer at once. A
user's mistake is one line on stderr and exit code 2; a run that failed is exit code 1; Ctrl-C saves, says how to go on
and exits with 130.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import errno
import itertools
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer
from typer.core import TyperGroup

from bench import terminal
from bench.tiers import MOST_SEEDS
from bench.walk import Walk, walk
from paradigms.errors import BadInput, unknown
from reports.words import shortened, visible

if TYPE_CHECKING:
    from rich.console import Console

    from bench.data import Dataset
    from bench.data.names import Name, OwnData
    from bench.progress import Display
    from bench.store import Row
    from bench.tiers import Tier
    from paradigms.contract import Card, Kind, Plan, Setting, Space

__all__ = ["app"]

# typer carries its own copy of click since 0.16 or so; this is the base of its errors in either case.
_ClickException = cast(type[Exception], typer.BadParameter.__mro__[2])


# What a terminal of few letters shows in place of these; anything else it lacks is a question mark.
_PLAIN = {"≤": "<=", "≥": ">=", "≈": "~", "±": "+-", "×": "x", "−": "-", "–": "-", "…": "...", "·": "*", "µ": "u"}
_PLAIN |= {"↓": "(low)", "↑": "(high)", "●": "*"}


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of codecs: writes what can not be encoded in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error("bench.plainly", _plainly)


class Verbs(TyperGroup):
    """The group of verbs. Turns every way to end into one line and an exit code."""

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]
        _open_streams()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="bench.plainly")  # a terminal without ± must not end an hour's work
        self.given = list(sys.argv[1:] if args is None else args)
        with terminal.shown():
            code = self._ended(extra)
        if standalone_mode:
            sys.exit(code)
        return code

    def _ended(self, extra: Mapping[str, Any]) -> int:
        """The exit code."""
        try:
            code = super().main(self.given, standalone_mode=False, **extra)
            sys.stdout.flush()
        except _ClickException as error:
            command = getattr(getattr(error, "ctx", None), "command_path", "bench")
            text = getattr(error, "format_message", error.__str__)()
            code = _fail(f"{text.rstrip('.')} (see {command} --help)")
        except typer.Abort:
            code = 130
        except OSError as error:
            # Of a stream, not of a file, which would be named: nobody reads on, or there is no room behind it.
            if error.filename is not None or error.errno not in (errno.EPIPE, *NO_ROOM):
                raise
            code = 1 if error.errno == errno.EPIPE else _fail(f"can not print: {error.strerror}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that leaving does not fail again
        return code if isinstance(code, int) else 0

    def invoke(self, ctx: Any) -> Any:
        try:
            os.getcwd()  # libraries that are loaded without one end the program
        except OSError as error:
            gone = f"there is no working folder: {error.strerror}; cd to one, and run the same again"
            raise typer.Exit(_fail(gone)) from None
        try:
            return super().invoke(ctx)
        except BadInput as error:
            raise typer.Exit(_fail(str(error))) from None
        except SystemExit as error:  # none of ours
            code = (
                f"code that is not of this package, a plugin or a factory, ended the program (exit code {error.code})"
            )
            raise typer.Exit(_fail(f"{code}; mend or uninstall it", 1)) from None
        except OSError as error:
            # Of a file: its name is too long, it went away meanwhile, or a folder may not be entered.
            if error.filename is None:
                raise
            why = error.strerror or type(error).__name__
            where = shortened(os.fsdecode(error.filename), 120)
            raise typer.Exit(_fail(f"can not use {where}: {why}; give another path, or run the same again")) from None
        except KeyboardInterrupt:
            again = shlex.join(["bench", *self.given])
            print(f"\nstopped. What was done is kept; to go on:\n  {again}", file=sys.stderr)
            raise typer.Exit(130) from None


def _open_streams() -> None:
    """Opens nothing in the place of streams that were closed, so that no file that is written gets their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (for as long as the program runs)


# A disk, a quota or the largest size of a file is full, or the device fails.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _fail(message: str, code: int = 2) -> int:
    with contextlib.suppress(OSError):  # the exit code says it, too, where there is no room for words
        print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


app = typer.Typer(
    cls=Verbs,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _versions(asked: bool) -> None:
    """Prints one line for `--version` and ends. The versions come from the packages' metadata: torch is not imported."""
    if not asked:
        return
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("paradigm-bench", "torch"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} (not installed)")
    print(f"{', '.join(found)}, Python {platform.python_version()}")
    raise typer.Exit


@app.callback(invoke_without_command=True)
def bench(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_versions, is_eager=True, help="Show the versions and exit."),
    ] = False,
) -> None:
    """Train, time, score and compare ways of learning to generate, under one protocol.

    [bold]Start here[/bold]

    \b
        bench all                 every paradigm on real digits, in minutes
        bench all --tier smoke    the same path in about a minute
        bench list recipes        what there is

    [bold]Then[/bold]

    \b
        bench train flow-matching --dataset fashion-mnist
        bench sample flow-matching --to grid.png
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
    return [before + comma + name for name in _completions([*names(), *([] if comma else SETS)], last)]


def _complete_dataset(incomplete: str) -> list[str]:
    from bench.data.names import NAMES

    return _completions(NAMES, incomplete)


def _complete_tier(incomplete: str) -> list[str]:
    from bench.tiers import tiers

    return _completions(tiers(), incomplete)


def _complete_run(incomplete: str) -> list[str]:
    """Run folders under runs/, the newest first, and recipes."""
    folders = [str(folder) for folder, _ in _newest_first(Path("runs"))]
    return _completions([*folders, *_complete_recipe(incomplete)], incomplete)


def _completions(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete) and name == visible(name)]


SETS = ("rows", "all")  # words for sets of recipes; so is NAME+
MATCHES = ("flops", "images", "seconds")
KINDS = ("recipes", "datasets", "tiers", "runs", "samplers")
FORMATS = ("html", "md", "tex", "csv")
PICTURES = (".png", ".svg", ".pdf")
ARRAYS = (".npz", ".npy", ".safetensors")
LARGEST_INT = 2**63 - 1  # that files of the suite hold
MOST_THREADS = 1024  # with far more, OpenMP ends the process

DatasetOption = Annotated[
    str,
    typer.Option("--dataset", "-d", help="Data set; see `bench list datasets`.", autocompletion=_complete_dataset),
]
OfRunOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        "-d",
        help="Data set of a recipe's runs, digits by default; beside a run's folder: where its images are now.",
        autocompletion=_complete_dataset,
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
        autocompletion=_complete_tier,
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
        autocompletion=lambda incomplete: _completions(MATCHES, incomplete),
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change the recipe's config: key=value, or RECIPE.key=value of one it needs."),
]
RUN_HELP = "A run's folder, or a recipe's name: its newest finished run on --dataset under --out."
COMPARED = "A recipe, RECIPE:SAMPLER-STEPS, RECIPE:raw (not averaged weights), or a run's folder."
ForceOption = Annotated[bool, typer.Option("--force", help="Measure again what is already known.")]


# ------------------------------------------------------------------------------------------------------- bench all


@app.command("all")
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
            autocompletion=_complete_recipes,
        ),
    ] = "rows",
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, max=MOST_SEEDS, help="Training seeds; the tier's own by default."),
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
    chosen, count = _tier(tier, match), _jobs(jobs)
    place = _place(dataset, out, test, called)
    names = [name.strip() for name in recipes.split(",") if name.strip()]
    if not names:
        raise BadInput("--recipes is empty; give recipes separated by commas, rows or all")
    _check_recipes([name.removesuffix("+") for name in names if name not in SETS])
    _new_folder(out)

    from bench import suite

    result = suite.everything(
        _told(place, out).place,
        names,
        chosen,
        out,
        _display_of(as_json),
        seeds=seeds,
        conditional=conditional,
        device=device,
        workers=count,
        timing=timing,
        settings=settings or (),
        precision=precision,
        compiled=compiled,
    )
    if as_json:
        _print_json(result.as_json())
    else:
        _comparison(result)
    if result.failures:
        raise typer.Exit(1)


# --------------------------------------------------------------------------------------------------- train, sample


def _threads(space: Space) -> int:
    """The default of `bench train`: small networks gain nothing from a second thread, and so have the bits of a suite."""
    from bench.schedule import cores
    from bench.tiers import SMALL_IMAGE

    return cores() if space.is_image and max(space.shape[1:]) > SMALL_IMAGE else 1


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="See `bench list recipes`.", autocompletion=_complete_recipe)],
    dataset: DatasetOption = "digits",
    test: TestOption = None,
    called: NameOption = None,
    tier: TierOption = "quick",
    seed: Annotated[int, typer.Option("--seed", min=0, max=LARGEST_INT, help="Training seed.")] = 0,
    settings: SetOption = None,
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
    chosen = _tier(tier, match)
    _check_recipes([recipe])
    place = _place(dataset, out, test, called)
    _new_folder(out)

    from bench import arithmetic, runs
    from bench.progress import Progress, graceful_stop
    from paradigms import catalogue

    found = _told(place, out)
    where, why = runs.device_for(device, chosen.budget(found.space))
    if why:
        print(why, file=sys.stderr)
    asked = arithmetic.chosen(where, precision, compiled)
    planned = runs.plan(recipe, found.place, seed, chosen, settings or (), conditional=conditional, arithmetic=asked)
    arithmetic.demand(asked, planned.arithmetic, catalogue.get(recipe))
    name = f"train {recipe} seed {seed}"
    with _display_of(as_json)({name: 1.0}) as display, graceful_stop() as stopping:
        progress = Progress(name, display.event, stopping)
        folder = runs.ensure(planned, out, progress, device=where, threads=threads or _threads(planned.space))
    info = runs.read_info(folder)
    if as_json:
        _print_json({"folder": str(folder), **dataclasses.asdict(info)})
    elif info.status == "ok":
        from bench.progress import duration
        from paradigms.contract import Paradigm

        verbs = ("sample", "evaluate") if issubclass(catalogue.get(recipe).paradigm, Paradigm) else ("evaluate",)
        following = [f"bench {verb} {shlex.quote(str(folder))}" for verb in verbs]
        print(
            f"{folder}\n{info.params_trained:,} parameters, {info.steps:,} steps, {info.images:,} images in "
            f"{duration(info.seconds)} ({info.images_per_second:,.0f} images/s, {info.threads} thread"
            f"{'s' if info.threads > 1 else ''} on {info.device_name})\n"
            f"next: {'  or  '.join(following)}"
        )
    if info.symptom and not as_json:
        print(f"warning: {folder}: {info.symptom}", file=sys.stderr)
    if info.status != "ok":
        raise typer.Exit(_fail(f"{recipe} {info.status}: {info.reason} (see {folder})", 1))


@app.command()
def sample(
    run: Annotated[str, typer.Argument(help=RUN_HELP, autocompletion=_complete_run)],
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many; 64 by default.")] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="See `bench list samplers`; the card's default.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps of the sampler.")] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Class, by number or name; needs --conditional training.")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance", help="1: the model with labels, 0: without, more: guided; needs --conditional training."
        ),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Another option of the sampler: key=value. Repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=LARGEST_INT, help="Of the samples.")] = 0,
    trajectory: Annotated[
        bool,
        typer.Option("--trajectory", help="Draw the way from noise to data instead: strips, or density and paths."),
    ] = False,
    to: Annotated[
        Path,
        typer.Option("--to", help="A grid.png, a file.npz or a folder/ of PNGs; a trajectory's .png, .svg or .pdf."),
    ] = Path("samples.png"),
    dataset: OfRunOption = None,
    test: TestOption = None,
    device: DeviceOption = "auto",
    out: OutOption = Path("runs"),
) -> None:
    """Draw samples from a trained run into a picture, an archive or a folder.

    [bold]Examples[/bold]
    \b
        bench sample flow-matching
        bench sample ddpm -n 100 --sampler ddim --steps 20 --to ddim.png
        bench sample runs/digits/gan/0-3f2a91c04d -n 10000 --to gan.npz
        bench sample flow-matching --label 3 --guidance 2 --to threes/
        bench sample score-sde --dataset ring8 --trajectory --to way.pdf
    """
    if trajectory and to.suffix.lower() not in PICTURES:
        raise BadInput(f"--trajectory draws a picture; --to {to} must end in .png, .svg or .pdf")
    if trajectory and n is not None:
        raise BadInput("--trajectory draws the ways of a few samples, and chooses how many; leave out -n")
    _writable_target(to, PICTURES if trajectory else (".png", ".npz"))
    count = n or 64
    folder, data = _run_and_data(run, dataset, out, test)

    from bench import evaluate
    from bench.opened import opened
    from bench.progress import Progress, graceful_stop
    from bench.sharing import beside_others

    held = opened(folder, device, data, out)
    model, info, where = held.paradigm, held.info, held.device
    plan = _plan(model.card, info.recipe, sampler, steps, guidance, option or ())
    model.check(plan)
    found = held.data if trajectory or data is not None or model.space.classes else None
    labels = _labels(model, info, found, label, count, seed)
    if not to.suffix and not model.space.is_image:
        raise BadInput(f"--to {to}: '{info.dataset}' holds vectors, not images; give a file.npz or a grid.png")
    if trajectory:
        from bench import trajectory as ways

        assert found is not None
        few = {k: _labels(model, info, found, label, k, seed) for k in (ways.ROWS, ways.POINTS)}
        with beside_others(where, lambda: None):
            way = ways.draw(model, plan, found, info.recipe, seed, few.__getitem__, to, where)
        print(f"{to}: the way of {info.recipe} by {plan} through {len(way.times)} states")
        return
    name = f"sample {info.recipe} {plan}"
    with _display_of(False)({name: 1.0}) as display, graceful_stop() as stopping:
        progress = Progress(name, display.event, stopping)

        def tell(done: int) -> None:
            progress.update("sample", done, count, images=done)

        with beside_others(where, lambda: progress.update("wait for the GPU to sample", 0, count)):
            pool = evaluate.draw(model, plan, count, seed, labels, where, tell)
    evaluate.write_samples(pool, model.space, to, units=lambda x: model.to_core(x.to(where)).cpu())
    calls = "" if pool.calls is None else f", {pool.calls:.4g} network call{'s' * (pool.calls != 1)} each"
    print(f"{to}: {count} sample{'s' * (count != 1)} of {info.recipe} by {plan}{calls}")


def _plan(
    card: Card,
    recipe: str,
    sampler: str | None,
    steps: int | None,
    guidance: float | None = None,
    options: Sequence[str] = (),
    given: str = "",
) -> Plan:
    """The card's default plan with what the user changed. Raises BadInput for what the sampler does not have.

    given: what the user typed that holds the options, where that is not --option.
    """
    from paradigms.contract import Plan

    name = sampler or card.default.sampler
    known = card.sampler(name)
    if known is None:
        raise BadInput(f"{recipe} has no sampler '{name}'; it has {', '.join(s.name for s in card.samplers)}")
    same = name == card.default.sampler
    values = dict(card.default.options) if same else {}
    example = "eta=0.5" if given else "--option eta=0.5"
    asked = [_option(text, given or f"--option {text}", example) for text in options] + (
        [] if guidance is None else [("guidance", guidance)]
    )
    keys = [key for key, _ in asked]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise BadInput(f"{given or '--option'}: {twice} is given twice; leave one out")
    for key, value in asked:
        if key == "guidance" and key not in known.options:
            raise BadInput(f"sampler '{name}' of {recipe} has no guidance; leave out --guidance")
        if key not in known.options:
            raise unknown(f"option of sampler {name}:", key, known.options or ["(it has none)"])
        values[key] = value
        # What is the sampler's default anyway is not said: the plan is the same, and so are its rows.
        if value == known.options[key] and key not in dict(card.default.options):
            del values[key]
    for key, other in known.beside.items():
        if key in values and other not in values:
            if other not in keys:
                raise BadInput(f"{key} acts only beside {other}, which is not given; give it too, or leave {key} out")
            # Nor is what the default of another makes idle: in a sweep over that one, it is the plan without both.
            del values[key]
    count = (card.default.steps if same else known.steps[-1]) if steps is None else steps
    plan = Plan(name, count, tuple(sorted(values.items())))
    known.check(plan)
    return plan


def _option(text: str, given: str, example: str) -> tuple[str, Setting]:
    """A number, or a word where it is none."""
    key, equals, value = text.partition("=")
    if not equals or not value.strip():
        raise BadInput(f"{given}: write it as key=value, as in {example}")
    try:
        number = float(value)
    except ValueError:
        return key.strip(), value.strip()
    if not math.isfinite(number):
        raise BadInput(f"{given}: write it as key=value with a finite number, as in {example}")
    return key.strip(), number


def _kind(card: Card, recipe: str, space: Space, text: str) -> Kind:
    """A likelihood of such data with the options that a user gave, as in iwae:K=5000. Raises BadInput."""
    if not card.likelihoods:
        raise BadInput(f"{recipe} has no likelihood: {card.no_likelihood}")
    name, _, given = text.partition(":")
    known = {kind.name: kind for kind in reversed(card.likelihoods_on(space))}  # of several variants the first
    if name not in known:
        here = ", ".join(reversed(known))
        if any(kind.name == name for kind in card.likelihoods):
            raise BadInput(f"{name} is for data with levels, as pixels have; take {here}")
        raise BadInput(f"unknown likelihood '{name}' of {recipe}; known: {here}")
    kind = known[name]
    options = {**dict(kind.options)}
    for part in given.split(",") if given else ():
        key, value = _option(part, f"--likelihood {text}", "iwae:K=5000")
        if key not in {**options, **kind.ranges, **kind.choices}:
            raise unknown(f"option of {name}:", key, {**options, **kind.ranges, **kind.choices} or ["(it has none)"])
        options[key] = value
    kind = dataclasses.replace(kind, options=tuple(options.items()))
    kind.check()
    return kind


def _chosen(card: Card, recipe: str, text: str) -> list[Plan]:
    """The plans that a user named as in ancestral-1000 or ddim-50:eta=0.5,grid=quadratic. Raises BadInput.

    An option with several values, as in guidance=1/1.5/2, makes a plan for each.
    """
    named, _, options = text.partition(":")
    name, _, steps = named.rpartition("-")
    if not (name and steps.isascii() and steps.isdigit()):
        name, steps = named, ""
    known = card.sampler(name)
    choices = []
    for option in options.split(",") if options else ():
        key, equals, value = option.partition("=")
        several = equals and not (known and key.strip() in known.falling)  # which are lists themselves
        choices.append([f"{key}={one}" for one in value.split("/")] if several else [option])
    count = int(steps) if steps else None
    given = f"--sampler {text}"
    return [_plan(card, recipe, name, count, options=some, given=given) for some in itertools.product(*choices)]


def _labels(model: Any, info: Any, found: Dataset | None, label: str | None, n: int, seed: int) -> Any:
    """Labels (n,): the one asked for, or in the training split's proportions; None for an unconditional model."""
    import torch

    from bench import evaluate
    from bench.data.dataset import label_of
    from bench.data.names import readable

    if not model.space.classes or found is None:
        if label is not None:
            raise BadInput(
                f"{info.recipe} was trained without labels: leave out --label, or train it with --conditional first"
            )
        return None
    if label is None:
        return evaluate.pool_labels(model, found.train, n, seed)
    numbers, label = tuple(map(str, range(model.space.classes))), readable(label)
    names = found.labels or numbers
    index = label_of(label, names)
    if index is None and label.lstrip("+-").isdigit() and (names == numbers or not any(map(str.isdigit, names))):
        raise BadInput(f"--label {label}: the labels of {info.dataset} are 0 to {model.space.classes - 1}")
    if index is None:
        raise unknown("label", label, names)
    if found.train.y is not None and not bool((found.train.y == index).any()):
        print(f"warning: the model was never shown label {label}: it has no training example", file=sys.stderr)
    return torch.full((n,), index)


# ------------------------------------------------------------------------------------------------- evaluate, time


@app.command()
def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            help="A run, an .npz, .npy or .safetensors of samples, or a folder of images.", autocompletion=_complete_run
        ),
    ],
    dataset: OfRunOption = None,
    test: TestOption = None,
    tier: Annotated[
        str | None,
        typer.Option(
            "--tier", "-t", help="Protocol for a run, its own by default; for samples: whose table they join."
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features",
            help="Also in this feature space: inception-2015, net.onnx, my.safetensors, which run no code, or "
            "package.module:factory, which is code and runs. Repeatable.",
        ),
    ] = None,
    number: Annotated[
        int | None,
        typer.Option("-n", "--samples", min=2, help="Samples of a run for --features; the tier's by default."),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option("--resize", help="Bring samples of another size to the data's: bicubic, bilinear, area, nearest."),
    ] = None,
    crop: Annotated[
        bool,
        typer.Option(
            "--crop", help="Cut images to their largest centred square and resize them, as a folder of data is."
        ),
    ] = False,
    span: Annotated[
        str | None,
        typer.Option("--range", help="What samples' numbers span, LOW..HIGH: 0..1, 0..255, -1..1 (floats by default)."),
    ] = None,
    called: Annotated[
        str | None, typer.Option("--name", help="What tables call the samples; by default as their file is called.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="A folder to keep the rows of samples in; inside --out, `report` shows them."),
    ] = None,
    likelihood: Annotated[
        list[str] | None,
        typer.Option("--likelihood", help="Only this likelihood, with its options: KIND[:key=value,...]. Repeatable."),
    ] = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            "--sampler", help="Only this sampler: NAME-STEPS[:key=value,...]; several values: key=1/2/4. Repeatable."
        ),
    ] = None,
    device: DeviceOption = "auto",
    out: OutOption = Path("runs"),
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score a run, or anyone's samples, with the same metrics against the same real images.

    [bold]Examples[/bold]
    \b
        bench evaluate flow-matching
        bench evaluate runs/digits/vae/0-3f2a91c04d --tier standard --json
        bench evaluate vae --likelihood iwae:K=5000
        bench evaluate ddpm --sampler ancestral-1000 --sampler ddim-50:eta=0.5
        bench evaluate flow-matching --sampler heun-16:guidance=0/1/1.5/2/4
        bench evaluate my-samples.npz --dataset fashion-mnist
        bench evaluate my-folder-of-pngs/ --dataset cifar10 --resize bicubic
        bench evaluate my-floats.npy --dataset cifar10 --range 0..1 --name theirs
        bench evaluate my-photographs/ --dataset folder:my-photographs@32 --crop
        bench evaluate my-samples.npz --tier quick --to runs/digits/external/mine
        bench evaluate my-50k.npz --dataset cifar10 --features inception-2015
        bench evaluate vae --features my-net.onnx:size=224,channels=3,range=imagenet
    """
    target = Path(what)
    if target.suffix.lower() in ARRAYS and not target.exists():
        raise BadInput(f"there is no file {what}; give an .npz, .npy or .safetensors of samples, or a run")
    is_samples = target.exists() and not (target / "run.json").exists() and not _is_recipe(what)
    folder, data = (
        (target, _place(dataset or "digits", out, test)) if is_samples else _run_and_data(what, dataset, out, test)
    )
    if is_samples and likelihood:
        raise BadInput(f"{what} holds samples, which have no likelihood; leave out --likelihood, or name a run")
    if is_samples and sampler:
        raise BadInput(f"{what} holds samples, which are drawn already; leave out --sampler, or name a run")
    asked = [
        name
        for name, given in (("--likelihood", likelihood), ("--sampler", sampler), ("--features", features))
        if given
    ]
    if len(asked) > 1:
        raise BadInput(f"{' and '.join(asked)} are {len(asked)} questions; ask one at a time")
    for option, given, wanted in (
        ("--resize", resize, True),
        ("--crop", crop or None, True),
        ("--range", span, True),
        ("--name", called, True),
        ("--to", to, True),
        ("--samples", number, False),
    ):
        if given is not None and is_samples != wanted:
            raise BadInput(f"{option} is for {'samples, and' if wanted else 'runs, and'} {what} is not; leave it out")
    if number is not None and not features:
        raise BadInput("--samples goes with --features; a run's own rows are of as many as its tier says")
    from bench import evaluate as scores
    from bench import runs
    from bench.progress import Progress, graceful_stop
    from bench.reading import Range
    from bench.store import BASELINES
    from paradigms import catalogue

    if resize is not None and resize not in (known := get_args(scores.Resize)):
        raise unknown("way to resize", resize, known)
    taken = None if span is None else Range.parse(span)
    if called is not None and not called.strip():
        raise BadInput("--name is empty; give the samples a name, or leave it out")
    if to is not None:
        _new_results(to, scores.GRID)
    name = f"evaluate {what}"
    if likelihood or sampler:
        trained = runs.read_info(folder)
        card = _card(catalogue.get(trained.recipe).paradigm, trained.recipe)
        space = runs.data_of(folder, trained, data).space
        kinds = [_kind(card, trained.recipe, space, text) for text in likelihood or ()]
        plans = [plan for text in sampler or () for plan in _chosen(card, trained.recipe, text)]
    with _display_of(as_json)({name: 1.0}) as display, graceful_stop() as stopping:
        progress = Progress(name, display.event, stopping)
        if is_samples:
            rows = scores.score(
                folder,
                _told(data or "digits", out).place,
                progress,
                resize=cast("scores.Resize | None", resize),
                specs=features or (),
                tier=None if tier is None else _tier(tier),
                to=to,
                called=called or "",
                span=taken,
                crop=crop,
            )
        else:
            info = runs.read_info(folder)
            protocol, where = _tier_of(info.tier, tier), str(runs.device_of(device))
            if likelihood:
                rows = scores.likelihoods(folder, kinds, protocol, progress, where, force, data, out)
            elif sampler:
                rows = scores.sampled(folder, plans, protocol, progress, where, force, data, out)
            elif features:
                rows = scores.in_spaces(folder, features, protocol, progress, where, force, number, data, out)
            else:
                rows = scores.evaluate(folder, protocol, progress, where, force, data, out)
            n = next((row.n for row in rows if row.headline and row.sampler and row.n), None)
            if n is not None:
                kept = None if features else Path(os.path.abspath(folder)).parents[1] / BASELINES / protocol.name
                place = runs.data_of(folder, info, data).place

                def told(what: str, done: int, of: int) -> None:
                    progress.update(f"the floor: {what}", done, of)

                rows = rows + scores.floor(place, n, protocol, kept, features or (), told)
    missing = [row for row in rows if row.value is None or not math.isfinite(row.value)]
    refused = {row.reason: None for row in missing if likelihood and row.status == "ok" and row.reason and row.kind}
    if refused:
        raise BadInput("; ".join(refused))
    if as_json:
        _print_json([_finite_row(row) for row in rows])
    else:
        _rows(rows, every=bool(sampler))
        if not is_samples and protocol.name != info.tier:
            kept_in = runs.measured(folder, protocol.name)
            print(f"measured by tier {protocol.name}, not by the run's own, {info.tier}, whose rows stay as they are")
            if kept_in.exists():  # of a codec nothing is
                print(f"kept in {kept_in}; `bench report` and `bench compare` show it with --tier {protocol.name}")
        if to is not None:
            print(f"kept in {to}; `bench report {shlex.quote(str(to.parent))}` shows them, marked external")
    if any(row.status in ("failed", "diverged") for row in rows):
        raise typer.Exit(1)


@app.command("time")
def time_(
    chosen: Annotated[
        list[str], typer.Argument(help=RUN_HELP + " Several are timed interleaved.", autocompletion=_complete_run)
    ],
    sampler: Annotated[str | None, typer.Option("--sampler", help="The card's default.")] = None,
    steps: Annotated[str | None, typer.Option("--steps", help="Step counts, separated by commas.")] = None,
    dataset: OfRunOption = None,
    tier: Annotated[
        str | None, typer.Option("--tier", "-t", help="Protocol (repeats, seconds); the run's own by default.")
    ] = None,
    device: DeviceOption = "auto",
    threads: Annotated[int, typer.Option("--threads", min=1, max=MOST_THREADS, help="CPU threads.")] = 1,
    out: OutOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Time sampling: latency at batch 1, throughput at the best batch, memory. Keep the machine otherwise idle.

    [bold]Examples[/bold]
    \b
        bench time flow-matching
        bench time gan vae flow-matching
        bench time flow-matching --sampler euler --steps 1,2,4,8
    """
    counts = _counts(steps)
    found = [_run_and_data(name, dataset, out) for name in chosen]

    from bench import measure, runs
    from bench.progress import Progress, graceful_stop
    from paradigms import catalogue

    subjects = []
    for folder, data in found:
        info = runs.read_info(folder)
        if data is not None:
            runs.data_of(folder, info, data)  # times need no data, but another's would be told as this run's
        card = _card(catalogue.get(info.recipe).paradigm, info.recipe)
        plans = tuple(_plan(card, info.recipe, sampler, count) for count in counts)
        subjects.append(measure.Subject(folder, plans))
    protocol = _tier_of(runs.read_info(found[0][0]).tier, tier)
    name = "time sampling"
    with _display_of(as_json)({name: 1.0}) as display, graceful_stop() as stopping:
        progress = Progress(name, display.event, stopping)
        rows = measure.time_runs(
            subjects,
            protocol,
            progress,
            device if device != "auto" else str(runs.device_of(device)),
            threads,
            keep=False,
            out=out,
        )
    if as_json:
        _print_json([_finite_row(row) for row in rows])
    else:
        _times(rows, protocol.name)


def _counts(text: str | None) -> list[int] | list[None]:
    """Step counts; [None] = the plan's own."""
    if text is None:
        return [None]
    counts = [part.strip() for part in text.split(",")]
    if any(not part.isascii() or not part.isdigit() or len(part) > 18 or int(part) < 1 for part in counts):
        raise BadInput(f"--steps {text}: write step counts separated by commas, as in --steps 1,2,4")
    return list(dict.fromkeys(int(part) for part in counts))


# --------------------------------------------------------------------------------------------- report, list, data


@app.command()
def report(
    runs: Annotated[Path, typer.Argument(help="A folder with runs in it, at any depth.")] = Path("runs"),
    to: Annotated[Path | None, typer.Option("--to", help="Where; RUNS/report by default.")] = None,
    formats: Annotated[str, typer.Option("--formats", help="Any of html, md, tex, csv.")] = ",".join(FORMATS),
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
    wanted = [name.strip() for name in formats.split(",") if name.strip()]
    for name in wanted:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    if not wanted:
        raise BadInput(f"--formats is empty; give any of {', '.join(FORMATS)}")
    if not runs.is_dir():
        raise BadInput(f"there is no folder {runs}; run `bench all` first, or name the folder that holds the runs")
    tier = _tier_name(tier)
    below = _walked(runs)
    run_folders = below.holding("run.json")
    folders = _measured_by(_with_rows(below), tier, runs)
    if not folders:
        raise BadInput(f"no results in {runs}; run `bench all` or `bench evaluate` first")
    from bench.runs import slug

    target = to or runs / (f"report-{slug(tier)}" if tier else "report")
    _new_folder(target)

    from bench import suite

    found = suite.check(folders, run_folders, _real_grids(folders))
    for path in suite.report(found, target, wanted, tier):
        print(path)
    if below.lost or found.warnings:
        raise typer.Exit(1)  # named in a warning above


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=COMPARED, autocompletion=_complete_run)],
    b: Annotated[str, typer.Argument(metavar="B", help="The same.", autocompletion=_complete_run)],
    runs: Annotated[Path, typer.Argument(help="A folder with runs in it, at any depth.")] = Path("runs"),
    metric: Annotated[
        str, typer.Option("--metric", help="What is asked, as in fd; by default what leads the report.")
    ] = "",
    dataset: Annotated[
        str,
        typer.Option("--dataset", "-d", help="Where both were run, if on several.", autocompletion=_complete_dataset),
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

    tier = _tier_name(tier)
    below = _walked(runs)
    folders, run_folders = _with_rows(below), below.holding("run.json")
    dataset = _shown_name(dataset, run_folders)
    sides = []
    for text in (a, b):
        base, *details = text.split(":")
        if (folder := Path(base)) and (folder / "run.json").exists():
            known = {f.resolve() for f in folders}
            folders += [f for f in _with_rows(walk(folder)) if f.resolve() not in known]
            run_folders += [folder] if folder.resolve() not in {f.resolve() for f in run_folders} else []
        sides.append((base, details))
    folders = _measured_by(folders, tier, runs)
    if not folders:
        raise BadInput(
            f"no results in {runs}; run `bench all` or `bench evaluate` first, or name the folder of the runs"
        )
    checked = suite.check(folders, run_folders)
    for line in checked.warnings:
        print(f"warning: {line}", file=sys.stderr)

    from reports import compare as comparing

    one, other = (_selector(base, details) for base, details in sides)
    try:
        rows, told = suite.frame(checked.folders, {}), suite.records(checked.run_folders, tier)
        found = comparing.compare(rows, told, one, other, metric, dataset, tier)
    except comparing.UnknownName as error:
        if error.what == "recipe" and _is_recipe(error.name):
            trained = [info for _, info in _newest_first(runs) if info.get("recipe") == error.name]
            there, data = (
                f" on {dataset}" if dataset else "",
                dataset or next((str(i.get("dataset", "")) for i in trained), ""),
            )
            again = f"bench evaluate {error.name}" if trained else f"bench all --recipes {error.name}"
            again += f" --dataset {shlex.quote(data)}" if data else ""
            again += f" --tier {shlex.quote(tier)}" if tier else ""
            again += f" --out {shlex.quote(str(runs))}" if runs != Path("runs") else ""
            there += f" by tier {tier}" if tier else ""
            raise BadInput(f"no results of {error.name}{there} in {runs}; make them: {again}") from None
        raise unknown(error.what, error.name, error.known) from None
    except comparing.NotComparable as error:
        raise BadInput(str(error)) from None
    if as_json:
        _print_json(found.as_json())
        return
    print(found.verdict())
    heads, rows = found.table()
    _table(heads, rows, numeric=heads[1:6])
    for note in found.notes:
        print(note)


def _selector(base: str, details: Sequence[str]) -> Any:
    """recipe or run folder, then in any order a plan and "raw" or "ema"."""
    from reports.compare import Selector

    weights = [d for d in details if d in ("raw", "ema")]
    plans = [d for d in details if d not in weights]
    if len(weights) > 1 or len(plans) > 1 or not all(details):
        raise BadInput(
            f"{':'.join((base, *details))}: write RECIPE, RECIPE:SAMPLER-STEPS or RECIPE:raw, as in ddpm:ddim-20"
        )
    run, name = "", base
    if (Path(base) / "run.json").exists():
        from bench import runs

        info = runs.read_info(Path(base))
        run, name = info.id, info.recipe
    elif os.sep in base:
        raise BadInput(f"there is no run {base}; see `bench list runs`")
    else:
        from paradigms.catalogue import names

        name = names().get(base, base)
    return Selector(name, run, plans[0] if plans else "", weights[0] if weights else "")


def _real_grids(folders: Iterable[Path]) -> dict[str, Path]:
    """A picture of real images for each data set that has its baselines."""
    from bench import store

    grids: dict[str, Path] = {}
    for folder in folders:
        if folder.parent.name == store.BASELINES:
            with contextlib.suppress(BadInput):  # the report names a damaged folder
                rows = store.load_rows(folder)
                grids.update({rows[0].dataset: folder / "grid.png"} if rows else {})
    return grids


@app.command("list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[recipes|datasets|tiers|runs|samplers]",
            help="What to list.",
            autocompletion=lambda incomplete: _completions(KINDS, incomplete),
        ),
    ] = "recipes",
    out: OutOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List what there is: recipes, data sets, tiers, runs, or the samplers of every recipe.

    [bold]Examples[/bold]
    \b
        bench list datasets
        bench list runs --json
    """
    if what not in KINDS:
        raise unknown("kind of list", what, KINDS)
    from bench.recipes import listed

    rows = {
        "recipes": lambda: listed()["recipes"],
        "datasets": _list_datasets,
        "tiers": _list_tiers,
        "runs": lambda: _list_runs(out),
        "samplers": lambda: listed()["samplers"],
    }[what]()
    if as_json:
        _print_json(rows)
        return
    if what == "recipes":
        rows = [_recipe_line(row) for row in rows]
    if what == "samplers":
        rows = _shared(rows)
    if rows:
        _table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows])
    else:
        print(f"no {what} in {out}" if what == "runs" else f"no {what}")


def _recipe_line(found: Mapping[str, Any]) -> dict[str, str]:
    """What of it a terminal has room for; a variant is set in under its row."""
    also = f" (or {', '.join(found['aliases'])})" if found["aliases"] else ""
    return {
        "recipe": ("  " if found["row"] else "") + found["recipe"] + also,
        "paper": found["paper"],
        "year": _cell(str(found["year"] or "")),
        "needs": ", ".join(found["needs"]),
        "likelihood": ", ".join(found["likelihoods"]) or "–",
        "data": found["accepts"],
    }


def _list_datasets() -> list[dict[str, Any]]:
    from bench.data.names import describe

    return [
        {
            "dataset": d.name,
            "what": d.title,
            "shape": "×".join(map(str, d.shape)),
            "classes": d.classes or None,
            "levels": d.levels or None,
            "train": d.n_train or None,
            "test": d.n_test or None,
            "where": d.where,
        }
        for d in describe()
    ]


def _list_tiers() -> list[dict[str, Any]]:
    from bench.tiers import tiers

    return [
        {
            "tier": tier.name,
            "what": tier.summary,
            "seeds": tier.seeds,
            "match": tier.match,
            "small images": _budget(tier.small),
            "larger images": _budget(tier.images),
            "vectors": _budget(tier.vectors),
            "samples": tier.samples,
            "max calls": tier.max_calls,
        }
        for tier in tiers().values()
    ]


def _budget(budget: Any) -> str:
    return f"{budget.flops:.2g} FLOP, ≤ {budget.seconds:g} s, {budget.params / 1e6:g}M parameters"


# What a list of runs tells of each, by its type; the texts may be wanting, as in runs of older versions.
LISTED: Mapping[str, type] = {
    **dict.fromkeys(("recipe", "dataset", "tier", "status", "finished", "reason", "symptom"), str),
    **{"seed": int, "steps": int, "planned_steps": int, "seconds": float},
}


def _list_runs(out: Path) -> list[dict[str, Any]]:
    """Every run, the newest first: of a recipe's finished runs the first is the one that its name stands for."""
    from bench.store import fits

    found = []
    _walked(out)  # names what can not be entered
    for folder, info in _newest_first(out):
        row: dict[str, Any] = {"run": str(folder)}
        if all(fits(kind)(info.get(key, "")) for key, kind in LISTED.items()):
            row |= {
                **{key: info.get(key, "") for key in ("recipe", "dataset", "tier", "seed", "status")},
                "finished": f"{info['finished'][:19].replace('T', ' ')} UTC" if info.get("finished") else "",
                "steps": f"{info['steps'] or '?'}/{info['planned_steps']}",
                "seconds": round(info["seconds"], 1),
                "evaluated": os.path.exists(folder / "results.jsonl"),
                "note": "; ".join(filter(None, (info.get("reason"), info.get("symptom"), _lacking(folder, info)))),
            }
        else:
            row |= {
                **dict.fromkeys(("recipe", "dataset", "tier", "seed"), "?"),
                "status": "damaged",
                "finished": "",
                "steps": "?",
                "seconds": None,
                "evaluated": False,
                "note": info.get("note", ""),
            }
        found.append(row)
    return found


def _lacking(folder: Path, info: Mapping[str, Any]) -> str:
    """Which files of a run are gone, in words; "" for none."""
    from bench import store

    try:
        names = store.missing(folder)
    except BadInput as error:
        return str(error)
    if info.get("status") == "ok" and not os.path.exists(folder / store.MANIFEST):
        names = [store.MANIFEST]
    return f"lacks {', '.join(names)}" if names else ""


def _shared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for what several recipes have alike, with all their names at its end."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        alike.setdefault(tuple((k, v) for k, v in row.items() if k != "recipe"), []).append(row["recipe"])
    return [{**dict(rest), "recipes": ", ".join(names)} for rest, names in alike.items()]


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="See `bench list datasets`.", autocompletion=_complete_dataset)],
    source: Annotated[
        Path | None, typer.Option("--from", help="Import from this file or folder, not from the network.")
    ] = None,
    test: TestOption = None,
    called: NameOption = None,
) -> None:
    """Find, import or download a data set into the cache, verify its checksums and say what it is.

    [bold]Examples[/bold]
    \b
        bench data fashion-mnist
        bench data cifar10 --from ~/Downloads/cifar-10-binary.tar.gz
        bench data folder:my-images@32
        bench data array:mine.npz
    """
    place = _place(name, Path("runs"), test, called)
    if source is not None and not source.exists():
        raise BadInput(f"--from {source} does not exist")

    from bench.data import fetch, load
    from bench.progress import Progress, graceful_stop

    with _display_of(False)({name: 1.0}) as display, graceful_stop() as stopping:
        progress = Progress(name, display.event, stopping)
        paths = fetch(place, source, progress.update)
        found = load(place)
    for path in paths:
        print(path)
    space = found.space
    kind = f"{space.levels} levels" if space.levels else "real-valued"
    print(
        f"{found.name}: {len(found.train):,} training and {len(found.test):,} test examples of shape {space.shape}, "
        f"{kind}, {space.classes} classes; sha256 {found.checksum[:12]}\n{found.source}"
    )
    print("\n".join(_about(found)))


# ------------------------------------------------------------------------------------------------------ what is given


def _tier(name: str, match: str | None = None) -> Tier:
    from bench.tiers import get

    if match is not None and match not in MATCHES:
        raise unknown("match", match, MATCHES)
    tier = get(name)
    return tier if match is None else dataclasses.replace(tier, match=match)


def _tier_of(own: str, asked: str | None) -> Tier:
    """The tier asked for, else the run's own. A tier of the user's file is known to a run by its name only."""
    from bench.tiers import get

    if asked is not None:
        return get(asked)
    try:
        return get(own)
    except BadInput:
        raise BadInput(
            f"the run's tier '{own}' is not a shipped one; name its file, as in --tier mine.toml:{own}"
        ) from None


def _tier_name(text: str) -> str:
    """The name of a tier, also where its file is named: what rows know it by."""
    return _tier(text).name if text.endswith(".toml") else text.rpartition(".toml:")[2]


def _measured_by(folders: Iterable[Path], tier: str, root: Path) -> list[Path]:
    """The folders of rows, in order, but those where another tier than its own measured a run: of these only `tier`'s.

    root: the folder that the user named; what it lies in itself is asked for.
    """
    from bench.runs import INFO, PROTOCOLS, slug

    def measurer(folder: Path) -> str:
        inside = itertools.takewhile(lambda up: up != root, (folder, *folder.parents))
        places = [up for up in inside if up.parent.name == PROTOCOLS and (up.parent.parent / INFO).exists()]
        return places[0].name if places else ""

    return sorted(folder for folder in folders if measurer(folder) in ("", slug(tier) if tier else ""))


def _jobs(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise BadInput(f"--jobs {text}: give a number of worker processes, or auto")
    return int(text)


def _place(name: str, out: Path, test: Path | None = None, called: str | None = None) -> Name:
    """What a user means by a data set: a name that there is, a folder of images, or what runs under `out` call one.

    test, called: of --test and --name, which only folders have. Raises BadInput.
    """
    from bench.data.names import NAMES, info, own_data, stored

    if (own_place := own_data(name, test, called)) is not None:
        return own_place
    if test is not None or called is not None:
        raise BadInput(f"{'--test' if test else '--name'} goes with folder:PATH; '{name}' has its own")
    known = {} if name in NAMES else _own_called(name, (run for _, run in _newest_first(out)))
    if not known:
        info(name)
        return name
    (own, source), *others = known.items()
    if others:
        raise BadInput(f"'{name}' may be {' or '.join(known)} under {out}; write out which")
    return stored(source, own)


def _own_called(name: str, runs: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Users' own data that runs know by a name, or by one that begins so: by their whole names, newest first."""
    from bench.data.names import is_stored

    known: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        source = run.get("source", {})
        if is_stored(source):
            known.setdefault(str(run.get("dataset")), source)
    whole = {own: source for own, source in known.items() if own == name}
    return whole or {own: source for own, source in known.items() if own.rpartition("-")[0] == name}


def _shown_name(dataset: str, run_folders: Iterable[Path]) -> str:
    """The name in rows of what a user means by --dataset; the same where nothing is known of it."""
    from bench import runs
    from bench.data.names import own_data

    infos = [_json_of(folder / "run.json") for folder in run_folders] if dataset else []
    known = any(info.get("dataset") == dataset for info in infos)
    if not known and (place := own_data(dataset)) is not None:
        same = _same_data(place)
        trained = next((str(info.get("dataset", "")) for info in infos if same(info)), "")
        return trained or (dataset if _is_gone(place) else runs.dataset(place).name)
    return next(iter(_own_called(dataset, infos)), dataset)


def _is_gone(place: OwnData) -> bool:
    """Whether a user's own data are no longer where they lay, apart from what was held out."""
    return place.gone() == place.path


def _same_data(place: Name) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a run.json tells of this data: by the checksum of a user's own, or, where they are gone, by where they were.
    Raises BadInput where a run of it could not be known."""
    from bench.data.names import OwnData

    if not isinstance(place, OwnData):
        return lambda info: info.get("dataset") == place
    from bench import runs

    if _is_gone(place):
        return lambda info: info.get("source") == place.as_json()
    found = runs.dataset(place)
    return lambda info: info.get("checksum") == found.checksum


def _told(place: Name, out: Path) -> Dataset:
    """The data set, said on stderr once where it is a user's own: its classes and what was decided of its files."""
    from bench import runs
    from bench.data.names import OwnData

    found = _known(place, out)
    if not isinstance(place, OwnData):
        return found
    if not place.name and (first := runs.dataset(place).name) != found.name:
        print(f"{first} holds the {place.what} of '{found.name}', and goes on under that name", file=sys.stderr)
    train, test = len(found.train), len(found.test)
    print(
        f"{found.name}: {train:,} training and {test:,} held-out {place.what}",
        *_about(found),
        sep="\n",
        file=sys.stderr,
    )
    return found


def _known(place: Name, out: Path) -> Dataset:
    """The data set. A user's own that runs under `out` were trained on go by the name they have there, if given none.

    Raises BadInput where a user's own are gone, or other data have their name there.
    """
    from bench import runs
    from bench.data.names import OwnData

    if isinstance(place, OwnData) and place.name and _is_gone(place):
        raise BadInput(
            f"the {place.what} of '{place.name}' lay in {place.path}, which is no {place.place}; if they were moved, say "
            f"where they are: --dataset {place.form}"
        )
    found = runs.dataset(place)
    if not isinstance(place, OwnData):
        return found
    infos = [info for _, info in _newest_first(out) if info.get("source")]
    own = [str(info.get("dataset", "")) for info in infos if info.get("checksum") == found.checksum]
    if own and not place.name and found.name not in own:
        found = runs.dataset(place.named(own[0]))
    if any(info.get("dataset") == found.name and info.get("checksum") != found.checksum for info in infos):
        raise BadInput(f"other {place.what} have the name '{found.name}' in {out}; choose another with --name")
    return found


def _about(found: Dataset) -> list[str]:
    """What is to be known of a data set before it is trained on, a line each."""
    from bench.features import too_few

    return [line for line in (*found.about(), too_few(found)) if line]


def _check_recipes(names: Sequence[str]) -> None:
    """Refuses an unknown name before torch is imported."""
    from paradigms.catalogue import names as known

    found = known()
    for name in names:
        if name.strip() not in found:
            raise unknown("recipe", name.strip(), found)


def _run_and_data(text: str, dataset: str | None, out: Path, test: Path | None = None) -> tuple[Path, Name | None]:
    """The folder that a user means by RUN, and where its data lie, if that was said and they are there. Raises BadInput."""
    return _run_on(text, None if dataset is None and test is None else _place(dataset or "digits", out, test), out)


def _run_on(text: str, place: Name | None, out: Path) -> tuple[Path, Name | None]:
    """The same, of what data are called."""
    from bench.data.names import OwnData

    folder = _find_run(text, place or "digits", out)
    by_name = not (
        Path(text) / "run.json"
    ).exists()  # then the data were asked for to find the run, which may do without
    return folder, None if by_name and isinstance(place, OwnData) and _is_gone(place) else place


def _find_run(text: str, dataset: Name, out: Path) -> Path:
    """The folder that a user means by RUN: a folder, or a recipe's newest finished run on the data. Raises BadInput."""
    path = Path(text)
    if (path / "run.json").exists():
        return path
    if path.is_dir() and not _is_recipe(text):
        raise BadInput(f"{path} is not the folder of a run: it has no run.json; see `bench list runs`")
    if os.sep in text:
        raise BadInput(f"there is no run {text}; see `bench list runs`")
    from paradigms.catalogue import names

    known, same = names(), _same_data(dataset)

    def own(name: object) -> object:
        """A recipe's own name: a run, too, may bear one that is an alias by now."""
        return known.get(str(name), name)

    candidates = [
        (info.get("status") == "ok", folder)
        for folder, info in _newest_first(out)
        if same(info) and own(info.get("recipe")) == own(text)
    ]
    if not candidates:
        if text not in known:
            raise unknown("run or recipe", text, known)
        again = f"bench train {text} --dataset {dataset}" + (
            "" if out == Path("runs") else f" --out {shlex.quote(str(out))}"
        )
        raise BadInput(f"no run of {text} on {dataset} in {out}; train one: {again}")
    return next((folder for finished, folder in candidates if finished), candidates[0][1])


def _newest_first(out: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, content of run.json) of every run under `out`, the one that ended last first; {} where it is damaged.

    A run that has not ended stands by its start. Older versions kept whole seconds only: of equal times the run whose
    run.json was written last is the newer one.
    """
    from bench import store

    found = []
    for folder in reversed(walk(out).holding("run.json")):
        written = 0
        with contextlib.suppress(OSError):
            written = (folder / "run.json").stat().st_mtime_ns
        info = _json_of(folder / "run.json")
        if reason := store.misplaced(folder, info.get("id")) if info else "":
            info = {"note": reason}  # the name of a recipe stands for none that lies in another's place
        found.append(((_ended(info), written), folder, info))
    return [(folder, info) for _, folder, info in sorted(found, key=lambda run: run[0], reverse=True)]


def _json_of(path: Path) -> dict[str, Any]:
    """What a JSON file holds; {} where it is damaged."""
    from bench.store import read_json

    with contextlib.suppress(BadInput):
        return read_json(path)
    return {}


def _walked(runs: Path) -> Walk:
    """What is below a folder of runs; what could not be entered is named in a warning."""
    below = walk(runs) if runs.is_dir() else Walk([], {}, [])
    for reason in below.lost.values():
        print(f"warning: left out: {reason}", file=sys.stderr)
    return below


def _with_rows(below: Walk) -> list[Path]:
    """The folders that hold rows, or should."""
    from bench import store

    return [folder for folder, _ in sorted(below.folders) if store.has_rows(folder)]


def _ended(info: Mapping[str, Any]) -> float:
    """When a run ended, or else started, in seconds since 1970; 0 where run.json does not say."""
    try:
        return datetime.fromisoformat(info.get("finished") or info["started"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return 0.0


def _is_recipe(text: str) -> bool:
    """Whether a word names a recipe: then it does so beside a file or folder called alike, which is `./word`."""
    from paradigms.catalogue import names

    return os.sep not in text and text in names()


def _card(paradigm: Any, recipe: str) -> Card:
    card = getattr(paradigm, "card", None)
    if card is None:
        raise BadInput(f"'{recipe}' is a first stage for others and does not sample")
    return card


def _writable_folder(path: Path) -> None:
    """Proves that files can be written into the folder, before any work; leaves none behind. Raises BadInput."""
    from bench import store

    store.writable(path)


def _new_folder(path: Path) -> None:
    """The same of a folder that is not there yet. In one that is, all may be done already, and nothing to be written."""
    if not path.is_dir():
        _writable_folder(path)


def _writable_target(to: Path, suffixes: Sequence[str]) -> None:
    """The same for --to: a picture, an archive or a folder."""
    if to.suffix and to.suffix.lower() not in suffixes:
        raise BadInput(f"--to {to}: the name must end in .png or .npz, or be a folder")
    if to.suffix and to.is_dir():
        raise BadInput(f"--to {to} is a folder; name a file in it")
    if not to.suffix and to.is_dir() and (image := _image_in(to)):
        raise BadInput(
            f"--to {to}: there are PNG files or other images in it, as {image}, which would be mixed with the new ones; "
            "name another"
        )
    _writable_folder(to.parent if to.suffix else to)


def _image_in(folder: Path) -> str:
    """The first image below a folder, which the folder's images are read with; "" for none."""
    from bench.data.folder import SUFFIXES
    from bench.data.names import readable

    for path, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found = sorted(name for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)
        if found:
            return readable(os.path.relpath(os.path.join(path, found[0]), folder))
    return ""


# ----------------------------------------------------------------------------------------------------- what is shown


def _new_results(to: Path, grid: str) -> None:
    """Refuses a folder for results that holds something else: a run's own rows would be lost."""
    if to.exists() and not to.is_dir():
        raise BadInput(f"--to {to} is a file; name a folder")
    others = [path for path in to.iterdir() if not path.name.startswith(".")] if to.is_dir() else []
    if (to / "run.json").exists() or (others and not (to / grid).exists()):
        raise BadInput(f"--to {to} holds other files; name a new folder")
    _writable_folder(to)


def _display_of(quiet: bool) -> Any:
    """Makes a display for a set of jobs with their costs; silent when the output is for a script."""
    from bench.progress import display

    def show(costs: Mapping[str, float]) -> Display:
        return display(costs, quiet=quiet)

    return show


def _print_json(value: Any) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    print(text.encode("utf-8", "backslashreplace").decode())  # what is no UTF-8 as JSON's own escape


def _finite_row(row: Row) -> dict[str, Any]:
    """A row as JSON can hold it."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in dataclasses.asdict(row).items()
    }


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _console() -> Console:
    # Away from a terminal nothing may be cut to a width that nobody has.
    return terminal.console(width=None if sys.stdout.isatty() else 1_000, highlight=False)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", numeric: Sequence[str] = ()) -> None:
    """A table of texts; nothing in it is taken for markup."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    columns, rows = [visible(name) for name in columns], [[visible(text) for text in row] for row in rows]
    screen = _console()
    # Where there is room no word is broken; where even pieces of five letters do not fit, a row becomes a block.
    words = [max((len(w) for text in column for w in text.split()), default=0) for column in zip(columns, *rows)]
    whole = sum(words) + 3 * len(words) <= screen.width
    if sum(min(word, 5) for word in words) + 3 * len(words) > screen.width:
        if title:
            print(title)
        for row in rows:
            print("\n".join(["", *(f"{name}: {text}" for name, text in zip(columns, row, strict=True) if text)]))
        return
    table = Table(title=escape(title) or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, longest in zip(columns, words, strict=True):
        justify: Literal["left", "right"] = "right" if name in numeric else "left"
        table.add_column(escape(name), justify=justify, overflow="fold", min_width=longest if whole else None)
    for row in rows:
        table.add_row(*(escape(text) for text in row))
    screen.print(table, soft_wrap=False)


def _comparison(result: Any) -> None:
    """The headline table of a suite, its failures and where the report is."""
    from bench.progress import duration

    frame = result.comparison()
    for (dataset, tier), part in frame.groupby(["dataset", "tier"], sort=False):
        columns = [c for c in frame.attrs["display"] if c not in ("dataset", "tier") and part[c].astype(bool).any()]
        texts = {c: part[c].astype(str).tolist() for c in columns}
        shown = _fitting(texts, _console().width)
        rows = [list(row) for row in zip(*(texts[c] for c in shown))]
        _table(shown, rows, f"{dataset}, tier {tier}: mean ± 95 % t-interval over seeds, or (least – most)", shown[2:])
        if any(text.endswith("*") for c in shown for text in texts[c]):
            print("*: the best and those not told apart from it; Group: recipes that share a letter are not told apart")
        if hidden := [c for c in columns if c not in shown]:
            print(f"for want of width not shown, but in the report: {', '.join(hidden)}")
    for job, reason in result.failures:
        print(f"failed: {job}: {reason}")
    for job, folder, text in result.symptoms:
        print(f"warning: {job}: {text} ({folder})")
    for name, reason in result.skipped.items():
        print(f"left out: {name}: {reason}")
    for path in result.report[:1]:
        print(f"report: {path}")
    print(f"{result.trained} runs trained and {result.evaluated} evaluated in {duration(result.seconds)}")


# What a narrow terminal can do without, the first to go first; the report has it all.
_DISPENSABLE = ("Seeds", "Params", "Throughput", "Time", "FD-random", "plan", "Training", "Latency", "Calls", "Group")


def _fitting(texts: Mapping[str, Sequence[str]], width: int) -> list[str]:
    """The columns of a table that fit into so many characters."""
    widths = {name: 3 + max(map(len, (name, *column))) for name, column in texts.items()}
    for dispensable in _DISPENSABLE:
        if sum(widths.values()) <= width:
            break
        for name in [n for n in widths if n.startswith(dispensable)]:
            del widths[name]
    return list(widths)


def _rows(rows: Sequence[Row], every: bool = False) -> None:
    """An evaluation as a table: the headline plan (or `every` one) beside the floor, likelihoods, and what failed."""
    from bench.features import frechet_title

    floors = {(r.metric, r.split, r.features): r.value for r in rows if r.status == "baseline"}
    shown = []
    for row in rows:
        if row.status == "baseline":
            continue
        likelihood = bool(row.kind) or row.metric in ("bits_per_dim", "nll")
        if row.draw or not (likelihood or every or row.headline or not row.sampler):
            continue
        weights = row.weights if row.weights == "raw" else ""
        if row.fraction is not None and row.fraction < 1:
            weights = f"at {row.fraction:.0%} of the budget"
        value = "n/a" if row.value is None or math.isnan(row.value) else f"{row.value:.5g}"
        error = "" if row.error is None else f"± {row.error:.2g}"
        if row.low is not None and row.high is not None:
            error = f"{row.low:.4f} … {row.high:.4f}"
        plan = f"{row.sampler}-{row.steps}" if row.sampler else ""
        relation = f"{row.relation} " if row.relation not in ("", "=") else ""
        against = f"{row.split} ({row.n_ref:,})" if row.n_ref else row.split
        metric = frechet_title(row.features) if row.metric == "fd" and row.features else row.metric
        options = row.options if row.kind or every else ""
        where = " ".join(x for x in (row.features, row.kind, plan, options, weights) if x)
        real = None if likelihood else floors.get((row.metric, row.split, row.features))
        floor = "" if real is None or math.isnan(real) else f"{real:.5g}"
        n = f"{row.n or 0:,}"
        shown.append([metric, relation + value, error, floor, row.unit, against, where, n, row.reason])
    columns = ["metric", "value", "error", "floor", "unit", "against", "by", "n", "note"]
    used = [index for index in range(len(columns)) if any(row[index] for row in shown)]
    numeric = ("value", "error", "floor", "n")
    _table([columns[i] for i in used], [[row[i] for i in used] for row in shown], numeric=numeric)
    sets = max((row.draw or 0 for row in rows), default=0)
    if sets:
        print(f"of {sets + 1} disjoint sets of samples this is the first; --json and the report have all")
    resized = next((row.resize for row in rows if row.resize), "")
    if resized:
        print(f"samples were brought from {resized}, before they were scored")
    if reading := next((row.reading for row in rows if row.reading), ""):
        print(f"read: {reading}")
    if any(row.low is not None for row in rows if row.status != "baseline"):
        print("± one standard error; … a proportion's 95 % interval, Wilson's")
    if floors:
        print("floor: what as many real training images or points score as if they were the samples")


def _times(rows: Sequence[Row], tier: str) -> None:
    """Times as a table: a line for each run and plan."""
    lines: dict[tuple[str, str], dict[str, float]] = {}
    contended = False
    for row in rows:
        contended |= row.contended
        if row.value is not None:
            lines.setdefault((f"{row.recipe} {row.run}", f"{row.sampler}-{row.steps}"), {})[row.metric] = row.value
    table = []
    for (run, plan), found in lines.items():
        spread = ""
        if "latency_q25" in found:
            spread = f"{1e3 * found['latency_q25']:.3g} … {1e3 * found['latency_q75']:.3g}"
        table.append(
            [
                run,
                plan,
                f"{1e3 * found['latency']:.3g}",
                spread,
                f"{found['throughput']:,.0f}",
                f"{found['throughput_batch']:.0f}",
                f"{found['peak_memory'] / 2**20:.3g}",
            ]
        )
    threads = f"{rows[0].threads} thread{'s' if rows[0].threads != 1 else ''} on {rows[0].device}" if rows else ""
    _table(
        ["run", "plan", "latency, ms", "quartiles", "samples/s", "at batch", "memory, MiB"],
        table,
        f"{threads}; median, by tier {tier}",
        numeric=("latency, ms", "samples/s", "at batch", "memory, MiB"),
    )
    if contended:
        print("the machine was busy with other work while these were taken: time again when it is idle")


if __name__ == "__main__":
    app()
