"""Lines over the training budget, over the strength of guidance, and over thresholds of several data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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
from reports.metrics import SHOWN
from reports.plans import at_plan, guided
from reports.rows import seed_means
from reports.scores import Measure
from reports.sections import Section
from reports.stats import Summary, profile, summarise


def budget_curve(section: Section) -> Picture | None:
    """Quality after parts of the budget, where snapshots were scored."""
    metric, _, features = section.lead
    name = section.lead_title
    lines: list[tuple[Entry, list[tuple[float, Summary]]]] = []
    for entry in section.finished:
        rows = entry.rows[(entry.rows["metric"] == metric) & (entry.rows["split"] == "test")]
        rows = rows[(rows["features"] == features) & (rows["weights"] != "raw")]
        rows = at_plan(rows, entry.plan) if entry.plan else rows
        parts = [(float(f), summarise(seed_means(g))) for f, g in rows.groupby(rows["fraction"].fillna(1.0))]
        known = [(f, s) for f, s in parts if s]
        if len(known) > 1:
            lines.append((entry, known))
    if not lines:
        return None

    def paint(d: Drawing) -> None:
        ax = d.figure.subplots()
        heights = [s.mean for _, line in lines for _, s in line]
        if is_wide(heights, 6):
            ax.set_yscale("log")
            log_axis(ax.yaxis, None, min(heights), max(heights))
        for entry, line in lines:
            tone = colour(entry.mark)
            ax.plot([f for f, _ in line], [s.mean for _, s in line], color=tone, lw=1.2)
            for f, s in line:
                if s.half:
                    ax.plot([f, f], [max(s.low, s.mean * 0.05), s.high], color=tone, lw=1)
                title = f"{entry.name} after {f:g} of the budget: {name} {score_text(s)}"
                ax.plot([f], [s.mean], marker=marker(entry.mark), ms=6, color=tone, mec=PAPER, mew=0.6, ls="",
                        gid=d.name(title, entry.mark))  # fmt: skip
            d.legend.append(handle(entry.name, entry.mark))
        ax.set_xlabel("part of the training budget")
        ax.set_ylabel(f"{name} ↓")

    alt = f"{name} on {section.title} after parts of the training budget, {len(lines)} recipes."
    caption = "Whether the order depends on the budget. Default plans; bars: 95 % t-intervals."
    return draw(f"{section.slug}-budget", f"{name} over the training budget", caption, alt, (4.7, 3.5), paint)


def guidance(section: Section) -> list[Picture]:
    """What guidance buys and costs: quality against its strength, and fidelity against diversity along it."""
    metric, _, features = section.lead
    pairs = (("", metric), ("recall", "precision"), ("recall", "label_accuracy"))
    return [picture for x, y in pairs if (picture := _along_guidance(section, x, y, features))]


@dataclass(frozen=True)
class _Strength:
    w: float
    x: Summary
    y: Summary


def _along_guidance(section: Section, across: str, metric: str, features: str) -> Picture | None:
    """A metric against another, or against the strength where `across` is ""; a line for each recipe and sampler."""
    lines: list[tuple[Entry, str, list[_Strength]]] = []
    for group in guided(section):
        points = []
        for w, plan in group.plans.items():
            scores = group.entry.at(plan)
            y = scores[Measure(metric, "test", features)].summary
            x = scores[Measure(across, "test", features)].summary if across else summarise([w])
            if x and y:
                points.append(_Strength(w, x, y))
        if len(points) > 1:
            lines.append((group.entry, group.name, points))
    if not lines:
        return None
    name, axis = section.title_of(metric, features), section.title_of(across) if across else "guidance"
    best = SHOWN[metric].direction if metric in SHOWN else ""

    def paint(d: Drawing) -> None:
        ax = d.figure.subplots()
        heights = [p.y.mean for *_, line in lines for p in line]
        if not across:
            if is_wide(heights, 6):
                ax.set_yscale("log")
                log_axis(ax.yaxis, None, min(heights), max(heights))
            if section.floor is not None:
                ax.axhline(section.floor, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
            ax.axvline(1, color=MUTED, lw=0.8, ls=(0, (1, 2)), zorder=1)
        styles: dict[str, int] = {}
        for entry, plan, line in lines:
            tone = colour(entry.mark)
            i = styles[entry.name] = styles.get(entry.name, -1) + 1
            ax.plot([p.x.mean for p in line], [p.y.mean for p in line], color=tone, lw=1.2, ls=STYLES[i % 4], zorder=2)
            for p in line:
                if p.y.half:
                    ax.plot([p.x.mean] * 2, [max(p.y.low, p.y.mean * 0.05), p.y.high], color=tone, lw=1, zorder=2.5)
                title = f"{entry.name}, {plan}, guidance {p.w:g}: {name} {score_text(p.y)}"
                title += f", {axis} {score_text(p.x)}" if across else ""
                ax.plot([p.x.mean], [p.y.mean], marker=marker(entry.mark), ms=7 if p.w == 1 else 4.5, ls="", zorder=3,
                        mfc=tone if p.w == 1 else PAPER, mec=tone, mew=1, gid=d.name(title, entry.mark))  # fmt: skip
                if across and p.w != 1:
                    ax.annotate(f"{p.w:g}", (p.x.mean, p.y.mean), (4, 3), textcoords="offset points", color=MUTED,
                                fontsize=7)  # fmt: skip
            if not i:
                d.legend.append(handle(entry.name, entry.mark))
        ax.set_xlabel(f"{axis} ↑" if across else "guidance: 0 without labels, 1 with them, above 1 guided")
        ax.set_ylabel(f"{name} {best}".strip())

    ends = "; ".join(
        f"{entry.name} {plan}: " + ", ".join(f"{words.number(p.y.mean)} at {p.w:g}" for p in (line[0], line[-1]))
        for entry, plan, line in lines
    )
    alt = f"{name} against {axis} on {section.title} along the strength of guidance. {ends}."
    title, slug = f"{name} against {axis.lower()}", f"{section.slug}-guidance-{words.slug(f'{metric}-{across}')}"
    return draw(slug, title, "", alt, (4.7, 3.5), paint)


def profiles(slug: str, strata: Mapping[str, Sequence[Sequence[float]]], marks: Mapping[str, int]) -> Picture:
    """The share of a recipe's runs that score no more than a threshold, over all data sets: higher is better."""
    everyone = [v for sets in strata.values() for values in sets for v in values]
    low, high = min(0.0, *everyone), min(max(everyone), 2.0)
    thresholds = np.linspace(low, high, 201)

    def paint(d: Drawing) -> None:
        ax = d.figure.subplots()
        for i, (name, sets) in enumerate(strata.items()):
            tone = colour(marks[name])
            shares = profile(sets, thresholds.tolist())
            ax.step(thresholds, shares, where="post", color=tone, lw=1.3, ls=STYLES[i % 4],
                    gid=d.name(f"{name}: half of the runs score at most {_half(thresholds, shares)}", marks[name]))  # fmt: skip
            d.legend.append(handle(name, marks[name]))
        ax.set_ylim(0, 1.02)
        ax.set_xlabel("normalised score: 0 real training data, 1 Gaussian fit")
        ax.set_ylabel("share of runs at or below ↑")

    alt = f"Performance profiles of {words.listing(list(strata))}: the share of runs at or below each normalised score."
    caption = "A curve above another is better at every threshold; data sets weigh alike."
    return draw(f"{slug}-profile", "Performance profiles", caption, alt, (5.9, 3.6), paint)


def _half(thresholds: np.ndarray, shares: Sequence[float]) -> str:
    reached = [t for t, share in zip(thresholds, shares) if share >= 0.5]
    return words.number(float(reached[0])) if reached else "more than is drawn"
