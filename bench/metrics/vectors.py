"""Distances between sets of vectors: Wasserstein, sliced Wasserstein, maximum mean discrepancy, energy, two-sample."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bench.metrics.blocks import Tell
from bench.metrics.kernel import discrepancy
from bench.metrics.values import Value, evenly, share
from paradigms.standardise import column_units
from reports.metrics import Metric

__all__ = [
    "distances",
    "energy_distance",
    "gaussian_discrepancy",
    "sliced_wasserstein",
    "two_sample_accuracy",
    "wasserstein",
]

ASSIGNED = 2000  # points in the exact Wasserstein distance: 1 s, and it grows with the cube
DIRECTIONS = 256  # of the sliced Wasserstein distance
WIDTHS = 5  # Gaussian kernels in the MMD
FOLDS = 5  # of the two-sample test


def distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) distances by differences: exactly 0 between equal rows."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def wasserstein(x: Tensor, y: Tensor, tell: Tell | None = None) -> Value:
    """ "w2": (min over pairings of the mean squared distance)^(1/2), of equally many points, at most 2,000 of each."""
    n = min(len(x), len(y), ASSIGNED)
    cost = distances(evenly(x, n), evenly(y, n)).square_().numpy()
    rows, columns = linear_sum_assignment(cost)
    if tell is not None:
        tell(1, 1)
    return Value("w2", math.sqrt(cost[rows, columns].mean()))


def sliced_wasserstein(x: Tensor, y: Tensor, tell: Tell | None = None) -> Value:
    """ "sw2": the root mean over 256 fixed random directions of the squared distance of sorted projections."""
    n = min(len(x), len(y))
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(x.shape[1], DIRECTIONS, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=0)
    a, b = ((evenly(v, n) @ directions).sort(0).values for v in (x, y))
    if tell is not None:
        tell(1, 1)
    return Value("sw2", (a - b).square().mean().sqrt().item())


def gaussian_discrepancy(x: Tensor, y: Tensor, tell: Tell | None = None) -> Value:
    """ "mmd2": the unbiased squared maximum mean discrepancy, with its error, in units of y's columns."""
    o, u = column_units(y)
    return discrepancy("mmd2", (x - o) / u, (y - o) / u, _gaussians, tell)


def _gaussians(x: Tensor, y: Tensor) -> Tensor:
    """The mean of Gaussian kernels exp(-r^2 / 2 w^2), w = sqrt(D) / (1, 2, 4, 8, 16), for data of unit variance.

    The wide ones see lost modes, the narrow ones the shape of a mode. Halving a width is raising its kernel to the 4th.
    """
    kernel = distances(x, y).square_().div_(-2 * x.shape[1]).exp_()
    total = kernel.clone()
    for _ in range(WIDTHS - 1):
        kernel.square_().square_()
        total += kernel
    return total.div_(WIDTHS)


def energy_distance(x: Tensor, y: Tensor, tell: Tell | None = None) -> Value:
    """ "energy": the unbiased estimate of 2 E|x - y| - E|x - x'| - E|y - y'| (Székely & Rizzo 2013), with its error.

    No width to choose; it is the discrepancy of the kernel -|x - y|.
    """
    return discrepancy("energy", x, y, lambda a, b: distances(a, b).neg_(), tell)


def two_sample_accuracy(x: Tensor, y: Tensor, tell: Tell | None = None) -> Value:
    """ "c2st": how often a classifier tells held-out samples from real vectors, over 5 folds: ½ where it can not.

    The classifier two-sample test of Lopez-Paz & Oquab (2017, arXiv:1610.06545) with their k nearest neighbours,
    k = sqrt(training examples), on standardised coordinates; equally many of each. The folds are shuffled by a fixed
    seed, after sorting: the order of the samples does not count. The interval is that of a share of 2n answers.
    """
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n = min(len(x), len(y))
    points = np.concatenate([v[np.lexsort(v.T)] for v in (evenly(x, n).numpy(), evenly(y, n).numpy())])
    side = np.repeat([0, 1], n)
    neighbours = max(1, math.isqrt(2 * n * (FOLDS - 1) // FOLDS))
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(neighbours))
    folds, scores = StratifiedKFold(min(FOLDS, n), shuffle=True, random_state=0), list[float]()
    for train, test in folds.split(points, side):
        scores.append(model.fit(points[train], side[train]).score(points[test], side[test]))
        if tell is not None:
            tell(len(scores), folds.n_splits)
    return share("c2st", float(np.mean(scores)), 2 * n)


METRICS = (
    Metric(
        "w2",
        title="W₂",
        direction="↓",
        judged=True,
        best="floor",
        meaning="exact 2-Wasserstein distance of at most 2,000 vectors",
        cost="0.66",
        distance=True,
        ratio=True,
        place=80,
    ),
    Metric(
        "sw2",
        title="Sliced W₂",
        direction="↓",
        judged=True,
        best="floor",
        meaning="sliced 2-Wasserstein distance over 256 fixed directions",
        source="Bonneel et al. 2015",
        cost="0.08",
        distance=True,
        ratio=True,
        place=80,
    ),
    Metric(
        "mmd2",
        title="MMD²",
        direction="↓",
        judged=True,
        best="0",
        meaning="squared maximum mean discrepancy, five Gaussian widths in units of the real columns, unbiased",
        source="Gretton et al. 2012",
        cost="0.23",
        distance=True,
        ratio=True,
        place=80,
    ),
    Metric(
        "energy",
        title="Energy",
        direction="↓",
        judged=True,
        best="0",
        meaning="energy distance, unbiased",
        source="Székely & Rizzo 2013",
        cost="0.05",
        distance=True,
        ratio=True,
        place=80,
    ),
    Metric(
        "c2st",
        title="C2ST",
        direction="↓",
        judged=True,
        best="0.5",
        meaning="accuracy of a nearest-neighbour classifier that tells samples from real vectors, 5 folds",
        source="arXiv:1610.06545",
        cost="0.06",
        place=80,
    ),
)
