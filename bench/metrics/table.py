"""The metrics that there are: those at the foot of this folder's files, and those of other packages."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint
from pathlib import Path

from paradigms.plugins import Door, foreign_file
from reports.metrics import GROUP, Metric

__all__ = ["DOOR", "computed", "known", "plugin_files"]

DOOR = Door(
    GROUP,
    "METRICS",
    "Metric",
    "reports.metrics",
    "bench.metrics",
    frozenset({"table"}),
    frozenset({"name", "title", "direction", "best", "meaning", "source", "on", "place"}),
)


def known() -> Mapping[str, Metric]:
    """By name every metric, ours and those of other packages."""
    return _known(tuple(sys.path), DOOR.points())


@lru_cache(maxsize=4)
def _known(path: tuple[str, ...], points: tuple[EntryPoint, ...]) -> Mapping[str, Metric]:
    return DOOR.known()


def computed(*on: str) -> list[Metric]:
    """The metrics with a function of their own that are computed of one of these, in the order of columns."""
    found = [metric for metric in known().values() if metric.by is not None and metric.on in on]
    return sorted(found, key=lambda metric: metric.place)


def plugin_files() -> set[Path]:
    """The files of other packages that compute metrics: rows depend on them."""
    files = {foreign_file(metric.by) for metric in known().values() if metric.by is not None}
    return {file for file in files if file is not None}
