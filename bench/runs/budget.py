"""How a run's budget is spent: the width that meets the parameter target, the steps that meet the budget."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bench import flops, store
from bench.arithmetic import compile_networks
from bench.loop import Diverged, Loop, seeded
from bench.progress import Progress
from bench.runs.identity import Run, short_hash
from bench.runs.info import WIDEST
from bench.runs.machine import device_name
from bench.sharing import alone_on
from paradigms.backbones import Backbone
from paradigms.contract import Frozen, Trainable
from paradigms.core.data import Data, Space
from paradigms.core.noise import Noise
from paradigms.errors import BadInput
from paradigms.recipe import Recipe

__all__ = ["Spending", "build", "fit_width", "spending_of"]

TOLERANCE = 0.1  # of the parameter target


LARGE = 50_000_000  # parameters


@dataclass(frozen=True)
class Spending:
    """How a run's budget is spent: see the fields of the same names in `Info`."""

    width: int
    params_trained: int
    params_note: str
    planned_steps: int
    batch: int
    flops_per_step: float
    seconds_per_step: float
    bound: str


def spending_of(
    run: Run, recipe: Recipe, data: Data, parents: Mapping[str, Frozen], out: Path, threads: int, progress: Progress
) -> Spending:
    """The schedule of a run, found by the first of its seeds and read by the others, so that all have equal steps."""
    device = data.x.device
    shared = {**run.shared(), "parents": {role: parent.shared() for role, parent in run.parents}}
    # Not by the code: seeds that are averaged must have the same steps, also where the code has changed between them.
    key = short_hash({**shared, "device": device_name(device), "threads": threads})
    path = run.folder(out).parent / f"plan-{key}.json"

    def waiting() -> None:
        progress.update(f"plan {run.recipe}", 0, 1)

    with store.locked(path.parent, waiting, path.name):
        if path.exists():
            values = store.read_sealed(path)
            store.belongs(path, values.pop(store.OF, key), key)  # plans of earlier versions do not say
            try:
                known = Spending(**store.fitting(Spending, values))
                if not (0 < known.width <= WIDEST and known.planned_steps > 0 and known.batch > 0):
                    raise ValueError("it plans no training")
                return known
            except ValueError as error:
                raise BadInput(f"{path} is damaged ({error}); delete it and run the same command again") from None
        waiting()
        with alone_on(device, lambda: progress.update(f"wait for the GPU to plan {run.recipe}", 0, 1)):
            found = _calibrate(run, recipe, data, parents, threads)
        store.write_sealed(path, {**dataclasses.asdict(found), store.OF: key})
        return found


def _calibrate(run: Run, recipe: Recipe, data: Data, parents: Mapping[str, Frozen], threads: int) -> Spending:
    """Counts and times a few steps of a model that is thrown away, and divides the budget by them."""
    budget, device = run.tier.budget(run.space), data.x.device
    batch = getattr(run.config, "batch", None)
    if type(batch) is not int or batch < 1:
        raise BadInput(f"{run.recipe}: its config must have 'batch', a whole number of at least 1, not {batch!r}")
    width, params = fit_width(recipe, run.space, budget.params, parents, run.config)
    off = params / budget.params - 1
    note = f"{params:,} trained parameters are {off:+.0%} off the target of {budget.params:,}, the nearest there is"
    clock = _clock(device, threads)
    coords = ("plan", run.key, run.recipe, 0)

    model = build(recipe, run.space, width, parents, run.config, 0, device, run.arithmetic.precision)
    with seeded(0, device):
        start = clock()
        with flops.FlopCount() as prepare:
            data = model.prepare(data, Noise(*coords, device=device))
        prepare_seconds = clock() - start
        loop = Loop(model, data, batch, 1_000, coords)
        per_step = flops.of_training_step(model, data.batch(loop.order(0)), Noise(*coords, device=device))
        if run.arithmetic.compiled:  # only now, as FLOPs can not be counted through what was compiled
            compile_networks(model)
            for progress in flops.PROGRESS:  # what a later phase of the training calls is compiled here, unclocked
                with suppress(Diverged):
                    loop.step(min(loop.steps - 1, round(progress * loop.steps)))
        steps = {
            "flops": (budget.flops * run.share - prepare.total) / per_step if per_step else math.inf,
            "images": budget.images * run.share / batch,
        }
        cap, wanted = budget.seconds * run.share - prepare_seconds, steps.get(run.tier.match, math.inf)
        seconds = _seconds_per_step(loop, clock, max(1.0, 0.05 * budget.seconds * run.share), cap / max(1.0, wanted))
    steps["seconds"] = _two_digits(cap / seconds)
    # The cap in seconds holds whatever is matched; where it binds, the row says so.
    bound = min((run.tier.match, "seconds"), key=lambda name: steps[name])
    if steps[bound] < 1:
        raise BadInput(
            f"{run.recipe} on {run.dataset}: tier '{run.tier.name}' does not pay for one step of {batch} "
            f"examples ({per_step:.3g} FLOPs, {seconds:.3g} s) once the data is prepared; choose a larger tier"
        )
    return Spending(
        width=width,
        params_trained=params,
        params_note=note if abs(off) > TOLERANCE else "",
        planned_steps=int(steps[bound]),
        batch=batch,
        flops_per_step=per_step,
        seconds_per_step=seconds,
        bound=bound,
    )


def fit_width(recipe: Recipe, space: Space, target: int, parents: Mapping[str, Frozen], config: Any) -> tuple[int, int]:
    """(width, trained parameters): the width whose trained parameters, all networks together, are nearest to `target`.

    Counts must not fall as the width grows.
    """
    # On the meta device nothing is allocated, but a constructor can not read a value: only where allocating would hurt.
    device = torch.device("meta" if target > LARGE else "cpu")

    @cache
    def count(width: int) -> int:
        with seeded(0, torch.device("cpu")), device:
            return _trained(recipe.build(space, width, parents, config))

    low, high = 1, 2
    while count(high) < target and high < WIDEST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < target else (low, middle)
    width = min((low, high), key=lambda w: abs(math.log(count(w) / target)) if count(w) else math.inf)
    return width, count(width)


def _trained(model: Trainable) -> int:
    held = (p for o in model.optimizers().values() for group in o.param_groups for p in group["params"])
    return sum(p.numel() for p in dict.fromkeys(held))


def _clock(device: torch.device, threads: int) -> Callable[[], float]:
    """CPU time on one thread, which other work on the machine hardly moves; otherwise wall-clock time."""
    if device.type == "cpu":
        return time.process_time if threads == 1 else time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def _seconds_per_step(loop: Loop, clock: Callable[[], float], limit: float, matters: float) -> float:
    """Seconds of a step: the quickest of a few at each point of the training, averaged over the points.

    limit: seconds to spend on it. matters: a step of so many seconds would use up the cap. Where the first at each point take
    less than a tenth of it together, no more are timed: the cap is too far to depend on them.
    """

    def timed(progress: float) -> float:
        start = clock()
        with suppress(Diverged):
            loop.step(min(loop.steps - 1, round(progress * loop.steps)))
        return clock() - start

    with suppress(Diverged):
        loop.step(0)  # allocations, kernels chosen at first use
    spent = [[timed(progress)] for progress in flops.PROGRESS]
    if sum(one for (one,) in spent) > 0.1 * matters:
        for progress, seconds in zip(flops.PROGRESS, spent, strict=True):
            while len(seconds) < 5 and sum(seconds) + seconds[-1] < limit / len(flops.PROGRESS):
                seconds.append(timed(progress))
    return max(1e-9, sum(map(min, spent)) / len(spent))


def _two_digits(steps: float) -> float:
    """Down to two significant digits: what a clock decides should not pretend to more."""
    if steps < 1:
        return steps
    unit = 10.0 ** max(0, math.floor(math.log10(steps)) - 1)
    return math.floor(steps / unit) * unit


def build(
    recipe: Recipe,
    space: Space,
    width: int,
    parents: Mapping[str, Frozen],
    config: Any,
    seed: int,
    device: torch.device,
    precision: str,
) -> Trainable:
    """A model with the initial weights of a seed, which are the same on every device.

    Raises BadInput where bf16 is asked for and no network can compute in it: its numbers would be called bf16 and be fp32.
    """
    with seeded(seed, torch.device("cpu")):
        model = recipe.build(space, width, parents, config).to(device)
    if precision == "bf16" and not any(isinstance(module, Backbone) for module in model.modules()):
        raise BadInput(
            f"--precision bf16: {recipe.name} has no network that subclasses paradigms.backbones.Backbone, as bf16 needs; "
            "take fp32"
        )
    model.precision = precision
    return model
