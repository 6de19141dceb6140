"""ODE solvers dx/dt = f(x, t) over a grid of times, and one adaptive solver whose steps do not couple a batch.

f takes x (B, ...) and t, and returns the derivative, shaped as x. Over a grid t is a plain number, which f may look up;
where every row has a time and a step of its own, as in the training of a consistency model, it is (B,). Grids may run in
either direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from paradigms.errors import BadInput
from paradigms.maths.paths import expand

Field = Callable[[Tensor, Any], Tensor]
Watch = Callable[[float, Tensor], None]


def grid(start: float, stop: float, steps: int) -> Tensor:
    """steps + 1 equally spaced times, float64."""
    return torch.linspace(start, stop, steps + 1, dtype=torch.float64)


def _add(x: Tensor, h: float | Tensor, k: Tensor) -> Tensor:
    """x + h k in one operation; h is a number, or (B, 1, ..., 1) where every row has its own step."""
    return torch.addcmul(x, h, k) if isinstance(h, Tensor) else torch.add(x, k, alpha=h)


def euler_step(f: Field, x: Tensor, t: Any, s: Any, h: float | Tensor) -> Tensor:
    """Order 1, one call."""
    return _add(x, h, f(x, t))


def heun_step(f: Field, x: Tensor, t: Any, s: Any, h: float | Tensor) -> Tensor:
    """Order 2, two calls: the trapezoid rule on an Euler prediction."""
    k1 = f(x, t)
    k2 = f(_add(x, h, k1), s)
    return _add(x, h / 2, k1 + k2)


def rk4_step(f: Field, x: Tensor, t: Any, s: Any, h: float | Tensor) -> Tensor:
    """Order 4, four calls: the classical Runge-Kutta method."""
    m = (t + s) / 2
    k1 = f(x, t)
    k2 = f(_add(x, h / 2, k1), m)
    k3 = f(_add(x, h / 2, k2), m)
    k4 = f(_add(x, h, k3), s)
    return _add(x, h / 6, k1 + 2 * (k2 + k3) + k4)


# A step of size h from time t to s = t + h.
Step = Callable[[Field, Tensor, float, float, float], Tensor]


def nodes(times: Tensor) -> Tensor:
    """Every time at which a step above asks along `times` (N + 1,): these and, exactly as rk4_step has them, the middles."""
    exact = times.tolist()
    return torch.tensor([*exact, *((t + s) / 2 for t, s in pairwise(exact))], dtype=torch.float64)


def solve(f: Field, x: Tensor, times: Tensor, step: Step, watch: Watch | None = None) -> Tensor:
    """x carried along `times` (N + 1,) by `step`; returns x at the last time. `watch` sees each step's end."""
    for t, s in pairwise(times.tolist()):
        x = step(f, x, t, s, s - t)
        if watch:
            watch(s, x)
    return x


# Dormand & Prince 1980: the 5(4) pair behind dopri5 and ode45.
_C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_A: tuple[tuple[float, ...], ...] = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_E = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


Fields = Callable[[Tensor, Tensor, Tensor], Callable[[int, Tensor], Tensor]]


def dopri5(f: Fields, x: Tensor, start: float, stop: float, rtol: float, atol: float, max_steps: int = 1000) -> Tensor:
    """Adaptive Dormand-Prince 5(4) from `start` to `stop`, each row of the batch with step sizes of its own.

    A row's result therefore does not depend on which rows it is solved with (a shared step size couples them). Every
    round costs six calls for the rows still under way: f(times (6, b), x (b, ...), rows (b,)) gives the derivative as a
    function (k, x) at the k-th of those times, rows being their indices in the batch; the last slope of an accepted step is
    the first of the next. A row is given up, and NaN, where its derivative is not finite at the state it has reached, or
    at the trial states of steps down to a millionth of the span. Raises BadInput when a row needs more than `max_steps`.
    """
    span = stop - start
    out, rows = torch.empty_like(x), torch.arange(len(x), device=x.device)
    nodes = torch.tensor(_C, dtype=torch.float64).to(x.device, non_blocking=True)[:, None]
    u = torch.zeros(len(x), dtype=torch.float64, device=x.device)  # progress from 0 to 1
    h, root = torch.full_like(u, 0.05), math.sqrt(math.prod(x.shape[1:]))
    slope = f(torch.full_like(u, start)[None], x, rows)(0, x)
    for _ in range(max_steps):
        if not len(rows):
            break
        size = torch.minimum(h, 1 - u)
        at, step = f(start + span * (u + nodes * size), x, rows), expand(size.to(x.dtype) * span, x)
        slopes, point = [slope], x
        for k, row in enumerate(_A):
            point = torch.addcmul(x, step, _weighed(row, slopes))
            slopes.append(at(k, point))
        error = step * _weighed(_E, slopes)
        scale = torch.maximum(x.abs(), point.abs()).mul_(rtol).add_(atol)
        norm = torch.linalg.vector_norm(error.div_(scale).flatten(1), dim=1).double() / root
        norm = norm.nan_to_num(nan=math.inf)  # a trial that left the numbers: again with a shorter step
        lost = ~slope.flatten(1).isfinite().all(1) | (norm.isinf() & (size < 1e-6))
        accept = norm <= 1
        taken = expand(accept, x)
        x, slope = torch.where(taken, point, x), torch.where(taken, slopes[-1], slope)
        over = accept & (size >= 1 - u) | lost
        u = torch.where(accept, u + size, u)
        h = size * (0.9 * norm.clamp_min(1e-10) ** -0.2).clamp(0.2, 5.0)
        if over.any():
            out[rows[over]] = torch.where(expand(lost, x), math.nan, x)[over]
            under = ~over
            rows, x, slope, u, h = rows[under], x[under], slope[under], u[under], h[under]
    if len(rows):
        raise BadInput(f"dopri5 did not reach the end within {max_steps} steps; loosen rtol/atol")
    return out


def _weighed(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """The sum of the slopes, each by its weight."""
    total = weights[0] * slopes[0]
    for a, k in zip(weights[1:], slopes[1:]):
        if a:
            total.add_(k, alpha=a)
    return total
