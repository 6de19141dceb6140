"""Densities that need no training: a Gaussian and independent pixels, fitted to the training split."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.metrics import Tell
from paradigms.core.noise import Noise
from paradigms.errors import BadInput
from paradigms.standardise import column_units

__all__ = ["Gaussian", "fit_density", "fit_pixels", "log_histograms"]

FLAT = 1e-10  # share of a column's variance: a direction with less varies by rounding alone


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean (D,), factor factor^T), float64."""

    mean: Tensor
    factor: Tensor

    def sample(self, n: int, noise: Noise) -> Tensor:
        return self.mean + noise.normal(n, len(self.mean)).double() @ self.factor.T

    def log_prob(self, x: Tensor) -> Tensor:
        """x (N, D) float64 -> (N,) nats; needs a lower triangular factor of full rank."""
        white = torch.linalg.solve_triangular(self.factor, (x - self.mean).T, upper=False).T
        log_volume = self.factor.diagonal().log().sum()
        return -0.5 * white.square().sum(1) - log_volume - 0.5 * len(self.mean) * math.log(2 * math.pi)


def fit_pixels(x: Tensor) -> Gaussian:
    """The Gaussian with the mean and covariance of x (N, D), float64: the one samples are drawn from."""
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    return Gaussian(x.mean(0), vectors * values.clamp_min(0).sqrt())


def fit_density(x: Tensor, levels: int) -> Gaussian:
    """A Gaussian with a density everywhere, fitted to x (N, D): Ledoit and Wolf's shrinkage, which needs no tuning, and
    the variance that dequantisation adds (pixels that never change have none of their own).

    Without levels it shrinks in units of the columns, which the data's scale does not change. Raises BadInput where such
    data have no density: a column that never changes, or one that the others determine.
    """
    from sklearn.covariance import ledoit_wolf

    if levels:
        covariance = torch.from_numpy(ledoit_wolf(x.numpy())[0])
        covariance += torch.eye(x.shape[1], dtype=x.dtype) * (2 / levels) ** 2 / 12
        return Gaussian(x.mean(0), torch.linalg.cholesky(covariance))
    still = (x.amin(0) == x.amax(0)).nonzero().flatten().tolist()
    if still:
        which = f"column {still[0]} (from 0) never changes" + (f", nor do {len(still) - 1} more" if still[1:] else "")
        raise BadInput(f"{which}, so a Gaussian fitted to the data has no density; leave such columns out")
    o, u = column_units(x)
    z = (x - o) / u
    if torch.linalg.eigvalsh(z.T @ z / len(z))[0] < FLAT:
        raise BadInput("a column is a sum of others, so a Gaussian fitted to the data has no density; leave it out")
    return Gaussian(o, u[:, None] * torch.linalg.cholesky(torch.from_numpy(ledoit_wolf(z.numpy())[0])))


def log_histograms(x: Tensor, levels: int, tell: Tell | None = None) -> Tensor:
    """log (count + 1) / (N + L) for each level and pixel, (L, D), of integers x: independent pixels, Laplace-smoothed."""
    flat, counts = x.flatten(1), list[Tensor]()
    for level in range(levels):
        counts.append((flat == level).sum(0))
        if tell is not None:
            tell(level + 1, levels)
    return torch.log((torch.stack(counts).double() + 1) / (len(flat) + levels))
