"""How far the scoring is: one count over parts of unequal cost, and a sign of life from each metric."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from bench.metrics import Tell
from bench.progress import Progress

__all__ = ["OnProgress", "Parts", "Work", "silent", "tell_of"]

# Called with what is computed, how much of it is done, and of how much. It may raise, which ends the work.
OnProgress = Callable[[str, int, int], object]


def silent(what: str, done: int, of: int) -> None:
    """An `OnProgress` that does nothing."""


def tell_of(on_progress: OnProgress, what: str) -> Tell:
    """The callback (done, of) of one metric, which reports under the name `what`."""

    def tell(done: int, of: int) -> None:
        on_progress(what, done, of)

    return tell


def percent(done: int, of: int) -> str:
    """A share as text, "40 %"."""
    return f"{100 * done // max(1, of)} %"


class Work:
    """Progress over parts of unequal cost: one count for the whole evaluation, and the images of each part."""

    def __init__(self, progress: Progress, costs: Sequence[float]) -> None:
        self.progress = progress
        self.costs = costs
        self._index = 0

    @contextmanager
    def part(self, name: str, n: int) -> Iterator[Callable[[int], None]]:
        """The next part, of n images; yields the callback that takes how many are done."""
        before, own, total = sum(self.costs[: self._index]), self.costs[self._index], sum(self.costs)

        def tell(done: int) -> None:
            self.progress.update(f"evaluate {name}", round(before + own * done / n), round(total), images=done)

        tell(0)
        yield tell
        self._index += 1

    def scored(self, name: str) -> OnProgress:
        """The callback for scoring what the current part made: the count stays, the share of the metric is a fact."""
        done, total = round(sum(self.costs[: self._index + 1])), round(sum(self.costs))

        def on_progress(what: str, part: int, of: int) -> None:
            self.progress.update(f"evaluate {name}", done, total, **{what: percent(part, of)})

        return on_progress


class Parts:
    """One count over the parts of several scorings, whose costs are known."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.total = progress, 0.0

    def add(self, before: str, costs: Mapping[str, float]) -> OnProgress:
        """The callback of a scoring with such parts, shown as `before` and their names. Add all before work begins."""
        start = self.total
        ends = dict(zip(costs, itertools.accumulate(costs.values())))
        self.total += sum(costs.values())

        def on_progress(what: str, done: int, of: int) -> None:
            at = start + ends.get(what, 0) - costs.get(what, 0) * (1 - done / max(1, of))
            self.progress.update(f"{before}{what}", round(1000 * at / self.total), 1000)

        return on_progress
