"""Statistics over training seeds: intervals, tests, ranks with ties, and what may be said over several data sets.

A training seed is the unit everywhere: retraining moves these numbers more than drawing again from a trained model
does. Intervals are Student's t (a bootstrap of three seeds covers 70 %, not 95 %); different recipes are compared by
Welch's t, plans of the same trained models by the paired t; Holm's method corrects for the number of tests. No test is
made with fewer than two seeds on a side. Disjoint sample sets of one model ("draws") are averaged before anything else
and their spread is given apart. `python -m reports.coverage` measures how often the intervals hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
ALPHA = 1 - LEVEL
POWER = 0.8
ENOUGH = 30  # runs of a recipe over all data sets before an interquartile mean of them is worth its interval
PERMUTATIONS = 9_999  # up to so many relabellings are enumerated, of more as many are drawn


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
    half = _quantile(len(x) - 1.0) * x.std(ddof=1) / math.sqrt(len(x))
    return Summary(float(x.mean()), float(half), len(x))


@lru_cache(maxsize=4096)
def _quantile(freedom: float) -> float:
    """Of Student's t: what 95 % lie within, on both sides."""
    return float(stats.t.ppf(0.5 + LEVEL / 2, freedom))


def pooled_spread(groups: Iterable[Sequence[float]]) -> float | None:
    """Standard deviation within groups, pooled over them by their degrees of freedom (n_i - 1).

    A group holds what disjoint sample sets of one trained model score. None where no group has two values.
    """
    kept = [x for g in groups if len(x := np.asarray([v for v in g if math.isfinite(v)], dtype=np.float64)) > 1]
    freedom = sum(len(x) - 1 for x in kept)
    return math.sqrt(sum(float(x.var(ddof=1)) * (len(x) - 1) for x in kept) / freedom) if freedom else None


# ------------------------------------------------------------------------------------------------------- differences


@dataclass(frozen=True)
class Difference:
    """A difference of means over training seeds with its 95 % interval and two-sided p-value.

    n:     seeds on either side; of a paired difference the number of pairs, twice.
    error: standard error. p is NaN where the means differ without any spread over seeds, as counts of modes do: there
           is nothing to test the difference against, and it is no tie either.
    """

    mean: float
    low: float
    high: float
    p: float
    error: float
    freedom: float
    n: tuple[int, int]
    paired: bool = False


def welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """a - b by Welch's unequal-variance t-test; at least two values a side (Welch 1947)."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    vx, vy = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    freedom = (vx + vy) ** 2 / (vx**2 / (len(x) - 1) + vy**2 / (len(y) - 1)) if vx + vy > 0 else math.inf
    return _difference(float(x.mean() - y.mean()), math.sqrt(vx + vy), float(freedom), (len(x), len(y)))


def paired(differences: Sequence[float]) -> Difference:
    """The mean of differences between two treatments of the same trained models, by Student's t; at least two."""
    d = np.asarray(differences, dtype=np.float64)
    error = float(d.std(ddof=1)) / math.sqrt(len(d))
    return _difference(float(d.mean()), error, len(d) - 1.0, (len(d), len(d)), True)


def _difference(mean: float, error: float, freedom: float, n: tuple[int, int], paired: bool = False) -> Difference:
    if error == 0.0:
        return Difference(mean, mean, mean, math.nan if mean else 1.0, 0.0, freedom, n, paired)
    half = _quantile(freedom) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Difference(mean, mean - half, mean + half, p, error, freedom, n, paired)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    order = np.argsort(np.asarray(p), kind="stable")
    adjusted = [1.0] * len(p)
    running = 0.0
    for place, i in enumerate(order):
        running = max(running, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = running
    return adjusted


# ------------------------------------------------------------------------------------------------- permutation tests


def permutation_floor(n: int, m: int = 0) -> float:
    """The smallest two-sided p that an exact permutation test can give.

    Of two groups of n and m: 2 / (n + m choose n). Of n pairs, with m = 0: 2 / 2^n, by flips of sign.
    """
    return 2.0 / (math.comb(n + m, n) if m else 2**n)


def permutation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of the difference of means over all relabellings; None where it can not be below 0.05."""
    if permutation_floor(len(a), len(b)) >= ALPHA:
        return None

    def statistic(x: Any, y: Any, axis: int = -1) -> Any:
        return np.mean(x, axis=axis) - np.mean(y, axis=axis)

    return _permute((a, b), statistic, "independent")


def sign_flips(differences: Sequence[float]) -> float | None:
    """Two-sided p of paired differences over all flips of their signs; None where it can not be below 0.05."""
    if permutation_floor(len(differences)) >= ALPHA:
        return None
    return _permute((differences,), np.mean, "samples")


def _permute(data: tuple[Sequence[float], ...], statistic: Callable[..., Any], kind: str) -> float:
    found = stats.permutation_test(
        tuple(np.asarray(x, dtype=np.float64) for x in data),
        statistic,
        permutation_type=kind,
        vectorized=True,
        n_resamples=PERMUTATIONS,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


# ------------------------------------------------------------------------------------------------------------- ranks


@dataclass(frozen=True)
class Pair:
    """a - b by Welch's t, with the p-value after Holm's correction and that of a permutation test where one can tell.

    The p-values are NaN where no test is possible: means that differ without any spread over seeds.
    """

    a: str
    b: str
    found: Difference
    adjusted: float
    permutation: float | None = None

    @property
    def difference(self) -> float:
        return self.found.mean

    @property
    def p(self) -> float:
        return self.found.p

    @property
    def significant(self) -> bool:
        return self.adjusted < ALPHA

    @property
    def tested(self) -> bool:
        return not math.isnan(self.found.p)


def compare(groups: Mapping[str, Sequence[float]], lower_is_better: bool = True) -> tuple[dict[str, int], list[Pair]]:
    """Ranks with ties and all pairwise tests.

    rank = 1 + the number of groups that are significantly better. Groups with fewer than two values get neither.
    """
    names = [name for name, values in groups.items() if len(values) >= 2]
    raw = [(a, b, welch(groups[a], groups[b])) for a, b in combinations(names, 2)]
    adjusted = iter(holm([found.p for *_, found in raw if not math.isnan(found.p)]))
    pairs = [Pair(a, b, found, math.nan if math.isnan(found.p) else next(adjusted)) for a, b, found in raw]
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


# ------------------------------------------------------------------------------------------------ what would be needed


def needed(difference: float, variance: float, other: float | None = None, most: int = 10_000) -> int | None:
    """Seeds (a side) with which a t-test shows such a difference in 80 % of repetitions, were it and the spread true.

    variance, other: over training seeds, of either side (Welch's t, equal n); without `other` of paired differences.
    None above `most`, or without spread.
    """
    total = variance + (other or 0.0)
    if difference == 0 or total <= 0:
        return None

    def power(n: int) -> float:
        freedom = n - 1.0
        if other is not None:
            freedom *= total**2 / (variance**2 + other**2)
        shift, limit = abs(difference) / math.sqrt(total / n), _quantile(freedom)
        return float(stats.nct.sf(limit, freedom, shift) + stats.nct.cdf(-limit, freedom, shift))

    low, high = 1, 2
    while power(high) < POWER:
        low, high = high, 2 * high
        if low > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power(middle) < POWER else (low, middle)
    return high if high <= most else None


# ------------------------------------------------------------------------------------------------ over several data sets


@dataclass(frozen=True)
class Aggregate:
    """An interquartile mean over all runs of a recipe on all data sets with its 95 % interval."""

    mean: float
    low: float
    high: float
    runs: int
    sets: int


def interquartile_mean(strata: Sequence[Sequence[float]], resamples: int = 2_000) -> Aggregate:
    """Mean of the middle half of all scores, with a percentile interval of a bootstrap stratified by data set.

    strata: scores of one recipe, a sequence of at least two for each data set (Agarwal et al. 2021, arXiv:2108.13264).
    Resampling m runs of a set has (m - 1)/m of their variance, which leaves 83 % of the 95 % at three runs: the interval
    is widened by the square root of its inverse (as is done in survey sampling; Rao & Wu 1988).
    """
    data = tuple(np.asarray(s, dtype=np.float64) for s in strata)
    found = stats.bootstrap(
        data,
        _middle,
        method="percentile",
        confidence_level=LEVEL,
        n_resamples=resamples,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    whole, runs = float(_middle(*data)), sum(map(len, data))
    wider = math.sqrt(runs / (runs - len(data)))
    low, high = (whole + wider * (float(end) - whole) for end in found.confidence_interval)
    return Aggregate(whole, low, high, runs, len(data))


def _middle(*strata: Any, axis: int = -1) -> Any:
    return stats.trim_mean(np.concatenate(strata, axis=axis), 0.25, axis=axis)


def profile(strata: Sequence[Sequence[float]], thresholds: Sequence[float]) -> list[float]:
    """For each threshold the share of runs that score no more, averaged over data sets: a performance profile."""
    shares = [[np.mean(np.asarray(s) <= t) for t in thresholds] for s in strata]
    return [float(v) for v in np.mean(shares, axis=0)]
