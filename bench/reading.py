"""What the numbers of someone's samples mean: the range they are taken for, judged by their bulk, and how that is reported.

A range is what a file does not tell. Floats are taken as [-1, 1] and integers as the data's levels, where most of them
lie as most of the data does; elsewhere a range must be given. A few values outside decide nothing: they are clipped, and
their share is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from paradigms.core.data import Space
from paradigms.errors import BadInput

__all__ = ["BYTES", "Range", "from_floats", "from_integers"]

TAIL = 0.005  # of the values on either side that do not count as the bulk
LOOKED = 2**20  # values that quantiles are taken of, spread evenly over all
FAR = 0.25  # beyond -1 or 1, or the like part of another range: a model's images do not reach so far
MANY = 0.01  # share of values far outside that makes it another range
OFF = 0.2  # of the data's range, 1 at least: where the darkest samples are lighter by more, the range is another
FEW = 8  # integers that reach no more than this part of the levels, and a quarter of what the data reaches, are others
ROUNDING = 1e-6
CHUNK = 2**22  # values worked on at once


class Range(NamedTuple):
    """The numbers that stand for the darkest and the lightest value of a pixel."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"

    @classmethod
    def parse(cls, text: str) -> Range:
        """LOW..HIGH, as "0..1". Raises BadInput."""
        low, _, high = text.partition("..")
        try:
            found = cls(float(low), float(high))
        except ValueError:
            found = cls(math.nan, math.nan)
        if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low < found.high):
            raise BadInput(f"--range '{text}' is no range; write LOW..HIGH, as 0..1, 0..255 or -1..1")
        return found


MODELS = Range(-1, 1)  # what models make and floats are taken for
BYTES = Range(0, 255)


def from_floats(x: Tensor, where: Path, space: Space, given: Range | None, real: Tensor | None) -> tuple[Tensor, str]:
    """Finite floats (N, ...) to the integer of the bin they fall in (uint8), and in words how they were taken.

    given: the range that the user gave; without it [-1, 1], or BadInput where the bulk of the values does not fit that.
    real:  integers of the data, which the bulk is compared with; without them the data is taken to reach all levels.
    """
    bulk, own = _bulk(x), MODELS if real is None else _bulk(space.encode(real))
    if given is None:
        far = _share(x, lambda part: part.abs() > 1 + FAR)
        if far > MANY or bulk.low > own.low + OFF * max(1, own.high - own.low):
            which = "reach" if far > MANY or x.min() < 0 else "are all positive and reach"
            raise BadInput(
                f"{where}: floats must span [-1, 1]; these {which} {x.abs().max():g}, and {_lie(bulk, own)}; scale them, "
                f"or say what they span, as in --range {_likely(bulk, space)}"
            )
    taken = given or MODELS
    scale, shift = 2 / (taken.high - taken.low), (taken.low + taken.high) / (taken.high - taken.low)

    def to_model(part: Tensor) -> Tensor:
        return part if taken == MODELS else part * scale - shift

    levels = torch.cat([space.decode(to_model(part)) for part in x.reshape(-1).split(CHUNK)]).view(x.shape)
    outside = _share(x, lambda part: to_model(part).abs() > 1 + ROUNDING)
    reached = Range(bulk.low * scale - shift, bulk.high * scale - shift)
    return levels, _words("floats", x, taken, outside, _narrow(reached, own))


def from_integers(
    x: Tensor, where: Path, space: Space, given: Range | None, real: Tensor | None, what: str = "integers"
) -> tuple[Tensor, str]:
    """Integers (N, ...) of a range to the data's levels, spread evenly (uint8), and in words how they were taken.

    given, real: as above; without a range they are levels, or, of pictures, bytes. Raises BadInput as above.
    """
    top = space.levels - 1
    usual = BYTES if what == "pictures" else Range(0, top)
    taken, low, high = given or usual, int(x.min()), int(x.max())
    bulk, own = _bulk(x), usual if real is None else Range(*(usual.high / top * end for end in _bulk(real)))
    if given is None:
        if low < usual.low or high > usual.high:
            raise BadInput(
                f"{where} holds integers {low} to {high}, but the data set has levels 0 to {top}; scale them, or say what "
                f"they span, as in --range {_likely(bulk, space)}"
            )
        if 0 < bulk.high <= min(usual.high / FEW, own.high / 4):
            raise BadInput(
                f"{where} holds {what} of {low} to {high}, a small part of {usual}: {_lie(bulk, own)}; say which of them "
                f"is white, as in --range 0..{bulk.high:g}, or --range {usual} where they are right as they are"
            )
    width = taken.high - taken.low

    def to_levels(part: Tensor) -> Tensor:
        return ((part.double() - taken.low) * (top / width)).round_().clamp_(0, top).to(torch.uint8)

    levels = torch.cat([to_levels(part) for part in x.reshape(-1).split(CHUNK)]).view(x.shape)
    part = usual.high / width  # of the usual range
    narrow = _narrow(Range((bulk.low - taken.low) * part, (bulk.high - taken.low) * part), own)
    if given is None and not narrow:
        return levels, ""
    return levels, _words(what, x, taken, _share(x, lambda part: (part < taken.low) | (part > taken.high)), narrow)


def _share(x: Tensor, holds: Callable[[Tensor], Tensor]) -> float:
    """Of how many values something holds."""
    return sum(int(holds(part).count_nonzero()) for part in x.reshape(-1).split(CHUNK)) / x.numel()


def _bulk(x: Tensor) -> Range:
    """What all but the half per cent on either side lie between."""
    flat = x.reshape(-1)
    some = flat[torch.arange(min(LOOKED, len(flat))) * len(flat) // min(LOOKED, len(flat))].double().sort().values
    last = len(some) - 1
    return Range(float(some[math.floor(TAIL * last)]), float(some[math.ceil((1 - TAIL) * last)]))


def _lie(bulk: Range, own: Range) -> str:
    return (
        f"99 % of them lie between {bulk.low:.3g} and {bulk.high:.3g}, those of the data between {own.low:.3g} and "
        f"{own.high:.3g}"
    )


def _narrow(bulk: Range, own: Range) -> str:
    """Says so where samples reach less than half of what the data does; both in one unit."""
    part = (bulk.high - bulk.low) / (own.high - own.low) if own.high > own.low else 1
    return f"they reach {part:.0%} of the data's range" if part < 0.5 else ""


def _likely(bulk: Range, space: Space) -> str:
    """The range, of those in use, that holds the bulk: an example for the message, no judgement."""
    several = (Range(0, 1), Range(-0.5, 0.5), MODELS, Range(-2, 2), Range(0, space.levels - 1), BYTES, Range(-128, 127))
    for known in several:
        slack = min(known.high - known.low, bulk.high - bulk.low) / 4
        reaches = known.low == 0 or min(-bulk.low, bulk.high) > 0.75 * known.high  # about 0 are standardised ones, too
        if bulk.low >= known.low - slack and bulk.high <= known.high + slack and reaches:
            return str(known)
    digits = ".3g" if max(-bulk.low, bulk.high) < 100 else ".0f"
    low, high = f"{bulk.low:{digits}}", f"{bulk.high:{digits}}"
    return f"{low}..{high}" if float(low) < float(high) else "LOW..HIGH"


def _words(what: str, x: Tensor, taken: Range, outside: float, narrow: str) -> str:
    ends = f"{what} from {float(x.min()):.4g} to {float(x.max()):.4g} taken as {taken}"
    clipped = f"{100 * outside:.2g} % of them outside, clipped" if outside else "none outside"
    return ", ".join(part for part in (ends, clipped, narrow) if part)
