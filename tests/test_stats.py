"""Statistics over training seeds against independent computations, what intervals are worth, and `bench compare`."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from test_reports import SPACE, made, one
from typer.testing import CliRunner, Result

from bench import cli, store
from bench.lab import readme
from reports import across, coverage, provenance, stats
from reports.compare import Comparison, NotComparable, Selector, UnknownName, compare
from reports.scores import Measure
from reports.sections import sections
from reports.tables import headline, pairs, quality, sources

# -------------------------------------------------------------------------------------------------- tests of means


@pytest.mark.parametrize("n", [2, 3, 8])
def test_paired_is_scipys_and_needs_no_agreement_between_the_models(n: int) -> None:
    rng = np.random.default_rng(n)
    model = rng.normal(0, 10, n)  # how good each trained model is: what pairing takes out
    a, b = model + rng.normal(0, 0.1, n), model + 0.5 + rng.normal(0, 0.1, n)
    found, reference = stats.paired(a, b), scipy_stats.ttest_rel(a, b)
    ends = reference.confidence_interval(0.95)
    assert found.p == pytest.approx(reference.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-9)
    (apart,) = stats.compare({"a": a, "b": b}).pairs
    assert found.high - found.low < 0.1 * (apart.found.high - apart.found.low)
    ratio, logs = stats.paired(np.exp(a), np.exp(b), log=True), stats.paired(a, b)
    assert (ratio.mean, ratio.p) == pytest.approx((logs.mean, logs.p))


def closed_testing(p: Sequence[float]) -> list[float]:
    """Holm's p-values by their meaning: of all sets of hypotheses with this one in it, the largest Bonferroni p."""
    names = range(len(p))
    sets = [s for size in range(1, len(p) + 1) for s in itertools.combinations(names, size)]
    return [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in names]


def test_holm_is_the_closed_test_of_bonferronis() -> None:
    rng = np.random.default_rng(0)
    for m in range(1, 8):
        for _ in range(20):
            p = rng.beta(0.4, 2, m).round(3).tolist()  # rounded, so that ties occur
            assert stats.holm(p) == pytest.approx(closed_testing(p), rel=1e-12)
    assert stats.holm([0.03, 0.02]) == [0.04, 0.04]  # the larger p may not end below the smaller: 0.03 after 0.04


def test_draws_are_pooled_within_runs() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(100 * i, 2.0, size).tolist() for i, size in enumerate((2, 5, 3))]
    within = sum(((np.asarray(g) - np.mean(g)) ** 2).sum() for g in groups)
    assert stats.pooled_spread([*groups, [1.0], []]) == pytest.approx(math.sqrt(within / (1 + 4 + 2)), rel=1e-12)
    assert stats.pooled_spread([[1.0], [2.0]]) is None


# ---------------------------------------------------------------------------------------------------- permutations


def test_permutation_floors_are_those_of_the_exact_tests() -> None:
    assert [round(stats.permutation_floor(n, n), 3) for n in (3, 4, 5)] == [0.1, 0.029, 0.008]
    assert [round(stats.permutation_floor(n), 4) for n in (5, 6)] == [0.0625, 0.0312]


def test_a_permutation_test_is_made_only_where_it_can_tell() -> None:
    far = [10.0, 11.0, 12.0, 13.5]
    assert stats.permutation([1.0, 2.0, 3.0], far[:3]) is None
    assert stats.permutation([1.0, 2.0, 3.0, 4.5], far) == pytest.approx(stats.permutation_floor(4, 4))
    assert stats.sign_flips([1.0, 2.0, 3.0, 4.0, 5.0], [0.0] * 5) is None
    assert stats.sign_flips([1.0, 2.0, 3.0, 4.0, 5.0, 7.5], [0.0] * 6) == pytest.approx(stats.permutation_floor(6))


def test_permutation_counts_relabellings() -> None:
    a, b = [1.0, 2.5, 3.1, 4.7], [3.3, 4.1, 5.9, 6.2, 2.2]
    whole, observed = np.array(a + b), np.mean(a) - np.mean(b)
    every = [whole[list(s)].mean() - np.delete(whole, s).mean() for s in itertools.combinations(range(9), 4)]
    less, more = np.mean(np.array(every) <= observed + 1e-12), np.mean(np.array(every) >= observed - 1e-12)
    assert stats.permutation(a, b) == pytest.approx(2 * min(less, more))
    d = np.array([0.5, -0.2, 0.9, 1.1, 0.3, 0.8, -0.1])
    signs = np.array(list(itertools.product((-1, 1), repeat=len(d)))) * d
    assert stats.sign_flips(d + 3.0, [3.0] * len(d)) == pytest.approx(2 * np.mean(signs.mean(1) >= d.mean() - 1e-12))


# ------------------------------------------------------------------------------------------------------- all pairs


def test_the_statistic_is_the_one_of_the_docstring() -> None:
    """T by hand, for unequal numbers of seeds, and its p-values read back from the interval's reach."""
    groups = {"a": [1.0, 1.1, 0.9, 1.05], "b": [0.0, 4.0, 2.0], "c": [9.0, 9.5]}
    family = stats.compare(groups)
    d = {name: len(x) - 1 for name, x in groups.items()}
    s2 = {name: np.var(x, ddof=1) for name, x in groups.items()}
    pooled = sum(d[n] * s2[n] for n in groups) / sum(d.values())
    v = {n: (d[n] * s2[n] + 2.0 * pooled) / (d[n] + 2.0) for n in groups}
    assert len(family.pairs) == 3
    for pair in family.pairs:
        error = math.sqrt(v[pair.a] / len(groups[pair.a]) + v[pair.b] / len(groups[pair.b]))
        assert pair.found.error == pytest.approx(error, rel=1e-12)
        assert pair.found.mean == pytest.approx(np.mean(groups[pair.a]) - np.mean(groups[pair.b]))
        assert pair.found.n == (len(groups[pair.a]), len(groups[pair.b]))
        assert pair.found.p <= pair.adjusted
        assert (pair.adjusted < 0.05) == (not pair.simultaneous[0] <= 0 <= pair.simultaneous[1])
        assert (pair.found.p < 0.05) == (not pair.found.low <= 0 <= pair.found.high)
        assert pair.simultaneous[0] < pair.found.low < pair.found.high < pair.simultaneous[1]


@pytest.mark.parametrize(("recipes", "seeds"), [(3, 5), (6, 3), pytest.param(12, 4, marks=pytest.mark.heavy)])
def test_with_equal_spreads_and_one_variance_it_is_tukeys_range(
    recipes: int, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pooled altogether (d_0 without end) and no room for unequal spreads: Tukey's HSD, by scipy. The p-values of 20,000
    repetitions are within four of their standard errors."""
    for name in ("_null", "_null_of_pair"):  # caches of the real settings are neither read nor filled
        monkeypatch.setattr(stats, name, getattr(stats, name).__wrapped__)
    monkeypatch.setattr(stats, "SPREADS", 1.0)
    monkeypatch.setattr(stats, "MODERATION", 1e12)
    rng = np.random.default_rng(recipes)
    groups = {str(i): rng.normal(0.6 * i, 1.0, seeds).tolist() for i in range(recipes)}
    family, reference = stats.compare(groups), scipy_stats.tukey_hsd(*groups.values())
    for pair in family.pairs:
        p = reference.pvalue[int(pair.a), int(pair.b)]
        assert pair.adjusted == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / stats.SIMULATED) + 2e-4)
    ends = reference.confidence_interval(0.95)
    first = family.pairs[0]
    assert first.simultaneous[1] == pytest.approx(
        ends.high[int(first.a), int(first.b)], abs=0.05 * (ends.high - ends.low).max()
    )


def test_with_many_seeds_a_planned_pair_is_welchs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 400), rng.normal(0.15, 1, 400)
    (pair,) = stats.compare({"a": a, "b": b}).pairs
    reference = scipy_stats.ttest_ind(a, b, equal_var=False)
    assert pair.found.p == pytest.approx(reference.pvalue, abs=4 * math.sqrt(0.05 * 0.95 / stats.SIMULATED))


def test_scores_are_compared_by_ratio_where_asked() -> None:
    groups = {"a": [1.0, 1.1, 0.9], "b": [4.0, 3.0, 5.0], "c": [10.0, 9.0, 14.0]}
    logs = stats.compare({n: np.log(x) for n, x in groups.items()})
    ratios = stats.compare(groups, log=True)
    assert [p.found.mean for p in ratios.pairs] == pytest.approx([p.found.mean for p in logs.pairs])
    assert [p.adjusted for p in ratios.pairs] == [p.adjusted for p in logs.pairs]
    million = stats.compare({n: [1e6 * v for v in x] for n, x in groups.items()}, log=True)  # a unit changes nothing
    assert [p.adjusted for p in million.pairs] == pytest.approx([p.adjusted for p in ratios.pairs])
    assert stats.positive([1.0], [2.0])
    assert not stats.positive([1.0], [0.0])


def test_not_told_apart_is_not_transitive_and_letters_say_so() -> None:
    """b is told apart from neither a nor c, which are told apart."""
    groups = {
        "a": [1.0, 1.1, 0.9, 1.05],
        "b": [0.6, 2.5, 1.5, 1.4],
        "c": [2.2, 2.3, 2.1, 2.25],
        "d": [9.0, 9.1, 9.2, 8.9],
        "once": [0.1],
    }
    family = stats.compare(groups)
    assert family.names == ("a", "b", "c", "d")
    assert not family.apart("a", "b")
    assert not family.apart("b", "c")
    assert family.apart("a", "c")
    assert family.letters == {"a": "a", "b": "a b", "c": "b", "d": "c"}
    assert family.worse("a") == ("c", "d")
    assert family.best == ("a", "b")
    assert not family.leads, "b is best with a, and does not beat c"
    upwards = stats.compare({n: [-v for v in x] for n, x in groups.items()}, lower_is_better=False)
    assert upwards.letters == family.letters
    alone = stats.compare({n: groups[n] for n in ("a", "c", "d")})
    assert (alone.best, alone.leads) == (("a",), True)


def test_p_and_the_critical_value_agree_to_the_last_repetition() -> None:
    for null in (stats._null((3, 3, 3)), stats._null((2, 5, 10)), stats._null_of_pair((3, 3, 4), 3, 4)):
        limit = null.critical
        assert null.p(limit) >= 0.05 > null.p(np.nextafter(limit, np.inf))
        assert null.p(0.0) == 1.0
        assert null.p(math.inf) == pytest.approx(1 / (1 + stats.SIMULATED))


def test_forty_recipes_on_a_ladder_have_as_many_letters_at_the_most() -> None:
    """Each is told apart from all but its neighbours: cliques of what is near, however the pairs come."""
    rng = np.random.default_rng(0)
    names = [f"r{i:02}" for i in range(40)]
    pairs = [
        stats.Pair(a, b, stats.Difference(0, 0, 0, 1, 1, (3, 3)), 0.01 if j - i > 4 else 0.5, (0, 0))
        for (i, a), (j, b) in itertools.combinations(enumerate(names), 2)
    ]
    family = stats.Family(tuple(names), tuple(pairs[k] for k in rng.permutation(len(pairs))))
    letters = [family.letters[n].split() for n in names]
    assert len({x for some in letters for x in some}) == 36
    assert letters[0] == ["a"]
    assert letters[4] == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("seed", range(6))
def test_two_share_a_letter_if_and_only_if_they_are_not_told_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = {f"r{i}": rng.normal(0.7 * i, 0.2 + rng.random(), 3).tolist() for i in range(9)}
    family = stats.compare(groups)
    letters = {n: set(family.letters[n].split()) for n in family.names}
    for a, b in itertools.combinations(family.names, 2):
        assert bool(letters[a] & letters[b]) == (not family.apart(a, b)), (a, b)


def test_what_never_varies_is_not_tested_alone_but_beside_what_does() -> None:
    """Counts of 8, 8, 8 have no spread of their own; that of the others stands in for it."""
    assert stats.compare({"x": [8.0, 8.0], "y": [7.0, 7.0]}) == stats.Family()
    assert stats.compare({"x": [0.1] * 3, "y": [0.7] * 3}) == stats.Family(), "rounding of a mean is no spread"
    assert stats.compare({"x": [8.0, 7.0]}) == stats.Family()
    family = stats.compare({"x": [8.0, 8.0, 8.0], "y": [2.0, 2.0, 2.0], "z": [5.0, 5.1, 4.9]})
    assert family.apart("x", "y")


def test_what_would_be_needed_is_in_cohens_tables() -> None:
    """Cohen (1988), power 0.8, two-sided 0.05: d = 0.2, 0.5, 0.8 need 394, 64, 26 a group; pairs 199, 34, 15."""

    def of(d: float, spread: float = 1.0, paired: bool = False) -> stats.Difference:
        error = spread * math.sqrt((1 if paired else 2) / 10)
        return stats.Difference(d, 0, 0, 1, error, (10, 10), paired)

    assert [stats.needed(of(d)) for d in (0.2, 0.5, 0.8)] == pytest.approx([394, 64, 26], rel=0.05)
    assert [stats.needed(of(d, paired=True)) for d in (0.2, 0.5, 0.8)] == [199, 34, 15]
    assert stats.needed(of(0.0)) is None
    assert stats.needed(of(1e-4)) is None
    assert stats.needed(of(-0.5, 2.0)) == stats.needed(of(0.25))


# ------------------------------------------------------------------------------------------------ several data sets


def test_interquartile_mean_is_stratified_and_widened() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.normal(0, 0.1, 4), rng.normal(0, 0.1, 4)]
    found = stats.interquartile_mean(scores)
    assert found.mean == pytest.approx(np.sort(np.concatenate(scores))[2:-2].mean())
    assert found == stats.interquartile_mean(scores)
    assert (found.runs, found.sets) == (8, 2)
    # A bootstrap within each data set can not see how far they are apart, one over all runs would.
    apart = stats.interquartile_mean([scores[0] - 0.001, scores[1] + 5.0])
    assert apart.high - apart.low < 1.0
    plain = scipy_stats.bootstrap(
        scores, stats._middle, method="percentile", n_resamples=2_000, rng=np.random.default_rng(0)
    ).confidence_interval  # fmt: skip
    assert found.high - found.low == pytest.approx(math.sqrt(8 / 6) * (plain.high - plain.low))


def test_profiles_weigh_data_sets_alike() -> None:
    assert stats.profile([[1.0, 2.0], [1.0, 1.0, 1.0, 3.0]], [0.5, 1.0, 2.0]) == [0.0, 0.625, 0.875]


def test_data_sets_are_taken_together_once_runs_are_enough(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for dataset in ("d1", "d2", "d3"):
        r, u = made(tmp_path, {"alpha": 2.0, "beta": 3.0}, seeds=5, dataset=dataset)
        rows, runs = rows + r, runs + u
    (few,) = across.across(sections(pd.DataFrame(rows), runs))
    assert few.table is None
    assert "takes 30 runs" in few.reason
    assert "has 15 such runs" in few.reason
    for dataset in ("d1", "d2", "d3"):
        more, again = made(tmp_path / "more", {"alpha": 2.0}, seeds=10, dataset=dataset)
        rows = [r for r in rows if (r["dataset"], r["recipe"]) != (dataset, "alpha")] + [
            r for r in more if r["recipe"] == "alpha"
        ]
        runs = [u for u in runs if (u["dataset"], u["recipe"]) != (dataset, "alpha")] + again
    found = sections(pd.DataFrame(rows), runs)
    (whole,) = across.across(found)
    assert whole.table is not None
    assert [line.name for line in whole.table.lines] == ["alpha"]
    assert "Too few runs, or not on every data set: beta." in whole.table.notes
    section = found[0]
    assert section.floor is not None
    assert across.normalised(section, [section.floor, 9.82]) == pytest.approx([0.0, 1.0])
    assert whole.picture is not None
    assert "half of the runs score at most" in whole.picture.inline


# --------------------------------------------------------------------------------------------------------- coverage


def test_the_recorded_coverage_keeps_the_promise() -> None:
    recorded = coverage.recorded()
    assert recorded["repetitions"] >= 10_000
    for law in ("normal", "mild"):
        for n in coverage.SHOWN:
            assert 0.93 <= coverage.at(n, [law])[law] <= 0.97, (law, n)
            assert coverage.at(n, [law], "pair")[law] >= 0.93, (law, n)
    strong = coverage.at(5, ["strong"])["strong"]
    assert strong < 0.93, "what is not covered as promised is told, not hidden"
    assert f"{100 * strong:.1f} % (strongly skewed)" in coverage.sentence(5)
    assert all(0.92 <= rate <= 0.97 for rate in recorded["interquartile_mean"]["rate"].values())
    error = math.sqrt(0.05 * 0.95 / recorded["repetitions"])
    for key, rates in recorded["alarms"].items():
        for arrangement in set(coverage.ARRANGEMENTS) - {"1:10"}:
            assert rates[arrangement] <= 0.05 + 2 * error, (key, arrangement)
    for recipes in (4, 8):
        for spreads in ("1:1", "1:2", "1:5"):
            for size in ("0.05", "0.13"):
                assert recorded["power"][f"{recipes}×3"][f"{size}, {spreads}"] >= 0.9, (recipes, size, spreads)


@pytest.mark.parametrize("law", ["normal", "mild", "heavy", "strong"])
@pytest.mark.parametrize("seeds", [2, 5])
def test_intervals_still_cover_as_recorded(law: str, seeds: int) -> None:
    """3,000 fresh repetitions against the recorded rate. With other draws one of these eight would fail by chance once
    in 6,000 times: 4.3 standard errors of both together."""
    n, recorded = 3_000, coverage.at(seeds, [law])[law]
    rate = coverage.interval(coverage.LAWS[law], seeds, n, np.random.default_rng(7))
    error = math.sqrt(recorded * (1 - recorded) * (1 / n + 1 / coverage.recorded()["repetitions"]))
    assert abs(rate - recorded) < 4.3 * error


@pytest.mark.parametrize(
    ("spreads", "means"),
    [
        ("1:1", "equal"), ("1:5", "equal"), ("one", "equal"), ("two", "half, wide"), ("half", "halves"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_the_comparison_cries_wolf_in_one_family_of_twenty_at_the_most(spreads: str, means: str, seeds: int) -> None:
    """4,000 fresh families of five: 5 % and four of their standard errors."""
    law, sizes, places = coverage.LAWS["normal"], coverage.arranged(spreads, 5), coverage.placed(means, 5)
    alarms, seen = coverage.decisions(law, 0.1 * sizes, places, seeds, 4_000, np.random.default_rng(9))
    assert alarms <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 4_000)
    if seeds > 2 and means == "halves":
        assert seen > 0.9


@pytest.mark.parametrize(("recipes", "seeds"), [(12, 10), (20, 7)])
def test_many_recipes_with_many_seeds_are_told_apart_by_chance_no_more(recipes: int, seeds: int) -> None:
    """Where own variances are known well, equal spreads are the worst case."""
    law = coverage.LAWS["normal"]
    rng = np.random.default_rng(10)
    alarms, _ = coverage.decisions(law, np.ones(recipes), np.zeros(recipes), seeds, 4_000, rng)
    assert 0.02 < alarms <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 4_000)


def test_what_is_called_visible_is_seen_in_four_of_five() -> None:
    """Families whose middle error is the true one: 0.1 sqrt(2 / 3) for a spread of 0.1 and three seeds."""
    law, true = coverage.LAWS["normal"], 0.1 * math.sqrt(2 / 3)
    reach = stats._reach((3,) * 6, stats._null((3,) * 6).critical)
    means = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0]) * reach * true
    x = means[:, None] + 0.1 * law.draw(np.random.default_rng(12), (4_000, 6, 3))
    told = stats.told_apart(x.mean(-1), x.var(-1, ddof=1), (3,) * 6)
    assert told[:, 0].mean() == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 4_000))


def test_random_spreads_are_within_the_least_favourable() -> None:
    """Spreads drawn at random in [1, 5] and numbers of seeds at random in 2..6: nothing is worse than what was simulated."""
    rng = np.random.default_rng(11)
    for _ in range(6):
        recipes = int(rng.integers(2, 12))
        seeds = tuple(int(n) for n in rng.integers(2, 7, recipes))
        spreads = 5.0 ** rng.random(recipes)
        n = np.asarray(seeds)
        mean = spreads / np.sqrt(n) * rng.standard_normal((4_000, recipes))
        variance = spreads**2 * rng.chisquare(n - 1, (4_000, recipes)) / (n - 1)
        rate = stats.told_apart(mean, variance, seeds).any(1).mean()
        assert rate <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 4_000), (seeds, spreads)


def test_one_decision_is_that_of_many() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(0, 1, (5, 3)) + np.arange(5)[:, None] * 2
    names = [str(i) for i in range(5)]
    family = stats.compare(dict(zip(names, x)))
    told = stats.told_apart(x.mean(1), x.var(1, ddof=1), (3,) * 5)
    assert [family.apart(a, b) for a, b in itertools.combinations(names, 2)] == told.tolist()


def test_simulated_distances_are_frechets() -> None:
    """One model: moments by hand, the distance by scipy's square root of a matrix."""
    from scipy.linalg import sqrtm

    found = coverage.simulated_fd(np.random.default_rng(3), 1)[0]
    rng, d, n = np.random.default_rng(3), coverage.DIMENSIONS, coverage.SAMPLES
    reference = np.random.default_rng(1).standard_normal((n, d))
    scale = np.exp(0.1 * rng.standard_normal((1, 1)))
    mean = (0.15 * rng.standard_normal((1, d)) + scale * rng.standard_normal((1, d)) / math.sqrt(n))[0]
    covariance = scale[0, 0] ** 2 * scipy_stats.wishart(n - 1, np.eye(d)).rvs(1, random_state=rng) / (n - 1)
    other = np.cov(reference.T)
    expected = ((mean - reference.mean(0)) ** 2).sum() + np.trace(
        covariance + other - 2 * sqrtm(covariance @ other).real
    )
    assert found == pytest.approx(expected, rel=1e-8)


def test_the_docs_say_what_was_recorded() -> None:
    for part in ("coverage", "comparison"):
        page, table = readme.PARTS[part]
        text = page.read_text()
        assert readme.replace_part(text, part, table()) == text


# ---------------------------------------------------------------------------------------------------------- compare


def asked(
    rows: list[dict[str, Any]], runs: list[dict[str, Any]], a: Selector, b: Selector, metric: str = ""
) -> Comparison:
    return compare(pd.DataFrame(rows), runs, a, b, metric)


def test_recipes_are_compared_as_in_their_report_and_as_one_planned_pair(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, seeds=4)
    for r in [r for r in rows if r["metric"] == "coverage"]:  # a third metric, on which they hardly differ
        rows.append(r | {"metric": "recall", "value": 0.5 + 0.01 * math.sin(7 * r["seed"] + len(r["recipe"]) ** 2)})
    found = asked(rows, runs, Selector("alpha"), Selector("gamma"))
    (section,) = sections(pd.DataFrame(rows), runs)
    family = section.compare(Measure("fd", "test", SPACE)).family
    pair = family.pair("alpha", "gamma")
    assert pair is not None
    assert family.log
    assert found.lead.metric == "fd"
    assert found.lead.found == pair.found
    assert found.lead.family == pair.adjusted
    swapped = asked(rows, runs, Selector("gamma"), Selector("alpha")).lead.found
    assert swapped is not None
    assert (swapped.mean, swapped.low, swapped.high, swapped.p) == (
        -pair.found.mean, -pair.found.high, -pair.found.low, pair.found.p,
    )  # fmt: skip
    assert found.lead.winner("A", "B") == "A"
    said = found.verdict()
    assert "by the moderated t over training seeds, for this pair alone" in said
    assert "among all pairs of the 3 recipes compared in the report" in said
    assert "alpha is significantly better (lower is better)" in said
    assert "smallest attainable p is 0.029" in said
    table = pairs.pairs(section)
    assert table is not None
    (line,) = [line for line in table.lines if line.name == "alpha / gamma"]
    assert [c.value for c in line.cells[1:3]] == [pair.adjusted, pair.found.p], "page and command agree"
    coverage_line = next(line for line in found.lines if line.metric == "coverage")
    assert coverage_line.winner("A", "B") == "A"  # there higher is better
    assert found.lines[0] is found.lead
    assert [line.adjusted for line in found.lines[:1]] == [found.lead.found.p]
    rest = [line for line in found.lines[1:] if line.found]
    assert {line.metric for line in rest} == {"coverage", "recall"}
    assert any(line.found and line.adjusted > 1.9 * line.found.p for line in rest), "Holm doubles the smaller of two"
    assert [line.adjusted for line in rest] == pytest.approx(stats.holm([line.found.p for line in rest if line.found]))
    assert json.loads(json.dumps(found.as_json()))["metrics"][0]["test"] == "moderated t"


def test_plans_of_the_same_models_are_compared_in_pairs(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0, "beta": 3.0}, seeds=4, spread=0.3)
    for r in [r for r in rows if r.get("steps") == 10 and r["recipe"] == "alpha"]:
        shift = -0.1 - 0.01 * r["seed"] if r["metric"] == "fd" else 0.0
        rows.append(r | {"steps": 20, "headline": False, "value": r["value"] + shift})
    found = asked(rows, runs, Selector("alpha", plan="heun-20"), Selector("alpha"))
    assert found.lead.found is not None
    assert found.lead.found.paired
    assert found.lead.found.n == (4, 4)
    drawn = {k: [r["value"] for r in rows if r["recipe"] == "alpha" and r["metric"] == "fd" and r["split"] == "test"
             and r.get("steps") == k] for k in (10, 20)}  # fmt: skip
    assert found.lead.found.mean == pytest.approx(np.mean(np.log(drawn[20]) - np.log(drawn[10])))
    assert found.lead.winner("A", "B") == "A"
    assert "paired t over the 4 trained models that both share" in found.verdict()
    assert not [line for line in found.lines if line.metric == "bits_per_dim"]  # neither plan touches it
    across_recipes = asked(rows, runs, Selector("alpha", plan="heun-20"), Selector("beta"))
    assert across_recipes.lead.found is not None
    assert not across_recipes.lead.found.paired


def test_a_plan_that_only_some_runs_were_drawn_by_is_drawn_by_the_others_not_by_new_seeds(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0, "beta": 3.0}, seeds=3)
    first = next(r["run"] for r in rows if r["recipe"] == "alpha" and r["seed"] == 0)
    rows += [r | {"steps": 20, "headline": False} for r in rows if r.get("run") == first and r.get("steps") == 10]
    said = " ".join(asked(rows, runs, Selector("alpha", plan="heun-20"), Selector("alpha")).notes)
    assert "--seeds" not in said
    for record in runs:
        if record["recipe"] == "alpha":
            folder = str(record.get("folder") or record["id"])
            asks = f"`bench evaluate {folder} --sampler heun-20`"
            assert (asks in said) == (not folder.endswith(first)), folder
    rows += [r | {"steps": 20} for r in rows if r["recipe"] == "alpha" and r.get("steps") == 10 and r["run"] != first]
    said = " ".join(asked(rows, runs, Selector("alpha", plan="heun-20"), Selector("alpha")).notes)
    assert "--recipes alpha --seeds 6`, and then of each new run `bench evaluate RUN --sampler heun-20`" in said


def test_scores_that_never_vary_are_not_tested_and_their_json_is_json(tmp_path: Path) -> None:
    for other in (1.0, 2.0):
        rows, runs = made(tmp_path / str(other), {"alpha": 1.0, "beta": other}, spread=0.0)
        found = asked(rows, runs, Selector("alpha"), Selector("beta"))
        assert "nothing to test the difference against: nothing is claimed" in found.verdict()
        assert "nan" not in found.verdict().lower()
        read = json.loads(json.dumps(found.as_json(), allow_nan=False))
        assert read["metrics"][0]["p"] is None
        assert found.lead.winner("A", "B") == ""


def test_averaged_and_raw_weights_are_compared_in_pairs(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0}, seeds=3)
    drawn = [r for r in rows if r.get("steps") == 10 and r["metric"] == "fd"]
    rows += [r | {"weights": "raw", "value": r["value"] * 2 + 0.1 * r["seed"]} for r in drawn]
    found = asked(rows, runs, Selector("alpha", weights="raw"), Selector("alpha"))
    assert found.lead.found is not None
    assert found.lead.found.paired
    assert found.lead.winner("raw", "averaged") == "averaged"
    assert "alpha (raw weights)" in found.verdict()


def test_draws_are_no_seeds_and_one_seed_claims_nothing(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, seeds=1)
    drawn = [r for r in rows if r.get("steps") == 10 and r["metric"] == "fd"]
    rows += [r | {"draw": draw, "value": r["value"] + 0.3 * draw} for r in drawn for draw in (1, 2)]
    found = asked(rows, runs, Selector("alpha"), Selector("gamma"))
    assert found.lead.found is None
    assert found.lead.a.n == 1
    assert found.lead.a.half is None
    assert found.lead.spread == pytest.approx((0.3, 0.3))
    said = found.verdict()
    assert "no difference can be tested: nothing is claimed" in said
    assert "standard deviation of 0.300 (alpha) and 0.300 (gamma)" in said
    assert "--seeds 5" in " ".join(found.notes)


def test_a_tie_says_what_would_be_needed(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, seeds=3)
    found = asked(rows, runs, Selector("alpha"), Selector("beta"))
    assert found.lead.winner("A", "B") == "tie"
    assert found.lead.needed is not None
    assert f"{found.lead.needed} seeds each would show it in 80 %" in found.verdict()
    assert "of 3 against 3 seeds its smallest attainable p is 0.1, not below 0.05" in found.verdict()


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("n", 500, "the number of samples (898 and 500)"),
        ("n_ref", 100, "the number of reference examples (898 and 100)"),
        ("features", "digits@000000000000", f"the feature space ({SPACE} and digits@000000000000)"),
        ("dtype", "bfloat16", "the number format (float32 and bfloat16)"),
        ("conditional", True, "being told the labels (no and yes)"),
        ("data", "0123456789ab", "the data (none and 0123456789ab)"),
    ],
)
def test_other_provenance_is_refused_and_named(tmp_path: Path, column: str, value: object, words: str) -> None:
    rows, _ = made(tmp_path)
    for row in rows:
        if row["recipe"] == "gamma":
            row[column] = value
    with pytest.raises(NotComparable, match="can not be compared on FD") as refused:
        asked(rows, [], Selector("alpha"), Selector("gamma"))
    assert str(refused.value).endswith(f"they differ in {words}")


def test_speed_is_compared_on_one_kind_of_machine(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    for row in rows:
        if row["recipe"] == "gamma" and row["metric"] == "latency":
            row["device"] = "a GPU"
    found = asked(rows, runs, Selector("alpha"), Selector("gamma"))
    (latency,) = [line for line in found.lines if line.metric == "latency"]
    assert latency.refused == "the device (a CPU and a GPU)"
    assert found.lead.found is not None


def test_what_can_not_be_compared_is_said_in_one_line(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    toy = [dict(r, dataset="ring8", recipe="delta", run=f"{r['seed']}-toy") for r in rows if r["recipe"] == "alpha"]
    for selectors, metric, said in (
        ((Selector("alpha"), Selector("delta")), "", "nothing in common: alpha has results on digits (quick), delta"),
        ((Selector("alpha"), Selector("alpha")), "", "are the same rows"),
        ((Selector("alpha"), Selector("alpha", weights="raw")), "", "no such weights were scored; there are: ema"),
        (
            (Selector("alpha"), Selector("beta")),
            "bits_per_dim",
            "different kinds are not compared: alpha has elbo, beta",
        ),
        ((Selector("alpha"), Selector("beta", run="0-x")), "", "has no results"),
    ):
        with pytest.raises(NotComparable) as refused:
            asked(rows + toy, runs, *selectors, metric)
        assert said in str(refused.value)
    for selectors, metric, what in (
        ((Selector("alhpa"), Selector("beta")), "", "recipe"),
        ((Selector("alpha", plan="heun-3"), Selector("beta")), "", "plan of alpha:"),
        ((Selector("alpha"), Selector("beta")), "fdd", "metric"),
    ):
        with pytest.raises(UnknownName) as unknown:
            asked(rows, runs, *selectors, metric)
        assert unknown.value.what == what
    assert "bits_per_dim" in unknown.value.known, "both have one, though of different kinds: asked for, it says so"
    both = rows + [dict(r, dataset="other") for r in rows]
    with pytest.raises(NotComparable, match=r"both have results on digits \(quick\) or other \(quick\); choose"):
        asked(both, [], Selector("alpha"), Selector("beta"))
    assert compare(pd.DataFrame(both), [], Selector("alpha"), Selector("beta"), dataset="other").dataset == "other"


def test_a_row_that_had_more_than_one_budget_is_compared_and_said_so(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    for row in rows:
        if row["recipe"] == "alpha":
            row["cost_total"] = 2e12
    assert "alpha had 2.0× the budget." in asked(rows, runs, Selector("alpha"), Selector("gamma")).verdict()


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Result files of two recipes of the catalogue as `bench evaluate` leaves them, without their models."""
    rows, _ = made(tmp_path, {"gan": 2.0, "vae": 6.0}, seeds=3)
    known = {f.name for f in dataclasses.fields(store.Row)}
    for run in {(r["recipe"], r["run"]) for r in rows if r.get("run")}:
        mine = [r for r in rows if (r["recipe"], r.get("run")) == run]
        folder = tmp_path / "runs" / "digits" / run[0] / run[1]
        store.save_rows(folder, [store.Row(**{k: v for k, v in r.items() if k in known}) for r in mine], "key")
    return tmp_path / "runs"


def test_the_command_answers_in_words_and_in_json(kept: Path) -> None:
    told = bench("compare", "gan", "vae", str(kept))
    assert told.exit_code == 0, told.output
    assert "gan is significantly better (lower is better)" in told.output
    assert "asked" in told.output
    read = json.loads(bench("compare", "gan", "vae", str(kept), "--json").output)
    assert read["metrics"][0]["verdict"] == "gan"
    assert read["metrics"][0]["p"] < 0.001
    alias = bench("compare", "r3gan", "vae:heun-10", str(kept), "--metric", "coverage")
    assert "Coverage of gan and vae (heun-10)" in alias.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gan", "vea"), "unknown recipe 'vea'; did you mean 'vae'?"),
        (("gan", "ddpm"), "no results of ddpm in"),
        (("gan", "gan"), "are the same rows"),
        (("gan:heun-11", "vae"), "unknown plan of gan: 'heun-11'; did you mean 'heun-1"),
        (("gan", "vae", "--metric", "fda"), "unknown metric 'fda'; did you mean 'fd'?"),
        (("gan:raw:ema", "vae"), "write RECIPE, RECIPE:SAMPLER-STEPS or RECIPE:raw"),
        (("digits/gan/9-x", "vae"), "there is no run digits/gan/9-x"),
        (("gan", "vae", "--dataset", "ring8"), "there are no results on ring8"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(kept: Path, arguments: tuple[str, ...], said: str) -> None:
    told = bench("compare", *arguments[:2], str(kept), *arguments[2:])
    assert told.exit_code == 2
    assert said in told.stderr
    assert told.stderr.count("\n") == 1


def test_no_folder_of_runs_is_one_line(tmp_path: Path) -> None:
    told = bench("compare", "gan", "vae", str(tmp_path / "none"))
    assert told.exit_code == 2
    assert "no results in" in told.stderr


# ------------------------------------------------------------------------------------------- provenance and families


def external(rows: list[dict[str, Any]], **other: Any) -> list[dict[str, Any]]:
    base = next(r for r in rows if r["metric"] == "fd" and r["split"] == "test" and r.get("run"))
    mine = {k: base[k] for k in ("schema", "dataset", "split", "features", "n", "n_ref", "metric", "dtype")}
    return [{**mine, "status": "external", "recipe": "theirs", "run": "external-ab12", "value": 1.0, **other}]


def test_external_samples_stand_in_the_table_marked_and_not_compared(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    section = one(rows + external(rows), runs)
    table = headline.headline(section)
    (line,) = [line for line in table.lines if line.kind == "external"]
    assert (line.name, line.sub) == ("theirs", "external samples")
    assert not any(c.bold for c in line.cells)
    assert set(section.compare(Measure("fd", "test", SPACE)).family.names) == {"alpha", "beta", "gamma"}
    assert any(n.startswith("theirs: external, not compared: its training seeds") for n in table.notes)
    section = one(rows + external(rows, n=2000), runs)
    assert (
        section.compare(Measure("fd", "test", SPACE))
        .uncompared["theirs"]
        .endswith("in the number of samples (2,000, not 898)")
    )
    twice = one(rows + external(rows) + external(rows, run="external-cd34", value=2.0), runs)
    assert [(e.name, e.scores[Measure("fd")].values) for e in twice.externals] == [
        ("theirs", [1.0]),
        ("theirs (samples)", [2.0]),
    ]
    said = asked(rows + external(rows), runs, Selector("theirs"), Selector("alpha")).verdict()
    assert "theirs are samples from elsewhere" in said
    assert "nothing is claimed" in said


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("dtype", "bfloat16", "the number format (bfloat16, not float32)"),
        ("features", "digits@000000000000", f"the feature space (digits@000000000000, not {SPACE})"),
        ("data", "0123456789ab", "the data (0123456789ab, not none)"),
        ("n", 500, "the number of samples (500, not 898)"),
    ],
)
def test_the_field_that_differs_is_named_in_the_table(tmp_path: Path, column: str, value: object, words: str) -> None:
    rows, _ = made(tmp_path)
    for row in rows:
        if row["recipe"] == "gamma":
            row[column] = value
    section = one(rows)
    assert section.lead == ("fd", "test", SPACE)
    compared = section.compare(Measure("fd", "test", SPACE))
    assert set(compared.family.names) == {"alpha", "beta"}
    assert compared.uncompared["gamma"] == f"not compared: differs from the others in {words}"
    assert any(words in note for note in headline.headline(section).notes)


def test_every_scored_number_tells_where_it_comes_from(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    section = one(rows, runs)
    for table in (headline.headline(section), *quality.quality(section)):
        for line in (line for line in table.lines if line.kind == "recipe"):
            assert "runs 0-" in line.source
            for column, made_ in zip(table.columns, line.cells):
                if column.key.startswith(("fd", "coverage")):
                    assert SPACE in made_.source, column.key
                    assert "n = 898 against 898" in made_.source
                if column.key == "bits_per_dim":
                    assert "n = 256" in made_.source
    found = sources.sources(section)
    assert found is not None
    assert f"schema {store.SCHEMA}" in found.caption
    (fd,) = [line for line in found.lines if line.name.startswith("FD") and line.cells[0].text == "test"]
    assert [c.text for c in fd.cells][:4] == ["test", SPACE, "898", "898"]


def test_keys_spell_out_what_decides() -> None:
    rows = pd.DataFrame([{"n": 500.0, "fraction": math.nan, "conditional": True, "weights": "ema"}])
    fields = {"n": "n", "fraction": "part", "conditional": "labels", "weights": "weights"}
    (key,) = provenance.keys(rows, fields)
    assert key == ("500", "1", "yes", "averaged")
    assert (
        provenance.difference(key, ("898", "1", "yes", "raw"), fields)
        == "n (500, not 898) and weights (averaged, not raw)"
    )
    assert provenance.difference(key, ("898", "1", "yes", "raw"), fields, ["weights"]) == "weights (averaged, not raw)"


def test_families_stand_together_behind_the_recipe_they_vary(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 4.0, "beta": 3.0, "alpha-b": 2.0, "alpha-c": 5.0, "gamma-b": 6.0})
    families = {"alpha": "alpha", "alpha-b": "alpha", "alpha-c": "alpha", "beta": "beta", "gamma-b": "gamma"}
    (section,) = sections(pd.DataFrame(rows), runs, families)
    lines = [line for line in headline.headline(section).lines if line.kind == "recipe"]
    assert [line.name for line in lines] == ["alpha", "alpha-b", "alpha-c", "beta", "gamma-b"]
    assert [line.member for line in lines] == [False, True, True, False, False]
    from reports import verdict

    assert "alpha-b has the best mean FD" in "".join(part for part, _ in verdict.verdict(section))


def test_the_bias_in_n_and_the_floors_own_n_are_said(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    rows += [r | {"metric": "fd_inf", "value": r["value"] - 0.25} for r in rows if r["metric"] == "fd" and r.get("run")]
    (table,) = quality.quality(one(rows, runs))
    titles = [c.title for c in table.columns]
    assert titles[:4] == ["FD, test", "FD, train", "FD∞, test", "FD∞, train"]
    assert any("At n = 898 FD lies 0.25 above FD∞" in note for note in table.notes)
    for row in rows:
        if row["recipe"] == "real-train":
            row["n"] = 500
    said = " ".join(headline.headline(one(rows, runs)).notes)
    assert "were measured with 500 and 898 samples, the recipes with 898" in said
