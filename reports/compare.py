"""One question: is A better than B? Two recipes, two runs, or two plans or averagings of the same trained models.

Different models are compared over training seeds by the moderated t of `reports.stats`, with the recipes of their report
next to them, the same trained models by the paired t. The metric asked for is one planned test, whose p needs no
correction; next to it stands the p of its family, all pairs of recipes together, which the report's tables go by. The other
metrics that both have are corrected by Holm's method among themselves. Numbers whose provenance differs are not compared,
and the field that differs is named.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from reports import provenance, stats, words
from reports.answer import Comparison, Contrast
from reports.budgets import multiple_text
from reports.entries import Entry
from reports.likelihoods import kind_key, kind_text
from reports.metrics import LIKELIHOODS, SHOWN, SPEED, is_ratio
from reports.plans import at_plan, plans_of
from reports.records import run_id
from reports.rows import finite, space_of
from reports.scores import Measure, Score
from reports.sections import Compared, Section, sections
from reports.stats import Difference

_LEFT_OUT = ("term_", "latency_", "throughput_", "flops", "entropy")


_OF_TRAINING = ("nn_ratio", "authenticity")  # for these the training split is what is asked


class NotComparable(ValueError):
    """A and B can not be compared; the message is one line for the user."""


class UnknownName(NotComparable):
    """A name that stands for nothing in the rows. what: of which kind; known: those that are there."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        self.what, self.name, self.known = what, name, tuple(known)
        super().__init__(f"unknown {what} '{name}'; known: {', '.join(self.known)}")


@dataclass(frozen=True)
class Selector:
    """What a user named: a recipe (or a row's name) or one run of it, at a plan, with averaged or raw weights."""

    name: str
    run: str = ""
    plan: str = ""  # "sampler-steps", with options "sampler-steps,eta=0.5"; the card's default
    weights: str = ""  # "ema" or "raw"; the averaged ones

    def __str__(self) -> str:
        return ":".join(part for part in (f"{self.name} {self.run}".strip(), self.plan, self.weights) if part)


@dataclass(frozen=True)
class Side:
    """The rows that a selector stands for in one section."""

    name: str
    entry: Entry
    rows: pd.DataFrame
    plan: str = ""  # where it is another than the default
    whole: bool = True  # whether these are the rows that the report compares


def compare(
    frame: pd.DataFrame,
    runs: Sequence[Mapping[str, Any]],
    a: Selector,
    b: Selector,
    metric: str = "",
    dataset: str = "",
    tier: str = "",
) -> Comparison:
    """Compare a with b on `metric`, or on the one that leads the report of their data set.

    Raises NotComparable (UnknownName for a name that is not there) with one line that says why and what to do.
    """
    found = [s for s in sections(frame, runs) if dataset in ("", s.dataset) and tier in ("", s.tier)]
    if not found:
        raise NotComparable(f"there are no results{_where(dataset, tier)}")
    _known(found, a)
    _known(found, b)
    both = [s for s in found if _entries(s, a) and _entries(s, b)]
    if not both:
        places = [f"{x} has results on {words.listing(_places(found, x))}" for x in (a, b)]
        raise NotComparable(f"nothing in common: {', '.join(places)}")
    if len(both) > 1:
        choices = words.listing([_place(s) for s in both], "or")
        raise NotComparable(f"both have results on {choices}; choose by --dataset and --tier")
    section = both[0]
    one, other = _side(section, a), _side(section, b)
    if one.entry is other.entry and one.rows.equals(other.rows):
        raise NotComparable(f"{one.name} and {other.name} are the same rows; name two different things")
    lines = _lines(section, one, other)
    if not lines:
        raise NotComparable(f"nothing in common: no metric was measured of both {one.name} and {other.name}")
    lead = _asked(section, lines, metric, one, other)
    if lead.refused:
        raise NotComparable(
            f"{one.name} and {other.name} can not be compared on {lead.title}: they differ in {lead.refused}"
        )
    rest = [line for line in lines if line is not lead and _told(section, line)]
    tested = [x for x in rest if x.found is not None and not math.isnan(x.found.p)]
    corrected = dict(zip((x.key for x in tested), stats.holm([x.found.p for x in tested if x.found])))
    rest = [replace(x, adjusted=corrected.get(x.key, math.nan)) for x in rest]
    if lead.found is not None:
        lead = replace(lead, adjusted=lead.found.p, needed=stats.needed(lead.found, lead.recipes))
    return Comparison(
        one.name,
        other.name,
        section.title,
        words.plain(section.tier),
        (lead, *rest),
        _remarks(one, other),
        _again(section, one, other),
    )


def _where(dataset: str, tier: str) -> str:
    return (f" on {dataset}" if dataset else "") + (f" at tier {tier}" if tier else "") + "; see `bench list runs`"


def _place(section: Section) -> str:
    return section.title + (f" ({words.plain(section.tier)})" if section.tier else "")


def _places(found: Sequence[Section], selector: Selector) -> list[str]:
    return [_place(s) for s in found if _entries(s, selector)]


def _known(found: Sequence[Section], selector: Selector) -> None:
    if not any(_entries(s, selector) for s in found):
        everyone = [e for s in found for e in (*s.finished, *s.externals)]
        if selector.run:
            raise NotComparable(f"{selector} has no results; score it: bench evaluate RUN")
        raise UnknownName("recipe", selector.name, dict.fromkeys(n for e in everyone for n in (e.recipe, e.name)))


def _entries(section: Section, selector: Selector) -> list[Entry]:
    """The rows of the comparison that a selector may mean: one by its whole name, else all of the recipe."""
    everyone = (*section.finished, *section.externals)
    if selector.run:
        return [e for e in everyone if e.recipe == selector.name and (e.rows["run"] == selector.run).any()]
    exact = [e for e in everyone if e.name == selector.name]
    return exact or [e for e in everyone if e.recipe == selector.name]


def _side(section: Section, selector: Selector) -> Side:
    entries = _entries(section, selector)
    if len(entries) > 1:
        names = words.listing([f"'{e.name}'" for e in entries], "or")
        raise NotComparable(f"'{selector.name}' stands for {len(entries)} rows on {section.title}: name {names}")
    (entry,) = entries
    rows = entry.main
    if selector.weights:
        whole = entry.rows[entry.rows["fraction"].isna() | (entry.rows["fraction"] >= 1)]
        rows = whole[whole["weights"] == selector.weights]
        if not len(rows):
            kept = sorted({w for w in whole["weights"] if w})
            raise NotComparable(
                f"{selector}: no such weights were scored; there are: {', '.join(kept) or 'none named'}"
            )
    if selector.run:
        rows = rows[rows["run"] == selector.run]
    drawn = rows["sampler"] != ""
    plan = entry.plan
    if selector.plan:
        plans = plans_of(rows)
        texts = {p.text.replace(" ", ","): p for p in plans}
        if selector.plan.replace(" ", ",") not in texts:
            raise UnknownName(f"plan of {selector.name}:", selector.plan, texts)
        plan = texts[selector.plan.replace(" ", ",")]
    if plan is not None:
        rows = pd.concat([rows[~drawn], at_plan(rows[drawn], plan)])
    elif not entry.external:
        rows = rows[~drawn | rows["headline"]]
    name = entry.name + (f" {selector.run}" if selector.run else "")
    parts = [
        selector.plan and plan and plan.text,
        {"raw": "raw weights", "ema": "averaged weights"}.get(selector.weights),
    ]
    name += f" ({', '.join(p for p in parts if p)})" if any(parts) else ""
    other = selector.plan if plan != entry.plan else ""
    return Side(name, entry, rows, other, not (other or selector.weights or selector.run))


_Group = tuple[str, str, str, str, str, str]


def _groups(rows: pd.DataFrame) -> dict[_Group, pd.DataFrame]:
    kept = finite(rows)
    kept = kept[
        kept["metric"].ne("") & ~kept["metric"].str.startswith(_LEFT_OUT) & ~kept["metric"].str.endswith("_error")
    ]
    by = ["metric", "split", "space", "kind", "options", "relation"]
    kept = kept.assign(options=kept["options"].where(kept["kind"] != "", ""))  # a sampler's options are the plan
    # Another version of a feature network stands for the same column: it is refused, not overlooked.
    kept = kept.assign(space=kept["features"].map(space_of))
    return dict(iter(kept.groupby(by, sort=True)))


def _lines(section: Section, a: Side, b: Side) -> list[Contrast]:
    ours, others = _groups(a.rows), _groups(b.rows)
    made = []
    for key in ours.keys() & others.keys():
        x, y = ours[key], others[key]
        same = a.entry is b.entry and x.index.equals(y.index)  # what neither plan nor weights touch
        if not same:
            made.append(_line(section, a, b, key, x, y))
    order = {m: i for i, m in enumerate((*SHOWN, *LIKELIHOODS, "kl", *SPEED))}

    def place(line: Contrast) -> tuple[int, bool, str]:
        return order.get(line.metric, 99), line.split == "train", line.key

    return sorted(made, key=place)


def _line(section: Section, a: Side, b: Side, group: _Group, x: pd.DataFrame, y: pd.DataFrame) -> Contrast:
    metric, split, space, kind, _, _ = group
    left_score, right_score = Score(x), Score(y)
    left, right = left_score.summary, right_score.summary
    assert left is not None  # _groups keeps finite values only
    assert right is not None
    line = Contrast(
        key="/".join(part for part in group if part),
        metric=metric,
        split=split,
        space=space,
        title=_title(section, metric, split, x),
        direction=_direction(metric),
        a=left,
        b=right,
        refused=_refusal(a, b, metric, bool(kind), x, y),
        unit=str(x["unit"].iloc[0]) if (x["unit"] == y["unit"].iloc[0]).all() else "",
    )
    if line.refused:
        return line
    line = replace(line, spread=(left_score.spread, right_score.spread))
    runs = [r for r in dict.fromkeys(x["run"]) if r and (y["run"] == r).any()]
    if runs:
        if len(runs) < 2:
            return line
        one, other = ([_of_run(rows, run) for run in runs] for rows in (x, y))
        found = stats.paired(one, other, log=is_ratio(metric) and stats.positive(one, other))
        return replace(
            line,
            found=found,
            shuffled=stats.sign_flips(one, other, found.log) if not math.isnan(found.p) else None,
            floor=stats.permutation_floor(len(runs)),
        )
    one, other = left_score.values, right_score.values
    if min(len(one), len(other)) < 2:
        return line
    compared = _compared(section, a, b, metric, split, x)
    family, recipes = compared.family, len(compared.family.names)
    pair = family.pair(a.entry.name, b.entry.name) if recipes else None
    alone = pair is None
    if alone:  # another plan, weights or budget than the report compares: these two on their own
        family = stats.compare({a.name: one, b.name: other}, log=is_ratio(metric) and stats.positive(one, other))
        pair = family.pair(a.name, b.name)
    if pair is None:
        apart = left.mean - right.mean
        return replace(line, found=Difference(apart, apart, apart, math.nan, 0.0, (len(one), len(other))))
    found = pair.found if pair.a in (a.name, a.entry.name) else pair.found.reversed()
    return replace(
        line,
        found=found,
        family=math.nan if alone else pair.adjusted,
        recipes=2 if alone else recipes,
        shuffled=stats.permutation(one, other, found.log),
        floor=stats.permutation_floor(len(one), len(other)),
        left_out=tuple(
            f"In the report {side.name} is {compared.uncompared[side.entry.name]}."
            for side in (a, b)
            if side.entry.name in compared.uncompared and not side.entry.over_budget and not side.entry.external
        ),
    )


def _compared(section: Section, a: Side, b: Side, metric: str, split: str, rows: pd.DataFrame) -> Compared:
    """All recipes that the report compares on this number; none where the two are not among them as they are here."""
    none = Compared(stats.Family(), {})
    if not (a.whole and b.whole):
        return none
    if metric in LIKELIHOODS:
        return section.compared_likelihoods.get(kind_key(rows), none) if split == "test" else none
    return section.compare(Measure(metric, split, str(rows["features"].iloc[0])), _direction(metric) != "↑")


def _of_run(rows: pd.DataFrame, run: str) -> float:
    return float(rows.loc[rows["run"] == run, "value"].mean())


def _title(section: Section, metric: str, split: str, rows: pd.DataFrame) -> str:
    if metric in SPEED:
        return SPEED[metric][0]
    if metric in LIKELIHOODS:
        name = f"NLL, {kind_text(rows)}"
    else:
        name = section.title_of(metric, str(rows["features"].iloc[0])).replace("_", " ")
        lead = section.lead.space
        if rows["features"].iloc[0] not in ("", lead) and metric not in ("fd", "fd_inf", "kd"):
            name += f" ({space_of(str(rows['features'].iloc[0]))})"
    training = split == "train" and metric not in _OF_TRAINING
    return words.plain(name + (" against training data" if training else ""))


def _direction(metric: str) -> str:
    if metric in SHOWN:
        return SHOWN[metric].direction if SHOWN[metric].judged else ""
    return SPEED[metric][1] if metric in SPEED else "↓" if metric in (*LIKELIHOODS, "kl") else ""


def _refusal(a: Side, b: Side, metric: str, likelihood: bool, x: pd.DataFrame, y: pd.DataFrame) -> str:
    """In what the numbers of the two sides differ besides what was asked to differ; "" where in nothing."""
    fields = {"": "the budget or the data", **provenance.decisive(metric, likelihood)}
    external = a.entry.external or b.entry.external
    known = set(provenance.OF_SAMPLES if external else fields)
    if a.entry is b.entry:
        known -= {"weights"} if set(x["weights"]) != set(y["weights"]) else set()
    protocols = ("", "") if external else (a.entry.protocol, b.entry.protocol)
    keys = [provenance.keys(rows.assign(**{"": p}), fields) for rows, p in zip((x, y), protocols)]
    for side, own in zip((a, b), keys):
        if len(own) > 1 and (differs := provenance.difference(own[0], own[1], fields, known, " and ")):
            return f"{differs} among the seeds of {side.name}"
    return provenance.difference(keys[0][0], keys[1][0], fields, known, " and ")


def _told(section: Section, line: Contrast) -> bool:
    """Whether a metric that was not asked for is worth a line: held-out data, the leading features, and both spaces' FD."""
    lead = space_of(section.lead.space)
    if line.split == "train" and line.metric not in _OF_TRAINING:
        return False
    spaces = {space_of(s) for s in section.spaces} - {lead}
    return line.metric in ("fd", "fd_inf") or line.space not in spaces


def _asked(section: Section, lines: Sequence[Contrast], metric: str, a: Side, b: Side) -> Contrast:
    wanted, _, features = section.lead

    def leads(line: Contrast) -> bool:
        return line.split == "test" and line.space == space_of(features)

    if metric:
        named = [line for line in lines if metric in (line.key, line.metric)]
        if not named:
            raise _unshared(lines, metric, a, b)
        return next((line for line in named if leads(line)), named[0])
    found = [line for line in lines if line.metric == wanted and leads(line)]
    return (found or [line for line in lines if not line.refused] or list(lines))[0]


def _unshared(lines: Sequence[Contrast], metric: str, a: Side, b: Side) -> NotComparable:
    """Why a metric is not among those that both have."""
    kinds = []
    for side in (a, b):
        rows = finite(side.rows[side.rows["metric"] == metric])
        kinds.append(sorted({kind_text(group) for _, group in rows.groupby(["kind", "options"])}))
    if all(kinds) and metric in LIKELIHOODS:
        have = [f"{side.name} has {words.listing(k)}" for side, k in zip((a, b), kinds)]
        return NotComparable(f"likelihoods of different kinds are not compared: {', '.join(have)}")
    if any(kinds):
        side = a if not kinds[0] else b
        why = side.entry.reason(metric)
        return NotComparable(f"{side.name} has no {metric}" + (f": {why}" if why else ""))
    both = [m for m in LIKELIHOODS if all(len(finite(s.rows[s.rows["metric"] == m])) for s in (a, b))]
    return UnknownName("metric", metric, dict.fromkeys([*(line.metric for line in lines), *both]))


def _remarks(a: Side, b: Side) -> tuple[str, ...]:
    out = []
    for side in (a, b):
        if side.entry.over_budget:
            parents = ", parents included" if side.entry.parents else ""
            out.append(f"{side.name} had {multiple_text(side.entry)} the budget{parents}.")
        if side.entry.external:
            out.append(f"{side.name} are samples from elsewhere: their training seeds and budget are not known.")
    return tuple(out)


def _again(section: Section, a: Side, b: Side) -> str:
    """The commands that help: a plan on the runs that it was not drawn from yet, else more training seeds."""
    if a.entry.external or b.entry.external:
        return ""
    commands, plans = [], []
    for side in (a, b):
        if side.plan:
            asked = f"--sampler {shlex.quote(side.plan.replace(',', ':', 1))}"
            plans.append(asked)
            drawn = set(side.rows.loc[side.rows["sampler"] != "", "run"])
            rest = {run_id(r): r for r in side.entry.records if run_id(r) in set(side.entry.rows["run"]) - drawn}
            folders = [str(r.get("folder") or run) for run, r in rest.items()]
            commands += [f"`bench evaluate {shlex.quote(folder)} {asked}`" for folder in folders]
    if commands:
        return words.listing(commands)
    recipes = ",".join(dict.fromkeys((a.entry.recipe, b.entry.recipe)))
    more = max(5, 2 * section.seeds)
    tier = f" --tier {shlex.quote(section.tier)}" if section.tier else ""
    seeds = f"`bench all --dataset {shlex.quote(section.dataset)}{tier} --recipes {recipes} --seeds {more}`"
    then = " and then ".join(f"`bench evaluate RUN {asked}`" for asked in dict.fromkeys(plans))
    return seeds + (f", and then of each new run {then}" if plans else "")
