"""What the runs of an entry cost, as a multiple of the budget that they were matched by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from reports import stats, words
from reports.entries import Entry
from reports.records import number_of, run_id, text_of


def with_multiples(entries: list[Entry], records: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Each entry's cost with its parents as a multiple of its own budget.

    Without run records the budget is not known; the largest that a recipe without parents had stands in for it.
    """
    known = {text_of(r, "where"): r for r in records}
    costs = {}
    for entry in entries:
        spent = _spent(entry, known)
        own_cost, total_cost = (
            stats.summarise([own for own, _ in spent]),
            stats.summarise([total for _, total in spent]),
        )
        if own_cost and total_cost and own_cost.mean > 0:
            costs[entry.name] = (own_cost.mean, max(own_cost.mean, total_cost.mean))
    alone = [own_cost for own_cost, total_cost in costs.values() if total_cost <= 1.01 * own_cost] or [
        own_cost for own_cost, _ in costs.values()
    ]
    largest = max(alone, default=0.0)

    def multiple(entry: Entry) -> float | None:
        budget = entry.budget.get(entry.match) or largest
        return costs[entry.name][1] / budget if entry.name in costs and budget else None

    return [replace(e, multiple=multiple(e)) for e in entries]


_SPENT = {
    "flops": ("flops", "cost_total"),
    "images": ("images", "images_total"),
    "seconds": ("seconds", "seconds_total"),
}


def _spent(entry: Entry, known: Mapping[str, Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(own, with ancestors) of each finished run, in the quantity that its budget is counted in."""
    by_id = {run_id(r): r for r in entry.records}
    own_cost, total_cost = _SPENT.get(entry.match, _SPENT["flops"])
    spent = []
    for run, rows in entry.main.groupby("run"):
        own, total = float(rows[own_cost].max()), float(rows[total_cost].max())
        record = by_id.get(str(run), {})
        if entry.match == "seconds" and _clock(record) > 0:
            own, total = _clock(record), _seconds_total(record, known)
        elif entry.match == "images" and math.isnan(total):
            total = number_of(record, "images_total")
        spent.append((own, own if math.isnan(total) else max(own, total)))
    return spent


def _clock(record: Mapping[str, Any]) -> float:
    """A run's training seconds by the clock that its budget was planned with.

    One thread on a CPU is planned and counted in CPU time, which other work on the machine does not stretch; more
    threads and other devices by the wall clock.
    """
    alone = number_of(record, "threads") == 1 and text_of(record, "device").startswith("cpu")
    return number_of(record, "cpu_seconds" if alone and number_of(record, "cpu_seconds") > 0 else "seconds")


def _seconds_total(record: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> float:
    """The same with every ancestor: by its own record where that is here, else by what the run wrote down of it."""
    costs = record.get("costs")
    total = _clock(record)
    for where, cost in costs.items() if isinstance(costs, Mapping) else ():
        if where != text_of(record, "where") and isinstance(cost, Mapping):
            here = _clock(known.get(where, {}))
            total += here if here > 0 else max(0.0, _clock({**record, **cost, "cpu_seconds": cost.get("cpu_seconds")}))
    return total


MATCHED = {"flops": "FLOPs", "images": "images", "seconds": "seconds"}


def multiple_text(entry: Entry) -> str:
    """What an entry cost as a multiple of its budget, "2.0×"; "" where it kept to it or that is not known."""
    if entry.multiple is None or abs(entry.multiple - 1) <= entry.allowance - 1:
        return ""
    return f"{entry.multiple:.1f}×" if entry.multiple >= 0.095 else f"{entry.multiple:.2f}×"


def budget_words(entry: Entry) -> str:
    """1.60 TFLOP, at most 50.0 s, 280 k parameters."""
    budget = entry.budget
    parts = [words.si(budget["images"], "images") if entry.match == "images" and budget.get("images") else ""]
    parts += [words.si(budget["flops"], "FLOP") if entry.match == "flops" and budget.get("flops") else ""]
    limit = "" if entry.match == "seconds" else "at most "
    parts += [f"{limit}{words.seconds(budget['seconds'])}" if budget.get("seconds") else ""]
    parts += [f"{words.si(budget['params'])} parameters" if budget.get("params") else ""]
    return ", ".join(p for p in parts if p)
