"""What a training step costs: `python -m bench.lab.step_cost BASE RECIPE... [--dataset digits] [--batch 256] [--rounds 20]`.

Whole steps of the training loop (batch, loss, gradients, optimizer, average) of each recipe beside BASE's at equal
batches and parameters, in turn; a ratio is the median of each round's and its quartiles. So `flow-matching
ot-flow-matching mean-flow` says what the coupling and the derivative cost. Parents are not trained: their values do not
matter here, only their work. On one CPU thread times are this process's CPU time, elsewhere wall clock.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from statistics import median

import torch

from bench import runs
from bench.data import Dataset
from bench.lab.unet_speed import Timed, parameters, ratio, rounds
from bench.loop import Loop, seeded
from bench.script import answered
from paradigms import catalogue
from paradigms.contract import Frozen, Trainable
from paradigms.core.noise import Noise
from paradigms.errors import BadInput

__all__ = ["compare"]

STEPS = 1_000  # of the training whose steps are timed: the learning rates and curricula of its beginning


def untrained(name: str, found: Dataset, params: int, device: torch.device) -> tuple[Trainable, int]:
    """A model of about `params` parameters, on parents that are not trained either, and its recipe's batch."""
    recipe, space = catalogue.get(name), dataclasses.replace(found.space, classes=0)
    reason = recipe.paradigm.refuses(recipe.config, space)
    if reason is not None:
        raise BadInput(f"{name} can not model {found.name}: {reason}")
    parents = {role: Frozen(untrained(need.recipe, found, params, device)[0]) for role, need in recipe.needs.items()}
    width, _ = runs.fit_width(recipe, space, params, parents, recipe.config)
    with seeded(0, torch.device("cpu")):
        return recipe.build(space, width, parents, recipe.config).to(device), recipe.config.batch


def compare(
    names: Sequence[str], found: Dataset, params: int, batch: int | None, repeats: int, device: torch.device
) -> Iterator[str]:
    """A Markdown table with a line for each recipe; the first is what the others are compared with."""
    sides, sizes = [], []
    for name in names:
        model, own = untrained(name, found, params, device)
        coords = (found.name, name, 0)
        data = model.prepare(found.train.to(device), Noise(*coords, "prepare", device=device))
        loop = Loop(model, data, batch or own, STEPS, coords)
        sizes.append((loop.batch, sum(map(parameters, loop.optimizers))))
        steps = count()
        sides.append(Timed(name, lambda loop=loop, steps=steps: loop.step(next(steps))))  # type: ignore[misc]
    rounds(sides, repeats, device)
    base = sides[0].seconds(device)
    yield "| recipe | trained parameters | batch | ms a step | times the first's |\n| --- | --- | --- | --- | --- |"
    for side, (size, trained) in zip(sides, sizes):
        took = side.seconds(device)
        yield f"| {side.name} | {trained:,} | {size} | {1e3 * median(took):.2f} | {ratio(took, base)} |"


@answered
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lab.step_cost", description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", help="the first is what the others are compared with")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--params", type=int, default=280_000)
    parser.add_argument("--batch", type=int, help="of all; default: each recipe's own")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    if given.rounds < 1 or (given.batch is not None and given.batch < 1) or given.params < 1:
        raise BadInput("--rounds, --batch and --params are counts from 1")
    found = runs.dataset(given.dataset)
    print(f"torch {torch.__version__}, {given.dataset}, {device}, {given.threads} thread(s)\n", file=sys.stderr)
    for line in compare(given.recipes, found, given.params, given.batch, given.rounds, device):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
