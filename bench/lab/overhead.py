"""What a sampler costs beyond its network: `python -m bench.lab.overhead RUN [--sampler ddim] [--batch 1] [--rounds 20]`.

A sampling's time is what its network calls take, each clocked where it happens, and the rest, which is the overhead: it
holds what is done once as well, the draw from the prior, the levels, the coefficients. On an accelerator, where a call
returns before its work is done, the recorded calls are run again with the very same inputs and nothing between them, in
turn with the whole sampling (A B A B ...), and the overhead is what that takes longer. Medians over the rounds; the
overhead is printed as a part of the calls' time, and in microseconds a call and a step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_map

from bench import runs
from bench.measure import sample_once
from bench.script import answered
from paradigms.backbones import is_network
from paradigms.contract import Paradigm
from paradigms.core.plans import Plan
from paradigms.errors import BadInput, unknown

__all__ = ["Overhead", "overhead"]


@dataclass(frozen=True)
class Overhead:
    """Seconds of one sampling's network calls and of everything else in it, medians over the rounds; `calls` counts them."""

    plan: Plan
    batch: int
    calls: int
    network: float
    rest: float

    @property
    def fraction(self) -> float:
        """Of the calls' time; on an accelerator noise may make it a little negative."""
        return self.rest / self.network

    @property
    def per_call(self) -> float:
        """Seconds."""
        return self.rest / self.calls

    @property
    def per_step(self) -> float:
        """Seconds. An adaptive sampler is one step."""
        return self.rest / self.plan.steps


@contextmanager
def _recorded(into: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]) -> Any:
    """Collects (network, arguments) of every outermost network call inside the block."""
    depth = 0

    def copied(value: Any) -> Any:
        return value.detach().clone() if isinstance(value, Tensor) else value

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal depth
        depth += is_network(module)

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal depth
        if is_network(module):
            depth -= 1
            if depth == 0:
                into.append((module, tree_map(copied, args), tree_map(copied, kwargs)))

    before = register_module_forward_pre_hook(enter)
    after = register_module_forward_hook(leave, with_kwargs=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


@contextmanager
def _clocked(networks: set[nn.Module], now: Callable[[], float]) -> Iterator[list[float]]:
    """What the outermost calls of these networks take inside the block, one after the other."""
    seconds: list[float] = []
    begun: list[float] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        begun.append(now())

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        start = begun.pop()
        if not begun:
            seconds.append(now() - start)

    handles = [h for n in networks for h in (n.register_forward_pre_hook(enter), n.register_forward_hook(leave))]
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def overhead(model: Paradigm, plan: Plan, batch: int = 1, rounds: int = 20, device: str = "cpu") -> Overhead:
    """Times the sampling of one batch and, within it, its network calls. Raises BadInput when there are none."""
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []
    with _recorded(calls):
        sample_once(model, plan, batch, device)
    if not calls:
        raise BadInput(f"{plan} makes no network calls that could be counted")

    @torch.no_grad()
    def bare() -> None:
        for module, args, kwargs in calls:
            module(*args, **kwargs)

    if torch.device(device).type == "cpu":
        # On one thread its own time: other work on the machine hardly moves it.
        now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

        def clock(work: Callable[[], object]) -> tuple[float, float]:
            with _clocked({module for module, *_ in calls}, now) as seconds:
                start = now()
                work()
                return now() - start, sum(seconds)

        def once() -> tuple[float, float]:
            whole, network = clock(lambda: sample_once(model, plan, batch, device))
            # The clock itself, and what it takes to call a network, is in the bare calls too.
            alone, inside = clock(bare)
            return network, whole - network - (alone - inside)
    else:

        def span(work: Callable[[], object]) -> float:
            torch.accelerator.synchronize()
            start = time.perf_counter()
            work()
            torch.accelerator.synchronize()
            return time.perf_counter() - start

        def once() -> tuple[float, float]:
            network = span(bare)
            return network, span(lambda: sample_once(model, plan, batch, device)) - network

    once()
    network, rest = zip(*(once() for _ in range(rounds)))
    return Overhead(plan, batch, len(calls), median(network), median(rest))


@answered
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lab.overhead", description=__doc__.splitlines()[0])
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
    card = model.card
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
                f"network {1e3 * found.network:.2f} ms, overhead {1e3 * found.rest:.2f} ms: {found.fraction:.1%}, "
                f"{1e6 * found.per_call:.0f} µs a call, {1e6 * found.per_step:.0f} µs a step"
            )


if __name__ == "__main__":
    sys.exit(main())
