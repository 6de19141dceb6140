"""VAE: an encoder and a decoder trained together on a lower bound of the likelihood.

Model.      z ~ N(0, I), x ~ p(x | z). On images every pixel is an independent discretised logistic whose mean and scale
            the decoder gives; on vectors an independent Gaussian.

Objective.  The evidence lower bound (Kingma & Welling, eq. 3), with q(z | x) = N(mu(x), diag sd(x)^2):
                log p(x) >= ELBO = E_{q(z|x)} log p(x | z) - KL(q(z | x) || N(0, I)),
            maximised through z = mu + sd eps. beta_KL multiplies the KL while it warms up from 0 to 1.

Sampling.   z ~ N(0, I), then x ~ p(x | z) ("sample", which the likelihood speaks of) or its mean ("mean").

Likelihood. The ELBO, or the tighter importance-weighted bound (Burda et al., eq. 8):
                log p(x) >= E log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x).

References
    D. Kingma, M. Welling. Auto-Encoding Variational Bayes. ICLR 2014. arXiv:1312.6114
    Y. Burda, R. Grosse, R. Salakhutdinov. Importance Weighted Autoencoders. ICLR 2016. arXiv:1509.00519
    D. Kingma et al. Improved Variational Inference with Inverse Autoregressive Flow. NeurIPS 2016. arXiv:1606.04934
        (the discretised logistic)

Where this differs from the papers
    - Residual convolutional networks, and a learned scale for every pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paradigms.backbones.build import decoder, encoder
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
from paradigms.maths.likelihood import discretised_logistic, normal_log_prob
from paradigms.optim import adamw, check_training, cosine


@dataclass(frozen=True)
class Config:
    """latent: dimensions of z. warm_up: share of training over which the KL's weight rises to 1. beta: its final weight.

    batch, lr, dropout (images only), weight_decay, clip: training. backbone: "auto" or "mlp".
    """

    latent: int = 16
    beta: float = 1.0
    warm_up: float = 0.1
    batch: int = 64
    lr: float = 1e-3
    dropout: float = 0.1
    weight_decay: float = 0.01
    clip: float = 10.0
    backbone: str = "auto"

    def __post_init__(self) -> None:
        check_training(self)
        require(self.beta >= 0, "beta must be at least 0")
        require(0 <= self.warm_up <= 1, "warm_up must be from 0 to 1")


class Coder(nn.Module):
    """Encoder x -> (mu, log sd) of q(z | x), decoder z -> (mean, log scale) of p(x | z): trained as one module."""

    def __init__(self, config: Config, space: Space, width: int) -> None:
        super().__init__()
        dropout = config.dropout if space.is_image else 0.0
        self.encoder = encoder(space, 2 * config.latent, width, dropout, config.backbone)
        self.decoder = decoder(space, config.latent, 2, width, dropout, config.backbone)

    def encode(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        mu, log_sd = self.encoder(x, y).chunk(2, dim=1)
        return mu, log_sd.clamp(-7, 3)

    def decode(self, z: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.decoder(z, y).chunk(2, dim=1)
        return mean, (log_scale - 2).clamp(-7, 3)


class VAE(Paradigm):
    """See the module's text."""

    card = Card(
        title="Variational autoencoder",
        paper="Kingma & Welling, Auto-Encoding Variational Bayes",
        year=2014,
        url="https://arxiv.org/abs/1312.6114",
        samplers=(
            Sampler("sample", (1,), stochastic=True, note="x drawn from p(x | z)"),
            Sampler("mean", (1,), note="the mean of p(x | z)"),
        ),
        default=Plan("sample"),
        likelihoods=(
            Kind("elbo", "≤", 2),
            Kind("iwae", "≤", 65, (("K", 64),)),
            Kind("iwae", "≤", 1001, (("K", 1000),)),
        ),
    )

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.coder = Coder(config, space, width)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {self.coder: adamw(self.coder, self.config.lr, weight_decay=self.config.weight_decay)}

    def log_prob_x(self, x: Tensor, z: Tensor, y: Tensor | None) -> Tensor:
        """log p(x | z), (B,)."""
        mean, log_scale = self.coder.decode(z, y)
        if self.space.levels:
            each = discretised_logistic(x, mean, log_scale, self.space.levels)
        else:
            each = normal_log_prob(x, mean, log_scale)
        return each.flatten(1).sum(1)

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = batch
        mu, log_sd = self.coder.encode(x, y)
        z = mu + log_sd.exp() * noise.normal(*mu.shape)
        reconstruction = -self.log_prob_x(x, z, y).mean()
        kl = (0.5 * (mu.square() + (2 * log_sd).exp() - 1) - log_sd).sum(1).mean()
        beta = self.config.beta * min(1.0, progress / self.config.warm_up if self.config.warm_up else 1.0)
        # Per dimension, so that the gradient's size does not depend on the image's.
        loss = (reconstruction + beta * kl) / self.space.dim
        terms = {"loss": loss, "reconstruction": reconstruction, "kl": kl}
        yield Update(self.coder, loss, terms, {"lr": self.config.lr * cosine(progress)}, clip=self.config.clip)

    def prior(self, n: int, noise: Noise) -> Tensor:
        return noise.normal(n, self.config.latent)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        mean, log_scale = self.coder.decode(z, cond)
        if plan.sampler == "mean":
            return mean
        if self.space.levels:
            # The quantile function; the clamp keeps float32's u = 0 finite.
            return mean + log_scale.exp() * torch.logit(noise.uniform(*mean.shape).clamp_min(1e-7))
        return mean + log_scale.exp() * noise.normal(*mean.shape)

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        mu, log_sd = self.coder.encode(x, cond)
        if kind.name == "elbo":
            kl = (0.5 * (mu.square() + (2 * log_sd).exp() - 1) - log_sd).sum(1)
            log_px = self.log_prob_x(x, mu + log_sd.exp() * noise.normal(*mu.shape), cond)
            return Estimate(log_px - kl, terms={"reconstruction": -log_px, "kl": kl})
        k = int(kind.option("K", 64))
        weights = []
        for _ in range(k):
            eps = noise.normal(*mu.shape)
            z = mu + log_sd.exp() * eps
            log_q = (normal_log_prob(eps) - log_sd).sum(1)
            weights.append(self.log_prob_x(x, z, cond) + normal_log_prob(z).sum(1) - log_q)
        return Estimate(torch.stack(weights).logsumexp(0) - math.log(k))


RECIPES = (Recipe("vae", VAE, Config(), "evidence lower bound; discretised-logistic decoder; IWAE bound"),)
