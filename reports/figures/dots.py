"""A row for each recipe with all its seeds: quality, likelihood; and bars for the parts of a likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from reports import words
from reports.entries import Entry
from reports.figures.curves import budget_curve
from reports.figures.drawing import (
    INK,
    MUTED,
    PAPER,
    Drawing,
    Picture,
    colour,
    draw,
    is_wide,
    log_axis,
    marker,
    score_text,
)
from reports.likelihoods import kind_text, likelihood_rows, numbered, parts_of
from reports.metrics import UNITS
from reports.rows import seed_means
from reports.sections import Section
from reports.stats import Summary, summarise

SHORT = {
    "real-train": "floor",
    "gaussian": "Gaussian",
    "uniform": "uniform",
    "pixel-histograms": "pixel histograms",
    "train-copies": "copies",
}


@dataclass(frozen=True)
class _Dot:
    label: str
    mark: int
    values: tuple[float, ...]


def _dots(
    slug: str, title: str, caption: str, alt: str, axis: str, rows: list[_Dot], lines: list[tuple[str, float]]
) -> Picture:
    """A row per recipe: every seed, the mean with its interval, and lines that give the scale."""
    width = 5.4

    def paint(d: Drawing) -> None:
        ax = d.figure.subplots()
        numbers = [v for r in rows for v in r.values] + [v for _, v in lines]
        log = is_wide(numbers)
        if log:
            ax.set_xscale("log")
            log_axis(ax.xaxis, None, min(numbers), max(numbers))
        else:
            ax.xaxis.set_major_locator(MaxNLocator(6))
        for _, value in lines:
            ax.axvline(value, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        for i, row in enumerate(rows):
            summary = summarise(row.values)
            if summary is None:
                continue
            tone = colour(row.mark)
            if summary.half:
                left = max(summary.low, summary.mean * 0.05) if log else summary.low
                ax.plot([left, summary.high], [i, i], color=tone, lw=2.2, zorder=2, solid_capstyle="butt")
            if summary.n > 1:
                ax.plot(
                    row.values, [i + 0.24] * len(row.values), ls="", marker="o", ms=2.6, color=tone, mew=0, zorder=2
                )
            ax.plot([summary.mean], [i], marker=marker(row.mark), ms=8, color=tone, mec=PAPER, mew=0.8, ls="", zorder=3,
                    gid=d.name(f"{row.label}: {axis} {score_text(summary)}", row.mark))  # fmt: skip
        ax.set_yticks(range(len(rows)), [words.shortened(r.label) for r in rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.grid(False, axis="y")
        ax.set_xlabel(axis)
        _name_lines(ax, lines, 0.6 * 72 * width)

    return draw(slug, title, caption, alt, (width, 0.9 + 0.31 * max(2, len(rows))), paint)


def _name_lines(ax: Axes, lines: Sequence[tuple[str, float]], width: float) -> None:
    """Names vertical lines above axes of so many points, each as low as it does not meet another. Limits are kept."""
    size = 7.5
    scale = ax.transScale + ax.transLimits
    ends: list[float] = []  # of each storey, where its last name ends
    for text, value in sorted(lines, key=lambda line: line[1]):
        label = f"{text} {words.number(value)}"
        start = float(scale.transform((value, 0))[0]) * width
        storey = next((i for i, end in enumerate(ends) if end < start), len(ends))
        ends[storey : storey + 1] = [start + 0.6 * size * (len(label) + 1)]
        ax.annotate(label, (value, 1), (3, 2 + 10 * storey), color=MUTED, fontsize=size,
                    xycoords=("data", "axes fraction"), textcoords="offset points")  # fmt: skip


def dots(section: Section) -> list[Picture]:
    """Every seed of every recipe, on quality and likelihood; the score over the budget; the parts of the likelihoods."""
    made = (quality_dots(section), likelihood_dots(section), budget_curve(section))
    return [picture for picture in made if picture] + parts(section)


def quality_dots(section: Section) -> Picture | None:
    name = section.lead_title
    rows = [_Dot(e.name, e.mark, tuple(e.scores[section.lead].values)) for e in section.finished]
    rows = [r for r in rows if r.values]
    if not rows:
        return None
    lines = [
        (SHORT.get(b.recipe, b.name), value)
        for b in section.baselines
        if (value := section.scale(b)) is not None and value > 0
    ]
    alt = f"{name} of each recipe on {section.title}: " + "; ".join(
        f"{r.label} {score_text(s)}" for r in rows if (s := summarise(r.values))
    )
    caption = "Default plans. Marker: mean over training seeds; bar: 95 % t-interval; small dots: the seeds."
    return _dots(f"{section.slug}-quality", f"{name} at the default plan", caption, alt, f"{name} ↓", rows, lines)


def likelihood_dots(section: Section) -> Picture | None:
    metric = section.likelihood
    rows = []
    for entry in section.finished:
        frames = likelihood_rows(entry, metric, "test")
        names = [str(frame["kind"].iloc[0]) for frame in frames]
        for frame, name in zip(frames, names):
            # A kind that was measured in several ways is distinguished by its options.
            kind = words.plain(name) if names.count(name) == 1 else kind_text(frame)
            label = f"{entry.name} {frame['relation'].iloc[0]} {kind}"
            rows.append(_Dot(label, entry.mark, tuple(seed_means(frame))))
    if not rows:
        return None
    lines = []
    for baseline in section.baselines:
        frames = likelihood_rows(baseline, metric, "test")
        if frames and (s := summarise(seed_means(frames[0]))):
            lines.append((SHORT.get(baseline.recipe, baseline.name), s.mean))
    if section.entropy is not None and metric == "nll":
        lines.append(("entropy", section.entropy))
    unit = UNITS[metric]
    alt = f"Held-out negative log-likelihood on {section.title}, {unit}: " + "; ".join(
        f"{r.label} {score_text(s)}" for r in rows if (s := summarise(r.values))
    )
    caption = "Kinds are shown together and compared only within a kind: ≤ marks upper bounds, ≈ estimates."
    title = "Held-out negative log-likelihood"
    return _dots(f"{section.slug}-likelihood", title, caption, alt, f"NLL, {unit} ↓", rows, lines)


def parts(section: Section) -> list[Picture]:
    """For each recipe whose likelihood has numbered parts (of levels, say) a bar for each, over its number."""
    pictures = []
    for entry in section.finished:
        for kind, found in parts_of(entry).items():
            for stem, names in numbered(list(found)).items():
                held = {
                    n: s for n in names if (s := summarise(seed_means(found[n].get("test", found[n].get("", _NONE)))))
                }
                if held:
                    pictures.append(_parts(section, entry, kind, stem, held))
    return pictures


_NONE = pd.DataFrame({"seed": [], "run": [], "value": []})


def _parts(section: Section, entry: Entry, kind: str, stem: str, held: Mapping[str, Summary]) -> Picture:
    def paint(d: Drawing) -> None:
        ax = d.figure.subplots()
        numbers = [int(name.rpartition("_")[2]) for name in held]
        ax.grid(False, axis="x")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        for number, (name, summary) in zip(numbers, held.items()):
            ax.bar([number], [summary.mean], width=0.7, color=colour(entry.mark), zorder=2,
                   gid=d.name(f"{entry.name}, {name}: {score_text(summary)} nats", entry.mark))  # fmt: skip
            if summary.half:
                # A divergence is none below 0, whatever a symmetric interval says.
                low = summary.low if summary.mean < 0 else max(summary.low, 0.0)
                ax.plot([number] * 2, [low, summary.high], color=INK, lw=1, zorder=3)
        ax.set_xlabel(f"number of the part {stem}")
        ax.set_ylabel(f"{stem}, nats")

    total = sum(s.mean for s in held.values())
    values = "; ".join(f"{name} {score_text(s)}" for name, s in held.items())
    alt = f"{stem} of {entry.name} on {section.title} by number, nats, {kind}: {values}"
    caption = f"{kind}, held-out examples; {words.number(total)} nats together. Bars: means over training seeds."
    slug = f"{section.slug}-parts-{words.slug(f'{entry.name} {kind} {stem}')}"
    return draw(slug, f"{entry.name}: {stem}, part by part", caption, alt, (4.7, 2.6), paint)
