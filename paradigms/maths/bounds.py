"""The likelihoods of a `Denoiser`: the variational bound of its chain, the bound of its diffusion, the density of its ODE.

A chain of N levels t_1 > ... > t_N draws x_s given x_t from the forward posterior with x0(x_t, t) in place of the data and
ends with p(x | x_(t_N)). Its bound (Ho et al. 2020, eq. 5; Kingma et al. 2021, eq. 13) is in nats

    -log p(x) <= KL(q(x_(t_1) | x) || N(0, sigma_(t_1)^2 I))                             "prior"
               + sum_k KL(q(x_s | x_t, x) || p(x_s | x_t)),  t = t_k, s = t_(k+1)         "steps"
               - E log p(x | x_(t_N)).                                                   "decoder"

With the posterior's own variance a step is (SNR_s - SNR_t) / 2 || x - x0(x_t, t) ||^2, and with infinitely many of them

    "steps" = 1/2 int || eps - eps(x_t, t) ||^2 dlambda,    lambda = log SNR              (Kingma et al., eq. 17-18).

The ODE's density (Song et al. 2021, eq. 39; Chen et al. 2018) is another model's: that of what the ODE samples.

    log p(x) = log N(x_(t_max); 0, sigma(t_max)^2 I) + int_(t_min)^(t_max) div u dt + D log alpha(t_min),
    x_(t_min) = alpha(t_min) x.

Data with levels are dequantised, y = x + u with u ~ q within a bin, and log P(x) >= E [log p(y) - log q]. Over K draws of u
the logarithm of the mean of p(y) / q(u) is a tighter bound (Burda et al. 2016).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from paradigms.core.data import Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Estimate, Kind, OptionValue
from paradigms.errors import BadInput
from paradigms.maths.denoiser import Denoiser
from paradigms.maths.likelihood import (
    dequantise,
    dequantise_normal,
    discretised_normal,
    divergence_exact,
    divergence_hutchinson,
    normal_log_prob,
)
from paradigms.maths.paths import COORDINATES, GaussianPath, expand
from paradigms.maths.samplers import levels
from paradigms.maths.solvers import euler_step, grid, heun_step, nodes, rk4_step, solve

__all__ = ["chain_step", "decoder_step", "kinds", "log_likelihood", "ode_density"]

METHODS = {"euler": (euler_step, 1), "heun": (heun_step, 2), "rk4": (rk4_step, 4)}
DEQUANTISERS = ("uniform", "normal")


def kinds(on: str = "own", variance: str | None = None, chain: int = 0, diffusion: bool = True) -> tuple[Kind, ...]:
    """The likelihoods of a model with a `denoiser`, for its card.

    on: the path that the ODE is solved on. chain: steps of a respaced chain whose bound is given too, 0: none. variance: of the
    chain's steps, where there is a chain. diffusion: noise is left at t_min, so that there is a continuous bound.
    """
    words = {"on": ("own", *COORDINATES), "dequantise": DEQUANTISERS, "method": tuple(METHODS)}
    # One step has no half: there would be no error of the solver to state.
    numbers = {"steps": (2, 10_000), "probes": (0, 1_000), "K": (1, 10_000)}
    usual: dict[str, OptionValue] = {"K": 1, "dequantise": "uniform", "method": "rk4", "on": on}
    terms = {"terms": (1, 1_000_000)}

    def ode(n: int, probes: int) -> Kind:
        note = "fixed-grid RK4, Hutchinson (Rademacher); probes = 0: the exact trace"
        options = (("steps", n), ("probes", probes))
        return Kind("ode", "≈", 4 * n + 4 * (n // 2), options, False, note, numbers, words, usual)

    found: list[Kind] = []
    if variance is not None:
        of = {"variance": ("small", "large", *(("learned",) if variance == "learned" else ()))}
        limits = {"steps": (2, 1_000_000), "terms": (0, 1_000_000)}

        def vlb(name: str, calls: int, n: int, m: int, note: str) -> Kind:
            chosen: dict[str, OptionValue] = {"steps": n, "terms": 0, "variance": variance}
            return Kind(name, "≤", calls, (("terms", m),) if m else (), False, note, limits, of, chosen)

        found.append(vlb("vlb", 51, 1000, 50, "one term from each of 50 strata of the chain of 1000 steps"))
        found.append(vlb("vlb", 1000, 1000, 0, "all terms"))
        if chain:
            found.append(vlb(f"vlb-{chain}", chain, chain, 0, f"all terms of the chain of {chain} steps"))
    if diffusion:
        for m in (50, 500):
            note = "a draw from each of as many strata of log SNR"
            found.append(Kind("vlb-continuous", "≤", m + 1, (("terms", m),), False, note, terms))
    return (*found, ode(10, 1), ode(50, 8))


def log_likelihood(
    d: Denoiser, x: Tensor, space: Space, kind: Kind, noise: Noise, dequantised: bool = True
) -> Estimate:
    """The likelihood of bin-centred (or real) x (B, *shape) that `kind`, one of `kinds`, asks for.

    dequantised: the denoiser was trained on dequantised data, whose density its bounds are then about. Raises BadInput
    for options that do not fit together.
    """
    if kind.name == "ode":
        return ode_likelihood(d, x, space, kind, noise)
    if kind.name == "vlb-continuous":
        return continuous_bound(d, x, space, int(kind.option("terms", 50)), noise, dequantised)
    n = int(kind.option("steps", 1000))
    if d.T is not None and n > d.T:
        raise BadInput(f"{n} steps are more than the chain has; T = {d.T}")
    m = int(kind.option("terms", 0))
    if m > n:
        raise BadInput(f"terms = {m:,} are more than a chain of {n:,} steps has; terms = 0 takes all of them")
    return chain_bound(d, x, space, n, m, kind.word("variance", "small"), noise, dequantised)


# ---------------------------------------------------------------------------------------------------------- bounds


def _prior(d: Denoiser, y: Tensor) -> Tensor:
    """KL(N(alpha y, sigma^2) || N(0, sigma^2)) at t_max, (B,)."""
    alpha, sigma = (float(f(torch.tensor(d.t_max, dtype=torch.float64))) for f in (d.path.alpha, d.path.sigma))
    return 0.5 * (alpha / sigma * y).square().flatten(1).sum(1)


def _data(x: Tensor, space: Space, noise: Noise, dequantised: bool) -> tuple[Tensor, Tensor]:
    """The data that the bound is about, and -log q of their dequantisation (B,)."""
    if not (dequantised and space.levels):
        return x, x.new_zeros(len(x))
    return dequantise(x, space.levels, noise), x.new_full((len(x),), space.dim * math.log(2 / space.levels))


def _decoder(
    d: Denoiser, y: Tensor, space: Space, t: Tensor, noise: Noise, dequantised: bool, before: Tensor | None = None
) -> Tensor:
    """log p(y | x_t) at the last level t (B,), of which y is x0 with the noise that is left, (B,).

    before: the level before t, where the chain's variances are learned, the decoder's among them.
    """
    alpha, sigma = expand(d.path.alpha(t), y), expand(d.path.sigma(t), y)
    x_t = alpha * y + sigma * noise.normal(*y.shape).to(y)
    levels = 0 if dequantised else space.levels
    if before is not None:
        return decoder_step(d.path, t, before, y, *d.with_variance(x_t, t), levels).flatten(1).sum(1)
    return _observed(y, d.both(x_t, t)[0], (sigma / alpha).log(), levels).flatten(1).sum(1)


def _observed(x: Tensor, mean: Tensor, log_std: Tensor, levels: int) -> Tensor:
    """log p of each number of x (B, ...) under a normal: the mass of its bin where there are levels, else the density."""
    return discretised_normal(x, mean, log_std.exp(), levels) if levels else normal_log_prob(x, mean, log_std)


def decoder_step(
    path: GaussianPath, t: Tensor, before: Tensor, x: Tensor, x0: Tensor, v: Tensor, levels: int
) -> Tensor:
    """log p(x | x_t) of each number of x (B, ...) at a chain's last level t (B,), with a learned variance.

    Between sigma_t^2 (v = 1) and that of the forward posterior, which is 0 there and is taken from the step before (v = 0;
    Nichol & Dhariwal's code), in the logarithm. before (B,) > t: that step's level.
    """
    t, before = t.double(), before.double()
    log_kappa = torch.log(-torch.expm1(path.log_snr(before) - path.log_snr(t)))
    log_std = expand(path.sigma(t).log().to(x), x) + 0.5 * (1 - v) * expand(log_kappa.to(x), x)
    return _observed(x, x0, log_std, levels)


def _bound(prior: Tensor, steps: Tensor, decoder: Tensor, log_bin: Tensor | None) -> Estimate:
    """The bound whose parts these are, (B,). log_bin: what turns a density of dequantised data into a mass of theirs."""
    terms = {"prior": prior, "steps": steps, "decoder": -decoder}
    if log_bin is None:
        return Estimate(decoder - steps - prior, terms)
    return Estimate(log_bin + decoder - steps - prior, {**terms, "bins": -log_bin})


def chain_bound(
    d: Denoiser, x: Tensor, space: Space, n: int, m: int, variance: str, noise: Noise, dequantised: bool
) -> Estimate:
    """The bound of the chain of n levels. m = 0: all its steps; else one drawn from each of m strata, which is unbiased."""
    y, log_bin = _data(x, space, noise, dequantised)
    times = levels(d, n).to(y.device)
    before, last = times[-2:].to(y)[:, None].expand(-1, len(y))
    decoder = _decoder(d, y, space, last, noise, dequantised, before if variance == "learned" else None)

    m = n - 1 if m == 0 else min(m, n - 1)
    edges = torch.linspace(0, n - 1, m + 1, dtype=torch.float64).round().long().tolist()
    steps = torch.zeros_like(decoder)
    for lo, hi in pairwise(edges):
        k = lo + (noise.uniform(len(y)) * (hi - lo)).long().clamp_max(hi - lo - 1)
        t, t_s = times[k].to(y), times[k + 1].to(y)
        x_t = expand(d.path.alpha(t), y) * y + expand(d.path.sigma(t), y) * noise.normal(*y.shape).to(y)
        if variance == "learned":
            x0, v = d.with_variance(x_t, t)
        else:
            x0, v = d.both(x_t, t)[0], y.new_full((), 0.0 if variance == "small" else 1.0)
        steps += (hi - lo) * chain_step(d.path, t, t_s, y, x0, v).flatten(1).sum(1)
    prior = _prior(d, y)
    return _bound(prior, steps, decoder, log_bin if dequantised and space.levels else None)


def chain_step(path: GaussianPath, t: Tensor, s: Tensor, x: Tensor, x0: Tensor, v: Tensor) -> Tensor:
    """KL(q(x_s | x_t, x) || p(x_s | x_t)) of each number of x (B, ...), in nats; t > s (B,).

    q has variance sigma_s^2 kappa with kappa = 1 - SNR_t / SNR_s, p the mean with x0 for x and a variance between that
    (v = 0) and sigma_t^2 kappa (v = 1), in the logarithm.
    """
    t, s = t.double(), s.double()
    kappa = -torch.expm1(path.log_snr(t) - path.log_snr(s))
    small, ratio = path.sigma(s).square() * kappa, (path.sigma(t) / path.sigma(s)).square()
    gain = path.alpha(s) * kappa  # of x in the mean of q
    off = 0.5 * gain.square() / small
    off, log_ratio = expand(off.to(x), x), expand(ratio.log().to(x), x)
    rise = v * log_ratio  # of p's log variance above q's
    return 0.5 * (torch.expm1(-rise) + rise) + off * (x - x0).square() * torch.exp(-rise)


def continuous_bound(d: Denoiser, x: Tensor, space: Space, m: int, noise: Noise, dequantised: bool) -> Estimate:
    """The bound of infinitely many steps, by a draw from each of m strata of lambda = log SNR."""
    y, log_bin = _data(x, space, noise, dequantised)
    ends = d.path.log_snr(torch.tensor([d.t_max, d.t_min], dtype=torch.float64))
    low, high = ends.tolist()
    decoder = _decoder(d, y, space, y.new_full((len(y),), d.t_min), noise, dequantised)
    steps = torch.zeros_like(decoder)
    width = (high - low) / m
    for k in range(m):
        lam = low + (k + noise.uniform(len(y)).to(y)) * width
        t = d.path.time_of_log_snr(lam)
        eps = noise.normal(*y.shape).to(y)
        _, found = d.both(expand(d.path.alpha(t), y) * y + expand(d.path.sigma(t), y) * eps, t)
        steps += 0.5 * width * (eps - found).square().flatten(1).sum(1)
    prior = _prior(d, y)
    return _bound(prior, steps, decoder, log_bin if dequantised and space.levels else None)


# --------------------------------------------------------------------------------------------------------- the ODE


def ode_density(d: Denoiser, y: Tensor, steps: int, probes: Tensor | None, method: str = "rk4") -> Tensor:
    """log p(y) of what the ODE of `d` samples, (m, B): a value for each of the probes (m, B, ...), or the exact trace's.

    On `steps` equal steps of the denoiser's path; the probes are held fixed over the whole solve, state and divergence
    are carried together.
    """
    b, dim, m = len(y), y[0].numel(), 1 if probes is None else len(probes)
    times = grid(d.t_min, d.t_max, steps)
    at = d.along(nodes(times), y)
    ends = torch.tensor([d.t_min, d.t_max], dtype=torch.float64)
    alpha, sigma = float(d.path.alpha(ends)[0]), float(d.path.sigma(ends)[1])

    def joint(state: Tensor, t: float) -> Tensor:
        with torch.enable_grad():
            here = state[:, :dim].reshape(y.shape).detach().requires_grad_(True)
            out = at.velocity(here, t)
            div = divergence_exact(out, here) if probes is None else divergence_hutchinson(out, here, probes)
        return torch.cat([out.detach().flatten(1), div.detach().T], dim=1)

    state = torch.cat([alpha * y.flatten(1), y.new_zeros(b, m)], dim=1)
    state = solve(joint, state, times, METHODS[method][0])
    prior = normal_log_prob(state[:, :dim], 0.0, math.log(sigma)).sum(1)
    return prior + state[:, dim:].T + dim * math.log(alpha)


def ode_likelihood(d: Denoiser, x: Tensor, space: Space, kind: Kind, noise: Noise) -> Estimate:
    """The ODE's likelihood with its errors: "solver" by doubling the step, "probe" from the spread of the probes.

    The same dequantisation and the same probes serve the fine and the coarse solution, so that their difference is the
    solver's error alone.
    """
    steps, m, draws = (int(kind.option(name, v)) for name, v in (("steps", 10), ("probes", 1), ("K", 1)))
    how, method, on = kind.word("dequantise", "uniform"), kind.word("method", "rk4"), kind.word("on", "own")
    d = d if on == "own" else d.on(COORDINATES[on])
    values, solver, spread = [], [], []
    for _ in range(draws):
        y, log_q = _dequantised(d, x, space, how, noise)
        probes = None if m == 0 else torch.stack([noise.rademacher(*x.shape).to(x) for _ in range(m)])
        fine = ode_density(d, y, steps, probes, method)
        coarse = ode_density(d, y, steps // 2, probes, method)
        values.append(fine.mean(0) - log_q)
        solver.append((fine - coarse).mean(0).abs())
        if m > 1:
            spread.append(fine.std(0) / math.sqrt(m))
    errors = {"solver": torch.stack(solver).mean(0)}
    if spread:
        errors["probe"] = torch.stack(spread).square().mean(0).sqrt() / math.sqrt(draws)
    return Estimate(torch.stack(values).logsumexp(0) - math.log(draws), errors=errors)


def _dequantised(d: Denoiser, x: Tensor, space: Space, how: str, noise: Noise) -> tuple[Tensor, Tensor]:
    """(y, log q (B,)): x with noise within its bin, and the density it was drawn with; real-valued x as it is."""
    if not space.levels:
        return x, x.new_zeros(len(x))
    if how == "uniform":
        return dequantise(x, space.levels, noise), x.new_full((len(x),), -space.dim * math.log(2 / space.levels))
    ratio = torch.exp(-d.path.log_snr(torch.tensor(d.t_min, dtype=torch.float64)) / 2)
    if not ratio > 0:
        raise BadInput("this model's path ends free of noise, which 'normal' dequantisation imitates; use 'uniform'")
    return dequantise_normal(x, space.levels, float(ratio), noise)
