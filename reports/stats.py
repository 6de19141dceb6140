"""Statistics over training seeds: intervals, tests, the order of recipes, and what may be said over several data sets.

A training seed is the unit everywhere: retraining moves these numbers more than drawing again from a trained model
does. Intervals of a mean are Student's t (a bootstrap of three seeds covers 70 %, not 95 %). Disjoint sample sets of one
model ("draws") are averaged before anything else and their spread is given apart. No test is made with fewer than two
seeds on a side. Plans of the same trained models are compared by the paired t.

Different recipes are compared all together (`compare`). Three seeds say little of one recipe's spread, so each variance
s_i^2, of d_i = n_i - 1 degrees of freedom, is moderated by the one pooled over all recipes (Smyth 2004, with a fixed
weight d_0 in place of an estimated one):

    v_i = (d_i s_i^2 + d_0 s^2) / (d_i + d_0),   s^2 = sum d_i s_i^2 / sum d_i
    T_ij = |mean_i - mean_j| / sqrt(v_i / n_i + v_j / n_j)

The family's p of a pair is the chance that the largest T of all pairs is as large when no two recipes differ, for normal
errors with the least favourable of all spreads that are at most fivefold apart, by simulation: it holds the family-wise
error for all pairs together (Tukey's range, with room for unequal spreads). The p of one planned pair is the same for that
pair's T alone. Positive scores are compared on the scale of logarithms, where a difference is a ratio.

`python -m reports.coverage` measures how often the intervals hold the truth, how often `compare` raises a false alarm, and what
differences it sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
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
    """A mean over n training seeds with the half-width of its 95 % t-interval, and the least and the most of them.

    half: None for one seed, and for seeds that do not vary: three equal counts are no sign of a spread of 0.
    """

    mean: float
    half: float | None
    n: int
    least: float
    most: float

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
    least, most = float(x.min()), float(x.max())
    if least == most:
        return Summary(least, None, len(x), least, most)
    half = _quantile(len(x) - 1.0) * x.std(ddof=1) / math.sqrt(len(x))
    return Summary(float(x.mean()), float(half), len(x), least, most)


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
    """A difference of means over training seeds, a - b, with its 95 % interval and two-sided p-value.

    log:   whether it is one of natural logarithms: exp of it is the ratio a / b.
    n:     seeds on either side; of a paired difference the number of pairs, twice.
    error: standard error. p is NaN where there is no spread over seeds to test the difference against.
    """

    mean: float
    low: float
    high: float
    p: float
    error: float
    n: tuple[int, int]
    paired: bool = False
    log: bool = False

    def reversed(self) -> Difference:
        """b - a."""
        return replace(self, mean=-self.mean, low=-self.high, high=-self.low, n=(self.n[1], self.n[0]))


def location(values: Sequence[float], log: bool = False) -> float:
    """What orders scores: their mean, or, of those that are compared by ratios, the mean of their logarithms."""
    return float(_scaled(values, log).mean())


def positive(*groups: Sequence[float]) -> bool:
    """Whether scores are compared by their logarithms: all of them are above 0."""
    return all(v > 0 for values in groups for v in values)


def paired(a: Sequence[float], b: Sequence[float], log: bool = False) -> Difference:
    """Two treatments of the same trained models, a_i against b_i, by Student's t over at least two models.

    log: compare logarithms; every value must be positive.
    """
    x, y = _scaled(a, log), _scaled(b, log)
    d = x - y
    mean, error, n = float(d.mean()), float(d.std(ddof=1)) / math.sqrt(len(d)), (len(d), len(d))
    if error == 0.0:
        return Difference(mean, mean, mean, math.nan if mean else 1.0, 0.0, n, True, log)
    half = _quantile(len(d) - 1.0) * error
    p = float(2 * stats.t.sf(abs(mean) / error, len(d) - 1.0))
    return Difference(mean, mean - half, mean + half, p, error, n, True, log)


def _scaled(values: Sequence[float], log: bool) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    return np.log(x) if log else x


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


def permutation(a: Sequence[float], b: Sequence[float], log: bool = False) -> float | None:
    """Two-sided p of the difference of means over all relabellings; None where it can not be below 0.05.

    log: of logarithms.
    """
    if permutation_floor(len(a), len(b)) >= ALPHA:
        return None

    def statistic(x: Any, y: Any, axis: int = -1) -> Any:
        return np.mean(x, axis=axis) - np.mean(y, axis=axis)

    return _permute((_scaled(a, log), _scaled(b, log)), statistic, "independent")


def sign_flips(a: Sequence[float], b: Sequence[float], log: bool = False) -> float | None:
    """Two-sided p of paired differences over all flips of their signs; None where it can not be below 0.05."""
    if permutation_floor(len(a)) >= ALPHA:
        return None
    return _permute((_scaled(a, log) - _scaled(b, log),), np.mean, "samples")


def _permute(data: tuple[np.ndarray, ...], statistic: Callable[..., Any], kind: str) -> float:
    found = stats.permutation_test(
        data,
        statistic,
        permutation_type=kind,
        vectorized=True,
        n_resamples=PERMUTATIONS,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


# -------------------------------------------------------------------------------------------------------- all pairs

SPREADS = 5.0  # false alarms are held for recipes whose spreads over seeds are at most so many times apart
MODERATION = 2.0  # d_0: the degrees of freedom that the pooled variance counts for in every recipe's own
SIMULATED = 20_000  # repetitions behind a p-value, which is therefore never below 1 / 20,001


@dataclass(frozen=True)
class Pair:
    """a - b of a family: `found` has the p and the interval of this pair alone, planned before the scores were seen.

    adjusted:     the family's p: of this or a larger difference between any two of its recipes.
    simultaneous: an interval that holds together with those of all other pairs, in 95 % of families.
    """

    a: str
    b: str
    found: Difference
    adjusted: float
    simultaneous: tuple[float, float]

    @property
    def significant(self) -> bool:
        return self.adjusted < ALPHA


@dataclass(frozen=True)
class Family:
    """Recipes compared all together, the best mean first; empty where nothing can be tested.

    "Not told apart" is not transitive, so there are no ranks: `worse` is a partial order, `letters` displays it.
    """

    names: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()
    lower_is_better: bool = True
    log: bool = False

    @cached_property
    def _told(self) -> frozenset[frozenset[str]]:
        return frozenset(frozenset((p.a, p.b)) for p in self.pairs if p.significant)

    def apart(self, a: str, b: str) -> bool:
        """Whether a significant difference lies between two of them."""
        return frozenset((a, b)) in self._told

    def pair(self, a: str, b: str) -> Pair | None:
        return next((p for p in self.pairs if {p.a, p.b} == {a, b}), None)

    def worse(self, name: str) -> tuple[str, ...]:
        """Those that `name` is significantly better than."""
        place = self.names.index(name)
        return tuple(n for n in self.names[place + 1 :] if self.apart(name, n))

    @property
    def best(self) -> tuple[str, ...]:
        """The best mean and those that are not told apart from it; nothing where no two are."""
        return tuple(n for n in self.names if not self.apart(n, self.names[0])) if self._told else ()

    @property
    def leads(self) -> bool:
        """Whether every one of the best is significantly better than every other: they are a group of their own."""
        rest = [n for n in self.names if n not in self.best]
        return bool(self.best) and all(self.apart(n, m) for n in self.best for m in rest)

    @property
    def visible(self) -> float:
        """The difference (of logarithms: the ratio) that is seen in 80 % of repetitions, were all errors the middling one."""
        found = [p.found for p in self.pairs]
        seeds = sorted(n for p in found for n in p.n)
        middle = float(np.median([p.error for p in found]))
        alike = (seeds[len(seeds) // 2],) * len(self.names)
        reach = middle * _reach(alike, _null(alike).critical)
        return math.exp(min(reach, 700.0)) if self.log else reach

    @cached_property
    def letters(self) -> Mapping[str, str]:
        """A compact letter display: two share a letter if and only if they are not told apart (Piepho 2004)."""
        near = {n: {m for m in self.names if m != n and not self.apart(n, m)} for n in self.names}
        groups = sorted(sorted(map(self.names.index, c)) for c in _cliques(set(), set(self.names), set(), near))
        return {n: " ".join(_letter(k) for k, c in enumerate(groups) if i in c) for i, n in enumerate(self.names)}


def _cliques(clique: set[str], more: set[str], done: set[str], near: Mapping[str, set[str]]) -> Iterable[set[str]]:
    """Every largest set of names that are all near each other and holds `clique` (Bron & Kerbosch 1973, with pivots)."""
    if not more and not done:
        if clique:
            yield clique
        return
    pivot = max(more | done, key=lambda n: len(more & near[n]))
    for name in more - near[pivot]:
        yield from _cliques(clique | {name}, more & near[name], done & near[name], near)
        more, done = more - {name}, done | {name}


def _letter(i: int) -> str:
    """a, b … z, a2, b2 …"""
    return chr(ord("a") + i % 26) + (str(i // 26 + 1) if i >= 26 else "")


def compare(groups: Mapping[str, Sequence[float]], lower_is_better: bool = True, log: bool = False) -> Family:
    """All pairs of the groups that have two values or more, by the module's T.

    log: compare logarithms; every value must be positive. The family is empty where fewer than two groups can be
    compared, or where no group varies at all.
    """
    kept = {name: _scaled(values, log) for name, values in groups.items() if len(values) >= 2}
    if len(kept) < 2 or not any(np.ptp(x) > 0 for x in kept.values()):  # not var: rounding alone is no spread
        return Family(lower_is_better=lower_is_better, log=log)
    sign = 1 if lower_is_better else -1
    names = tuple(sorted(kept, key=lambda name: (sign * kept[name].mean(), name)))
    mean, variance = (np.array([f(kept[name]) for name in names]) for f in (np.mean, lambda x: x.var(ddof=1)))
    seeds = tuple(len(kept[name]) for name in names)
    first, second = np.triu_indices(len(names), 1)
    error = errors(variance, seeds, first, second)
    together, pairs = _null(tuple(sorted(seeds))), []
    for k, (i, j) in enumerate(zip(first, second)):
        difference, e = float(mean[i] - mean[j]), float(error[k])
        alone = _null_of_pair(tuple(sorted(seeds)), *sorted((seeds[i], seeds[j])))
        low, high = (difference + s * alone.critical * e for s in (-1, 1))
        n = (seeds[i], seeds[j])
        found = Difference(difference, low, high, alone.p(abs(difference) / e), e, n, log=log)
        half = together.critical * e
        pairs.append(
            Pair(
                names[i],
                names[j],
                found,
                max(found.p, together.p(abs(difference) / e)),
                (difference - half, difference + half),
            )
        )
    return Family(names, tuple(pairs), lower_is_better, log)


def errors(variance: np.ndarray, seeds: Sequence[int], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The standard errors of pairs' differences (..., pairs) from variances (..., k): the denominator of T."""
    n = np.asarray(seeds, dtype=np.float64)
    d = n - 1
    pooled = (variance * d).sum(-1, keepdims=True) / d.sum()
    moderated = (d * variance + MODERATION * pooled) / (d + MODERATION) / n
    return np.sqrt(moderated[..., first] + moderated[..., second])


def told_apart(mean: np.ndarray, variance: np.ndarray, seeds: tuple[int, ...]) -> np.ndarray:
    """What `compare` decides of many families at once: (..., k) means and variances -> (..., pairs), by `triu_indices`."""
    first, second = np.triu_indices(len(seeds), 1)
    limit = _null(tuple(sorted(seeds))).critical
    apart: np.ndarray = np.abs(mean[..., first] - mean[..., second]) > limit * errors(variance, seeds, first, second)
    return apart


def critical_of_pair(seeds: tuple[int, ...], i: int = 0, j: int = 1) -> float:
    """How many standard errors the interval of one planned pair, i and j of such a family, reaches to either side."""
    return _null_of_pair(tuple(sorted(seeds)), *sorted((seeds[i], seeds[j]))).critical


@dataclass(frozen=True)
class _Null:
    """What a statistic is where no recipes differ: `draws` (arrangements of spreads, repetitions), each row sorted."""

    draws: np.ndarray

    def p(self, t: float) -> float:
        """The chance of t or more under the least favourable arrangement, never 0 (Davison & Hinkley 1997, section 4.2)."""
        above = self.draws.shape[1] - min(int(np.searchsorted(row, t)) for row in self.draws)
        return (1 + above) / (1 + self.draws.shape[1])

    @property
    def critical(self) -> float:
        """p is below 0.05 above it, and only there."""
        return float(self.draws[:, -int(ALPHA * (1 + self.draws.shape[1]))].max())


@lru_cache(maxsize=64)
def _null(seeds: tuple[int, ...]) -> _Null:
    """Of the largest T of all pairs of recipes with so many seeds (sorted)."""
    count = len(seeds)
    # Of few seeds a few wide recipes are the worst, of many seeds none.
    wide = range(count) if count <= 8 else sorted({0, 1, 2, 3, 4, count // 5, count // 2})
    arrangements = set()
    for h in wide:  # h recipes that scatter the most, among those with the fewest seeds or with the most
        arrangements |= {(SPREADS,) * h + (1.0,) * (count - h), (1.0,) * (count - h) + (SPREADS,) * h}
    if len(set(seeds)) == 1:
        arrangements = {a for a in arrangements if a == tuple(sorted(a))}
    return _Null(np.stack([_simulated(seeds, a, *np.triu_indices(count, 1)) for a in sorted(arrangements)]))


@lru_cache(maxsize=256)
def _reach(seeds: tuple[int, ...], critical: float) -> float:
    """How many true standard errors a pair must differ by to be told apart in 80 % of repetitions, all spreads equal."""
    rng, n = np.random.default_rng(0), np.asarray(seeds)
    variance = rng.chisquare(n - 1, (SIMULATED, len(n))) / (n - 1)
    ratio = errors(variance, seeds, np.array([0]), np.array([1]))[:, 0] / math.sqrt(1 / n[0] + 1 / n[1])
    return float(np.quantile(critical * ratio - rng.standard_normal(SIMULATED), POWER))


@lru_cache(maxsize=256)
def _null_of_pair(seeds: tuple[int, ...], one: int, other: int) -> _Null:
    """Of the T of one pair, with `one` and `other` seeds, in a family with so many seeds (sorted)."""
    rest = list(seeds)
    rest.remove(one)
    rest.remove(other)
    ends = (1.0, SPREADS)
    arrangements = sorted({(a, b, *(1.0 for _ in rest)) for a in ends for b in ends})
    pair = np.array([0]), np.array([1])
    return _Null(np.stack([_simulated((one, other, *rest), a, *pair) for a in arrangements]))


def _simulated(seeds: tuple[int, ...], spreads: tuple[float, ...], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The largest T of some pairs in families of recipes that differ in nothing but their spreads: (SIMULATED,), sorted.

    Mean and variance of a normal sample are independent, a normal and a chi-squared number.
    """
    rng = np.random.default_rng(0)
    n, sigma = np.asarray(seeds), np.asarray(spreads)
    found = []
    for _ in range(0, SIMULATED, SIMULATED // 20):
        mean = sigma / np.sqrt(n) * rng.standard_normal((SIMULATED // 20, len(seeds)))
        variance = sigma**2 * rng.chisquare(n - 1, (SIMULATED // 20, len(seeds))) / (n - 1)
        apart = np.abs(mean[:, first] - mean[:, second])
        found.append((apart / errors(variance, seeds, first, second)).max(1))
    return np.sort(np.concatenate(found))


def agreement(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Kendall's tau between two scores of the same rows; None below three rows or when one score is constant."""
    if len(a) < 3:
        return None
    tau = float(stats.kendalltau(a, b).statistic)
    return tau if math.isfinite(tau) else None


# ------------------------------------------------------------------------------------------------ what would be needed


def needed(found: Difference, recipes: int = 2, most: int = 10_000) -> int | None:
    """Seeds (a side) that would show such a difference in 80 % of repetitions, were it and its error's spread true.

    recipes: how many are compared together. Of a paired difference the number of pairs. None above `most`, or where
    there is nothing to show or no spread.
    """
    if found.mean == 0 or found.error <= 0:
        return None
    variance = 2 * found.error**2 / sum(1 / n for n in found.n)  # of a difference at one seed a side, or one pair

    def shown(n: int) -> bool:
        shift = abs(found.mean) / math.sqrt(variance / n)
        if not found.paired:
            return shift >= _reach((n,) * recipes, _null_of_pair((n,) * recipes, n, n).critical)
        limit = _quantile(n - 1.0)
        return float(stats.nct.sf(limit, n - 1.0, shift) + stats.nct.cdf(-limit, n - 1.0, shift)) >= POWER

    low, high = 1, 2
    while not shown(high):
        low, high = high, 2 * high
        if low > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle, high)
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
