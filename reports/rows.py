"""Rows of results with every column of the schema, and the means over training seeds that all numbers are made of."""

from __future__ import annotations

import math
from statistics import fmean as mean
from typing import Any

import numpy as np
import pandas as pd

TEXT = (
    *("run", "status", "reason", "recipe", "paradigm", "tier", "dataset", "split", "sampler", "options", "metric"),
    *("unit", "kind", "relation", "features", "weights", "device", "dtype", "code", "data", "samples", "resize"),
    *("reading", "torch"),
)
NUMBERS = (
    *("schema", "seed", "steps", "calls", "value", "error", "low", "high", "n", "n_ref", "draw", "fraction", "images"),
    *("flops", "seconds", "cost_total", "seconds_total", "images_total"),
    *("params_trained", "params_sampling", "threads"),
)
FLAGS = ("headline", "conditional", "contended")
FLOOR = "real-train"  # the baseline that scores real training data
NO_RUN = ("baseline", "external")  # the status of rows of no model of the suite


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Every column of the schema with one type each, in an order that does not depend on how the rows came."""
    data: dict[str, Any] = {}
    for name in TEXT:
        column = frame[name] if name in frame else pd.Series("", index=frame.index)
        data[name] = column.astype(object).where(column.notna(), "").map(str)
    for name in NUMBERS:
        column = frame[name] if name in frame else pd.Series(math.nan, index=frame.index)
        data[name] = pd.to_numeric(column, errors="coerce").astype(float)
    for name in FLAGS:
        column = frame[name] if name in frame else pd.Series(False, index=frame.index)
        data[name] = column.map(lambda v: str(v).lower() in ("true", "1", "1.0"))
    rows = pd.DataFrame(data, columns=[*TEXT, *NUMBERS, *FLAGS])
    rows["status"] = rows["status"].where(rows["status"] != "", "ok")
    by = [
        *("dataset", "tier", "recipe", "conditional", "seed", "run", "status", "split", "sampler", "steps", "options"),
        *("metric", "kind", "features", "fraction", "weights", "draw", "value", "reason"),
    ]
    return rows.sort_values(by, kind="stable", ignore_index=True)


def finite(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a finite value."""
    return rows[np.isfinite(rows["value"].to_numpy())]


def seed_means(rows: pd.DataFrame, column: str = "value") -> list[float]:
    """Finite values averaged within a run, then within a seed: one number a training seed."""
    seeds: dict[float, dict[str, list[float]]] = {}
    for seed, run, value in zip(rows["seed"].tolist(), rows["run"].tolist(), rows[column].tolist()):
        if math.isfinite(value):
            seeds.setdefault(-1.0 if math.isnan(seed) else seed, {}).setdefault(run, []).append(value)
    return [mean([mean(values) for values in runs.values()]) for _, runs in sorted(seeds.items())]


def space_of(features: str) -> str:
    """The name of a feature space, with its policy where it has one, without the hash of its weights."""
    return features.rpartition("@")[0] or features
