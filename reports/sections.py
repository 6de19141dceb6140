"""Rows into sections: one per data set and tier, each with its recipes, baselines and failures.

The frame holds one metric value a row (the columns are those of the row schema; missing ones are filled). What is
decided here, once, for tables, figures and words alike: which rows are the headline ones, which runs belong together,
what a run's budget was, and which rows may be compared at all.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import numpy as np
import pandas as pd

from reports import provenance, stats
from reports.metrics import LIKELIHOODS, RATIOS
from reports.words import number, plain, slug

TEXT = (
    *("run", "status", "reason", "recipe", "paradigm", "tier", "dataset", "split", "sampler", "options", "metric"),
    *(
        "unit",
        "kind",
        "relation",
        "features",
        "weights",
        "device",
        "dtype",
        "code",
        "data",
        "samples",
        "resize",
        "reading",
        "torch",
    ),
)
NUMBERS = (
    *("schema", "seed", "steps", "calls", "value", "error", "low", "high", "n", "n_ref", "draw", "fraction", "images"),
    *("flops", "seconds", "cost_total", "seconds_total", "images_total"),
    *("params_trained", "params_sampling", "threads"),
)
FLAGS = ("headline", "conditional", "contended")

FLOOR = "real-train"
NO_RUN = ("baseline", "external")  # rows of no model of the suite
# A larger multiple of the budget is marked, never bold and never compared. Clocks jitter, counted quantities do not.
OVER_BUDGET = 1.05
OVER_SECONDS = 1.10

_RELATIONS = {"=": 0, "≤": 1, "≈": 2}


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Every column of the schema with one type each, in an order that does not depend on how the rows came."""
    data: dict[str, Any] = {}
    for name in TEXT:
        column = frame[name] if name in frame else pd.Series("", index=frame.index)
        data[name] = column.astype(object).where(column.notna(), "").map(str)
    for name in NUMBERS:
        column = frame[name] if name in frame else pd.Series(math.nan, index=frame.index)
        data[name] = pd.to_numeric(column, errors="coerce").astype(float)
    for name in FLAGS:
        column = frame[name] if name in frame else pd.Series(False, index=frame.index)
        data[name] = column.map(lambda v: str(v).lower() in ("true", "1", "1.0"))
    rows = pd.DataFrame(data, columns=[*TEXT, *NUMBERS, *FLAGS])
    rows["status"] = rows["status"].where(rows["status"] != "", "ok")
    by = [
        *("dataset", "tier", "recipe", "conditional", "seed", "run", "status", "split", "sampler", "steps", "options"),
        *("metric", "kind", "features", "fraction", "weights", "draw", "value", "reason"),
    ]
    return rows.sort_values(by, kind="stable", ignore_index=True)


@dataclass(frozen=True)
class Failure:
    """A run that did not finish; or, with `metric`, one measurement of a finished run that failed."""

    run: str
    seed: float
    status: str
    reason: str
    metric: str = ""

    @property
    def seed_text(self) -> str:
        return "?" if math.isnan(self.seed) else f"{self.seed:g}"


@dataclass(frozen=True)
class Entry:
    """A row of the comparison: a recipe with one configuration, over its seeds; a baseline; or someone's samples.

    family: the recipe that this one varies, or its own: rows of a family stand together. external: samples that came as
    a file; nothing is known of the model, its seeds or its budget.
    """

    name: str
    recipe: str
    mark: int  # colour and marker, the same on the whole page
    rows: pd.DataFrame  # finished rows
    baseline: bool = False
    external: bool = False
    family: str = ""
    failures: tuple[Failure, ...] = ()
    gaps: tuple[Failure, ...] = ()  # measurements of finished runs that failed
    records: tuple[Mapping[str, Any], ...] = ()
    protocol: str = ""  # what its runs were matched by and allowed; rows that differ in it are not compared
    match: str = "flops"  # the quantity that its budget is counted in
    budget: Mapping[str, float] = field(default_factory=dict)  # what its runs were allowed
    multiple: float | None = None  # of its budget, with what its parents cost

    @property
    def allowance(self) -> float:
        return OVER_SECONDS if self.match == "seconds" else OVER_BUDGET

    @property
    def over_budget(self) -> bool:
        return self.multiple is not None and self.multiple > self.allowance

    @cached_property
    def parents(self) -> bool:
        """Whether its runs were built on other runs, whose cost is counted."""
        if self.records:
            return any(r.get("parents") for r in self.records)
        rows = self.main
        return bool((rows["cost_total"] > 1.01 * rows["flops"]).any())

    @property
    def codes(self) -> set[str]:
        """The versions of the code that trained its runs."""
        runs = set(self.rows["run"])
        kept = [r for r in self.records if run_id(r) in runs]
        found = {_text(r, "code") for r in kept} | {str(c) for r in kept for c in r.get("codes") or ()}
        return {c for c in found or set(self.rows["code"]) if c}

    @property
    def seeds(self) -> list[int]:
        return sorted({int(s) for s in self.rows["seed"].dropna()})

    @cached_property
    def contended(self) -> bool:
        """Whether other work was on the machine or the GPU while one of its runs, or what that stands on, was trained."""
        costs = [c for r in self.records if isinstance(r.get("costs"), Mapping) for c in r["costs"].values()]
        told = any(r.get("contended") for r in self.records) or any(c.get("contended") for c in costs)
        return told or bool(self.rows.loc[~self.rows["metric"].map(provenance.is_speed), "contended"].any())

    @cached_property
    def symptoms(self) -> tuple[tuple[str, str], ...]:
        """(seed, what the log of that run says is wrong with the model), of the runs that are compared."""
        runs = {*self.rows["run"], *(f.run for f in self.failures)}
        told = [r for r in self.records if _text(r, "symptom") and run_id(r) in runs]
        return tuple((_text(r, "seed") or "?", plain(_text(r, "symptom"))) for r in told)

    @cached_property
    def main(self) -> pd.DataFrame:
        """Rows of the finished model: the whole budget, the averaged weights."""
        return _main(self.rows)

    @cached_property
    def plan(self) -> tuple[str, float, str] | None:
        """The card's default plan: sampler, steps, options."""
        plans = plans_of(self.main[self.main["headline"]])
        return plans[0] if plans else None

    def headline(self, metric: str) -> pd.DataFrame:
        """The rows of a metric at the default plan; a baseline has no plans."""
        return self._default.get(metric, self.main.iloc[:0])

    @cached_property
    def _default(self) -> dict[str, pd.DataFrame]:
        """The same by metric: they are asked for many times."""
        rows = self.main
        if not (self.baseline or self.external):
            rows = at_plan(rows, self.plan) if self.plan else rows[rows["headline"]]
        return {str(metric): group for metric, group in rows.groupby("metric")}

    def per_seed(self, metric: str, split: str = "", features: str = "") -> list[float]:
        """One value per training seed at the default plan, disjoint sample sets averaged."""
        rows = self.headline(metric)
        rows = rows[(rows["split"] == split) & (rows["features"] == features)] if split or features else rows
        return seed_means(rows)

    def fact(self, column: str) -> list[float]:
        """One value per training run of a column that describes the run (seconds, FLOPs, parameters ...)."""
        return [float(v) for v in self.main.groupby("run")[column].max().dropna()]

    def reason(self, metric: str) -> str:
        """Why a metric has no value, where a row says so."""
        named = _siblings(metric)
        rows = self.rows[self.rows["metric"].isin(named) & (self.rows["reason"] != "") & self.rows["value"].isna()]
        if len(rows):
            return plain(rows["reason"].iloc[0])
        return next((f"{g.status}: {g.reason}" for g in self.gaps if g.metric in named), "")


def _siblings(metric: str) -> tuple[str, ...]:
    return LIKELIHOODS if metric in LIKELIHOODS else (metric,)


def _main(rows: pd.DataFrame) -> pd.DataFrame:
    whole = rows[rows["fraction"].isna() | (rows["fraction"] >= 1)]
    averaged = whole[whole["weights"] != "raw"]
    return averaged if len(averaged) else whole


def space_of(features: str) -> str:
    """The name of a feature space, with its policy where it has one, without the hash of its weights."""
    return features.rpartition("@")[0] or features


def plans_of(rows: pd.DataFrame) -> list[tuple[str, float, str]]:
    plans = rows.loc[rows["sampler"] != "", ["sampler", "steps", "options"]].drop_duplicates()
    return [(s, float(k), o) for s, k, o in plans.itertuples(index=False)]


def at_plan(rows: pd.DataFrame, plan: tuple[str, float, str]) -> pd.DataFrame:
    sampler, steps, options = plan
    same = rows["steps"].isna() if math.isnan(steps) else rows["steps"] == steps
    return rows[(rows["sampler"] == sampler) & same & (rows["options"] == options)]


def plan_text(plan: tuple[str, float, str] | None) -> str:
    if plan is None:
        return ""
    sampler, steps, options = plan
    return plain(
        sampler + ("" if math.isnan(steps) else f"-{steps:g}") + (f" {options.replace(',', ' ')}" if options else "")
    )


@dataclass(frozen=True)
class Guided:
    """Plans of a recipe that differ in the strength of guidance alone; name: what they share, plans: by strength."""

    entry: Entry
    name: str
    plans: Mapping[float, tuple[str, float, str]]


# Where guidance acts: of no effect on the model that is not guided, whose strength is 1.
INTERVAL = ("guide-from", "guide-to")


def is_guided(plan: tuple[str, float, str]) -> bool:
    return "guidance" in _options(plan)


def _options(plan: tuple[str, float, str]) -> dict[str, str]:
    return dict(part.split("=", 1) for part in plan[2].split(",") if "=" in part)


def guided(section: Section) -> list[Guided]:
    """The guided plans of every recipe, with the unguided one that goes with them (strength 1) where it was drawn."""
    found = []
    for entry in section.finished:
        plans = plans_of(entry.main)
        groups: dict[tuple[str, float, str], dict[float, tuple[str, float, str]]] = {}
        for plan in filter(is_guided, plans):
            rest = {k: v for k, v in _options(plan).items() if k != "guidance"}
            shared = (plan[0], plan[1], _written(rest))
            groups.setdefault(shared, {})[float(_options(plan)["guidance"])] = plan
        for shared, mine in sorted(groups.items()):
            rest = {k: v for k, v in _options(shared).items() if k not in INTERVAL}
            plain_one = (shared[0], shared[1], _written(rest))
            if plain_one in plans:
                mine.setdefault(1.0, plain_one)
            found.append(Guided(entry, plan_text(shared), dict(sorted(mine.items()))))
    return found


def _written(options: Mapping[str, str]) -> str:
    return ",".join(f"{k}={v}" for k, v in options.items())


def finite(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[np.isfinite(rows["value"].to_numpy())]


def seed_means(rows: pd.DataFrame, column: str = "value") -> list[float]:
    """Finite values averaged within a run, then within a seed: one number a training seed."""
    seeds: dict[float, dict[str, list[float]]] = {}
    for seed, run, value in zip(rows["seed"].tolist(), rows["run"].tolist(), rows[column].tolist()):
        if math.isfinite(value):
            seeds.setdefault(-1.0 if math.isnan(seed) else seed, {}).setdefault(run, []).append(value)
    return [mean([mean(values) for values in runs.values()]) for _, runs in sorted(seeds.items())]


@dataclass(frozen=True)
class Compared:
    """The entries that may be compared on one number, all together, and why the others may not."""

    family: stats.Family
    uncompared: Mapping[str, str]

    def best(self, name: str) -> bool:
        """Whether it is the best or not told apart from it, where any two are told apart at all."""
        return name in self.family.best


@dataclass(frozen=True)
class Section:
    """One data set at one tier."""

    dataset: str
    tier: str
    entries: tuple[Entry, ...]  # recipes, the best first, each followed by its family
    baselines: tuple[Entry, ...]
    records: tuple[Mapping[str, Any], ...]
    match: str = "flops"
    budget: Mapping[str, float] = field(default_factory=dict)  # what the tier allows a run
    externals: tuple[Entry, ...] = ()
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def slug(self) -> str:
        return slug(f"{self.dataset}-{self.tier}" if self.tier else self.dataset)

    @property
    def title(self) -> str:
        return plain(self.dataset) or "unnamed data"

    @cached_property
    def finished(self) -> tuple[Entry, ...]:
        return tuple(e for e in self.entries if len(e.rows))

    @property
    def failures(self) -> tuple[tuple[Entry, Failure], ...]:
        return tuple((e, f) for e in (*self.entries, *self.baselines) for f in (*e.failures, *e.gaps))

    @property
    def waiting(self) -> tuple[Mapping[str, Any], ...]:
        """Runs without a result: still training, or trained but not scored (and not only there as a parent)."""
        known = set(self.rows["run"]) | {f.run for _, f in self.failures}
        parents = {str(w) for r in self.records for w in (r.get("parents") or {}).values()}
        rest = (r for r in self.records if run_id(r) not in known)
        return tuple(r for r in rest if _text(r, "where") not in parents or _text(r, "status") == "training")

    @property
    def seeds(self) -> int:
        return max((len(e.seeds) for e in self.entries), default=0)

    @cached_property
    def spaces(self) -> tuple[str, ...]:
        """Feature spaces, the one that leads first: the data set's own before the label-free one, the most used first.

        Two versions of a network are two spaces.
        """
        rows = self.rows[self.rows["metric"].isin(["fd", "kd"]) & (self.rows["features"] != "")]
        rows = rows[rows["value"].notna() | rows["reason"].ne("")]
        used = rows.groupby("features")["recipe"].nunique()
        return tuple(sorted(used.index, key=lambda s: (s.startswith("random"), -used[s], s)))

    @property
    def second(self) -> str:
        """The space that guards against the blind spots of the leading one: that without labels, else the next."""
        rest = self.spaces[1:]
        return next((s for s in rest if s.startswith("random")), rest[0] if rest else "")

    @cached_property
    def quality(self) -> tuple[str, str]:
        """(metric, feature space) that leads: a Frechet distance on images, a transport distance on vectors.

        Where too few images were held out for any Frechet distance the kernel distance leads, which is unbiased at any
        number.
        """
        known = finite(self.rows[~self.rows["status"].isin(NO_RUN)])
        for rows in (known, self.rows):
            have = set(rows["metric"])
            for metric in ("fd", "kd"):
                if metric in have and self.spaces:
                    return metric, self.spaces[0]
            if lead := next((m for m in ("w2", "sw2", "mmd2") if m in have), ""):
                return lead, ""
        return "fd", ""

    def baseline(self, recipe: str) -> Entry | None:
        return next((b for b in self.baselines if b.recipe == recipe), None)

    def scale(self, entry: Entry | None) -> float | None:
        """A baseline's value of the leading quality metric on the test split."""
        metric, features = self.quality
        summary = stats.summarise(entry.per_seed(metric, "test", features)) if entry else None
        return summary.mean if summary else None

    def place_of(self, entry: Entry) -> tuple[float, str]:
        """What orders the recipes by the leading metric: the better first, those without a score last."""
        metric, features = self.quality
        values = entry.per_seed(metric, "test", features)
        return stats.location(values, self._by_ratio) if values else math.inf, entry.name

    @cached_property
    def _by_ratio(self) -> bool:
        """Whether the recipes' scores of the leading metric are compared by their ratios."""
        metric, features = self.quality
        return metric in RATIOS and stats.positive(*(e.per_seed(metric, "test", features) for e in self.finished))

    @cached_property
    def budgets(self) -> dict[str, list[Entry]]:
        """The finished recipes by what their runs were matched by and allowed; more than one key: budgets differ."""
        kept: dict[str, list[Entry]] = {}
        for entry in self.finished:
            if entry.budget:
                key = json.dumps([entry.match, entry.budget], sort_keys=True, default=str)
                kept.setdefault(key, []).append(entry)
        return kept

    @cached_property
    def floor(self) -> float | None:
        return self.scale(self.baseline(FLOOR))

    @property
    def entropy(self) -> float | None:
        """True entropy of the data in nats, where it is known."""
        known = self.rows[self.rows["metric"] == "entropy"]["value"].dropna()
        return float(known.mean()) if len(known) else None

    @property
    def likelihood(self) -> str:
        """The likelihood metric of this data: bits/dim on images, nats on vectors."""
        have = set(self.rows["metric"])
        return next((m for m in LIKELIHOODS if m in have), "bits_per_dim")

    def compare(self, metric: str, split: str = "test", features: str = "", lower_is_better: bool = True) -> Compared:
        """Compare the recipes on one metric at their default plans.

        Those scored by another version of the feature network are not, and are told so.
        """
        rows = {}
        for entry in (*self.entries, *self.externals):
            mine = entry.headline(metric)
            mine = mine[mine["split"] == split]
            here = mine[mine["features"] == features]
            alike = mine["features"].map(space_of) == space_of(features)
            rows[entry.name] = here if len(finite(here)) else mine[alike]
        key = metric, split, features, lower_is_better
        if key not in self._known:
            fields = provenance.decisive(metric)
            self._known[key] = self._compare(rows, lower_is_better, fields, metric in RATIOS, features)
        return self._known[key]

    @cached_property
    def _known(self) -> dict[tuple[str, str, str, bool], Compared]:
        """What was compared: tables, words and figures ask for the same."""
        return {}

    def compare_likelihoods(self, chosen: Mapping[str, pd.DataFrame]) -> dict[str, Compared]:
        """Compare likelihoods within each kind: {kind and relation: compared}. `chosen`: held-out rows by entry name.

        One that its own solver doubts says nothing of its model, and is not compared.
        """
        kinds = {name: kind_key(rows) for name, rows in chosen.items() if len(rows)}
        by_name = {e.name: e for e in (*self.entries, *self.externals)}
        doubts = {name: solver_error(by_name[name], chosen[name]) for name in kinds}
        made = {}
        for kind in sorted(set(kinds.values())):
            mine = {name: chosen[name] for name, k in kinds.items() if k == kind}
            certain = {n: rows for n, rows in mine.items() if doubts[n] is None}
            found = self._compare(certain, True, provenance.LIKELIHOOD, False)
            why = {n: f"not compared: its solver errs by {number(d, 2)}" for n in mine if (d := doubts[n]) is not None}
            made[kind] = replace(found, uncompared={**found.uncompared, **why})
        return made

    def _compare(
        self,
        rows: Mapping[str, pd.DataFrame],
        lower_is_better: bool,
        fields: Mapping[str, str],
        logarithms: bool,
        space: str = "",
    ) -> Compared:
        """Compare the largest group of entries whose numbers have the same provenance; why the others are not in it."""
        fields = {"": "the budget or the data", **fields}
        by_name = {e.name: e for e in (*self.entries, *self.externals)}
        values: dict[str, list[float]] = {}
        keys: dict[str, provenance.Key] = {}
        uncompared: dict[str, str] = {}
        for name, found in rows.items():
            entry, mine = by_name[name], finite(found).assign(**{"": by_name[name].protocol})
            several = provenance.keys(mine, fields)
            if not several:
                continue
            if entry.over_budget:
                uncompared[name] = f"not compared: {entry.multiple:.1f}× the budget"
                continue
            if len(several) > 1:
                uncompared[name] = (
                    f"not compared: its seeds differ in {provenance.difference(several[0], several[1], fields)}"
                )
                continue
            keys[name], values[name] = several[0], seed_means(mine)
            if entry.external:
                uncompared[name] = "external, not compared: its training seeds and budget are not known"
            elif len(values[name]) < 2:
                uncompared[name] = "not compared: one training seed"
        rivals = [key for name, key in keys.items() if name not in uncompared]
        rivals = rivals or [key for name, key in keys.items() if not by_name[name].external]
        if space:  # of several versions of a feature network the one that was asked for
            rivals = [key for key in rivals if space in key]
        if not rivals:
            other = "not compared: scored by another version of the feature network"
            return Compared(stats.Family(), {**dict.fromkeys(keys, other), **uncompared})
        common = max(sorted(set(rivals)), key=rivals.count)
        for name, key in keys.items():
            known = provenance.OF_SAMPLES if by_name[name].external else tuple(fields)
            said = provenance.difference(key, common, fields, known)
            if said and name in uncompared:
                uncompared[name] += f"; it also differs from the others in {said}"
            elif said:
                uncompared[name] = f"not compared: differs from the others in {said}"
        kept = {n: v for n, v in values.items() if n not in uncompared}
        family = stats.compare(kept, lower_is_better, logarithms and stats.positive(*kept.values()))
        if len(kept) == 1:
            uncompared |= dict.fromkeys(kept, "not compared: no other score to compare it with")
        elif not family.names:
            uncompared |= dict.fromkeys(kept, "not compared: no score varies over seeds, so nothing can be tested")
        return Compared(family, uncompared)


def kind_key(rows: pd.DataFrame) -> str:
    """The relation and the kind of a likelihood, with its options: what numbers must share to be compared."""
    first = rows.iloc[0]
    return f"{first['relation']} {kind_text(rows)}".strip()


def kind_text(rows: pd.DataFrame) -> str:
    """The kind of a likelihood with its options: "pf-ode (steps=20 probes=4)"."""
    kind, options = rows.iloc[0]["kind"], rows.iloc[0]["options"]
    return plain(f"{kind} ({options.replace(',', ' ')})" if options and options not in kind else kind)


def likelihood_rows(entry: Entry, metric: str, split: str) -> list[pd.DataFrame]:
    """An entry's likelihoods of a split, one frame per kind; the headline kind, else the tightest relation, first."""
    rows = finite(entry.main[entry.main["metric"] == metric])
    rows = rows[rows["split"].isin([split] if split != "test" else ["test", ""])]
    frames = [group for _, group in rows.groupby(["kind", "options", "relation"], sort=True)]
    return sorted(
        frames, key=lambda g: (not g["headline"].any(), _RELATIONS.get(g["relation"].iloc[0], 3), g["kind"].iloc[0])
    )


def same_kind(entry: Entry, metric: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of another metric that belong to a likelihood: same kind, options and split."""
    first, mine = rows.iloc[0], entry.main
    same = (mine["kind"] == first["kind"]) & (mine["options"] == first["options"]) & (mine["split"] == first["split"])
    return mine[same & (mine["metric"] == metric)]


def solver_error(entry: Entry, rows: pd.DataFrame) -> float | None:
    """A likelihood's own estimate of its solver's error, where that is more than twice its standard error over examples."""
    known = stats.summarise(seed_means(same_kind(entry, f"{rows['metric'].iloc[0]}_solver_error", rows)))
    error = stats.summarise(seed_means(rows, "error"))
    return known.mean if known and error and known.mean > 2 * error.mean else None


TERM = "term_"


def parts_of(entry: Entry) -> dict[str, dict[str, dict[str, pd.DataFrame]]]:
    """The named parts of an entry's likelihoods, in nats: {kind: {part: {split: rows}}}; numbered parts in order."""
    rows = finite(entry.main[entry.main["metric"].str.startswith(TERM)])
    found: dict[str, dict[str, dict[str, pd.DataFrame]]] = {}
    for (_, _, metric), group in rows.groupby(["kind", "options", "metric"], sort=True):
        splits = {str(split): part for split, part in group.groupby("split")}
        found.setdefault(kind_text(group), {})[plain(metric.removeprefix(TERM))] = splits
    return {kind: dict(sorted(parts.items(), key=lambda p: _natural(p[0]))) for kind, parts in found.items()}


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts kl_2 before kl_10."""
    return tuple((1, int(x), "") if x.isdecimal() else (0, 0, x) for x in re.findall(r"\d+|\D+", name))


def numbered(names: Sequence[str]) -> dict[str, list[str]]:
    """Those of the names that are stem_1, stem_2, stem_3 ...: {stem: names}; two make no row."""
    found: dict[str, list[str]] = {}
    for name in names:
        stem, _, number = name.rpartition("_")
        if stem and number.isdecimal():
            found.setdefault(stem, []).append(name)
    return {stem: some for stem, some in found.items() if len(some) > 2}


def sections(
    frame: pd.DataFrame, runs: Sequence[Mapping[str, Any]] = (), families: Mapping[str, str] | None = None
) -> list[Section]:
    """Every data set and tier in the rows, and those that only have (unfinished) runs.

    families: for each recipe the one that it varies, or itself; others are families of their own.
    """
    rows = tidy(frame)
    records = sorted(runs, key=lambda r: (_text(r, "dataset"), _text(r, "recipe"), _number(r, "seed"), run_id(r)))
    of_runs = rows[~rows["status"].isin(NO_RUN)]
    places = {(d, t) for d, t in of_runs[["dataset", "tier"]].itertuples(index=False)}
    places |= {(_text(r, "dataset"), tier_of(r)) for r in records}
    covered = {d for d, _ in places}
    places |= {(d, t) for d, t in rows[["dataset", "tier"]].itertuples(index=False) if d not in covered}
    labels = _labels(of_runs, records)
    marks = {name: i for i, name in enumerate(sorted(set(labels.values())))}
    return [_section(rows, records, labels, marks, families or {}, dataset, tier) for dataset, tier in sorted(places)]


def _section(
    rows: pd.DataFrame,
    records: Sequence[Mapping[str, Any]],
    labels: Mapping[str, str],
    marks: Mapping[str, int],
    families: Mapping[str, str],
    dataset: str,
    tier: str,
) -> Section:
    here = rows[rows["dataset"] == dataset]
    free = here[here["tier"].isin([tier, ""])]
    baseline, external = free[free["status"] == "baseline"], free[free["status"] == "external"]
    here = here[~here["status"].isin(NO_RUN) & (here["tier"] == tier)]
    mine = tuple(r for r in records if _text(r, "dataset") == dataset and tier_of(r) == tier)
    names = pd.Series([labels[k] for k in _run_keys(here)], index=here.index, dtype=object)
    stopped = [r for r in mine if _text(r, "status") in ("failed", "diverged") and run_id(r) not in set(here["run"])]
    entries = [
        _entry(
            name,
            marks[name],
            here[names == name],
            tuple(r for r in mine if labels[run_id(r)] == name),
            [r for r in stopped if labels[run_id(r)] == name],
            families,
        )
        for name in sorted({*names, *(labels[run_id(r)] for r in stopped)})
    ]
    scored = [e for e in entries if len(e.rows)] or entries
    match = next((e.match for e in scored if e.records), "flops")
    budget = next((e.budget for e in scored if e.budget), {})
    entries = _budgets([e if e.budget else replace(e, match=match, budget=budget) for e in entries], mine)
    baselines = [
        Entry(plain(name), str(name), -1, group, baseline=True) for name, group in baseline.groupby("recipe", sort=True)
    ]
    taken = {e.name for e in entries}
    externals = []
    for (recipe, run), group in external.groupby(["recipe", "run"], sort=True):
        name = _free(plain(recipe), str(run), taken)
        taken.add(name)
        externals.append(Entry(name, str(recipe), -1, group, external=True))
    together = pd.concat([here, external, baseline])
    section = Section(dataset, tier, tuple(entries), tuple(baselines), mine, match, budget, tuple(externals), together)
    metric, features = section.quality

    def order(entry: Entry) -> tuple[bool, float, str]:
        summary = stats.summarise(entry.per_seed(metric, "test", features))
        return (entry.recipe != FLOOR, summary.mean if summary else math.inf, entry.name)

    return replace(
        section,
        entries=tuple(_by_family(sorted(entries, key=section.place_of))),
        externals=tuple(sorted(externals, key=order)),
        baselines=tuple(sorted(baselines, key=order)),
    )


def _free(name: str, run: str, taken: set[str]) -> str:
    """A name that no other row has: someone's samples may be called like a recipe, or like other samples."""
    return next(n for n in (name, f"{name} (samples)", plain(f"{name} ({run})")) if n not in taken)


def _by_family(entries: Sequence[Entry]) -> list[Entry]:
    """Families in the order of their best members; in each the recipe that the others vary leads."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.family, []).append(entry)
    return [e for family, some in found.items() for e in sorted(some, key=lambda e: e.recipe != family)]


def _entry(
    name: str,
    mark: int,
    rows: pd.DataFrame,
    records: tuple[Mapping[str, Any], ...],
    stopped: Sequence[Mapping[str, Any]],
    families: Mapping[str, str],
) -> Entry:
    """A recipe's rows, with what failed: a whole run (no metric in its row) or one measurement of it."""
    bad = rows[rows["status"] != "ok"]
    found = [
        Failure(r.run, r.seed, plain(r.status), plain(r.reason), r.metric)
        for r in bad[["run", "seed", "status", "reason", "metric"]].drop_duplicates().itertuples(index=False)
    ]
    found += [Failure(run_id(r), _number(r, "seed"), _text(r, "status"), plain(_text(r, "reason"))) for r in stopped]
    recipe = str(rows["recipe"].iloc[0]) if len(rows) else _text(stopped[0], "recipe")
    protocols = {_protocol(r) for r in records}
    runs = set(rows["run"])
    # The runs that are compared say what was allowed; a teacher at another share of the budget does not.
    told = [r for r in records if run_id(r) in runs] or list(records)
    return Entry(
        name,
        recipe,
        mark,
        rows[rows["status"] == "ok"],
        family=families.get(recipe, recipe),
        failures=tuple(f for f in found if not f.metric),
        gaps=tuple(f for f in found if f.metric),
        records=records,
        protocol=protocols.pop() if len(protocols) == 1 else "",
        match=next((_text(r, "match") for r in told if _text(r, "match")), "flops"),
        budget=next((dict(r["budget"]) for r in told if isinstance(r.get("budget"), Mapping)), {}),
    )


def _budgets(entries: list[Entry], records: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Each entry's cost with its parents as a multiple of its own budget.

    Without run records the budget is not known; the largest that a recipe without parents had stands in for it.
    """
    known = {_text(r, "where"): r for r in records}
    costs = {}
    for entry in entries:
        spent = _spent(entry, known)
        mine, whole = stats.summarise([own for own, _ in spent]), stats.summarise([total for _, total in spent])
        if mine and whole and mine.mean > 0:
            costs[entry.name] = (mine.mean, max(mine.mean, whole.mean))
    alone = [mine for mine, whole in costs.values() if whole <= 1.01 * mine] or [mine for mine, _ in costs.values()]
    largest = max(alone, default=0.0)

    def multiple(entry: Entry) -> float | None:
        budget = entry.budget.get(entry.match) or largest
        return costs[entry.name][1] / budget if entry.name in costs and budget else None

    return [replace(e, multiple=multiple(e)) for e in entries]


_SPENT = {
    "flops": ("flops", "cost_total"),
    "images": ("images", "images_total"),
    "seconds": ("seconds", "seconds_total"),
}


def _spent(entry: Entry, known: Mapping[str, Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(own, with ancestors) of each finished run, in the quantity that its budget is counted in."""
    by_id = {run_id(r): r for r in entry.records}
    mine, whole = _SPENT.get(entry.match, _SPENT["flops"])
    spent = []
    for run, rows in entry.main.groupby("run"):
        own, total = float(rows[mine].max()), float(rows[whole].max())
        record = by_id.get(str(run), {})
        if entry.match == "seconds" and _clock(record) > 0:
            own, total = _clock(record), _seconds_total(record, known)
        elif entry.match == "images" and math.isnan(total):
            total = _number(record, "images_total")
        spent.append((own, own if math.isnan(total) else max(own, total)))
    return spent


def _clock(record: Mapping[str, Any]) -> float:
    """A run's training seconds by the clock that its budget was planned with.

    One thread on a CPU is planned and counted in CPU time, which other work on the machine does not stretch; more
    threads and other devices by the wall clock.
    """
    alone = _number(record, "threads") == 1 and _text(record, "device").startswith("cpu")
    return _number(record, "cpu_seconds" if alone and _number(record, "cpu_seconds") > 0 else "seconds")


def _seconds_total(record: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> float:
    """The same with every ancestor: by its own record where that is here, else by what the run wrote down of it."""
    costs = record.get("costs")
    total = _clock(record)
    for where, cost in costs.items() if isinstance(costs, Mapping) else ():
        if where != _text(record, "where") and isinstance(cost, Mapping):
            here = _clock(known.get(where, {}))
            total += here if here > 0 else max(0.0, _clock({**record, **cost, "cpu_seconds": cost.get("cpu_seconds")}))
    return total


# ------------------------------------------------------------------------------------------------------ run records


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return "" if value is None or isinstance(value, (Mapping, list, tuple)) else str(value)


def _number(record: Mapping[str, Any], key: str) -> float:
    value = record.get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else -1.0


def tier_of(record: Mapping[str, Any]) -> str:
    """A record's tier is its name, or a table that holds it."""
    tier = record.get("tier")
    return _text(tier, "name") if isinstance(tier, Mapping) else _text(record, "tier")


def run_id(record: Mapping[str, Any]) -> str:
    """The run that a record describes, as rows name it: its folder's name."""
    folder = record.get("folder")
    return Path(folder).name if folder else _text(record, "id")


def _protocol(record: Mapping[str, Any]) -> str:
    """What a run was matched by, allowed and shown."""
    return json.dumps([record.get("match"), record.get("budget"), record.get("checksum")], sort_keys=True, default=str)


def _run_keys(rows: pd.DataFrame) -> list[str]:
    return [run or f"{recipe}/{seed}" for run, recipe, seed in zip(rows["run"], rows["recipe"], rows["seed"])]


_DEFINING = ("config", "match", "budget", "share", "checksum", "precision", "compiled", "noise", "card", "above")
_USUAL = {"precision": "fp32", "compiled": False, "noise": 1, "card": ""}  # of runs that do not say


def _labels(rows: pd.DataFrame, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The comparison row that each run belongs to.

    A recipe with one configuration keeps its plain name. Runs of one recipe that differ in their configuration, budget
    or in being told labels are different rows, named by what differs, so that they are never averaged.
    """
    settings = {run_id(r): _flat({k: v for k, v in {**_USUAL, **r}.items() if k in _DEFINING}) for r in records}
    trained = {run_id(r): _text(r, "trained") for r in records}  # a tier that is not the one that measured it
    traits: dict[str, tuple[tuple[str, str, str], bool, dict[str, str]]] = {}
    for r in records:
        where = (_text(r, "dataset"), tier_of(r), _text(r, "recipe"))
        traits[run_id(r)] = (where, bool(r.get("conditional")), settings[run_id(r)])
    known = rows.assign(key=_run_keys(rows)).drop_duplicates("key")
    for row in known.itertuples(index=False):
        traits[row.key] = ((row.dataset, row.tier, row.recipe), row.conditional, settings.get(row.key, {}))
    # A teacher trained at another share of the budget is no rival of the run that is compared: only runs with rows are.
    rivals: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for key in known["key"]:
        where, _, config = traits[key]
        if config:
            rivals.setdefault(where, []).append(config)
    labels = {}
    for key, (where, conditional, config) in traits.items():
        others = rivals.get(where, [])
        names = sorted({k for c in others for k in c})
        differing = [k for k in names if len({c.get(k) for c in others}) > 1]
        extra = ["labels"] if conditional else []
        extra += [f"trained under {trained[key]}"] if trained.get(key) else []
        extra += [f"{k.removeprefix('config.').removeprefix('above.')}={config[k]}" for k in differing if config.get(k)]
        labels[key] = plain(where[2] + (f" ({', '.join(extra)})" if extra else "")) or "unnamed"
    return labels


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted name, each as text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat
