"""How often the printed 95 % intervals hold the truth, and how often the ranking cries wolf: measured by simulation.

    python -m reports.coverage [REPETITIONS]       measures, writes coverage.json beside this file, prints the table

The truth is the expected value of the metric at its sample size over training seeds. A repetition draws the errors of n
seeds from a law, takes the interval by the function that the report takes it by (`stats.summarise`, `stats.welch`,
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


def welch(law: Law, seeds: int, repetitions: int, rng: np.random.Generator, ratio: float = 3.0) -> float:
    """The same of Welch's interval for a difference of recipes, one of which scatters `ratio` times as much."""
    held = 0
    for x, y in zip(law.draw(rng, (repetitions, seeds)), ratio * law.draw(rng, (repetitions, seeds))):
        found = stats.welch(x, y)
        held += found.low <= 0.0 <= found.high
    return held / repetitions


def false_alarms(law: Law, seeds: int, recipes: int, repetitions: int, rng: np.random.Generator) -> float:
    """How often a ranking of recipes that are all alike puts any of them behind another."""
    alarms = 0
    for groups in law.draw(rng, (repetitions, recipes, seeds)):
        ranks, _ = stats.compare({str(i): x for i, x in enumerate(groups)})
        alarms += max(ranks.values()) > 1
    return alarms / repetitions


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

    found: dict[str, Any] = {"repetitions": repetitions, "level": stats.LEVEL, "interval": {}, "welch": {}}
    for name, law in LAWS.items():
        tell(f"t-interval, {law.short}")
        rate = {str(n): interval(law, n, repetitions, rng("interval", name, n)) for n in SEEDS}
        found["interval"][name] = rate
        tell(f"Welch, {law.short}")
        found["welch"][name] = {str(n): welch(law, n, repetitions, rng("welch", name, n)) for n in SHOWN}
    tell("false alarms")
    normal, few = LAWS["normal"], max(1, repetitions // 2)
    found["false_alarms"] = {
        "recipes": 7,
        "repetitions": few,
        "rate": {str(n): false_alarms(normal, n, 7, few, rng("alarms", n)) for n in (3, 5)},
    }
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
    """What the 95 % of an interval over so many seeds are worth; kind: "interval" (also of pairs) or "welch"."""
    found = at(min(seeds, SEEDS[-1]), kind=kind)
    said = [f"{100 * rate:.1f} % ({LAWS[name].short})" for name, rate in found.items()]
    return (
        f"Over {recorded()['repetitions']:,} simulated repetitions 95 % intervals of {min(seeds, SEEDS[-1])} seeds held "
        f"the truth in {', '.join(said)}, by the law of the errors: `python -m reports.coverage`."
    )


def table() -> list[tuple[str, ...]]:
    """Rows of the coverage table, the heads first: law, then the t-interval and Welch's at 2, 3, 5 and 10 seeds."""
    found = recorded()
    heads = ("errors over training seeds", *(f"{n} seeds" for n in SHOWN), *(f"Welch, {n}" for n in SHOWN))
    rows = [
        (
            law.words,
            *(f"{100 * found[kind][name][str(n)]:.1f} %" for kind in ("interval", "welch") for n in SHOWN),
        )
        for name, law in LAWS.items()
    ]
    return [heads, *rows]


def alarms() -> str:
    """How often a ranking of equal recipes finds a difference, in words."""
    found = recorded()["false_alarms"]
    rates = " and ".join(f"{100 * rate:.1f} % with {n} seeds" for n, rate in found["rate"].items())
    return f"A ranking of {found['recipes']} equal recipes with normal errors told any two of them apart in {rates}."


def _main(arguments: Sequence[str]) -> None:
    repetitions = int(arguments[0]) if arguments else 10_000
    found = measure(repetitions, lambda text: print(text, file=sys.stderr))
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    recorded.cache_clear()
    for row in table():
        print("  ".join(text.ljust(52 if i == 0 else 9) for i, text in enumerate(row)))
    print(alarms())
    print(f"interquartile mean, by seeds × data sets: {found['interquartile_mean']['rate']}")


if __name__ == "__main__":
    _main(sys.argv[1:])
