"""Likelihoods: bits per dimension, dequantisation, discretised decoders, and the probability-flow ODE's density.

Log-likelihoods are nats per example. On data with L levels they are log *masses* of the bins (width 2/L on [-1, 1]).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from paradigms.contract import Estimate, Noise, Space
from paradigms.maths.solvers import Field, grid, rk4_step, solve


def bits_per_dim(log_likelihood: float | Tensor, dim: int) -> float | Tensor:
    """-log2 p / D of a log mass in nats. The only place where nats become bits: uniform over L levels is log2 L."""
    return -log_likelihood / (dim * math.log(2))


def dequantise(x: Tensor, levels: int, noise: Noise) -> Tensor:
    """x + (u - 1/2) 2/L with u ~ U[0, 1): a bin centre to a uniform point of its bin. Real-valued data is unchanged."""
    return x + (noise.uniform(*x.shape) - 0.5) * (2 / levels) if levels else x


def log_mass(log_density: Tensor, space: Space) -> Tensor:
    """A dequantised log density (B,) as a log mass: + D log(2/L). By Jensen a lower bound (Theis et al. 2016, eq. 3)."""
    return log_density + space.dim * math.log(2 / space.levels) if space.levels else log_density


def normal_log_prob(x: Tensor, mean: Tensor | float = 0.0, log_std: Tensor | float = 0.0) -> Tensor:
    """log N(x; mean, exp(log_std)^2), elementwise."""
    log_std = torch.as_tensor(log_std, dtype=x.dtype, device=x.device)
    return -0.5 * ((x - mean) * torch.exp(-log_std)).square() - log_std - 0.5 * math.log(2 * math.pi)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) summed over all but the first dimension, (B,)."""
    return normal_log_prob(z).flatten(1).sum(1)


def _open_ended(x: Tensor, levels: int, inner: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """`inner`, the log mass of each bin, but the outermost bins reach to infinity, so that the L masses sum to one."""
    # Bin centres of the first and last level are -1 + 1/L and 1 - 1/L.
    return torch.where(x < -1 + 1.5 / levels, below, torch.where(x > 1 - 1.5 / levels, above, inner))


def discretised_logistic(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """log mass of bin-centred x under a logistic(mean, exp(log_scale)), elementwise (Kingma et al. 2016).

    With the sigmoid s and the bin [a, b] in units of the scale, s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)): no digits
    cancel, in the tails or at any scale.
    """
    inv = torch.exp(-log_scale)
    below, above = F.logsigmoid((x + 1 / levels - mean) * inv), F.logsigmoid((mean - x + 1 / levels) * inv)
    inner = below + above + torch.log(-torch.expm1(-2 / levels * inv))
    return _open_ended(x, levels, inner, below, above)


def _channel_mean(means: Tensor, coefficients: Tensor | None, before: list[Tensor]) -> Tensor:
    """The mean of channel c = len(before) given the channels before it: mu_c + sum_(d < c) a_cd x_d, (B, K, ...)."""
    c = len(before)
    mean = means[:, :, c]
    if coefficients is not None:
        first = c * (c - 1) // 2
        for d, x in enumerate(before):
            mean = mean + coefficients[:, :, first + d] * x
    return mean


def discretised_logistic_mixture(
    x: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor, levels: int, coefficients: Tensor | None = None
) -> Tensor:
    """log mass of each bin-centred pixel of x (B, C, ...) under a mixture of K logistics, (B, ...) (Salimans et al. 2017).

    logits (B, K, ...), means and log_scales (B, K, C, ...). One component is drawn for all channels of a pixel. With
    coefficients a (B, K, C (C - 1) / 2, ...), rows (1, 0), (2, 0), (2, 1) ..., a channel's mean depends linearly on the
    channels before it (eq. 3); without, the channels are independent given the component.
    """
    before = [channel.unsqueeze(1) for channel in x.unbind(1)]
    mean = torch.stack([_channel_mean(means, coefficients, before[:c]) for c in range(len(before))], dim=2)
    each = discretised_logistic(x.unsqueeze(1), mean, log_scales, levels).sum(2)
    return (each + logits.log_softmax(1)).logsumexp(1)


def sample_logistic_mixture(
    logits: Tensor,
    means: Tensor,
    log_scales: Tensor,
    levels: int,
    noise: Noise,
    temperature: float = 1.0,
    coefficients: Tensor | None = None,
) -> Tensor:
    """Draws x (B, C, ...) whose bins have the masses of `discretised_logistic_mixture`, as real numbers in their bins.

    temperature T: the components' odds are raised to 1/T and their scales multiplied by T; at 0 the mean of the likeliest.
    Outside [-1, 1] lies what falls in the open-ended outermost bins.
    """
    # The clamps keep float32's u = 0 finite. argmax(logits / T + Gumbel) without dividing by T.
    gumbel = -torch.log(-torch.log(noise.uniform(*logits.shape).clamp_min(1e-30)))
    chosen = (logits + temperature * gumbel).argmax(1, keepdim=True).unsqueeze(2)

    def pick(of: Tensor) -> Tensor:
        return of.gather(1, chosen.expand(-1, 1, of.shape[2], *of.shape[3:]))

    means, scales = pick(means), temperature * pick(log_scales).exp()
    coefficients = None if coefficients is None else pick(coefficients)
    logistic = torch.logit(noise.uniform(*means.squeeze(1).shape).clamp_min(1e-7))
    drawn: list[Tensor] = []
    before: list[Tensor] = []
    for c in range(means.shape[2]):
        x = _channel_mean(means, coefficients, before).squeeze(1) + scales[:, 0, c] * logistic[:, c]
        drawn.append(x)
        # What the next channel's mean depends on is the data's value: the centre of the bin.
        bin = torch.floor((x + 1) * (levels / 2)).clamp(0, levels - 1)
        before.append(((2 * bin + 1) / levels - 1).unsqueeze(1))
    return torch.stack(drawn, dim=1)


def logistic_mixture_mean(logits: Tensor, means: Tensor, coefficients: Tensor | None = None) -> Tensor:
    """The mean (B, C, ...) of the mixture before it is cut into bins: sum_k pi_k mu_k, mu_k coupled as above."""
    coupled: list[Tensor] = []
    for _ in range(means.shape[2]):
        coupled.append(_channel_mean(means, coefficients, coupled))
    return (logits.softmax(1).unsqueeze(2) * torch.stack(coupled, dim=2)).sum(1)


def logistic_mixture_numbers(components: int, channels: int) -> int:
    """How many numbers a network gives for each pixel: K logits, K C means, K C scales, K C (C - 1) / 2 coefficients."""
    return components * (1 + 2 * channels + channels * (channels - 1) // 2)


def split_logistic_mixture(out: Tensor, components: int, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(logits, means, log_scales, coefficients) from a network's output (B, logistic_mixture_numbers, ...).

    At an output of zero the components lie side by side on [-1, 1], about uniform together: equal ones would get equal
    gradients and stay equal. Log-scales are kept in [-7, 3], coefficients in [-1, 1] (None with one channel).
    """
    k, c, rest = components, channels, out.shape[2:]
    logits, means, log_scales, coefficients = out.split([k, k * c, k * c, k * c * (c - 1) // 2], dim=1)
    places = (2 * torch.arange(k, dtype=out.dtype, device=out.device) + 1) / k - 1
    means = means.reshape(-1, k, c, *rest) + places.view(k, *(1,) * (1 + len(rest)))
    log_scales = (log_scales.reshape(-1, k, c, *rest) - 2).clamp(-7, 3)
    if c == 1:
        return logits, means, log_scales, None
    return logits, means, log_scales, torch.tanh(coefficients.reshape(-1, k, c * (c - 1) // 2, *rest))


def discretised_normal(x: Tensor, mean: Tensor, std: Tensor | float, levels: int) -> Tensor:
    """log mass of bin-centred x under N(mean, std^2), elementwise (Ho et al. 2020, eq. 13, with the exact normal CDF).

    A bin is measured from its own side of the mean, where the difference keeps its digits: Phi is even about it.
    """
    distance = (x - mean).abs()
    near = torch.special.log_ndtr((1 / levels - distance) / std)
    far = torch.special.log_ndtr((-1 / levels - distance) / std)
    inner = near + torch.log(-torch.expm1((far - near).clamp_max(-1e-7)))
    below = torch.special.log_ndtr((x + 1 / levels - mean) / std)
    above = torch.special.log_ndtr((mean - x + 1 / levels) / std)
    return _open_ended(x, levels, inner, below, above)


def divergence_hutchinson(out: Tensor, x: Tensor, probes: Tensor) -> Tensor:
    """eps^T (d out / d x) eps for each probe (m, B, ...), returned (m, B); unbiased for the trace (Hutchinson 1989)."""
    values = []
    for k, probe in enumerate(probes):
        (g,) = torch.autograd.grad(out, x, probe, retain_graph=k + 1 < len(probes))
        values.append((g * probe).flatten(1).sum(1))
    return torch.stack(values)


def divergence_exact(out: Tensor, x: Tensor) -> Tensor:
    """The trace of d out / d x, (1, B), by D backward passes."""
    flat = out.flatten(1)
    total = torch.zeros(len(x), dtype=out.dtype, device=out.device)
    for i in range(flat.shape[1]):
        (g,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=i + 1 < flat.shape[1])
        total = total + g.flatten(1)[:, i]
    return total[None]


def ode_log_prob(
    field: Field,
    x: Tensor,
    start: float,
    stop: float,
    steps: int,
    prior_log_prob: Callable[[Tensor], Tensor],
    probes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """log p(x) of the ODE dx/dt = field(x, t) that carries data at `start` to the prior at `stop`.

    log p(x_start) = log prior(x_stop) + int_start^stop div field dt (Chen et al. 2018), by RK4 on `steps` steps; state
    and divergence are carried together. `probes` (m, B, ...) are held fixed over the whole solve; None is the exact
    trace. Returns ((m, B) values, (B, ...) x_stop).
    """
    m = 1 if probes is None else len(probes)
    b, d = len(x), x[0].numel()

    def joint(state: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            here = state[:, :d].reshape(x.shape).detach().requires_grad_(True)
            out = field(here, t)
            div = divergence_exact(out, here) if probes is None else divergence_hutchinson(out, here, probes)
        return torch.cat([out.detach().flatten(1), div.detach().T], dim=1)

    state = torch.cat([x.flatten(1), x.new_zeros(b, m)], dim=1)
    state = solve(joint, state, grid(start, stop, steps), rk4_step)
    z = state[:, :d].reshape(x.shape)
    return prior_log_prob(z) + state[:, d:].T, z


# For the cards of what calls `ode_likelihood`.
SOLVED = "RK4, Hutchinson (Rademacher); probes = 0: the exact trace"
SOLVED_RANGES = {"steps": (1, 10_000), "probes": (0, 1_000)}


def ode_likelihood(
    field: Field,
    x: Tensor,
    space: Space,
    start: float,
    stop: float,
    steps: int,
    m: int,
    prior_log_prob: Callable[[Tensor], Tensor],
    noise: Noise,
) -> Estimate:
    """Probability-flow likelihood of bin-centred (or real) x (B, ...) with its errors; m = 0 probes: the exact trace.

    One uniform dequantisation draw, `m` Rademacher probes shared by the fine solution (steps) and the coarse one
    (steps / 2) whose difference is the solver error. Network calls: 4 steps + 4 (steps // 2).
    """
    y = dequantise(x, space.levels, noise)
    probes = None if m == 0 else torch.stack([noise.rademacher(*x.shape) for _ in range(m)])
    fine, _ = ode_log_prob(field, y, start, stop, steps, prior_log_prob, probes)
    coarse, _ = ode_log_prob(field, y, start, stop, max(1, steps // 2), prior_log_prob, probes)
    errors = {"solver": (fine - coarse).mean(0).abs()}
    if m > 1:
        errors["probe"] = fine.std(0) / math.sqrt(m)
    return Estimate(log_mass(fine.mean(0), space), errors=errors)
