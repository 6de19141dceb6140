"""What several test files use: cases that are thinned by default, suites in this process, an installed package."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import Tensor

from paradigms import catalogue, edm, plugins
from paradigms.score_sde import ScoreSDE

# ---------------------------------------------------------------------------------------------------------- cases


def thinned(cases: list[tuple], key: Callable[[tuple], object]) -> list:
    """Of the cases with the same key one is tried by default, of each key another in turn; the others with `-m matrix`."""
    groups = dict[object, list[tuple]]()
    for case in cases:
        groups.setdefault(key(case), []).append(case)
    chosen = [group[k % len(group)] for k, group in enumerate(groups.values())]
    return [pytest.param(*case, marks=() if case in chosen else pytest.mark.matrix) for case in cases]


# ----------------------------------------------------------------------------------------------------------- suites


def jobs_here(patch: pytest.MonkeyPatch) -> list[str]:
    """While `patch` holds, a suite does its jobs in this process; the names of those that it did, in their order.

    `heavy` tests do without this.
    """
    from bench.lab import inline
    from bench.suite import stages

    names: list[str] = []

    def perform(*args, **named):
        outcomes = inline.perform(*args, **named)
        names.extend(outcomes)
        return outcomes

    patch.setattr(stages, "perform", perform)
    return names


@contextmanager
def installed_package(module: str, home: Path) -> Iterator[None]:
    """A package whose `module` in the folder `home` has recipes, and the tiers "tiny" and "other" of `home`/t.toml."""
    from bench import tiers

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(home)
        point = EntryPoint(module, module, catalogue.DOOR.group)
        patch.setattr(plugins, "entry_points", lambda group: [point] if group == catalogue.DOOR.group else [])
        plugins.forget()
        shown = tiers.tiers()
        mine = {name: tiers.get(f"{home}/t.toml:{name}") for name in ("tiny", "other")}
        patch.setattr(tiers, "tiers", lambda: {**shown, **mine})
        yield
    plugins.forget()
    sys.modules.pop(module, None)


# ------------------------------------------------------------------------------------------------- closed forms


def told_back(model) -> Callable[[Tensor], Tensor]:
    """The inverse of what the network of `model` is told of the time."""
    if isinstance(model, ScoreSDE):
        path, data = model.path, float(model.sigma_data)
        return lambda angle: path.time_of_log_snr(-2 * torch.log(data * torch.tan(angle * (math.pi / 2))))
    if isinstance(model, edm.EDM):
        lowest, highest = model.sigma_min, model.config.sigma_max
        return lambda c: (lowest / highest) ** (1 - c)
    return lambda t: t
