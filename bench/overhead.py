"""What a sampler costs beyond its network: `python -m bench.overhead RUN [--sampler ddim] [--batch 1] [--rounds 20]`.

The network calls of one sampling are recorded, then the whole sampling and the bare calls with the very same inputs are
timed in turn (A B A B ...). The overhead is the difference of the medians: as a part of the bare calls' time, and in
microseconds a step. It holds what is done once as well: the draw from the prior, the levels, the coefficients.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from bench import run as runs
from bench.measure import sample_once
from bench.script import answered
from paradigms.backbones import Backbone
from paradigms.contract import Paradigm, Plan
from paradigms.errors import BadInput, unknown

__all__ = ["Overhead", "overhead"]


@dataclass(frozen=True)
class Overhead:
    """Seconds of one sampling and of its network calls alone, medians over the rounds; `calls` counts them."""

    plan: Plan
    batch: int
    calls: int
    sampling: float
    bare: float

    @property
    def fraction(self) -> float:
        """Of the bare calls' time; noise may make it a little negative."""
        return self.sampling / self.bare - 1

    @property
    def per_call(self) -> float:
        """Seconds."""
        return (self.sampling - self.bare) / self.calls

    @property
    def per_step(self) -> float:
        """Seconds. An adaptive sampler is one step."""
        return (self.sampling - self.bare) / self.plan.steps


@contextmanager
def _recorded(into: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]) -> Any:
    """Collects (network, arguments) of every outermost network call inside the block."""
    depth = 0

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        nonlocal depth
        if isinstance(module, Backbone):
            if depth == 0:
                copies = tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in args)
                into.append((module, copies, dict(kwargs or {})))
            depth += 1

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal depth
        depth -= isinstance(module, Backbone)

    before = register_module_forward_pre_hook(enter)
    after = register_module_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


def overhead(model: Paradigm, plan: Plan, batch: int = 1, rounds: int = 20, device: str = "cpu") -> Overhead:
    """Times the sampling of one batch against its bare network calls. Raises BadInput when there are none."""
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []
    with _recorded(calls):
        sample_once(model, plan, batch, device)
    if not calls:
        raise BadInput(f"{plan} makes no network calls that could be counted")

    def synchronise() -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    @torch.no_grad()
    def bare() -> None:
        for module, args, kwargs in calls:
            module(*args, **kwargs)

    # On one CPU thread its own time: other work on the machine hardly moves it.
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    now = time.process_time if alone else time.perf_counter

    def clock(work: Any) -> float:
        synchronise()
        start = now()
        work()
        synchronise()
        return now() - start

    def whole() -> None:
        sample_once(model, plan, batch, device)

    whole()
    bare()
    pairs = [(clock(whole), clock(bare)) for _ in range(rounds)]
    return Overhead(plan, batch, len(calls), median(a for a, _ in pairs), median(b for _, b in pairs))


@answered
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--sampler", nargs="+", default=[], help="those alone, by name")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="batch sizes")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    model, info = runs.load(given.run)
    if not isinstance(model, Paradigm):
        raise BadInput(f"{given.run} holds a '{info.recipe}', which does not sample")
    card = type(model).card
    for name in given.sampler:
        if card.sampler(name) is None:
            raise unknown("sampler", name, [s.name for s in card.samplers])
    for sampler in card.samplers:
        if given.sampler and sampler.name not in given.sampler:
            continue
        steps = card.default.steps if sampler.name == card.default.sampler else sampler.steps[len(sampler.steps) // 2]
        plan = card.default if sampler.name == card.default.sampler else Plan(sampler.name, steps)
        for batch in given.batch:
            found = overhead(model, plan, batch, given.rounds)
            print(
                f"{info.recipe} {found.plan} batch {batch}: {found.calls} calls, "
                f"sampling {1e3 * found.sampling:.2f} ms, bare calls {1e3 * found.bare:.2f} ms, "
                f"overhead {found.fraction:+.1%}, {1e6 * found.per_call:+.0f} µs a call, "
                f"{1e6 * found.per_step:+.0f} µs a step"
            )


if __name__ == "__main__":
    sys.exit(main())
