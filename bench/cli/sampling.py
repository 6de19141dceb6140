"""`bench sample`: samples of a trained run, or their way from noise to data, into a file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import shown
from bench.cli.options import (
    LARGEST_INT,
    RUN_HELP,
    DeviceOption,
    OfRunOption,
    OutOption,
    TestOption,
    complete_run,
)
from bench.inputs.chosen import run_of
from bench.inputs.plans import labels_of, plan_of
from bench.inputs.runs import Runs
from bench.inputs.targets import check_target
from paradigms.errors import BadInput

if TYPE_CHECKING:
    from bench.opened import Opened
    from paradigms.core.plans import Plan

PICTURES = (".png", ".svg", ".pdf")


def sample(
    run: Annotated[str, typer.Argument(help=RUN_HELP, autocompletion=complete_run)],
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
    check_target(to, PICTURES if trajectory else (".png", ".npz"))
    held = run_of(run, dataset, Runs(out), test).open(device)
    plan = plan_of(held.paradigm.card, held.info.recipe, sampler, steps, guidance, option or ())
    held.paradigm.check(plan)
    if held.place is not None:
        _ = held.data  # raises BadInput where other data than the run's were named
    if trajectory:
        _draw_trajectory(held, plan, label, seed, to)
    else:
        _draw_samples(held, plan, n or 64, label, seed, to)


def _draw_samples(held: Opened, plan: Plan, n: int, label: str | None, seed: int, to: Path) -> None:
    """Draws n samples, writes them to a file or folder and prints what was done."""
    from bench import scores
    from bench.sharing import beside_others

    model, recipe, device = held.paradigm, held.info.recipe, held.device
    labels = labels_of(held, label, n, seed)
    if not to.suffix and not model.space.is_image:
        raise BadInput(f"--to {to}: '{held.info.dataset}' holds vectors, not images; give a file.npz or a grid.png")
    with shown.working(f"sample {recipe} {plan}", quiet=False) as progress:

        def tell(done: int) -> None:
            progress.update("sample", done, n, images=done)

        with beside_others(device, lambda: progress.update("wait for the GPU to sample", 0, n)):
            pool = scores.draw(model, plan, n, seed, labels, device, tell)
    scores.write_samples(pool, model.space, to, units=lambda x: model.to_core(x.to(device)).cpu())
    calls = "" if pool.calls is None else f", {pool.calls:.4g} network call{'s' * (pool.calls != 1)} each"
    print(f"{to}: {n} sample{'s' * (n != 1)} of {recipe} by {plan}{calls}")


def _draw_trajectory(held: Opened, plan: Plan, label: str | None, seed: int, to: Path) -> None:
    """Draws the way of a few samples from noise to data, writes the picture and prints what was done."""
    from bench import trajectory
    from bench.sharing import beside_others

    recipe = held.info.recipe
    labels = {n: labels_of(held, label, n, seed) for n in (trajectory.ROWS, trajectory.POINTS)}
    with beside_others(held.device, lambda: None):
        way = trajectory.draw(held.paradigm, plan, held.data, recipe, seed, labels.__getitem__, to, held.device)
    print(f"{to}: the way of {recipe} by {plan} through {len(way.times)} states")
