"""Several data sets together: an interquartile mean and a performance profile of each recipe, once runs are enough.

Scores of different data sets are put on one scale by their own baselines: 0 is what real training data scores, 1 what a
Gaussian fitted to the pixels does. Lower is better. With few runs such a mean says less than the tables do, so it is not
taken, and the report says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports import coverage, stats, words
from reports.figures.curves import profiles
from reports.figures.drawing import Picture
from reports.sections import Section
from reports.tables.cells import Cell, Column, Line, Table


@dataclass(frozen=True)
class Across:
    """What several data sets of one tier say together; `reason` where that is nothing yet."""

    heading: str
    reason: str = ""
    table: Table | None = None
    picture: Picture | None = None


def across(found: Sequence[Section]) -> list[Across]:
    """One for each tier with several data sets."""
    tiers: dict[str, list[Section]] = {}
    for section in found:
        if section.finished:
            tiers.setdefault(section.tier, []).append(section)
    return [_across(tier, some) for tier, some in sorted(tiers.items()) if len(some) > 1]


def _across(tier: str, found: Sequence[Section]) -> Across:
    heading = "Across data sets" + (f" ({words.plain(tier)})" if tier else "")
    scaled = [s for s in found if s.floor is not None and s.scale(s.baseline("gaussian")) is not None]
    scores: dict[str, dict[str, list[float]]] = {}
    marks: dict[str, int] = {}
    for section in scaled:
        for entry in section.finished:
            values = normalised(section, entry.scores[section.lead].values)
            if len(values) > 1 and not entry.over_budget:
                scores.setdefault(entry.name, {})[section.dataset] = values
                marks[entry.name] = entry.mark
    whole = {name: sets for name, sets in scores.items() if len(sets) == len(scaled) > 1}
    runs = {name: sum(map(len, sets.values())) for name, sets in whole.items()}
    enough = sorted(name for name, count in runs.items() if count >= stats.ENOUGH)
    if not enough:
        most = max(runs.values(), default=0)
        return Across(
            heading,
            f"No mean over data sets is given: it takes {stats.ENOUGH} runs of a recipe or more, over data sets that have "
            f"both a floor and a Gaussian baseline, with two seeds or more on each. Here {len(scaled)} of {len(found)} data "
            f"sets have both baselines, and a recipe has {most} such runs at the most.",
        )
    made = {name: stats.interquartile_mean(list(whole[name].values())) for name in enough}
    order = sorted(enough, key=lambda name: (made[name].mean, name))
    lines = []
    for name in order:
        mean, low, high = words.alike(made[name].mean, made[name].low, made[name].high)
        cells = (
            Cell(mean, f"[{low}, {high}]", value=made[name].mean),
            Cell(str(made[name].runs), value=float(made[name].runs)),
            Cell(str(made[name].sets), value=float(made[name].sets)),
        )
        lines.append(Line(name, "recipe", marks[name], cells))
    columns = (
        Column("Interquartile mean", "↓", "with its 95 % interval", key="iqm"),
        Column("Runs", key="runs"),
        Column("Data sets", key="sets"),
    )
    measured = coverage.recorded()["interquartile_mean"]
    rates = words.listing([f"{100 * rate:.1f} % at {shape}" for shape, rate in measured["rate"].items()])
    notes = [
        "Mean of the middle half of all runs, with a bootstrap stratified by data set (Agarwal et al. 2021), widened for "
        f"the few runs in each. Over {measured['repetitions']:,} simulated repetitions with normal errors such intervals "
        f"held the truth in {rates} seeds × data sets.",
        f"Data sets: {words.listing([s.title for s in scaled])}. Recipes that had more than one budget are left out.",
    ]
    left = sorted(set(scores) - set(enough))
    if left:
        notes.append(f"Too few runs, or not on every data set: {words.listing(left)}.")
    caption = "Scores on one scale: 0 is what real training data scores, 1 what a Gaussian fitted to the pixels does."
    slug = words.slug(f"across-{tier}")
    table = Table(slug, heading, caption, columns, tuple(lines), tuple(notes))
    strata = {name: list(whole[name].values()) for name in order}
    return Across(heading, "", table, profiles(slug, strata, marks))


def normalised(section: Section, values: Sequence[float]) -> list[float]:
    """Scores as parts of the way from the floor (0) to the Gaussian fit (1)."""
    floor, gaussian = section.floor, section.scale(section.baseline("gaussian"))
    assert floor is not None
    assert gaussian is not None
    return [float(v) for v in (np.asarray(values) - floor) / (gaussian - floor)]
