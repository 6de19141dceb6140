"""Which noise goes with which example: couplings of a batch, and how straight the paths are that a coupling leads to.

Flow matching draws x and eps independently, so that lines cross and the flow, which can not, bends. A coupling pi(x, eps)
with the same marginals changes the paths and not where they lead. Minibatch optimal transport assigns the noise of a batch
to its examples at the least total squared distance (Tong et al., section 3.2.3; Pooladian et al., algorithm 1).

Straightness of a flow dZ = v(Z, t) dt from Z_0 to Z_1 (Liu et al., section 2.2):

    S = int_0^1 E || (Z_1 - Z_0) - v(Z_t, t) ||^2 dt,        0 if and only if every path is a straight line.

References
    Tong et al. 2024, arXiv:2302.00482; Pooladian et al. 2023, arXiv:2304.14772 (minibatch optimal transport)
    Liu et al. 2023, arXiv:2209.03003 (rectified flow)
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from paradigms.maths.denoiser import Denoiser
from paradigms.maths.solvers import nodes, rk4_step, solve

__all__ = ["assign", "straightness"]


def assign(x: Tensor, eps: Tensor, chunk: int) -> Tensor:
    """Indices i (B,) such that the pairs (x, eps[i]) have the least sum of squared distances; x, eps (B, ...).

    Exact within each `chunk` of the batch: the assignment's cost grows as the cube of its size. Every index occurs once,
    so that the marginals stay as they are.
    """
    n, found = len(x), []
    for first, last in ((0, n - n % chunk), (n - n % chunk, n)):  # whole chunks at once, and what is left
        if last > first:
            size = min(chunk, last - first)
            a, b = (v[first:last].flatten(1).unflatten(0, (-1, size)) for v in (x, eps))
            # || a - b ||^2 = |a|^2 + |b|^2 - 2 a.b, of which only the last depends on who goes with whom.
            gains = torch.bmm(a, b.mT).cpu().numpy()
            columns = np.stack([linear_sum_assignment(gain, maximize=True)[1] for gain in gains])
            found.append((columns + np.arange(first, last, size)[:, None]).ravel())
    return torch.from_numpy(np.concatenate(found)).to(x.device, non_blocking=True)


@torch.no_grad()
def straightness(d: Denoiser, z: Tensor, steps: int = 128) -> tuple[Tensor, Tensor]:
    """(S (B,), squared length || Z_1 - Z_0 ||^2 (B,)) of the ODE's paths from noise z (B, ...) on the denoiser's own path.

    Fourth-order steps on a grid quadratic in t, finest near the data, where a diffusion's velocity grows; the trapezoid rule
    in between. Time is rescaled to unit length where the path ends before t = 0. Costs 5 calls a step.
    """
    ends = torch.linspace(1, 0, steps + 1, dtype=torch.float64).square()
    times = d.t_min + (d.t_max - d.t_min) * ends
    at = d.along(nodes(times), z)
    x = z * float(d.path.sigma(times[:1]))
    weight = torch.cat([times, times[-1:]]).neg().diff()[:-1]  # of each interval, rescaled below
    weight = (torch.cat([weight, 0 * weight[:1]]) + torch.cat([0 * weight[:1], weight])) / 2
    span = d.t_max - d.t_min
    square, mean = z.new_zeros(len(z), dtype=torch.float64), torch.zeros_like(z, dtype=torch.float64)
    state = x

    def note(k: int, x: Tensor) -> None:
        v = span * at.velocity(x, times[k].item()).double()
        share = float(weight[k]) / span
        square.add_(v.square().flatten(1).sum(1), alpha=share)
        mean.add_(v, alpha=share)

    note(0, state)
    for k in range(steps):
        state = solve(at.velocity, state, times[k : k + 2], rk4_step)
        note(k + 1, state)
    way = (x - state).double()  # Z_1 - Z_0
    length = way.square().flatten(1).sum(1)
    return square - 2 * (way * mean).flatten(1).sum(1) + length, length
