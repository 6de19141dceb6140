"""Every sampler of the diffusion family. Each takes a `Denoiser`, whatever it was trained for, and nothing else of a model.

A plan of N steps asks the network at N noise levels t_1 > t_2 > ... > t_N, which a grid lays between the ends of the path
(`levels`), and leaves the last of them for the data. With x0 and eps what the denoiser expects at x_t, and s < t the next
level, the steps are

    DDIM, ancestral     x_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c w        c^2 = eta^2 sigma_s^2 (1 - SNR_t / SNR_s)
    DPM-Solver++ (2M)   x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D      h = log (alpha/sigma)_s - log (alpha/sigma)_t
    reverse SDE         dx = [alpha' x0 + (sigma' + r) eps] dt + sqrt(2 sigma r) dw       r = sigma (log sigma / alpha)'
    its ODE             dx = [alpha' x0 + sigma' eps] dt

with w ~ N(0, I). The ODE and the SDE are solved on the model's own path or on another one ("on"): on the linear one Euler's
method is DDIM, on the cosine one the variance-preserving equations are short, on EDM's sigma itself is the time.

A denoiser trained with labels and without can be guided in all of them (`maths.guidance`): a guided step asks the network
for two rows an example.

References
    Ho et al. 2020, arXiv:2006.11239 (ancestral); Song et al. 2021, arXiv:2010.02502 (DDIM, eq. 12)
    Song et al. 2021, arXiv:2011.13456 (reverse SDE, predictor-corrector, algorithms 1, 4, 5)
    Lu et al. 2022, arXiv:2211.01095 (DPM-Solver++, algorithm 2; SDE-DPM-Solver++(2M), appendix)
    Karras et al. 2022, arXiv:2206.00364 (Heun and churn, algorithms 1 and 2; the grid, eq. 5)
    Song & Ermon 2020, arXiv:2006.09011 (annealed Langevin dynamics, algorithm 1 with technique 4)
    Ho & Salimans 2022, arXiv:2207.12598; Kynkäänniemi et al. 2024, arXiv:2404.07724 (guidance, its interval)

Where this differs from the papers and their code
    - Predictor-corrector: the predictor is the ancestral step on every path, and comes first, as in the paper; Song et al.'s
      code corrects first, and its usual predictor is Euler-Maruyama ("reverse diffusion").
    - The Langevin step is VE's on every path. For VP and sub-VP theirs is smaller by the factor alpha_i = 1 - beta_i, by 2 %
      at most with N = 1000 steps and 40 % with 50; below 20 steps it has none, as 1 - beta_i < 0. Followed, with
      alpha_i = (alpha_t / alpha_s)^2, the samples of an exact score lie 0 to 3 % further from the data (VP and sub-VP, Gaussian
      in 64 dimensions, 16 to 250 steps).
    - The norms in it are each sample's own, where theirs are means over the batch, and it is at most 0.25 sigma^2, where
      theirs has no bound. At snr = 0.16 and where eps is like noise that binds for 17 % of the steps in 2 dimensions, 0.1 %
      in 16 and none in 64.
    - Churn raises the noise above sigma_max where it is told to, as Karras et al.'s code does. A network of another path
      than EDM's is then asked at its own last level.
    - A chain of fewer steps is asked at Nichol & Dhariwal's times. A single step is asked at t = T, where the prior's noise
      is; their code asks at t = 1.
      DDIM has the same times; Song et al.'s code is asked at t = 981, 961 ... 1 with 50 steps, and never at T.
    - Langevin dynamics start from N(0, sigma_1^2), where Song & Ermon's code starts from uniform pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, repeat

import torch
from torch import Tensor

from paradigms.core.noise import Noise
from paradigms.core.plans import OptionValue, Plan, Sampler
from paradigms.errors import BadInput
from paradigms.maths.denoiser import Along, Denoiser
from paradigms.maths.guidance import PURE
from paradigms.maths.paths import COORDINATES, GaussianPath
from paradigms.maths.solvers import Step, Watch, dopri5, euler_step, heun_step, nodes, rk4_step, solve

__all__ = ["GRIDS", "METHODS", "guided", "levels", "ode_samplers", "offered", "sample"]

GRIDS = ("uniform", "trailing", "quadratic", "cosine", "karras", "logsnr")
RATIOS = (0.002, 80.0)  # sigma / alpha between which "karras" and "logsnr" lie where the path itself has no bounds
RHO = 7.0  # of Karras et al.
AHEAD = 2**18  # numbers of noise that are drawn at once
LONGEST = 0.25  # Langevin step of the corrector, in sigma^2: |score| comes near 0 where there are few dimensions


# ----------------------------------------------------------------------------------------------------------- grids


def levels(d: Denoiser, n: int, kind: str = "uniform") -> Tensor:
    """The n times (falling, float64) at which a plan of n steps asks the network.

    From t_max to t_min, and where the path ends free of noise, to one step before it.
    uniform, quadratic: in t, in the square root of t. trailing: uniform down to t = 0, whose neighbourhood is not visited.
    cosine: uniform in arctan(sigma / alpha). karras: in (sigma / alpha)^(1 / 7). logsnr: in log (alpha / sigma).
    """
    return _levels(d.path, d.free, d.t_min, d.t_max, d.T, n, kind).clone()


@lru_cache(maxsize=8)
def _levels(path: GaussianPath, free: bool, t_min: float, t_max: float, T: int | None, n: int, kind: str) -> Tensor:
    def spaced(start: float, stop: float, reached: bool) -> Tensor:
        return torch.linspace(start, stop, n if reached else n + 1, dtype=torch.float64)[:n]

    ends = torch.tensor([t_max, t_min], dtype=torch.float64)
    if kind in ("uniform", "trailing"):
        t = spaced(t_max, 0.0, False) if kind == "trailing" else spaced(t_max, t_min, not free)
        t = t if T is None else _chain_times(t, T, kind) / T  # a chain is asked at its own times
    elif kind == "quadratic":
        t = spaced(math.sqrt(t_max), math.sqrt(t_min), not free).square()
    elif kind == "cosine":
        first, last = path.angle(ends).tolist()
        t = path.time_of_log_snr(-2 * torch.log(torch.tan(spaced(first, last, not free))))
    else:
        high, low = torch.exp(-path.log_snr(ends) / 2).tolist()
        high, low = (high if high < 1e6 else RATIOS[1]), (low if low > 1e-6 else RATIOS[0])
        if kind == "karras":
            ratio = spaced(high ** (1 / RHO), low ** (1 / RHO), True) ** RHO
        else:
            ratio = spaced(math.log(high), math.log(low), True).exp()
        t = path.time_of_log_snr(-2 * torch.log(ratio))
    t = t.clamp(t_min, t_max)
    t[0] = t_max  # the prior's noise, to the last digit
    return t


def _chain_times(t: Tensor, T: int, kind: str) -> Tensor:
    """The times 1 ... T (N,) of a chain nearest to t (N,), falling.

    "uniform" is Nichol & Dhariwal's respacing, digit for digit: fractions of T - 1 counted from 0 and summed one by one, halves
    to the even side.
    """
    if kind == "uniform" and len(t) > 1:
        between = repeat((T - 1) / (len(t) - 1), len(t) - 1)
        return torch.tensor([1.0 + round(k) for k in accumulate(between, initial=0.0)], dtype=torch.float64).flip(0)
    return (t * T).round()


def _kappa(alpha: Tensor, sigma: Tensor) -> Tensor:
    """1 - SNR_t / SNR_s of neighbouring levels, (N,)."""
    return 1 - (alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1])).square()


def _ahead(noise: Noise, draws: int, x: Tensor) -> Iterator[Tensor]:
    """So many w ~ N(0, I) shaped as x, several drawn at once: between two network calls one takes five times as long."""
    at_once = max(1, AHEAD // x.numel())
    for first in range(0, draws, at_once):
        yield from [noise.normal(*x.shape) for _ in range(min(at_once, draws - first))]


# --------------------------------------------------------------------------------------------------------- claims

Run = Callable[[Denoiser, Tensor, Tensor, Plan, Noise, Watch], Tensor]

ONE, FEW, MANY = (1, 2, 4, 8, 16, 32, 64), (2, 4, 8, 16, 18, 32), (8, 16, 32, 64, 100, 250, 1000)  # steps of a sweep
OWN = ""  # the default of an option that each model gives itself
GRID = {"grid": GRIDS}
GRID_ON = {"grid": GRIDS, "on": ("own", *COORDINATES)}
TOLERANCES = {"rtol": (1e-6, 1.0), "atol": (1e-6, 1.0)}  # below 1e-6 float32 can not meet one
GUIDANCE: Mapping[str, OptionValue] = {"guidance": 1.0, "guide-from": 0.0, "guide-to": PURE}
INTERVAL = {"guide-from": "guidance", "guide-to": "guidance"}
STRENGTHS = {"guidance": (0.0, 100.0), "guide-from": (0.0, PURE), "guide-to": (0.0, PURE)}


@dataclass(frozen=True)
class Method:
    """A sampler: what it claims of every model, and its function (denoiser, x, times, plan, noise, watch) -> samples.

    calls_free: of the calls, where the path ends free of noise: a step to its end can ask the network there.
    chain:      it takes no more steps than a chain has.
    """

    claims: Sampler
    run: Run
    calls_free: tuple[int, int] | None = None
    chain: bool = False

    def of(self, own: Mapping[str, OptionValue], free: bool, T: int | None) -> Sampler:
        """The claims for one model: with its own defaults for options that are left to it."""
        claims = self.claims
        options = {key: own[key] if value == OWN else value for key, value in claims.options.items()}
        calls = self.calls_free if free and self.calls_free else claims.calls
        return replace(claims, options=options, calls=calls, most=T if self.chain and T else claims.most)


METHODS: dict[str, Method] = {}


def method(claims: Sampler, calls_free: tuple[int, int] | None = None, chain: bool = False) -> Callable[[Run], Run]:
    """Adds the function below it to `METHODS`, with what it claims."""

    def add(run: Run) -> Run:
        METHODS[claims.name] = Method(claims, run, calls_free, chain)
        return run

    return add


# ----------------------------------------------------------------------------------------------------- first order


@method(
    Sampler(
        "ancestral", MANY, order=1, stochastic=True, options={"grid": OWN, "variance": OWN},
        choices={**GRID, "variance": ("small", "large", "learned")}, note="weak order",
    ), chain=True,
)  # fmt: skip
def ancestral(d: Denoiser, x: Tensor, times: Tensor, plan: Plan, noise: Noise, watch: Watch) -> Tensor:
    """The chain's own reverse steps, respaced to `times` (Ho et al., algorithm 2): DDIM's with eta = 1.

    variance: of a step, "small" (the forward posterior's), "large" (the forward step's), or "learned" between the two.
    """
    at = d.along(times, x)
    alpha, sigma = at.alpha, at.sigma
    kappa = _kappa(alpha, sigma)
    r = sigma[1:] * (1 - kappa).sqrt()
    small, large = sigma[1:] * kappa.sqrt(), sigma[:-1] * kappa.sqrt()
    large[-1] = 0.0  # the last step ends at x0
    variance = plan.word("variance")
    if variance == "learned":
        return _learned(at, x, times, r, small, large, noise, watch)
    return _first_order(at, x, times, r, small if variance == "small" else large, noise, watch)


@method(
    Sampler("ddim", ONE, order=1, options={"grid": OWN, "eta": 0.0}, choices=GRID, ranges={"eta": (0.0, 1.0)}),
    chain=True,
)
def ddim(d: Denoiser, x: Tensor, times: Tensor, plan: Plan, noise: Noise, watch: Watch) -> Tensor:
    """eta = 0 is deterministic, eta = 1 ancestral."""
    at = d.along(times, x)
    sigma, kappa, eta = at.sigma, _kappa(at.alpha, at.sigma), plan.option("eta")
    r, c = sigma[1:] * (1 - eta**2 * kappa).sqrt(), eta * sigma[1:] * kappa.sqrt()
    return _first_order(at, x, times, r, c, noise, watch)


def _first_order(at: Along, x: Tensor, times: Tensor, r: Tensor, c: Tensor, noise: Noise, watch: Watch) -> Tensor:
    """x_s = alpha_s x0 + r eps + c w over all levels; r, c (N,)."""
    here, w = times.tolist(), _ahead(noise, int(c.count_nonzero()), x)
    for t, s, a, r_s, c_s in zip(here, [*here[1:], 0.0], at.alpha[1:].tolist(), r.tolist(), c.tolist()):
        x = at.combined(x, t, a, r_s)
        if c_s:
            x = x.add_(next(w), alpha=c_s)
        watch(s, x)
    return x


def _learned(
    at: Along, x: Tensor, times: Tensor, r: Tensor, small: Tensor, large: Tensor, noise: Noise, watch: Watch
) -> Tensor:
    """log c = v log (large) + (1 - v) log (small), v from the network (Nichol & Dhariwal 2021, eq. 15)."""
    here, numbers = times.tolist(), [k.tolist() for k in (at.alpha[1:], r, small.log(), large.log())]
    w = _ahead(noise, len(here) - 1, x)
    for t, s, a, r_s, low, high in zip(here, here[1:], *numbers):
        x0, eps, v = at.three(x, t)
        c = torch.exp(low + (high - low) * v)
        x = torch.add(a * x0, eps, alpha=r_s).addcmul_(c, next(w))
        watch(s, x)
    return _last(at, x, here[-1], watch)


@method(Sampler("dpmpp-2m", FEW, order=2, options={"grid": OWN}, choices=GRID))
def dpmpp_2m(d: Denoiser, x: Tensor, times: Tensor, plan: Plan, noise: Noise, watch: Watch) -> Tensor:
    """DPM-Solver++ (2M): x0 is extrapolated in log (alpha / sigma) from the last two levels; one call a step."""
    return _multistep(d, x, times, None, watch)


@method(Sampler("dpmpp-2m-sde", FEW, stochastic=True, options={"grid": OWN}, choices=GRID))
def dpmpp_2m_sde(d: Denoiser, x: Tensor, times: Tensor, plan: Plan, noise: Noise, watch: Watch) -> Tensor:
    """SDE-DPM-Solver++ (2M): the same extrapolation in the exact solution of the reverse SDE."""
    return _multistep(d, x, times, noise, watch)


def _multistep(d: Denoiser, x: Tensor, times: Tensor, noise: Noise | None, watch: Watch) -> Tensor:
    at = d.along(times, x)
    alpha, sigma = at.alpha, at.sigma
    h = torch.log(alpha / sigma).diff()
    shrink = torch.exp(-h) if noise is None else torch.exp(-2 * h)
    # Weight of D_i - D_(i-1): none at the first step, nor at the last, which ends free of noise at x0, nor after a level that
    # was asked twice, as a chain is by more steps than it has times.
    half = torch.zeros_like(h)
    half[1:-1] = torch.where(h[:-2] > 0, h[1:-1] / (2 * h[:-2]), 0.0)
    keep = sigma[1:] / sigma[:-1] * (1.0 if noise is None else torch.exp(-h))
    new, fresh = alpha[1:] * (1 - shrink), sigma[1:] * torch.sqrt(1 - shrink) * (noise is not None)
    steps = torch.stack([keep, new * (1 + half), -new * half, fresh], dim=1).tolist()
    w = iter(()) if noise is None else _ahead(noise, int(fresh.count_nonzero()), x)
    here, before = times.tolist(), x
    for t, s, (keep_s, now, old, fresh_s) in zip(here, [*here[1:], 0.0], steps):
        x0 = at.x0(x, t)
        x = (keep_s * x).add_(x0, alpha=now)
        if old:
            x = x.add_(before, alpha=old)
        if fresh_s:
            x = x.add_(next(w), alpha=fresh_s)
        before = x0
        watch(s, x)
    return x


# --------------------------------------------------------------------------------------------------------- the ODE


def _ode(name: str, step: Step, order: int) -> Run:
    """The probability-flow ODE by steps of an explicit method, added to `METHODS`."""
    options: Mapping[str, OptionValue] = {"grid": OWN, "on": OWN}
    steps = FEW if order > 1 else ONE

    @method(Sampler(name, steps, (order, 1 - order), order, options=options, choices=GRID_ON), calls_free=(order, 0))
    def ode(d: Denoiser, x: Tensor, times: Tensor, plan: Plan, noise: Noise, watch: Watch) -> Tensor:
        """Along the levels, and a step to x0 where noise is left at the last of them."""
        if d.free:
            times = torch.cat([times, times.new_tensor([d.t_min])])
        at = d.along(nodes(times), x)
        x = solve(at.velocity, x, times, step, watch)
        return x if d.free else _last(at, x, float(times[-1]), watch)

    return ode


euler, heun, rk4 = _ode("euler", euler_step, 1), _ode("heun", heun_step, 2), _ode("rk4", rk4_step, 4)


def _last(at: Along, x: Tensor, t: float, watch: Watch) -> Tensor:
    x = at.x0(x, t)
    watch(0.0, x)
    return x


@method(
    Sampler(
        "rk45", (1,), None, 5, options={"rtol": 1e-3, "atol": 1e-3, "on": OWN}, choices={"on": GRID_ON["on"]},
        ranges=TOLERANCES, note="steps are adaptive",
    )
)  # fmt: skip
def rk45(d: Denoiser, x: Tensor, times: Tensor, plan: Plan, noise: Noise, watch: Watch) -> Tensor:
    """Adaptive Dormand-Prince, every row with steps of its own."""

    def field(times: Tensor, x: Tensor, rows: Tensor) -> Callable[[int, Tensor], Tensor]:
        return d.rows(rows).velocities(times, x)

    x = dopri5(field, x, d.t_max, d.t_min, plan.option("rtol"), plan.option("atol"))
    watch(d.t_min, x)
    if not d.free:
        x = _last(d.along(torch.tensor([d.t_min], dtype=torch.float64), x), x, d.t_min, watch)
    return x


# ------------------------------------------------------------------------------------------------- the SDE


@method(
    Sampler(
        "reverse-sde",
        MANY,
        order=1,
        stochastic=True,
        options={"grid": OWN, "on": OWN},
        choices=GRID_ON,
        note="weak order",
    )
)
def reverse_sde(d: Denoiser, x: Tensor, times: Tensor, plan: Plan, noise: Noise, watch: Watch) -> Tensor:
    """Euler-Maruyama on the reverse SDE, and x0 at the end. A step from pure noise (alpha = 0) is the ancestral one."""
    at, path = d.along(times, x), d.path
    alpha, sigma = at.alpha, at.sigma
    h, (a, s) = times.diff(), (alpha[:-2], sigma[:-2])
    da, ds = path.alpha_dot(times[:-1]), path.sigma_dot(times[:-1])
    rate = ds - da * s / a  # sigma (log sigma / alpha)'
    stepped = torch.stack([torch.ones_like(h), h * da, h * (ds + rate), torch.sqrt(-2 * h * s * rate)], dim=1)
    pure = torch.stack([0 * h, alpha[1:-1], 0 * h, sigma[1:-1]], dim=1)
    steps = torch.where((a < 1e-12 * s)[:, None], pure, stepped).tolist()
    here, w = times.tolist(), _ahead(noise, len(steps), x)
    for t, s_t, (keep, p, q, c) in zip(here, here[1:], steps):
        x = at.combined(x, t, p, q).add_(x, alpha=keep).add_(next(w), alpha=c)
        watch(s_t, x)
    return _last(at, x, float(times[-1]), watch)


@method(
    Sampler(
        "pc", MANY, (2, -1), stochastic=True, options={"grid": OWN, "snr": OWN}, choices=GRID,
        ranges={"snr": (0.0, 1.0)}, note="Langevin corrector: too wide by up to 1 / D",
    )
)  # fmt: skip
def predictor_corrector(d: Denoiser, x: Tensor, times: Tensor, plan: Plan, noise: Noise, watch: Watch) -> Tensor:
    """An ancestral step, then one of Langevin dynamics at the new level (Song et al., algorithm 1), two calls a step.

    Langevin: x + e score + sqrt(2 e) w with e = 2 (snr |w| / |score|)^2, the norms of each sample its own. Where e follows
    the state, what it leaves at rest is p(x) / e(x), not p(x): in D dimensions up to sqrt(1 + 2 / D) too wide.
    """
    at = d.along(times, x)
    alpha, sigma = at.alpha, at.sigma
    kappa, snr = _kappa(alpha, sigma), plan.option("snr")
    r, c = sigma[1:] * (1 - kappa).sqrt(), sigma[1:] * kappa.sqrt()
    here = times.tolist()
    draws = _ahead(noise, 2 * len(here) - 2, x)
    for t, s, a, sig, r_s, c_s in zip(here, here[1:], *(v.tolist() for v in (alpha[1:], sigma[1:], r, c))):
        x = at.combined(x, t, a, r_s).add_(next(draws), alpha=c_s)
        eps, w = at.eps(x, s), next(draws)
        # In units of sigma: score = -eps / sigma, e = sigma^2 k.
        k = (_norm(w) / _norm(eps)).square_().mul_(2 * snr**2).clamp_max_(LONGEST)
        x = torch.addcmul(x, k, eps, value=-sig).addcmul_((2 * k).sqrt(), w, value=sig)
        watch(s, x)
    return _last(at, x, here[-1], watch)


def _norm(x: Tensor) -> Tensor:
    """The norm of each example, (B, 1, ..., 1)."""
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.dim())), keepdim=True)


# ------------------------------------------------------------------------------------------- in sigma: churn, Langevin


@method(
    Sampler(
        "churn", (8, 18, 32, 64, 128), (2, -1), stochastic=True,
        options={"churn": 10.0, "from": 0.05, "to": 50.0, "noise": 1.003, "grid": "karras"}, choices=GRID,
        ranges={"churn": (0.0, 1000.0), "from": (0.0, 1e6), "to": (0.0, 1e6), "noise": (0.5, 1.5)},
        note="in sigma / alpha",
    )
)  # fmt: skip
def churn(d: Denoiser, x: Tensor, times: Tensor, plan: Plan, noise: Noise, watch: Watch) -> Tensor:
    """Karras et al., algorithm 2: before each Heun step in sigma, noise is raised by a factor 1 + gamma with fresh noise.

    Above sigma_max too, where the slope is (x - x0) / t with x0 of the network's last level, whose eps is another level's.
    """
    S_churn, S_noise = plan.option("churn"), plan.option("noise")
    S_min, S_max = plan.option("from"), plan.option("to")
    sigma, n = d.path.sigma(times), len(times)
    gamma = ((sigma >= S_min) & (sigma <= S_max)).double() * min(S_churn / n, math.sqrt(2) - 1)
    raised = times * (1 + gamma)
    at = d.along(torch.cat([raised, times]), x)
    extra = S_noise * (d.path.sigma(raised).square() - sigma.square()).clamp_min(0).sqrt()
    w = _ahead(noise, int(extra.count_nonzero()), x)

    def slope(x: Tensor, t: float) -> Tensor:
        return at.velocity(x, t) if t <= d.t_max else (x - at.x0(x, t)) / t

    for t_hat, s, c in zip(raised.tolist(), [*times.tolist()[1:], 0.0], extra.tolist()):
        if c:
            x = torch.add(x, next(w), alpha=c)
        x = at.x0(x, t_hat) if s == 0.0 else heun_step(slope, x, t_hat, s, s - t_hat)
        watch(s, x)
    return x


@method(
    Sampler(
        "langevin", (10, 20, 50, 100, 200), (5, 1), stochastic=True,
        options={"inner": 5, "step": 0.1, "grid": "logsnr"}, choices=GRID,
        ranges={"inner": (1, 1000), "step": (1e-6, 1.0)}, note="inner calls a level",
    )
)  # fmt: skip
def langevin(d: Denoiser, x: Tensor, times: Tensor, plan: Plan, noise: Noise, watch: Watch) -> Tensor:
    """Annealed Langevin dynamics on sigma: `inner` steps x + e score + sqrt(2 e) w at each level, e = step sigma^2; then x0."""
    at, inner, step = d.along(times, x), int(plan.option("inner")), plan.option("step")
    w = _ahead(noise, inner * len(times), x)
    for t, sigma in zip(times.tolist(), at.sigma.tolist()):
        for _ in range(inner):
            x = torch.add(x, at.eps(x, t), alpha=-step * sigma).add_(next(w), alpha=math.sqrt(2 * step) * sigma)
        watch(t, x)
    return _last(at, x, float(times[-1]), watch)


# ------------------------------------------------------------------------------------------------------- offers


def offered(
    grid: str = "uniform",
    on: str = "own",
    free: bool = False,
    T: int | None = None,
    learned: bool = False,
    main: tuple[str, ...] = ("ddim", "heun"),
    snr: float = 0.16,
    guidance: bool = True,
) -> tuple[Sampler, ...]:
    """The samplers of a model with a `denoiser`, for its card.

    grid, on: defaults of the samplers that have the option. free: the path ends free of noise. T: the steps of a chain.
    learned: the network gives the variance. main: those that a short sweep tries. guidance: they have its options.
    """
    own: Mapping[str, OptionValue] = {"grid": grid, "on": on, "snr": snr, "variance": "learned" if learned else "small"}
    found = [replace(method.of(own, free, T), main=name in main) for name, method in METHODS.items()]
    if not learned:
        found = [_without(sampler, "variance", "learned") for sampler in found]
    if guidance:
        found = [
            replace(s, options={**s.options, **GUIDANCE}, ranges={**s.ranges, **STRENGTHS}, beside=INTERVAL)
            for s in found
        ]
    return tuple(found)


def _without(sampler: Sampler, option: str, choice: str) -> Sampler:
    """The same without a choice of an option, where it has it."""
    choices = {key: tuple(v for v in some if (key, v) != (option, choice)) for key, some in sampler.choices.items()}
    return replace(sampler, choices=choices)


def ode_samplers(main: tuple[str, ...]) -> tuple[Sampler, ...]:
    """Those that solve the ODE and no more, of a model whose noise and data were coupled and whose path ends free of noise.

    There E[eps | x_t] is no longer -sigma times the score, which samplers that add fresh noise rest on, and guidance.
    """
    found = offered(free=True, main=main, guidance=False)
    return tuple(s for s in found if s.name in ("dpmpp-2m", "euler", "heun", "rk4", "rk45"))


def guided(d: Denoiser, plan: Plan) -> Denoiser:
    """The denoiser with the guidance that a plan asks for. Raises BadInput where it can not have it."""
    low, high = plan.option("guide-from", 0.0), plan.option("guide-to", PURE)
    if low > high:
        raise BadInput(f"guide-from={low:g} is above guide-to={high:g}: nothing would be guided")
    return d.guided(plan.option("guidance", 1.0), low, high)


def sample(
    offered: tuple[Sampler, ...],
    d: Denoiser,
    z: Tensor,
    plan: Plan,
    noise: Noise,
    watch: Callable[[float, Tensor], None] | None = None,
) -> Tensor:
    """Samples (B, ...) from z ~ N(0, I), by a sampler of those offered; what the plan leaves open is as the card has it.

    `watch` sees (t, x_t) on the path that the sampler works on, the prior's noise first.
    """
    plan = next(s for s in offered if s.name == plan.sampler).complete(plan)
    d = guided(d, plan)
    on = "edm" if plan.sampler in ("churn", "langevin") else plan.word("on", "own")
    if on != "own":
        d = d.on(COORDINATES[on])
    times = levels(d, plan.steps, plan.word("grid", "uniform"))
    x = z * d.largest
    tell = watch or _unwatched
    tell(d.t_max, x)
    return METHODS[plan.sampler].run(d, x, times, plan, noise, tell)


def _unwatched(t: float, x: Tensor) -> None:
    pass
