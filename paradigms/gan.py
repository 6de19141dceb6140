"""GAN: a generator learns from a critic that tells its samples from data. Four games, one pair of networks.

Model.      G maps z ~ N(0, I) to a sample; the critic D gives every sample a score. Both are told the label where there
            is one.

Objective.  Two losses in turn, written here to be minimised; x is data, and the generator meets the stepped critic.

            gan: relativistic pairing (Jolicoeur-Martineau 2018) with R1 and R2 (R3GAN, Huang et al. 2024, eq. 2 and
            section 2; R1 is Mescheder et al. 2018, eq. 9). A score only counts against the one it is paired with, which
            keeps every mode in play; with both penalties the game converges locally.
                D:  E softplus(D(G(z)) - D(x)) + gamma/2 (R1 + R2)
                G:  E softplus(D(x) - D(G(z)))
                R1 = E ||grad D(x)||^2,  R2 = E ||grad D(G(z))||^2

            gan-nonsaturating: D is a classifier of data against samples and G raises the log-odds that D is wrong
            (Goodfellow et al. 2014, section 3; DCGAN, Radford et al. 2015).
                D:  E softplus(-D(x)) + E softplus(D(G(z)))        = -E log sigmoid D(x) - E log(1 - sigmoid D(G(z)))
                G:  E softplus(-D(G(z)))                           = -E log sigmoid D(G(z))

            wgan-gp: D is 1-Lipschitz, so its gap approaches the Wasserstein-1 distance (Gulrajani et al. 2017, eq. 3,
            Algorithm 1); n_critic steps of D for one of G, x_hat uniform on the segment between a datum and a sample.
                D:  E D(G(z)) - E D(x) + lambda E (||grad D(x_hat)|| - 1)^2
                G:  -E D(G(z))

            gan-hinge: every weight of D is divided by its largest singular value, and scores beyond the margin do not
            count (SNGAN, Miyato et al. 2018, eq. 8, 16, 17; the hinge is Lim & Ye's 2017).
                D:  E max(0, 1 - D(x)) + E max(0, 1 + D(G(z)))
                G:  -E D(G(z))

Sampling.   G(z), one call.

Likelihood. None: the model defines samples, not a density.

Log.        real, fake: mean scores. critic, generator: the losses without penalties. The penalties, by name. diversity:
            the mean distance from a sample to the nearest other sample of its batch, over that from a datum to the nearest
            sample (0: all samples alike; 1: as spread as data). Below 0.7 the run is reported as collapsed.
            data_diversity: the same for one half of the batch's data against the other, about 1 unless data repeat; where
            they repeat, the threshold falls with it. `docs/notes.md` has the measurements behind the threshold.

References
    N. Huang, A. Gokaslan, V. Kuleshov, J. Tompkin. The GAN is dead; long live the GAN! NeurIPS 2024. arXiv:2501.05441
    L. Mescheder, A. Geiger, S. Nowozin. Which Training Methods for GANs do actually Converge? ICML 2018. arXiv:1801.04406
    A. Jolicoeur-Martineau. The relativistic discriminator. ICLR 2019. arXiv:1807.00734
    I. Goodfellow et al. Generative Adversarial Networks. NeurIPS 2014. arXiv:1406.2661
    A. Radford, L. Metz, S. Chintala. Unsupervised Representation Learning with DCGANs. ICLR 2016. arXiv:1511.06434
    I. Gulrajani et al. Improved Training of Wasserstein GANs. NeurIPS 2017. arXiv:1704.00028
    T. Miyato, T. Kataoka, M. Koyama, Y. Yoshida. Spectral Normalization for GANs. ICLR 2018. arXiv:1802.05957
    T. Miyato, M. Koyama. cGANs with Projection Discriminator. ICLR 2018. arXiv:1802.05637
    J. H. Lim, J. C. Ye. Geometric GAN. 2017. arXiv:1705.02894
    T. Karras et al. Training GANs with Limited Data (how gamma follows the size). NeurIPS 2020. arXiv:2006.06676

Where this differs from the papers
    - Residual blocks of the suite's family in every game (R3GAN: grouped inverted bottlenecks and resampling filters;
      DCGAN: strided convolutions), and no tanh at the end of G.
    - No BatchNorm: it couples the samples of a batch, and its statistics would move outside an optimizer step. Where
      the papers have it, these have the suite's normalised blocks (G of all but gan). D is never normalised: a
      group-normalised one soon told 899 digits from samples without fail, and gan-nonsaturating then learned nothing.
    - z has at most as many dimensions as x: on the plane, 32 of them leave G blurred between the modes.
    - gan: the penalties are taken on a quarter of the batch (the same on average, and a third off the cost of a step);
      lr, gamma and beta_2 move over the whole of a training, not over its first part, and beta_2 starts at 0.97, as 0.9
      is noise at a batch this small; no augmentation.
    - All but gan: larger learning rates that fall to 0, for short budgets. SNGAN takes up to five
      critic steps for one of the generator; here it is one.
    - gan-nonsaturating: no momentum (DCGAN: beta_1 = 0.5), and a critic that learns half as fast as G, because nothing else
      keeps it from memorising a small set. Batches of 128: smaller ones do better on digits and lose modes on the plane.
    - wgan-gp keeps the paper's five critic steps: fewer gave no clear gain, and one collapses.
    - wgan-gp takes lambda = 0.1 on vectors, as in the authors' own experiments on the plane, and the paper's 10 on images.
      With 10 the critic is too flat on vectors to separate the modes.
      `docs/notes.md` has the measurements behind these three choices.
    - Labels: by projection (Miyato & Koyama 2018) in every D.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from paradigms import optim
from paradigms.backbones import spectral
from paradigms.backbones.build import decoder, encoder
from paradigms.contract import Frozen, Paradigm, Update
from paradigms.core.data import Batch, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Plan, Sampler
from paradigms.core.settings import Settings, require, setting
from paradigms.optim import adamw, between, cosine
from paradigms.recipe import Recipe

GENERATOR = Sampler("generator", (1,))
NO_DENSITY = "a GAN defines samples, not a density"


# ---------------------------------------------------------------------------------------------------- shared parts


def squared_gradient(critic: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    """||grad_x D(x)||^2 of each example, (B,), differentiable; x (B, ...)."""
    x = x.detach().requires_grad_(True)
    (g,) = torch.autograd.grad(critic(x, y).sum(), x, create_graph=True)
    return g.square().flatten(1).sum(1)


def gradient_penalty(critic: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    """R1 on data and R2 on samples: E ||grad_x D(x)||^2 (Mescheder et al., eq. 9)."""
    return squared_gradient(critic, x, y).mean()


def lipschitz_penalty(critic: nn.Module, x: Tensor, fake: Tensor, y: Tensor | None, u: Tensor) -> Tensor:
    """E (||grad D(x_hat)|| - 1)^2 at x_hat = u x + (1 - u) fake, u (B,) uniform (Gulrajani et al., eq. 3)."""
    u = u.view(-1, *(1,) * (x.dim() - 1))
    # The root of 0 has no slope, and a critic that starts at 0 everywhere has gradient 0.
    norm = (squared_gradient(critic, torch.lerp(fake, x, u), y) + 1e-12).sqrt()
    return (norm - 1).square().mean()


COLLAPSED = 0.7  # diversity; measured in docs/notes.md


def diversity(fake: Tensor, real: Tensor) -> Tensor:
    """Mean distance from a sample to the nearest other sample, over that from a datum to the nearest sample; ().

    About 1 where both are drawn alike, at any scale; it falls where samples are alike and where data have none near.
    fake, real: (B, ...). 1 for a lone sample.
    """
    if len(fake) < 2:
        return fake.new_ones(())
    fake, real = fake.detach().flatten(1), real.flatten(1)
    among = torch.cdist(fake, fake, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    across = torch.cdist(real, fake, compute_mode="donot_use_mm_for_euclid_dist")
    return among.amin(1).mean() / across.amin(1).mean().clamp_min(1e-6)


def diversities(fake: Tensor, real: Tensor) -> dict[str, Tensor]:
    """For the log: `diversity` of samples, and of one half of the data against the other."""
    half = len(real) // 2
    own = diversity(real[:half], real[half:]) if half else real.new_ones(())
    return {"diversity": diversity(fake, real), "data_diversity": own}


class Adversarial(Paradigm):
    """Generator, critic, prior and sampling: what the four games share. A final class adds networks and `updates`."""

    eager = frozenset({"critic"})  # penalties differentiate its gradient
    generator: nn.Module
    critic: nn.Module

    @staticmethod
    def refuses(config: Any, space: Space) -> str | None:
        most = max(64, space.dim)
        if config.latent <= most:
            return None
        return (
            f"of a latent of {config.latent} dimensions no more than the {space.dim} of x are used; take at most {most}"
        )

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        betas = (self.config.beta1, self.config.beta2)
        return {net: adamw(net, self.config.lr, betas) for net in (self.generator, self.critic)}

    def draw(self, n: int, y: Tensor | None, noise: Noise) -> Tensor:
        """G(z) of fresh z, (n, *shape)."""
        return self.generator(self.prior(n, noise), y)

    def draw_fixed(self, n: int, y: Tensor | None, noise: Noise) -> Tensor:
        """The same without a gradient, for the critic's step."""
        with torch.no_grad():
            return self.draw(n, y, noise)

    @property
    def latent(self) -> int:
        """Dimensions of z: no more than x has, as a map from more would have to fold them."""
        return min(self.config.latent, self.space.dim)

    def prior(self, n: int, noise: Noise) -> Tensor:
        return noise.normal(n, self.latent)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        return self.generator(z, cond)

    def symptom(self, terms: Mapping[str, float]) -> str | None:
        spread = terms.get("diversity", 1.0)
        # Half of the data against the other half falls short too where data repeat.
        if spread < COLLAPSED * min(1.0, terms.get("data_diversity", 1.0)):
            return (
                f"mode collapse: samples of a batch lie {spread:.0%} as far from each other as data lie from them; "
                "a stronger penalty or a lower learning rate may keep them apart"
            )
        if self.runaway(terms):
            return (
                f"a runaway critic: it tells samples from data without fail (mean scores {terms['fake']:.3g} and "
                f"{terms['real']:.3g}), which leaves the generator nothing to learn from"
            )
        return None

    @abstractmethod
    def runaway(self, terms: Mapping[str, float]) -> bool:
        """Whether the log's means say that the critic has won."""


# What is added to all scores has no gradient where a loss compares them, nor while all lie within the hinge's margin.
BIAS = frozenset({"critic.head.bias", "critic.net.head.bias"})


@dataclass(frozen=True)
class Game(Settings):
    """The settings of every GAN. No clipping and no weight decay, which both break the game's balance."""

    latent: int = setting(32, least=1, says="dimensions of z, at most")
    batch: int = optim.batch(32)
    lr: float = optim.lr(1e-3)
    beta1: float = setting(0.0, least=0, below=1, says="of Adam")
    beta2: float = setting(0.9, least=0, below=1, says="of Adam")
    backbone: str = optim.backbone("auto")


# ------------------------------------------------------------------------------------------------------------- gan


@dataclass(frozen=True)
class Config(Game):
    """gamma is for each dimension of x: an image of twice the side wants four times the weight (Karras et al. 2020)."""

    gamma: float = setting(0.08, above=0, says="weight of the penalties at the start, for each dimension of x")
    gamma_end: float = setting(0.003, above=0, says="weight of the penalties at the end")
    penalised: float = setting(0.25, above=0, most=1, says="share of a batch that the penalties are taken on")
    lr: float = 2e-3
    beta2: float = setting(0.97, least=0, below=1, says="of Adam, at the start")
    beta2_end: float = setting(0.99, least=0, below=1, says="beta2 at the end")


class GAN(Adversarial):
    """Relativistic pairing with R1 and R2: see the module's text."""

    idle = BIAS
    card = Card(
        title="GAN (relativistic, R1 + R2)",
        paper="Huang et al., The GAN is dead; long live the GAN! A Modern GAN Baseline",
        year=2024,
        url="https://arxiv.org/abs/2501.05441",
        samplers=(GENERATOR,),
        default=Plan("generator"),
        no_likelihood=NO_DENSITY,
    )

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.generator = decoder(space, self.latent, 1, width, backbone=config.backbone, plain=True)
        self.critic = encoder(space, 1, width, backbone=config.backbone, plain=True)

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        (x, y), D, config = batch, self.critic, self.config
        beta2 = 1 - between(1 - config.beta2, 1 - config.beta2_end, progress)
        gamma = between(config.gamma, config.gamma_end, progress) * self.space.dim
        settings = {"lr": config.lr * cosine(progress), "betas": (config.beta1, beta2)}

        fake = self.draw_fixed(len(x), y, noise)
        d_real, d_fake = D(x, y), D(fake, y)
        pairing = F.softplus(d_fake - d_real).mean()
        # Unbiased, as the rows of a batch come in random order.
        k = ceil(config.penalised * len(x))
        y_k = None if y is None else y[:k]
        r1, r2 = gradient_penalty(D, x[:k], y_k), gradient_penalty(D, fake[:k], y_k)
        terms = {"critic": pairing, "real": d_real.mean(), "fake": d_fake.mean(), "r1": r1, "r2": r2}
        terms |= diversities(fake, x)
        yield Update(D, pairing + gamma / 2 * (r1 + r2), terms, settings)

        with torch.no_grad():
            d_real = D(x, y)  # the critic has stepped by now
        pairing = F.softplus(d_real - D(self.draw(len(x), y, noise), y)).mean()
        yield Update(self.generator, pairing, {"generator": pairing}, settings)

    def runaway(self, terms: Mapping[str, float]) -> bool:
        return terms.get("critic", 1.0) < 0.02


# ----------------------------------------------------------------------------------------------- gan-nonsaturating


@dataclass(frozen=True)
class NonSaturatingConfig(Game):
    batch: int = 128
    lr: float = optim.lr(1e-3, "peak learning rate of G")
    critic_lr: float = optim.lr(5e-4, "peak learning rate of D")
    beta2: float = 0.999


class NonSaturatingGAN(Adversarial):
    """Goodfellow's game with DCGAN's networks, without momentum and with a slower critic: see the module's text."""

    card = Card(
        title="GAN (non-saturating)",
        paper="Radford et al., Unsupervised Representation Learning with Deep Convolutional GANs",
        year=2015,
        url="https://arxiv.org/abs/1511.06434",
        samplers=(GENERATOR,),
        default=Plan("generator"),
        no_likelihood=NO_DENSITY,
    )

    def __init__(self, config: NonSaturatingConfig, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.generator = decoder(space, self.latent, 1, width, backbone=config.backbone)
        self.critic = encoder(space, 1, width, backbone=config.backbone, plain=True)

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        (x, y), D, config = batch, self.critic, self.config
        falling, betas = cosine(progress), (config.beta1, config.beta2)

        fake = self.draw_fixed(len(x), y, noise)
        d_real, d_fake = D(x, y), D(fake, y)
        loss = F.softplus(-d_real).mean() + F.softplus(d_fake).mean()
        terms = {"critic": loss, "real": d_real.mean(), "fake": d_fake.mean(), **diversities(fake, x)}
        yield Update(D, loss, terms, {"lr": falling * config.critic_lr, "betas": betas})

        loss = F.softplus(-D(self.draw(len(x), y, noise), y)).mean()
        yield Update(self.generator, loss, {"generator": loss}, {"lr": falling * config.lr, "betas": betas})

    def runaway(self, terms: Mapping[str, float]) -> bool:
        return terms.get("critic", 1.0) < 0.04


# --------------------------------------------------------------------------------------------------------- wgan-gp


@dataclass(frozen=True)
class WassersteinConfig(Game):
    penalty: float = setting(10.0, above=0, says="lambda, the weight of the gradient penalty, on images")
    vector_penalty: float = setting(0.1, above=0, says="lambda on vectors")
    n_critic: int = setting(5, least=1, says="critic steps for one of the generator")
    batch: int = optim.batch(80, "examples a training step, n_critic times what each of its critic steps sees")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.batch % self.n_critic == 0, "batch must be a multiple of n_critic")


class WassersteinGAN(Adversarial):
    """WGAN with gradient penalty: see the module's text."""

    idle = BIAS
    card = Card(
        title="Wasserstein GAN with gradient penalty",
        paper="Gulrajani et al., Improved Training of Wasserstein GANs",
        year=2017,
        url="https://arxiv.org/abs/1704.00028",
        samplers=(GENERATOR,),
        default=Plan("generator"),
        no_likelihood=NO_DENSITY,
    )

    def __init__(self, config: WassersteinConfig, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.generator = decoder(space, self.latent, 1, width, backbone=config.backbone)
        self.critic = encoder(space, 1, width, backbone=config.backbone, plain=True)

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        D, config = self.critic, self.config
        settings = {"lr": config.lr * cosine(progress)}
        weight = config.penalty if self.space.is_image else config.vector_penalty

        for x, y in parts(batch, config.n_critic):  # fresh data at every step of the critic
            fake = self.draw_fixed(len(x), y, noise)
            d_real, d_fake = D(x, y).mean(), D(fake, y).mean()
            penalty = lipschitz_penalty(D, x, fake, y, noise.uniform(len(x)))
            terms = {"critic": d_fake - d_real, "real": d_real, "fake": d_fake, "penalty": penalty}
            yield Update(D, d_fake - d_real + weight * penalty, {}, settings)

        fake = self.draw(len(x), y, noise)
        loss = -D(fake, y).mean()
        terms |= {"generator": loss, **diversities(fake, x)}
        yield Update(self.generator, loss, terms, settings)

    def runaway(self, terms: Mapping[str, float]) -> bool:
        return terms.get("penalty", 0.0) > 10  # gradients of length 4 and more: its scores have no bound


def parts(batch: Batch, n: int) -> list[Batch]:
    """A batch in n equal parts (in as many as it has examples, if fewer)."""
    n = min(n, len(batch.x))
    x = batch.x.tensor_split(n)
    return [Batch(*part) for part in zip(x, batch.y.tensor_split(n) if batch.y is not None else [None] * n)]


# ------------------------------------------------------------------------------------------------------- gan-hinge


class HingeGAN(Adversarial):
    """Hinge losses under a spectrally normalised critic: see the module's text."""

    idle = BIAS
    card = Card(
        title="GAN (hinge, spectral normalisation)",
        paper="Miyato et al., Spectral Normalization for Generative Adversarial Networks",
        year=2018,
        url="https://arxiv.org/abs/1802.05957",
        samplers=(GENERATOR,),
        default=Plan("generator"),
        no_likelihood=NO_DENSITY,
    )

    def __init__(self, config: Game, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.generator = decoder(space, self.latent, 1, width, backbone=config.backbone)
        self.critic = encoder(space, 1, width, backbone=config.backbone, plain=True)
        spectral.normalise(self.critic)

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        (x, y), D = batch, self.critic
        settings = {"lr": self.config.lr * cosine(progress)}

        fake = self.draw_fixed(len(x), y, noise)
        d_real, d_fake = D(x, y), D(fake, y)
        loss = F.relu(1 - d_real).mean() + F.relu(1 + d_fake).mean()
        terms = {"critic": loss, "real": d_real.mean(), "fake": d_fake.mean(), **diversities(fake, x)}
        yield Update(D, loss, terms, settings, after=lambda: spectral.power_iteration(D))

        loss = -D(self.draw(len(x), y, noise), y).mean()
        yield Update(self.generator, loss, {"generator": loss}, settings)

    def runaway(self, terms: Mapping[str, float]) -> bool:
        return terms.get("critic", 1.0) < 0.04


RECIPES = (
    Recipe("gan", GAN, Config(), "relativistic pairing loss with R1 and R2 penalties", aliases=("r3gan",)),
    Recipe(
        "gan-nonsaturating",
        NonSaturatingGAN,
        NonSaturatingConfig(),
        "a classifier of real and fake, and a generator that raises its log-odds of being taken for real",
        variant_of="gan",
        aliases=("dcgan",),
    ),
    Recipe(
        "wgan-gp",
        WassersteinGAN,
        WassersteinConfig(),
        "a critic kept 1-Lipschitz by a gradient penalty, five steps of it for one of the generator",
        variant_of="gan",
    ),
    Recipe(
        "gan-hinge",
        HingeGAN,
        Game(),
        "hinge losses under a critic of spectrally normalised weights",
        variant_of="gan",
        aliases=("sngan",),
    ),
)
