"""Rows made from a base row: what they share is filled in once, each step adds its own columns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from bench import arithmetic, measure, runs
from bench.arithmetic import DTYPES
from bench.data import Dataset
from bench.metrics import Value
from bench.opened import Opened
from bench.scores.pools import NotFinite
from bench.store import Row
from bench.tiers import Tier
from bench.workers import is_spoiled
from paradigms.contract import Paradigm
from paradigms.core.plans import Card, Plan, settings_text
from paradigms.errors import BadInput

__all__ = ["Rows", "row_of_data", "row_of_plan", "row_of_run"]


@dataclass(frozen=True)
class Rows:
    """The rows made so far, and the base row of the next ones."""

    base: Row
    made: list[Row] = field(default_factory=list)

    def having(self, **columns: Any) -> Rows:
        """The same rows, whose next ones also have these columns."""
        return Rows(dataclasses.replace(self.base, **columns), self.made)

    def add(self, values: Sequence[Value], **columns: Any) -> None:
        """Adds a row for each value; `columns` are of these rows alone."""
        self.made.extend(dataclasses.replace(self.base, **{**value._asdict(), **columns}) for value in values)

    @contextmanager
    def part(self, metric: str) -> Iterator[None]:
        """A part of the evaluation. If it fails, one row of `metric` says why, and the other parts go on.

        An error that has spoiled this process for them (see `bench.workers.is_spoiled`) is raised.
        """
        try:
            yield
        except NotFinite as error:
            self._lost("diverged", metric, str(error))
        except BadInput as error:  # what a metric refuses to compute
            self._lost(self.base.status, metric, str(error))
        except (Exception, SystemExit) as error:  # a plugin's code may end the program
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            if is_spoiled(reason):  # the other parts would fail of it, and a fresh process may have none of them fail
                raise
            self._lost("failed", metric, reason)

    def _lost(self, status: str, metric: str, reason: str) -> None:
        self.made.append(dataclasses.replace(self.base, status=status, metric=metric, value=math.nan, reason=reason))


def row_of_data(found: Dataset) -> Row:
    """The columns that say on what and where a number was made, for rows that belong to no run."""
    here = runs.environment(torch.device("cpu"), torch.get_num_threads())
    return Row(
        dataset=found.name,
        data=found.checksum[:12],
        device=here["device_name"],
        threads=here["threads"],
        dtype=here["dtype"],
        torch=here["torch"],
        code=here["code"],
    )


def row_of_run(run: Opened, tier: Tier, weights: str = "ema") -> Row:
    """The columns that all rows of a run's evaluation share."""
    here = runs.environment(run.device, torch.get_num_threads(), run.recipe, config=run.info.config)
    used = None
    if isinstance(run.model, Paradigm):
        used = measure.params_sampling(run.model, run.model.card.default, run.device)
    return dataclasses.replace(
        runs.base_row(run.info),
        tier=tier.name,
        weights=weights,
        params_sampling=used,
        device=here["device_name"],
        threads=here["threads"],
        torch=here["torch"],
        code=measure.code_of(run.info.code, here["code"]),
    )


def row_of_plan(base: Row, plan: Plan, card: Card) -> Row:
    """The row of a run with the columns that all rows of a plan's samples share."""
    return dataclasses.replace(
        base,
        sampler=plan.sampler,
        steps=plan.steps,
        options=settings_text(plan.options),
        headline=plan == card.default,
        draw=0,
        dtype=DTYPES["fp32"] if plan.sampler in arithmetic.ADAPTIVE else base.dtype,
    )
