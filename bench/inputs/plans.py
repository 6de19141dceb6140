"""Samplers, likelihoods and labels as a user writes them, as plans, kinds and tensors of class numbers."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from paradigms.errors import BadInput, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from bench.opened import Opened
    from paradigms.core.data import Space
    from paradigms.core.plans import Card, Kind, OptionValue, Plan, Sampler

__all__ = ["kind_of", "labels_of", "plan_of", "plans_of", "step_counts"]


def plan_of(
    card: Card,
    recipe: str,
    sampler: str | None,
    steps: int | None,
    guidance: float | None = None,
    options: Sequence[str] = (),
    given: str = "",
) -> Plan:
    """The card's default plan with what the user changed. Raises BadInput for what the sampler does not have.

    options: as key=value. given: what the user typed that holds the options, where that is not --option.
    """
    from paradigms.core.plans import Plan

    default = card.default
    name = sampler or default.sampler
    known = card.sampler(name)
    if known is None:
        raise BadInput(f"{recipe} has no sampler '{name}'; it has {', '.join(s.name for s in card.samplers)}")
    usual = dict(default.options) if name == default.sampler else {}
    asked = _asked_options(options, guidance, given)
    for key in asked:
        if key == "guidance" and key not in known.options:
            raise BadInput(f"sampler '{name}' of {recipe} has no guidance; leave out --guidance")
        if key not in known.options:
            raise unknown(f"option of sampler {name}:", key, known.options or ["(it has none)"])
    values = _effective(known, asked, usual, dict(default.options))
    count = steps if steps is not None else default.steps if name == default.sampler else known.steps[-1]
    plan = Plan(name, count, tuple(sorted(values.items())))
    known.check(plan)
    return plan


def _asked_options(options: Sequence[str], guidance: float | None, given: str) -> dict[str, OptionValue]:
    """The options that were typed, by name. Raises BadInput where one is given twice or is no key=value."""
    example = "eta=0.5" if given else "--option eta=0.5"
    asked: list[tuple[str, OptionValue]] = [_option(text, given or f"--option {text}", example) for text in options]
    if guidance is not None:
        asked.append(("guidance", guidance))
    keys = [key for key, _ in asked]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise BadInput(f"{given or '--option'}: {twice} is given twice; leave one out")
    return dict(asked)


def _effective(
    sampler: Sampler,
    asked: Mapping[str, OptionValue],
    usual: Mapping[str, OptionValue],
    card: Mapping[str, OptionValue],
) -> dict[str, OptionValue]:
    """The options that a plan names: the usual ones and those asked for, without what changes nothing.

    So plans that draw the same samples are equal, and their rows too. card: the options of the card's default plan.
    """
    values = dict(usual)
    for key, value in asked.items():
        values[key] = value
        if value == sampler.options[key] and key not in card:
            del values[key]
    for key, other in sampler.beside.items():
        if key in values and other not in values:
            if other not in asked:
                raise BadInput(f"{key} acts only beside {other}, which is not given; give it too, or leave {key} out")
            del values[key]  # the default value of `other` makes it idle
    return values


def _option(text: str, given: str, example: str) -> tuple[str, OptionValue]:
    """The name and value of key=value: a number, or a word where it is none."""
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


def plans_of(card: Card, recipe: str, text: str) -> list[Plan]:
    """The plans that are written as ancestral-1000 or ddim-50:eta=0.5,grid=quadratic. Raises BadInput.

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
        several = equals and not (known and key.strip() in known.falling)  # whose values are lists themselves
        choices.append([f"{key}={one}" for one in value.split("/")] if several else [option])
    count = int(steps) if steps else None
    given = f"--sampler {text}"
    return [plan_of(card, recipe, name, count, options=some, given=given) for some in itertools.product(*choices)]


def kind_of(card: Card, recipe: str, space: Space, text: str) -> Kind:
    """The likelihood on data of this space that is written as iwae or iwae:K=5000. Raises BadInput."""
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
    options = dict(kind.options)
    for part in given.split(",") if given else ():
        key, value = _option(part, f"--likelihood {text}", "iwae:K=5000")
        if key not in {**options, **kind.ranges, **kind.choices}:
            raise unknown(f"option of {name}:", key, {**options, **kind.ranges, **kind.choices} or ["(it has none)"])
        options[key] = value
    kind = dataclasses.replace(kind, options=tuple(options.items()))
    kind.check()
    return kind


def step_counts(text: str | None) -> list[int] | list[None]:
    """The step counts in a list 1,2,4; [None], the plan's own, without a list. Raises BadInput."""
    if text is None:
        return [None]
    counts = [part.strip() for part in text.split(",")]
    if any(not part.isascii() or not part.isdigit() or len(part) > 18 or int(part) < 1 for part in counts):
        raise BadInput(f"--steps {text}: write step counts separated by commas, as in --steps 1,2,4")
    return list(dict.fromkeys(int(part) for part in counts))


def labels_of(run: Opened, label: str | None, n: int, seed: int) -> Tensor | None:
    """Labels (n,): of the class that is named, or in the training split's proportions; None for an unconditional model.

    A label without a training example is warned of on stderr. Raises BadInput.
    """
    import torch

    from bench import scores
    from bench.data.dataset import label_of
    from bench.data.names import readable

    model, recipe = run.paradigm, run.info.recipe
    if not model.space.classes:
        if label is not None:
            again = "leave out --label, or train it with --conditional first"
            raise BadInput(f"{recipe} was trained without labels: {again}")
        return None
    found = run.data
    if label is None:
        return scores.pool_labels(model, found.train, n, seed)
    numbers, label = tuple(map(str, range(model.space.classes))), readable(label)
    names = found.labels or numbers
    index = label_of(label, names)
    if index is None and label.lstrip("+-").isdigit() and (names == numbers or not any(map(str.isdigit, names))):
        raise BadInput(f"--label {label}: the labels of {run.info.dataset} are 0 to {model.space.classes - 1}")
    if index is None:
        raise unknown("label", label, names)
    if found.train.y is not None and not bool((found.train.y == index).any()):
        print(f"warning: the model was never shown label {label}: it has no training example", file=sys.stderr)
    return torch.full((n,), index)
