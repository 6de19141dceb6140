"""The one table of metrics: what each is called, which way is better, what is best, what it is, where from, its cost.

A metric is defined in `METRICS` at the foot of its file in bench/metrics. What is said of ours there is kept in metrics.json
(`python -m bench.lab.readme` makes it anew), so that a report needs no torch. Other packages add theirs by an entry point:

    [project.entry-points."bench.metrics"]
    my-metric = "my_package.my_metric"          # a module with METRICS
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from reports.words import visible

__all__ = [
    "FID",
    "KEPT",
    "LIKELIHOODS",
    "SHOWN",
    "SPEED",
    "UNITS",
    "Metric",
    "is_distance",
    "is_ratio",
    "kept",
    "known",
]

GROUP, KEPT = "bench.metrics", Path(__file__).with_name("metrics.json")
ON = ("samples", "images", "vectors", "features")


@dataclass(frozen=True)
class Metric:
    """A metric, whole.

    title:     its column in a report; "" for one that no report shows.
    direction: "↓" or "↑" where lower or higher is better, else "".
    judged:    whether the best recipes are marked in its column.
    best:      the value to wish for; "floor" where real data does not reach the ideal either.
    source:    the paper. cost: CPU-seconds of one thread for 2,000 samples against 2,000 of 64 features, 28×28 pixels
               (memorisation: against 10,000 training images) or two coordinates; "" for those that come with the one above.
    distance:  a model has to bring it below that of the baselines.
    ratio:     compared as a ratio, by its logarithm, where all scores are positive: its error grows with it.
    place:     columns and tables are in its order.
    by:        (bench.metrics.Compared) -> Value, or the values of this metric. None of ours that `bench.scores.quality`
               computes together with others.
    on:        what it is computed of: "samples" as they are stored, or those that are "images" or "vectors", for each
               split; or "features" of images, for each feature space and split.
    """

    name: str
    title: str = ""
    direction: str = ""
    judged: bool = False
    best: str = ""
    meaning: str = ""
    source: str = ""
    cost: str = ""
    distance: bool = False
    ratio: bool = False
    place: int = 1000
    by: Callable[[Any], Any] | None = field(default=None, compare=False)
    on: str = "features"

    def __post_init__(self) -> None:
        if self.on not in ON:
            raise ValueError(f"metric {self.name}: on must be one of {', '.join(ON)}, not '{self.on}'")
        if self.direction not in ("", "↓", "↑"):
            raise ValueError(f"metric {self.name}: direction must be ↓, ↑ or nothing, not '{self.direction}'")


def known() -> Mapping[str, Metric]:
    """By name every metric in the order of columns: ours and those of other packages."""
    return _known(tuple(sys.path))


@lru_cache(maxsize=4)
def _known(path: tuple[str, ...]) -> Mapping[str, Metric]:
    found = {entry["name"]: Metric(**entry) for entry in json.loads(KEPT.read_text("utf-8"))}
    for point in entry_points(group=GROUP):
        try:
            loaded = point.load()
            theirs = [m for m in getattr(loaded, "METRICS", loaded) if isinstance(m, Metric)]
        except (Exception, SystemExit):  # whoever computes by it says so
            continue
        for metric in theirs:
            texts: dict[str, Any] = {
                f.name: visible(str(getattr(metric, f.name))) for f in fields(Metric) if f.type == "str"
            }
            found.setdefault(metric.name, replace(metric, **texts))
    return dict(sorted(found.items(), key=lambda item: item[1].place))


def kept(metrics: list[Metric]) -> str:
    """The content of the kept file: a line for each metric."""
    lines = []
    for metric in sorted(metrics, key=lambda metric: metric.place):
        usual = Metric("")
        said = {f.name: getattr(metric, f.name) for f in fields(Metric) if f.name != "by"}
        lines.append(json.dumps({k: v for k, v in said.items() if v != getattr(usual, k)}, ensure_ascii=False))
    return "[\n" + ",\n".join(lines) + "\n]\n"


class _Shown(Mapping[str, Metric]):
    """The metrics that have a column in a report, read when they are first asked for."""

    def __getitem__(self, name: str) -> Metric:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def _table(self) -> dict[str, Metric]:
        return {name: metric for name, metric in known().items() if metric.title}


SHOWN: Mapping[str, Metric] = _Shown()


def is_distance(metric: str) -> bool:
    """Whether a model has to bring it below that of the baselines."""
    found = known().get(metric)
    return found is not None and found.distance


def is_ratio(metric: str) -> bool:
    """Whether scores are compared by their logarithms where all are positive: distances and costs."""
    found = known().get(metric)
    return metric in SPEED or (found is not None and found.ratio)


# What a report measures of a model, besides the quality of its samples: (title, direction).
SPEED = {"latency": ("Latency", "↓"), "throughput": ("Throughput", "↑"), "peak_memory": ("Peak memory", "↓")}
LIKELIHOODS = ("bits_per_dim", "nll")
UNITS = {"bits_per_dim": "bits/dim", "nll": "nats"}
# The one space whose Frechet distance is called FID: the published weights behind their own treatment of an image.
FID = "inception-2015/299-tensorflow-bilinear,rgb,bytes@6726825d0af5"
