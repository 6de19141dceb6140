"""ODE solvers dx/dt = f(x, t) over a grid of times, and one adaptive solver whose steps do not couple a batch.

f takes x (B, ...) and t (B,) and returns the derivative, shaped as x. Grids may run in either direction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paradigms.maths.paths import expand

Field = Callable[[Tensor, Tensor], Tensor]
Watch = Callable[[float, Tensor], None]


def grid(start: float, stop: float, steps: int, device: torch.device | str = "cpu") -> Tensor:
    """steps + 1 equally spaced times, float64."""
    return torch.linspace(start, stop, steps + 1, dtype=torch.float64, device=device)


def euler_step(f: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Order 1, one call."""
    return x + expand(s - t, x) * f(x, t)


def heun_step(f: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Order 2, two calls: the trapezoid rule on an Euler prediction."""
    h = expand(s - t, x)
    k1 = f(x, t)
    k2 = f(x + h * k1, s)
    return x + h / 2 * (k1 + k2)


def rk4_step(f: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Order 4, four calls: the classical Runge-Kutta method."""
    h = expand(s - t, x)
    m = t + (s - t) / 2
    k1 = f(x, t)
    k2 = f(x + h / 2 * k1, m)
    k3 = f(x + h / 2 * k2, m)
    k4 = f(x + h * k3, s)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


Step = Callable[[Field, Tensor, Tensor, Tensor], Tensor]


def solve(f: Field, x: Tensor, times: Tensor, step: Step, watch: Watch | None = None) -> Tensor:
    """x carried along `times` (N + 1,) by `step`; returns x at the last time."""
    # One (B,) row per time, made at once: making them inside the loop costs as much as a small network.
    rows = times.to(x.device, x.dtype)[:, None].expand(-1, len(x)).contiguous()
    if watch:
        watch(float(times[0]), x)
    for i in range(len(times) - 1):
        x = step(f, x, rows[i], rows[i + 1])
        if watch:
            watch(float(times[i + 1]), x)
    return x


# Dormand & Prince 1980: the 5(4) pair behind dopri5 and ode45.
_C = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_A: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_E = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def dopri5(
    f: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    start: float,
    stop: float,
    rtol: float,
    atol: float,
    max_steps: int = 1000,
) -> Tensor:
    """Adaptive Dormand-Prince 5(4) from `start` to `stop`, each row of the batch with step sizes of its own.

    A row's result therefore does not depend on which rows it is solved with (a shared step size couples them). Every
    round costs seven calls f(x, t, rows) for the rows still under way, whose indices are `rows`. Raises RuntimeError
    when a row needs more than `max_steps`.
    """
    span = stop - start
    t = torch.zeros(len(x), dtype=torch.float64, device=x.device)  # progress from 0 to 1
    h = torch.full_like(t, 0.05)
    x = x.clone()
    for _ in range(max_steps):
        live = torch.nonzero(t < 1).squeeze(1)
        if not len(live):
            return x
        here, xl = t[live], x[live]
        hl = torch.minimum(h[live], 1 - here)
        step = expand(hl.to(x.dtype) * span, xl)
        ks: list[Tensor] = []
        point = xl
        for c, row in zip(_C, _A):
            point = xl
            for a, k in zip(row, ks):
                if a:
                    point = torch.addcmul(point, step, k, value=a)
            ks.append(f(point, (start + span * (here + c * hl)).to(x.dtype), live))
        error = sum(e * k for e, k in zip(_E, ks) if e) * step
        scale = atol + rtol * torch.maximum(xl.abs(), point.abs())
        norm = (error / scale).flatten(1).square().mean(1).sqrt().double()
        accept = norm <= 1
        done = live[accept]
        x[done] = point[accept]
        t[done] = torch.where(hl[accept] >= 1 - here[accept], torch.ones_like(hl[accept]), here[accept] + hl[accept])
        h[live] = hl * (0.9 * norm.clamp_min(1e-10) ** -0.2).clamp(0.2, 5.0)
    raise RuntimeError(f"dopri5 did not reach the end within {max_steps} steps; loosen rtol/atol")
