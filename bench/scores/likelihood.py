"""Negative log-likelihoods of a model on examples of either split, with their errors and terms, as rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.arithmetic import DTYPES
from bench.data import Dataset
from bench.scores import pools
from bench.scores.means import NATS, mean_row, unit_of
from bench.scores.reference import subset
from bench.scores.rows import Rows
from bench.scores.subject import Subject
from bench.scores.work import Work
from bench.store import Row
from bench.tiers import Tier
from paradigms.backbones import count_calls
from paradigms.contract import Paradigm
from paradigms.core.data import Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Kind, settings_text

__all__ = ["Examples", "affordable", "costs", "divergence", "examples_of", "none_row", "of_splits", "rows"]

NAMED = 5  # examples named at most, of those that decide a likelihood


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples whose likelihood is taken: a part of one split of a data set."""

    part: Data
    split: str
    found: Dataset

    def places(self, few: Tensor) -> str:
        """Which examples of the split those at the indices `few` (k,) are, in words."""
        whole = {"train": self.found.train, "test": self.found.test}[self.split].x
        places = [int((whole == self.part.x[i]).flatten(1).all(1).nonzero()[0]) for i in few[:NAMED]]
        more = " …" if len(few) > NAMED else ""
        return f" (of the {self.split} part, counted from 0: {', '.join(map(str, places))}{more})"

    @property
    def entropy(self) -> float | None:
        """The entropy (nats) of what the examples were drawn from, on the test split of a toy that knows it; else None."""
        return self.found.density.entropy if self.split == "test" and self.found.density is not None else None


def examples_of(found: Dataset, tier: Tier) -> list[Examples]:
    """The examples of each split whose likelihoods the tier takes."""
    return [
        Examples(subset(part, tier.likelihood_n, found.key, f"likelihood {split}"), split, found)
        for split, part in (("test", found.test), ("train", found.train))
    ]


def affordable(card: Card, space: Space, calls: int) -> list[Kind]:
    """For each kind of likelihood of such data the most expensive variant within the calls, in the card's order."""
    best: dict[str, Kind] = {}
    for kind in card.likelihoods_on(space):
        if kind.calls <= calls and (kind.name not in best or kind.calls > best[kind.name].calls):
            best[kind.name] = kind
    return list(best.values())


def costs(kinds: Sequence[Kind], found: Dataset, tier: Tier) -> list[float]:
    """The network calls of each part of `of_splits`."""
    sizes = [len(examples.part) for examples in examples_of(found, tier)]
    return [n * max(1, kind.calls) for kind in kinds for n in sizes]


def of_splits(base: Row, kind: Kind, subject: Subject, work: Work) -> list[Row]:
    """The rows of one kind of likelihood on both splits; a failure is a row."""
    model, table = subject.run.paradigm, Rows(base)
    for examples in examples_of(subject.data, subject.tier):
        here = table.having(split=examples.split, **_columns(kind, model.space))
        part = work.part(f"{kind.name} {examples.split}", len(examples.part))
        with part as tell, here.part(unit_of(model.space).metric):
            table.made.extend(rows(base, model, kind, examples, subject.run.device, tell))
    return table.made


def _columns(kind: Kind, space: Space) -> dict[str, Any]:
    """The columns that say which likelihood a row holds."""
    return {"kind": kind.name, "relation": kind.relation_on(space), "options": settings_text(kind.options)}


def rows(
    base: Row,
    model: Paradigm,
    kind: Kind,
    examples: Examples,
    device: torch.device | str = "cpu",
    tell: Callable[[int], None] | None = None,
) -> list[Row]:
    """The rows of the negative log-likelihood of examples in bits/dim (data with levels) or nats.

    The value's own error is the standard error over the examples, which contains what dequantisation and random probes
    scatter. Systematic errors that the estimate knows of (the solver's) come as rows of their own, averaged over
    examples; so do its named terms, in nats, and for toys the divergence.
    """
    found = _estimate(model, kind, examples, device, tell)
    value, unit = found.value, unit_of(model.space)
    base = dataclasses.replace(
        base,
        dtype=DTYPES["fp32"],
        split=examples.split,
        n=len(value),
        calls=found.calls,
        sampler="",
        steps=None,
        unit=unit.name,
        **_columns(kind, model.space),
    )
    main = mean_row(dataclasses.replace(base, metric=unit.metric), value, unit, examples.places)
    if lost := int((~torch.isfinite(value)).sum()):
        main = dataclasses.replace(main, reason=f"{lost} of {len(value)} examples have no finite likelihood")
    made = [main]
    size = dataclasses.replace(unit, of=unit.size)
    for name, known in found.errors.items():
        row = mean_row(dataclasses.replace(base, metric=f"{unit.metric}_{name}_error"), known.abs(), size)
        made.append(dataclasses.replace(row, error=None))
    for name, term in found.terms.items():
        made.append(mean_row(dataclasses.replace(base, metric=f"term_{name}"), term, NATS))
    if not model.space.levels and examples.entropy is not None:
        made.append(divergence(main, value, examples))
    return made


@dataclass(frozen=True, eq=False)
class _Estimate:
    """Log-likelihoods (N,) in nats as float64, their named terms and systematic errors alike, and calls per example."""

    value: Tensor
    terms: dict[str, Tensor]
    errors: dict[str, Tensor]
    calls: float


@torch.no_grad()
def _estimate(
    model: Paradigm,
    kind: Kind,
    examples: Examples,
    device: torch.device | str,
    tell: Callable[[int], None] | None,
) -> _Estimate:
    """The estimate of all examples, on the CPU, chunk by chunk."""
    # The same dequantisation for every run: numbers on one data set are paired.
    noise = Noise("likelihood", examples.found.key, examples.split, device=device)
    data, size = examples.part, pools.chunk_size(model.space, device)
    values: list[Tensor] = []
    terms: dict[str, list[Tensor]] = {}
    errors: dict[str, list[Tensor]] = {}
    with count_calls() as count:
        for first in range(0, len(data), size):
            index = torch.arange(first, min(first + size, len(data)))
            batch = dataclasses.replace(data, space=model.space).batch(index)
            cond = None if batch.y is None else batch.y.to(device)
            estimate = model.log_likelihood(batch.x.to(device), kind, noise.rows(first), cond)
            values.append(estimate.value.detach().double().cpu())
            for into, named in ((terms, estimate.terms), (errors, estimate.errors)):
                for name, part in named.items():
                    into.setdefault(name, []).append(part.detach().double().cpu())
            if tell is not None:
                tell(first + len(batch.x))
    calls = count.examples / len(data) if count.calls else 0.0
    whole = [{name: torch.cat(parts) for name, parts in named.items()} for named in (terms, errors)]
    return _Estimate(torch.cat(values), whole[0], whole[1], calls)


def divergence(nll: Row, value: Tensor, examples: Examples) -> Row:
    """The row of KL(data || model) in nats, for examples whose entropy is known.

    nll: the row of the negative log-likelihood. value: the log-likelihoods (N,) behind it. Where log p is known the
    difference is taken example by example, which scatters far less.
    """
    density = examples.found.density
    assert density is not None
    assert density.entropy is not None
    assert nll.value is not None
    row = dataclasses.replace(nll, metric="kl")
    if density.log_prob is None:
        return dataclasses.replace(row, value=nll.value - density.entropy)
    difference = density.log_prob(examples.part.x.double()) - value
    row = mean_row(row, difference, NATS, examples.places)
    return row if bool(difference.isfinite().all()) else dataclasses.replace(row, reason=nll.reason)


def none_row(base: Row, card: Card, space: Space, tier: Tier) -> Row:
    """The row without a value of a run whose likelihoods are none, or dearer than the tier allows; it says why."""
    reason = card.no_likelihood
    if card.likelihoods:
        cheapest = min(card.likelihoods_on(space), key=lambda kind: kind.calls)
        reason = (
            f"{cheapest.name} takes {cheapest.calls} network calls an example; "
            f"the tier '{tier.name}' allows {tier.likelihood_calls}"
        )
    unit = unit_of(space)
    return dataclasses.replace(base, split="test", metric=unit.metric, value=math.nan, reason=reason, unit=unit.name)
