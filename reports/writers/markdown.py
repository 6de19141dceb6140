"""The report in Markdown, with the figures as files next to it."""

from __future__ import annotations

from collections.abc import Sequence

from reports import words
from reports.across import Across
from reports.tables.cells import Cell, Table
from reports.writers.page import Page, title_of


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


def as_markdown(pages: Sequence[Page], together: Sequence[Across] = ()) -> str:
    title, lede = title_of(pages)
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
