"""The shape of every metric that one pass over the data is enough for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, Self, TypeVar

from torch import Tensor

__all__ = ["Stream"]


Result = TypeVar("Result", covariant=True)


class Stream(ABC, Generic[Result]):
    """Sufficient statistics, in float64, of batches of any size.

    Batches may come in any order, cut anywhere and to several processes: a stream can be pickled, and merging what two
    have seen is as good as showing one of them all of it. What samples are compared with is given when a stream is made
    and never through `update`, so that samples and real data can not be exchanged.

    state: the attributes that hold what was seen, in order: numbers, tensors of a fixed shape, or streams.
    """

    state: ClassVar[tuple[str, ...]]

    @abstractmethod
    def update(self, batch: Tensor) -> None:
        """Takes in a batch (B, ...). Raises BadInput for one that is not what the metric is of."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Takes in all that `other` has seen."""

    @abstractmethod
    def compute(self) -> Result:
        """The value of all batches so far. Raises BadInput where they are too few."""
