"""The conformance checks of anything that can be added: a recipe, a backbone, a data set, a metric, or a module with some."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from bench.data import sets
from bench.data.dataset import Dataset
from bench.data.names import Definition
from bench.features.space import Features
from bench.metrics import Compared, Value, table, values_of
from paradigms import catalogue
from paradigms.backbones import build
from paradigms.backbones.networks import Networks
from paradigms.errors import BadInput, unknown
from paradigms.plugins import taken_for_installed
from paradigms.recipe import Recipe
from paradigms.testing import Result, check_backbone, check_recipe
from reports.metrics import Metric

__all__ = ["checked"]

Thing = Recipe | Networks | Definition | Metric
DOORS = catalogue.DOOR, build.DOOR, sets.DOOR, table.DOOR


def checked(name: str) -> Iterator[tuple[Thing, Result]]:
    """Everything that a name means, with the result of each of its checks.

    It means a recipe, backbone, data set or metric of that name, or all that a module defines, whose recipes may stand on one
    another. Raises BadInput where it is none, or the module can not be imported or defines nothing.
    """
    known: list[dict[str, Any]] = [catalogue.recipes(), dict(build.known()), sets.definitions(), dict(table.known())]
    found = [things[name] for things in known if name in things]
    installed: AbstractContextManager[None] = nullcontext()
    if not found:
        found = _defined(name, [n for things in known for n in things])
        installed = taken_for_installed(name, DOORS)
    with installed:
        for thing in found:
            for result in _results(thing):
                yield thing, result


def _defined(name: str, known: Sequence[str]) -> list[Thing]:
    """What a module defines."""
    sys.path.insert(0, os.getcwd())  # where a module may lie that is not installed yet
    if "." not in name and name not in sys.modules and importlib.util.find_spec(name) is None:
        raise next((e for door in DOORS if (e := door.broken(name))), None) or unknown(
            "recipe, backbone, data set, metric or module", name, known
        )
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything
        raise BadInput(f"{name} can not be imported: {type(error).__name__}: {error}; mend it") from error
    tuples = (getattr(module, door.attribute, ()) for door in DOORS)
    defined = [thing for found in tuples for thing in (found if isinstance(found, (tuple, list)) else (found,))]
    if not defined or not all(isinstance(thing, Thing) for thing in defined):
        names = ", ".join(door.attribute for door in DOORS)
        raise BadInput(f"{name} defines none of {names}, tuples of definitions; add one at its foot")
    return defined


def _results(thing: Thing) -> Iterator[Result]:
    if isinstance(thing, Recipe):
        yield from check_recipe(thing)
    elif isinstance(thing, Networks):
        yield from check_backbone(thing)
    elif isinstance(thing, Definition):
        yield _tried("loads as it says", "all", lambda: _load_twice(thing))
    else:
        yield from _check_metric(thing)


def _tried(what: str, where: str, act: Callable[[], str]) -> Result:
    try:
        return Result(what, where, act())
    except (Exception, SystemExit) as error:  # an author's code may raise anything
        text = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
        return Result(what, where, text.splitlines()[0])


def _load_twice(definition: Definition) -> str:
    """What is wrong with the data set; "" where it is as its definition says, and the same each time."""
    first, again = sets.loaded(definition), sets.loaded(definition)
    if first.checksum != again.checksum:
        return "it is another each time that it is loaded; draw from a generator with a fixed seed"
    counts = len(first.train), len(first.test)
    said = definition.n_train, definition.n_test
    if any(n and n != count for n, count in zip(said, counts)):
        return f"it says {said[0]:,} + {said[1]:,} examples, and has {counts[0]:,} + {counts[1]:,}"
    return "" if first.source else "Dataset.source says nothing: what it is, where from, which licence"


def _check_metric(metric: Metric) -> Iterator[Result]:
    """On real data against real data: finite, the same each time, and nothing written to."""
    if metric.by is None:
        yield Result("is computed with others of ours", "all")
        return
    names = {"vectors": ("ring8",), "samples": ("digits", "ring8")}.get(metric.on, ("digits",))
    for name in names:
        yield _tried("gives a finite value of its name", name, partial(_value_of, metric, sets.load(name)))


def _value_of(metric: Metric, data: Dataset) -> str:
    n = min(400, len(data.train), len(data.test))
    x, real = data.train.x[:n].clone(), data.test.x[:n].clone()
    y, truth = (None if part.y is None else part.y[:n] for part in (data.train, data.test))
    features: list[Features | None] = [None, None]
    if metric.on == "features":
        from bench.features import random_conv

        space = random_conv(data.space.shape)
        features = [space.features(v, stored=data.space) for v in (x, real)]
    given = Compared(x, real, y, truth, features[0], features[1], data.density, "test")
    state = torch.get_rng_state()
    first, again = values_of(metric, given), values_of(metric, given)
    if not first or not all(isinstance(v, Value) and math.isfinite(v.value) for v in first):
        return f"it gave {[v.value for v in first]}"
    if [v.value for v in first] != [v.value for v in again]:
        return "the same samples gave another value; draw from a generator with a fixed seed"
    if not torch.equal(torch.get_rng_state(), state):
        return "it drew from the global generator; use one of its own with a fixed seed"
    untouched = torch.equal(x, data.train.x[:n]) and torch.equal(real, data.test.x[:n])
    return "" if untouched else "it wrote to the samples or the real data"
