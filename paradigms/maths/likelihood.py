"""What likelihoods are made of: bits per dimension, dequantisation, discretised decoders, divergences.

Log-likelihoods are nats per example. On data with L levels they are log *masses* of the bins (width 2/L on [-1, 1]).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from paradigms.core.data import Space
from paradigms.core.noise import Noise


def bits_per_dim(log_likelihood: float | Tensor, dim: int) -> float | Tensor:
    """-log2 p / D of a log mass in nats. The only place where nats become bits: uniform over L levels is log2 L."""
    return -log_likelihood / (dim * math.log(2))


def dequantise(x: Tensor, levels: int, noise: Noise) -> Tensor:
    """x + (u - 1/2) 2/L with u ~ U[0, 1): a bin centre to a uniform point of its bin. Real-valued data is unchanged."""
    return x + (noise.uniform(*x.shape) - 0.5) * (2 / levels) if levels else x


def dequantise_normal(x: Tensor, levels: int, std: float, noise: Noise) -> tuple[Tensor, Tensor]:
    """Bin centres x (B, ...) with N(0, std^2) cut off at the edges of the bin, and log q of the draw, (B,).

    Such noise looks to a denoiser like the noise it was trained on (Zheng et al. 2023, arXiv:2305.03935, section 4.3).
    """
    half = 1 / (levels * std)  # of a bin, in units of std
    inside = math.erf(half / math.sqrt(2))
    u = (noise.uniform(*x.shape).to(x.dtype) - 0.5) * inside
    e = (math.sqrt(2) * torch.erfinv(2 * u)).clamp(-half, half)
    log_q = normal_log_prob(e) - math.log(inside * std)
    return x + std * e, log_q.flatten(1).sum(1)


def log_mass(log_density: Tensor, space: Space) -> Tensor:
    """A dequantised log density (B,) as a log mass: + D log(2/L). By Jensen a lower bound (Theis et al. 2016, eq. 3)."""
    return log_density + space.dim * math.log(2 / space.levels) if space.levels else log_density


def normal_log_prob(x: Tensor, mean: Tensor | float = 0.0, log_std: Tensor | float = 0.0) -> Tensor:
    """log N(x; mean, exp(log_std)^2), elementwise."""
    log_std = log_std.to(x) if isinstance(log_std, Tensor) else x.new_full((), log_std)
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
