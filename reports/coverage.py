"""How often the printed 95 % intervals hold the truth, and how often the comparison errs and detects, by simulation.

    python -m reports.coverage [REPETITIONS]       measures, writes coverage.json next to this file, prints the table

The truth is the expected value of the metric at its sample size over training seeds. A repetition draws the errors of n
seeds from a law, takes the interval by the function that the report takes it by (`stats.summarise`, `stats.compare`,
`stats.interquartile_mean`), and asks whether it holds the law's mean. The law "fd" is no formula but Frechet distances
of simulated models: each training seed shifts and scales a Gaussian in 16 dimensions by chance, 300 samples of it are
scored against a fixed reference of 300.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from reports import stats

FILE = Path(__file__).with_name("coverage.json")
SEEDS = tuple(range(2, 11))
SHOWN = (2, 3, 5, 10)
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Law:
    """Errors of mean 0 and finite variance. `words` says what they are, `short` does so in a sentence."""

    short: str
    words: str
    draw: Draw


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def _gamma(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.gamma(16.0, 1.0, shape) - 16.0


def _exponential(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.exponential(1.0, shape) - 1.0


def _lognormal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.lognormal(0.0, 1.0, shape) - math.exp(0.5)


def _student(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_t(3, shape)


def _fd(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return simulated_fd(rng, math.prod(shape)).reshape(shape) - _expected_fd()


LAWS: Mapping[str, Law] = {
    "normal": Law("normal", "normal", _normal),
    "mild": Law("mildly skewed", "mildly skewed (gamma, skewness 0.5)", _gamma),
    "fd": Law("simulated FDs", "Frechet distances of simulated models (see reports/coverage.py)", _fd),
    "heavy": Law("heavy-tailed", "heavy-tailed (Student's t, 3 degrees of freedom)", _student),
    "strong": Law("strongly skewed", "strongly skewed (exponential, skewness 2)", _exponential),
    "extreme": Law("log-normal", "extremely skewed (log-normal, skewness 6)", _lognormal),
}

DIMENSIONS, SAMPLES = 16, 300


def simulated_fd(rng: np.random.Generator, models: int) -> np.ndarray:
    """Frechet distances (models,) of as many training seeds, each with a sample of its own."""
    d, n = DIMENSIONS, SAMPLES
    reference = np.random.default_rng(1).standard_normal((n, d))
    mean, root = reference.mean(0), _root(np.cov(reference.T))
    found = []
    for first in range(0, models, 20_000):
        count = min(20_000, models - first)
        # Mean and covariance of a Gaussian sample are independent, a Gaussian and a Wishart matrix.
        scale = np.exp(0.1 * rng.standard_normal((count, 1)))
        centre = 0.15 * rng.standard_normal((count, d)) + scale * rng.standard_normal((count, d)) / math.sqrt(n)
        wishart = np.reshape(scipy_stats.wishart(n - 1, np.eye(d)).rvs(count, random_state=rng), (count, d, d))
        covariance = (scale**2)[..., None] * wishart / (n - 1)
        cross = np.sqrt(np.linalg.eigvalsh(root @ covariance @ root).clip(0)).sum(1)
        traces = np.trace(covariance, axis1=1, axis2=2) + np.trace(root @ root)
        found.append(((centre - mean) ** 2).sum(1) + traces - 2 * cross)
    return np.concatenate(found)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


@lru_cache(maxsize=1)
def _expected_fd() -> float:
    return float(simulated_fd(np.random.default_rng(2), 100_000).mean())


# ---------------------------------------------------------------------------------------------------------- measures


def interval(law: Law, seeds: int, repetitions: int, rng: np.random.Generator) -> float:
    """The share of t-intervals over seeds that hold the mean. Of paired differences it is the same one."""
    held = 0
    for x in law.draw(rng, (repetitions, seeds)):
        found = stats.summarise(x.tolist())
        assert found is not None
        held += found.low <= 0.0 <= found.high
    return held / repetitions


def arranged(arrangement: str, recipes: int) -> np.ndarray:
    """Spreads of so many recipes (recipes,), of geometric mean 1: how far apart, and which are the wide ones.

    "1:5" steps evenly in logarithms; "one", "two" and "half" are so many recipes five times as wide as the others.
    """
    wide = {"one": 1, "two": 2, "half": recipes // 2}.get(arrangement)
    if wide is None:
        spreads = np.geomspace(1.0, float(arrangement.partition(":")[2]), recipes)
    else:
        spreads = np.r_[np.ones(recipes - wide), np.full(wide, 5.0)]
    return spreads / np.exp(np.log(spreads).mean())


ARRANGEMENTS = ("1:1", "1:2", "1:5", "one", "two", "half", "1:10")
RECIPES = (4, 8, 16, 30)
MEANS = ("equal", "half, wide", "half, narrow", "halves")


def placed(means: str, recipes: int) -> np.ndarray:
    """Means of logarithms (recipes,): all equal; half of them, the wide or the narrow ones, the rest each threefold
    apart; or two halves of equal ones, threefold apart."""
    step, half = math.log(3.0), recipes // 2
    if means == "equal":
        return np.zeros(recipes)
    if means == "halves":
        return step * (np.arange(recipes) % 2)
    ladder = step * np.maximum(0, np.arange(recipes) - half + 1)
    return ladder[::-1] if means == "half, wide" else ladder


def decisions(
    law: Law, spreads: np.ndarray, means: np.ndarray, seeds: int, repetitions: int, rng: np.random.Generator
) -> tuple[float, float]:
    """(how often any two equal recipes are told apart, how many of the pairs that lie threefold apart are)."""
    recipes = len(spreads)
    first, second = np.triu_indices(recipes, 1)
    apart = np.abs(means[first] - means[second])
    equal, threefold = apart == 0, np.isclose(apart, math.log(3.0))
    alarms, seen, chunk = 0, 0, max(1, 2_000_000 // len(first))
    for start in range(0, repetitions, chunk):
        count = min(chunk, repetitions - start)
        x = means[:, None] + spreads[:, None] * law.draw(rng, (count, recipes, seeds))
        differ = stats.told_apart(x.mean(-1), x.var(-1, ddof=1), (seeds,) * recipes)
        alarms += int(differ[:, equal].any(1).sum())
        seen += int(differ[:, threefold].sum())
    return alarms / repetitions, seen / (repetitions * threefold.sum()) if threefold.any() else math.nan


def pair(
    law: Law, seeds: int, repetitions: int, rng: np.random.Generator, ratio: float = 3.0, recipes: int = 7
) -> float:
    """The share of a planned pair's intervals that hold its difference, one of all recipes `ratio` times as wide."""
    spreads = np.r_[ratio, np.ones(recipes - 1)]
    critical = stats.critical_of_pair((seeds,) * recipes)
    x = spreads[:, None] * law.draw(rng, (repetitions, recipes, seeds))
    error = stats.errors(x.var(-1, ddof=1), (seeds,) * recipes, np.array([0]), np.array([1]))[:, 0]
    mean = x.mean(-1)
    return float((np.abs(mean[:, 0] - mean[:, 1]) <= critical * error).mean())


def interquartile(law: Law, seeds: int, sets: int, repetitions: int, rng: np.random.Generator) -> float:
    """The share of stratified bootstrap intervals that hold the interquartile mean of all data sets' laws together."""
    places = np.linspace(0.0, 3.0, sets)[:, None]
    everyone = np.sort((law.draw(rng, (sets, 200_000)) + places).ravel())
    truth = everyone[len(everyone) // 4 : -(len(everyone) // 4)].mean()
    held = 0
    for x in law.draw(rng, (repetitions, sets, seeds)):
        found = stats.interquartile_mean(list(x + places), resamples=500)
        held += bool(found.low <= truth <= found.high)
    return held / repetitions


def measure(repetitions: int, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """All of it. Each figure has a generator of its own, so that none depends on what was measured before."""

    def rng(*key: object) -> np.random.Generator:
        return np.random.default_rng([ord(c) for c in repr(key)])

    found: dict[str, Any] = {"repetitions": repetitions, "level": stats.LEVEL, "interval": {}, "pair": {}}
    for name, law in LAWS.items():
        tell(f"t-interval, {law.short}")
        rate = {str(n): interval(law, n, repetitions, rng("interval", name, n)) for n in SEEDS}
        found["interval"][name] = rate
        tell(f"planned pair, {law.short}")
        found["pair"][name] = {str(n): pair(law, n, repetitions, rng("pair", name, n)) for n in SHOWN}
    normal, few = LAWS["normal"], max(1, repetitions // 2)
    found["alarms"], found["power"], found["skewed"] = {}, {}, {}
    for seeds in (2, 3, 5, 10):
        for recipes in RECIPES:
            tell(f"false alarms and power, {recipes} recipes, {seeds} seeds")
            rates: dict[str, float] = {}
            for arrangement in ARRANGEMENTS:
                spreads = arranged(arrangement, recipes)
                # The statistic has no unit, so false alarms do not depend on the size of the spreads.
                rates[arrangement] = max(
                    decisions(normal, 0.13 * spreads, placed(m, recipes), seeds, repetitions, rng("alarms", m, seeds))[
                        0
                    ]
                    for m in MEANS
                )
            found["alarms"][f"{recipes}×{seeds}"] = rates
            found["power"][f"{recipes}×{seeds}"] = {
                f"{size:g}, {arrangement}": decisions(
                    normal,
                    size * arranged(arrangement, recipes),
                    placed("halves", recipes),
                    seeds,
                    few,
                    rng("power", size, seeds),
                )[1]
                for size in (0.05, 0.13, 0.25)
                for arrangement in ("1:1", "1:2", "1:5")
            }
    for name, law in LAWS.items():
        tell(f"false alarms, {law.short}")
        scale = float(np.std(law.draw(rng("scale", name), (100_000,))))
        found["skewed"][name] = decisions(
            law, arranged("1:5", 8) / scale, placed("equal", 8), 3, repetitions, rng("skewed", name)
        )[0]
    tell("interquartile mean")
    rate = {
        f"{seeds}×{sets}": interquartile(normal, seeds, sets, few, rng("iqm", seeds, sets))
        for seeds, sets in ((3, 10), (5, 6), (10, 3))
    }
    found["interquartile_mean"] = {"repetitions": few, "rate": rate}
    return found


# -------------------------------------------------------------------------------------------------------------- words


@lru_cache(maxsize=1)
def recorded() -> Mapping[str, Any]:
    """What was measured when this version was made."""
    found: Mapping[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def at(seeds: int, laws: Iterable[str] = LAWS, kind: str = "interval") -> dict[str, float]:
    """Measured coverage by law at a number of seeds (at the nearest that was measured)."""
    table = recorded()[kind]
    known = [int(n) for n in next(iter(table.values()))]
    nearest = str(min(known, key=lambda n: abs(n - seeds)))
    return {name: float(table[name][nearest]) for name in laws}


def sentence(seeds: int, kind: str = "interval") -> str:
    """What the 95 % of an interval over so many seeds are worth; kind: "interval" (also of paired differences) or "pair"."""
    found = at(min(seeds, SEEDS[-1]), kind=kind)
    shares = [f"{100 * rate:.1f} % ({LAWS[name].short})" for name, rate in found.items()]
    return (
        f"Over {recorded()['repetitions']:,} simulated repetitions 95 % intervals of {min(seeds, SEEDS[-1])} seeds held "
        f"the truth in {', '.join(shares)}, by the law of the errors: `python -m reports.coverage`."
    )


def table() -> list[tuple[str, ...]]:
    """Rows of the coverage table, the heads first: law, then the t-interval and a planned pair's at 2, 3, 5, 10 seeds."""
    found = recorded()
    heads = ("errors over training seeds", *(f"{n} seeds" for n in SHOWN), *(f"pair, {n}" for n in SHOWN))
    rows = [
        (
            law.words,
            *(f"{100 * found[kind][name][str(n)]:.1f} %" for kind in ("interval", "pair") for n in SHOWN),
        )
        for name, law in LAWS.items()
    ]
    return [heads, *rows]


def alarm_table() -> list[tuple[str, ...]]:
    """Rows of false alarms, the heads first: recipes and seeds, then by how the spreads are arranged."""
    rows = [
        (recipes, seeds, *(f"{100 * rates[a]:.1f} %" for a in ARRANGEMENTS))
        for key, rates in recorded()["alarms"].items()
        for recipes, seeds in [key.split("×")]
    ]
    wide = {"one": "one 5× as wide", "two": "two", "half": "half of them"}
    return [("recipes", "seeds", *(wide.get(a, a) for a in ARRANGEMENTS)), *rows]


def power_table() -> list[tuple[str, ...]]:
    """Rows of the share of threefold differences that are seen, the heads first: by size and range of the spreads."""
    found = recorded()["power"]
    rows = [(*key.split("×"), *(f"{rate:.2f}" for rate in rates.values())) for key, rates in found.items()]
    return [("recipes", "seeds", *next(iter(found.values()))), *rows]


def alarms() -> str:
    """How often equal recipes are told apart under other laws than the normal one, in words."""
    rates = [f"{100 * rate:.1f} % ({LAWS[name].short})" for name, rate in recorded()["skewed"].items()]
    return f"Of 8 equal recipes with 3 seeds and spreads from 1 to 5 any two were told apart in {', '.join(rates)}."


def sight(seeds: int, recipes: int) -> str:
    """What the comparison holds and sees with so many seeds and recipes (at the nearest that were simulated)."""
    found = recorded()
    shapes = [tuple(map(int, key.split("×"))) for key in found["alarms"]]
    count, n = min(shapes, key=lambda s: (abs(s[1] - seeds), abs(s[0] - recipes)))
    key = f"{count}×{n}"
    worst = max(rate for a, rate in found["alarms"][key].items() if a != "1:10")
    return (
        f"In simulations of {count} recipes with {n} seeds the comparison told equal recipes apart in at most "
        f"{100 * worst:.1f} % of families, for normal errors and spreads up to fivefold apart, and saw "
        f"{100 * found['power'][key]['0.13, 1:5']:.0f} % of threefold differences at a spread of 13 %."
    )


def _main(arguments: Sequence[str]) -> None:
    repetitions = int(arguments[0]) if arguments else 10_000
    found = measure(repetitions, lambda text: print(text, file=sys.stderr))
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    recorded.cache_clear()
    for row in table():
        print("  ".join(text.ljust(52 if i == 0 else 9) for i, text in enumerate(row)))
    for rows in (alarm_table(), power_table()):
        print()
        for row in rows:
            print("  ".join(text.ljust(14) for text in row))
    print(alarms())
    print(f"interquartile mean, by seeds × data sets: {found['interquartile_mean']['rate']}")


if __name__ == "__main__":
    _main(sys.argv[1:])
