"""What a table is made of: cells, columns, lines; and how a cell is made of the values of an entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reports import words
from reports.entries import Entry
from reports.metrics import SHOWN
from reports.sections import Compared
from reports.stats import Summary, summarise


@dataclass(frozen=True)
class Cell:
    """`text`, what follows it in lighter type, a second line; the numbers behind it; `note` on hover or as a footnote.

    seeds:  how many training seeds it rests on, where that is fewer than the row has.
    source: where the number comes from, shown on hover.
    """

    text: str
    extra: str = ""
    sub: str = ""
    value: float | None = None
    half: float | None = None
    note: str = ""
    bold: bool = False
    missing: bool = False
    seeds: int | None = None
    source: str = ""

    @property
    def hint(self) -> bool:
        """Whether a reader should see that there is a note: a gap, a mark, a multiple of the budget."""
        return bool(self.note) and (self.missing or self.extra == "†" or self.sub.endswith("budget"))

    @property
    def title(self) -> str:
        """What is shown on hover: the note, where no hint shows it, and where the number comes from."""
        return "\n".join(part for part in ("" if self.hint else self.note, self.source) if part)

    @property
    def plain(self) -> str:
        few = f"({words.plural(self.seeds, 'seed')})" if self.seeds is not None else ""
        return " ".join(part for part in (self.text, self.extra, self.sub, few) if part)


@dataclass(frozen=True)
class Column:
    title: str
    direction: str = ""
    note: str = ""
    numeric: bool = True
    key: str = ""  # names the numbers of this column in table.csv

    @property
    def heading(self) -> str:
        return f"{self.title} {self.direction}".strip()


@dataclass(frozen=True)
class Line:
    """A row of a table: `kind` is "recipe", "external", "baseline" or "failed".

    family: rows with the same one stand together; a `member` is set in under the first of them. source: the runs.
    """

    name: str
    kind: str
    mark: int
    cells: tuple[Cell, ...]
    sub: str = ""
    family: str = ""
    member: bool = False
    source: str = ""


@dataclass(frozen=True)
class Table:
    slug: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    first: str = "Recipe"

    @property
    def heads(self) -> frozenset[str]:
        """The families that have members below their first row."""
        return frozenset(line.family for line in self.lines if line.member)


def missing(entry: Entry, metric: str, default: str = "not measured") -> Cell:
    if entry.baseline or (entry.external and not entry.reason(metric)):
        return Cell("")
    if not len(entry.rows):
        return Cell("–", missing=True, note=f"{entry.name}: no finished run")
    reason = entry.reason(metric) or default
    if reason.startswith("not measured") and metric in SHOWN:  # in a note below the table that names no column
        reason = f"{SHOWN[metric].title} {reason}"
    return Cell("n/a", missing=True, note=f"{entry.name}: {reason}")


def cell(
    entry: Entry,
    values: Sequence[float],
    show: Callable[[Summary], tuple[str, str]] = words.with_interval,
    *,
    metric: str = "",
    prefix: str = "",
    compared: Compared | None = None,
    default: str = "not measured",
    source: str = "",
) -> Cell:
    """Mean and interval over seeds; says when it rests on fewer seeds than the row has. `source`: where from."""
    summary = summarise(values)
    if summary is None:
        return missing(entry, metric, compared.uncompared.get(entry.name, default) if compared is not None else default)
    text, extra = show(summary)
    fewer = summary.n if summary.n < len(entry.seeds) else None
    note = ""
    if compared is not None and (entry.external or len(entry.seeds) > 1):
        note = compared.uncompared.get(entry.name, "")
    bold = compared is not None and compared.best(entry.name)
    return Cell(
        f"{prefix} {text}".strip(),
        extra,
        value=summary.mean,
        half=summary.half,
        note=note,
        bold=bold,
        seeds=fewer,
        source=source,
    )


def as_si(unit: str) -> Callable[[Summary], tuple[str, str]]:
    def show(summary: Summary) -> tuple[str, str]:
        return words.si(summary.mean, unit), ""

    return show


def _scaled(summary: Summary, scale: float, unit: str) -> tuple[str, str]:
    """Mean, interval and unit, to three digits."""
    if not summary.half:
        return f"{words.number(summary.mean / scale)} {unit}", ""
    text, extra = words.with_interval(summary, scale=scale)
    return text, f"{extra} {unit}"


def seconds_text(summary: Summary) -> tuple[str, str]:
    return _scaled(summary, *words.seconds_scale(summary.mean))


def rate_text(summary: Summary) -> tuple[str, str]:
    factor, prefix = words.si_scale(summary.mean)
    return _scaled(summary, factor, f"{prefix}/s")


def count_text(summary: Summary) -> tuple[str, str]:
    return (words.number(summary.mean, 4) if summary.mean % 1 else f"{summary.mean:,.0f}"), ""


def bytes_text(summary: Summary) -> tuple[str, str]:
    return f"{words.number(summary.mean / 2**20)}", "MiB"


def number_cell(values: Sequence[float], digits: int) -> Cell:
    summary = summarise(values)
    if summary is None:
        return Cell("")
    mean = 0.0 if abs(summary.mean) < 1e-12 else summary.mean  # what rounding left of a zero
    text = f"{mean:,.0f}" if mean % 1 == 0 else words.number(mean, digits)
    return Cell(text, value=summary.mean)


def shown_cell(entry: Entry, values: Sequence[float], show: Callable[[Summary], tuple[str, str]]) -> Cell:
    return cell(entry, values, show) if values else Cell("")


def of_runs(make: Callable[[Entry], Cell]) -> Callable[[Entry], Cell]:
    """Blank for what no run of the suite made."""
    return lambda entry: Cell("") if entry.baseline or entry.external else make(entry)
