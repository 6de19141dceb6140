"""Quality at the default plans: a table for each feature space, and what a column says of the baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean as mean

import pandas as pd

from reports import words
from reports.entries import Entry
from reports.metrics import SHOWN, is_distance
from reports.rows import FLOOR, space_of
from reports.scores import Measure
from reports.sections import Section
from reports.stats import Summary, summarise
from reports.tables.cells import Cell, Column, Table, cell, count_text
from reports.tables.lines import BASELINES, footnotes, lines_of, without_seed_marks
from reports.tables.notes import agreement_notes, bias_notes, scale_notes

# Metrics of samples drawn for a label, and what those are of that not every recipe has.
LABELLED = ("cas", "label_accuracy")


PARTICULAR = {**dict.fromkeys(LABELLED, "samples drawn for a label"), "rfd": "models that stand on a codec"}


def quality(section: Section) -> list[Table]:
    """Every quality metric at the default plans: a table for each feature space, the leading one first."""
    return [_quality(section, space) for space in section.spaces or ("",)]


def quality_column(
    section: Section, metric: str, split: str, features: str, title: str = ""
) -> tuple[Column, Callable[[Entry], Cell]]:
    name, direction, judged, note = metric, "", False, metric
    if metric in SHOWN:
        found = SHOWN[metric]
        name, direction, judged, note = found.title, found.direction, found.judged, found.meaning
    measure = Measure(metric, split, features)
    compared = section.compare(measure, direction != "↑") if judged and split != "train" else None
    where = f" on the {split} split" if split else ""
    space = f"; features: {words.plain(features)}" if features else ""
    column = Column(
        title or name, direction, note + where + space, key=words.slug(f"{metric}-{space_of(features)}-{split}")
    )

    def make(entry: Entry) -> Cell:
        score, none = entry.scores[measure], "not measured"
        beaten = beaten_by(section, entry, measure)
        if metric in PARTICULAR and not (metric in LABELLED and entry.main["conditional"].any()):
            none = f"no {name}, which is of {PARTICULAR[metric]}"
        if metric != "modes":
            made = cell(entry, score.values, metric=metric, compared=compared, source=score.source(), default=none)
            return replace(made, sub=beaten) if beaten and made.value is not None else made
        units = score.rows["unit"]
        made = cell(entry, score.values, _modes, metric=metric, compared=compared, source=score.source(), default=none)
        return made if made.value is None else replace(made, extra=f"{made.extra} {units.iloc[0]}".strip())

    return column, make


def _quality(section: Section, space: str) -> Table:
    lead = space == section.lead.space
    rows = section.rows
    rows = rows[(rows["features"] == space) | (~rows["features"].isin(section.spaces) & lead)]
    columns: list[tuple[Column, Callable[[Entry], Cell]]] = []
    conditional = any(e.main["conditional"].any() for e in section.finished)
    for metric in SHOWN:
        found = rows[rows["metric"] == metric]
        if not len(found) or (metric == "label_accuracy" and not conditional):
            continue
        features = space if space in set(found["features"]) else found["features"].iloc[0]
        splits = set(found.loc[found["features"] == features, "split"])
        # Distances to both splits: much nearer to training than to held-out data is a sign of copying.
        both = metric in ("fd", "fd_inf", "kd") and splits >= {"test", "train"}
        for split in ("test", "train") if both else ("test",) if "test" in splits else sorted(splits)[:1]:
            title = SHOWN[metric].title + (f", {split}" if both else "")
            columns.append(quality_column(section, metric, split, features, title))
    spread = {e.name: e.scores[section.lead].spread for e in section.finished} if lead else {}
    if any(v is not None for v in spread.values()):

        def make(entry: Entry) -> Cell:
            sd = spread.get(entry.name)
            return Cell("") if sd is None else Cell(words.number(sd, 2), value=sd)

        note = "standard deviation over disjoint sample sets of one trained model: not the error of the comparison"
        columns.append((Column("Spread of draws", note=note, key="sampling_sd"), make))
    heads = tuple(c for c, _ in columns)
    lines, more = without_seed_marks(heads, lines_of(section, columns, section.baselines))
    if lead:
        more.append("Read every column against the floor row: a perfect model scores what real training data scores.")
    more += scale_notes(section) if lead else agreement_notes(section) if space == section.second else []
    more += bias_notes(section, space)
    named = f" in the feature space {words.plain(space)}" if space else ""
    caption = f"Default plans, {counts_words(section)}{named}. ↓ lower is better, ↑ higher is better."
    title = f"Quality, {section.space_name(space)} features" if len(section.spaces) > 1 else "Quality"
    return Table(f"{section.slug}-quality-{words.slug(space)}", title, caption, heads, lines, footnotes(lines, *more))


def _modes(summary: Summary) -> tuple[str, str]:
    """A count, averaged over seeds: 8, or 7.3 ± 1.4."""
    return words.with_interval(summary, 2) if summary.half else count_text(summary)


def beaten_by(section: Section, entry: Entry, measure: Measure) -> str:
    """How a recipe compares with the baselines, as its row has it: "worse than uniform noise"; "" where it beats them."""
    values, metric = entry.scores[measure].values, measure.metric
    if not values or entry.baseline or not is_distance(metric):
        return ""
    known = {b.recipe: b.scores[measure].values for b in section.baselines}
    floor = summarise(known.get(FLOOR, []))
    if floor and metric in ("fd", "w2") and max(values) < floor.mean:
        return "below the floor: closer than real data are"
    return worse_than(values, known)


def worse_than(values: Sequence[float], known: Mapping[str, Sequence[float]]) -> str:
    """The baseline that is easiest to beat of those that the mean does not beat, by their scores (lower is better)."""
    for name in ("uniform", "pixel-histograms", "gaussian"):
        other = summarise(known.get(name, []))
        if other and mean(values) >= other.mean:
            return f"worse than {'the ' if name == 'gaussian' else ''}{BASELINES[name]}"
    return ""


def counts_words(section: Section) -> str:
    """How many samples stood against how many references, where one pair of numbers holds for all."""
    metric = section.lead.metric
    rows = pd.concat([e.scores.of(metric) for e in section.finished]) if section.finished else section.rows
    rows = rows[(rows["metric"] == metric) & (rows["split"] == "test")]
    n, ref = sorted(set(rows["n"].dropna())), sorted(set(rows["n_ref"].dropna()))
    if len(n) == 1 and len(ref) == 1:
        return f"{n[0]:,.0f} samples against {ref[0]:,.0f} held-out examples"
    if not n:
        return "sample counts not recorded"
    return (
        f"{n[0]:,.0f} to {n[-1]:,.0f} samples (unequal counts are not compared)"
        if len(n) > 1
        else f"{n[0]:,.0f} samples"
    )
