"""Squared maximum mean discrepancy, unbiased and with its standard error: of features, and for other kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.metrics.blocks import Tell, blocks, in_turn
from bench.metrics.values import Features, Value, check
from reports.metrics import Metric

__all__ = ["Kernel", "discrepancy", "kernel_distance"]

Kernel = Callable[[Tensor, Tensor], Tensor]  # (n, d), (m, d) -> (n, m)


def kernel_distance(fake: Features, real: Features, tell: Tell | None = None) -> Value:
    """The unbiased squared maximum mean discrepancy with the kernel (x.y/d + 1)^3 over all samples: "kd".

    Not over random subsets, as KID is usually taken (Bińkowski et al. 2018, arXiv:1801.01401): that is noisier, and the
    spread over subsets is not the error of their mean (3.7 times it in one measurement). The error here is the
    jackknife's. Two halves of one set that was divided class by class are more alike than independent draws, so that
    their floor lies a little below 0. The kernel is that of the features as they are, and it is not the same about
    another origin: features far from 0 weigh the difference of the means by the cube of that distance. Only the
    arithmetic is centred (see `_cubic_about`). Raises BadInput as `check` does, and below 3 on either side.
    """
    check(fake, real, at_least=3, of="a kernel distance")
    x, y = fake.values.double(), real.values.double()
    centre = y.mean(0)
    return discrepancy("kd", x - centre, y - centre, _cubic_about(centre), tell)


def _cubic_about(centre: Tensor) -> Kernel:
    """(x.y/d + 1)^3 of x = centre + a and y = centre + b, as a function of a and b, but for what cancels.

    With c = |centre|^2/d + 1, w = a.b/d and s = w + centre.(a + b)/d the kernel is (c + s)^3 = c^3 + 3 c^2 s + 3 c s^2
    + s^3. In the unbiased discrepancy, and where a sample is left out of it, every part that depends on one of the two
    alone cancels exactly. Without c^3 and 3 c^2 centre.(a + b)/d the same value is left, and not their rounding, which
    for features of mean 1e4 is above it.
    """
    d = len(centre)
    c = float(centre @ centre) / d + 1

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        w = (a @ b.mT).div_(d)
        s = w + (a @ centre / d)[:, None] + b @ centre / d
        return (s + 3 * c).mul_(s).mul_(s).add_(w, alpha=3 * c * c)

    return kernel


def discrepancy(metric: str, x: Tensor, y: Tensor, kernel: Kernel, tell: Tell | None = None) -> Value:
    """The unbiased estimate of E k(x, x') + E k(y, y') - 2 E k(x, y) of x (n, d) and y (m, d), with its error.

    All that is needed are the row sums of the three kernel matrices, without the diagonal of the first two. Leaving out
    sample i changes the estimate by closed form, so the jackknife's error costs nothing more. There is no error where
    the points of a side are all the same: nothing scatters.
    """
    n, m = len(x), len(y)
    of_x, of_y, of_both = in_turn(tell, n, m, n)
    xx, yy = _row_sums(x, x, kernel, False, of_x)[0], _row_sums(y, y, kernel, False, of_y)[0]
    xy, yx = _row_sums(x, y, kernel, True, of_both)
    cross = xy.sum()

    value = xx.sum() / (n * (n - 1)) + yy.sum() / (m * (m - 1)) - 2 * cross / (n * m)
    without_x = (xx.sum() - 2 * xx) / ((n - 1) * (n - 2)) - 2 * (cross - xy) / ((n - 1) * m)
    without_y = (yy.sum() - 2 * yy) / ((m - 1) * (m - 2)) - 2 * (cross - yx) / (n * (m - 1))
    variance = (n - 1) * without_x.var(correction=0) + (m - 1) * without_y.var(correction=0)
    scatters = bool((x != x[0]).any()) and bool((y != y[0]).any())
    return Value(metric, value.item(), variance.sqrt().item() if scatters else None)


def _row_sums(x: Tensor, y: Tensor, kernel: Kernel, diagonal: bool, tell: Tell | None) -> tuple[Tensor, Tensor]:
    """Row and column sums of the kernel matrix of x and y, with or without its diagonal."""
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64, device=y.device)
    for part in blocks(len(x), len(y), tell):
        block = kernel(x[part], y)
        if not diagonal:
            block.diagonal(part.start).zero_()
        rows.append(block.sum(1))
        columns += block.sum(0)
    return torch.cat(rows), columns


METRICS = (
    Metric(
        "kd",
        title="Kernel distance",
        direction="↓",
        judged=True,
        best="0",
        meaning="squared maximum mean discrepancy, cubic kernel; unbiased, so also below 0",
        source="arXiv:1801.01401",
        cost="0.16",
        distance=True,
        ratio=True,
        place=20,
    ),
)
