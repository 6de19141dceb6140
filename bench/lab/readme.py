"""Keeps the generated parts of README.md and docs/ true: `python -m bench.lab.readme [RUNS/report/report.md]`.

`PARTS` names each generated part, the page that it stands on and what makes it: the table of recipes comes from the
catalogue, that of columns from `bench.store.Row`, that of metrics from `reports.metrics`, that of feature spaces from
the shipped weights, those of statistics from `reports/coverage.json`. The results in README.md come from the report of a
suite, where one is given. The pages in docs/paradigms are the docstrings of the paradigms' files. What `bench list` says of
the recipes (`bench/recipes.json`) is made with them.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from bench.metrics import table
from bench.recipes import KEPT, describe, kept
from bench.store import columns, write_atomic
from paradigms import plugins
from reports import coverage, metrics

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
COLUMN = " " * 12  # where the text of "Model.", "Objective." ... stands in a paradigm's docstring


def column_table() -> str:
    """The columns of a row as a Markdown table."""
    return _table(("column", "type", "meaning"), [(f"`{name}`", kind, meaning) for name, kind, meaning in columns()])


def coverage_table() -> str:
    """How often 95 % intervals were measured to hold the truth, as a Markdown table."""
    heads, *rows = coverage.table()
    return f"{_table(heads, rows)}\n\n{coverage.alarms()}"


def comparison_table() -> str:
    """How often the comparison of all pairs cries wolf and what it sees, as two Markdown tables."""
    (heads, *rows), (others, *power) = coverage.alarm_table(), coverage.power_table()
    return f"{_table(heads, rows)}\n\n{_table(others, power)}"


def metric_table() -> str:
    """Every metric as a Markdown table: what is best, what it is, where from, what it costs."""
    rows = []
    for metric in sorted((found.definition for found in table.DOOR.ours()), key=lambda metric: metric.place):
        number = metric.source.removeprefix("arXiv:")
        source = metric.source if number == metric.source else f"[{number}](https://arxiv.org/abs/{number})"
        rows.append((f"`{metric.name}`", metric.best, metric.meaning, source, metric.cost))
    return _table(("metric", "best", "what", "source", "CPU-s"), rows)


def recipe_table() -> str:
    """Every recipe as a Markdown table; variants follow the row that they vary."""
    rows = []
    for found in describe():
        names = ", ".join(f"`{name}`" for name in (found.recipe, *found.aliases))
        paper = f"[{found.paper}]({found.url})" if found.url else ""
        rows.append(("– " * bool(found.row) + names, found.title, paper, str(found.year or ""), found.accepts))
    return _table(("recipe", "what", "paper", "year", "data"), rows)


def space_table() -> str:
    """The feature spaces that every installation has as a Markdown table."""
    from bench.features import hashes, random_conv, shipped

    spaces = [shipped(name) for name in sorted(hashes())]
    rows = [
        (f"`{s.id}`", str(s.dim), f"classifier of its training split, {s.accuracy:.2%} on the test split")
        for s in spaces
    ]
    shapes = sorted({s.shape for s in spaces})
    ids = ", ".join(f"`{random_conv(shape).id}` ({'×'.join(map(str, shape))})" for shape in shapes)
    rows.append(
        (ids, str(random_conv(shapes[0]).dim), "label-free: random convolutions of a fixed seed, for any image")
    )
    return _table(("space", "features", "what"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [[text.replace("|", r"\|") for text in row] for row in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def replace_part(text: str, part: str, content: str) -> str:
    """The text with what stands between <!-- part --> and <!-- /part --> replaced. Raises ValueError without them."""
    found = re.compile(rf"(<!-- {part} -->\n).*?(<!-- /{part} -->)", re.DOTALL)
    if not found.search(text):
        raise ValueError(f"the text has no part '{part}'; put <!-- {part} --> and <!-- /{part} --> around its place")
    return found.sub(lambda m: f"{m[1]}{content.strip()}\n{m[2]}", text)


def headline(report: str) -> str:
    """The first table of a report in Markdown."""
    table = re.search(r"(?:^\|.*\n)+", report, re.MULTILINE)
    if table is None:
        raise ValueError("the report has no table")
    return table[0]


# part: (the page that it stands on, what makes it).
PARTS: Mapping[str, tuple[Path, Callable[[], str]]] = {
    "columns": (DOCS / "rows.md", column_table),
    "comparison": (DOCS / "statistics.md", comparison_table),
    "coverage": (DOCS / "statistics.md", coverage_table),
    "metrics": (DOCS / "metrics.md", metric_table),
    "recipes": (DOCS / "recipes.md", recipe_table),
    "spaces": (DOCS / "features.md", space_table),
}


# ------------------------------------------------------------------------------------------ docstrings as pages


def lectures() -> dict[str, tuple[str, str]]:
    """Name of the file: its first line and its page, for each file in paradigms/ that explains a model. Imports none."""
    pages = {}
    for path in sorted((ROOT / "paradigms").glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        if "\nModel." in text:
            pages[path.stem] = text.partition("\n")[0], lecture_page(text, path.name)
    return pages


def lecture_page(text: str, file: str) -> str:
    """A paradigm's docstring as Markdown: its parts become headings, its indented equations blocks of code."""
    title, _, rest = text.partition("\n")
    name, _, about = title.partition(": ")
    lines = [f"# {_escaped(name)}", "", _escaped(about[:1].upper() + about[1:]), ""]
    lines += [f"This page is the docstring of [paradigms/{file}](../../paradigms/{file}).", ""]
    for head, body in re.findall(r"^(\w[^\n.]*)\.?(.*?)(?=^\w|\Z)", rest, re.DOTALL | re.MULTILINE):
        lines += [f"## {head}", "", *_section(body), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _section(body: str) -> Iterator[str]:
    """The lines of one part: a list where each entry is indented, else paragraphs, with what is indented further as code."""
    first, *others = body.splitlines()
    if not first.strip():
        for line in textwrap.dedent("\n".join(others)).splitlines():
            yield _escaped(line if line[:1] in ("", " ", "-") else f"- {line}")
        return
    lines = [first.strip(), *(other.removeprefix(COLUMN) for other in others)]
    for indented, group in groupby(lines, lambda line: line.startswith(" ")):
        if indented:
            yield from ("", "```text", *textwrap.dedent("\n".join(group)).splitlines(), "```", "")
        else:
            yield from map(_escaped, group)


def _escaped(line: str) -> str:
    """A line in which Markdown sees no emphasis, links or HTML; code spans stay as they are."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([*<\[\]\\])", r"\\\1", part) for part in parts)


@plugins.ours_alone()
def generated() -> dict[Path, str]:
    """Every page with a generated part, and every page that is generated, as it should be."""
    pages: dict[Path, str] = {}
    for part, (page, make) in PARTS.items():
        pages[page] = replace_part(pages.get(page) or page.read_text("utf-8"), part, make())
    listed = []
    for name, (title, lecture) in lectures().items():
        pages[DOCS / "paradigms" / f"{name}.md"] = lecture
        listed.append(f"- [{name}]({name}.md): {_escaped(title)}")
    index = DOCS / "paradigms" / "README.md"
    pages[index] = replace_part(index.read_text("utf-8"), "paradigms", "\n".join(listed))
    return pages


if __name__ == "__main__":
    for page, text in generated().items():
        write_atomic(page, text.encode())
    if len(sys.argv) > 1:
        report = Path(sys.argv[1]).read_text("utf-8")
        write_atomic(README, replace_part(README.read_text("utf-8"), "results", headline(report)).encode())
    write_atomic(metrics.KEPT, metrics.kept([found.definition for found in table.DOOR.ours()]).encode())
    write_atomic(KEPT, kept().encode())
