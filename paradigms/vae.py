"""VAE and IWAE: an encoder and a decoder trained together on a lower bound of the likelihood.

Model.      z ~ N(0, I), x ~ p(x | z). On images every pixel is an independent discretised mixture of logistics whose
            weights, means and scales the decoder gives; on vectors an independent Gaussian with a learned scale.

Objective.  With q(z | x) = N(mu(x), diag sd(x)^2) and z = mu + sd eps (reparameterised):
            vae    the evidence lower bound (Kingma & Welling, eq. 3, the KL in closed form)
                       log p(x) >= ELBO = E_q log p(x | z) - beta KL(q(z | x) || N(0, I)), at beta = 1;
            iwae   the importance-weighted bound (Burda et al., eq. 8)
                       log p(x) >= L_K = E_(z_1 ... z_K ~ q) log 1/K sum_k w_k,  w_k = p(x | z_k) p(z_k) / q(z_k | x),
                   by its plain reparameterised gradient (eq. 13): sum_k w_k / (sum_j w_j) grad log w_k.
            At first the KL, and log p(z) / q(z | x) in the weights, count for nothing; their weight rises to 1 (beta).

Sampling.   z ~ N(0, T^2 I), then x ~ p(x | z) ("sample", which at T = 1 the likelihood speaks of) or its mean ("mean").

Likelihood. L_K, which rises with K to log p(x), and for the vae the ELBO at beta = 1. An iwae has no ELBO on its card:
            its q is trained to propose K draws of which one must be good, and one alone may be very bad.

References
    D. Kingma, M. Welling. Auto-Encoding Variational Bayes. ICLR 2014. arXiv:1312.6114
    Y. Burda, R. Grosse, R. Salakhutdinov. Importance Weighted Autoencoders. ICLR 2016. arXiv:1509.00519
    I. Higgins et al. beta-VAE. ICLR 2017.                          (beta other than 1)
    C. Sonderby et al. Ladder Variational Autoencoders. NeurIPS 2016. arXiv:1602.02282          (the KL's warm-up)
    T. Salimans et al. PixelCNN++. ICLR 2017. arXiv:1701.05517      (the mixture of logistics)

Where this differs from the papers
    - Residual convolutional networks with dropout, and a mixture of logistics instead of a Bernoulli or a Gaussian.
    - One stochastic layer (Burda et al. also stack two). The IWAE's bound is warmed up like the ELBO, three times as long:
      its plain gradient (not the doubly reparameterised one) draws log p(z) / q(z | x) where the ELBO has the KL in closed
      form, and with the VAE's warm-up it lags behind a VAE of as many steps.
    - Weight decay keeps small sets of images from being memorised. Vectors have none, and a longer warm-up: there are enough
      examples, and weight decay or a short warm-up leads to a collapse of z. `docs/notes.md` has the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paradigms import optim
from paradigms.backbones.build import decoder, encoder
from paradigms.contract import Frozen, Paradigm, Update
from paradigms.core.data import Batch, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Estimate, Kind, Plan, Sampler
from paradigms.core.settings import Settings, setting
from paradigms.maths.likelihood import normal_log_prob
from paradigms.maths.observation import observation
from paradigms.optim import adamw, cosine
from paradigms.recipe import Recipe

ACTIVE = 0.01  # nats of KL, averaged over a batch, from which a dimension of z counts as used
AT_ONCE = 2**18  # numbers of x that one call of the decoder is asked about: K draws in groups of bounded memory


@dataclass(frozen=True)
class Config(Settings):
    """The settings of every VAE. The warm-up is the share of training over which what pulls q to the prior gains weight."""

    latent: int = setting(16, least=1, says="dimensions of z")
    components: int = optim.components(10)
    warm_up: float = setting(0.1, least=0, most=1, says="share of training until the KL has its full weight, on images")
    vector_warm_up: float = setting(0.5, least=0, most=1, says="the same on vectors")
    batch: int = optim.batch(64)
    lr: float = optim.lr(1e-3)
    dropout: float = optim.dropout(0.1, "of features (images only)")
    weight_decay: float = optim.weight_decay(0.3, "of AdamW (images only)")
    clip: float = optim.clip(10.0)
    backbone: str = optim.backbone("auto")


@dataclass(frozen=True)
class ElboConfig(Config):
    beta: float = setting(1.0, least=0, says="the KL's weight after the warm-up")


@dataclass(frozen=True)
class ImportanceConfig(Config):
    K: int = setting(2, least=1, says="draws of z for each example of a training step")
    warm_up: float = 0.3


def kl_from_prior(mu: Tensor, log_sd: Tensor) -> Tensor:
    """KL(N(mu, exp(log_sd)^2) || N(0, 1)), elementwise (Kingma & Welling, appendix B)."""
    return 0.5 * (mu.square() + (2 * log_sd).exp() - 1) - log_sd


class Coder(nn.Module):
    """Encoder x -> (mu, log sd) of q(z | x), decoder z -> what `law` makes of p(x | z): trained as one module."""

    def __init__(self, config: Config, space: Space, width: int) -> None:
        super().__init__()
        dropout = config.dropout if space.is_image else 0.0
        self.law = observation(space, config.components)
        self.encoder = encoder(space, 2 * config.latent, width, dropout, config.backbone)
        said = replace(space, shape=self.law.shape)
        self.decoder = decoder(said, config.latent, 1, width, dropout, config.backbone)

    def encode(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """mu and log sd, each (B, latent)."""
        mu, log_sd = self.encoder(x, y).chunk(2, dim=1)
        return mu, log_sd.clamp(-7, 3)

    def log_prob(self, x: Tensor, z: Tensor, y: Tensor | None) -> Tensor:
        """log p(x | z), (B,)."""
        return self.law.log_prob(self.decoder(z, y), x)

    def log_weights(
        self, x: Tensor, mu: Tensor, log_sd: Tensor, eps: Tensor, y: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """log p(x | z_k) and log p(z_k) / q(z_k | x), each (K, B), of z_k = mu + sd eps_k for eps (K, B, latent).

        Their sum is log w_k. One call of the decoder with K B rows.
        """
        k, z = len(eps), mu + log_sd.exp() * eps
        x = x.expand(k, *x.shape).flatten(0, 1)
        y = None if y is None else y.repeat(k)
        log_q = (normal_log_prob(eps) - log_sd).sum(2)
        return self.log_prob(x, z.flatten(0, 1), y).view(k, -1), normal_log_prob(z).sum(2) - log_q


SAMPLERS = (
    Sampler(
        "sample",
        (1,),
        stochastic=True,
        options={"temperature": 1.0},
        ranges={"temperature": (0.0, 2.0)},
        note="x drawn from p(x | z); temperature multiplies the prior's standard deviation",
    ),
    Sampler(
        "mean",
        (1,),
        options={"temperature": 1.0},
        ranges={"temperature": (0.0, 2.0)},
        note="the mean of p(x | z); temperature as above",
    ),
)
ELBO = Kind("elbo", "≤", 2)
BOUNDS = (
    Kind("iwae", "≤", 65, (("K", 64),), ranges={"K": (1, 100_000)}),
    Kind("iwae", "≤", 1001, (("K", 1000),), ranges={"K": (1, 100_000)}),
)


class LatentGaussian(Paradigm):
    """What both share: the networks, the samplers, the bounds. They differ in the bound that `updates` descends."""

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.coder = Coder(config, space, width)

    @staticmethod
    def refuses(config: Config, space: Space) -> str | None:
        most = max(64, 4 * space.dim)
        if config.latent <= most:
            return None
        return (
            f"a latent of {config.latent} dimensions for data of {space.dim} only adds dimensions that the KL switches "
            f"off; take at most {most}"
        )

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        decay = self.config.weight_decay if self.space.is_image else 0.0
        return {self.coder: adamw(self.coder, self.config.lr, weight_decay=decay)}

    def warmth(self, progress: float) -> float:
        """What the prior and q weigh against the data: from 0 to 1 over the warm-up."""
        share = self.config.warm_up if self.space.is_image else self.config.vector_warm_up
        return min(1.0, progress / share) if share else 1.0

    def update(self, loss: Tensor, kl: Tensor, terms: Mapping[str, Tensor], progress: float) -> Update:
        """The one step of a training step: loss in nats per example, kl (B, latent)."""
        # Per dimension of x, so that the gradient's size does not depend on the image's.
        loss, each = loss / self.space.dim, kl.mean(0)
        terms = {**terms, "loss": loss, "kl": each.sum(), "active": (each > ACTIVE).sum().to(kl.dtype)}
        return Update(self.coder, loss, terms, {"lr": self.config.lr * cosine(progress)}, clip=self.config.clip)

    def symptom(self, terms: Mapping[str, float]) -> str | None:
        active, latent = terms.get("active", math.inf), self.config.latent
        if self.space.is_image:
            # Some dimensions are always idle (Burda et al. count them too).
            if active >= 0.25 * latent:
                return None
            return (
                f"posterior collapse: {latent - active:.0f} of {latent} latent dimensions carry less than {ACTIVE:g} "
                "nats, so the decoder hardly looks at z; train longer, or lower latent"
            )
        # A vector's columns may hang on one number, however many they are; and where each is a normal of its own (or of
        # its label's), on none.
        if active >= 0.5 or terms.get("plain"):
            return None
        return (
            f"posterior collapse: none of {latent} latent dimensions carries {ACTIVE:g} nats, so what is learned is one normal "
            "for each column, which the data are not; a longer vector_warm_up may open z"
        )

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
        out = self.coder.decoder(plan.option("temperature", 1.0) * z, cond)
        return self.coder.law.mean(out) if plan.sampler == "mean" else self.coder.law.sample(out, noise)

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        mu, log_sd = self.coder.encode(x, cond)
        if kind.name == "elbo":
            kl = kl_from_prior(mu, log_sd).sum(1)
            log_px = self.coder.log_prob(x, mu + log_sd.exp() * noise.normal(*mu.shape), cond)
            return Estimate(log_px - kl, terms={"reconstruction": -log_px, "kl": kl})
        k = int(kind.option("K", 64))
        at_once = max(1, AT_ONCE // x.numel())
        log_sum = torch.full_like(mu[:, 0], -math.inf)
        for first in range(0, k, at_once):
            eps = torch.stack([noise.normal(*mu.shape) for _ in range(min(at_once, k - first))])
            log_px, log_ratio = self.coder.log_weights(x, mu, log_sd, eps, cond)
            log_sum = torch.logaddexp(log_sum, (log_px + log_ratio).logsumexp(0))
        return Estimate(log_sum - math.log(k))


class VAE(LatentGaussian):
    """The evidence lower bound."""

    card = Card(
        title="Variational autoencoder",
        paper="Kingma & Welling, Auto-Encoding Variational Bayes",
        year=2014,
        url="https://arxiv.org/abs/1312.6114",
        samplers=SAMPLERS,
        default=Plan("sample"),
        likelihoods=(ELBO, *BOUNDS),
    )

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = batch
        mu, log_sd = self.coder.encode(x, y)
        z = mu + log_sd.exp() * noise.normal(*mu.shape)
        reconstruction = -self.coder.log_prob(x, z, y).mean()
        kl = kl_from_prior(mu, log_sd)
        loss = reconstruction + self.config.beta * self.warmth(progress) * kl.sum(1).mean()
        yield self.update(loss, kl, {"reconstruction": reconstruction}, progress)


class IWAE(LatentGaussian):
    """The importance-weighted bound of K draws."""

    card = Card(
        title="Importance-weighted autoencoder",
        paper="Burda et al., Importance Weighted Autoencoders",
        year=2016,
        url="https://arxiv.org/abs/1509.00519",
        samplers=SAMPLERS,
        default=Plan("sample"),
        likelihoods=BOUNDS,
    )

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = batch
        mu, log_sd = self.coder.encode(x, y)
        eps = torch.stack([noise.normal(*mu.shape) for _ in range(self.config.K)])
        log_px, log_ratio = self.coder.log_weights(x, mu, log_sd, eps, y)
        log_w = log_px + self.warmth(progress) * log_ratio
        bound = (log_w.logsumexp(0) - math.log(self.config.K)).mean()  # eq. 8; its gradient weighs by w_k, eq. 13
        yield self.update(-bound, kl_from_prior(mu, log_sd), {"bound": bound}, progress)


RECIPES = (
    Recipe("vae", VAE, ElboConfig(), "evidence lower bound; a mixture of logistics for each pixel"),
    Recipe(
        "iwae", IWAE, ImportanceConfig(), "a VAE trained on the importance-weighted bound of K draws", variant_of="vae"
    ),
)
