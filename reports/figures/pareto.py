"""Quality against what a sample costs, with the frontier that no other plan beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.lines import Line2D
from matplotlib.markers import CARETUP
from matplotlib.ticker import EngFormatter

from reports import words
from reports.entries import Entry
from reports.figures.drawing import (
    MUTED,
    PAPER,
    STYLES,
    Drawing,
    Picture,
    colour,
    draw,
    handle,
    is_wide,
    log_axis,
    marker,
    score_text,
)
from reports.plans import Plan
from reports.rows import seed_means
from reports.scores import Measure
from reports.sections import Section
from reports.stats import Summary, summarise


@dataclass(frozen=True)
class _Point:
    entry: Entry
    plan: Plan
    x: float
    y: Summary


_COSTS: tuple[tuple[str, str, str], ...] = (
    ("calls", "network calls per sample", ""),
    ("latency", "seconds per image (batch 1)", "s"),
    ("flops_per_sample", "FLOPs per sample", "FLOP"),
)


def _points(section: Section, cost: str) -> list[_Point]:
    points = []
    for entry in section.finished:
        for plan in entry.plans:
            scores = entry.at(plan)
            lead = scores[section.lead]
            y, x = lead.summary, scores[Measure(cost)].summary
            if cost == "calls":
                x = summarise(lead.calls or seed_means(scores.rows, "calls"))
            if x and y and x.mean > 0:
                points.append(_Point(entry, plan, x.mean, y))
    return points


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other point beats in both coordinates, from the cheapest on."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or y < best[-1][1]:
            best.append((x, y))
    return best


def pareto(section: Section) -> list[Picture]:
    """Quality against sampling cost, for each cost that was measured."""
    name = section.lead_title
    pictures = []
    for cost, label, unit in _COSTS:
        points = _points(section, cost)
        if not points:
            continue

        def paint(d: Drawing, points: list[_Point] = points, label: str = label, unit: str = unit) -> None:
            _paint_pareto(d, section, points, name, label, unit)

        found = frontier([(p.x, p.y.mean) for p in points])
        best = min(points, key=lambda p: (p.y.mean, p.entry.name))
        alt = (
            f"{name} against {label} on {section.title}, {len(points)} plans; the frontier has {len(found)}; lowest: "
            f"{best.entry.name} with {best.plan.text}, {name} {words.number(best.y.mean)}."
        )
        slug = f"{section.slug}-pareto-{words.slug(cost)}"
        cut, title = _ceiling(section, points), f"{name} against {label.split(' (')[0]}"
        above = sum(p.y.mean > cut for p in points)
        caption = (
            f"{words.plural(above, 'plan')} above the picture {'is' if above == 1 else 'are'} drawn as arrows at its "
            "edge: worse than a Gaussian fitted to the data."
            if above
            else ""
        )
        pictures.append(draw(slug, title, caption, alt, (5.9, 4.3), paint))
    return pictures


def _ceiling(section: Section, points: Sequence[_Point]) -> float:
    """Where the picture ends: plans far worse than the Gaussian fit would only press the others together.

    A card's default plan is never cut off.
    """
    gaussian = section.scale(section.baseline("gaussian"))
    if not gaussian or gaussian <= 0:
        return math.inf
    return 1.1 * max([gaussian, *(p.y.high for p in points if p.plan == p.entry.plan)])


def _paint_pareto(d: Drawing, section: Section, points: list[_Point], name: str, label: str, unit: str) -> None:
    ax = d.figure.subplots()
    ax.set_xscale("log")
    cut = _ceiling(section, points)
    heights = [min(p.y.mean, cut) for p in points] + ([section.floor] if section.floor else [])
    log = is_wide(heights, 6)
    if log:
        ax.set_yscale("log")
        log_axis(ax.yaxis, None, min(heights), max(heights))
    step = frontier([(p.x, p.y.mean) for p in points])
    xs = [p.x for p in points]
    low, high = min(xs), max(xs)
    pad = (high / low) ** 0.06 if high > low else 2.0
    ax.set_xlim(low / pad, high * pad)
    log_axis(ax.xaxis, EngFormatter(unit, sep=" ") if unit else None, low, high, sparse=bool(unit))
    ax.step(
        [*[x for x, _ in step], high * pad], [*[y for _, y in step], step[-1][1]], where="post", color=MUTED, lw=4,
        alpha=0.22, solid_capstyle="butt", zorder=1,
    )  # fmt: skip
    if section.floor is not None:
        ax.axhline(section.floor, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        # On the left, where plans are cheap and points are high.
        ax.annotate("floor: real training data", (0, section.floor), (3, 3), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha="left", color=MUTED, fontsize=7.5)  # fmt: skip
    if any(p.y.mean > cut for p in points):
        lowest = min(min(heights), *(max(p.y.low, p.y.mean * 0.3) for p in points))
        ax.set_ylim(lowest * 0.8 if log else None, cut)
    shifts = _shifts(points)
    for entry in section.finished:
        own = [replace(p, x=p.x * shifts.get(entry.name, 1.0)) for p in points if p.entry is entry]
        if not own:
            continue
        tone = colour(entry.mark)
        samplers = list(dict.fromkeys(p.plan[0] for p in own))
        for sampler, options in dict.fromkeys((p.plan[0], p.plan[2]) for p in own):
            i = samplers.index(sampler)
            line = sorted((p for p in own if p.plan[::2] == (sampler, options)), key=lambda p: (p.x, p.y.mean))
            if len(line) > 1:
                ax.plot([p.x for p in line], [p.y.mean for p in line], color=tone, lw=1.1, ls=STYLES[i % 4], zorder=2)
        for p in sorted(own, key=lambda p: p.plan == entry.plan):
            main = p.plan == entry.plan
            if p.y.half:
                bottom = max(p.y.low, p.y.mean * 0.05) if log else p.y.low
                ax.plot([p.x, p.x], [bottom, p.y.high], color=tone, lw=1.1, zorder=2.5, solid_capstyle="butt")
            text = (
                f"{entry.name}, {p.plan.text}{' (default)' if main else ''}: {name} {score_text(p.y)}, "
                f"{_x(p.x / shifts.get(entry.name, 1.0), unit)}"
            )
            if p.y.mean > cut:
                ax.plot([p.x], [1], transform=ax.get_xaxis_transform(), clip_on=False, marker=CARETUP, ms=6, ls="",
                        color=tone, zorder=3, gid=d.name(text, entry.mark))  # fmt: skip
                continue
            ax.plot([p.x], [p.y.mean], marker=marker(entry.mark), ms=8 if main else 4.2, mfc=tone if main else PAPER,
                    mec=PAPER if main else tone, mew=0.7 if main else 1.0, ls="", zorder=4 if main else 3,
                    gid=d.name(text, entry.mark))  # fmt: skip
        d.legend.append(handle(entry.name, entry.mark))
    ax.set_xlabel(label)
    ax.set_ylabel(f"{name} ↓")
    d.legend.append(Line2D([], [], color=MUTED, lw=5, alpha=0.22, label="frontier"))


def _shifts(points: Sequence[_Point]) -> dict[str, float]:
    """Factors that draw recipes next to each other whose plans all cost exactly the same: the one-call models.

    A few per cent to either side: seen apart, and nearer to their own number of calls than to any other.
    """
    costs: dict[str, set[float]] = {}
    for p in points:
        costs.setdefault(p.entry.name, set()).add(p.x)
    factors = {}
    for cost in sorted(set().union(*costs.values())):
        same = sorted(name for name, found in costs.items() if found == {cost})
        swept = any(cost in found and len(found) > 1 for found in costs.values())
        for i, name in enumerate(same, start=int(swept)):
            factors[name] = 1.08 ** ((i + 1) // 2 * (-1) ** i)  # 0, 1, -1, 2, ... and no 0 where a sweep passes
    return factors


def _x(value: float, unit: str) -> str:
    return words.seconds(value) if unit == "s" else words.si(value, unit) if unit else f"{value:,.4g} calls"
