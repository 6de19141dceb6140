"""Hierarchical VAE: a ladder of latents from coarse to fine, each with a learned prior and a posterior that see those above.

Model.      p(x, z) = p(x | z) prod_l p(z_l | z_<l), l = 1 (coarsest, one position) ... L (finest).

Objective.  The evidence lower bound (Child, eq. 1-3)
Sampling.   top down
Likelihood. elbo

References
    R. Child. arXiv:2011.10650

Where this differs from the papers
    - x
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from paradigms.backbones import Backbone
from paradigms.backbones.build import convolutional, levels
from paradigms.backbones.embed import Embedding
from paradigms.backbones.ladder import BottomUp, Bottleneck, K, kernel, middle, resolutions
from paradigms.contract import (
    Batch,
    Card,
    Estimate,
    Frozen,
    Kind,
    Noise,
    Paradigm,
    Plan,
    Recipe,
    Sampler,
    Space,
    Update,
    require,
)
from paradigms.maths.likelihood import (
    discretised_logistic_mixture,
    logistic_mixture_mean,
    logistic_mixture_numbers,
    normal_log_prob,
    sample_logistic_mixture,
    split_logistic_mixture,
)
from paradigms.optim import adamw, check_training, cosine


@dataclass(frozen=True)
class Config:
    """latent: channels of each level's z. blocks: levels at each resolution."""

    latent: int = 8
    backbone: str = "auto"
    blocks: int = 2
    encoder_blocks: int = 1
    warm_up: float = 0.2
    batch: int = 64
    lr: float = 8e-3
    beta2: float = 0.99
    weight_decay: float = 0.01
    clip: float = 10.0
    skip: float = 100.0
    residual: bool = False
    norm: bool = False
    ratio: float = 0.5
    small: int = 2
    pool: bool = False
    patch: int = 0
    zscale: float = 1.0
    qscale: float = 1.0
    coarse: int = 1
    components: int = 3
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_training(self)
        require(self.blocks >= 1, "blocks must be at least 1")
        require(0 <= self.warm_up <= 1, "warm_up must be from 0 to 1")
        require(self.skip > 0, "skip must be above 0")


class Level(NamedTuple):
    """One level's Gaussians and draw, each (B, latent, h, w): p(z_l | z_<l), q(z_l | z_<l, x), z_l."""

    p: tuple[Tensor, Tensor]
    q: tuple[Tensor, Tensor]
    z: Tensor


def kl(level: Level) -> Tensor:
    (m_p, s_p), (m_q, s_q) = level.p, level.q
    each = 0.5 * ((2 * (s_q - s_p)).exp() + ((m_q - m_p) * (-s_p).exp()).square() - 1) + s_p - s_q
    return each.flatten(1).sum(1)


def log_ratio(level: Level) -> Tensor:
    return (normal_log_prob(level.z, *level.p) - normal_log_prob(level.z, *level.q)).flatten(1).sum(1)


def gaussian(out: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_sd = out.chunk(2, dim=1)
    return mean, log_sd.clamp(-7, 3)


class TopDownBlock(nn.Module):
    def __init__(
        self, width: int, latent: int, size: tuple[int, int], emb: int, scale: float, residual: bool, dropout: float
    ) -> None:
        super().__init__()
        m, k = middle(width), kernel(size)
        self.residual = residual
        self.latent = latent
        self.prior = Bottleneck(width, m, 2 * latent + width, k, emb, 0.0, dropout)
        self.posterior = Bottleneck(2 * width, m, 2 * latent, k, emb, K.qscale, dropout)
        self.project = nn.Conv2d(latent, width, 1)
        with torch.no_grad():
            self.project.weight.mul_(scale * K.zscale)
        self.resnet = Bottleneck(width, m, width, k, emb, scale, dropout)

    def forward(self, h: Tensor, eps: Tensor, features: Tensor | None, emb: Tensor | None) -> tuple[Tensor, Level]:
        out, residual = self.prior(h, emb).split((2 * self.latent, h.shape[1]), dim=1)
        p = q = gaussian(out)
        if features is not None:
            o = self.posterior(torch.cat([h, features], dim=1), emb)
            if self.residual:
                o = o + out
            q = gaussian(o)
        z = q[0] + q[1].exp() * eps
        h = h + residual + self.project(z)
        return h + self.resnet(h, emb), Level(p, q, z)


class TopDown(Backbone):
    def __init__(
        self,
        shape: tuple[int, ...],
        cout: int,
        width: int,
        latent: int,
        blocks: int,
        patch: int,
        classes: int,
        residual: bool,
        coarse: int,
        dropout: float,
    ) -> None:
        super().__init__()
        _, h, w = shape
        self.patch = patch
        self.sizes = resolutions(h // patch, w // patch)[::-1]
        self.embed = Embedding(width, classes, timed=False)
        emb = width if classes else 0
        counts = [blocks if max(size) > 2 or len(self.sizes) == 1 else coarse for size in self.sizes]
        scale = sum(counts) ** -0.5
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(1, width, *size)) for size in self.sizes)
        self.rows = nn.ModuleList(
            nn.ModuleList(TopDownBlock(width, latent, size, emb, scale, residual, dropout) for _ in range(n))
            for n, size in zip(counts, self.sizes)
        )
        self.shapes = [(latent, *size) for n, size in zip(counts, self.sizes) for _ in range(n)]
        self.gain = nn.Parameter(torch.ones(width, 1, 1))
        self.head = nn.Conv2d(width, cout * patch * patch, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, eps: Tensor, y: Tensor | None = None, features: list[Tensor] | None = None, informed: int = 10**9
    ) -> tuple[Tensor, list[Level]]:
        emb = self.embed(None, y)
        noise = [e.view(-1, *s) for e, s in zip(eps.split([math.prod(s) for s in self.shapes], dim=1), self.shapes)]
        h = self.biases[0].expand(len(eps), -1, -1, -1)
        passed: list[Level] = []
        for i, row in enumerate(self.rows):
            if i:
                h = self.biases[i] + F.interpolate(h, size=self.sizes[i], mode="nearest")
            for block in row:  # type: ignore[attr-defined]
                told = features[i] if features is not None and len(passed) < informed else None
                h, level = block(h, noise[len(passed)], told, emb)
                passed.append(level)
        out = self.head(F.gelu(h * self.gain))
        return (F.pixel_shuffle(out, self.patch) if self.patch > 1 else out), passed


class Ladder(nn.Module):
    def __init__(self, config: Config, space: Space, width: int) -> None:
        super().__init__()
        K.norm, K.ratio, K.small, K.pool = config.norm, config.ratio, config.small, config.pool
        K.zscale, K.qscale = config.zscale, config.qscale
        shape = space.shape if space.is_image else (space.dim, 1, 1)
        patch = (config.patch or levels(space)[0]) if space.is_image else 1
        self.encoder = BottomUp(shape, width, config.encoder_blocks, patch, space.classes, config.dropout)
        self.decoder = TopDown(
            shape,
            logistic_mixture_numbers(config.components, shape[0]) if space.levels else 2 * shape[0],
            width,
            config.latent,
            config.blocks,
            patch,
            space.classes,
            config.residual,
            config.coarse,
            config.dropout,
        )


class HierarchicalVAE(Paradigm):
    """See the module's text."""

    card = Card(
        title="Hierarchical variational autoencoder",
        paper="Child, Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images",
        year=2021,
        url="https://arxiv.org/abs/2011.10650",
        samplers=(
            Sampler("sample", (1,), stochastic=True, note="x drawn from p(x | z)"),
            Sampler("mean", (1,), note="the mean of p(x | z)"),
        ),
        default=Plan("sample"),
        likelihoods=(
            Kind("elbo", "≤", 2),
            Kind("iwae", "≤", 65, (("K", 64),), ranges={"K": (1, 100_000)}),
        ),
    )

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.ladder = Ladder(config, space, width)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        c = self.config
        return {self.ladder: adamw(self.ladder, c.lr, (0.9, c.beta2), weight_decay=c.weight_decay)}

    @property
    def latents(self) -> int:
        return sum(math.prod(s) for s in self.ladder.decoder.shapes)

    def encode(self, x, y):
        return self.ladder.encoder(x if self.space.is_image else x[..., None, None], y)

    def decode(self, eps, y, features=None, informed=10**9):
        out, passed = self.ladder.decoder(eps, y, features, informed)
        if not self.space.is_image:
            out = out[..., 0, 0]
        return out, passed

    def log_prob_x(self, x, out):
        if self.space.levels:
            logits, means, log_scales, coefficients = split_logistic_mixture(
                out, self.config.components, self.space.shape[0]
            )
            each = discretised_logistic_mixture(x, logits, means, log_scales, self.space.levels, coefficients)
        else:
            mean, log_scale = out.chunk(2, dim=1)
            each = normal_log_prob(x, mean, (log_scale).clamp(-7, 3))
        return each.flatten(1).sum(1)

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = batch
        out, passed = self.decode(noise.normal(len(x), self.latents), y, self.encode(x, y))
        reconstruction = -self.log_prob_x(x, out).mean()
        kls = torch.stack([kl(level).mean() for level in passed])
        beta = min(1.0, progress / self.config.warm_up if self.config.warm_up else 1.0)
        loss = (reconstruction + beta * kls.sum()) / self.space.dim
        terms = {"reconstruction": reconstruction, **{f"kl_{i}": k for i, k in enumerate(kls, 1)}}
        settings = {"lr": self.config.lr * cosine(progress)}
        yield Update(self.ladder, loss, terms, settings, self.config.clip, self.config.skip)

    def prior(self, n: int, noise: Noise) -> Tensor:
        return noise.normal(n, self.latents)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        out, _ = self.decode(z, cond)
        if self.space.levels:
            logits, means, log_scales, coefficients = split_logistic_mixture(
                out, self.config.components, self.space.shape[0]
            )
            if plan.sampler == "mean":
                return logistic_mixture_mean(logits, means, coefficients)
            return sample_logistic_mixture(logits, means, log_scales, self.space.levels, noise, 1.0, coefficients)
        mean, log_scale = out.chunk(2, dim=1)
        if plan.sampler == "mean":
            return mean
        return mean + log_scale.clamp(-7, 3).exp() * noise.normal(*mean.shape)

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        features = self.encode(x, cond)
        if kind.name == "elbo":
            out, passed = self.decode(noise.normal(len(x), self.latents), cond, features)
            log_px, kls = self.log_prob_x(x, out), [kl(level) for level in passed]
            terms = {"reconstruction": -log_px, **{f"kl_{i}": k for i, k in enumerate(kls, 1)}}
            return Estimate(log_px - torch.stack(kls).sum(0), terms)
        k = int(kind.option("K", 64))
        weights = []
        for _ in range(k):
            out, passed = self.decode(noise.normal(len(x), self.latents), cond, features)
            weights.append(self.log_prob_x(x, out) + torch.stack([log_ratio(v) for v in passed]).sum(0))
        return Estimate(torch.stack(weights).logsumexp(0) - math.log(k))


RECIPES = (Recipe("hvae", HierarchicalVAE, Config(), "a ladder of latents from coarse to fine"),)
