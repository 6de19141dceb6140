"""The one table that answers the question: quality, likelihood, training cost, sampling cost; also as a DataFrame."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from reports import words
from reports.entries import Entry
from reports.metrics import UNITS
from reports.rows import seed_means
from reports.scores import Measure
from reports.sections import Section
from reports.stats import Summary
from reports.tables.cells import Cell, Column, Table, as_si, cell, count_text, of_runs, rate_text, seconds_text
from reports.tables.cost import cost_cell, facts, images_total
from reports.tables.likelihood import likelihood_cell
from reports.tables.lines import footnotes, lines_of, seeds_cell, without_seed_marks
from reports.tables.notes import (
    GROUP,
    agreement_notes,
    budget_notes,
    code_notes,
    contention_notes,
    interval_notes,
    interval_words,
    remark_notes,
    scale_notes,
    symptom_notes,
)
from reports.tables.quality import quality_column

Made = tuple[Column, Callable[[Entry], Cell]]  # a column, and what makes the cell of an entry


def headline(section: Section) -> Table:
    """One table that answers the question: quality, likelihood, training cost, sampling cost."""
    columns = [*_groups(section), *_quality(section), _likelihood(section), *_training(section), *_sampling()]
    heads = tuple(c for c, _ in columns)
    lines, thin = without_seed_marks(heads, lines_of(section, columns, section.baselines, lambda e: e.plan_text))
    return Table(
        f"{section.slug}-headline",
        "Comparison",
        "Every recipe at the plan its card named before any score was seen. " + interval_words(section),
        heads,
        lines,
        footnotes(
            lines,
            *symptom_notes(section),
            *remark_notes(section),
            *thin,
            *scale_notes(section),
            *budget_notes(section),
            *contention_notes(section),
            *code_notes(section),
            *agreement_notes(section),
            *interval_notes(section),
        ),
    )


def _groups(section: Section) -> list[Made]:
    """The letters of the recipes that are not told apart; no column for a single seed."""
    if section.seeds <= 1:
        return []
    compared = section.compare(section.lead)

    def group(entry: Entry) -> Cell:
        if entry.baseline:
            return Cell("")
        if entry.name in compared.family.letters:
            return Cell(compared.family.letters[entry.name], note=_better(compared.family.worse(entry.name)))
        why = compared.uncompared.get(entry.name, "not compared: no value")
        return Cell("–", missing=True, note="" if entry.over_budget else f"{entry.name}: {why}")

    return [(Column("Group", note=GROUP, numeric=False, key="group"), group)]


def _quality(section: Section) -> list[Made]:
    """The distance that leads, the same in a second feature space, and counts of modes where there are any."""
    metric, _, features = section.lead
    columns = [quality_column(section, metric, "test", features, section.lead_title)]
    if metric == "fd" and section.second:
        columns.append(quality_column(section, "fd", "test", section.second, section.title_of("fd", section.second)))
    for counted in ("modes", "mode_kl"):
        found = section.rows[section.rows["metric"] == counted]
        if len(found):
            columns.append(quality_column(section, counted, "test", found["features"].iloc[0]))
    return columns


def _likelihood(section: Section) -> Made:
    return (
        Column(
            f"NLL, {UNITS[section.likelihood]}",
            "↓",
            "held-out negative log-likelihood; = exact, ≤ bound, ≈ estimate; comparable only within a kind",
            key=section.likelihood,
        ),
        likelihood_cell(section),
    )


def _training(section: Section) -> list[Made]:
    """What training cost: parameters, FLOPs, images where they were the budget, seconds."""
    flops = Column(
        "Training", note="FLOPs with what its parents cost; × marks multiples of the suite's budget", key="flops_total"
    )
    images = (
        Column("Images", note="training images with those of its parents", key="images_total"),
        of_runs(lambda e: cost_cell(e, "images", images_total(e), as_si(""))),
    )
    return [
        (
            Column("Params", note="parameters trained, all networks together", key="params_trained"),
            facts("params_trained", as_si("")),
        ),
        (flops, of_runs(lambda e: cost_cell(e, "flops", e.fact("cost_total") or e.fact("flops"), as_si("FLOP")))),
        *([images] if any(e.match == "images" for e in section.finished) else []),
        (
            Column("Time", note="training seconds with what its parents took, by the wall clock", key="seconds_total"),
            of_runs(lambda e: cost_cell(e, "seconds", e.fact("seconds_total"), seconds_text)),
        ),
    ]


def _sampling() -> list[Made]:
    """What sampling costs, and on how many seeds all this stands."""
    return [
        (Column("Calls", note="network calls per sample, counted", key="calls"), calls_cell),
        (Column("Latency", "↓", "median time for one sample, batch 1", key="latency"), timed("latency", seconds_text)),
        (
            Column("Throughput", "↑", "samples per second at the best batch", key="throughput"),
            timed("throughput", rate_text),
        ),
        (Column("Seeds", note="training seeds that finished", key="seeds"), seeds_cell),
    ]


def _better(names: Sequence[str]) -> str:
    return f"better than {words.some(names)}" if names else "better than none"


def timed(metric: str, show: Callable[[Summary], tuple[str, str]]) -> Callable[[Entry], Cell]:
    def make(entry: Entry) -> Cell:
        score = entry.scores[Measure(metric)]
        return cell(entry, score.values, show, metric=metric, default="not timed", source=score.source())

    return of_runs(make)


def calls_cell(entry: Entry) -> Cell:
    if entry.baseline or entry.external:
        return Cell("")
    rows = entry.main[entry.main["headline"] & (entry.main["sampler"] != "")]
    return cell(entry, seed_means(rows, "calls"), count_text, default="not counted")


def comparison(found: Sequence[Section], tables: Sequence[Table]) -> pd.DataFrame:
    """The headline tables of sections as one frame: what is printed as strings, then the same as numbers."""
    records = []
    shown: dict[str, None] = dict.fromkeys(["dataset", "tier", "recipe", "plan"])
    numbers: dict[str, None] = {}
    for section, table in zip(found, tables, strict=True):
        for line in table.lines:
            record: dict[str, object] = {
                "dataset": section.title,
                "tier": words.plain(section.tier),
                "recipe": line.name,
                "plan": line.sub,
            }
            for column, made in zip(table.columns, line.cells):
                shown[column.heading] = None
                record[column.heading] = f"{made.plain}*" if made.bold else made.plain
                for suffix, value in (("", made.value), ("_half", made.half)):
                    if value is not None:
                        record[column.key + suffix] = value
                        numbers[column.key + suffix] = None
            record["kind_of_row"] = line.kind
            records.append(record)
    frame = pd.DataFrame(records, columns=[*shown, "kind_of_row", *numbers])
    strings = [*shown, "kind_of_row"]
    frame[strings] = frame[strings].fillna("")
    frame.attrs["display"] = list(shown)
    return frame
