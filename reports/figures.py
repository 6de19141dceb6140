"""The pictures: matplotlib figures as SVG for the page, and as SVG and PDF files for papers.

Colours are Okabe and Ito's, told apart by colour-blind readers, with Paul Tol's wine in place of their yellow, which does
not show on white; and every recipe also has a marker shape, the same on the whole page. Bytes are stable: fixed hash
salt, no dates, matplotlib's own defaults whatever the user's settings. In the page the ink follows the theme (light,
dark, print) through CSS variables; every point has a title to hover over.
"""

from __future__ import annotations

import html
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETUP
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from reports import words
from reports.metrics import SHOWN, UNITS
from reports.sections import (
    Entry,
    Section,
    at_plan,
    guided,
    kind_text,
    likelihood_rows,
    numbered,
    parts_of,
    plan_text,
    plans_of,
    run_id,
    seed_means,
)
from reports.stats import Summary, profile, summarise
from reports.tables import metric_title

INK, MUTED, GRID, PAPER = "#1f2329", "#59636f", "#d1d9e1", "#fefefe"
WINE = "#882255"
_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--paper)", WINE: "var(--wine)"}

# As many as there are paradigms: in the default comparison no two recipes share one.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", INK, WINE)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
# The same shapes for the key on the page, in a 12 x 12 box.
SHAPES = (
    "M6 1.6a4.4 4.4 0 1 0 .01 0z",
    "M2 2h8v8H2z",
    "M6 1.2 11 10.4H1z",
    "M6 .8 11.2 6 6 11.2.8 6z",
    "M6 10.8 1 1.6h10z",
    "M4.2 1h3.6v3.2H11v3.6H7.8V11H4.2V7.8H1V4.2h3.2z",
    "M3.2 1 6 3.8 8.8 1 11 3.2 8.2 6 11 8.8 8.8 11 6 8.2 3.2 11 1 8.8 3.8 6 1 3.2z",
    "M6 1 11.2 4.9 9.2 11H2.8L.8 4.9z",
)
STYLES = ("-", (0, (5, 2)), (0, (1, 1.6)), (0, (5, 2, 1, 2)))

_RC: dict[str, Any] = {
    "svg.hashsalt": "paradigm-bench",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": PAPER,
}


@dataclass
class Picture:
    """A drawn figure: `inline` for the page, `svg` and `pdf` for files."""

    slug: str
    title: str
    caption: str
    alt: str
    inline: str
    svg: bytes
    pdf: bytes
    wide: bool = False


@dataclass
class _Drawing:
    """A figure in the making, with the titles of its points and the legend that only the files need."""

    figure: Figure
    titles: dict[str, tuple[str, int]] = field(default_factory=dict)
    legend: list[Line2D] = field(default_factory=list)

    def name(self, text: str, mark: int) -> str:
        gid = f"pt{len(self.titles)}"
        self.titles[gid] = (text, mark)
        return gid


def colour(mark: int) -> str:
    return COLOURS[mark % len(COLOURS)] if mark >= 0 else MUTED


def marker(mark: int) -> str:
    # The next eight recipes have each colour with the next shape: no pair comes again before the 65th.
    return MARKERS[(mark + mark // len(COLOURS)) % len(MARKERS)] if mark >= 0 else "|"


def glyph(mark: int) -> tuple[str, str]:
    """(path, CSS colour) of a recipe's key on the page."""
    shape = SHAPES[MARKERS.index(marker(mark))] if mark >= 0 else "M1 5.2h10v1.6H1z"
    return shape, _THEME.get(colour(mark), colour(mark))


@contextmanager
def _settings() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        cast(dict[str, Any], matplotlib.rcParams).update(_RC)
        yield


LEGEND_LINE = 0.18  # inches


def _draw(
    slug: str, title: str, caption: str, alt: str, size: tuple[float, float], paint: Callable[[_Drawing], None]
) -> Picture:
    """Paint once, save three times: bare for the page, with a legend for the files."""
    with _settings():
        drawing = _Drawing(Figure(figsize=size, layout="constrained"))
        paint(drawing)
        bare = _save(drawing.figure, "svg")
        inline = _inline(bare, slug, alt, drawing.titles)
        if drawing.legend:
            columns = math.ceil(len(drawing.legend) / (size[1] / LEGEND_LINE))
            drawing.figure.legend(handles=drawing.legend, loc="outside right upper", handlelength=1.6, ncols=columns)
            drawing.figure.set_figwidth(size[0] + 1.9 * columns)
        svg = _save(drawing.figure, "svg") if drawing.legend else bare
        drawing.figure.set_layout_engine("none")  # the layout stands
        pdf = _save(drawing.figure, "pdf")
    return Picture(slug, title, caption, alt, inline, svg, pdf)


def _save(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"CreationDate": None}
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def _inline(svg: bytes, slug: str, alt: str, titles: Mapping[str, tuple[str, int]]) -> str:
    """An SVG file as an element of the page: scoped ids, theme colours, titles on points, no metadata, fewer digits."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text, flags=re.S)
    box = re.search(r'viewBox="([^"]+)"', text)
    width = float(box[1].split()[2]) if box else 400.0
    label = f'role="img" aria-label="{html.escape(alt)}" style="max-width:{width * 1.5:.0f}px"'
    head = f'<svg viewBox="{box[1] if box else ""}" {label}>'
    text = re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
    text = re.sub(r' (d|x|y|transform|points)="([^"]*)"', _rounded, text)
    for plain, themed in _THEME.items():
        text = text.replace(plain, themed)
    text = text.replace("'DejaVu Sans'", "var(--sans)").replace("DejaVu Sans", "var(--sans)")

    def scoped(match: re.Match[str]) -> str:
        gid = match[1]
        if gid in titles:
            title, mark = titles[gid]
            return f'<g class="pt" data-mark="{mark}"><title>{html.escape(title)}</title>'
        return f'<g id="{slug}-{gid}">'

    text = re.sub(r'<g id="(pt\d+)">', scoped, text)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r' id="([^"]+)"', rf' id="{slug}-\1"', text)
    text = re.sub(r'xlink:href="#', f'href="#{slug}-', text)
    text = re.sub(r"url\(#", f"url(#{slug}-", text)
    return re.sub(r"\n\s*", "\n", text).strip()


def _rounded(match: re.Match[str]) -> str:
    """A geometric attribute with two decimals: nobody sees a hundredth of a point, it saves a third of the bytes."""
    numbers = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), match[2])
    return f' {match[1]}="{numbers}"'


# ------------------------------------------------------------------------------------------------------------ axes


def _plain_ticks(value: float, _: Any = None) -> str:
    return words.minus(f"{value:g}")


def _log(axis: Any, formatter: Any = None, low: float = 1.0, high: float = 1.0, sparse: bool = False) -> None:
    """A logarithmic axis whose ticks read 1, 2, 5, 10 ... over short ranges and powers of ten over long ones."""
    decades = math.log10(high / low) if high > low > 0 else 0
    subs = (1, 2, 5) if decades < (0.9 if sparse else 2.2) else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(formatter or FuncFormatter(_plain_ticks))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def _wide(values: Sequence[float], ratio: float = 8) -> bool:
    """Whether positive values span so much that a linear axis would hide the good ones."""
    positive = [v for v in values if v > 0]
    return len(positive) == len(values) and bool(values) and max(positive) > ratio * min(positive)


def _handle(name: str, mark: int) -> Line2D:
    return Line2D(
        [], [], label=words.shortened(name), color=colour(mark), marker=marker(mark), markersize=6, linewidth=1.2
    )


# ---------------------------------------------------------------------------------------------------------- pareto


@dataclass(frozen=True)
class _Point:
    entry: Entry
    plan: tuple[str, float, str]
    x: float
    y: Summary


_COSTS: tuple[tuple[str, str, str], ...] = (
    ("calls", "network calls per sample", ""),
    ("latency", "seconds per image (batch 1)", "s"),
    ("flops_per_sample", "FLOPs per sample", "FLOP"),
)


def _points(section: Section, cost: str) -> list[_Point]:
    metric, features = section.quality
    points = []
    for entry in section.finished:
        rows = entry.main
        for plan in plans_of(rows):
            mine = at_plan(rows, plan)
            scored = (mine["metric"] == metric) & (mine["split"] == "test") & (mine["features"] == features)
            y = summarise(seed_means(mine[scored]))
            if cost == "calls":
                x = summarise(seed_means(mine[scored], "calls") or seed_means(mine, "calls"))
            else:
                x = summarise(seed_means(mine[mine["metric"] == cost]))
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
    metric, features = section.quality
    name = metric_title(section, metric, features)
    pictures = []
    for cost, label, unit in _COSTS:
        points = _points(section, cost)
        if not points:
            continue

        def paint(d: _Drawing, points: list[_Point] = points, label: str = label, unit: str = unit) -> None:
            _paint_pareto(d, section, points, name, label, unit)

        found = frontier([(p.x, p.y.mean) for p in points])
        best = min(points, key=lambda p: (p.y.mean, p.entry.name))
        alt = (
            f"{name} against {label} on {section.title}, {len(points)} plans; the frontier has {len(found)}; lowest: "
            f"{best.entry.name} with {plan_text(best.plan)}, {name} {words.number(best.y.mean)}."
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
        pictures.append(_draw(slug, title, caption, alt, (5.9, 4.3), paint))
    return pictures


def _ceiling(section: Section, points: Sequence[_Point]) -> float:
    """Where the picture ends: plans far worse than the Gaussian fit would only press the others together.

    A card's default plan is never cut off.
    """
    gaussian = section.scale(section.baseline("gaussian"))
    if not gaussian or gaussian <= 0:
        return math.inf
    return 1.1 * max([gaussian, *(p.y.high for p in points if p.plan == p.entry.plan)])


def _paint_pareto(d: _Drawing, section: Section, points: list[_Point], name: str, label: str, unit: str) -> None:
    ax = d.figure.subplots()
    ax.set_xscale("log")
    cut = _ceiling(section, points)
    heights = [min(p.y.mean, cut) for p in points] + ([section.floor] if section.floor else [])
    log = _wide(heights, 6)
    if log:
        ax.set_yscale("log")
        _log(ax.yaxis, None, min(heights), max(heights))
    step = frontier([(p.x, p.y.mean) for p in points])
    xs = [p.x for p in points]
    low, high = min(xs), max(xs)
    pad = (high / low) ** 0.06 if high > low else 2.0
    ax.set_xlim(low / pad, high * pad)
    _log(ax.xaxis, EngFormatter(unit, sep=" ") if unit else None, low, high, sparse=bool(unit))
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
    beside = _beside(points)
    for entry in section.finished:
        mine = [replace(p, x=p.x * beside.get(entry.name, 1.0)) for p in points if p.entry is entry]
        if not mine:
            continue
        tone = colour(entry.mark)
        samplers = list(dict.fromkeys(p.plan[0] for p in mine))
        for sampler, options in dict.fromkeys((p.plan[0], p.plan[2]) for p in mine):
            i = samplers.index(sampler)
            line = sorted((p for p in mine if p.plan[::2] == (sampler, options)), key=lambda p: (p.x, p.y.mean))
            if len(line) > 1:
                ax.plot([p.x for p in line], [p.y.mean for p in line], color=tone, lw=1.1, ls=STYLES[i % 4], zorder=2)
        for p in sorted(mine, key=lambda p: p.plan == entry.plan):
            main = p.plan == entry.plan
            if p.y.half:
                bottom = max(p.y.low, p.y.mean * 0.05) if log else p.y.low
                ax.plot([p.x, p.x], [bottom, p.y.high], color=tone, lw=1.1, zorder=2.5, solid_capstyle="butt")
            text = (
                f"{entry.name}, {plan_text(p.plan)}{' (default)' if main else ''}: {name} {_said(p.y)}, "
                f"{_x(p.x / beside.get(entry.name, 1.0), unit)}"
            )
            if p.y.mean > cut:
                ax.plot([p.x], [1], transform=ax.get_xaxis_transform(), clip_on=False, marker=CARETUP, ms=6, ls="",
                        color=tone, zorder=3, gid=d.name(text, entry.mark))  # fmt: skip
                continue
            ax.plot([p.x], [p.y.mean], marker=marker(entry.mark), ms=8 if main else 4.2, mfc=tone if main else PAPER,
                    mec=PAPER if main else tone, mew=0.7 if main else 1.0, ls="", zorder=4 if main else 3,
                    gid=d.name(text, entry.mark))  # fmt: skip
        d.legend.append(_handle(entry.name, entry.mark))
    ax.set_xlabel(label)
    ax.set_ylabel(f"{name} ↓")
    d.legend.append(Line2D([], [], color=MUTED, lw=5, alpha=0.22, label="frontier"))


def _beside(points: Sequence[_Point]) -> dict[str, float]:
    """Factors that draw recipes beside each other whose plans all cost exactly the same: the one-call models.

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


def _said(summary: Summary) -> str:
    text, extra = words.with_interval(summary)
    return f"{text} {extra}".strip() + (" (1 seed)" if summary.n == 1 else "")


def _x(value: float, unit: str) -> str:
    return words.seconds(value) if unit == "s" else words.si(value, unit) if unit else f"{value:,.4g} calls"


# ------------------------------------------------------------------------------------------------------------ dots


_SHORT = {
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

    def paint(d: _Drawing) -> None:
        ax = d.figure.subplots()
        numbers = [v for r in rows for v in r.values] + [v for _, v in lines]
        log = _wide(numbers)
        if log:
            ax.set_xscale("log")
            _log(ax.xaxis, None, min(numbers), max(numbers))
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
                    gid=d.name(f"{row.label}: {axis} {_said(summary)}", row.mark))  # fmt: skip
        ax.set_yticks(range(len(rows)), [words.shortened(r.label) for r in rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.grid(False, axis="y")
        ax.set_xlabel(axis)
        _name_lines(ax, lines, 0.6 * 72 * width)

    return _draw(slug, title, caption, alt, (width, 0.9 + 0.31 * max(2, len(rows))), paint)


def _name_lines(ax: Axes, lines: Sequence[tuple[str, float]], width: float) -> None:
    """Names vertical lines above axes of so many points, each as low as it does not meet another. Limits are kept."""
    size = 7.5
    scale = ax.transScale + ax.transLimits
    ends: list[float] = []  # of each storey, where its last name ends
    for text, value in sorted(lines, key=lambda line: line[1]):
        said = f"{text} {words.number(value)}"
        start = float(scale.transform((value, 0))[0]) * width
        storey = next((i for i, end in enumerate(ends) if end < start), len(ends))
        ends[storey : storey + 1] = [start + 0.6 * size * (len(said) + 1)]
        ax.annotate(said, (value, 1), (3, 2 + 10 * storey), color=MUTED, fontsize=size,
                    xycoords=("data", "axes fraction"), textcoords="offset points")  # fmt: skip


def quality_dots(section: Section) -> Picture | None:
    metric, features = section.quality
    name = metric_title(section, metric, features)
    rows = [_Dot(e.name, e.mark, tuple(e.per_seed(metric, "test", features))) for e in section.finished]
    rows = [r for r in rows if r.values]
    if not rows:
        return None
    lines = [
        (_SHORT.get(b.recipe, b.name), value)
        for b in section.baselines
        if (value := section.scale(b)) is not None and value > 0
    ]
    alt = f"{name} of each recipe on {section.title}: " + "; ".join(
        f"{r.label} {_said(s)}" for r in rows if (s := summarise(r.values))
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
            # A kind that was measured in several ways is told by its options.
            kind = words.plain(name) if names.count(name) == 1 else kind_text(frame)
            label = f"{entry.name} {frame['relation'].iloc[0]} {kind}"
            rows.append(_Dot(label, entry.mark, tuple(seed_means(frame))))
    if not rows:
        return None
    lines = []
    for baseline in section.baselines:
        frames = likelihood_rows(baseline, metric, "test")
        if frames and (s := summarise(seed_means(frames[0]))):
            lines.append((_SHORT.get(baseline.recipe, baseline.name), s.mean))
    if section.entropy is not None and metric == "nll":
        lines.append(("entropy", section.entropy))
    unit = UNITS[metric]
    alt = f"Held-out negative log-likelihood on {section.title}, {unit}: " + "; ".join(
        f"{r.label} {_said(s)}" for r in rows if (s := summarise(r.values))
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
    def paint(d: _Drawing) -> None:
        ax = d.figure.subplots()
        numbers = [int(name.rpartition("_")[2]) for name in held]
        ax.grid(False, axis="x")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        for number, (name, summary) in zip(numbers, held.items()):
            ax.bar([number], [summary.mean], width=0.7, color=colour(entry.mark), zorder=2,
                   gid=d.name(f"{entry.name}, {name}: {_said(summary)} nats", entry.mark))  # fmt: skip
            if summary.half:
                # A divergence is none below 0, whatever a symmetric interval says.
                low = summary.low if summary.mean < 0 else max(summary.low, 0.0)
                ax.plot([number] * 2, [low, summary.high], color=INK, lw=1, zorder=3)
        ax.set_xlabel(f"number of the part {stem}")
        ax.set_ylabel(f"{stem}, nats")

    total = sum(s.mean for s in held.values())
    said = "; ".join(f"{name} {_said(s)}" for name, s in held.items())
    alt = f"{stem} of {entry.name} on {section.title} by number, nats, {kind}: {said}"
    caption = f"{kind}, held-out examples; {words.number(total)} nats together. Bars: means over training seeds."
    slug = f"{section.slug}-parts-{words.slug(f'{entry.name} {kind} {stem}')}"
    return _draw(slug, f"{entry.name}: {stem}, part by part", caption, alt, (4.7, 2.6), paint)


def budget_curve(section: Section) -> Picture | None:
    """Quality after parts of the budget, where snapshots were scored."""
    metric, features = section.quality
    name = metric_title(section, metric, features)
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

    def paint(d: _Drawing) -> None:
        ax = d.figure.subplots()
        heights = [s.mean for _, line in lines for _, s in line]
        if _wide(heights, 6):
            ax.set_yscale("log")
            _log(ax.yaxis, None, min(heights), max(heights))
        for entry, line in lines:
            tone = colour(entry.mark)
            ax.plot([f for f, _ in line], [s.mean for _, s in line], color=tone, lw=1.2)
            for f, s in line:
                if s.half:
                    ax.plot([f, f], [max(s.low, s.mean * 0.05), s.high], color=tone, lw=1)
                title = f"{entry.name} after {f:g} of the budget: {name} {_said(s)}"
                ax.plot([f], [s.mean], marker=marker(entry.mark), ms=6, color=tone, mec=PAPER, mew=0.6, ls="",
                        gid=d.name(title, entry.mark))  # fmt: skip
            d.legend.append(_handle(entry.name, entry.mark))
        ax.set_xlabel("part of the training budget")
        ax.set_ylabel(f"{name} ↓")

    alt = f"{name} on {section.title} after parts of the training budget, {len(lines)} recipes."
    caption = "Whether the order depends on the budget. Default plans; bars: 95 % t-intervals."
    return _draw(f"{section.slug}-budget", f"{name} over the training budget", caption, alt, (4.7, 3.5), paint)


# -------------------------------------------------------------------------------------------------------- guidance


def guidance(section: Section) -> list[Picture]:
    """What guidance buys and costs: quality against its strength, and fidelity against diversity along it."""
    metric, features = section.quality
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
        rows = group.entry.main[(group.entry.main["split"] == "test") & (group.entry.main["features"] == features)]
        points = []
        for w, plan in group.plans.items():
            mine = at_plan(rows, plan)
            y = summarise(seed_means(mine[mine["metric"] == metric]))
            x = summarise(seed_means(mine[mine["metric"] == across]) if across else [w])
            if x and y:
                points.append(_Strength(w, x, y))
        if len(points) > 1:
            lines.append((group.entry, group.name, points))
    if not lines:
        return None
    name, axis = metric_title(section, metric, features), metric_title(section, across) if across else "guidance"
    best = SHOWN[metric].direction if metric in SHOWN else ""

    def paint(d: _Drawing) -> None:
        ax = d.figure.subplots()
        heights = [p.y.mean for *_, line in lines for p in line]
        if not across:
            if _wide(heights, 6):
                ax.set_yscale("log")
                _log(ax.yaxis, None, min(heights), max(heights))
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
                title = f"{entry.name}, {plan}, guidance {p.w:g}: {name} {_said(p.y)}"
                title += f", {axis} {_said(p.x)}" if across else ""
                ax.plot([p.x.mean], [p.y.mean], marker=marker(entry.mark), ms=7 if p.w == 1 else 4.5, ls="", zorder=3,
                        mfc=tone if p.w == 1 else PAPER, mec=tone, mew=1, gid=d.name(title, entry.mark))  # fmt: skip
                if across and p.w != 1:
                    ax.annotate(f"{p.w:g}", (p.x.mean, p.y.mean), (4, 3), textcoords="offset points", color=MUTED,
                                fontsize=7)  # fmt: skip
            if not i:
                d.legend.append(_handle(entry.name, entry.mark))
        ax.set_xlabel(f"{axis} ↑" if across else "guidance: 0 without labels, 1 with them, above 1 guided")
        ax.set_ylabel(f"{name} {best}".strip())

    ends = "; ".join(
        f"{entry.name} {plan}: " + ", ".join(f"{words.number(p.y.mean)} at {p.w:g}" for p in (line[0], line[-1]))
        for entry, plan, line in lines
    )
    alt = f"{name} against {axis} on {section.title} along the strength of guidance. {ends}."
    title, slug = f"{name} against {axis.lower()}", f"{section.slug}-guidance-{words.slug(f'{metric}-{across}')}"
    return _draw(slug, title, "", alt, (4.7, 3.5), paint)


# -------------------------------------------------------------------------------------------- over several data sets


def profiles(slug: str, strata: Mapping[str, Sequence[Sequence[float]]], marks: Mapping[str, int]) -> Picture:
    """The share of a recipe's runs that score no more than a threshold, over all data sets: higher is better."""
    everyone = [v for sets in strata.values() for values in sets for v in values]
    low, high = min(0.0, *everyone), min(max(everyone), 2.0)
    thresholds = np.linspace(low, high, 201)

    def paint(d: _Drawing) -> None:
        ax = d.figure.subplots()
        for i, (name, sets) in enumerate(strata.items()):
            tone = colour(marks[name])
            shares = profile(sets, thresholds.tolist())
            ax.step(thresholds, shares, where="post", color=tone, lw=1.3, ls=STYLES[i % 4],
                    gid=d.name(f"{name}: half of the runs score at most {_half(thresholds, shares)}", marks[name]))  # fmt: skip
            d.legend.append(_handle(name, marks[name]))
        ax.set_ylim(0, 1.02)
        ax.set_xlabel("normalised score: 0 real training data, 1 Gaussian fit")
        ax.set_ylabel("share of runs at or below ↑")

    alt = f"Performance profiles of {words.listing(list(strata))}: the share of runs at or below each normalised score."
    caption = "A curve above another is better at every threshold; data sets weigh alike."
    return _draw(f"{slug}-profile", "Performance profiles", caption, alt, (5.9, 3.6), paint)


def _half(thresholds: np.ndarray, shares: Sequence[float]) -> str:
    reached = [t for t, share in zip(thresholds, shares) if share >= 0.5]
    return words.number(float(reached[0])) if reached else "more than is drawn"


# ------------------------------------------------------------------------------------------------- training curves

_NOT_TERMS = re.compile(r"^(step|steps|images|seconds|time|skipped|lr(\..*)?)$")
_POINTS = 120


def read_log(path: Path) -> pd.DataFrame:
    """A run's log.jsonl as numbers; lines that are cut short are left out, a missing log is empty.

    Of a long log a row is the mean of lines that follow each other, as many in each row, so that no more than some
    thousand rows are ever held, whatever the length of the file.
    """
    if not path.is_file():  # a pipe would be waited for
        return pd.DataFrame()
    rows: list[dict[str, _Mean]] = []
    several, last = 1, 0  # lines in a row, and in the last one
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if not isinstance(entry, dict):
                    continue
                if last == several and len(rows) == 2 * _ROWS:
                    rows, several = [_joined(*pair) for pair in zip(rows[::2], rows[1::2])], 2 * several
                    last = several
                if last == several or not rows:
                    rows.append({})
                    last = 0
                rows[-1] = _joined(rows[-1], {k: _Mean.of(v) for k, v in entry.items() if type(v) in (int, float)})
                last += 1
    except OSError:
        return pd.DataFrame()
    return pd.DataFrame([{k: mean.value for k, mean in row.items()} for row in rows], dtype=float)


_ROWS = 2_000  # of a log, at least, where it is longer


class _Mean(NamedTuple):
    """Of the finite numbers of a column."""

    total: float = 0.0
    lines: int = 0

    @classmethod
    def of(cls, number: float) -> _Mean:
        try:
            return cls(float(number), 1) if math.isfinite(number) else cls()
        except OverflowError:  # an integer beyond all floats
            return cls()

    @property
    def value(self) -> float:
        return self.total / self.lines if self.lines else math.nan


def _joined(a: dict[str, _Mean], b: dict[str, _Mean]) -> dict[str, _Mean]:
    both = {k: _Mean(a[k].total + b[k].total, a[k].lines + b[k].lines) for k in a.keys() & b.keys()}
    return {**a, **b, **both}


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most _POINTS points, each the mean of its bin."""
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    if len(x) <= _POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), _POINTS)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def training(section: Section) -> list[Picture]:
    """A card of small multiples per recipe: each logged term and gradient norm, seeds overlaid."""
    pictures = []
    failed = {f.run for _, f in section.failures}
    for entry in section.entries:
        logs = []
        for record in entry.records:
            folder = record.get("folder")
            log = read_log(Path(folder) / "log.jsonl") if folder else pd.DataFrame()
            if len(log) > 1 and ("images" in log or "step" in log):
                logs.append((str(record.get("seed", "?")), run_id(record) in failed, log))
        terms = sorted({c for *_, log in logs for c in log.columns if not _NOT_TERMS.match(str(c))}, key=_term_order)[
            :8
        ]
        if not terms:
            continue

        def paint(
            d: _Drawing,
            entry: Entry = entry,
            logs: list[tuple[str, bool, pd.DataFrame]] = logs,
            terms: list[str] = terms,
        ) -> None:
            _paint_training(d, entry, logs, terms)

        seeds = words.listing([seed for seed, *_ in logs])
        rows = math.ceil(len(terms) / 2)
        named = ", ".join(words.plain(t) for t in terms)
        alt = f"Training curves of {entry.name} on {section.title}: {named}; seeds {seeds}."
        caption = f"seed{'s' if len(logs) > 1 else ''} {seeds}"
        slug = f"{section.slug}-training-{words.slug(entry.name)}"
        pictures.append(_draw(slug, entry.name, caption, alt, (4.9, 0.35 + 1.35 * rows), paint))
    return pictures


def _term_order(name: str) -> tuple[bool, bool, str]:
    return (name.startswith("grad_norm"), not name.startswith("loss"), name)


def _paint_training(
    d: _Drawing, entry: Entry, logs: list[tuple[str, bool, pd.DataFrame]], terms: Sequence[str]
) -> None:
    rows = math.ceil(len(terms) / 2)
    grid = d.figure.subplots(rows, 2, squeeze=False, sharex=True).ravel()
    axes: list[Axes] = list(grid)
    x_name = "images" if all("images" in log for *_, log in logs) else "step"
    for ax, term in zip(axes, terms):
        shown: list[np.ndarray] = []
        for i, (seed, stopped, log) in enumerate(logs):
            if term not in log:
                continue
            x, y = _thin(log[x_name].to_numpy(), log[term].to_numpy())
            if not len(x):
                continue
            shown.append(y)
            ax.plot(x, y, color=colour(entry.mark), lw=1.1, ls=STYLES[i % 4], alpha=0.85,
                    gid=d.name(f"{entry.name}, seed {seed}: {words.plain(term)}", entry.mark))  # fmt: skip
            if stopped:
                ax.plot(x[-1:], y[-1:], marker="x", ms=7, mew=2, color="#D55E00", ls="", zorder=4)
        values = np.concatenate(shown) if shown else np.zeros(1)
        if (values > 0).all() and values.max() > 20 * values.min():
            ax.set_yscale("log")
            _log(ax.yaxis, None, float(values.min()), float(values.max()))
        else:
            ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.set_title(words.shortened(words.plain(term).replace("_", " "), 26), fontsize=8.5)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    for ax in axes[len(terms) :]:
        ax.set_axis_off()
    d.figure.supxlabel(x_name if x_name != "images" else "training images seen", fontsize=8)
