"""A row of the comparison: a recipe with one configuration, a baseline or external samples, with its runs and failures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from reports import provenance
from reports.metrics import LIKELIHOODS
from reports.plans import Plan, at_plan, plans_of
from reports.records import run_id, text_of
from reports.scores import Scores
from reports.words import plain

# A larger multiple of the budget is marked, never bold and never compared. Clocks jitter, counted quantities do not.
OVER_BUDGET = 1.05
OVER_SECONDS = 1.10


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
        found = {text_of(r, "code") for r in kept} | {str(c) for r in kept for c in r.get("codes") or ()}
        return {c for c in found or set(self.rows["code"]) if c}

    @property
    def seeds(self) -> list[int]:
        return sorted({int(s) for s in self.rows["seed"].dropna()})

    @cached_property
    def contended(self) -> bool:
        """Whether other work was on the machine or the GPU while one of its runs, or what that stands on, was trained."""
        costs = [c for r in self.records if isinstance(r.get("costs"), Mapping) for c in r["costs"].values()]
        recorded = any(r.get("contended") for r in self.records) or any(c.get("contended") for c in costs)
        return recorded or bool(self.rows.loc[~self.rows["metric"].map(provenance.is_speed), "contended"].any())

    @cached_property
    def symptoms(self) -> tuple[tuple[str, str], ...]:
        """(seed, what the log of that run says is wrong with the model), of the runs that are compared."""
        runs = {*self.rows["run"], *(f.run for f in self.failures)}
        shown = [r for r in self.records if text_of(r, "symptom") and run_id(r) in runs]
        return tuple((text_of(r, "seed") or "?", plain(text_of(r, "symptom"))) for r in shown)

    @cached_property
    def main(self) -> pd.DataFrame:
        """Rows of the finished model: the whole budget, the averaged weights."""
        return finished_rows(self.rows)

    @cached_property
    def plans(self) -> list[Plan]:
        """The plans that samples of its finished model were drawn by."""
        return plans_of(self.main)

    @cached_property
    def plan(self) -> Plan | None:
        """The card's default plan."""
        plans = plans_of(self.main[self.main["headline"]])
        return plans[0] if plans else None

    @property
    def plan_text(self) -> str:
        """The card's default plan in words; "" where there is none."""
        return self.plan.text if self.plan else ""

    @cached_property
    def scores(self) -> Scores:
        """The scores at the default plan; a baseline and external samples have no plans."""
        rows = self.main
        if not (self.baseline or self.external):
            rows = at_plan(rows, self.plan) if self.plan else rows[rows["headline"]]
        return Scores(rows)

    def at(self, plan: Plan) -> Scores:
        """The scores at a plan."""
        if plan not in self._at:
            self._at[plan] = self.scores if plan == self.plan else Scores(at_plan(self.main, plan))
        return self._at[plan]

    @cached_property
    def _at(self) -> dict[Plan, Scores]:
        """What `at` has computed: tables and figures ask for the same."""
        return {}

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


def finished_rows(rows: pd.DataFrame) -> pd.DataFrame:
    whole = rows[rows["fraction"].isna() | (rows["fraction"] >= 1)]
    averaged = whole[whole["weights"] != "raw"]
    return averaged if len(averaged) else whole
