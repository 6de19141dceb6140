"""A training as a user asks for it: what `bench train` and `bench.train` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import arithmetic as arithmetics
from bench import runs
from bench.data import Dataset
from bench.progress import Progress
from bench.runs import Run
from bench.tiers import Tier, is_small
from bench.workers import cores
from paradigms import catalogue
from paradigms.core.data import Space

__all__ = ["Training", "training_of"]


@dataclass(frozen=True)
class Training:
    """A run that can be trained on this machine.

    run: what it is. out: the folder of runs. device, threads: what it trains on.
    note: why the device is another than one would expect, to be shown; "" otherwise.
    """

    run: Run
    out: Path
    device: torch.device
    threads: int
    note: str

    def ensure(self, progress: Progress) -> Path:
        """Trains the run, and first the runs that it needs, unless that is done. Returns its folder."""
        return runs.ensure(self.run, self.out, progress, device=self.device, threads=self.threads)


def training_of(
    recipe: str,
    data: Dataset,
    seed: int,
    tier: Tier,
    out: Path,
    settings: Sequence[str] = (),
    *,
    conditional: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    compiled: bool = False,
    threads: int | None = None,
) -> Training:
    """The training that the options of `bench train` mean. Raises BadInput, as `bench.runs.define` does."""
    known = catalogue.get(recipe)
    where, note = runs.device_for(device, tier.budget(data.space))
    asked = arithmetics.chosen(where, precision, compiled)
    run = runs.define(recipe, data.place, seed, tier, settings, conditional=conditional, arithmetic=asked)
    arithmetics.demand(asked, run.arithmetic, known)
    return Training(run, out, where, threads or _threads(run.space), note)


def _threads(space: Space) -> int:
    """The threads to train with by default: one on small data, which gains nothing from more, as in a suite."""
    return 1 if is_small(space) else cores()
