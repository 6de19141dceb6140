"""What a trial of a campaign came to."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Verdict"]


@dataclass(frozen=True)
class Verdict:
    """kind: of the attack. held: whether the promise was kept; how: in a word or two; detail: what there was to see."""

    kind: str
    trial: int
    held: bool
    how: str
    detail: str = ""
