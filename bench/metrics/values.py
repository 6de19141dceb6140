"""What a metric returns, and what it refuses: one number with its error, and the checks that all metrics share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.stats import binomtest
from torch import Tensor

from bench.features import Features
from paradigms.errors import BadInput

__all__ = ["PER_FEATURE", "Features", "Value", "check", "evenly", "finite", "full_precision", "share", "take"]

PER_FEATURE = 10  # samples per feature dimension below which a Frechet distance is refused


class Value(NamedTuple):
    """One number: its metric, its standard error over samples where one is known, and its unit ("" = none).

    low, high: the ends of its 95 % interval, where that is not the value and 1.96 errors on either side.
    """

    metric: str
    value: float
    error: float | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None


def share(metric: str, p: float, n: int) -> Value:
    """A proportion p of n independent answers, with the ends of Wilson's 95 % interval (Wilson 1927).

    At p = 0 and 1 the interval has a width, while the standard error sqrt(p (1 - p) / n) is 0 and says nothing: there
    is none there.
    """
    ends = binomtest(round(p * n), n).proportion_ci(0.95, method="wilson")
    return Value(metric, p, (p * (1 - p) / n) ** 0.5 or None, low=float(ends.low), high=float(ends.high))


def evenly(x: Tensor, n: int) -> Tensor:
    """n rows of x, spread evenly over it: all of a sorted set is met, and no random number is drawn."""
    return x[torch.arange(n, device=x.device) * len(x) // n]


def take(features: Features, n: int) -> Features:
    logits = None if features.logits is None else evenly(features.logits, n)
    return Features(evenly(features.values, n), logits, features.space)


def check(fake: Features, real: Features, at_least: int, of: str) -> None:
    """Raises BadInput unless both are finite features of one space, at least so many on either side."""
    if fake.space.id != real.space.id:
        raise BadInput(
            f"features of {fake.space.id} and of {real.space.id} can not be compared; compute both in one feature space"
        )
    for name, features in (("samples", fake), ("real images", real)):
        values = features.values
        if values.dim() != 2 or values.shape[1] != features.space.dim:
            raise BadInput(
                f"features of {name} have shape {tuple(values.shape)}, "
                f"but {features.space.id} has {features.space.dim} features; compute them with it"
            )
        if len(values) < at_least:
            raise BadInput(
                f"{len(values)} {name} are too few for {of} in {features.space.id}: at least {at_least} are needed; "
                "give more, or leave this metric out"
            )
        full_precision(values, f"features of {name} in {features.space.id}")
        finite(values, f"features of {name} in {features.space.id}")


def finite(x: Tensor, what: str) -> None:
    if x.is_floating_point() and not (found := x.isfinite()).all():
        bad = int((~found.flatten(1).all(1)).sum())
        raise BadInput(f"{what}: {bad} of {len(x)} are not finite; the model that drew them has diverged")


def full_precision(x: Tensor, what: str) -> None:
    if x.dtype not in (torch.float32, torch.float64):
        kind = str(x.dtype).removeprefix("torch.")
        raise BadInput(f"{what} are {kind}: two or three digits are left of a distance; compute them in float32")
