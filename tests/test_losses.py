"""Every recipe's training step, written out: its losses with replayed noise, in order, and what each of them trains.

Networks are taken as they are (`test_blocks.py` has their formulas); all else of a step is plain arithmetic here. Of each
recipe two data sets are tried, labelled pixels and real-valued vectors, with settings away from those that hide a factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paradigms import catalogue
from paradigms.core.data import Batch, Pairs, Space
from paradigms.core.noise import Noise
from paradigms.maths.couplings import assign
from paradigms.testing import build

SPACES = {"pixels": Space((1, 4, 4), 3, 6), "vectors": Space((2,), 0, 0)}
N, WIDTH = 10, 8


def examples_of(space: Space) -> Batch:
    generator = torch.Generator().manual_seed(4)
    if space.levels:
        x = space.encode(torch.randint(space.levels, (N, *space.shape), generator=generator))
    else:
        x = 0.4 + 1.3 * torch.randn(N, *space.shape, generator=generator)
    y = torch.randint(space.classes, (N,), generator=generator) if space.classes else None
    return Pairs(x, y, torch.randn(N, *space.shape, generator=generator))


def over(a: Tensor, x: Tensor) -> Tensor:
    return a.view(-1, *(1,) * (x.dim() - 1))


def bin_of(space: Space) -> float:
    """Of pixels on [-1, 1]; a twentieth of a vector's unit."""
    return 2 / space.levels if space.levels else 0.05


def half_cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def spread(x: Tensor, space: Space, noise: Noise) -> Tensor:
    """Pixels anywhere in their bins."""
    return x + (2 * noise.uniform(*x.shape) - 1) / space.levels if space.levels else x


def told(y: Tensor | None, share: float, classes: int, noise: Noise) -> Tensor | None:
    return y if y is None else torch.where(noise.at("unlabelled").uniform(len(y)) < share, torch.tensor(classes), y)


# --------------------------------------------------------------------------------------- regressions along a path


def chain(model, batch, noise, progress):
    """x_t = alpha x + sigma eps at t = i / 1000, i = 1 ... 1000, of a cosine or of a linear chain."""
    config, space, x = model.config, model.space, batch.x
    y = told(batch.y, config.unlabelled, space.classes, noise)
    eps = noise.normal(*x.shape)
    i = 1 + noise.integers(1000, N)
    if config.schedule == "linear":
        beta = config.beta_1 + (config.beta_T - config.beta_1) * torch.arange(1000, dtype=torch.float64) / 999
        alpha = torch.cumprod(1 - beta, 0).sqrt()[i - 1].float()
        sigma = (1 - torch.cumprod(1 - beta, 0)).sqrt()[i - 1].float()
    else:
        first, last = math.asin(config.first * bin_of(space)), math.acos(config.last)
        angle = first + (last - first) * (i - 1) / 999
        alpha, sigma = torch.cos(angle), torch.sin(angle)
    a, s = over(alpha, x), over(sigma, x)
    target = {"eps": eps, "x0": x, "v": a * eps - s * x}[config.predicts]
    out = model.net(a * x + s * eps, i / 1000, y)
    out = out[:, : x.shape[1]]
    return (out - target).square().mean()


def preconditioned(model, alpha, sigma, data, clock, x, eps, y, weight=1.0):
    """|| F - F* ||^2 of x0 = c_skip x_t + c_out F (Karras et al. 2022), F seeing x_t / std(x_t)."""
    a, s = over(alpha, x), over(sigma, x)
    std = torch.sqrt((a * data) ** 2 + s**2)
    skip, out = a * data**2 / std**2, data * s / std
    x_t = a * x + s * eps
    target = (x - skip * x_t) / out
    return (weight * (model.net(x_t / std, clock, y) - target).square()).mean()


def edm(model, batch, noise, progress):
    config, space = model.config, model.space
    x = spread(batch.x, space, noise)
    y = told(batch.y, config.unlabelled, space.classes, noise)
    eps = noise.normal(*x.shape)
    least = config.floor * bin_of(space)
    sigma = model.sigma_data * torch.exp(config.P_mean + config.P_std * noise.normal(N))
    sigma = sigma.clamp(least, config.sigma_max)
    clock = torch.log(sigma / least) / math.log(config.sigma_max / least)
    return preconditioned(model, torch.ones(N), sigma, model.sigma_data, clock, x, eps, y)


def ncsn(model, batch, noise, progress):
    """L geometric levels from sigma_max down to floor bins; weight sigma^2 of the score's error is that of eps."""
    config, space = model.config, model.space
    x = spread(batch.x, space, noise)
    y = told(batch.y, config.unlabelled, space.classes, noise)
    eps, i = noise.normal(*x.shape), noise.integers(config.L, N)
    levels = torch.logspace(math.log10(config.floor * bin_of(space)), math.log10(model.sigma_max), config.L)
    sigma = over(levels[i], x)
    seen = (x + sigma * eps) / torch.sqrt(model.sigma_data**2 + sigma**2)
    return (model.net(seen, i / (config.L - 1), y) - eps).square().mean()


def score_sde(model, batch, noise, progress):
    """Angles phi = arctan(sigma / (alpha sigma_data)) uniform between the ends, or log SNR uniform and eps regressed."""
    config, space, data = model.config, model.space, float(model.sigma_data)
    x = spread(batch.x, space, noise)
    y = told(batch.y, config.unlabelled, space.classes, noise)
    eps, u = noise.normal(*x.shape), noise.uniform(N).double()
    least = config.floor * bin_of(space)
    B = (config.beta_min + config.beta_max) / 2  # the integral of beta over [0, 1]
    most = {
        "vp": math.sqrt(math.exp(B) - 1),
        "subvp": math.exp(B / 2) - math.exp(-B / 2),
        "ve": float(model.sigma_max),
    }[config.sde]
    low, high = math.atan(least / data), math.atan(most / data)
    if config.weighting == "likelihood":
        ratio = torch.exp((1 - u) * math.log(most) + u * math.log(least))
    else:
        ratio = data * torch.tan(low + u * (high - low))
    alpha = {  # of sigma / alpha = r: 1 / sqrt(1 + r^2); 1 - q = r sqrt(q) with q = alpha^2; 1
        "vp": 1 / torch.sqrt(1 + ratio**2),
        "subvp": (torch.sqrt(ratio**2 + 4) - ratio) / 2,
        "ve": torch.ones_like(ratio),
    }[config.sde]
    clock = torch.atan(ratio / data) / (math.pi / 2)
    a, s = alpha.float(), (alpha * ratio).float()
    # The error of eps is -c_out alpha / sigma times that of F.
    std = torch.sqrt((a * data) ** 2 + s**2)
    weight = over((a * data / std) ** 2, x) if config.weighting == "likelihood" else 1.0
    return preconditioned(model, a, s, data, clock.float(), x, eps, y, weight)


def quantile(kind: str, u: Tensor) -> Tensor:
    if kind == "uniform":
        return u
    if kind == "u-shaped":
        return 0.5 + torch.asinh((2 * u - 1) * math.sinh(2)) / 4
    mean, std = {"logit-normal": (0.0, 1.0), "skewed": (-1.2, 1.2)}[kind]
    return torch.sigmoid(mean + std * math.sqrt(2) * torch.erfinv(2 * u - 1))


def matching(model, batch, noise, progress):
    """The velocity alpha' x + sigma' eps on the line, the circle or the VP SDE's path."""
    config, space, name = model.config, model.space, type(model).__name__
    x = spread(batch.x, space, noise)
    y = told(batch.y, config.unlabelled, space.classes, noise)
    eps = noise.normal(*x.shape)
    if name == "OTFlowMatching":
        eps = eps[assign(x, eps, config.coupled)]
    t = quantile(config.times, noise.uniform(N))
    if name == "CosineFlowMatching":
        angle = math.pi / 2 * t
        alpha, sigma = torch.cos(angle), torch.sin(angle)
        rates = -math.pi / 2 * sigma, math.pi / 2 * alpha
    elif name == "VPFlowMatching":
        least = (0.1 * bin_of(space)) ** 2  # variance 1 - exp(-B) at the end
        b = -math.log(1 - least)
        end = (-0.1 + math.sqrt(0.01 + 2 * 19.9 * b)) / 19.9
        t = end + (1 - end) * t
        B, beta = 0.1 * t + 19.9 * t**2 / 2, 0.1 + 19.9 * t
        alpha, sigma = torch.exp(-B / 2), torch.sqrt(1 - torch.exp(-B))
        rates = -beta * alpha / 2, beta * alpha**2 / (2 * sigma)
    else:
        alpha, sigma, rates = 1 - t, t, (-torch.ones(N), torch.ones(N))
    a, s, da, ds = (over(v, x) for v in (alpha, sigma, *rates))
    return (model.net(a * x + s * eps, t, y) - (da * x + ds * eps)).square().mean()


# ------------------------------------------------------------------------------------------------------- few steps


def mean_flow(model, batch, noise, progress):
    """|u - sg(v - (t - r) du/dt)|^2, weighted by 1 / (its own + c)^p."""
    config, space = model.config, model.space
    x, y = spread(batch.x, space, noise), batch.y
    eps, draws = noise.normal(*x.shape), noise.normal(N, 2)
    one = torch.sigmoid(config.P_mean + config.P_std * draws[:, 0])
    other = torch.sigmoid(config.P_mean_r + config.P_std * draws[:, 1])
    t, r = torch.maximum(one, other), torch.minimum(one, other)
    moving = N - int(config.same * N)
    r = torch.where(torch.arange(N) < moving, r, t)

    def u(z: Tensor, t: Tensor) -> Tensor:
        return model.net(z, torch.stack([t, t - r], 1) / 32, y)

    v = eps - x
    z = x + over(t, x) * v
    with torch.no_grad():
        h = 1e-2
        rate = (u(z + h * v, t + h) - u(z - h * v, t - h)) / (2 * h)
    error = (u(z, t) - (v - over(t - r, x) * rate)).square().flatten(1).sum(1)
    return (error / (error.detach() + config.c) ** config.p).mean()


class OnLine:
    """What a parent expects along x_t = (1 - t) x0 + t eps, with another network: it predicts a velocity, or is EDM's D."""

    def __init__(self, parent, net: Callable, y: Tensor | None) -> None:
        self.net, self.y, self.edm, self.t_min, self.t_max = net, y, hasattr(parent, "sigma_min"), 0.0, 1.0
        if self.edm:
            self.data, self.least = float(parent.sigma_data), parent.config.floor * bin_of(parent.space)
            self.most = parent.config.sigma_max
            self.t_min, self.t_max = (s / (1 + s) for s in (self.least, self.most))

    def x0(self, x: Tensor, t: Tensor) -> Tensor:
        if not self.edm:
            return x - over(t, x) * self.net(x, t, self.y)
        s = t / (1 - t)
        std = over(torch.sqrt(s**2 + self.data**2), x)
        seen, clock = x / over(1 - t, x), torch.log(s / self.least) / math.log(self.most / self.least)
        return self.data**2 / std**2 * seen + over(s, x) * self.data / std * self.net(seen / std, clock, self.y)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return (x - self.x0(x, t)) / over(t, x) if self.edm else self.net(x, t, self.y)

    def jump(self, x: Tensor, t: Tensor) -> Tensor:
        """An Euler step in s = t / (1 - t) down to the least noise."""
        if not self.edm:
            return self.x0(x, t)
        share = over(self.least * (1 - t) / t, x)
        return share * x / over(1 - t, x) + (1 - share) * self.x0(x, t)


def pseudo_huber(f: Tensor, goal: Tensor, weight, c: float) -> Tensor:
    """sqrt(|e|^2 + c^2 D) - c sqrt(D) a root of D."""
    D = f[0].numel()
    error = (f - goal.detach()).square().flatten(1).sum(1)
    return (weight * (torch.sqrt(error + c**2 * D) - c * math.sqrt(D))).mean() / math.sqrt(D)


def doubling(config, progress: float) -> int:
    k = int(math.log2(config.steps_end // config.steps_start))
    return config.steps_start * 2 ** min(k, int((k + 1) * progress))


def distilled(model, batch, noise, progress):
    """One Heun step of the teacher between neighbours of an even grid."""
    x, parent = spread(batch.x, model.space, noise), model.teacher.model
    teacher, n = OnLine(parent, parent.net, batch.y), doubling(model.config, progress)
    h = (teacher.t_max - teacher.t_min) / n
    t = teacher.t_min + h * (1 + noise.integers(n, N))
    eps = noise.normal(*x.shape)
    x_t = x + over(t, x) * (eps - x)
    first = teacher.velocity(x_t, t)
    x_r = x_t - h / 2 * (first + teacher.velocity(x_t - h * first, t - h))
    goal = OnLine(parent, model.target, batch.y).jump(x_r, t - h)
    return pseudo_huber(OnLine(parent, model.net, batch.y).jump(x_t, t), goal, 1 / h, model.config.huber)


def consistency(model, batch, noise, progress):
    config, x = model.config, spread(batch.x, model.space, noise)
    eps, s = noise.normal(*x.shape), torch.exp(config.P_mean + config.P_std * noise.normal(N))
    n = doubling(config, progress)
    t = torch.ceil(s / (1 + s) * n) / n
    x_t, x_r = (x + over(one, x) * (eps - x) for one in (t, t - 1 / n))
    f = OnLine(None, model.net, batch.y).jump
    return pseudo_huber(f(x_t, t), f(x_r, t - 1 / n), n, config.huber)


def easy(model, batch, noise, progress):
    config, x = model.config, spread(batch.x, model.space, noise)
    eps, s = noise.normal(*x.shape), torch.exp(config.P_mean + config.P_std * noise.normal(N))
    stage = min(config.stages, 1 + math.floor(progress * config.stages))
    n = 1 + config.k / (1 + torch.exp(config.b * s))
    s_r = s * torch.clamp(1 - n / config.q**stage, min=0)
    line = OnLine(model.start.model, model.net, batch.y)
    t, r = ((one / (1 + one)).clamp(line.t_min, line.t_max) for one in (s, s_r))
    x_t, x_r = (x + over(one, x) * (eps - x) for one in (t, r))
    return pseudo_huber(line.jump(x_t, t), line.jump(x_r, r), 1 / (s - s_r), config.huber)


def progressive(model, batch, noise, progress):
    config, x = model.config, spread(batch.x, model.space, noise)
    rounds = int(math.log2(config.steps_start // config.steps_end))
    k = min(rounds - 1, math.floor(progress * rounds))
    n = config.steps_start // 2 ** (k + 1)
    t, h = (1 + noise.integers(n, N)) / n, 1 / (2 * n)
    x_t = x + over(t, x) * (noise.normal(*x.shape) - x)
    teacher = OnLine(None, model.net if k > 0 else model.teacher, batch.y)  # at a round's first step itself
    first = teacher.velocity(x_t, t)
    second = teacher.velocity(x_t - h * first, t - h)
    return (model.net(x_t, t, batch.y) - (first + second).detach() / 2).square().mean()


def reflow(model, batch, noise, progress):
    t = quantile(model.config.times, noise.uniform(N))
    x_t = (1 - over(t, batch.x)) * batch.x + over(t, batch.x) * batch.z
    return (model.net(x_t, t, batch.y) - batch.z + batch.x).square().mean()


def one_step(model, batch, noise, progress):
    return (model.net(batch.z, torch.ones(N), batch.y) - batch.z + batch.x).square().mean()


# ------------------------------------------------------------------------------------------------- latents and flows


def divergence(mean: Tensor, log_sd: Tensor) -> Tensor:
    """KL from N(0, I), (B,)."""
    q = torch.distributions.Normal(mean, log_sd.exp())
    return torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1)


def posterior(net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    mean, log_sd = net(batch.x, batch.y).chunk(2, dim=1)
    return mean, log_sd.clamp(-7, 3)


def warmed(model, progress: float) -> float:
    share = model.config.warm_up if model.space.is_image else model.config.vector_warm_up
    return min(1.0, progress / share)


def vae(model, batch, noise, progress):
    mean, log_sd = posterior(model.coder.encoder, batch)
    z = mean + log_sd.exp() * noise.normal(*mean.shape)
    log_px = model.coder.law.log_prob(model.coder.decoder(z, batch.y), batch.x)
    weight = model.config.beta * warmed(model, progress)
    return (weight * divergence(mean, log_sd) - log_px).mean() / model.space.dim


def iwae(model, batch, noise, progress):
    mean, log_sd = posterior(model.coder.encoder, batch)
    q, p, weights = torch.distributions.Normal(mean, log_sd.exp()), torch.distributions.Normal(0.0, 1.0), 0
    for _ in range(model.config.K):
        z = mean + log_sd.exp() * noise.normal(*mean.shape)
        log_px = model.coder.law.log_prob(model.coder.decoder(z, batch.y), batch.x)
        log_ratio = (p.log_prob(z) - q.log_prob(z)).sum(1)
        weights = weights + torch.exp((log_px + warmed(model, progress) * log_ratio).double()) / model.config.K
    return -torch.log(weights).mean().float() / model.space.dim


def autoencoder(model, batch, noise, progress):
    mean, log_sd = posterior(model.coder.encoder, batch)
    z = mean + log_sd.exp() * noise.normal(*mean.shape)
    log_px = model.law.log_prob(model.coder.decoder(z, batch.y), batch.x)
    return (model.config.beta * divergence(mean, log_sd) - log_px).mean() / model.space.dim


def hvae(model, batch, noise, progress):
    x, D = batch.x, model.space.dim
    out, levels = model.ladder.decode(noise.normal(N, model.ladder.dim), batch.y, model.ladder.encode(x, batch.y))
    log_px = model.log_prob_x(x, out)
    if not model.space.levels:
        log_px = torch.distributions.Normal(out[:, :D], out[:, D:].clamp(-7, 3).exp()).log_prob(x).sum(1)
    kl = 0
    for level in levels:
        q, p = (torch.distributions.Normal(law.mean, law.log_sd.exp()) for law in (level.q, level.p))
        kl = kl + torch.distributions.kl_divergence(q, p).flatten(1).sum(1)
    return (min(1.0, progress / model.config.warm_up) * kl - log_px).mean() / D


def vq_vae(model, batch, noise, progress):
    codec, config = model.codec, model.config
    z = codec.encoder(batch.x, batch.y)
    c = torch.cdist(z.flatten(0, 1), codec.codebook.codes).argmin(1).view(z.shape[:2])
    codes = codec.codebook.codes[c]
    if progress < config.codec:
        log_px = codec.law.log_prob(codec.decoder(z + (codes - z).detach(), batch.y), batch.x)  # straight through
        yield -log_px.mean() / model.space.dim + config.beta * (z - codes).square().mean()
    before = torch.cat([torch.zeros_like(c[:, :1]), c[:, :-1]], dim=1)  # what is before the first is not looked at
    log_pc = model.code_prior(before, batch.y).log_softmax(2).gather(2, c[:, :, None])
    yield -log_pc.mean()


def tarflow(model, batch, noise, progress):
    if hasattr(model.config, "sigma"):
        x = batch.x + model.config.sigma * noise.normal(*batch.x.shape)
    else:
        x = spread(batch.x, model.space, noise)
    z, log_det = model.flow(x, batch.y)
    return -(torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1) + log_det).mean() / model.space.dim


def normalizing(model, batch, noise, progress):
    if hasattr(model.config, "dequantise_steps"):
        x, log_q = model.dequantiser(batch.x, batch.y, noise)
    else:
        x, log_q = spread(batch.x, model.space, noise), 0.0
    z, log_det = model.flow(x, batch.y)
    p = torch.distributions.StudentT(model.config.nu) if model.space.is_image else torch.distributions.Normal(0.0, 1.0)
    return -(p.log_prob(z).sum(1) + log_det - log_q).mean() / model.space.dim


def latent(inner: Callable) -> Callable:
    def loss(model, batch, noise, progress):
        mean, log_sd = model.codec.encode(batch.x, batch.y)
        mean, log_sd = (mean - model.shift) / model.scale, log_sd - torch.log(model.scale)
        z = mean + log_sd.exp() * noise.at("posterior").normal(*mean.shape)
        return inner(model.inner, Batch(z, batch.y), noise, progress)

    return loss


# --------------------------------------------------------------------------------------------------------------- games


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x)).mean()


def slopes(critic: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    """Of D at each example, squared."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(x, y).sum(), x, create_graph=True)
    return slope.square().flatten(1).sum(1)


def latent_noise(model, n: int, noise: Noise) -> Tensor:
    return noise.normal(n, min(model.config.latent, model.space.dim))


def gan(model, batch, noise, progress):
    (x, y), D, G, config = batch, model.critic, model.generator, model.config
    fake, w = G(latent_noise(model, N, noise), y), half_cosine(progress)
    gamma = config.gamma**w * config.gamma_end ** (1 - w) * model.space.dim
    k = math.ceil(config.penalised * N)
    y_k = None if y is None else y[:k]
    penalties = slopes(D, x[:k], y_k).mean() + slopes(D, fake[:k], y_k).mean()
    yield softplus(D(fake, y) - D(x, y)) + gamma / 2 * penalties
    yield softplus(D(x, y) - D(G(latent_noise(model, N, noise), y), y))


def nonsaturating(model, batch, noise, progress):
    (x, y), D, G = batch, model.critic, model.generator
    yield softplus(-D(x, y)) + softplus(D(G(latent_noise(model, N, noise), y), y))
    yield softplus(-D(G(latent_noise(model, N, noise), y), y))


def wasserstein(model, batch, noise, progress):
    D, G, config = model.critic, model.generator, model.config
    n = N // config.n_critic
    for first in range(0, N, n):
        x, y = (None if one is None else one[first : first + n] for one in batch)
        fake = G(latent_noise(model, n, noise), y)
        u = over(noise.uniform(n), x)
        penalty = (slopes(D, u * x + (1 - u) * fake, y).sqrt() - 1).square().mean()
        weight = config.penalty if model.space.is_image else config.vector_penalty
        yield D(fake, y).mean() - D(x, y).mean() + weight * penalty
    yield -D(G(latent_noise(model, n, noise), y), y).mean()


def hinge(model, batch, noise, progress):
    (x, y), D, G = batch, model.critic, model.generator
    fake = G(latent_noise(model, N, noise), y)
    yield (1 - D(x, y)).clamp(min=0).mean() + (1 + D(fake, y)).clamp(min=0).mean()
    yield -D(G(latent_noise(model, N, noise), y), y).mean()


# ------------------------------------------------------------------------------------------------------------ a recipe

STEPS: dict[str, Callable] = {
    "ddpm": chain, "ddpm-linear": chain, "ddpm-v": chain, "ddpm-x0": chain, "ddpm-learned": chain,
    "edm": edm, "ncsn": ncsn, "score-sde": score_sde, "score-sde-subvp": score_sde, "score-sde-ve": score_sde,
    "score-sde-likelihood": score_sde, "flow-matching": matching, "flow-matching-cosine": matching,
    "flow-matching-vp": matching, "ot-flow-matching": matching, "mean-flow": mean_flow,
    "consistency": distilled, "consistency-edm": distilled, "consistency-training": consistency,
    "easy-consistency": easy, "easy-consistency-edm": easy, "progressive-distillation": progressive,
    "reflow": reflow, "reflow-distilled": one_step, "vae": vae, "iwae": iwae, "autoencoder": autoencoder, "hvae": hvae,
    "vq-vae": vq_vae, "tarflow": tarflow, "tarflow-denoised": tarflow, "normalizing-flow": normalizing,
    "glow": normalizing, "glow-variational": normalizing, "realnvp": normalizing, "maf": normalizing,
    "latent-ddpm": latent(chain), "latent-flow-matching": latent(matching),
    "gan": gan, "gan-nonsaturating": nonsaturating, "wgan-gp": wasserstein, "gan-hinge": hinge,
}  # fmt: skip
AWAY: dict[str, dict[str, Any]] = {  # settings away from those that hide a factor
    "ddpm": {"first": 1.3, "last": 0.02}, "ddpm-linear": {"beta_1": 1e-3, "beta_T": 0.03}, "ddpm-learned": {"vlb": 0.02},
    "edm": {"P_mean": 0.4, "P_std": 3.0, "sigma_max": 20.0, "floor": 0.9}, "ncsn": {"L": 3, "floor": 0.6},
    "score-sde-ve": {"floor": 0.4}, "score-sde-likelihood": {"beta_min": 0.4, "beta_max": 11.0, "floor": 0.7},
    "flow-matching": {"times": "skewed"}, "flow-matching-cosine": {"times": "u-shaped"},
    "ot-flow-matching": {"coupled": 5}, "mean-flow": {"same": 0.35, "c": 0.3, "p": 0.6},
    "consistency": {"steps_start": 2, "steps_end": 8, "huber": 0.2}, "consistency-training": {"steps_start": 2, "huber": 0.1},
    "consistency-edm": {"steps_start": 2, "steps_end": 8, "huber": 0.2}, "easy-consistency": {"stages": 3, "k": 3.0, "b": 0.7},
    "easy-consistency-edm": {"stages": 3, "q": 4.0, "huber": 0.2},
    "reflow": {"times": "logit-normal"}, "vae": {"beta": 0.6, "warm_up": 0.4},
    "iwae": {"K": 3}, "autoencoder": {"beta": 0.7, "scale": 0.3}, "vq-vae": {"codec": 0.5, "beta": 0.6, "size": 9},
    "hvae": {"skip": 300.0}, "tarflow-denoised": {"sigma": 0.4}, "normalizing-flow": {"nu": 6, "steps": 2},
    "glow": {"steps": 2}, "glow-variational": {"steps": 2, "dequantise_steps": 2}, "realnvp": {"steps": 2}, "maf": {"steps": 2},
    "gan": {"gamma": 0.5, "gamma_end": 0.2, "penalised": 0.45, "latent": 5}, "wgan-gp": {"penalty": 3.0, "n_critic": 2},
}  # fmt: skip
SCALES = {"sigma_data": 1.7, "sigma_max": 6.0, "shift": 0.3, "scale": 1.9}  # what data are measured to be


def made(name: str, space: Space, **changes) -> Any:
    recipe = catalogue.get(name)
    space = replace(space, classes=0) if name == "ot-flow-matching" else space
    model = build(recipe, space, WIDTH, config=replace(recipe.config, **{**AWAY.get(name, {}), **changes}))
    for one in (
        model,
        *(getattr(model, role).model for role in ("teacher", "start") if hasattr(getattr(model, role, 0), "model")),
    ):
        for key, buffer in one.named_buffers(recurse=False):
            if key in SCALES:
                buffer.fill_(SCALES[key])
    return model


def trained(name: str, model, progress: float) -> Iterator[tuple[nn.Module, dict[str, Any], float, float]]:
    """The module of each loss with its optimizer's settings, and the gradient norms at which it is clipped and left out."""
    config, w = getattr(model, "inner", model).config, half_cosine(progress)
    inf, setting = math.inf, {"lr": config.lr * w}
    if name in ("gan", "gan-nonsaturating", "gan-hinge", "wgan-gp"):
        late = 0.0
        if name == "gan":
            late = 1 - (1 - config.beta2) ** w * (1 - config.beta2_end) ** (1 - w)
        betas = {"gan": (config.beta1, late), "gan-nonsaturating": (config.beta1, config.beta2)}
        setting |= {"betas": betas[name]} if name in betas else {}
        critic = {**setting, "lr": config.critic_lr * w} if name == "gan-nonsaturating" else setting
        yield from [(model.critic, critic, inf, inf)] * (config.n_critic if name == "wgan-gp" else 1)
        yield model.generator, setting, inf, inf
    elif name == "vq-vae":
        if progress < config.codec:
            yield model.codec, {"lr": config.lr * half_cosine(progress / config.codec)}, config.clip, inf
        yield model.code_prior, setting, config.clip, inf
    elif name.startswith("progressive"):
        place = 4 * progress  # of four rounds, each with a rate of its own
        yield model.net, {"lr": config.lr * half_cosine(place - min(3, int(place)))}, config.clip, inf
    else:
        module = next(key for key in model.optimizers())
        yield module, setting, config.clip, config.skip if name == "hvae" else inf


def gradient(loss: Tensor, module: nn.Module) -> Tensor:
    parameters = [p for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, found)])


def test_every_recipe_has_its_loss_written_out():
    """But those that differ in their budget or in which parent of a kind they have."""
    names = {name for name in catalogue.recipes() if "equal-total" not in name and name != "reflow-3"}
    assert names == set(STEPS)


# By default each recipe on one of the two in turn, and Glow with learned dequantisation where it dequantises.
WHERE = {name: "pixels" if k % 2 == 0 or name == "glow-variational" else "vectors" for k, name in enumerate(STEPS)}


@pytest.mark.parametrize(
    ("name", "where"),
    [
        pytest.param(name, where, marks=() if where == WHERE[name] else pytest.mark.matrix)
        for name, where in product(STEPS, SPACES)
    ],
)
def test_a_step_is_the_one_written_out(name, where):
    model = made(name, SPACES[where]).eval()
    batch = examples_of(model.space)
    for progress in (0.2, 0.8):
        given = Batch(model.codes(batch.x, batch.y), batch.y) if hasattr(model, "codes") else batch
        updates = list(model.updates(given, progress, Noise("step", 5)))
        losses = STEPS[name](model, batch, Noise("step", 5), progress)
        losses = [losses] if isinstance(losses, Tensor) else list(losses)
        wanted = trained(name, model, progress)
        for update, loss, (module, settings, clip, skip) in zip(updates, losses, wanted, strict=True):
            ours = update.loss
            if name == "ddpm-learned":
                ours = update.terms["simple"]
                torch.testing.assert_close(update.loss, ours + 0.02 * update.terms["bound"])
            torch.testing.assert_close(ours, loss, rtol=2e-4, atol=1e-6)
            if progress == 0.2:
                one, other = (gradient(of, module) for of in (ours, loss))
                assert (one - other).norm() <= 2e-3 * other.norm(), "what is held fixed"
            assert update.module is module
            assert update.settings.keys() == settings.keys()
            for key, value in settings.items():
                assert update.settings[key] == pytest.approx(value), (key, progress)
            assert (update.clip, update.skip_above) == (clip, skip)
