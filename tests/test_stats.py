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

from bench import cli, readme, store
from reports import across, coverage, provenance, stats, tables
from reports.compare import Comparison, NotComparable, Selector, UnknownName, compare
from reports.sections import sections

# -------------------------------------------------------------------------------------------------- tests of means


@pytest.mark.parametrize(("n", "m", "ratio"), [(2, 2, 1.0), (3, 5, 4.0), (10, 3, 0.2), (5, 5, 1.0)])
def test_welch_is_scipys(n: int, m: int, ratio: float) -> None:
    """The same formulas twice: they agree to rounding."""
    rng = np.random.default_rng(n + m)
    for _ in range(20):
        a, b = rng.normal(0, 1, n), rng.normal(0.5, ratio, m)
        found, reference = stats.welch(a, b), scipy_stats.ttest_ind(a, b, equal_var=False)
        ends = reference.confidence_interval(0.95)
        assert found.p == pytest.approx(reference.pvalue, rel=1e-9)
        assert found.freedom == pytest.approx(reference.df, rel=1e-9)
        assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-9)
        assert found.n == (n, m)
        assert not found.paired


@pytest.mark.parametrize("n", [2, 3, 8])
def test_paired_is_scipys_and_needs_no_agreement_between_the_models(n: int) -> None:
    rng = np.random.default_rng(n)
    model = rng.normal(0, 10, n)  # how good each trained model is: what pairing takes out
    a, b = model + rng.normal(0, 0.1, n), model + 0.5 + rng.normal(0, 0.1, n)
    found, reference = stats.paired(a - b), scipy_stats.ttest_rel(a, b)
    ends = reference.confidence_interval(0.95)
    assert found.p == pytest.approx(reference.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-9)
    assert found.high - found.low < 0.1 * (stats.welch(a, b).high - stats.welch(a, b).low)


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
    assert stats.sign_flips([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert stats.sign_flips([1.0, 2.0, 3.0, 4.0, 5.0, 7.5]) == pytest.approx(stats.permutation_floor(6))


def test_permutation_counts_relabellings() -> None:
    a, b = [1.0, 2.5, 3.1, 4.7], [3.3, 4.1, 5.9, 6.2, 2.2]
    whole, observed = np.array(a + b), np.mean(a) - np.mean(b)
    every = [whole[list(s)].mean() - np.delete(whole, s).mean() for s in itertools.combinations(range(9), 4)]
    less, more = np.mean(np.array(every) <= observed + 1e-12), np.mean(np.array(every) >= observed - 1e-12)
    assert stats.permutation(a, b) == pytest.approx(2 * min(less, more))
    d = np.array([0.5, -0.2, 0.9, 1.1, 0.3, 0.8, -0.1])
    signs = np.array(list(itertools.product((-1, 1), repeat=len(d)))) * d
    assert stats.sign_flips(d) == pytest.approx(2 * np.mean(signs.mean(1) >= d.mean() - 1e-12))


# ----------------------------------------------------------------------------------------------------------- ranks


def test_ranks_with_ties_need_not_be_consecutive_nor_transitive() -> None:
    """b is told apart from neither a nor c, which are told apart: a and b lead, c is behind one of them."""
    groups = {
        "a": [1.0, 1.1, 0.9, 1.05],
        "b": [0.0, 4.0, 2.0, 1.0],
        "c": [2.0, 2.1, 1.9, 2.05],
        "d": [9.0, 9.1, 9.2, 8.9],
    }
    ranks, pairs = stats.compare(groups)
    assert ranks == {"a": 1, "b": 1, "c": 2, "d": 4}
    by_name = {(p.a, p.b): p.significant for p in pairs}
    assert not by_name["a", "b"]
    assert not by_name["b", "c"]
    assert by_name["a", "c"]
    assert stats.compare(groups, lower_is_better=False)[0] == {"a": 3, "b": 2, "c": 2, "d": 1}


def test_what_would_be_needed_is_in_cohens_tables() -> None:
    """Cohen (1988), power 0.8, two-sided 0.05: d = 0.2, 0.5, 0.8, 1 need 394, 64, 26, 17 a group; pairs 199, 34, 15."""
    assert [stats.needed(d, 1.0, 1.0) for d in (0.2, 0.5, 0.8, 1.0)] == [394, 64, 26, 17]
    assert [stats.needed(d, 1.0) for d in (0.2, 0.5, 0.8)] == [199, 34, 15]
    assert stats.needed(0.0, 1.0, 1.0) is None
    assert stats.needed(1e-4, 1.0, 1.0) is None
    assert stats.needed(-0.5, 4.0, 4.0) == stats.needed(0.25, 1.0, 1.0)


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
    assert coverage.recorded()["repetitions"] >= 4_000
    for law in ("normal", "mild"):
        for kind in ("interval", "welch"):
            for n in coverage.SHOWN:
                assert 0.93 <= coverage.at(n, [law], kind)[law] <= 0.97, (law, kind, n)
    strong = coverage.at(5, ["strong"])["strong"]
    assert strong < 0.93, "what is not covered as promised is told, not hidden"
    assert f"{100 * strong:.1f} % (strongly skewed)" in coverage.sentence(5)
    assert all(rate <= 0.05 for rate in coverage.recorded()["false_alarms"]["rate"].values())
    assert all(0.92 <= rate <= 0.97 for rate in coverage.recorded()["interquartile_mean"]["rate"].values())


@pytest.mark.parametrize("law", ["normal", "mild", "heavy", "strong"])
@pytest.mark.parametrize("seeds", [2, 5])
def test_intervals_still_cover_as_recorded(law: str, seeds: int) -> None:
    """3,000 fresh repetitions against the recorded rate. With other draws one of these eight would fail by chance once
    in 6,000 times: 4.3 standard errors of both together."""
    n, recorded = 3_000, coverage.at(seeds, [law])[law]
    rate = coverage.interval(coverage.LAWS[law], seeds, n, np.random.default_rng(7))
    error = math.sqrt(recorded * (1 - recorded) * (1 / n + 1 / coverage.recorded()["repetitions"]))
    assert abs(rate - recorded) < 4.3 * error


def test_welch_and_rankings_hold_what_was_recorded() -> None:
    """The same of Welch's interval; and 300 rankings of five equal recipes, of which about 6 cry wolf: 16 or more, as
    would 5.3 % of them, by chance once in 3,000 times. Uncorrected, 70 would."""
    normal, n = coverage.LAWS["normal"], 3_000
    recorded = coverage.at(3, ["normal"], "welch")["normal"]
    rate = coverage.welch(normal, 3, n, np.random.default_rng(8))
    error = math.sqrt(recorded * (1 - recorded) * (1 / n + 1 / coverage.recorded()["repetitions"]))
    assert abs(rate - recorded) < 4.3 * error
    assert coverage.false_alarms(normal, 3, 5, 300, np.random.default_rng(9)) < 16 / 300


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


def test_the_readme_says_what_was_recorded() -> None:
    text = (Path(cli.__file__).parents[1] / "README.md").read_text()
    assert readme.replace_part(text, "coverage", readme.coverage_table()) == text


# ---------------------------------------------------------------------------------------------------------- compare


def asked(
    rows: list[dict[str, Any]], runs: list[dict[str, Any]], a: Selector, b: Selector, metric: str = ""
) -> Comparison:
    return compare(pd.DataFrame(rows), runs, a, b, metric)


def test_recipes_are_compared_by_welch(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, seeds=4)
    for r in [r for r in rows if r["metric"] == "coverage"]:  # a third metric, on which they hardly differ
        rows.append(r | {"metric": "recall", "value": 0.5 + 0.01 * math.sin(7 * r["seed"] + len(r["recipe"]) ** 2)})
    found = asked(rows, runs, Selector("alpha"), Selector("gamma"))
    values = {
        name: [r["value"] for r in rows if r["recipe"] == name and r["metric"] == "fd" and r["split"] == "test"
               and r.get("steps") == 10]
        for name in ("alpha", "gamma")
    }  # fmt: skip
    reference = scipy_stats.ttest_ind(values["alpha"], values["gamma"], equal_var=False)
    assert found.lead.metric == "fd"
    assert found.lead.found is not None
    assert found.lead.found.p == pytest.approx(reference.pvalue)
    assert found.lead.winner("A", "B") == "A"
    said = found.verdict()
    assert "by Welch's t over training seeds" in said
    assert "alpha is significantly better (lower is better)" in said
    assert "smallest attainable p is 0.029" in said
    coverage_line = next(line for line in found.lines if line.metric == "coverage")
    assert coverage_line.winner("A", "B") == "A"  # there higher is better
    assert found.lines[0] is found.lead
    assert [line.adjusted for line in found.lines[:1]] == [found.lead.found.p]
    rest = [line for line in found.lines[1:] if line.found]
    assert {line.metric for line in rest} == {"coverage", "recall"}
    assert any(line.found and line.adjusted > 1.9 * line.found.p for line in rest), "Holm doubles the smaller of two"
    assert [line.adjusted for line in rest] == pytest.approx(stats.holm([line.found.p for line in rest if line.found]))
    assert json.loads(json.dumps(found.as_json()))["metrics"][0]["test"] == "Welch's t"


def test_plans_of_the_same_models_are_compared_in_pairs(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0, "beta": 3.0}, seeds=4, spread=0.3)
    for r in [r for r in rows if r.get("steps") == 10 and r["recipe"] == "alpha"]:
        shift = -0.1 - 0.01 * r["seed"] if r["metric"] == "fd" else 0.0
        rows.append(r | {"steps": 20, "headline": False, "value": r["value"] + shift})
    found = asked(rows, runs, Selector("alpha", plan="heun-20"), Selector("alpha"))
    assert found.lead.found is not None
    assert found.lead.found.paired
    assert found.lead.found.n == (4, 4)
    assert found.lead.found.mean == pytest.approx(-0.115)
    assert found.lead.winner("A", "B") == "A"
    assert "paired t over the 4 trained models that both share" in found.verdict()
    assert not [line for line in found.lines if line.metric == "bits_per_dim"]  # neither plan touches it
    across_recipes = asked(rows, runs, Selector("alpha", plan="heun-20"), Selector("beta"))
    assert across_recipes.lead.found is not None
    assert not across_recipes.lead.found.paired


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


def test_external_samples_stand_in_the_table_marked_and_unranked(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    section = one(rows + external(rows), runs)
    table = tables.headline(section)
    (line,) = [line for line in table.lines if line.kind == "external"]
    assert (line.name, line.sub) == ("theirs", "external samples")
    assert not any(c.bold for c in line.cells)
    assert set(section.rank("fd", "test", SPACE).ranks) == {"alpha", "beta", "gamma"}
    assert any(n.startswith("theirs: external, not ranked: its training seeds") for n in table.notes)
    section = one(rows + external(rows, n=2000), runs)
    assert section.rank("fd", "test", SPACE).unranked["theirs"].endswith("in the number of samples (2,000, not 898)")
    twice = one(rows + external(rows) + external(rows, run="external-cd34", value=2.0), runs)
    assert [(e.name, e.per_seed("fd")) for e in twice.externals] == [("theirs", [1.0]), ("theirs (samples)", [2.0])]
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
    assert section.quality == ("fd", SPACE)
    ranking = section.rank("fd", "test", SPACE)
    assert set(ranking.ranks) == {"alpha", "beta"}
    assert ranking.unranked["gamma"] == f"not ranked: differs from the others in {words}"
    assert any(words in note for note in tables.headline(section).notes)


def test_every_scored_number_tells_where_it_comes_from(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    section = one(rows, runs)
    for table in (tables.headline(section), *tables.quality(section)):
        for line in (line for line in table.lines if line.kind == "recipe"):
            assert "runs 0-" in line.source
            for column, made_ in zip(table.columns, line.cells):
                if column.key.startswith(("fd", "coverage")):
                    assert SPACE in made_.source, column.key
                    assert "n = 898 against 898" in made_.source
                if column.key == "bits_per_dim":
                    assert "n = 256" in made_.source
    found = tables.sources(section)
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
    lines = [line for line in tables.headline(section).lines if line.kind == "recipe"]
    assert [line.name for line in lines] == ["alpha", "alpha-b", "alpha-c", "beta", "gamma-b"]
    assert [line.member for line in lines] == [False, True, True, False, False]
    from reports import verdict

    assert "alpha-b has the lowest mean FD" in verdict.plain_text(verdict.verdict(section))


def test_the_bias_in_n_and_the_floors_own_n_are_said(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    rows += [r | {"metric": "fd_inf", "value": r["value"] - 0.25} for r in rows if r["metric"] == "fd" and r.get("run")]
    (table,) = tables.quality(one(rows, runs))
    titles = [c.title for c in table.columns]
    assert titles[:4] == ["FD, test", "FD, train", "FD∞, test", "FD∞, train"]
    assert any("At n = 898 FD lies 0.25 above FD∞" in note for note in table.notes)
    for row in rows:
        if row["recipe"] == "real-train":
            row["n"] = 500
    said = " ".join(tables.headline(one(rows, runs)).notes)
    assert "were measured with 500 and 898 samples, the recipes with 898" in said
