"""What a key-value cache saves in sequential sampling: `python -m bench.lab.kv_cache [RECIPE ...] [--batch 1 64]`.

For every recipe whose model has `flow.inverse(z, y, cached)`, at 16, 49 and 64 tokens and the width of the quick tier's
parameters, one batch is drawn with the cache and without in turn (A B A B ...). Without it each step reads all tokens
drawn so far, and no more than those. Printed are the median and the quartiles of both, and of the ratio of each pair, and
the most memory alive in a draw of each.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch

from bench import runs, tiers
from bench.lab.peers import megabytes
from bench.script import answered
from bench.sharing import alone_on
from paradigms import catalogue
from paradigms.contract import Paradigm
from paradigms.core.data import Space
from paradigms.core.noise import Noise
from paradigms.errors import BadInput

__all__ = ["Pair", "compare"]

SPACES = (Space((1, 8, 8), 0, 17), Space((1, 28, 28), 0, 256), Space((3, 32, 32), 0, 256))


@dataclass(frozen=True)
class Pair:
    """Seconds of the same draw with the cache and without, one entry a round, and the 10^6 bytes that each holds."""

    cached: list[float]
    uncached: list[float]
    cached_megabytes: float
    uncached_megabytes: float

    @property
    def ratios(self) -> list[float]:
        return [b / a for a, b in zip(self.cached, self.uncached)]


def sequential(model: Any) -> bool:
    """Whether a model draws token by token, with a cache that can be left out."""
    return isinstance(model, Paradigm) and hasattr(getattr(model, "flow", None), "tokens")


def compare(model: Any, batch: int, rounds: int = 10, device: str = "cpu") -> Pair:
    """Times the inverse of one batch with the cache and without, in turn, after one round that is not counted."""
    z = model.prior(batch, Noise("z", device=device))
    labels = torch.arange(batch, device=device) % model.space.classes if model.space.classes else None
    # On one CPU thread its own time: other work on the machine hardly moves it.
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    now = time.process_time if alone else time.perf_counter

    def clock(cached: bool) -> float:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        start = now()
        model.flow.inverse(z, labels, cached=cached)
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        return now() - start

    with alone_on(torch.device(device)):
        pairs = [(clock(True), clock(False)) for _ in range(rounds + 1)][1:]
    held = [
        megabytes(lambda c=cached: model.flow.inverse(z, labels, cached=c), torch.device(device))  # type: ignore[misc]
        for cached in (True, False)
    ]
    return Pair([a for a, _ in pairs], [b for _, b in pairs], *held)


def spread(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """The median and the quartiles, as "3.1 (2.9-3.4)"."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return f"{scale * median(values):.{digits}f} ({scale * low:.{digits}f}-{scale * high:.{digits}f})"


@answered
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lab.kv_cache", description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: all that draw token by token")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="batch sizes")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    name = torch.cuda.get_device_name(given.device) if given.device.startswith("cuda") else "CPU"
    print(f"{name}, {given.threads} threads, torch {torch.__version__}, {given.rounds} rounds; milliseconds a batch")
    chosen = [catalogue.get(r) for r in given.recipes] or list(catalogue.recipes().values())
    for recipe in chosen:
        for space in SPACES:
            reason = recipe.paradigm.refuses(recipe.config, space)
            if recipe.needs or reason is not None or not sequential(recipe.build(space, 8, {})):
                if given.recipes:
                    raise BadInput(f"{recipe.name}: {reason or 'does not draw token by token'}")
                break
            target = tiers.get("quick").budget(space).params
            width, _ = runs.fit_width(recipe, space, target, {}, recipe.config)
            model: Any = recipe.build(space, width, {}).eval().to(given.device)
            for batch in given.batch:
                found = compare(model, batch, given.rounds, given.device)
                print(
                    f"{recipe.name} {'x'.join(map(str, space.shape))}, {model.flow.tokens} tokens x "
                    f"{len(model.flow.blocks)} blocks, width {width}, batch {batch}: "
                    f"cached {spread(found.cached, 1e3)}, uncached {spread(found.uncached, 1e3)}, "
                    f"{spread(found.ratios)} times; {found.cached_megabytes:.2f} and "
                    f"{found.uncached_megabytes:.2f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    sys.exit(main())
