"""The answer to whether A is better than B: in a paragraph, as a table and as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from reports import coverage, stats, words
from reports.metrics import SPEED, UNITS
from reports.stats import Difference, Summary
from reports.tables.cells import seconds_text
from reports.tables.pairs import difference


@dataclass(frozen=True)
class Contrast:
    """One metric that both sides have: their means, the difference a - b with its test, or why it was not taken.

    adjusted: p after Holm's correction over the lines that were not asked for; of the one that was, p itself.
    family:   p among all pairs of so many `recipes` together; NaN where the two are not compared in the report.
    floor:    the smallest p that a permutation test could give here. spread: of disjoint sample sets, either side.
    """

    key: str
    metric: str
    split: str
    space: str
    title: str
    direction: str
    a: Summary
    b: Summary
    found: Difference | None = None
    adjusted: float = math.nan
    family: float = math.nan
    recipes: int = 2
    shuffled: float | None = None
    floor: float = math.nan
    needed: int | None = None
    spread: tuple[float | None, float | None] = (None, None)
    refused: str = ""
    unit: str = ""
    left_out: tuple[str, ...] = ()  # why the report does not compare either side on this metric

    @property
    def significant(self) -> bool:
        return self.adjusted < stats.ALPHA

    def winner(self, a: str, b: str) -> str:
        """Who is better, or "tie", "differ" (where no direction is better) or "" (no test)."""
        if self.found is None or math.isnan(self.found.p):
            return ""
        if not self.significant:
            return "tie"
        if not self.direction:
            return "differ"
        return a if (self.found.mean < 0) == (self.direction == "↓") else b


@dataclass(frozen=True)
class Comparison:
    """A against B on one data set and tier; the first line is the metric that was asked for."""

    a: str
    b: str
    dataset: str
    tier: str
    lines: tuple[Contrast, ...]
    remarks: tuple[str, ...] = ()  # what the verdict must say of either side
    again: str = ""  # the command that makes more seeds

    @property
    def lead(self) -> Contrast:
        return self.lines[0]

    def verdict(self) -> str:
        return _verdict(self)

    @property
    def notes(self) -> list[str]:
        """What the intervals are worth, what the table holds, and how to know more."""
        line, out = self.lead, []
        others = sum(not math.isnan(x.adjusted) for x in self.lines[1:])
        if others:
            out.append(
                "The first line is what was asked, a single test; p of the other lines is corrected for their number "
                f"({others}) by Holm's method."
            )
        if any(x.found is not None and x.found.log for x in self.lines):
            out.append("A ratio (×) is one of geometric means.")
        if any("–" in _said(x, s) for x in self.lines for s in (x.a, x.b)):
            out.append(
                "In brackets stand the least and the most of the seeds, where the interval is wider than half the mean."
            )
        if line.found is not None and not math.isnan(line.found.p):
            out.append(coverage.sentence(min(line.found.n), "interval" if line.found.paired else "pair"))
        if self.again and not line.significant:
            out.append(f"To know more: {self.again}")
        return out

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(heads, rows) of texts."""
        heads = ["metric", self.a, self.b, "difference or ratio [95 %]", "p, pair", "p, family", "p, Holm", "verdict"]
        return heads, [_cells(line, self.a, self.b, i == 0) for i, line in enumerate(self.lines)]

    def as_json(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "dataset": self.dataset,
            "tier": self.tier,
            "verdict": self.verdict(),
            "notes": self.notes,
            "metrics": [_json(line, self.a, self.b) for line in self.lines],
        }


def _said(line: Contrast, summary: Summary) -> str:
    if line.metric == "latency":
        return " ".join(p for p in seconds_text(summary) if p)
    if line.metric == "throughput":
        return words.si(summary.mean, "/s")
    if line.metric == "peak_memory":
        return f"{words.number(summary.mean / 2**20)} MiB"
    return " ".join(p for p in words.with_interval(summary) if p)


def _number(line: Contrast, value: float) -> str:
    if line.metric == "latency":
        return words.minus("-" * (value < 0)) + words.seconds(abs(value))
    if line.metric == "throughput":
        return words.minus("-" * (value < 0)) + words.si(abs(value), "/s")
    return words.number(value / 2**20) + " MiB" if line.metric == "peak_memory" else words.number(value)


def _interval(line: Contrast, found: Difference) -> str:
    if found.log:
        ratio, low, high = words.ratio(*difference(found))
        return f"{ratio}× [{low}, {high}]"
    if line.metric in SPEED:
        return f"{_number(line, found.mean)} [{_number(line, found.low)}, {_number(line, found.high)}]"
    mean, low, high = words.alike(found.mean, found.low, found.high)
    return f"{mean} [{low}, {high}]"


def _p(p: float) -> str:
    return "–" if math.isnan(p) else words.p_value(p).removeprefix("p = ").removeprefix("p ")


def _cells(line: Contrast, a: str, b: str, lead: bool) -> list[str]:
    heading = f"{line.title} {line.direction}".strip()
    if line.unit and line.unit in UNITS.values():
        heading += f", {line.unit}"
    values = [heading, _said(line, line.a), _said(line, line.b)]
    if line.refused:
        return [*values, "", "", "", "", f"not compared: they differ in {line.refused}"]
    if line.found is None:
        return [*values, _number(line, line.a.mean - line.b.mean), "", "", "", "no test: one training seed"]
    winner = line.winner(a, b)
    verdict = {"": "no test: no spread", "tie": "not told apart", "differ": "different"}.get(
        winner, f"{winner} is better"
    )
    adjusted = "asked" if lead else _p(line.adjusted)
    return [*values, _interval(line, line.found), _p(line.found.p), _p(line.family), adjusted, verdict]


def _verdict(c: Comparison) -> str:
    line = c.lead
    where = c.dataset + (f" (tier {c.tier})" if c.tier else "")
    unit = f" {line.unit}" if line.unit in UNITS.values() else ""
    counted = f"{line.a.n} and {line.b.n} training seeds"
    if line.a.n == line.b.n:
        counted = words.plural(line.a.n, "training seed") + (" each" if line.a.n > 1 else " each, and so no interval")
    means = f"{_said(line, line.a)}{unit} against {_said(line, line.b)}{unit}"
    out = [f"On {where}, {line.title} of {c.a} and {c.b}: {means} ({counted})."]
    found = line.found
    if found is None:
        out.append(
            f"The difference is {_number(line, line.a.mean - line.b.mean)}{unit}. With one training seed on a side no "
            "difference can be tested: nothing is claimed. Needed: at least 2 seeds each, better 5."
        )
    elif math.isnan(found.p):
        out.append(
            "No score varies over seeds, so there is nothing to test the difference against: nothing is claimed."
        )
    else:
        what, unit = ("Ratio", "") if found.log else ("Difference", unit)
        out.append(f"{what} {_interval(line, found)}{unit} (95 % interval), {words.p_value(found.p)} {_test(line)}.")
        winner = line.winner(c.a, c.b)
        if winner == "differ":
            out.append("They differ significantly; neither direction is better in itself.")
        elif winner == "tie":
            out.append("They are not told apart: no difference could be shown, which is not to say that there is none.")
            out.append(_needed(line))
        else:
            better = {"↓": "lower", "↑": "higher"}[line.direction]
            out.append(f"{winner} is significantly better ({better} is better).")
        out.append(_shuffled(line))
    if any(s is not None for s in line.spread):
        parts = [f"{_number(line, s)} ({name})" for s, name in zip(line.spread, (c.a, c.b)) if s is not None]
        out.append(
            f"Disjoint sample sets of one trained model differ by a standard deviation of {words.listing(parts)}; that is "
            "not the error of this comparison."
        )
    out += [*line.left_out, *c.remarks]
    return " ".join(part for part in out if part)


def _test(line: Contrast) -> str:
    assert line.found is not None
    if line.found.paired:
        return f"by the paired t over the {line.found.n[0]} trained models that both share"
    test = "by the moderated t over training seeds, for this pair alone as if it had been the one question asked"
    if math.isnan(line.family):
        return test
    return f"{test}; {words.p_value(line.family)} among all pairs of the {line.recipes} recipes compared in the report"


def _needed(line: Contrast) -> str:
    if line.needed is None or line.found is None:
        return ""
    what = "pairs" if line.found.paired else "seeds each"
    if line.needed <= min(line.found.n):
        return ""
    return f"Were this difference and this spread the true ones, {line.needed:,} {what} would show it in 80 % of repetitions."


def _shuffled(line: Contrast) -> str:
    assert line.found is not None
    n, m = line.found.n
    of = f"{n} pairs" if line.found.paired else f"{n} against {m} seeds"
    least = f"its smallest attainable p is {line.floor:.2g}"
    if line.shuffled is None:
        return f"No permutation test: of {of} {least}, not below {stats.ALPHA:g}."
    return f"A permutation test gives {words.p_value(line.shuffled)} (of {of} {least})."


def _json(line: Contrast, a: str, b: str) -> dict[str, Any]:
    def side(summary: Summary, spread: float | None) -> dict[str, Any]:
        return {"mean": summary.mean, "half": summary.half, "seeds": summary.n, "sampling_sd": spread}

    made: dict[str, Any] = {
        "metric": line.key,
        "title": line.title,
        "better": {"↓": "lower", "↑": "higher"}.get(line.direction),
        "a": side(line.a, line.spread[0]),
        "b": side(line.b, line.spread[1]),
        "refused": line.refused or None,
        "test": None,
    }
    if line.found is not None:
        found = line.found
        made |= {
            "test": "paired t" if found.paired else "moderated t",
            "scale": "ratio" if found.log else "difference",
            **dict(zip(("ratio" if found.log else "difference", "low", "high"), difference(found))),
            "p": None if math.isnan(found.p) else found.p,
            "p_family": None if math.isnan(line.family) else line.family,
            "p_holm": None if math.isnan(line.adjusted) else line.adjusted,
            "p_permutation": line.shuffled,
            "p_permutation_floor": None if math.isnan(line.floor) else line.floor,
            "verdict": line.winner(a, b) or None,
            "needed": line.needed,
        }
    return made
