"""Likelihoods by kind, since only those of one kind are compared, and the parts that they are the sum of."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from reports import stats
from reports.entries import Entry
from reports.rows import finite, seed_means
from reports.words import plain

_RELATIONS = {"=": 0, "≤": 1, "≈": 2}


def kind_key(rows: pd.DataFrame) -> str:
    """The relation and the kind of a likelihood, with its options: what numbers must share to be compared."""
    first = rows.iloc[0]
    return f"{first['relation']} {kind_text(rows)}".strip()


def kind_text(rows: pd.DataFrame) -> str:
    """The kind of a likelihood with its options: "pf-ode (steps=20 probes=4)"."""
    kind, options = rows.iloc[0]["kind"], rows.iloc[0]["options"]
    return plain(f"{kind} ({options.replace(',', ' ')})" if options and options not in kind else kind)


def likelihood_rows(entry: Entry, metric: str, split: str) -> list[pd.DataFrame]:
    """An entry's likelihoods of a split, one frame per kind; the headline kind, else the tightest relation, first."""
    rows = finite(entry.main[entry.main["metric"] == metric])
    rows = rows[rows["split"].isin([split] if split != "test" else ["test", ""])]
    frames = [group for _, group in rows.groupby(["kind", "options", "relation"], sort=True)]
    return sorted(
        frames, key=lambda g: (not g["headline"].any(), _RELATIONS.get(g["relation"].iloc[0], 3), g["kind"].iloc[0])
    )


def same_kind(entry: Entry, metric: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of another metric that belong to a likelihood: same kind, options and split."""
    first, main = rows.iloc[0], entry.main
    same = (main["kind"] == first["kind"]) & (main["options"] == first["options"]) & (main["split"] == first["split"])
    return main[same & (main["metric"] == metric)]


def solver_error(entry: Entry, rows: pd.DataFrame) -> float | None:
    """A likelihood's own estimate of its solver's error, where that is more than twice its standard error over examples."""
    known = stats.summarise(seed_means(same_kind(entry, f"{rows['metric'].iloc[0]}_solver_error", rows)))
    error = stats.summarise(seed_means(rows, "error"))
    return known.mean if known and error and known.mean > 2 * error.mean else None


TERM = "term_"


def parts_of(entry: Entry) -> dict[str, dict[str, dict[str, pd.DataFrame]]]:
    """The named parts of an entry's likelihoods, in nats: {kind: {part: {split: rows}}}; numbered parts in order."""
    rows = finite(entry.main[entry.main["metric"].str.startswith(TERM)])
    found: dict[str, dict[str, dict[str, pd.DataFrame]]] = {}
    for (_, _, metric), group in rows.groupby(["kind", "options", "metric"], sort=True):
        splits = {str(split): part for split, part in group.groupby("split")}
        found.setdefault(kind_text(group), {})[plain(metric.removeprefix(TERM))] = splits
    return {kind: dict(sorted(parts.items(), key=lambda p: _natural(p[0]))) for kind, parts in found.items()}


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts kl_2 before kl_10."""
    return tuple((1, int(x), "") if x.isdecimal() else (0, 0, x) for x in re.findall(r"\d+|\D+", name))


def numbered(names: Sequence[str]) -> dict[str, list[str]]:
    """Those of the names that are stem_1, stem_2, stem_3 ...: {stem: names}; two make no row."""
    found: dict[str, list[str]] = {}
    for name in names:
        stem, _, number = name.rpartition("_")
        if stem and number.isdecimal():
            found.setdefault(stem, []).append(name)
    return {stem: some for stem, some in found.items() if len(some) > 2}
