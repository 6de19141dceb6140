"""Keeps the generated parts of README.md true: `python -m bench.readme [RUNS/report/report.md]`.

The table of recipes comes from the catalogue, that of columns from `bench.store.Row`, that of metrics from
`bench.metrics.METRICS`, that of feature spaces from the shipped weights, that of coverage from `reports/coverage.json`, the
results from the report of a suite. What `bench list` says of the recipes (`bench/recipes.json`) is made with them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.metrics.cards import METRICS
from bench.recipes import KEPT, describe, kept
from bench.store import columns, write_atomic
from reports import coverage


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
    for card in METRICS:
        number = card.source.removeprefix("arXiv:")
        source = card.source if number == card.source else f"[{number}](https://arxiv.org/abs/{number})"
        rows.append((f"`{card.metric}`", card.best, card.what, source, card.cost))
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
    """The text with what stands between <!-- part --> and <!-- /part --> replaced."""
    found = re.compile(rf"(<!-- {part} -->\n).*?(<!-- /{part} -->)", re.DOTALL)
    if not found.search(text):
        raise ValueError(f"README.md has no part '{part}'")
    return found.sub(lambda m: f"{m[1]}{content.strip()}\n{m[2]}", text)


def headline(report: str) -> str:
    """The first table of a report in Markdown."""
    table = re.search(r"(?:^\|.*\n)+", report, re.MULTILINE)
    if table is None:
        raise ValueError("the report has no table")
    return table[0]


if __name__ == "__main__":
    readme = Path(__file__).parents[1] / "README.md"
    text = replace_part(readme.read_text(), "columns", column_table())
    text = replace_part(text, "recipes", recipe_table())
    text = replace_part(text, "metrics", metric_table())
    text = replace_part(text, "coverage", coverage_table())
    text = replace_part(text, "comparison", comparison_table())
    text = replace_part(text, "spaces", space_table())
    if len(sys.argv) > 1:
        text = replace_part(text, "results", headline(Path(sys.argv[1]).read_text()))
    write_atomic(readme, text.encode())
    write_atomic(KEPT, kept().encode())
