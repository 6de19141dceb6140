"""Reports: pure functions from rows of results, run folders and sample grids to tables, figures and one offline page.

`render` writes a report; `comparison` gives its headline table as a DataFrame. Nothing here imports torch, the trainer
or a paradigm: the rows and the run folders are the whole input, and the same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from pandas import DataFrame

    from reports.writers.grids import GridSource

__distribution__ = "paradigm-bench"
__all__ = ["FILES", "FORMATS", "comparison", "render", "sources"]

# The files of each format, beside the figures.
FILES = {"html": ("report.html",), "md": ("report.md",), "tex": ("table.tex",), "csv": ("report.csv", "table.csv")}
FORMATS = tuple(FILES)


def comparison(
    frame: DataFrame, runs: Sequence[Mapping[str, Any]] = (), families: Mapping[str, str] | None = None
) -> DataFrame:
    """The headline table: a row per recipe and baseline, best first, for every data set and tier in the rows.

    The columns named in `.attrs["display"]` are strings to print ("2.04 ± 0.21", a trailing * marks the best and their
    ties); the others are the same as numbers (`fd-digits-test`, its half-width `fd-digits-test_half` ...) and
    `kind_of_row`, "recipe", "baseline" or "failed". `runs` tells runs of one recipe with different settings apart;
    `families` the recipe that each one varies, or itself: they stand together, that one first.
    """
    from reports.sections import sections
    from reports.tables.headline import comparison as compare
    from reports.tables.headline import headline

    found = sections(frame, runs, families)
    return compare(found, [headline(section) for section in found])


def render(
    frame: DataFrame,
    runs: Sequence[Mapping[str, Any]],
    real_grid: GridSource,
    to: Path,
    formats: Sequence[str] = FORMATS,
    families: Mapping[str, str] | None = None,
) -> dict[Path, dict[str, Any]]:
    """Write the report into the folder `to`; {file: its sha256 and size as they were written}, the page first.

    frame:     one row per metric value, with the columns of the row schema; missing columns count as empty.
    runs:      what each run.json holds plus "folder", the run's folder with log.jsonl and grid.png; and where that
               picture was verified "grid", its bytes, or None where it must not be shown.
    real_grid: a PNG of real held-out examples, as a path or as bytes; or one for each data set by name; or None.
    families:  for each recipe the one that it varies, or itself; rows of a family stand together.
    formats:   any of "html", "md", "tex", "csv". Figures are written as SVG and PDF with html, md and tex.

    Raises ValueError for an unknown format and OSError when `to` can not be written.
    """
    from reports.writers.report import write

    return write(frame, runs, real_grid, to, formats, families)


def sources() -> list[Path]:
    """The files that decide what a report looks like, sorted: this package's code, its page and its measured tables."""
    from pathlib import Path

    here = Path(__file__).parent
    found = (path for path in here.rglob("*") if path.suffix in (".py", ".html", ".css", ".js", ".json"))
    return sorted(path for path in found if here / "results" not in path.parents)
