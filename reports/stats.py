"""Statistics over training seeds: t-intervals, Welch's test, Holm's correction and ranks with ties.

A training seed is the unit everywhere. Intervals are Student's t (a bootstrap of three seeds covers 70 %, not 95 %),
and no test is made with fewer than two seeds on a side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Summary:
    """A mean over n training seeds with the half-width of its 95 % t-interval; `half` is None for one seed."""

    mean: float
    half: float | None
    n: int

    @property
    def low(self) -> float:
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half or 0.0)


def summarise(values: Sequence[float]) -> Summary | None:
    """The mean of the finite values and its t-interval; None when there is no finite value."""
    x = np.asarray([v for v in values if math.isfinite(v)], dtype=np.float64)
    if not len(x):
        return None
    if len(x) == 1:
        return Summary(float(x[0]), None, 1)
    half = stats.t.ppf(0.5 + LEVEL / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return Summary(float(x.mean()), float(half), len(x))


@dataclass(frozen=True)
class Pair:
    """a - b: difference of means, its 95 % Welch interval, the p-value as tested and after Holm's correction.

    The p-values are NaN where no test is possible: means that differ without any spread over seeds.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    adjusted: float

    @property
    def significant(self) -> bool:
        return self.adjusted < 1 - LEVEL

    @property
    def tested(self) -> bool:
        return not math.isnan(self.p)


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float, float]:
    """(difference of means, low, high, two-sided p) of Welch's unequal-variance t-test; at least two values a side.

    p is NaN where the means differ and neither side has any spread, as with counts of modes: there is nothing to test
    the difference against, and it is no tie either.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    difference = float(x.mean() - y.mean())
    vx, vy = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    if vx + vy == 0.0:
        return difference, difference, difference, math.nan if difference else 1.0
    freedom = (vx + vy) ** 2 / (vx**2 / (len(x) - 1) + vy**2 / (len(y) - 1))
    error = math.sqrt(vx + vy)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) * error
    return difference, difference - half, difference + half, float(2 * stats.t.sf(abs(difference) / error, freedom))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    order = np.argsort(np.asarray(p), kind="stable")
    adjusted = [1.0] * len(p)
    running = 0.0
    for place, i in enumerate(order):
        running = max(running, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = running
    return adjusted


def compare(groups: Mapping[str, Sequence[float]], lower_is_better: bool = True) -> tuple[dict[str, int], list[Pair]]:
    """Ranks with ties and all pairwise tests.

    rank = 1 + the number of groups that are significantly better. Groups with fewer than two values get neither.
    """
    names = [name for name, values in groups.items() if len(values) >= 2]
    raw = [(a, b, *welch(groups[a], groups[b])) for a, b in combinations(names, 2)]
    adjusted = iter(holm([p for *_, p in raw if not math.isnan(p)]))
    pairs = [Pair(*fields, math.nan if math.isnan(fields[-1]) else next(adjusted)) for fields in raw]
    sign = 1 if lower_is_better else -1
    ranks = dict.fromkeys(names, 1)
    for pair in pairs:
        if pair.significant:
            ranks[pair.a if sign * pair.difference > 0 else pair.b] += 1
    return ranks, pairs


def agreement(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Kendall's tau between two scores of the same rows; None below three rows or when one score is constant."""
    if len(a) < 3:
        return None
    tau = float(stats.kendalltau(a, b).statistic)
    return tau if math.isfinite(tau) else None
