"""The tables of a report as data: what each cell says, in words and as a number. The writers only set them.

One headline table and, below it, quality, likelihood, cost and speed. A cell knows its interval, whether it is among
the best, and why it is missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean as mean

import pandas as pd

from reports import coverage, provenance, stats, words
from reports.metrics import DISTANCES, FID, RATIOS, SHOWN, UNITS
from reports.sections import (
    FLOOR,
    Compared,
    Entry,
    Section,
    at_plan,
    finite,
    guided,
    is_guided,
    kind_key,
    kind_text,
    likelihood_rows,
    parts_of,
    plan_text,
    plans_of,
    same_kind,
    seed_means,
    solver_error,
    space_of,
)
from reports.stats import Summary, summarise

BASELINES = {
    FLOOR: "real training data (floor)",
    "gaussian": "Gaussian fit",
    "uniform": "uniform noise",
    "pixel-histograms": "pixel histograms",
    "train-copies": "copies of training images",
}


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


def space_name(section: Section, features: str) -> str:
    """digits@9f3c… as "digits" where that is unambiguous."""
    short = space_of(features)
    alone = sum(space_of(s) == short for s in section.spaces) == 1
    return words.plain(short if alone else features[: len(short) + 9])


def metric_title(section: Section, metric: str, features: str = "") -> str:
    title = SHOWN[metric].title if metric in SHOWN else metric
    if metric == "fd" and features == FID:
        return "FID"
    if features and metric in ("fd", "fd_inf"):
        return f"{title}-{space_name(section, features)}"
    if features and metric == "kd":
        return f"KD-{space_name(section, features)}"
    return title


# ----------------------------------------------------------------------------------------------------------- cells


def missing(entry: Entry, metric: str, default: str = "not measured") -> Cell:
    if entry.baseline or (entry.external and not entry.reason(metric)):
        return Cell("")
    if not len(entry.rows):
        return Cell("–", missing=True, note=f"{entry.name}: no finished run")
    reason = entry.reason(metric) or default
    if reason.startswith("not measured") and metric in SHOWN:  # in a note below the table that is said of no column
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
    rows: pd.DataFrame | None = None,
    likelihood: bool = False,
) -> Cell:
    """Mean and interval over seeds; says when it rests on fewer seeds than the row has. `rows`: where they stand."""
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
        source="" if rows is None else provenance.described(finite(rows), likelihood),
    )


def _si(unit: str) -> Callable[[Summary], tuple[str, str]]:
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


def _rate(summary: Summary) -> tuple[str, str]:
    factor, prefix = words.si_scale(summary.mean)
    return _scaled(summary, factor, f"{prefix}/s")


def _modes(summary: Summary) -> tuple[str, str]:
    """A count, averaged over seeds: 8, or 7.3 ± 1.4."""
    return words.with_interval(summary, 2) if summary.half else _count(summary)


def _count(summary: Summary) -> tuple[str, str]:
    return (words.number(summary.mean, 4) if summary.mean % 1 else f"{summary.mean:,.0f}"), ""


def _bytes(summary: Summary) -> tuple[str, str]:
    return f"{words.number(summary.mean / 2**20)}", "MiB"


def multiple_text(entry: Entry) -> str:
    if entry.multiple is None or abs(entry.multiple - 1) <= entry.allowance - 1:
        return ""
    return f"{entry.multiple:.1f}×" if entry.multiple >= 0.095 else f"{entry.multiple:.2f}×"


def _cost(entry: Entry, quantity: str, values: Sequence[float], show: Callable[[Summary], tuple[str, str]]) -> Cell:
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


def _images_total(entry: Entry) -> list[float]:
    """Training images with those of the parents: from the rows, else the run records, else the run's own."""
    recorded = [float(r["images_total"]) for r in entry.records if r.get("images_total")]
    return entry.fact("images_total") or recorded or entry.fact("images")


# ---------------------------------------------------------------------------------------------------------- tables


def _lines(
    section: Section,
    columns: Sequence[tuple[Column, Callable[[Entry], Cell]]],
    baselines: Iterable[Entry] = (),
    sub: Callable[[Entry], str] = lambda entry: "",
) -> tuple[Line, ...]:
    lines = []
    for entry in section.finished:
        lines.append(_line(section, entry, "recipe", tuple(make(entry) for _, make in columns), sub(entry)))
    for entry in section.entries:
        if not len(entry.rows):
            lines.append(_line(section, entry, "failed", tuple(make(entry) for _, make in columns), sub(entry)))
    for kind, some in (("external", section.externals), ("baseline", tuple(baselines))):
        for entry in some:
            cells = tuple(make(entry) for _, make in columns)
            if any(c.value is not None for c in cells):
                lines.append(_line(section, entry, kind, cells, elsewhere(entry) if entry.external else ""))
    return tuple(lines)


def _line(section: Section, entry: Entry, kind: str, cells: tuple[Cell, ...], sub: str = "") -> Line:
    name = BASELINES.get(entry.recipe, entry.name) if entry.baseline else entry.name
    first = next((e for e in section.finished if e.family == entry.family), entry)
    member = kind == "recipe" and first is not entry
    return Line(name, kind, entry.mark, cells, sub, entry.family, member, runs_words(entry))


def elsewhere(entry: Entry) -> str:
    """What is said of someone's samples under their name."""
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


# Metrics of samples drawn for a label, and what those are of that not every recipe has.
LABELLED = ("cas", "label_accuracy")
PARTICULAR = {**dict.fromkeys(LABELLED, "samples drawn for a label"), "rfd": "models that stand on a codec"}


def _quality_column(
    section: Section, metric: str, split: str, features: str, title: str = ""
) -> tuple[Column, Callable[[Entry], Cell]]:
    name, direction, judged, note = metric, "", False, metric
    if metric in SHOWN:
        _, name, direction, judged, _, note, *_ = SHOWN[metric]
    compared = section.compare(metric, split, features, direction != "↑") if judged and split != "train" else None
    where = f" on the {split} split" if split else ""
    space = f"; features: {words.plain(features)}" if features else ""
    column = Column(
        title or name, direction, note + where + space, key=words.slug(f"{metric}-{space_of(features)}-{split}")
    )

    def make(entry: Entry) -> Cell:
        rows = entry.headline(metric)
        rows = rows[(rows["split"] == split) & (rows["features"] == features)] if split or features else rows
        values, none = seed_means(rows), "not measured"
        beaten = beaten_by(section, entry, metric, split, features, values)
        if metric in PARTICULAR and not (metric in LABELLED and entry.main["conditional"].eq(True).any()):
            none = f"no {name}, which is of {PARTICULAR[metric]}"
        if metric != "modes":
            made = cell(entry, values, metric=metric, compared=compared, rows=rows, default=none)
            return replace(made, sub=beaten) if beaten and made.value is not None else made
        units = rows["unit"]
        made = cell(entry, values, _modes, metric=metric, compared=compared, rows=rows, default=none)
        return made if made.value is None else replace(made, extra=f"{made.extra} {units.iloc[0]}".strip())

    return column, make


def beaten_by(section: Section, entry: Entry, metric: str, split: str, features: str, values: Sequence[float]) -> str:
    """What a recipe's row says of itself beside the baselines: "worse than uniform noise"; "" where it beats them."""
    if not values or entry.baseline or metric not in DISTANCES:
        return ""
    known = {b.recipe: b.per_seed(metric, split, features) for b in section.baselines}
    floor = summarise(known.get(FLOOR, []))
    if floor and metric in ("fd", "w2") and max(values) < floor.mean:
        return "below the floor: closer than real data are"
    return _worse_than(values, known)


def _worse_than(values: Sequence[float], known: Mapping[str, Sequence[float]]) -> str:
    """The baseline that is easiest to beat of those that the mean does not beat, by their scores (lower is better)."""
    for name in ("uniform", "pixel-histograms", "gaussian"):
        other = summarise(known.get(name, []))
        if other and mean(values) >= other.mean:
            return f"worse than {'the ' if name == 'gaussian' else ''}{BASELINES[name]}"
    return ""


def _timed(metric: str, show: Callable[[Summary], tuple[str, str]]) -> Callable[[Entry], Cell]:
    def make(entry: Entry) -> Cell:
        rows = entry.headline(metric)
        return cell(entry, seed_means(rows), show, metric=metric, default="not timed", rows=rows)

    return _of_runs(make)


def _calls(entry: Entry) -> Cell:
    if entry.baseline or entry.external:
        return Cell("")
    rows = entry.main[entry.main["headline"] & (entry.main["sampler"] != "")]
    return cell(entry, seed_means(rows, "calls"), _count, default="not counted")


def _facts(name: str, show: Callable[[Summary], tuple[str, str]]) -> Callable[[Entry], Cell]:
    return _of_runs(lambda entry: cell(entry, entry.fact(name), show, default="not recorded"))


def _of_runs(make: Callable[[Entry], Cell]) -> Callable[[Entry], Cell]:
    """Blank for what no run of the suite made."""
    return lambda entry: Cell("") if entry.baseline or entry.external else make(entry)


def chosen_likelihoods(section: Section) -> dict[str, pd.DataFrame]:
    """Each recipe's headline likelihood on held-out data."""
    found = {e.name: likelihood_rows(e, section.likelihood, "test") for e in section.finished}
    return {name: frames[0] for name, frames in found.items() if frames}


def families_of_likelihoods(section: Section) -> dict[str, Compared]:
    """What was compared of each kind of likelihood, of all recipes that have it."""
    found = {e.name: likelihood_rows(e, section.likelihood, "test") for e in section.finished}
    made: dict[str, Compared] = {}
    for kind in sorted({kind_key(rows) for frames in found.values() for rows in frames}):
        made |= section.compare_likelihoods(
            {name: rows for name, frames in found.items() for rows in frames if kind_key(rows) == kind}
        )
    return made


def _likelihood_cell(section: Section) -> Callable[[Entry], Cell]:
    chosen = chosen_likelihoods(section)
    families = families_of_likelihoods(section)
    metric = section.likelihood

    def make(entry: Entry) -> Cell:
        frames = likelihood_rows(entry, metric, "test")
        if not frames:
            blank = entry.baseline or entry.external
            return Cell("") if blank else missing(entry, metric, "no likelihood reported")
        rows = frames[0]
        compared = families.get(kind_key(rows)) if entry.name in chosen else None
        relation = words.plain(rows["relation"].iloc[0])
        made = cell(entry, seed_means(rows), prefix=relation, compared=compared, rows=rows, likelihood=True)
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
    return _worse_than(values, {name: seed_means(frames[0]) for name, frames in found.items() if frames})


GROUP = "recipes that share a letter are not told apart on the first score; groups may overlap"


def _better(names: Sequence[str]) -> str:
    return f"better than {words.some(names)}" if names else "better than none"


def headline(section: Section) -> Table:
    """One table that answers the question: quality, likelihood, training cost, sampling cost."""
    metric, features = section.quality
    compared = section.compare(metric, "test", features)

    def group(entry: Entry) -> Cell:
        if entry.baseline:
            return Cell("")
        if entry.name in compared.family.letters:
            return Cell(compared.family.letters[entry.name], note=_better(compared.family.worse(entry.name)))
        why = compared.uncompared.get(entry.name, "not compared: no value")
        return Cell("–", missing=True, note="" if entry.over_budget else f"{entry.name}: {why}")

    columns: list[tuple[Column, Callable[[Entry], Cell]]] = []
    if section.seeds > 1:
        columns.append((Column("Group", note=GROUP, numeric=False, key="group"), group))
    columns.append(_quality_column(section, metric, "test", features, metric_title(section, metric, features)))
    if metric == "fd" and section.second:
        columns.append(
            _quality_column(section, "fd", "test", section.second, metric_title(section, "fd", section.second))
        )
    for counted in ("modes", "mode_kl"):
        found = section.rows[section.rows["metric"] == counted]
        if len(found):
            columns.append(_quality_column(section, counted, "test", found["features"].iloc[0]))
    title = UNITS[section.likelihood]
    columns.append(
        (
            Column(
                f"NLL, {title}",
                "↓",
                "held-out negative log-likelihood; = exact, ≤ bound, ≈ estimate; comparable only within a kind",
                key=section.likelihood,
            ),
            _likelihood_cell(section),
        )
    )
    columns += [
        (
            Column("Params", note="parameters trained, all networks together", key="params_trained"),
            _facts("params_trained", _si("")),
        ),
        (
            Column(
                "Training",
                note="FLOPs with what its parents cost; × marks multiples of the suite's budget",
                key="flops_total",
            ),
            _of_runs(lambda e: _cost(e, "flops", e.fact("cost_total") or e.fact("flops"), _si("FLOP"))),
        ),
        *(
            [
                (
                    Column("Images", note="training images with those of its parents", key="images_total"),
                    _of_runs(lambda e: _cost(e, "images", _images_total(e), _si(""))),
                )
            ]
            if any(e.match == "images" for e in section.finished)
            else []
        ),
        (
            Column("Time", note="training seconds with what its parents took, by the wall clock", key="seconds_total"),
            _of_runs(lambda e: _cost(e, "seconds", e.fact("seconds_total"), seconds_text)),
        ),
        (Column("Calls", note="network calls per sample, counted", key="calls"), _calls),
        (
            Column("Latency", "↓", "median time for one sample, batch 1", key="latency"),
            _timed("latency", seconds_text),
        ),
        (
            Column("Throughput", "↑", "samples per second at the best batch", key="throughput"),
            _timed("throughput", _rate),
        ),
        (Column("Seeds", note="training seeds that finished", key="seeds"), seeds_cell),
    ]
    heads = tuple(c for c, _ in columns)
    lines, thin = _thin(heads, _lines(section, columns, section.baselines, lambda e: plan_text(e.plan)))
    return Table(
        f"{section.slug}-headline",
        "Comparison",
        "Every recipe at the plan its card named before any score was seen. " + interval_words(section),
        heads,
        lines,
        _notes(
            lines,
            *_symptom_notes(section),
            *_remark_notes(section),
            *thin,
            *_scale_notes(section),
            *_budget_notes(section),
            *_contention_notes(section),
            *_code_notes(section),
            *_agreement_notes(section),
            *_interval_notes(section),
        ),
    )


def interval_words(section: Section) -> str:
    if section.seeds > 1:
        return (
            "Mean ± 95 % t-interval over training seeds, or (the least – the most) of them where that is wider than half "
            "the mean; bold: the best and those not told apart from it, where any difference could be shown at all."
        )
    return "One training seed each: no intervals, no tests."


def _interval_notes(section: Section) -> list[str]:
    """What the 95 % are worth, as measured."""
    if section.seeds < 2:
        return []
    return [coverage.sentence(section.seeds), coverage.sight(section.seeds, len(section.finished))]


def _agreement_notes(section: Section) -> list[str]:
    tau, names = space_agreement(section), [space_name(section, s) for s in (section.quality[1], section.second)]
    if tau is None:
        return []
    return [
        f"Agreement of the feature spaces {names[0]} and {names[1]} on the order of the recipes by FD: Kendall's τ = "
        f"{words.number(tau, 2)} (1: the same order, 0: unrelated, −1: reversed). They are never mixed."
    ]


def _scale_notes(section: Section) -> list[str]:
    """Whether the baselines give the scale of the other rows: with as many samples."""
    metric, features = section.quality

    def counts(entries: Iterable[Entry]) -> set[float]:
        rows = [e.headline(metric) for e in entries]
        kept = [r[(r["split"] == "test") & (r["features"] == features)] for r in rows]
        return {float(n) for r in kept for n in finite(r)["n"].dropna()}

    mine, theirs = counts(section.finished), counts(section.baselines)
    if not mine or not theirs or theirs <= mine:
        return []
    said = [words.listing([f"{n:,.0f}" for n in sorted(some)]) for some in (theirs, mine)]
    return [
        f"The baseline rows were measured with {said[0]} samples, the recipes with {said[1]}: "
        f"{metric_title(section, metric, features)} depends on that number, so they are no floor for them."
    ]


def _bias_notes(section: Section, space: str) -> list[str]:
    """How far n samples raise a Frechet distance, where it was extrapolated to infinitely many."""
    gaps, counts = [], set()
    for entry in (*section.finished, *section.baselines):
        here, limit = (summarise(entry.per_seed(m, "test", space)) for m in ("fd", "fd_inf"))
        if here and limit:
            gaps.append(here.mean - limit.mean)
            counts |= set(entry.headline("fd")["n"].dropna())
    if not gaps:
        return []
    low, high = words.number(min(gaps), 2), words.number(max(gaps), 2)
    n = words.listing([f"{c:,.0f}" for c in sorted(counts)])
    return [
        f"At n = {n} FD lies {low if low == high else f'{low} to {high}'} above FD∞: that is its bias in n, which "
        "differs between models. FD is compared at equal n only."
    ]


def _symptom_notes(section: Section) -> list[str]:
    """What the logs say is wrong with the models, run by run."""
    told = [f"{e.name} seed {seed}: {text}" for e in section.entries for seed, text in e.symptoms]
    return [f"The log of {text.rstrip('.')}." for text in told]


def _remark_notes(section: Section) -> list[str]:
    """What rows on held-out data say against their own value, once for each metric, of the first seed that says it."""
    notes = []
    for entry in (e for e in section.entries if not e.baseline):
        rows = entry.main[entry.main["headline"] & entry.main["split"].eq("test")]
        rows = rows[rows["value"].notna() & rows["reason"].ne("")].sort_values("seed")
        notes += [
            f"{entry.name} seed {r.seed}, {metric_title(section, str(r.metric))}: {words.plain(str(r.reason)).rstrip('.')}."
            for r in rows.drop_duplicates("metric").itertuples(index=False)
        ]
    return notes


def _budget_notes(section: Section) -> list[str]:
    notes = []
    over = [e for e in section.finished if e.over_budget]
    for parents in (True, False):
        named = [f"{e.name} ({multiple_text(e)})" for e in over if e.parents is parents]
        if named:
            counted = ", counting parents" if parents else ""
            notes.append(f"{words.listing(named)} had more than one budget{counted}: never bold, not compared.")
    if len(section.budgets) > 1:
        parts = [
            f"{words.listing([e.name for e in mine])}: {budget_words(mine[0])}" for mine in section.budgets.values()
        ]
        notes.append(
            f"Budgets differ ({'; '.join(parts)}). Recipes are compared only with others with the same budget, and "
            "multiples are of a row's own budget."
        )
    return notes


def _contention_notes(section: Section) -> list[str]:
    """Whose training seconds were taken while something else had the machine or the GPU."""
    crowded = [e.name for e in section.finished if e.contended]
    if not crowded:
        return []
    return [f"{words.listing(crowded)} trained beside other work: read those training seconds as upper bounds."]


def budget_words(entry: Entry) -> str:
    """1.60 TFLOP, at most 50.0 s, 280 k parameters."""
    budget = entry.budget
    parts = [words.si(budget["images"], "images") if entry.match == "images" and budget.get("images") else ""]
    parts += [words.si(budget["flops"], "FLOP") if entry.match == "flops" and budget.get("flops") else ""]
    limit = "" if entry.match == "seconds" else "at most "
    parts += [f"{limit}{words.seconds(budget['seconds'])}" if budget.get("seconds") else ""]
    parts += [f"{words.si(budget['params'])} parameters" if budget.get("params") else ""]
    return ", ".join(p for p in parts if p)


def _code_notes(section: Section) -> list[str]:
    """Recipes whose runs were trained by different versions of the code."""
    found: dict[str, set[str]] = {}
    for entry in section.finished:
        found.setdefault(entry.recipe, set()).update(entry.codes)
    parts = [f"{words.plain(r)} ({words.listing(sorted(map(words.plain, c)))})" for r, c in found.items() if len(c) > 1]
    if not parts:
        return []
    return [
        f"Trained by differing versions of the code: {'; '.join(parts)}. Part of the spread over seeds may be the "
        "change of code; train those runs again to be rid of it."
    ]


def _notes(lines: Iterable[Line], *more: str) -> tuple[str, ...]:
    """Footnotes: why cells are missing or marked, each reason once, with the rows it holds for."""
    found: dict[str, dict[str, None]] = {}
    lines = tuple(lines)
    for line in lines:
        for made in line.cells:
            told = made.missing or made.extra == "†" or (line.kind == "external" and made.value is not None)
            if made.note and told:
                reason = made.note.removeprefix(f"{line.name}: ")
                found.setdefault(reason, {})[line.name] = None
    everyone = {line.name for line in lines if line.kind == "recipe"}

    def who(names: Iterable[str]) -> str:
        rest = [n for n in names if n not in everyone]
        whole = len(everyone) > 3 and everyone <= set(names)
        return words.listing([f"All {len(everyone)} recipes", *rest] if whole else list(names))

    return (*more, *(f"{who(names)}: {reason}." for reason, names in found.items()))


def _thin(columns: Sequence[Column], lines: tuple[Line, ...]) -> tuple[tuple[Line, ...], list[str]]:
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


def quality(section: Section) -> list[Table]:
    """Every quality metric at the default plans: a table for each feature space, the leading one first."""
    return [_quality(section, space) for space in section.spaces or ("",)]


def _quality(section: Section, space: str) -> Table:
    lead = space == section.quality[1]
    rows = section.rows
    rows = rows[(rows["features"] == space) | (~rows["features"].isin(section.spaces) & lead)]
    columns: list[tuple[Column, Callable[[Entry], Cell]]] = []
    told = any(e.main["conditional"].eq(True).any() for e in section.finished)
    for metric in SHOWN:
        found = rows[rows["metric"] == metric]
        if not len(found) or (metric == "label_accuracy" and not told):
            continue
        features = space if space in set(found["features"]) else found["features"].iloc[0]
        splits = set(found.loc[found["features"] == features, "split"])
        # Distances to both splits: much nearer to training than to held-out data is a sign of copying.
        both = metric in ("fd", "fd_inf", "kd") and splits >= {"test", "train"}
        for split in ("test", "train") if both else ("test",) if "test" in splits else sorted(splits)[:1]:
            title = SHOWN[metric].title + (f", {split}" if both else "")
            columns.append(_quality_column(section, metric, split, features, title))
    metric, features = section.quality
    spread = {e.name: sampling_spread(e, metric, features) for e in section.finished} if lead else {}
    if any(v is not None for v in spread.values()):

        def make(entry: Entry) -> Cell:
            sd = spread.get(entry.name)
            return Cell("") if sd is None else Cell(words.number(sd, 2), value=sd)

        note = "standard deviation over disjoint sample sets of one trained model: not the error of the comparison"
        columns.append((Column("Spread of draws", note=note, key="sampling_sd"), make))
    heads = tuple(c for c, _ in columns)
    lines, more = _thin(heads, _lines(section, columns, section.baselines))
    if lead:
        more.append("Read every column against the floor row: a perfect model scores what real training data scores.")
    more += _scale_notes(section) if lead else _agreement_notes(section) if space == section.second else []
    more += _bias_notes(section, space)
    named = f" in the feature space {words.plain(space)}" if space else ""
    caption = f"Default plans, {counts_words(section)}{named}. ↓ lower is better, ↑ higher is better."
    title = f"Quality, {space_name(section, space)} features" if len(section.spaces) > 1 else "Quality"
    return Table(f"{section.slug}-quality-{words.slug(space)}", title, caption, heads, lines, _notes(lines, *more))


def counts_words(section: Section) -> str:
    """How many samples stood against how many references, where one pair of numbers holds for all."""
    metric, _ = section.quality
    rows = pd.concat([e.headline(metric) for e in section.finished]) if section.finished else section.rows
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


def sampling_spread(entry: Entry, metric: str, features: str) -> float | None:
    """Pooled standard deviation over disjoint sample sets of the same trained model."""
    rows = entry.headline(metric)
    rows = finite(rows[(rows["split"] == "test") & (rows["features"] == features)])
    return sampling_spread_of(rows)


def sampling_spread_of(rows: pd.DataFrame) -> float | None:
    return stats.pooled_spread(g["value"].tolist() for _, g in rows.groupby("run") if g["draw"].nunique() > 1)


def space_agreement(section: Section) -> float | None:
    if not section.second or section.quality[0] != "fd":
        return None
    means = []
    for entry in section.finished:
        both = [summarise(entry.per_seed("fd", "test", s)) for s in (section.quality[1], section.second)]
        if both[0] and both[1]:
            means.append((both[0].mean, both[1].mean))
    return stats.agreement([a for a, _ in means], [b for _, b in means]) if means else None


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
    found = {e.name: likelihood_rows(e, metric, "test") for e in (*section.finished, *section.baselines)}
    every = families_of_likelihoods(section)
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
            last.append(_flat(section, entry, kind_of_line, (gap, *[Cell("")] * (len(columns) - 1))))
            continue
        for rows in frames:
            trains = [f for f in likelihood_rows(entry, metric, "train") if kind_key(f) == kind_key(rows)]
            relation = words.plain(rows["relation"].iloc[0])
            test, train = seed_means(rows), seed_means(trains[0]) if trains else []
            compared = None if entry.baseline else every.get(kind_key(rows))
            held = cell(entry, test, metric=metric, prefix=relation, compared=compared, rows=rows, likelihood=True)
            held = held if entry.baseline else replace(held, sub=likelihood_beaten_by(section, metric, test))
            cells = [
                Cell(kind_text(rows) or "–"),
                held,
                cell(entry, train, metric=metric, prefix=relation, default="not measured on the training split"),
                _gap(rows, trains[0]) if trains else Cell(""),
                _number(seed_means(rows, "error"), 2),
                *(_number(seed_means(same_kind(entry, f"{metric}_{name}_error", rows)), 2) for name in others),
                _number(rows["n"].dropna().tolist(), 4),
                _number(seed_means(rows, "calls"), 4),
            ]
            if entropy is not None and metric == "nll":
                excess = summarise(seed_means(same_kind(entry, "kl", rows)) or [v - entropy for v in test])
                text, extra = words.with_interval(excess) if excess else ("", "")
                cells.insert(3, Cell(text, extra, value=excess.mean if excess else None))
            lines.append(_flat(section, entry, kind_of_line, tuple(cells)))

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
    return Table(f"{section.slug}-likelihood", "Likelihood", caption, tuple(columns), ordered, _notes(ordered, *notes))


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


def _flat(section: Section, entry: Entry, kind: str, cells: tuple[Cell, ...]) -> Line:
    """A line of a table that is not grouped by families."""
    return replace(_line(section, entry, kind, cells), family="", member=False)


def _gap(test: pd.DataFrame, train: pd.DataFrame) -> Cell:
    """Held-out minus train within each training seed that has both."""
    seeds = {str(s) for s in test["seed"]} & {str(s) for s in train["seed"]}
    a, b = (seed_means(rows[rows["seed"].map(str).isin(seeds)]) for rows in (test, train))
    gap = summarise([x - y for x, y in zip(a, b, strict=True)]) if len(a) == len(b) else None
    if gap is None:
        return Cell("")
    text, extra = words.with_interval(gap, 2)
    return Cell(text, extra, value=gap.mean, half=gap.half)


def _number(values: Sequence[float], digits: int) -> Cell:
    summary = summarise(values)
    if summary is None:
        return Cell("")
    mean = 0.0 if abs(summary.mean) < 1e-12 else summary.mean  # what rounding left of a zero
    text = f"{mean:,.0f}" if mean % 1 == 0 else words.number(mean, digits)
    return Cell(text, value=summary.mean)


def cost(section: Section) -> Table:
    def rate(entry: Entry) -> Cell:
        flops, took = summarise(entry.fact("flops")), summarise(entry.fact("seconds"))
        if not flops or not took or took.mean <= 0:
            return missing(entry, "", "not recorded")
        return Cell(words.si(flops.mean / took.mean, "FLOP/s"), value=flops.mean / took.mean)

    def told(entry: Entry) -> Cell:
        return Cell("yes" if entry.rows["conditional"].any() else "no") if len(entry.rows) else Cell("–")

    columns = [
        (
            Column("Params trained", key="params_trained", note="all networks together; a critic counts"),
            _facts("params_trained", _si("")),
        ),
        (Column("Params to sample", key="params_sampling"), _facts("params_sampling", _si(""))),
        (Column("Training images", key="images", note="examples seen, repeats counted"), _facts("images", _si(""))),
        (
            Column("Images, total", key="images_total", note="with those that its parents saw"),
            lambda e: _cost(e, "images", _images_total(e), _si("")),
        ),
        (Column("FLOPs, own", key="flops"), _facts("flops", _si("FLOP"))),
        (
            Column("FLOPs, total", key="flops_total", note="with what its parents cost"),
            lambda e: _cost(e, "flops", e.fact("cost_total") or e.fact("flops"), _si("FLOP")),
        ),
        (Column("Time, own", key="seconds"), _facts("seconds", seconds_text)),
        (
            Column("Time, total", key="seconds_total", note="with what its parents took"),
            lambda e: _cost(e, "seconds", e.fact("seconds_total"), seconds_text),
        ),
        (Column("Speed", key="flops_per_second", note="training FLOPs per second"), rate),
        (Column("Labels", key="conditional", note="whether the model is told class labels", numeric=False), told),
        (Column("Seeds", key="seeds"), seeds_cell),
    ]
    lines = _lines(section, columns)
    notes = [*_budget_notes(section), *_contention_notes(section)]
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
        f"{section.slug}-cost", "Training cost", caption, tuple(c for c, _ in columns), lines, _notes(lines, *notes)
    )


MATCHED = {"flops": "FLOPs", "images": "images", "seconds": "seconds"}


def sweep(section: Section) -> Table | None:
    """Quality against the number of steps: a line for each sampler of a recipe; None where nothing was swept over."""
    metric, features = section.quality
    found: list[tuple[Entry, str, str, dict[float, Cell]]] = []
    for entry in section.finished:
        rows = entry.main[(entry.main["metric"] == metric) & (entry.main["split"] == "test")]
        rows = rows[rows["features"] == features]
        by_sampler: dict[tuple[str, str], dict[float, Cell]] = {}
        for plan in plans_of(rows):
            if is_guided(plan):
                continue  # which have a table of their own
            sampler, steps, options = plan
            mine = at_plan(rows, plan)
            made, calls = _shown(entry, seed_means(mine), words.with_interval), summarise(seed_means(mine, "calls"))
            told = "" if calls is None or calls.mean == steps else f"{calls.mean:.3g} calls"
            mark = " ●" if plan == entry.plan else ""
            by_sampler.setdefault((sampler, options), {})[steps] = replace(
                made, extra=(made.extra + mark).strip(), sub=told
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
    title = f"{metric_title(section, metric, features)} against steps"
    caption = (
        "By sampler and number of steps, on the test split; below a number its network calls where they are not the "
        "steps; ● marks the card's default."
    )
    swept = {c.seeds for line in lines for c in line.cells if c.value is not None and "●" not in c.extra}
    notes: list[str] = []
    if len(swept) == 1 and None not in swept:  # said once, not in every cell
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
    metric, features = section.quality
    lines = []
    columns = [
        Column("Plan", numeric=False, key="plan", note="● is the card's default"),
        Column("Guidance", key="guidance", note="strength: 0 the model without labels, 1 with them, above 1 guided"),
        Column("Calls", key="calls", note="network calls per sample, counted"),
        Column(metric_title(section, metric, features), "↓", "on the test split", key="quality"),
    ]
    columns += [Column(SHOWN[name].title, SHOWN[name].direction, SHOWN[name].meaning, key=name) for name in GUIDED]
    for group in guided(section):
        entry = group.entry
        rows = entry.main[(entry.main["split"] == "test") & (entry.main["features"] == features)]
        for strength, plan in group.plans.items():
            mine = at_plan(rows, plan)
            cells = [
                Cell(group.name, "●" if plan == entry.plan else ""),
                Cell(f"{strength:g}", value=strength),
                _number(seed_means(mine, "calls"), 4),
            ]
            for name in (metric, *GUIDED):
                cells.append(_shown(entry, seed_means(mine[mine["metric"] == name]), words.with_interval))
            lines.append(Line(entry.name, "recipe", entry.mark, tuple(cells)))
    if not lines:
        return None
    kept = [i for i in range(len(columns)) if any(line.cells[i].text for line in lines)]
    columns = [columns[i] for i in kept]
    lines = [replace(line, cells=tuple(line.cells[i] for i in kept)) for line in lines]
    whole, notes = _thin(columns, tuple(lines))
    caption = (
        "F = F(none) + w (F(label) - F(none)) with w the strength, at every noise level unless the plan says where. The "
        "default plan stays the one that is compared; guided models have no likelihood."
    )
    return Table(f"{section.slug}-guidance", "Guidance", caption, tuple(columns), whole, tuple(notes))


def speed(section: Section) -> tuple[Table, Table]:
    """What a sample costs: the default plans, and every plan that was timed or scored."""
    metric, features = section.quality
    columns = (
        Column("Plan", numeric=False, key="plan", note="sampler, steps, options; ● is the card's default"),
        Column("Calls", key="calls", note="network calls per sample, counted"),
        Column(metric_title(section, metric, features), "↓", "on the test split", key="quality"),
        Column("Latency", "↓", "median time for one sample, batch 1; the quartiles beside it", key="latency"),
        Column("Throughput", "↑", "samples per second at the best batch", key="throughput"),
        Column("FLOPs/sample", "↓", key="flops_per_sample"),
        Column("Peak memory", "↓", key="peak_memory"),
    )
    lines = []
    contended = False
    for entry in section.finished:
        rows = entry.main[entry.main["sampler"] != ""]
        for plan in sorted(plans_of(rows), key=lambda p: (p != entry.plan, p[0], p[1], p[2])):
            mine = at_plan(rows, plan)
            contended |= bool(mine.loc[mine["metric"].map(provenance.is_speed), "contended"].any())
            by_metric = {str(name): seed_means(group) for name, group in mine.groupby("metric")}
            scored = mine[(mine["metric"] == metric) & (mine["split"] == "test") & (mine["features"] == features)]
            cells = (
                Cell(plan_text(plan), "●" if plan == entry.plan else ""),
                _number(seed_means(mine, "calls"), 4),
                _shown(entry, seed_means(scored), words.with_interval),
                _quartiles(_shown(entry, by_metric.get("latency", []), seconds_text), by_metric),
                _shown(entry, by_metric.get("throughput", []), _rate),
                _shown(entry, by_metric.get("flops_per_sample", []), _si("FLOP")),
                _shown(entry, by_metric.get("peak_memory", []), _bytes),
            )
            lines.append((plan == entry.plan, Line(entry.name, "recipe", entry.mark, cells)))
    notes = ["Empty: not timed or not scored at this plan. Timed alone on the machine, after warm-up; medians."]
    if contended:
        notes.append("Some timings were taken while other work was on the machine: read them as upper bounds.")
    default, thin = _thin(columns, tuple(line for main, line in lines if main))
    caption = "The card's default plan, named before any score was seen; the sweep never replaces it."
    short = Table(f"{section.slug}-speed", "Sampling speed", caption, columns, default, (*thin, *notes))
    every, thin = _thin(columns, tuple(line for _, line in lines))
    caption = "Every sampler and step count; ● marks the card's default."
    title = "Sampling speed, every plan"
    return short, Table(f"{section.slug}-plans", title, caption, columns, every, (*thin, *notes))


def _quartiles(made: Cell, values: Mapping[str, Sequence[float]]) -> Cell:
    low, high = (summarise(values.get(f"latency_q{q}", [])) for q in (25, 75))
    if made.value is None or low is None or high is None:
        return made
    scale, _ = words.seconds_scale(made.value)
    return replace(made, sub=f"{words.number(low.mean / scale)} – {words.number(high.mean / scale)}")


def _shown(entry: Entry, values: Sequence[float], show: Callable[[Summary], tuple[str, str]]) -> Cell:
    return cell(entry, values, show) if values else Cell("")


def order(section: Section) -> Table | None:
    """The partial order of the recipes on the leading metric; None where nothing can be tested."""
    metric, features = section.quality
    family = section.compare(metric, "test", features).family
    if not family.names:
        return None
    lines = []
    for name in family.names:
        entry = next(e for e in section.finished if e.name == name)
        alike = [n for n in family.names if n != name and not family.apart(n, name)]
        cells = (family.letters[name], words.some(family.worse(name)) or "–", words.some(alike) or "–")
        lines.append(_flat(section, entry, "recipe", tuple(map(Cell, cells))))
    columns = (
        Column("Group", note=GROUP, numeric=False, key="group"),
        Column("Better than", numeric=False, key="better_than"),
        Column("Not told apart from", numeric=False, key="alike"),
    )
    caption = (
        f"By {metric_title(section, metric, features)}, all recipes compared together ({TESTED}). A better mean that is not "
        "told apart is no order: not told apart from the same recipe, two may still be told apart from each other."
        + (" Means are geometric, as ratios are compared." if family.log else "")
    )
    return Table(f"{section.slug}-order", "Who is better than whom", caption, columns, tuple(lines))


TESTED = "moderated t with a family-wise error of 5 %"


def pairs(section: Section) -> Table | None:
    """All pairwise differences of the leading metric; None where nothing can be tested."""
    metric, features = section.quality
    family = section.compare(metric, "test", features).family
    if not family.pairs:
        return None
    title = metric_title(section, metric, features)
    values = {e.name: e.per_seed(metric, "test", features) for e in section.finished}
    lines, floors = [], {}
    for pair in sorted(family.pairs, key=lambda p: (p.adjusted, p.found.p, p.a, p.b)):
        a, b = values[pair.a], values[pair.b]
        floors[len(a), len(b)] = stats.permutation_floor(len(a), len(b))
        shuffled = stats.permutation(a, b, family.log)
        value, low, high = difference(pair.found, pair.simultaneous)
        mean, least, most = words.ratio(value, low, high) if family.log else words.alike(value, low, high)
        cells = (
            Cell(mean, f"[{least}, {most}]", value=value, source=f"{len(a)} and {len(b)} training seeds"),
            _p_cell(pair.adjusted),
            _p_cell(pair.found.p),
            Cell("–") if shuffled is None else _p_cell(shuffled),
            Cell(f"{pair.a} is better" if pair.significant else "not told apart"),
        )
        lines.append(Line(f"{pair.a} {'/' if family.log else '−'} {pair.b}", "recipe", -1, cells))
    columns: tuple[Column, ...] = (
        Column(
            f"{'Ratio' if family.log else 'Difference'} of {title}",
            key="ratio" if family.log else "difference",
            note="with an interval that holds for all pairs together, in 95 % of families",
        ),
        Column("p, family", key="p_family", note="of all pairs of this table together: the one that decides"),
        Column("p, pair", key="p_pair", note="of this pair alone, had it been the one question asked"),
        Column("p, permutation", key="p_permutation", note="exact, of this pair alone: a check that assumes no law"),
        Column("Verdict", numeric=False, key="verdict"),
    )
    blind = sorted({(n, m, p) for (n, m), p in floors.items() if p >= stats.ALPHA})
    notes = [
        f"No permutation test of {n} against {m} seeds: its smallest attainable p is {p:.2g}, not below {stats.ALPHA:g}."
        for n, m, p in blind
    ]
    notes.append("To ask one question only, `bench compare A B`.")
    if len(blind) == len(floors):
        columns = (*columns[:3], *columns[4:])
        lines = [replace(line, cells=(*line.cells[:3], *line.cells[4:])) for line in lines]
    scale = "on the scale of logarithms" if family.log else "as they are"
    scale += ", since not every score is positive" if metric in RATIOS and not family.log else ""
    caption = f"All pairs of {len(family.names)} recipes over training seeds, {TESTED}; scores are compared {scale}."
    slug = f"{section.slug}-pairs"
    return Table(slug, "Pairwise differences", caption, columns, tuple(lines), tuple(notes), first="Pair")


def difference(found: stats.Difference, interval: tuple[float, float] | None = None) -> tuple[float, float, float]:
    """(a - b, low, high), or of logarithms (a / b, low, high); `interval` in place of the pair's own."""
    numbers = (found.mean, *(interval or (found.low, found.high)))
    low, middle, high = sorted(math.exp(min(x, 700.0)) if found.log else x for x in numbers)
    return middle, low, high


def _p_cell(p: float) -> Cell:
    if math.isnan(p):
        return Cell("–")
    return Cell(words.p_value(p).removeprefix("p = ").removeprefix("p "), value=p)


def failed(section: Section) -> Table | None:
    if not section.failures:
        return None
    columns = (
        Column("Seed", key="seed"),
        Column("What", numeric=False, key="what"),
        Column("Status", numeric=False),
        Column("Reason", numeric=False),
        Column("Run", numeric=False),
    )
    lines = tuple(
        Line(
            e.name,
            "failed",
            e.mark,
            (
                Cell(f.seed_text),
                Cell(words.plain(f.metric) or "training"),
                Cell(f.status),
                Cell(f.reason or "no reason given"),
                Cell(words.plain(f.run)),
            ),
        )
        for e, f in section.failures
    )
    caption = "They stay in the comparison: their seeds count as lost, their measurements as missing."
    return Table(f"{section.slug}-failed", "What did not finish", caption, columns, lines)


def sources(section: Section) -> Table | None:
    """What stands behind the numbers at the default plans: a line for each combination of what decides them."""
    frames = []
    for entry in (*section.finished, *section.externals, *section.baselines):
        whole = entry.baseline or entry.external or entry.plan is None
        rows = entry.main if whole else at_plan(entry.main, entry.plan or ("", math.nan, ""))
        likely = entry.main[entry.main["kind"] != ""]
        rows = pd.concat([rows[rows["kind"] == ""], likely])
        name = BASELINES.get(entry.recipe, entry.name) if entry.baseline else entry.name
        frames.append(rows.assign(name=name, mark=entry.mark))
    if not frames or not len(rows := finite(pd.concat(frames))):
        return None
    everyone = len({e.name for e in section.finished})
    lines = []
    for group in provenance.grouped(rows):
        names = [n for n in group.names if n in {e.name for e in section.finished}]
        rest = [n for n in group.names if n not in names]
        who = [f"all {everyone} recipes"] if len(names) == everyone > 3 else names
        cells = [Cell(text) for text in (*group.values, words.listing([*who, *rest]))]
        lines.append(Line(words.listing([_short(m) for m in group.metrics]), "recipe", -1, tuple(cells)))
    heads = provenance.HEADS
    columns = tuple(Column(title, numeric=False, key=key) for key, title in heads.items())
    versions = sorted({f"{v:g}" for v in rows["schema"].dropna()})
    schema = (
        f" Rows of schema {words.listing(versions)}, which docs/rows.md documents column by column." if versions else ""
    )
    caption = "Numbers that differ in any of these columns are never compared." + schema
    columns = (*columns, Column("Rows", numeric=False, key="rows"))
    return Table(f"{section.slug}-sources", "Behind the numbers", caption, columns, tuple(lines), first="Numbers")


def _short(metric: str) -> str:
    return SHOWN[metric].title if metric in SHOWN else words.plain(metric).replace("_", " ")


def comparison(found: Sequence[Section]) -> pd.DataFrame:
    """The headline tables as one frame: what is printed as strings, then the same as numbers."""
    records = []
    shown: dict[str, None] = dict.fromkeys(["dataset", "tier", "recipe", "plan"])
    numbers: dict[str, None] = {}
    for section in found:
        table = headline(section)
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
