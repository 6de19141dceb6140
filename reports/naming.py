"""Names for the rows of the comparison, so that runs that differ in what defines them are never averaged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reports.records import run_id, text_of, tier_of
from reports.words import plain


def run_keys(rows: pd.DataFrame) -> list[str]:
    return [run or f"{recipe}/{seed}" for run, recipe, seed in zip(rows["run"], rows["recipe"], rows["seed"])]


_DEFINING = ("config", "match", "budget", "share", "checksum", "precision", "compiled", "noise", "card", "above")


_USUAL = {"precision": "fp32", "compiled": False, "noise": 1, "card": ""}  # of runs that do not say


def names_of_runs(rows: pd.DataFrame, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The comparison row that each run belongs to.

    A recipe with one configuration keeps its plain name. Runs of one recipe that differ in their configuration, budget
    or in being given labels are different rows, named by what differs, so that they are never averaged.
    """
    settings = {run_id(r): _flat({k: v for k, v in {**_USUAL, **r}.items() if k in _DEFINING}) for r in records}
    trained = {run_id(r): text_of(r, "trained") for r in records}  # a tier that is not the one that measured it
    traits: dict[str, tuple[tuple[str, str, str], bool, dict[str, str]]] = {}
    for r in records:
        where = (text_of(r, "dataset"), tier_of(r), text_of(r, "recipe"))
        traits[run_id(r)] = (where, bool(r.get("conditional")), settings[run_id(r)])
    known = rows.assign(key=run_keys(rows)).drop_duplicates("key")
    for row in known.itertuples(index=False):
        traits[row.key] = ((row.dataset, row.tier, row.recipe), row.conditional, settings.get(row.key, {}))
    # A teacher trained at another share of the budget is no rival of the run that is compared: only runs with rows are.
    rivals: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for key in known["key"]:
        where, _, config = traits[key]
        if config:
            rivals.setdefault(where, []).append(config)
    labels = {}
    for key, (where, conditional, config) in traits.items():
        others = rivals.get(where, [])
        names = sorted({k for c in others for k in c})
        differing = [k for k in names if len({c.get(k) for c in others}) > 1]
        extra = ["labels"] if conditional else []
        extra += [f"trained under {trained[key]}"] if trained.get(key) else []
        extra += [f"{k.removeprefix('config.').removeprefix('above.')}={config[k]}" for k in differing if config.get(k)]
        labels[key] = plain(where[2] + (f" ({', '.join(extra)})" if extra else "")) or "unnamed"
    return labels


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted name, each as text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat
