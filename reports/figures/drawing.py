"""The pictures: matplotlib figures as SVG for the page, and as SVG and PDF files for papers.

Colours are Okabe and Ito's, told apart by colour-blind readers, with Paul Tol's wine in place of their yellow, which does
not show on white; and every recipe also has a marker shape, the same on the whole page. Bytes are stable: fixed hash
salt, no dates, matplotlib's own defaults whatever the user's settings. In the page the ink follows the theme (light,
dark, print) through CSS variables; every point has a title to hover over.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from reports import words
from reports.stats import Summary

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


@dataclass
class Drawing:
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
def settings() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        cast(dict[str, Any], matplotlib.rcParams).update(_RC)
        yield


LEGEND_LINE = 0.18  # inches


def draw(
    slug: str, title: str, caption: str, alt: str, size: tuple[float, float], paint: Callable[[Drawing], None]
) -> Picture:
    """Paint once, save three times: bare for the page, with a legend for the files."""
    with settings():
        drawing = Drawing(Figure(figsize=size, layout="constrained"))
        paint(drawing)
        bare = save(drawing.figure, "svg")
        inline = _inline(bare, slug, alt, drawing.titles)
        if drawing.legend:
            columns = math.ceil(len(drawing.legend) / (size[1] / LEGEND_LINE))
            drawing.figure.legend(handles=drawing.legend, loc="outside right upper", handlelength=1.6, ncols=columns)
            drawing.figure.set_figwidth(size[0] + 1.9 * columns)
        svg = save(drawing.figure, "svg") if drawing.legend else bare
        drawing.figure.set_layout_engine("none")  # the layout stands
        pdf = save(drawing.figure, "pdf")
    return Picture(slug, title, caption, alt, inline, svg, pdf)


def save(figure: Figure, kind: str) -> bytes:
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


def _plain_ticks(value: float, _: Any = None) -> str:
    return words.minus(f"{value:g}")


def log_axis(axis: Any, formatter: Any = None, low: float = 1.0, high: float = 1.0, sparse: bool = False) -> None:
    """A logarithmic axis whose ticks read 1, 2, 5, 10 ... over short ranges and powers of ten over long ones."""
    decades = math.log10(high / low) if high > low > 0 else 0
    subs = (1, 2, 5) if decades < (0.9 if sparse else 2.2) else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(formatter or FuncFormatter(_plain_ticks))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def is_wide(values: Sequence[float], ratio: float = 8) -> bool:
    """Whether positive values span so much that a linear axis would hide the good ones."""
    positive = [v for v in values if v > 0]
    return len(positive) == len(values) and bool(values) and max(positive) > ratio * min(positive)


def handle(name: str, mark: int) -> Line2D:
    return Line2D(
        [], [], label=words.shortened(name), color=colour(mark), marker=marker(mark), markersize=6, linewidth=1.2
    )


def score_text(summary: Summary) -> str:
    text, extra = words.with_interval(summary)
    return f"{text} {extra}".strip() + (" (1 seed)" if summary.n == 1 else "")
