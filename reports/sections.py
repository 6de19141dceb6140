"""Rows into sections: one per data set and tier, each with its recipes, baselines and failures.

The frame holds one metric value a row (the columns are those of the row schema; missing ones are filled). What is
decided here, once, for tables, figures and words alike: which rows are the headline ones, which runs belong together,
what a run's budget was, and which rows may be compared at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from reports import provenance, stats
from reports.budgets import with_multiples
from reports.entries import Entry, Failure
from reports.likelihoods import kind_key, likelihood_rows, solver_error
from reports.metrics import FID, LIKELIHOODS, SHOWN, is_ratio
from reports.naming import names_of_runs, run_keys
from reports.records import number_of, protocol_of, run_id, text_of, tier_of
from reports.rows import FLOOR, NO_RUN, finite, seed_means, space_of, tidy
from reports.scores import Measure
from reports.words import number, plain, slug


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
        return tuple(r for r in rest if text_of(r, "where") not in parents or text_of(r, "status") == "training")

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

    def space_name(self, features: str) -> str:
        """The short name of a feature space: digits@9f3c… is "digits" where that is unambiguous."""
        short = space_of(features)
        alone = sum(space_of(s) == short for s in self.spaces) == 1
        return plain(short if alone else features[: len(short) + 9])

    def title_of(self, metric: str, features: str = "") -> str:
        """What a metric is called here: with its feature space where that belongs to the name, as in FD-digits."""
        title = SHOWN[metric].title if metric in SHOWN else metric
        if metric == "fd" and features == FID:
            return "FID"
        if features and metric in ("fd", "fd_inf"):
            return f"{title}-{self.space_name(features)}"
        if features and metric == "kd":
            return f"KD-{self.space_name(features)}"
        return title

    @property
    def lead_title(self) -> str:
        """What the leading metric is called."""
        return self.title_of(self.lead.metric, self.lead.space)

    @property
    def second(self) -> str:
        """The space that guards against the blind spots of the leading one: that without labels, else the next."""
        rest = self.spaces[1:]
        return next((s for s in rest if s.startswith("random")), rest[0] if rest else "")

    @cached_property
    def lead(self) -> Measure:
        """What leads the report, on the test split: a Frechet distance on images, a transport distance on vectors.

        Where too few images were held out for any Frechet distance the kernel distance leads, which is unbiased at any
        number.
        """
        known = finite(self.rows[~self.rows["status"].isin(NO_RUN)])
        for rows in (known, self.rows):
            have = set(rows["metric"])
            for metric in ("fd", "kd"):
                if metric in have and self.spaces:
                    return Measure(metric, "test", self.spaces[0])
            if lead := next((m for m in ("w2", "sw2", "mmd2") if m in have), ""):
                return Measure(lead, "test")
        return Measure("fd", "test")

    def baseline(self, recipe: str) -> Entry | None:
        return next((b for b in self.baselines if b.recipe == recipe), None)

    def scale(self, entry: Entry | None) -> float | None:
        """A baseline's value of the leading quality metric on the test split."""
        summary = entry.scores[self.lead].summary if entry else None
        return summary.mean if summary else None

    def place_of(self, entry: Entry) -> tuple[float, str]:
        """What orders the recipes by the leading metric: the better first, those without a score last."""
        values = entry.scores[self.lead].values
        return stats.location(values, self._by_ratio) if values else math.inf, entry.name

    @cached_property
    def _by_ratio(self) -> bool:
        """Whether the recipes' scores of the leading metric are compared by their ratios."""
        return is_ratio(self.lead.metric) and stats.positive(*(e.scores[self.lead].values for e in self.finished))

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

    def compare(self, measure: Measure, lower_is_better: bool = True) -> Compared:
        """Compare the recipes on one measure at their default plans.

        Those scored by another version of the feature network are not, and get this as the reason.
        """
        key = measure, lower_is_better
        if key not in self._known:
            rows = {e.name: self._comparable(e, measure) for e in (*self.entries, *self.externals)}
            fields, logarithms = provenance.decisive(measure.metric), is_ratio(measure.metric)
            self._known[key] = self._compare(rows, lower_is_better, fields, logarithms, measure.space)
        return self._known[key]

    def _comparable(self, entry: Entry, measure: Measure) -> pd.DataFrame:
        """An entry's rows of a measure; where there are none, those by another version of the feature network."""
        rows = entry.scores.of(measure.metric)
        rows = rows[rows["split"] == measure.split]
        here = rows[rows["features"] == measure.space]
        return here if len(finite(here)) else rows[rows["features"].map(space_of) == space_of(measure.space)]

    @cached_property
    def _known(self) -> dict[tuple[Measure, bool], Compared]:
        """What was compared: tables, words and figures ask for the same."""
        return {}

    @cached_property
    def likelihoods(self) -> dict[str, list[pd.DataFrame]]:
        """Each finished recipe's likelihoods on held-out data, a frame for each kind, the headline one first."""
        return {e.name: likelihood_rows(e, self.likelihood, "test") for e in self.finished}

    @property
    def chosen_likelihoods(self) -> dict[str, pd.DataFrame]:
        """Each recipe's headline likelihood on held-out data."""
        return {name: frames[0] for name, frames in self.likelihoods.items() if frames}

    @cached_property
    def compared_likelihoods(self) -> dict[str, Compared]:
        """What was compared of each kind of likelihood, of all recipes that have it."""
        made: dict[str, Compared] = {}
        for kind in sorted({kind_key(rows) for frames in self.likelihoods.values() for rows in frames}):
            made |= self.compare_likelihoods(
                {name: rows for name, frames in self.likelihoods.items() for rows in frames if kind_key(rows) == kind}
            )
        return made

    def compare_likelihoods(self, chosen: Mapping[str, pd.DataFrame]) -> dict[str, Compared]:
        """Compare likelihoods within each kind: {kind and relation: compared}. `chosen`: held-out rows by entry name.

        One that its own solver doubts says nothing of its model, and is not compared.
        """
        kinds = {name: kind_key(rows) for name, rows in chosen.items() if len(rows)}
        by_name = {e.name: e for e in (*self.entries, *self.externals)}
        doubts = {name: solver_error(by_name[name], chosen[name]) for name in kinds}
        made = {}
        for kind in sorted(set(kinds.values())):
            alike = {name: chosen[name] for name, k in kinds.items() if k == kind}
            certain = {n: rows for n, rows in alike.items() if doubts[n] is None}
            found = self._compare(certain, True, provenance.LIKELIHOOD, False)
            why = {n: f"not compared: its solver errs by {number(d, 2)}" for n in alike if (d := doubts[n]) is not None}
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
            entry, rows_here = by_name[name], finite(found).assign(**{"": by_name[name].protocol})
            several = provenance.keys(rows_here, fields)
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
            keys[name], values[name] = several[0], seed_means(rows_here)
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
            differs = provenance.difference(key, common, fields, known)
            if differs and name in uncompared:
                uncompared[name] += f"; it also differs from the others in {differs}"
            elif differs:
                uncompared[name] = f"not compared: differs from the others in {differs}"
        kept = {n: v for n, v in values.items() if n not in uncompared}
        family = stats.compare(kept, lower_is_better, logarithms and stats.positive(*kept.values()))
        if len(kept) == 1:
            uncompared |= dict.fromkeys(kept, "not compared: no other score to compare it with")
        elif not family.names:
            uncompared |= dict.fromkeys(kept, "not compared: no score varies over seeds, so nothing can be tested")
        return Compared(family, uncompared)


def sections(
    frame: pd.DataFrame, runs: Sequence[Mapping[str, Any]] = (), families: Mapping[str, str] | None = None
) -> list[Section]:
    """Every data set and tier in the rows, and those that only have (unfinished) runs.

    families: for each recipe the one that it varies, or itself; others are families of their own.
    """
    rows = tidy(frame)
    records = sorted(runs, key=lambda r: (text_of(r, "dataset"), text_of(r, "recipe"), number_of(r, "seed"), run_id(r)))
    of_runs = rows[~rows["status"].isin(NO_RUN)]
    places = {(d, t) for d, t in of_runs[["dataset", "tier"]].itertuples(index=False)}
    places |= {(text_of(r, "dataset"), tier_of(r)) for r in records}
    covered = {d for d, _ in places}
    places |= {(d, t) for d, t in rows[["dataset", "tier"]].itertuples(index=False) if d not in covered}
    labels = names_of_runs(of_runs, records)
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
    own = tuple(r for r in records if text_of(r, "dataset") == dataset and tier_of(r) == tier)
    names = pd.Series([labels[k] for k in run_keys(here)], index=here.index, dtype=object)
    stopped = [r for r in own if text_of(r, "status") in ("failed", "diverged") and run_id(r) not in set(here["run"])]
    entries = [
        _entry(
            name,
            marks[name],
            here[names == name],
            tuple(r for r in own if labels[run_id(r)] == name),
            [r for r in stopped if labels[run_id(r)] == name],
            families,
        )
        for name in sorted({*names, *(labels[run_id(r)] for r in stopped)})
    ]
    scored = [e for e in entries if len(e.rows)] or entries
    match = next((e.match for e in scored if e.records), "flops")
    budget = next((e.budget for e in scored if e.budget), {})
    entries = with_multiples([e if e.budget else replace(e, match=match, budget=budget) for e in entries], own)
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
    section = Section(dataset, tier, tuple(entries), tuple(baselines), own, match, budget, tuple(externals), together)

    def order(entry: Entry) -> tuple[bool, float, str]:
        summary = entry.scores[section.lead].summary
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
    found += [
        Failure(run_id(r), number_of(r, "seed"), text_of(r, "status"), plain(text_of(r, "reason"))) for r in stopped
    ]
    recipe = str(rows["recipe"].iloc[0]) if len(rows) else text_of(stopped[0], "recipe")
    protocols = {protocol_of(r) for r in records}
    runs = set(rows["run"])
    # The runs that are compared say what was allowed; a teacher at another share of the budget does not.
    known = [r for r in records if run_id(r) in runs] or list(records)
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
        match=next((text_of(r, "match") for r in known if text_of(r, "match")), "flops"),
        budget=next((dict(r["budget"]) for r in known if isinstance(r.get("budget"), Mapping)), {}),
    )
