"""Likelihoods: a line for each recipe and kind, compared within a kind only; and what they are the sum of."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd

from reports import words
from reports.entries import Entry
from reports.likelihoods import (
    kind_key,
    kind_text,
    likelihood_rows,
    parts_of,
    same_kind,
    solver_error,
)
from reports.metrics import UNITS
from reports.rows import seed_means
from reports.scores import Score
from reports.sections import Section
from reports.stats import summarise
from reports.tables.cells import Cell, Column, Line, Table, cell, missing, number_cell
from reports.tables.lines import flat_line, footnotes
from reports.tables.notes import interval_words
from reports.tables.quality import worse_than


def likelihood(section: Section) -> Table:
    """One line per recipe and kind; compared only within a kind."""
    metric, entropy = section.likelihood, section.entropy
    unit = UNITS[metric]
    known = re.compile(rf"^{metric}_(.+)_error$")
    others = sorted({m[1] for name in set(section.rows["metric"]) if (m := known.match(name))})
    columns = [
        Column("Kind", note="how the number was computed; comparable only within a kind", numeric=False, key="kind"),
        Column(f"Held out, {unit}", "↓", "negative log-likelihood of held-out data", key="test"),
        Column(f"Train, {unit}", "↓", "negative log-likelihood of the data trained on", key="train"),
        Column(
            "Held out − train",
            note="gap between the splits, by training seed: what is above the baselines' gap is overfitting",
            key="gap",
        ),
        Column("Error", note="standard error over the examples, averaged over seeds", key="error"),
        *(
            Column(
                f"{name.replace('_', ' ').capitalize()} error",
                note="systematic error that the estimate knows of",
                key=name,
            )
            for name in others
        ),
        Column("Examples", note="held-out examples scored", key="n"),
        Column("Calls", note="network calls per example", key="calls"),
    ]
    if entropy is not None and metric == "nll":
        columns.insert(
            3,
            Column(
                "Above entropy",
                "↓",
                f"held-out NLL minus the true entropy, {words.number(entropy, 4)} nats",
                key="excess",
            ),
        )
    found = {**section.likelihoods, **{b.name: likelihood_rows(b, metric, "test") for b in section.baselines}}
    every = section.compared_likelihoods
    lines: list[Line] = []
    last: list[Line] = []
    for entry in (*section.entries, *section.baselines):
        kind_of_line = "baseline" if entry.baseline else "recipe"
        frames = found.get(entry.name, [])
        if not frames and entry.baseline:
            continue
        if not frames:
            gap = missing(entry, metric, "no likelihood reported")
            kind_of_line = "recipe" if len(entry.rows) else "failed"
            last.append(flat_line(section, entry, kind_of_line, (gap, *[Cell("")] * (len(columns) - 1))))
            continue
        for rows in frames:
            trains = [f for f in likelihood_rows(entry, metric, "train") if kind_key(f) == kind_key(rows)]
            relation = words.plain(rows["relation"].iloc[0])
            test, train = seed_means(rows), seed_means(trains[0]) if trains else []
            compared = None if entry.baseline else every.get(kind_key(rows))
            held = cell(
                entry,
                test,
                metric=metric,
                prefix=relation,
                compared=compared,
                source=Score(rows).source(likelihood=True),
            )
            held = held if entry.baseline else replace(held, sub=likelihood_beaten_by(section, metric, test))
            cells = [
                Cell(kind_text(rows) or "–"),
                held,
                cell(entry, train, metric=metric, prefix=relation, default="not measured on the training split"),
                _gap(rows, trains[0]) if trains else Cell(""),
                number_cell(seed_means(rows, "error"), 2),
                *(number_cell(seed_means(same_kind(entry, f"{metric}_{name}_error", rows)), 2) for name in others),
                number_cell(rows["n"].dropna().tolist(), 4),
                number_cell(seed_means(rows, "calls"), 4),
            ]
            if entropy is not None and metric == "nll":
                excess = summarise(seed_means(same_kind(entry, "kl", rows)) or [v - entropy for v in test])
                text, extra = words.with_interval(excess) if excess else ("", "")
                cells.insert(3, Cell(text, extra, value=excess.mean if excess else None))
            lines.append(flat_line(section, entry, kind_of_line, tuple(cells)))

    def order(line: Line) -> tuple[str, float]:
        return (line.cells[0].text, line.cells[1].value or math.inf)

    recipes = sorted((line for line in lines if line.kind == "recipe"), key=order)
    ordered = (*recipes, *last, *(line for line in lines if line.kind == "baseline"))
    notes = [
        "= exact, ≤ an upper bound on the negative log-likelihood, ≈ an estimate. "
        "Bold only within a kind with equal options.",
    ]
    if entropy is not None and metric == "nll":
        notes.append(
            f"The data's true entropy is {words.number(entropy, 4)} nats: no model can be below it on average."
        )
    for name, frames in found.items():
        for rows in frames:
            for seed, reason in rows.loc[rows["reason"] != "", ["seed", "reason"]].itertuples(index=False):
                of_seed = "" if math.isnan(seed) else f", seed {seed:g}"
                notes.append(f"{name}, {kind_text(rows)}{of_seed}: {words.plain(reason)}.")
    caption = f"Negative log-likelihood in {unit}. " + interval_words(section)
    return Table(
        f"{section.slug}-likelihood", "Likelihood", caption, tuple(columns), ordered, footnotes(ordered, *notes)
    )


def likelihood_cell(section: Section) -> Callable[[Entry], Cell]:
    chosen = section.chosen_likelihoods
    families = section.compared_likelihoods
    metric = section.likelihood

    def make(entry: Entry) -> Cell:
        frames = likelihood_rows(entry, metric, "test")
        if not frames:
            blank = entry.baseline or entry.external
            return Cell("") if blank else missing(entry, metric, "no likelihood reported")
        rows = frames[0]
        compared = families.get(kind_key(rows)) if entry.name in chosen else None
        relation = words.plain(rows["relation"].iloc[0])
        made = cell(
            entry, seed_means(rows), prefix=relation, compared=compared, source=Score(rows).source(likelihood=True)
        )
        note = "; ".join(x for x in (f"kind: {kind_text(rows)}", made.note) if x)
        doubt = solver_error(entry, rows)
        known = "" if doubt is None else f", solver error {words.number(doubt, 2)}"
        beaten = likelihood_beaten_by(section, metric, seed_means(rows))
        beaten = f", {beaten}" if beaten and not (entry.baseline or entry.external) else ""
        return replace(made, sub=words.plain(rows["kind"].iloc[0]) + known + beaten, note=note)

    return make


def likelihood_beaten_by(section: Section, metric: str, values: Sequence[float]) -> str:
    """ "worse than uniform noise" or than another baseline's held-out NLL; "" where it beats them all.

    A bound above a baseline's exact NLL says that no more than that was shown of the model.
    """
    found = {b.recipe: likelihood_rows(b, metric, "test") for b in section.baselines}
    return worse_than(values, {name: seed_means(frames[0]) for name, frames in found.items() if frames})


def _gap(test: pd.DataFrame, train: pd.DataFrame) -> Cell:
    """Held-out minus train within each training seed that has both."""
    seeds = {str(s) for s in test["seed"]} & {str(s) for s in train["seed"]}
    a, b = (seed_means(rows[rows["seed"].map(str).isin(seeds)]) for rows in (test, train))
    gap = summarise([x - y for x, y in zip(a, b, strict=True)]) if len(a) == len(b) else None
    if gap is None:
        return Cell("")
    text, extra = words.with_interval(gap, 2)
    return Cell(text, extra, value=gap.mean, half=gap.half)


def parts(section: Section) -> Table:
    """What each likelihood is the sum of, as far as its paradigm names it: one line per recipe, kind and part."""
    columns = (
        Column("Kind", numeric=False, key="kind"),
        Column("Part", numeric=False, key="part", note="as the paradigm names it"),
        Column("Held out, nats", key="test", note="mean over held-out examples, nats per example"),
        Column("Share", key="share", note="of the sum of the parts of this line's kind"),
        Column("Train, nats", key="train"),
    )
    lines = []
    for entry in section.finished:
        for kind, found in parts_of(entry).items():
            means = [summarise(seed_means(splits["test"])) for splits in found.values() if "test" in splits]
            whole = sum(s.mean for s in means if s)
            sum_of = all(s and s.mean >= 0 for s in means) and whole > 0  # else a share means nothing
            for name, splits in found.items():
                values = {split: seed_means(rows) for split, rows in splits.items()}
                held = summarise(values.get("test", []))
                share = (
                    Cell(f"{100 * held.mean / whole:.1f} %", value=held.mean / whole) if sum_of and held else Cell("")
                )
                cells = (
                    Cell(kind),
                    Cell(name),
                    cell(entry, values.get("test", [])),
                    share,
                    cell(entry, values.get("train", [])) if values.get("train") else Cell(""),
                )
                lines.append(Line(entry.name, "recipe", entry.mark, cells))
    caption = (
        "The parts that a paradigm's own estimate names; those of a bound add up to it. Mean over training seeds"
        + (", with 95 % t-intervals or (the least – the most)." if section.seeds > 1 else ".")
    )
    return Table(f"{section.slug}-parts", "What the likelihoods are made of", caption, columns, tuple(lines))
