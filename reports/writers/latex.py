"""The tables of a report for LaTeX, with booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from reports import words
from reports.sections import Section
from reports.tables.cells import Cell, Table
from reports.writers.page import Page


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


def as_latex(pages: Sequence[Page]) -> str:
    parts = ["% Needs \\usepackage[utf8]{inputenc}, \\usepackage[T1]{fontenc}, booktabs and graphicx."]
    for page in pages:
        kept = [t for t in (page.headline, *page.tables, page.plans) if t and t.lines]
        parts += [_tex_table(t, page.section) for t in kept]
    if len(parts) == 1:
        parts.append("% No results yet.")
    return "\n\n".join(parts) + "\n"
