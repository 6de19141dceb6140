"""What a sample costs and buys: speed at every plan, quality against steps, quality against the strength of guidance."""

from __future__ import annotations

from dataclasses import replace

from reports import provenance, words
from reports.entries import Entry
from reports.metrics import SHOWN
from reports.plans import guided
from reports.rows import seed_means
from reports.scores import Measure, Scores
from reports.sections import Section
from reports.stats import summarise
from reports.tables.cells import (
    Cell,
    Column,
    Line,
    Table,
    as_si,
    bytes_text,
    number_cell,
    rate_text,
    seconds_text,
    shown_cell,
)
from reports.tables.lines import without_seed_marks


def speed(section: Section) -> tuple[Table, Table]:
    """What a sample costs: the default plans, and every plan that was timed or scored."""
    columns = (
        Column("Plan", numeric=False, key="plan", note="sampler, steps, options; ● is the card's default"),
        Column("Calls", key="calls", note="network calls per sample, counted"),
        Column(section.lead_title, "↓", "on the test split", key="quality"),
        Column("Latency", "↓", "median time for one sample, batch 1; the quartiles beside it", key="latency"),
        Column("Throughput", "↑", "samples per second at the best batch", key="throughput"),
        Column("FLOPs/sample", "↓", key="flops_per_sample"),
        Column("Peak memory", "↓", key="peak_memory"),
    )
    lines = []
    contended = False
    for entry in section.finished:
        for plan in sorted(entry.plans, key=lambda p: (p != entry.plan, p)):
            scores = entry.at(plan)
            rows = scores.rows
            contended |= bool(rows.loc[rows["metric"].map(provenance.is_speed), "contended"].any())
            cells = (
                Cell(plan.text, "●" if plan == entry.plan else ""),
                number_cell(seed_means(rows, "calls"), 4),
                shown_cell(entry, scores[section.lead].values, words.with_interval),
                _quartiles(shown_cell(entry, scores[Measure("latency")].values, seconds_text), scores),
                shown_cell(entry, scores[Measure("throughput")].values, rate_text),
                shown_cell(entry, scores[Measure("flops_per_sample")].values, as_si("FLOP")),
                shown_cell(entry, scores[Measure("peak_memory")].values, bytes_text),
            )
            lines.append((plan == entry.plan, Line(entry.name, "recipe", entry.mark, cells)))
    notes = ["Empty: not timed or not scored at this plan. Timed alone on the machine, after warm-up; medians."]
    if contended:
        notes.append("Some timings were taken while other work was on the machine: read them as upper bounds.")
    default, thin = without_seed_marks(columns, tuple(line for main, line in lines if main))
    caption = "The card's default plan, named before any score was seen; the sweep never replaces it."
    short = Table(f"{section.slug}-speed", "Sampling speed", caption, columns, default, (*thin, *notes))
    every, thin = without_seed_marks(columns, tuple(line for _, line in lines))
    caption = "Every sampler and step count; ● marks the card's default."
    title = "Sampling speed, every plan"
    return short, Table(f"{section.slug}-plans", title, caption, columns, every, (*thin, *notes))


def _quartiles(made: Cell, scores: Scores) -> Cell:
    low, high = (scores[Measure(f"latency_q{q}")].summary for q in (25, 75))
    if made.value is None or low is None or high is None:
        return made
    scale, _ = words.seconds_scale(made.value)
    return replace(made, sub=f"{words.number(low.mean / scale)} – {words.number(high.mean / scale)}")


def sweep(section: Section) -> Table | None:
    """Quality against the number of steps: a line for each sampler of a recipe; None where nothing was swept over."""
    found: list[tuple[Entry, str, str, dict[float, Cell]]] = []
    for entry in section.finished:
        by_sampler: dict[tuple[str, str], dict[float, Cell]] = {}
        for plan in entry.plans:
            score = entry.at(plan)[section.lead]
            if plan.guided or not len(score.rows):
                continue  # guided ones have a table of their own
            sampler, steps, options = plan
            made, calls = shown_cell(entry, score.values, words.with_interval), summarise(score.calls)
            calls_text = "" if calls is None or calls.mean == steps else f"{calls.mean:.3g} calls"
            mark = " ●" if plan == entry.plan else ""
            by_sampler.setdefault((sampler, options), {})[steps] = replace(
                made, extra=(made.extra + mark).strip(), sub=calls_text
            )
        if sum(map(len, by_sampler.values())) > 1:
            found += [(entry, *names, cells) for names, cells in sorted(by_sampler.items())]
    counts = sorted({k for *_, cells in found for k in cells})
    if not found:
        return None
    lines = tuple(
        Line(
            entry.name,
            "recipe",
            entry.mark,
            (
                Cell(" ".join((words.plain(sampler), options.replace(",", " "))).strip()),
                *(cells.get(k, Cell("")) for k in counts),
            ),
        )
        for entry, sampler, options, cells in found
    )
    columns = [Column("Sampler", numeric=False, key="sampler")]
    columns += [Column(f"{k:g}", key=f"steps_{k:g}", note=words.plural(int(k), "step")) for k in counts]
    title = f"{section.lead_title} against steps"
    caption = (
        "By sampler and number of steps, on the test split; below a number its network calls where they are not the "
        "steps; ● marks the card's default."
    )
    swept = {c.seeds for line in lines for c in line.cells if c.value is not None and "●" not in c.extra}
    notes: list[str] = []
    if len(swept) == 1 and None not in swept:  # once, not in every cell
        (fewer,) = swept
        lines = tuple(
            replace(line, cells=tuple(c if "●" in c.extra else replace(c, seeds=None) for c in line.cells))
            for line in lines
        )
        notes.append(f"All but the defaults were tried on {words.plural(int(fewer or 0), 'training seed')}.")
    return Table(f"{section.slug}-sweep", title, caption, tuple(columns), lines, tuple(notes))


GUIDED = ("precision", "recall", "label_accuracy", "cas")


def guidance(section: Section) -> Table | None:
    """What guidance buys and costs: a line for each strength; None where nothing was guided."""
    metric, _, features = section.lead
    lines = []
    columns = [
        Column("Plan", numeric=False, key="plan", note="● is the card's default"),
        Column("Guidance", key="guidance", note="strength: 0 the model without labels, 1 with them, above 1 guided"),
        Column("Calls", key="calls", note="network calls per sample, counted"),
        Column(section.lead_title, "↓", "on the test split", key="quality"),
    ]
    columns += [Column(SHOWN[name].title, SHOWN[name].direction, SHOWN[name].meaning, key=name) for name in GUIDED]
    for group in guided(section):
        entry = group.entry
        for strength, plan in group.plans.items():
            scores = entry.at(plan)
            rows = scores.rows[(scores.rows["split"] == "test") & (scores.rows["features"] == features)]
            cells = [
                Cell(group.name, "●" if plan == entry.plan else ""),
                Cell(f"{strength:g}", value=strength),
                number_cell(seed_means(rows, "calls"), 4),
            ]
            for name in (metric, *GUIDED):
                score = scores[Measure(name, "test", features)]
                cells.append(shown_cell(entry, score.values, words.with_interval))
            lines.append(Line(entry.name, "recipe", entry.mark, tuple(cells)))
    if not lines:
        return None
    kept = [i for i in range(len(columns)) if any(line.cells[i].text for line in lines)]
    columns = [columns[i] for i in kept]
    lines = [replace(line, cells=tuple(line.cells[i] for i in kept)) for line in lines]
    whole, notes = without_seed_marks(columns, tuple(lines))
    caption = (
        "F = F(none) + w (F(label) - F(none)) with w the strength, at every noise level unless the plan says where. The "
        "default plan stays the one that is compared; guided models have no likelihood."
    )
    return Table(f"{section.slug}-guidance", "Guidance", caption, tuple(columns), whole, tuple(notes))
