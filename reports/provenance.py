"""Which columns of a row decide what its number means: numbers that differ in one of them are not compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from reports.words import plain

_MODEL = {
    "data": "the data",
    "unit": "the unit",
    "weights": "the weights",
    "fraction": "the part of the training budget",
    "conditional": "being told the labels",
    "dtype": "the number format",
}
QUALITY = {
    "features": "the feature space",
    "split": "the reference split",
    "n": "the number of samples",
    "n_ref": "the number of reference examples",
    **_MODEL,
}
LIKELIHOOD = {
    "kind": "the kind of likelihood",
    "options": "the options of the likelihood",
    "relation": "being a bound",
    "split": "the split",
    "n": "the number of examples",
    **_MODEL,
}
SPEED = {
    "device": "the device",
    "threads": "the number of threads",
    "dtype": "the number format",
    "contended": "other work on the machine",
    "unit": "the unit",
}
# What samples that came from elsewhere say of themselves: nothing of the model.
OF_SAMPLES = ("features", "split", "n", "n_ref", "data", "unit")

_SPEED = ("latency", "throughput", "peak_memory")
_WEIGHTS = {"ema": "averaged", "raw": "raw", "": "not recorded"}

Key = tuple[str, ...]


def decisive(metric: str, likelihood: bool = False) -> Mapping[str, str]:
    """The columns that decide a metric, each with its name in words."""
    if likelihood:
        return LIKELIHOOD
    return SPEED if is_speed(metric) else QUALITY


def is_speed(metric: str) -> bool:
    """Whether the metric was timed, or counted, while samples were drawn for that alone."""
    return metric.startswith(_SPEED)


def keys(rows: pd.DataFrame, fields: Mapping[str, str]) -> list[Key]:
    """What the rows hold in those columns, each combination once, sorted."""
    found = rows[list(fields)].drop_duplicates()
    return sorted({tuple(map(_text, fields, row)) for row in found.itertuples(index=False)})


def difference(a: Key, b: Key, fields: Mapping[str, str], known: Iterable[str] = (), between: str = ", not ") -> str:
    """In which columns two combinations differ, with what they hold: "the number of samples (500, not 898)".

    known: look at these columns only. The column "" holds what is too long to be shown.
    """
    looked = set(known) or set(fields)
    parts = [
        word + (f" ({x}{between}{y})" if column else "")
        for (column, word), x, y in zip(fields.items(), a, b)
        if x != y and column in looked
    ]
    return " and ".join(parts)


def _text(column: str, value: object) -> str:
    """A value in words; a missing fraction is the whole budget."""
    if column == "weights":
        return _WEIGHTS.get(str(value), plain(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isnan(value):
            return "1" if column == "fraction" else "not recorded"
        return f"{value:,.0f}" if value % 1 == 0 else f"{value:g}"
    return plain(value) or "none"


def described(rows: pd.DataFrame, likelihood: bool = False) -> str:
    """The provenance of a number in one line, for the reader who points at it."""
    if not len(rows):
        return ""
    first = rows.iloc[0]
    metric = str(first["metric"])
    parts = [plain(metric).replace("_", " ")]
    fields = decisive(metric, likelihood)

    def some(column: str) -> list[str]:
        return list(dict.fromkeys(_text(column, v) for v in rows[column]))

    if fields is SPEED:
        named = [*some("device"), f"{'/'.join(some('threads'))} threads", *some("dtype")]
        parts += named + (["other work on the machine"] if rows["contended"].any() else [])
    else:
        parts += [plain(v) for c in ("kind", "options") if likelihood for v in some(c) if v != "none"]
        parts += [f"{v} split" for v in some("split") if v != "none"]
        parts += [v for v in some("features") if v != "none"]
        parts += [f"n = {'/'.join(some('n'))}"] if rows["n"].notna().any() else []
        parts[-1] += f" against {'/'.join(some('n_ref'))}" if rows["n_ref"].notna().any() else ""
        draws = rows["draw"].nunique()
        parts += [f"{draws} disjoint sample sets"] if draws > 1 else []
        parts += [f"{v} weights" for v in some("weights") if v != "not recorded"]
        part = some("fraction")
        parts += [f"after {'/'.join(part)} of the budget"] if part != ["1"] else []
        parts += [v for v in some("dtype") if v != "none"]
        parts += [f"data {v}" for v in some("data") if v != "none"]
        parts += [f"samples {v}" for v in some("samples") if v != "none"]
        parts += [f"brought from {v}" for v in some("resize") if v != "none"]
        parts += [v for v in some("reading") if v != "none"]
        parts += [f"torch {'/'.join(v for v in some('torch'))}"] if some("torch") != ["none"] else []
        parts += ["told the labels"] if rows["conditional"].any() else []
    return ", ".join(parts)


HEADS = {
    "split": "Split",
    "features": "Features or kind",
    "n": "n",
    "n_ref": "n, real",
    "weights": "Weights",
    "fraction": "Budget",
    "conditional": "Labels",
    "dtype": "Format",
    "device": "Device",
}


@dataclass(frozen=True)
class Group:
    """Numbers with the same provenance: what is in the columns of HEADS, of which metrics, in which rows of the table."""

    values: Key
    metrics: tuple[str, ...]
    names: tuple[str, ...]


def grouped(rows: pd.DataFrame) -> list[Group]:
    """The rows (with a column "name") by what decides them; metrics that share it all stand in one group."""
    kinds = rows["kind"] + rows["options"].map(lambda o: f" ({o.replace(',', ' ')})" if o else "")
    likely = rows["kind"].ne("")
    speed = rows["metric"].str.startswith(_SPEED)
    kept = rows.assign(features=rows["features"].where(~likely, kinds), device=rows["device"].where(speed, ""))
    kept = kept[~rows["metric"].str.startswith(("term_", "flops")) & rows["metric"].ne("")]
    by_metric: dict[tuple[str, Key], dict[str, None]] = {}
    for row in kept[[*HEADS, "metric", "name"]].drop_duplicates().itertuples(index=False):
        none = ("fraction", "conditional") if not row.weights else ()  # of no model
        texts = [_text(c, v) for c, v in zip(HEADS, row)]
        key = tuple("" if c in none or v in ("none", "not recorded") else v for c, v in zip(HEADS, texts))
        by_metric.setdefault((str(row.metric), key), {})[str(row.name)] = None
    found: dict[tuple[Key, tuple[str, ...]], list[str]] = {}
    for (metric, key), names in by_metric.items():
        found.setdefault((key, tuple(names)), []).append(metric)
    groups = [Group(key, tuple(metrics), names) for (key, names), metrics in found.items()]
    return sorted(groups, key=lambda g: (g.values[1] == "", g.values[1], g.values[0], -len(g.names), g.values))
