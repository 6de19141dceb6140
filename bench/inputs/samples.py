"""Anyone's samples as a user gives them: how they are read, called, scored and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bench import scores
from bench.data.names import Name
from bench.inputs.targets import check_results
from bench.progress import Progress
from bench.reading import Range
from bench.store import Row
from bench.tiers import Tier
from paradigms.errors import unknown

__all__ = ["External", "external_of"]


@dataclass(frozen=True)
class External:
    """What is asked for samples that no run of this package drew.

    resize, crop: how images of another size are brought to the data's. span: the numbers of black and white.
    features: further feature spaces. tier: whose table the rows shall stand in.
    name: what the rows call the samples; "": as their file is called. to: a folder that keeps the rows.
    """

    resize: scores.Resize | None
    crop: bool
    span: Range | None
    features: Sequence[str]
    tier: Tier | None
    name: str
    to: Path | None

    def score(self, samples: Path | scores.Samples, place: Name, progress: Progress) -> list[Row]:
        """The rows of the samples against a data set. Raises BadInput for samples that can not be read as its examples."""
        return scores.score(
            samples,
            place,
            progress,
            resize=self.resize,
            specs=self.features,
            tier=self.tier,
            to=self.to,
            called=self.name,
            span=self.span,
            crop=self.crop,
        )


def external_of(
    resize: str | None,
    crop: bool,
    span: Range | None,
    features: Sequence[str],
    tier: Tier | None,
    name: str,
    to: Path | None,
) -> External:
    """The same, checked. Raises BadInput for an unknown way to resize, and for a folder that can not keep rows."""
    if resize is not None and resize not in scores.WAYS:
        raise unknown("way to resize", str(resize), scores.WAYS)
    if to is not None:
        check_results(to, scores.GRID)
    return External(cast("scores.Resize | None", resize), crop, span, tuple(features), tier, name, to)
