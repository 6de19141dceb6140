"""Work on all pairs of two sets, a block at a time: no matrix of n × m numbers is ever held."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["BLOCK", "Tell", "blocks", "in_turn", "pair_distances", "squared_distances"]

BLOCK = 2**22  # pairs held at a time: 32 MiB of float64, and a few such arrays at once

# Is told how many rows are done, and of how many; whoever listens may raise, and so end the work.
Tell = Callable[[int, int], None]


def blocks(n: int, m: int, tell: Tell | None = None) -> Iterator[slice]:
    """Slices of n rows so that each, against m columns, is at most BLOCK pairs, or one row where m alone is more."""
    size = max(1, BLOCK // m)
    for start in range(0, n, size):
        stop = min(start + size, n)
        yield slice(start, stop)
        if tell is not None:
            tell(stop, n)


def in_turn(tell: Tell | None, *sizes: int) -> list[Tell | None]:
    """What to tell of each of several loops of such sizes, one after the other: one count goes over all of them."""

    def of(before: int, size: int) -> Tell | None:
        return None if tell is None else lambda done, every: tell(before + size * done // max(1, every), sum(sizes))

    return [of(sum(sizes[:k]), size) for k, size in enumerate(sizes)]


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) squared distances of rows x (n, d) and y (m, d), float64, through one matrix product.

    Off by about 1e-15 of the squared norms: 0 between equal rows only up to that. `pair_distances` is exact.
    """
    return torch.addmm(y.square().sum(1), x, y.mT, alpha=-2).add_(x.square().sum(1)[:, None])


def pair_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n,) squared distances of row i of x to row i of y, float64, by differences: exactly 0 between equal rows."""
    return (x.double() - y.double()).square().sum(-1)
