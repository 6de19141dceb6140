"""Likelihoods: a line for each recipe and kind, compared within a kind only; and what they are the sum of."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class _Kind:
    """One kind of likelihood of an entry: its rows on held-out data, and on the data trained on where there are any."""

    entry: Entry
    held_out: pd.DataFrame
    trained_on: pd.DataFrame | None

    @property
    def relation(self) -> str:
        return words.plain(self.held_out["relation"].iloc[0])

    def also(self, metric: str) -> list[float]:
        """Another metric of the same kind, options and split, by training seed."""
        return seed_means(same_kind(self.entry, metric, self.held_out))


def likelihood(section: Section) -> Table:
    """One line per recipe and kind; compared only within a kind."""
    metric = section.likelihood
    columns = _columns(section)
    found = {**section.likelihoods, **{b.name: likelihood_rows(b, metric, "test") for b in section.baselines}}
    lines: list[Line] = []
    last: list[Line] = []
    for entry in (*section.entries, *section.baselines):
        for rows in found.get(entry.name, []):
            train = (f for f in likelihood_rows(entry, metric, "train") if kind_key(f) == kind_key(rows))
            kind = _Kind(entry, rows, next(train, None))
            cells = tuple(make(kind) for _, make in columns)
            lines.append(flat_line(section, entry, "baseline" if entry.baseline else "recipe", cells))
        if not found.get(entry.name) and not entry.baseline:
            gap = missing(entry, metric, "no likelihood reported")
            blank = (gap, *[Cell("")] * (len(columns) - 1))
            last.append(flat_line(section, entry, "recipe" if len(entry.rows) else "failed", blank))

    def order(line: Line) -> tuple[str, float]:
        return (line.cells[0].text, line.cells[1].value or math.inf)

    recipes = sorted((line for line in lines if line.kind == "recipe"), key=order)
    ordered = (*recipes, *last, *(line for line in lines if line.kind == "baseline"))
    caption = f"Negative log-likelihood in {UNITS[metric]}. " + interval_words(section)
    notes = footnotes(ordered, *_notes(section, found))
    return Table(f"{section.slug}-likelihood", "Likelihood", caption, tuple(c for c, _ in columns), ordered, notes)


def _columns(section: Section) -> list[tuple[Column, Callable[[_Kind], Cell]]]:
    """The columns, each with what makes its cell of a kind of likelihood."""
    metric, entropy, unit = section.likelihood, section.entropy, UNITS[section.likelihood]

    def held_out(kind: _Kind) -> Cell:
        entry, values = kind.entry, seed_means(kind.held_out)
        compared = None if entry.baseline else section.compared_likelihoods.get(kind_key(kind.held_out))
        source = Score(kind.held_out).source(likelihood=True)
        made = cell(entry, values, metric=metric, prefix=kind.relation, compared=compared, source=source)
        return made if entry.baseline else replace(made, sub=likelihood_beaten_by(section, metric, values))

    def train(kind: _Kind) -> Cell:
        values = [] if kind.trained_on is None else seed_means(kind.trained_on)
        default = "not measured on the training split"
        return cell(kind.entry, values, metric=metric, prefix=kind.relation, default=default)

    def excess(kind: _Kind) -> Cell:
        found = summarise(kind.also("kl") or [v - (entropy or 0.0) for v in seed_means(kind.held_out)])
        text, extra = words.with_interval(found) if found else ("", "")
        return Cell(text, extra, value=found.mean if found else None)

    def error(name: str) -> tuple[Column, Callable[[_Kind], Cell]]:
        title = f"{name.replace('_', ' ').capitalize()} error"
        column = Column(title, note="systematic error that the estimate knows of", key=name)
        return column, lambda kind: number_cell(kind.also(f"{metric}_{name}_error"), 2)

    known = re.compile(rf"^{metric}_(.+)_error$")
    others = sorted({m[1] for name in set(section.rows["metric"]) if (m := known.match(name))})
    how = "how the number was computed; comparable only within a kind"
    above = f"held-out NLL minus the true entropy, {words.number(entropy or 0.0, 4)} nats"
    between = "gap between the splits, by training seed: what is above the baselines' gap is overfitting"
    columns: list[tuple[Column, Callable[[_Kind], Cell]]] = [
        (Column("Kind", note=how, numeric=False, key="kind"), lambda kind: Cell(kind_text(kind.held_out) or "–")),
        (Column(f"Held out, {unit}", "↓", "negative log-likelihood of held-out data", key="test"), held_out),
        (Column(f"Train, {unit}", "↓", "negative log-likelihood of the data trained on", key="train"), train),
    ]
    if entropy is not None and metric == "nll":
        columns.append((Column("Above entropy", "↓", above, key="excess"), excess))
    return [
        *columns,
        (Column("Held out − train", note=between, key="gap"), _gap),
        (
            Column("Error", note="standard error over the examples, averaged over seeds", key="error"),
            lambda kind: number_cell(seed_means(kind.held_out, "error"), 2),
        ),
        *map(error, others),
        (
            Column("Examples", note="held-out examples scored", key="n"),
            lambda kind: number_cell(kind.held_out["n"].dropna().tolist(), 4),
        ),
        (
            Column("Calls", note="network calls per example", key="calls"),
            lambda kind: number_cell(seed_means(kind.held_out, "calls"), 4),
        ),
    ]


def _notes(section: Section, found: Mapping[str, Sequence[pd.DataFrame]]) -> list[str]:
    notes = [
        "= exact, ≤ an upper bound on the negative log-likelihood, ≈ an estimate. "
        "Bold only within a kind with equal options.",
    ]
    entropy = section.entropy
    if entropy is not None and section.likelihood == "nll":
        notes.append(
            f"The data's true entropy is {words.number(entropy, 4)} nats: no model can be below it on average."
        )
    for name, frames in found.items():
        for rows in frames:
            for seed, reason in rows.loc[rows["reason"] != "", ["seed", "reason"]].itertuples(index=False):
                of_seed = "" if math.isnan(seed) else f", seed {seed:g}"
                notes.append(f"{name}, {kind_text(rows)}{of_seed}: {words.plain(reason)}.")
    return notes


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


def _gap(kind: _Kind) -> Cell:
    """Held-out minus train within each training seed that has both."""
    test, train = kind.held_out, kind.trained_on
    if train is None:
        return Cell("")
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
