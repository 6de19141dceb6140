"""The page: one file that asks the network for nothing.

Pictures are inline, and a content security policy allows its own script by hash and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from reports import words
from reports.across import Across
from reports.figures.drawing import glyph
from reports.writers.grids import embed
from reports.writers.page import Page, title_of

HERE = Path(__file__).parent


def _harmless(value: object) -> object:
    """Text without control and bidirectional characters, which no escaping makes safe; markup is already clean."""
    return words.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def as_html(pages: Sequence[Page], together: Sequence[Across], csv_text: str) -> str:
    embed([t for p in pages for t in (*p.grids, *p.more_grids)])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (HERE / "report.js").read_text(encoding="utf-8")
    title, lede = title_of(pages)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        title=title,
        lede=lede,
        pages=pages,
        together=together,
        glyph=glyph,
        style=(HERE / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
        table_csv="data:text/csv;charset=utf-8;base64," + base64.b64encode(csv_text.encode()).decode(),
    )
