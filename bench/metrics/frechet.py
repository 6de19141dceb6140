"""The Frechet distance: of a stream, of two sets of features, and extrapolated to infinitely many samples."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from scipy.linalg import blas, eigvalsh, lapack
from scipy.stats import linregress
from torch import Tensor

from bench.metrics.blocks import Tell, in_turn
from bench.metrics.moments import Moments
from bench.metrics.stream import Stream
from bench.metrics.values import PER_FEATURE, Features, Value, check
from paradigms.errors import BadInput
from reports.metrics import Metric

__all__ = [
    "FrechetDistance",
    "distance_of_gaussians",
    "extrapolated_distance",
    "frechet_distance",
    "reconstruction_distance",
]

SMALLEST = 4  # samples per feature in the smallest blocks of the extrapolation
LEVELS = 5  # sizes that it is fitted through, at most
FEWEST = 3  # at least
EPS = torch.finfo(torch.float64).eps
NOTHING = 16 * EPS  # of a feature's variance: what rounding leaves of it where others determine it


class FrechetDistance(Stream[Value]):
    """The distance of a stream of samples from the moments of real features: "fd".

    Refused below 10 samples per feature on either side: at n = d a perfect sampler scores as badly as a poor one.
    """

    state = ("fake",)

    def __init__(self, real: Moments) -> None:
        self.real, self.fake = real, Moments(real.dim)

    def update(self, batch: Tensor) -> None:
        self.fake.update(batch)

    def merge(self, other: Self) -> None:
        self.fake.merge(other.fake)

    def compute(self) -> Value:
        for name, side in (("samples", self.fake), ("real images", self.real)):
            if side.n < PER_FEATURE * side.dim:
                raise BadInput(
                    f"{side.n} {name} are too few for a Frechet distance of {side.dim} features: "
                    f"at least {PER_FEATURE * side.dim} are needed"
                )
        return Value("fd", distance_of_gaussians(self.fake, self.real))


def frechet_distance(fake: Features, real: Features, tell: Tell | None = None) -> Value:
    """The squared 2-Wasserstein distance of the Gaussians fitted to both sets of features: "fd" (arXiv:1706.08500).

    Raises BadInput below 10 samples per feature, and on features that are not finite, not in full precision or not of
    one space.
    """
    check(fake, real, at_least=PER_FEATURE * fake.space.dim, of="a Frechet distance")
    of_real, of_fake = in_turn(tell, len(real.values), len(fake.values))
    metric = FrechetDistance(Moments.of(real.values, tell=of_real))
    metric.fake = Moments.of(fake.values, tell=of_fake)
    return metric.compute()


def distance_of_gaussians(a: Moments, b: Moments) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) for any two sets of at least 2 vectors, S and S' singular or not."""
    (m, s), (n, t) = a.compute(), b.compute()
    root = _by_cholesky(s, t)
    if root is None:
        root = torch.linalg.svdvals(_factor(s, m) @ _factor(t, n).mT).sum().item()
    distance = ((m - n).square().sum() + s.trace() + t.trace()).item() - 2 * root
    return max(0.0, distance)  # rounding may leave -1e-13 between equal sets


def _by_cholesky(s: Tensor, t: Tensor) -> float | None:
    """tr (s t)^(1/2) as the sum of the roots of the eigenvalues of L^T t L, s = L L^T; None where that is not exact.

    Rounding leaves 1e-16 of a null direction, above or below 0, and its root is 1e-8: where the smallest eigenvalue can
    not be told from that, s or t is taken for singular.
    """
    lower, failed = lapack.dpotrf(s.numpy().T, lower=1, clean=1)
    if failed:
        return None
    product = blas.dtrmm(1.0, lower, t.numpy().T, side=1, lower=1)
    product = blas.dtrmm(1.0, lower, product, side=0, lower=1, trans_a=1, overwrite_b=1)
    values = eigvalsh(product, overwrite_a=True, check_finite=False)
    return float(np.sqrt(values).sum()) if values[0] > len(values) * EPS * values[-1] else None


def _factor(covariance: Tensor, mean: Tensor) -> Tensor:
    """A (r, d) with A^T A = covariance, r its rank in float64: LAPACK's pivoted Cholesky of the correlation matrix.

    With such factors of S and S' the trace of the root is the sum of the singular values of A B^T, and nothing is
    squared. A direction in which nothing varies (a dead unit, a column that repeats others, fewer vectors than features)
    is left out. Of the correlations, because what counts as nothing must not depend on the units of a feature.
    """
    variance = covariance.diagonal()
    # A constant is the same number n times over, and its mean is off by a rounding at most.
    alive = variance > (4 * EPS * mean).square()
    d = int(alive.sum())
    scale = variance[alive].sqrt()
    correlation = covariance[alive][:, alive] / scale / scale[:, None]
    lower, pivot, rank, _ = lapack.dpstrf(correlation.numpy(), tol=NOTHING, lower=1)
    factor = torch.zeros(rank, d, dtype=torch.float64)
    factor[:, torch.from_numpy(pivot.astype(int) - 1)] = torch.from_numpy(lower[:, :rank]).tril().mT
    whole = torch.zeros(rank, len(mean), dtype=torch.float64)
    whole[:, alive] = factor * scale
    return whole


def reconstruction_distance(fake: Features, real: Features) -> Value:
    """The same distance of images' reconstructions from these very images: "rfd", 0 where nothing is lost."""
    return Value("rfd", frechet_distance(fake, real).value)


def extrapolated_distance(fake: Features, real: Features, seed: int = 0, progress: Tell | None = None) -> list[Value]:
    """ "fd_inf" and "fd_inf_r2": the Frechet distance at infinitely many samples, and how straight the line there is.

    The bias of the distance falls as 1/n (Chong & Forsyth 2020, arXiv:1911.07023), of either side. So both are shuffled
    by `seed` and cut into j blocks each, for j = 1, 2 ... 5: the mean distance of the j pairs lies on a + b j, and a is
    what is left at j = 0. Every level uses all the data. R^2 near 1 says that the bias is in proportion to 1/n; it is
    low where the distance itself is far larger than its bias. There is no error: the residuals of the fit are not one,
    for the levels share their data. Over draws "fd_inf" scatters 1 to 1.5 times as much as "fd", about a mean that is
    within a third of that of the truth (Gaussians of 64 features, 900 to 10,000 samples); it can fall below 0.

    There are as many levels as leave 4 samples per feature in a block, and at least three. progress is told (distances
    done, distances to do). Raises BadInput as `frechet_distance`.
    """
    d = fake.space.dim
    check(fake, real, at_least=PER_FEATURE * d, of="an extrapolated Frechet distance")
    n = min(len(fake.values), len(real.values))
    levels = range(1, 1 + max(FEWEST, min(LEVELS, n // (SMALLEST * d))))
    generator = torch.Generator().manual_seed(seed)
    x, y = (f.values[torch.randperm(len(f.values), generator=generator)] for f in (fake, real))
    done, distances = 0, []
    for level in levels:
        total = 0.0
        for a, b in zip(x.tensor_split(level), y.tensor_split(level)):
            total += distance_of_gaussians(Moments.of(a), Moments.of(b))
            done += 1
            if progress is not None:
                progress(done, sum(levels))
        distances.append(total / level)
    line = linregress(list(levels), distances)
    return [
        Value("fd_inf", float(line.intercept)),
        Value("fd_inf_r2", float(line.rvalue**2)),
    ]


METRICS = (
    Metric(
        "fd",
        title="FD",
        direction="↓",
        judged=True,
        best="floor",
        meaning="Fréchet distance of Gaussians fitted to features; biased up by about d/n",
        source="arXiv:1706.08500",
        cost="0.01",
        distance=True,
        ratio=True,
        place=10,
    ),
    Metric(
        "fd_inf",
        title="FD∞",
        direction="↓",
        judged=True,
        best="0",
        meaning="fd extrapolated to infinitely many samples by a line in 1/n",
        source="arXiv:1911.07023",
        cost="0.03",
        distance=True,
        ratio=True,
        place=10,
    ),
    Metric(
        "fd_inf_r2",
        best="1",
        meaning="R² of that line: how much of fd is bias, and how linear the bias is",
        place=10,
    ),
    Metric(
        "rfd",
        title="rFD",
        best="0",
        meaning="fd between a codec's reconstructions of held-out images and these images: what it loses",
        place=10,
    ),
)
