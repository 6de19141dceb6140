"""Plans of sampling (sampler, steps, options), and those that differ in the strength of guidance alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from reports.words import plain

if TYPE_CHECKING:
    from reports.entries import Entry
    from reports.sections import Section


class Plan(NamedTuple):
    """How samples were drawn: a sampler, its number of steps (NaN where it has none) and options "name=value,..."."""

    sampler: str
    steps: float
    options: str

    @property
    def text(self) -> str:
        """heun-10 eta=0.5"""
        steps = "" if math.isnan(self.steps) else f"-{self.steps:g}"
        return plain(self.sampler + steps + (f" {self.options.replace(',', ' ')}" if self.options else ""))

    @property
    def settings(self) -> dict[str, str]:
        """The options by name."""
        return dict(part.split("=", 1) for part in self.options.split(",") if "=" in part)

    @property
    def guided(self) -> bool:
        return "guidance" in self.settings

    def without(self, *names: str) -> Plan:
        """The plan without some of its options."""
        rest = (f"{name}={value}" for name, value in self.settings.items() if name not in names)
        return self._replace(options=",".join(rest))


def plans_of(rows: pd.DataFrame) -> list[Plan]:
    """The plans that rows were drawn by, each once, in their order."""
    plans = rows.loc[rows["sampler"] != "", ["sampler", "steps", "options"]].drop_duplicates()
    return [Plan(sampler, float(steps), options) for sampler, steps, options in plans.itertuples(index=False)]


def at_plan(rows: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """The rows drawn by a plan."""
    same = rows["steps"].isna() if math.isnan(plan.steps) else rows["steps"] == plan.steps
    return rows[(rows["sampler"] == plan.sampler) & same & (rows["options"] == plan.options)]


# Where guidance acts: of no effect on the model that is not guided, whose strength is 1.
INTERVAL = ("guide-from", "guide-to")


@dataclass(frozen=True)
class Guided:
    """Plans of a recipe that differ in the strength of guidance alone; name: what they share, plans: by strength."""

    entry: Entry
    name: str
    plans: Mapping[float, Plan]


def guided(section: Section) -> list[Guided]:
    """The guided plans of every recipe, with the unguided one that goes with them (strength 1) where it was drawn."""
    found = []
    for entry in section.finished:
        groups: dict[Plan, dict[float, Plan]] = {}
        for plan in entry.plans:
            if plan.guided:
                groups.setdefault(plan.without("guidance"), {})[float(plan.settings["guidance"])] = plan
        for shared, scales in sorted(groups.items()):
            unguided = shared.without(*INTERVAL)
            if unguided in entry.plans:
                scales.setdefault(1.0, unguided)
            found.append(Guided(entry, shared.text, dict(sorted(scales.items()))))
    return found
