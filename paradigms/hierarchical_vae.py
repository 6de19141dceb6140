"""Hierarchical VAE: latents in a ladder from coarse to fine, each with a prior and a posterior that see those above it.

Model.      p(x, z) = p(x | z) prod_l p(z_l | z_<l), l = 1 (one position, the whole image) ... L (the finest resolution),
            with Gaussians p(z_l | z_<l) = N(mu_p, diag sd_p^2) whose parameters the top-down network computes from what it
            has drawn so far. On images p(x | z) is a mixture of discretised logistics for every pixel (PixelCNN++'s, the
            colours coupled); on vectors, where all levels have one position, a Gaussian whose scale is learned too.

Objective.  The evidence lower bound. q(z | x) = prod_l q(z_l | z_<l, x) runs the same top-down network and adds features
            of x from a bottom-up one:
                log p(x) >= ELBO = E_q [ log p(x | z) - sum_l KL( q(z_l | z_<l, x) || p(z_l | z_<l) ) ],
            a closed form for each level's KL. beta_KL multiplies the KLs while it rises from 0 to 1. Now and then a
            gradient explodes: a step whose norm is above `skip` is left out (Child).

Sampling.   From top to bottom z_l = mu_p + T sd_p eps_l, then x ~ p(x | z) ("sample") or its mean ("mean"). T is the
            temperature; `levels` = k draws the first k levels and takes the others at their prior's mean.

Likelihood. The ELBO, or the importance-weighted bound over K passes through the whole ladder (Burda et al., eq. 8):
                log p(x) >= E log 1/K sum_k p(x | z_k) prod_l p(z_l,k | z_<l,k) / q(z_l,k | z_<l,k, x).

References
    R. Child. Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images. ICLR 2021.
        arXiv:2011.10650
    C. K. Sønderby et al. Ladder Variational Autoencoders. NeurIPS 2016. arXiv:1602.02282 (the top-down posterior; the
        warm-up of the KL)
    Y. Burda, R. Grosse, R. Salakhutdinov. Importance Weighted Autoencoders. ICLR 2016. arXiv:1509.00519
    T. Salimans et al. PixelCNN++. ICLR 2017. arXiv:1701.05517 (the mixture of discretised logistics)

Where this differs from the papers
    - A handful of levels instead of 45 to 78, pixels folded two by two as in all of the suite's networks, SiLU for GELU,
      and dropout in the blocks: the suite's small sets are memorised otherwise.
    - Between resolutions every 2 x 2 positions are mixed by a learned linear map, down and up, where Child averages and
      repeats: with so few steps and blocks the levels at one and at 2 x 2 positions died without it. At those a block
      keeps its 1x1 convolutions only.
    - The KLs are warmed up, which Child does not need, for the same reason.
    - A step is left out above Child's gradient norm (400 for a loss in nats per dimension, as here), but clipped to 10.
    - Child's temperature is that of the prior; so it is here, and the decoder's own draw is left as it is.
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

from paradigms import optim
from paradigms.backbones import Backbone
from paradigms.backbones.embed import Embedding
from paradigms.backbones.images import levels
from paradigms.backbones.ladder import Bottleneck, BottomUp, Double, Pointwise, resolutions
from paradigms.contract import Frozen, Paradigm, Update
from paradigms.core.data import Batch, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Estimate, Kind, Plan, Sampler
from paradigms.core.settings import Settings, setting
from paradigms.maths.likelihood import (
    discretised_logistic_mixture,
    logistic_mixture_mean,
    logistic_mixture_numbers,
    normal_log_prob,
    sample_logistic_mixture,
    split_logistic_mixture,
)
from paradigms.optim import adamw, cosine
from paradigms.recipe import Recipe

DEAD = 0.01  # nats: a level that tells less of x is unused
ALL = 1000  # more levels than a ladder has
OPTIONS = {"temperature": 1.0, "levels": ALL}
RANGES = {"temperature": (0.0, 2.0), "levels": (0, ALL)}


@dataclass(frozen=True)
class Config(Settings):
    latent: int = setting(8, least=1, most=64, says="channels of every z_l, counted at each position of each level")
    blocks: int = setting(2, least=1, says="levels at each resolution; one at 2 x 2 positions and at one")
    components: int = optim.components(3)
    warm_up: float = setting(0.3, least=0, most=1, says="share of training over which the weight of the KLs rises to 1")
    batch: int = optim.batch(64)
    lr: float = optim.lr(8e-3)
    dropout: float = optim.dropout(0.3, "of features (images only)")
    weight_decay: float = optim.weight_decay(0.01)
    clip: float = optim.clip(10.0)
    skip: float = setting(400.0, above=0, says="gradient norm above which a step is left out")


class Gaussian(NamedTuple):
    """N(mean, diag exp(log_sd)^2), each (B, latent, h, w)."""

    mean: Tensor
    log_sd: Tensor

    @classmethod
    def of(cls, out: Tensor) -> Gaussian:
        """From a network's output (B, 2 latent, h, w); the bounds keep a level of an untrained ladder finite."""
        mean, log_sd = out.chunk(2, dim=1)
        return cls(mean, log_sd.clamp(-7, 3))

    def log_prob(self, z: Tensor) -> Tensor:
        return normal_log_prob(z, *self).flatten(1).sum(1)


class Level(NamedTuple):
    """One level of a pass: p(z_l | z_<l), q(z_l | z_<l, x) (the prior again where x was not shown), and z_l ~ q."""

    p: Gaussian
    q: Gaussian
    z: Tensor

    def kl(self) -> Tensor:
        """KL(q || p) in closed form, (B,)."""
        p, q = self.p, self.q
        ratio = q.log_sd - p.log_sd
        each = 0.5 * ((2 * ratio).exp() + ((q.mean - p.mean) * (-p.log_sd).exp()).square() - 1) - ratio
        return each.flatten(1).sum(1)

    def log_ratio(self) -> Tensor:
        """log p(z_l | z_<l) - log q(z_l | z_<l, x), (B,), whose mean under q is -KL."""
        return self.p.log_prob(self.z) - self.q.log_prob(self.z)


class TopDownBlock(nn.Module):
    """One level: prior and posterior of z_l from the state h, z_l, and the state it leaves behind."""

    def __init__(self, width: int, latent: int, size: tuple[int, int], emb: int, dropout: float, gain: float) -> None:
        super().__init__()
        self.latent = latent
        # Silent at the start: p(z_l) = N(0, I).
        self.prior = Bottleneck(width, width, 2 * latent + width, size, emb, dropout, gain=0.0)
        self.posterior = Bottleneck(2 * width, width, 2 * latent, size, emb, dropout)
        self.project = Pointwise(latent, width)
        self.after = Bottleneck(width, width, width, size, emb, dropout, gain)
        with torch.no_grad():
            self.project.weight.mul_(gain)

    def forward(self, h: Tensor, eps: Tensor, seen: Tensor | None, emb: Tensor | None) -> tuple[Tensor, Level]:
        """h, seen (B, width, ...): the state and the features of x at this resolution, None to draw from the prior."""
        out, residual = self.prior(h, emb).split((2 * self.latent, h.shape[1]), dim=1)
        p = Gaussian.of(out)
        q = p if seen is None else Gaussian.of(self.posterior(torch.cat([h, seen], dim=1), emb))
        z = q.mean + q.log_sd.exp() * eps
        h = h + residual + self.project(z)
        return h + self.after(h, emb), Level(p, q, z)


class TopDown(Backbone):
    """eps (B, D) standard normal, y -> numbers of p(x | z) (B, cout, H, W), and the levels that were passed.

    shapes: of each level's z; eps holds them one after the other.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        cout: int,
        width: int,
        latent: int,
        blocks: int,
        patch: int = 1,
        classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _, h, w = shape
        self.patch = patch
        self.sizes = resolutions(h // patch, w // patch)[::-1]
        self.embed = Embedding(width, classes, timed=False)
        counts = [blocks if size == self.sizes[-1] or max(size) > 2 else 1 for size in self.sizes]
        self.shapes = [(latent, *size) for size, n in zip(self.sizes, counts) for _ in range(n)]
        emb, gain = width if classes else 0, len(self.shapes) ** -0.5
        self.start = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.doubles = nn.ModuleList(Double(width, size) for size in self.sizes[1:])
        self.rows = nn.ModuleList(
            nn.ModuleList(TopDownBlock(width, latent, size, emb, dropout, gain) for _ in range(n))
            for size, n in zip(self.sizes, counts)
        )
        self.head = Pointwise(width, cout * patch * patch)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, eps: Tensor, y: Tensor | None = None, seen: list[Tensor] | None = None, informed: int = ALL
    ) -> tuple[Tensor, list[Level]]:
        """seen: features of x, coarsest first; the first `informed` levels are drawn from the posterior given them."""
        emb = self.embed(None, y)
        parts = eps.split([math.prod(shape) for shape in self.shapes], dim=1)
        h = self.start.expand(len(eps), -1, -1, -1)
        passed: list[Level] = []
        for i, row in enumerate(self.rows):
            if i:
                h = self.doubles[i - 1](h)
            for block in row:  # type: ignore[attr-defined]
                l = len(passed)
                told = seen[i] if seen is not None and l < informed else None
                h, level = block(h, parts[l].reshape(-1, *self.shapes[l]), told, emb)
                passed.append(level)
        out = self.head(F.silu(h))
        return (F.pixel_shuffle(out, self.patch) if self.patch > 1 else out), passed


class Ladder(nn.Module):
    """The bottom-up network, x -> features, and the top-down network that holds p and q: trained as one module."""

    def __init__(self, config: Config, space: Space, width: int) -> None:
        super().__init__()
        self.space, self.components = space, config.components
        # A vector is an image of one position.
        shape = space.shape if space.is_image else (space.dim, 1, 1)
        patch, dropout = (levels(space)[0], config.dropout) if space.is_image else (1, 0.0)
        numbers = logistic_mixture_numbers(config.components, shape[0]) if space.levels else 2 * shape[0]
        self.up = BottomUp(shape, width, patch, space.classes, dropout)
        self.down = TopDown(shape, numbers, width, config.latent, config.blocks, patch, space.classes, dropout)

    @property
    def dim(self) -> int:
        """Of all the levels' z together."""
        return sum(math.prod(shape) for shape in self.down.shapes)

    def encode(self, x: Tensor, y: Tensor | None) -> list[Tensor]:
        """Features of x (B, *shape)."""
        return self.up(x if self.space.is_image else x[:, :, None, None], y)

    def decode(
        self, eps: Tensor, y: Tensor | None, seen: list[Tensor] | None = None, informed: int = ALL
    ) -> tuple[Tensor, list[Level]]:
        """The numbers of p(x | z), (B, numbers, *shape[1:]), and the levels."""
        out, passed = self.down(eps, y, seen, informed)
        return (out if self.space.is_image else out.flatten(1)), passed


def normal_of(out: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of p(x | z) on real-valued data."""
    mean, log_scale = out.chunk(2, dim=1)
    return mean, log_scale.clamp(-7, 3)


class HierarchicalVAE(Paradigm):
    """See the module's text."""

    card = Card(
        title="Hierarchical variational autoencoder",
        paper="Child, Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images",
        year=2021,
        url="https://arxiv.org/abs/2011.10650",
        samplers=(
            Sampler("sample", (1,), stochastic=True, options=OPTIONS, ranges=RANGES, note="x drawn from p(x | z)"),
            Sampler("mean", (1,), options=OPTIONS, ranges=RANGES, note="the mean of p(x | z)"),
        ),
        default=Plan("sample"),
        likelihoods=(
            Kind("elbo", "≤", 2),
            Kind("iwae", "≤", 65, (("K", 64),), ranges={"K": (1, 100_000)}),
            Kind("iwae", "≤", 1001, (("K", 1000),), ranges={"K": (1, 100_000)}),
        ),
    )

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.ladder = Ladder(config, space, width)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {self.ladder: adamw(self.ladder, self.config.lr, weight_decay=self.config.weight_decay)}

    # ---------------------------------------------------------------------------------------------------- p(x | z)

    def log_prob_x(self, x: Tensor, out: Tensor) -> Tensor:
        """log p(x | z), (B,), from the decoder's numbers."""
        if self.space.levels:
            logits, means, log_scales, coupling = split_logistic_mixture(out, self.config.components, x.shape[1])
            each = discretised_logistic_mixture(x, logits, means, log_scales, self.space.levels, coupling)
        else:
            each = normal_log_prob(x, *normal_of(out))
        return each.flatten(1).sum(1)

    def draw_x(self, out: Tensor, noise: Noise) -> Tensor:
        """x ~ p(x | z)."""
        if self.space.levels:
            logits, means, log_scales, coupling = split_logistic_mixture(
                out, self.config.components, self.space.shape[0]
            )
            return sample_logistic_mixture(logits, means, log_scales, self.space.levels, noise, coefficients=coupling)
        mean, log_scale = normal_of(out)
        return mean + log_scale.exp() * noise.normal(*mean.shape)

    def mean_x(self, out: Tensor) -> Tensor:
        """The mean of p(x | z)."""
        if self.space.levels:
            logits, means, _, coupling = split_logistic_mixture(out, self.config.components, self.space.shape[0])
            return logistic_mixture_mean(logits, means, coupling)
        return normal_of(out)[0]

    # ---------------------------------------------------------------------------------------------------- training

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = batch
        out, passed = self.ladder.decode(noise.normal(len(x), self.ladder.dim), y, self.ladder.encode(x, y))
        reconstruction = -self.log_prob_x(x, out).mean()
        kls = torch.stack([level.kl().mean() for level in passed])
        beta = min(1.0, progress / self.config.warm_up if self.config.warm_up else 1.0)
        # Per dimension, so that the gradient's size does not depend on the image's.
        loss = (reconstruction + beta * kls.sum()) / self.space.dim
        terms = {"reconstruction": reconstruction, **{f"kl_{l}": kl for l, kl in enumerate(kls, 1)}}
        settings = {"lr": self.config.lr * cosine(progress)}
        yield Update(self.ladder, loss, terms, settings, clip=self.config.clip, skip_above=self.config.skip)

    def symptom(self, terms: Mapping[str, float]) -> str | None:
        kls = {name.removeprefix("kl_"): value for name, value in terms.items() if name.startswith("kl_")}
        dead = [l for l, value in kls.items() if value < DEAD]
        if not dead or terms.get("plain"):
            return None
        if len(dead) == len(kls):
            return f"posterior collapse: every level's KL is below {DEAD} nats, so that z tells nothing of x"
        if not self.space.is_image:
            return None  # what one level tells of a vector may be all there is
        return f"posterior collapse of level {', '.join(dead)} of {len(kls)}: KL below {DEAD} nats"

    # ---------------------------------------------------------------------------------------------------- sampling

    def prior(self, n: int, noise: Noise) -> Tensor:
        """The standard normal eps_1 ... eps_L of all levels side by side, (n, D)."""
        return noise.normal(n, self.ladder.dim)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        drawn = sum(math.prod(shape) for shape in self.ladder.down.shapes[: int(plan.option("levels", ALL))])
        eps = plan.option("temperature", 1.0) * z
        eps = torch.cat([eps[:, :drawn], torch.zeros_like(eps[:, drawn:])], dim=1)
        out, _ = self.ladder.decode(eps, cond)
        return self.mean_x(out) if plan.sampler == "mean" else self.draw_x(out, noise)

    def reconstruct(
        self, x: Tensor, levels: int, noise: Noise, cond: Tensor | None = None, temperature: float = 0.1
    ) -> Tensor:
        """The mean of p(x | z), (B, *shape), with the first `levels` z_l drawn from the posterior given x (B, *shape)
        and the others from the prior at `temperature`: what the upper levels hold of x, as Child shows it."""
        known = sum(math.prod(shape) for shape in self.ladder.down.shapes[:levels])
        eps = noise.normal(len(x), self.ladder.dim)
        eps = torch.cat([eps[:, :known], temperature * eps[:, known:]], dim=1)
        out, _ = self.ladder.decode(eps, cond, self.ladder.encode(x, cond), informed=levels)
        return self.mean_x(out)

    # -------------------------------------------------------------------------------------------------- likelihood

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        seen = self.ladder.encode(x, cond)
        if kind.name == "elbo":
            out, passed = self.ladder.decode(noise.normal(len(x), self.ladder.dim), cond, seen)
            log_px, kls = self.log_prob_x(x, out), [level.kl() for level in passed]
            terms = {"reconstruction": -log_px, **{f"kl_{l}": kl for l, kl in enumerate(kls, 1)}}
            return Estimate(log_px - torch.stack(kls).sum(0), terms)
        k = int(kind.option("K", 64))
        weights = []
        for _ in range(k):
            out, passed = self.ladder.decode(noise.normal(len(x), self.ladder.dim), cond, seen)
            weights.append(self.log_prob_x(x, out) + torch.stack([level.log_ratio() for level in passed]).sum(0))
        return Estimate(torch.stack(weights).logsumexp(0) - math.log(k))


RECIPES = (Recipe("hvae", HierarchicalVAE, Config(), "a ladder of latents from coarse to fine; ELBO and IWAE bound"),)
