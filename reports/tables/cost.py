"""What training cost: parameters, images, FLOPs and seconds, with what the parents cost, as multiples of the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from reports import words
from reports.budgets import MATCHED, multiple_text
from reports.entries import Entry
from reports.sections import Section
from reports.stats import Summary, summarise
from reports.tables.cells import Cell, Column, Table, as_si, cell, missing, of_runs, seconds_text
from reports.tables.lines import footnotes, lines_of, seeds_cell
from reports.tables.notes import budget_notes, contention_notes


def cost(section: Section) -> Table:
    def rate(entry: Entry) -> Cell:
        flops, took = summarise(entry.fact("flops")), summarise(entry.fact("seconds"))
        if not flops or not took or took.mean <= 0:
            return missing(entry, "", "not recorded")
        return Cell(words.si(flops.mean / took.mean, "FLOP/s"), value=flops.mean / took.mean)

    def labels_cell(entry: Entry) -> Cell:
        return Cell("yes" if entry.rows["conditional"].any() else "no") if len(entry.rows) else Cell("–")

    columns = [
        (
            Column("Params trained", key="params_trained", note="all networks together; a critic counts"),
            facts("params_trained", as_si("")),
        ),
        (Column("Params to sample", key="params_sampling"), facts("params_sampling", as_si(""))),
        (Column("Training images", key="images", note="examples seen, repeats counted"), facts("images", as_si(""))),
        (
            Column("Images, total", key="images_total", note="with those that its parents saw"),
            lambda e: cost_cell(e, "images", images_total(e), as_si("")),
        ),
        (Column("FLOPs, own", key="flops"), facts("flops", as_si("FLOP"))),
        (
            Column("FLOPs, total", key="flops_total", note="with what its parents cost"),
            lambda e: cost_cell(e, "flops", e.fact("cost_total") or e.fact("flops"), as_si("FLOP")),
        ),
        (Column("Time, own", key="seconds"), facts("seconds", seconds_text)),
        (
            Column("Time, total", key="seconds_total", note="with what its parents took"),
            lambda e: cost_cell(e, "seconds", e.fact("seconds_total"), seconds_text),
        ),
        (Column("Speed", key="flops_per_second", note="training FLOPs per second"), rate),
        (
            Column("Labels", key="conditional", note="whether the model is told class labels", numeric=False),
            labels_cell,
        ),
        (Column("Seeds", key="seeds"), seeds_cell),
    ]
    lines = lines_of(section, columns)
    notes = [*budget_notes(section), *contention_notes(section)]
    took = [s.mean for e in section.finished if (s := summarise(e.fact("seconds")))]
    if section.match == "flops" and took and max(took) > 1.5 * min(took) > 0:
        notes.append(
            f"At matched FLOPs the training times differ {max(took) / min(took):.1f}-fold "
            f"({words.seconds(min(took))} to {words.seconds(max(took))}): the order at equal seconds could differ."
        )
    caption = (
        f"Matched by training {MATCHED.get(section.match, section.match)}, with a cap on seconds that the tier sets."
    )
    return Table(
        f"{section.slug}-cost", "Training cost", caption, tuple(c for c, _ in columns), lines, footnotes(lines, *notes)
    )


def cost_cell(entry: Entry, quantity: str, values: Sequence[float], show: Callable[[Summary], tuple[str, str]]) -> Cell:
    """A total cost; the quantity that was matched ("flops", "images" or "seconds") has its multiple of the budget."""
    made = cell(entry, values, show, default="not recorded")
    mark = multiple_text(entry)
    if made.missing or not mark or quantity != entry.match:
        return made
    capped = entry.match != "seconds" and any(r.get("bound") == "seconds" for r in entry.records)
    why = ", counting what it was built on" if entry.over_budget and entry.parents else ""
    why = ": the cap on seconds ended it" if capped and not entry.over_budget else why
    clock = " (CPU time where one thread trained)" if entry.match == "seconds" else ""
    return replace(made, sub=f"{mark} budget", note=f"{mark} the budget in {MATCHED[entry.match]}{clock}{why}")


def images_total(entry: Entry) -> list[float]:
    """Training images with those of the parents: from the rows, else the run records, else the run's own."""
    recorded = [float(r["images_total"]) for r in entry.records if r.get("images_total")]
    return entry.fact("images_total") or recorded or entry.fact("images")


def facts(name: str, show: Callable[[Summary], tuple[str, str]]) -> Callable[[Entry], Cell]:
    return of_runs(lambda entry: cell(entry, entry.fact(name), show, default="not recorded"))
