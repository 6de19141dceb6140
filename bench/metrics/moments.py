"""Mean and covariance of a stream, at the price of one matrix product."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from bench.metrics.blocks import Tell
from bench.metrics.stream import Stream
from bench.metrics.values import finite, full_precision
from paradigms.errors import BadInput

__all__ = ["Moments"]


class Moments(Stream[tuple[Tensor, Tensor]]):
    """n, the mean (d,) and the scatter (d, d), the sum of (x - mean)(x - mean)^T, of vectors x (B, d).

    A batch is centred at its own mean and joined as Chan, Golub and LeVeque (1979) join two sets, so that a mean which
    is large beside the deviations costs no digits. What the two means differ by is one more row of the product.
    """

    state = ("n", "mean", "scatter")

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    @classmethod
    def of(cls, x: Tensor, chunk: int = 4096, tell: Tell | None = None) -> Self:
        """Of vectors (N, d) that are all there; the sums are taken where they lie."""
        found = cls(x.shape[1], x.device)
        for part in x.split(chunk):
            found.update(part)
            if tell is not None:
                tell(found.n, len(x))
        return found

    @property
    def dim(self) -> int:
        return len(self.mean)

    def update(self, batch: Tensor) -> None:
        if batch.dim() != 2 or batch.shape[1] != self.dim:
            raise BadInput(f"features have shape {tuple(batch.shape)}, expected (B, {self.dim})")
        full_precision(batch, "features")
        finite(batch, "features")
        if not len(batch):
            return
        x = batch.to(self.mean.device).double()
        mean = x.mean(0)
        shift, n, m = mean - self.mean, self.n, len(x)
        rows = torch.cat([x - mean, (shift * math.sqrt(n * m / (n + m)))[None]])
        self.scatter.addmm_(rows.mT, rows)
        self.mean += shift * (m / (n + m))
        self.n = n + m

    def merge(self, other: Self) -> None:
        if other.dim != self.dim:
            raise BadInput(f"moments of {self.dim} and of {other.dim} features can not be merged")
        if not other.n:
            return
        shift, n, m = other.mean - self.mean, self.n, other.n
        self.scatter += other.scatter
        self.scatter.addr_(shift, shift, alpha=n * m / (n + m))
        self.mean += shift * (m / (n + m))
        self.n = n + m

    def compute(self) -> tuple[Tensor, Tensor]:
        """The mean (d,) and the unbiased covariance (d, d), on the CPU."""
        if self.n < 2:
            raise BadInput(f"a covariance of {self.n} samples; at least 2 are needed")
        return self.mean.cpu(), self.scatter.cpu() / (self.n - 1)
