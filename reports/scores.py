"""The numbers of a report, each computed once: what was measured, of which rows, by training seed."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import pandas as pd

from reports import provenance, stats
from reports.rows import finite, seed_means
from reports.stats import Summary, summarise


class Measure(NamedTuple):
    """What a number is of: a metric against a split of the data in a feature space.

    With neither split nor space it is the metric wherever it was measured, as of times and counts.
    """

    metric: str
    split: str = ""
    space: str = ""


class Score:
    """One measure of one entry at one plan: the rows that it rests on and what follows from them."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = rows

    @cached_property
    def values(self) -> list[float]:
        """One value for each training seed; disjoint sample sets of one model are averaged."""
        return seed_means(self.rows)

    @cached_property
    def calls(self) -> list[float]:
        """Network calls per sample, one value for each training seed."""
        return seed_means(self.rows, "calls")

    @cached_property
    def summary(self) -> Summary | None:
        """Mean and interval over training seeds; None without a finite value."""
        return summarise(self.values)

    @cached_property
    def spread(self) -> float | None:
        """Standard deviation over disjoint sample sets of one trained model, pooled; None where there is one set each."""
        runs = finite(self.rows).groupby("run")
        return stats.pooled_spread(g["value"].tolist() for _, g in runs if g["draw"].nunique() > 1)

    def source(self, likelihood: bool = False) -> str:
        """The provenance of the number in one line."""
        return provenance.described(finite(self.rows), likelihood)


class Scores:
    """The scores of an entry at one plan: `scores[Measure("fd", "test", space)]`; one without rows has no values."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = rows
        self._by_metric = {str(metric): group for metric, group in rows.groupby("metric")}
        self._known: dict[Measure, Score] = {}

    def of(self, metric: str) -> pd.DataFrame:
        """All rows of a metric, whatever the split and the feature space."""
        return self._by_metric.get(metric, self.rows.iloc[:0])

    def __getitem__(self, measure: Measure) -> Score:
        if measure not in self._known:
            rows = self.of(measure.metric)
            if measure.split or measure.space:
                rows = rows[(rows["split"] == measure.split) & (rows["features"] == measure.space)]
            self._known[measure] = Score(rows)
        return self._known[measure]
