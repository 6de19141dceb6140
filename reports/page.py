"""Files out of sections: the page, its Markdown twin, LaTeX and CSV tables, figures. Escaped, offline, byte-stable.

The page is one file that asks the network for nothing: pictures are inline, and a content security policy allows its
own script by hash and nothing else.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from reports import FORMATS, figures, tables, verdict, words
from reports import files as whole
from reports.across import Across, across
from reports.figures import Picture
from reports.sections import Section, plan_text, run_id, sections
from reports.tables import Cell, Table
from reports.verdict import Text

GridSource = Path | str | bytes | Mapping[str, Path | str | bytes] | None

HERE = Path(__file__).parent
IMAGE_BYTES = 2_400_000  # of all sample grids together; with base64 and figures the page stays below 5 MB
FORMATS_SHOWN = ("PNG", "WEBP", "JPEG", "GIF")  # what a browser shows; other readers of Pillow start programs
MORE_GRIDS = 40  # grids of further seeds on one page


# ----------------------------------------------------------------------------------------------------------- grids


@dataclass
class Tile:
    """A sample grid on the page, or the words that stand in its place."""

    name: str
    caption: str
    alt: str
    mark: int = -1
    real: bool = False
    image: bytes = b""
    data: str = ""
    width: int = 0
    height: int = 0

    @property
    def small(self) -> bool:
        """Few pixels are shown as pixels, photographs smoothly."""
        return self.width <= 800


def _picture(source: Path | str | bytes | None) -> bytes:
    """The bytes of a readable image, else nothing."""
    if source is None:
        return b""
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        with Image.open(io.BytesIO(data), formats=FORMATS_SHOWN) as image:
            image.verify()
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        return b""
    return data


def _tiles(section: Section, real: GridSource) -> tuple[list[Tile], list[Tile]]:
    """The first finished seed of every recipe beside real data, and the other seeds."""
    first: list[Tile] = []
    more: list[Tile] = []
    if isinstance(real, Mapping):
        real = real.get(section.dataset)
    image = _picture(real)
    if image:
        alt = f"Real held-out examples of {section.title}"
        first.append(Tile("real data", "held out", alt, real=True, image=image))
    for entry in section.entries:
        failed = {f.run: f for f in entry.failures}
        shown = False
        for record in entry.records:
            folder, run = record.get("folder"), run_id(record)
            source = record.get("grid", Path(folder) / "grid.png" if folder else None)
            image = _picture(source) if run not in failed else b""
            if not image:
                continue
            plan, seed = plan_text(entry.plan) or "default plan", words.plain(record.get("seed", "?"))
            caption = f"{plan}, seed {seed}, uncurated"
            alt = f"Samples of {entry.name} on {section.title}: {caption}"
            (more if shown else first).append(Tile(entry.name, caption, alt, entry.mark, image=image))
            shown = True
        if not shown and (entry.records or entry.failures):
            why = (
                "; ".join(f"seed {f.seed_text} {f.status}: {f.reason}" for f in entry.failures)
                or "no grid in the run folder"
            )
            first.append(Tile(entry.name, "", f"No samples: {why}", entry.mark))
    return (first, more[:MORE_GRIDS]) if any(t.image for t in first) else ([], [])


def _embed(tiles: Sequence[Tile]) -> None:
    """Make the images part of the page; where they are too heavy together, as lossy WebP and smaller."""
    with_image = [t for t in tiles if t.image]
    scale, quality = 1.0, 0
    encoded = [t.image for t in with_image]
    while sum(map(len, encoded)) > IMAGE_BYTES and scale > 0.05:
        if quality:
            scale *= 0.75
        quality = 80
        encoded = [_smaller(t.image, scale, quality) for t in with_image]
    for tile, data in zip(with_image, encoded):
        with Image.open(io.BytesIO(data), formats=FORMATS_SHOWN) as image:
            tile.width, tile.height = image.size
            kind = (image.format or "PNG").lower()
        tile.data = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        if quality:
            tile.caption += " (compressed for this page; grid.png in the run's folder is exact)"


def _smaller(data: bytes, scale: float, quality: int) -> bytes:
    with Image.open(io.BytesIO(data), formats=FORMATS_SHOWN) as opened:
        image = opened.convert("RGB")
    if scale < 1:
        image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    out = io.BytesIO()
    image.save(out, format="WEBP", quality=quality, method=4)
    return out.getvalue()


# ------------------------------------------------------------------------------------------------------------ page


@dataclass
class Page:
    """All that a section shows."""

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
    dots: list[Picture] = field(default_factory=list)
    pareto: list[Picture] = field(default_factory=list)
    guidance: list[Picture] = field(default_factory=list)
    training: list[Picture] = field(default_factory=list)
    grids: list[Tile] = field(default_factory=list)
    more_grids: list[Tile] = field(default_factory=list)

    @property
    def pictures(self) -> list[Picture]:
        return [*self.dots, *self.pareto, *self.guidance, *self.training]


def _page(section: Section, many_tiers: bool, with_figures: bool, real: GridSource) -> Page:
    heading = section.title + (f" ({words.plain(section.tier)})" if many_tiers and section.tier else "")
    lower = []
    if section.finished or section.baselines:
        order = tables.order(section)
        lower = [order] if order else []
        lower += [*tables.quality(section), tables.likelihood(section), tables.parts(section)]
    plans = None
    if section.finished:
        speed, plans = tables.speed(section)
        swept = tables.sweep(section)
        lower += [t for t in (swept, tables.guidance(section), tables.cost(section), speed) if t]
    page = Page(
        section,
        heading,
        verdict.verdict(section),
        tables.headline(section),
        [t for t in lower if t.lines and t.columns],
        plans if plans and plans.lines else None,
        tables.pairs(section),
        tables.failed(section),
        tables.sources(section),
        verdict.limitations(section),
        verdict.provenance(section),
        verdict.commands(section),
    )
    if with_figures:
        dots = (figures.quality_dots(section), figures.likelihood_dots(section), figures.budget_curve(section))
        page.dots = [p for p in dots if p] + figures.parts(section)
        page.pareto = figures.pareto(section)
        page.guidance = figures.guidance(section)
        page.training = figures.training(section)
        page.grids, page.more_grids = _tiles(section, real)
    return page


def _title(pages: Sequence[Page]) -> tuple[str, str]:
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


def _harmless(value: object) -> object:
    """Text without control and bidirectional characters, which no escaping makes safe; markup is already clean."""
    return words.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _html(pages: Sequence[Page], together: Sequence[Across], csv_text: str) -> str:
    _embed([t for p in pages for t in (*p.grids, *p.more_grids)])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (HERE / "report.js").read_text(encoding="utf-8")
    title, lede = _title(pages)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        title=title,
        lede=lede,
        pages=pages,
        together=together,
        glyph=figures.glyph,
        style=(HERE / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
        table_csv="data:text/csv;charset=utf-8;base64," + base64.b64encode(csv_text.encode()).decode(),
    )


# -------------------------------------------------------------------------------------------------------- markdown


def _md_cell(cell: Cell) -> str:
    text = words.markdown(cell.plain)
    return f"**{text}**" if cell.bold and text else text


def _md_table(table: Table) -> str:
    heads = [table.first, *(c.heading for c in table.columns)]
    rule = ["---", *("---:" if c.numeric else "---" for c in table.columns)]
    lines = [" | ".join(words.markdown(h) for h in heads), " | ".join(rule)]
    for line in table.lines:
        name = words.markdown(line.name) + (f" ({words.markdown(line.sub)})" if line.sub else "")
        name = f"*{name}*" if line.kind in ("baseline", "external") else f"– {name}" if line.member else name
        lines.append(" | ".join([name, *(_md_cell(c) for c in line.cells)]))
    return "\n".join(f"| {line} |" for line in lines)


def _md_block(table: Table) -> list[str]:
    notes = [f"- {words.markdown(note)}" for note in table.notes]
    return [f"### {words.markdown(table.title)}", words.markdown(table.caption), _md_table(table), "\n".join(notes)]


def _markdown(pages: Sequence[Page], together: Sequence[Across] = ()) -> str:
    title, lede = _title(pages)
    blocks = [f"# {words.markdown(title)}", words.markdown(lede)]
    if not pages:
        blocks.append("There are no results yet. Run `bench all`, then `bench report`.")
    for page in pages:
        blocks.append(f"## {words.markdown(page.heading)}")
        blocks.append("".join(_md_span(text, strong) for text, strong in page.verdict).strip())
        for table in (page.headline, *page.tables, page.plans, page.pairs, page.failed, page.sources):
            if table is not None and table.lines:
                blocks += _md_block(table)
        shown = page.pictures
        if shown:
            blocks.append("### Figures")
            blocks += [f"![{words.markdown(p.alt)}](figures/{p.slug}.svg)" for p in shown]
        blocks.append("### Limitations")
        blocks.append("\n".join(f"- {words.markdown(text)}" for text in page.limitations))
        blocks.append("### What was run, on which machine")
        blocks.append("\n".join(f"- {words.markdown(name)}: {words.markdown(fact)}" for name, fact in page.provenance))
        blocks.append("### Reproduce")
        blocks.append("\n".join(f"- {words.markdown(name)}: {_code(command)}" for name, command in page.commands))
    for found in together:
        blocks.append(f"## {words.markdown(found.heading)}")
        blocks += _md_block(found.table)[1:] if found.table else [words.markdown(found.reason)]
        blocks += [f"![{words.markdown(p.alt)}](figures/{p.slug}.svg)" for p in [found.picture] if p]
    return "\n\n".join(b for b in blocks if b) + "\n"


def _md_span(text: str, strong: bool) -> str:
    """Escaped, with the spaces at its ends kept outside the emphasis."""
    inside = words.markdown(text)
    if strong:
        return f"**{inside}**"
    return (" " if text[:1] == " " else "") + inside + (" " if len(text) > 1 and text[-1:] == " " else "")


def _code(text: str) -> str:
    """A code span that no back-tick inside can end."""
    text = words.plain(text)
    longest = max((len(run) for run in text.replace("`", " ` ").split() if set(run) == {"`"}), default=0)
    fence = "`" * (text.count("`") + 1 if longest else 1)
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


# ----------------------------------------------------------------------------------------------------------- latex


def _tex_cell(cell: Cell) -> str:
    text = words.tex(cell.plain)
    return rf"\textbf{{{text}}}" if cell.bold and text else text


def _tex_table(table: Table, section: Section) -> str:
    columns = "l" + "".join("r" if c.numeric else "l" for c in table.columns)
    heads = " & ".join(words.tex(h) for h in (table.first, *(c.heading for c in table.columns)))
    body: list[str] = []
    last = ""
    for line in table.lines:
        if line.kind in ("baseline", "external") and last not in ("", line.kind):
            body.append(r"\midrule")
        last = line.kind
        name = words.tex(line.name)
        body.append(
            " & ".join([rf"\quad {name}" if line.member else name, *(_tex_cell(c) for c in line.cells)]) + r" \\"
        )
    caption = f"{table.title} on {section.title}. {table.caption} {' '.join(table.notes)}"
    return "\n".join(
        [
            r"\begin{table}[p]",
            r"\centering\small",
            rf"\caption{{{words.tex(caption)}}}",
            rf"\label{{tab:{table.slug}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            heads + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    )


def _latex(pages: Sequence[Page]) -> str:
    parts = ["% Needs \\usepackage[utf8]{inputenc}, \\usepackage[T1]{fontenc}, booktabs and graphicx."]
    for page in pages:
        kept = [t for t in (page.headline, *page.tables, page.plans) if t and t.lines]
        parts += [_tex_table(t, page.section) for t in kept]
    if len(parts) == 1:
        parts.append("% No results yet.")
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------------------------- csv


def _csv(frame: pd.DataFrame) -> str:
    """Numbers as they are; text that no spreadsheet takes for a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([words.csv_text(c) for c in frame.columns])
    for row in frame.itertuples(index=False):
        writer.writerow([_csv_value(value) for value in row])
    return out.getvalue()


def _csv_value(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    return words.csv_text(value) if isinstance(value, str) else value


# ----------------------------------------------------------------------------------------------------------- files


def write(
    frame: pd.DataFrame,
    runs: Sequence[Mapping[str, Any]],
    real: GridSource,
    to: Path,
    formats: Sequence[str],
    families: Mapping[str, str] | None = None,
) -> dict[Path, dict[str, Any]]:
    """See `reports.render`."""
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"unknown report format '{name}'; known: {', '.join(FORMATS)}")
    found = sections(frame, runs, families)
    many_tiers = len({s.tier for s in found}) > 1
    pictured = any(f in formats for f in ("html", "md", "tex"))
    pages = [_page(s, many_tiers, pictured, real) for s in found]
    together = across(found, pictured)
    short = _csv(tables.comparison(found))
    files: list[tuple[str, bytes]] = []
    if "html" in formats:
        files.append(("report.html", _html(pages, together, short).encode()))
    if "md" in formats:
        files.append(("report.md", _markdown(pages, together).encode()))
    if "tex" in formats:
        files.append(("table.tex", _latex(pages).encode()))
    if "csv" in formats:
        files += [("report.csv", _csv(frame).encode()), ("table.csv", short.encode())]
    drawn = [p for page in pages for p in page.pictures] + [a.picture for a in together if a.picture]
    for picture in drawn:
        files += [(f"figures/{picture.slug}.svg", picture.svg), (f"figures/{picture.slug}.pdf", picture.pdf)]
    written = {}
    for name, data in files:
        whole.write(Path(to) / name, data)
        written[Path(to) / name] = whole.fingerprint(data)
    return written
