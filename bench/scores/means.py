"""A mean over examples as a row: in the unit of its kind of data, with its standard error and a caveat."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.store import Row
from paradigms.core.data import Space
from paradigms.maths.likelihood import bits_per_dim

__all__ = ["NATS", "Unit", "mean_row", "on_few", "standard_error", "unit_of"]

FEW = 32  # a mean hangs on few examples where these are at most one in so many


@dataclass(frozen=True)
class Unit:
    """How log-likelihoods are printed.

    metric: the column `metric` of a negative log-likelihood. name: the unit in words.
    of:     nats of log-likelihood to a number in this unit. It is linear, so values and errors are converted alike.
    """

    metric: str
    name: str
    of: Callable[[float], float]

    def size(self, nats: float) -> float:
        """The absolute value of a difference of `nats`, in this unit: errors and distances."""
        return abs(self.of(nats))


NATS = Unit("", "nats", float)  # of terms and differences, whose sign stays


def unit_of(space: Space) -> Unit:
    """The unit of negative log-likelihoods of such data: bits/dim where it has levels, else nats."""
    if space.levels:
        return Unit("bits_per_dim", "bits/dim", lambda nats: float(bits_per_dim(nats, space.dim)))
    return Unit("nll", "nats", lambda nats: -nats)


def standard_error(values: Tensor) -> float | None:
    """The standard error of the mean of values (N,); None for a single one."""
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None


def mean_row(base: Row, values: Tensor, unit: Unit, places: Callable[[Tensor], str] = lambda few: "") -> Row:
    """The row of the mean of values (N,), in nats: converted to `unit`, with its standard error. places: see `on_few`."""
    error = standard_error(values)
    return dataclasses.replace(
        base,
        value=unit.of(float(values.mean())),
        error=None if error is None else unit.size(error),
        unit=unit.name,
        reason=on_few(values, unit, places),
    )


def on_few(values: Tensor, unit: Unit = NATS, places: Callable[[Tensor], str] = lambda few: "") -> str:
    """A caveat where the mean of values (N,) hangs on a few of them: how many, which, and the mean without; else "".

    The few are farther from the median than the standard deviation of all: at most one in 32, with half or more of the
    squared deviations. Of a normal law a third is as far; of 512 log-likelihoods four at -10,000 nats are such few, and
    neither their mean nor its error says what a typical example has.

    unit:   what the values, in nats, are converted to.
    places: where the examples of such indices (k,) come from, in words; the farthest come first.
    """
    if not torch.isfinite(values).all() or len(values) < FEW:
        return ""
    median = values.quantile(0.5)
    squared = (values - median).square()
    few = squared > values.var()
    k = int(few.sum())
    if not 0 < k <= len(values) / FEW or squared[few].sum() < 0.5 * squared.sum():
        return ""
    far = squared[few].sqrt().sort().values
    near, most = (unit.size(float(distance)) for distance in (far[0], far[-1]))
    span = f"{near:,.4g}" if k == 1 else f"{near:,.4g} to {most:,.4g}"
    return (
        f"the mean hangs on {k} of {len(values):,} examples{places(squared.argsort(descending=True)[:k])}, {span} "
        f"{unit.name} from the median, which is "
        f"{unit.of(float(median)):.4g}; without them it is {unit.of(float(values[~few].mean())):.4g}"
    )
