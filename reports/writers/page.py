"""All that a section of a report shows, in the order in which every format sets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports import verdict, words
from reports.figures import curves, dots, pareto, training
from reports.figures.drawing import Picture
from reports.sections import Section
from reports.tables import cost, likelihood, pairs, quality, sampling, sources
from reports.tables.cells import Table
from reports.verdict import Text
from reports.writers.grids import GridSource, Tile, tiles


@dataclass
class Page:
    """All that a section of a report shows: `pairs`, `failed`, `sources` and `plans` are None where there is nothing."""

    section: Section
    heading: str
    verdict: Text
    headline: Table
    tables: list[Table]
    plans: Table | None
    pairs: Table | None
    failed: Table | None
    sources: Table | None
    limitations: list[str]
    provenance: list[tuple[str, str]]
    commands: list[tuple[str, str]]
    dots: list[Picture]
    pareto: list[Picture]
    guidance: list[Picture]
    training: list[Picture]
    grids: list[Tile]
    more_grids: list[Tile]

    @property
    def pictures(self) -> list[Picture]:
        return [*self.dots, *self.pareto, *self.guidance, *self.training]


def page_of(section: Section, headline: Table, many_tiers: bool, real: GridSource) -> Page:
    """The page of a section, whose headline table it takes as made."""
    short, every = sampling.speed(section) if section.finished else (None, None)
    grids, more_grids = tiles(section, real)
    return Page(
        section,
        heading=section.title + (f" ({words.plain(section.tier)})" if many_tiers and section.tier else ""),
        verdict=verdict.verdict(section),
        headline=headline,
        tables=[table for table in _below(section, short) if table and table.lines and table.columns],
        plans=every if every and every.lines else None,
        pairs=pairs.pairs(section),
        failed=sources.failed(section),
        sources=sources.sources(section),
        limitations=verdict.limitations(section),
        provenance=verdict.provenance(section),
        commands=verdict.commands(section),
        dots=dots.dots(section),
        pareto=pareto.pareto(section),
        guidance=curves.guidance(section),
        training=training.training(section),
        grids=grids,
        more_grids=more_grids,
    )


def _below(section: Section, speed: Table | None) -> list[Table | None]:
    """The tables below the headline, in their order; None for one that has nothing to show."""
    made: list[Table | None] = []
    if section.finished or section.baselines:
        made += [pairs.partial_order(section), *quality.quality(section)]
        made += [likelihood.likelihood(section), likelihood.parts(section)]
    if section.finished:
        made += [sampling.sweep(section), sampling.guidance(section), cost.cost(section), speed]
    return made


def title_of(pages: Sequence[Page]) -> tuple[str, str]:
    """(title, the sentence below it) of a report."""
    names = list(dict.fromkeys(p.section.title for p in pages))
    if not pages:
        return "Generative paradigms", "Nothing has been run yet."
    title = f"Generative paradigms on {words.listing(names)}"
    recipes = {e.name for p in pages for e in p.section.entries}
    runs = {r for p in pages for e in p.section.finished for r in e.rows["run"]}
    failed = {f.run for p in pages for e in p.section.entries for f in e.failures}
    lede = f"{words.plural(len(recipes), 'recipe')}, {words.plural(len(runs), 'finished run')}"
    lede += f", {len(failed)} that did not finish" if failed else ""
    return title, lede + ". One protocol: same data, matched budgets, same averaging, same evaluation."
