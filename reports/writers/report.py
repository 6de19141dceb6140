"""A whole report: what is shown of each section, set in every format that was asked for, written and listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reports import FORMATS, files
from reports.across import Across, across
from reports.layout import FIGURES, PAGE
from reports.sections import sections
from reports.tables.headline import comparison, headline
from reports.writers.csv import as_csv
from reports.writers.grids import GridSource
from reports.writers.html import as_html
from reports.writers.latex import as_latex
from reports.writers.markdown import as_markdown
from reports.writers.page import Page, page_of


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
    tables = [headline(s) for s in found]
    pages, together = list[Page](), list[Across]()
    if set(formats) != {"csv"}:  # which shows neither pages nor figures
        pages = [page_of(s, table, many_tiers, real) for s, table in zip(found, tables)]
        together = across(found)
    short = as_csv(comparison(found, tables))
    written = {}
    for name, data in _contents(frame, short, pages, together, formats):
        files.write(Path(to) / name, data)
        written[Path(to) / name] = files.fingerprint(data)
    return written


def _contents(
    frame: pd.DataFrame,
    short: str,
    pages: Sequence[Page],
    together: Sequence[Across],
    formats: Sequence[str],
) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each file of a report, the page first, the figures last. short: the headline table as CSV."""
    if "html" in formats:
        yield PAGE, as_html(pages, together, short).encode()
    if "md" in formats:
        yield "report.md", as_markdown(pages, together).encode()
    if "tex" in formats:
        yield "table.tex", as_latex(pages).encode()
    if "csv" in formats:
        yield "report.csv", as_csv(frame).encode()
        yield "table.csv", short.encode()
    for picture in [p for page in pages for p in page.pictures] + [a.picture for a in together if a.picture]:
        yield f"{FIGURES}/{picture.slug}.svg", picture.svg
        yield f"{FIGURES}/{picture.slug}.pdf", picture.pdf
