"""Plans of samplers, kinds of likelihood with their estimates, and the card on which a recipe claims them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from torch import Tensor

from paradigms.core.data import Space
from paradigms.errors import BadInput, unknown

__all__ = ["Card", "Estimate", "Kind", "OptionValue", "Plan", "Sampler", "check_settings", "settings_text"]


OptionValue = float | str


def settings_text(options: Iterable[tuple[str, OptionValue]], between: str = ",") -> str:
    """Options as they are written everywhere: name=value,..."""
    return between.join(f"{k}={v}" if isinstance(v, str) else f"{k}={v:g}" for k, v in options)


class _Options:
    """What plans and kinds of likelihood share: options by name, numbers or words."""

    options: tuple[tuple[str, OptionValue], ...]

    def settings(self) -> dict[str, OptionValue]:
        """Every option that is set, by name."""
        return dict(self.options)

    def option(self, name: str, default: float | None = None) -> float:
        """A number. Raises TypeError for a word, and KeyError where it is not set and has no default."""
        value = self._value(name, default)
        if isinstance(value, str):
            raise TypeError(f"{name} is a number, not '{value}'")
        return value

    def word(self, name: str, default: str | None = None) -> str:
        """A word. Raises KeyError where it is not set and has no default."""
        return str(self._value(name, default))

    def _value(self, name: str, default: OptionValue | None) -> OptionValue:
        found = self.settings()
        return found[name] if default is None else found.get(name, default)

    def numbers(self, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """A list of numbers written 0.8/0.4; `default` for a word in its place."""
        value = dict(self.options).get(name, "")
        try:
            return tuple(float(v) for v in str(value).split("/"))
        except ValueError:
            return default


@dataclass(frozen=True)
class Plan(_Options):
    """How to draw: a sampler of the card, its number of steps, and its options by name."""

    sampler: str
    steps: int = 1
    options: tuple[tuple[str, OptionValue], ...] = ()

    def __str__(self) -> str:
        return f"{self.sampler}-{self.steps}" + (f" {settings_text(self.options, ' ')}" if self.options else "")


def check_settings(
    name: str,
    given: Iterable[tuple[str, OptionValue]],
    ranges: Mapping[str, tuple[float, float]],
    choices: Mapping[str, tuple[str, ...]],
) -> None:
    """Raises BadInput for a word that is no choice, or a number outside its range; two ints: whole numbers only."""
    for key, value in given:
        if key in choices:
            if value not in choices[key]:
                raise BadInput(
                    f"{name} takes {key} from {', '.join(choices[key])}; not {settings_text([('', value)])[1:]}"
                )
            continue
        if isinstance(value, str):
            raise BadInput(f"{name} takes a number for {key}, not '{value}'")
        low, high = ranges.get(key, (-math.inf, math.inf))
        whole = isinstance(low, int) and isinstance(high, int)
        if not low <= value <= high or (whole and value != int(value)):
            what = f"whole numbers {key} from {low:,} to {high:,}" if whole else f"{key} from {low:g} to {high:g}"
            raise BadInput(f"{name} takes {what}, not {value:g}")


@dataclass(frozen=True)
class Sampler:
    """A sampler's claims, held by the tests.

    steps:      the step counts that a sweep tries.
    calls:      (a, b): network calls = a * steps + b, options at their defaults. None: adaptive, known only by counting.
    order:      of the numerical method, where it has one.
    stochastic: draws noise beyond the prior.
    options:    what `Plan.options` may hold, with defaults; `ranges` the numbers that each may take, both ends included
                (two ints: whole numbers only), `choices` the words.
    beside:     options that act only where another one is not at its default, and that one.
    falling:    options that are lists of falling numbers strictly within a range, one for each step after the first,
                written 0.8/0.4; their default is a word.
    most:       the largest number of steps.
    main:       tried at every step count in a short sweep; the others only in a full one.
    """

    name: str
    steps: tuple[int, ...]
    calls: tuple[int, int] | None = (1, 0)
    order: int | None = None
    stochastic: bool = False
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    falling: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    note: str = ""
    most: int = 100_000
    main: bool = True

    def check(self, plan: Plan) -> None:
        """Raises BadInput when the plan asks for what this sampler does not have."""
        if self.steps == (1,) and plan.steps != 1:
            raise BadInput(f"{self.name} takes no number of steps; leave it out")
        if not 1 <= plan.steps <= self.most:
            raise BadInput(f"{self.name} takes 1 to {self.most:,} steps, not {plan.steps}")
        for name, _ in plan.options:
            if name not in self.options:
                raise unknown(f"option of {self.name}", name, self.options)
        lists = [(name, value) for name, value in plan.options if name in self.falling]
        for name, value in lists:
            if value != self.options[name]:
                self._check_falling(plan, name, value)
        check_settings(self.name, (o for o in plan.options if o not in lists), self.ranges, self.choices)

    def _check_falling(self, plan: Plan, name: str, value: OptionValue) -> None:
        low, high = self.falling[name]
        numbers = plan.numbers(name, ())
        given = f"{name}={settings_text([('', value)])[1:]}"
        if not numbers:
            raise BadInput(f"{self.name} takes {name} written 0.8/0.4, or {self.options[name]}; not {given}")
        if len(numbers) != plan.steps - 1:
            raise BadInput(
                f"{given} is for {len(numbers) + 1} steps, not {plan.steps}; give one for each after the first"
            )
        if not all(a > b for a, b in pairwise((high, *numbers, low))):
            raise BadInput(f"{self.name} takes falling {name} between {low:g} and {high:g}; not {given}; sort them")

    def complete(self, plan: Plan) -> Plan:
        """The plan with every option of this sampler, those that it leaves open at their defaults."""
        return replace(plan, options=tuple({**self.options, **dict(plan.options)}.items()))

    def calls_at(self, steps: int) -> int | None:
        return None if self.calls is None else self.calls[0] * steps + self.calls[1]


@dataclass(frozen=True)
class Kind(_Options):
    """A kind of likelihood a paradigm can compute.

    relation:    how the printed negative log-likelihood stands to the model's own: "=" exact, "≤" the true one is at most
                 this (a bound), "≈" an estimate.
    calls:       network calls per image it spends, so that a tier can choose what it can afford.
    dequantised: a density of continuous data, so on data with levels an exact one still only bounds the mass.
    levels_only: it says nothing new of data without levels, so there it is not asked for.
    ranges:      the numbers that each option may take, both ends included; two ints: whole numbers only.
    choices:     the words that an option may be.
    defaults:    options that are only spoken of where they are given.
    """

    name: str
    relation: str
    calls: int
    options: tuple[tuple[str, OptionValue], ...] = ()
    dequantised: bool = False
    note: str = ""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    defaults: Mapping[str, OptionValue] = field(default_factory=dict, hash=False)
    levels_only: bool = False

    def settings(self) -> dict[str, OptionValue]:
        """Every option by name, defaults among them."""
        return {**self.defaults, **dict(self.options)}

    def check(self) -> None:
        """Raises BadInput when an option is outside its range, or no choice."""
        check_settings(self.name, self.options, self.ranges, self.choices)

    def relation_on(self, space: Space) -> str:
        """The relation on this kind of data."""
        return "≤" if self.relation == "=" and self.dequantised and space.levels else self.relation

    def __str__(self) -> str:
        return f"{self.name}({settings_text(self.options)})" if self.options else self.name


@dataclass(frozen=True)
class Estimate:
    """A log-likelihood, nats per example, (B,), with named parts and named errors (each (B,))."""

    value: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    errors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """What a paradigm says of itself, as data. `default` is the headline plan, named before any score is seen."""

    title: str
    paper: str
    year: int
    url: str
    samplers: tuple[Sampler, ...]
    default: Plan
    likelihoods: tuple[Kind, ...] = ()
    no_likelihood: str = ""

    def sampler(self, name: str) -> Sampler | None:
        return next((s for s in self.samplers if s.name == name), None)

    def likelihoods_on(self, space: Space) -> tuple[Kind, ...]:
        """The kinds of likelihood that say something of such data."""
        return tuple(kind for kind in self.likelihoods if space.levels or not kind.levels_only)
