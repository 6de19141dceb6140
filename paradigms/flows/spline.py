"""Monotonic rational-quadratic splines with linear tails (Durkan et al. 2019, arXiv:1906.04032)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from paradigms.maths.sums import running_sums

LEAST = 1e-3  # of a bin's share of the interval, and of a slope: what keeps the spline invertible
_UNIT = math.log(math.expm1(1 - LEAST))  # softplus(_UNIT) + LEAST = 1


def rational_quadratic(
    x: Tensor, widths: Tensor, heights: Tensor, derivatives: Tensor, inverse: bool = False, bound: float = 3.0
) -> tuple[Tensor, Tensor]:
    """(z, log dz/dx), or with `inverse` (x, log dx/dz), elementwise, each shaped as x (...).

    widths, heights (..., K): unnormalised, a softmax makes them shares of [-bound, bound]; derivatives (..., K - 1):
    slopes at the inner knots before a shifted softplus. All at zero is the identity. Outside the interval, and at its
    ends, the slope is 1. Of x and the parameters any layout will do; K elements in a row are fastest.
    """
    xs, ys = _knots(widths, bound), _knots(heights, bound)
    slopes = F.pad(F.softplus(derivatives + _UNIT) + LEAST, (1, 1), value=1.0)
    inside = x.abs() < bound
    here = x.clamp(-bound, bound)
    # The bin is the number of inner knots at or below x; two knots of each kind are gathered at once.
    k = (here[..., None] >= (ys if inverse else xs)[..., 1:-1]).sum(-1, keepdim=True)
    ends = torch.cat([k, k + 1], dim=-1)[..., None, :].expand(*x.shape, 3, 2)
    left, right = torch.stack([xs, ys, slopes], dim=-2).gather(-1, ends).unbind(-1)
    (x0, y0, d0), (x1, y1, d1) = left.unbind(-1), right.unbind(-1)
    w, h = x1 - x0, y1 - y0
    s = h / w
    bend = d0 + d1 - 2 * s
    if inverse:  # the root of a quadratic in xi, in the form that loses no digits
        rise = here - y0
        a, b, c = h * (s - d0) + rise * bend, h * d0 - rise * bend, -s * rise
        xi = 2 * c / (-b - (b.square() - 4 * a * c).clamp_min(0).sqrt())
        out = x0 + xi * w
    else:
        xi = (here - x0) / w
    both = xi * (1 - xi)
    below = s + bend * both
    if not inverse:
        out = y0 + h * (s * xi.square() + d0 * both) / below  # eq. 4: the spline
    # Its slope (eq. 5).
    slope = s.square() * (d1 * xi.square() + 2 * s * both + d0 * (1 - xi).square()) / below.square()
    log_slope = -slope.log() if inverse else slope.log()
    return torch.where(inside, out, x), torch.where(inside, log_slope, 0.0)


def _knots(unnormalised: Tensor, bound: float) -> Tensor:
    """(..., K) to K + 1 ascending knots from -bound to bound, none nearer than LEAST of the whole to the next."""
    k = unnormalised.shape[-1]
    # A softmax over few elements is slow on a CPU, and its sum is the last of the cumulative sums taken anyway.
    sums = running_sums((unnormalised - unnormalised.detach().amax(-1, keepdim=True)).exp())
    least = torch.arange(1, k + 1, device=sums.device, dtype=sums.dtype) * LEAST
    shares = torch.addcmul(least, sums, (1 - LEAST * k) / sums[..., -1:])
    return F.pad(shares * (2 * bound) - bound, (1, 0), value=-bound)
