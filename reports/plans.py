"""Plans of sampling (sampler, steps, options), and those that differ in the strength of guidance alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from reports.words import plain

if TYPE_CHECKING:
    from reports.entries import Entry
    from reports.sections import Section


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
