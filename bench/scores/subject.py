"""A run that is scored: opened once, where it enters, and handed to all that follows."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Literal, NamedTuple, ParamSpec

from bench import runs
from bench.data import Dataset
from bench.data.names import Name
from bench.opened import Opened, opened
from bench.scores import pools
from bench.scores.kept import Protocol
from bench.scores.pools import Pool
from bench.scores.reference import Reference, reference_of
from bench.scores.rows import row_of_run
from bench.scores.work import OnProgress
from bench.sharing import beside_others
from bench.store import Row
from bench.tiers import Tier
from paradigms.core.plans import Card, Plan

__all__ = ["Subject", "Variant", "other_weights", "shares_device", "subject_of"]

P = ParamSpec("P")


class Variant(NamedTuple):
    """Other weights of a run: "raw", or averaged ones after an earlier step."""

    weights: Literal["ema", "raw"]
    step: int | None = None

    def __str__(self) -> str:
        return f"{self.weights} weights" + (f" at step {self.step:,}" if self.step else "")


def other_weights(folder: Path, info: runs.Info, tier: Tier) -> list[Variant]:
    """The weights besides the final averaged ones with which the headline plan is drawn, on the first seeds."""
    found = [Variant("raw")] if info.seed < tier.raw_seeds else []
    return found + [Variant("ema", step) for step in runs.snapshots(folder) if info.seed < tier.snapshot_seeds]


@dataclass(frozen=True, eq=False)
class Subject:
    """A run that a tier scores.

    data:    what it was trained on, and is scored against.
    place:   the folder in which the tier's rows of the run are kept.
    out:     where its parents may be besides its own output folder, or None.
    weights: those of `run.model`, as the column of that name says it.
    """

    run: Opened
    tier: Tier
    data: Dataset
    place: Path
    out: Path | None = None
    weights: Literal["ema", "raw"] = "ema"

    @property
    def card(self) -> Card:
        """The card of the model. Raises BadInput for a first stage, which does not sample."""
        return self.run.paradigm.card

    @property
    def n(self) -> int:
        """How many samples of each plan are scored at once."""
        return pools.pool_size(self.data, self.tier)

    @property
    def protocol(self) -> Protocol:
        """What its rows depend on besides its weights."""
        return Protocol(self.data, self.tier, self.run.recipe, self.run.info.config)

    def row(self) -> Row:
        """The columns that all its rows share."""
        return row_of_run(self.run, self.tier, self.weights)

    def reference(self, on_progress: OnProgress, specs: tuple[str, ...] = ()) -> Reference:
        """The real data in its own feature spaces, or in those named by `specs`, on the run's device."""
        return reference_of(self.data, specs, self.run.device, on_progress)

    def draw(self, plan: Plan, n: int, tell: Callable[[int], None]) -> Pool:
        """n samples of a plan by the run's seed, for labels in the training split's proportions."""
        model, seed = self.run.paradigm, self.run.info.seed
        labels = pools.pool_labels(model, self.data.train, n, seed)
        return pools.draw(model, plan, n, seed, labels, self.run.device, tell)

    def having(self, variant: Variant) -> Subject:
        """The same run with other weights."""
        run = opened(self.run.folder, self.run.device, self.run.place, self.out, variant.weights, variant.step)
        return dataclasses.replace(self, run=run, weights=variant.weights)


def subject_of(
    folder: Path, tier: Tier, device: str = "cpu", data: Name | None = None, out: Path | None = None
) -> Subject:
    """Opens a finished run to be scored. Raises BadInput as `bench.opened.opened` does, and where its data are gone."""
    run = opened(Path(folder), device, data, out)
    return Subject(run, tier, run.data, runs.measured(run.folder, run.info, tier.name), out)


def shares_device(work: Callable[P, list[Row]]) -> Callable[P, list[Row]]:
    """`work`, which scores a run on a `device` and holds a share of it meanwhile, so that nothing is timed there.

    See `bench.sharing`.
    """
    signature = inspect.signature(work)

    @wraps(work)
    def sharing(*args: P.args, **kwargs: P.kwargs) -> list[Row]:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        progress, device = given.arguments["progress"], runs.device_of(given.arguments["device"])
        with beside_others(device, lambda: progress.update("wait for the GPU to score", 0, 1)):
            return work(*args, **kwargs)

    return sharing
