"""The lines of a table: recipes with their families, what failed, external samples, baselines; and the footnotes of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from reports import words
from reports.entries import Entry
from reports.rows import FLOOR
from reports.sections import Section
from reports.tables.cells import Cell, Column, Line

BASELINES = {
    FLOOR: "real training data (floor)",
    "gaussian": "Gaussian fit",
    "uniform": "uniform noise",
    "pixel-histograms": "pixel histograms",
    "train-copies": "copies of training images",
}


def lines_of(
    section: Section,
    columns: Sequence[tuple[Column, Callable[[Entry], Cell]]],
    baselines: Iterable[Entry] = (),
    sub: Callable[[Entry], str] = lambda entry: "",
) -> tuple[Line, ...]:
    lines = []
    for entry in section.finished:
        lines.append(line_of(section, entry, "recipe", tuple(make(entry) for _, make in columns), sub(entry)))
    for entry in section.entries:
        if not len(entry.rows):
            lines.append(line_of(section, entry, "failed", tuple(make(entry) for _, make in columns), sub(entry)))
    for kind, some in (("external", section.externals), ("baseline", tuple(baselines))):
        for entry in some:
            cells = tuple(make(entry) for _, make in columns)
            if any(c.value is not None for c in cells):
                lines.append(line_of(section, entry, kind, cells, elsewhere(entry) if entry.external else ""))
    return tuple(lines)


def line_of(section: Section, entry: Entry, kind: str, cells: tuple[Cell, ...], sub: str = "") -> Line:
    name = BASELINES.get(entry.recipe, entry.name) if entry.baseline else entry.name
    first = next((e for e in section.finished if e.family == entry.family), entry)
    member = kind == "recipe" and first is not entry
    return Line(name, kind, entry.mark, cells, sub, entry.family, member, runs_words(entry))


def flat_line(section: Section, entry: Entry, kind: str, cells: tuple[Cell, ...]) -> Line:
    """A line of a table that is not grouped by families."""
    return replace(line_of(section, entry, kind, cells), family="", member=False)


def elsewhere(entry: Entry) -> str:
    """The line under the name of external samples."""
    resized = [words.plain(r) for r in dict.fromkeys(entry.rows["resize"]) if r]
    read = [words.plain(r) for r in dict.fromkeys(entry.rows["reading"]) if r]
    return "; ".join(["external samples", *(f"{r} first" for r in resized), *read])


def runs_words(entry: Entry) -> str:
    """The runs behind a row, the code that trained them and where they were measured."""
    runs = [words.plain(r) for r in dict.fromkeys(entry.rows["run"]) if r]
    places = [words.plain(d) for d in sorted(set(entry.main["device"])) if d]
    parts = [f"runs {', '.join(runs)}" if runs else "", f"code {', '.join(sorted(entry.codes))}" if entry.codes else ""]
    return "; ".join(p for p in (*parts, f"measured on {words.listing(places)}" if places else "") if p)


def seeds_cell(entry: Entry) -> Cell:
    if entry.baseline or entry.external:
        return Cell("")
    done, failed = len(entry.seeds), len(entry.failures)
    if not failed:
        return Cell(str(done), value=float(done))
    note = f"{entry.name}: " + "; ".join(
        f"seed {f.seed_text} {f.status}: {f.reason or 'no reason given'}" for f in entry.failures
    )
    if done:
        note += f"; means are over the {words.plural(done, 'surviving seed')}"
    return Cell(f"{done} of {done + failed}", "†", value=float(done), note=note)


def footnotes(lines: Iterable[Line], *more: str) -> tuple[str, ...]:
    """Footnotes: why cells are missing or marked, each reason once, with the rows it holds for."""
    found: dict[str, dict[str, None]] = {}
    lines = tuple(lines)
    for line in lines:
        for made in line.cells:
            noted = made.missing or made.extra == "†" or (line.kind == "external" and made.value is not None)
            if made.note and noted:
                reason = made.note.removeprefix(f"{line.name}: ")
                found.setdefault(reason, {})[line.name] = None
    everyone = {line.name for line in lines if line.kind == "recipe"}

    def who(names: Iterable[str]) -> str:
        rest = [n for n in names if n not in everyone]
        whole = len(everyone) > 3 and everyone <= set(names)
        return words.listing([f"All {len(everyone)} recipes", *rest] if whole else list(names))

    return (*more, *(f"{who(names)}: {reason}." for reason, names in found.items()))


def without_seed_marks(columns: Sequence[Column], lines: tuple[Line, ...]) -> tuple[tuple[Line, ...], list[str]]:
    """Where a whole column rests on one seed, one note says so instead of every cell."""
    every = [[line.cells[i] for line in lines if line.cells[i].value is not None] for i in range(len(columns))]
    whole = {i for i, cells in enumerate(every) if cells and all(c.seeds == 1 for c in cells)}
    if not whole:
        return lines, []
    thinned = tuple(
        replace(line, cells=tuple(replace(c, seeds=None) if i in whole else c for i, c in enumerate(line.cells)))
        for line in lines
    )
    return thinned, [f"Measured on one training seed: {words.listing([columns[i].title for i in sorted(whole)])}."]
