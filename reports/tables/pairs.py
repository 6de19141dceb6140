"""Who is better than whom on the leading metric: the partial order of the recipes and all pairwise differences."""

from __future__ import annotations

import math
from dataclasses import replace

from reports import stats, words
from reports.metrics import is_ratio
from reports.sections import Section
from reports.tables.cells import Cell, Column, Line, Table
from reports.tables.lines import flat_line
from reports.tables.notes import GROUP

TESTED = "moderated t with a family-wise error of 5 %"


def partial_order(section: Section) -> Table | None:
    """The partial order of the recipes on the leading metric; None where nothing can be tested."""
    family = section.compare(section.lead).family
    if not family.names:
        return None
    lines = []
    for name in family.names:
        entry = next(e for e in section.finished if e.name == name)
        alike = [n for n in family.names if n != name and not family.apart(n, name)]
        cells = (family.letters[name], words.some(family.worse(name)) or "–", words.some(alike) or "–")
        lines.append(flat_line(section, entry, "recipe", tuple(map(Cell, cells))))
    columns = (
        Column("Group", note=GROUP, numeric=False, key="group"),
        Column("Better than", numeric=False, key="better_than"),
        Column("Not told apart from", numeric=False, key="alike"),
    )
    caption = (
        f"By {section.lead_title}, all recipes compared together ({TESTED}). A better mean that is not "
        "told apart is no order: not told apart from the same recipe, two may still be told apart from each other."
        + (" Means are geometric, as ratios are compared." if family.log else "")
    )
    return Table(f"{section.slug}-order", "Who is better than whom", caption, columns, tuple(lines))


def pairs(section: Section) -> Table | None:
    """All pairwise differences of the leading metric; None where nothing can be tested."""
    metric = section.lead.metric
    family = section.compare(section.lead).family
    if not family.pairs:
        return None
    title = section.lead_title
    values = {e.name: e.scores[section.lead].values for e in section.finished}
    lines, floors = [], {}
    for pair in sorted(family.pairs, key=lambda p: (p.adjusted, p.found.p, p.a, p.b)):
        a, b = values[pair.a], values[pair.b]
        floors[len(a), len(b)] = stats.permutation_floor(len(a), len(b))
        shuffled = stats.permutation(a, b, family.log)
        value, low, high = difference(pair.found, pair.simultaneous)
        mean, least, most = words.ratio(value, low, high) if family.log else words.alike(value, low, high)
        cells = (
            Cell(mean, f"[{least}, {most}]", value=value, source=f"{len(a)} and {len(b)} training seeds"),
            _p_cell(pair.adjusted),
            _p_cell(pair.found.p),
            Cell("–") if shuffled is None else _p_cell(shuffled),
            Cell(f"{pair.a} is better" if pair.significant else "not told apart"),
        )
        lines.append(Line(f"{pair.a} {'/' if family.log else '−'} {pair.b}", "recipe", -1, cells))
    columns: tuple[Column, ...] = (
        Column(
            f"{'Ratio' if family.log else 'Difference'} of {title}",
            key="ratio" if family.log else "difference",
            note="with an interval that holds for all pairs together, in 95 % of families",
        ),
        Column("p, family", key="p_family", note="of all pairs of this table together: the one that decides"),
        Column("p, pair", key="p_pair", note="of this pair alone, had it been the one question asked"),
        Column("p, permutation", key="p_permutation", note="exact, of this pair alone: a check that assumes no law"),
        Column("Verdict", numeric=False, key="verdict"),
    )
    blind = sorted({(n, m, p) for (n, m), p in floors.items() if p >= stats.ALPHA})
    notes = [
        f"No permutation test of {n} against {m} seeds: its smallest attainable p is {p:.2g}, not below {stats.ALPHA:g}."
        for n, m, p in blind
    ]
    notes.append("To ask one question only, `bench compare A B`.")
    if len(blind) == len(floors):
        columns = (*columns[:3], *columns[4:])
        lines = [replace(line, cells=(*line.cells[:3], *line.cells[4:])) for line in lines]
    scale = "on the scale of logarithms" if family.log else "as they are"
    scale += ", since not every score is positive" if is_ratio(metric) and not family.log else ""
    caption = f"All pairs of {len(family.names)} recipes over training seeds, {TESTED}; scores are compared {scale}."
    slug = f"{section.slug}-pairs"
    return Table(slug, "Pairwise differences", caption, columns, tuple(lines), tuple(notes), first="Pair")


def difference(found: stats.Difference, interval: tuple[float, float] | None = None) -> tuple[float, float, float]:
    """(a - b, low, high), or of logarithms (a / b, low, high); `interval` in place of the pair's own."""
    numbers = (found.mean, *(interval or (found.low, found.high)))
    low, middle, high = sorted(math.exp(min(x, 700.0)) if found.log else x for x in numbers)
    return middle, low, high


def _p_cell(p: float) -> Cell:
    if math.isnan(p):
        return Cell("–")
    return Cell(words.p_value(p).removeprefix("p = ").removeprefix("p "), value=p)
