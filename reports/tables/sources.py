"""What stands behind the numbers, by what decides them; and which runs did not finish."""

from __future__ import annotations

import pandas as pd

from reports import provenance, words
from reports.metrics import SHOWN
from reports.plans import at_plan
from reports.rows import finite
from reports.sections import Section
from reports.tables.cells import Cell, Column, Line, Table
from reports.tables.lines import BASELINES


def sources(section: Section) -> Table | None:
    """What stands behind the numbers at the default plans: a line for each combination of what decides them."""
    frames = []
    for entry in (*section.finished, *section.externals, *section.baselines):
        plan = None if entry.baseline or entry.external else entry.plan
        rows = at_plan(entry.main, plan) if plan else entry.main
        likely = entry.main[entry.main["kind"] != ""]
        rows = pd.concat([rows[rows["kind"] == ""], likely])
        name = BASELINES.get(entry.recipe, entry.name) if entry.baseline else entry.name
        frames.append(rows.assign(name=name, mark=entry.mark))
    if not frames or not len(rows := finite(pd.concat(frames))):
        return None
    everyone = len({e.name for e in section.finished})
    lines = []
    for group in provenance.grouped(rows):
        names = [n for n in group.names if n in {e.name for e in section.finished}]
        rest = [n for n in group.names if n not in names]
        who = [f"all {everyone} recipes"] if len(names) == everyone > 3 else names
        cells = [Cell(text) for text in (*group.values, words.listing([*who, *rest]))]
        lines.append(Line(words.listing([_short(m) for m in group.metrics]), "recipe", -1, tuple(cells)))
    heads = provenance.HEADS
    columns = tuple(Column(title, numeric=False, key=key) for key, title in heads.items())
    versions = sorted({f"{v:g}" for v in rows["schema"].dropna()})
    schema = (
        f" Rows of schema {words.listing(versions)}, which docs/rows.md documents column by column." if versions else ""
    )
    caption = "Numbers that differ in any of these columns are never compared." + schema
    columns = (*columns, Column("Rows", numeric=False, key="rows"))
    return Table(f"{section.slug}-sources", "Behind the numbers", caption, columns, tuple(lines), first="Numbers")


def failed(section: Section) -> Table | None:
    if not section.failures:
        return None
    columns = (
        Column("Seed", key="seed"),
        Column("What", numeric=False, key="what"),
        Column("Status", numeric=False),
        Column("Reason", numeric=False),
        Column("Run", numeric=False),
    )
    lines = tuple(
        Line(
            e.name,
            "failed",
            e.mark,
            (
                Cell(f.seed_text),
                Cell(words.plain(f.metric) or "training"),
                Cell(f.status),
                Cell(f.reason or "no reason given"),
                Cell(words.plain(f.run)),
            ),
        )
        for e, f in section.failures
    )
    caption = "They stay in the comparison: their seeds count as lost, their measurements as missing."
    return Table(f"{section.slug}-failed", "What did not finish", caption, columns, lines)


def _short(metric: str) -> str:
    return SHOWN[metric].title if metric in SHOWN else words.plain(metric).replace("_", " ")
