"""GAN: a generator learns from a critic that compares its samples with data in pairs (R3GAN).

Model.      G maps z ~ N(0, I) to a sample; the critic D gives every sample a score.

Objective.  Relativistic pairing (Jolicoeur-Martineau 2018; Huang et al. 2024, eq. 2), f(d) = softplus(-d):
                critic:     E f(D(x) - D(G(z))) + gamma/2 (R1 + R2)
                generator:  E f(D(G(z)) - D(x))
            with zero-centred gradient penalties on data and on samples (Mescheder et al. 2018, eq. 9; eq. 10):
                R1 = E ||grad_x D(x)||^2,   R2 = E ||grad_x D(G(z))||^2.
            A score only counts against the one it is paired with, which keeps every mode in play; with both penalties
            the game converges locally.

Sampling.   G(z), one call.

Likelihood. None: the model defines samples, not a density.

References
    N. Huang, A. Gokaslan, V. Kuleshov, J. Tompkin. The GAN is dead; long live the GAN! NeurIPS 2024. arXiv:2501.05441
    L. Mescheder, A. Geiger, S. Nowozin. Which Training Methods for GANs do actually Converge? ICML 2018. arXiv:1801.04406
    A. Jolicoeur-Martineau. The relativistic discriminator. ICLR 2019. arXiv:1807.00734

Where this differs from the papers
    - Plain residual blocks (no grouped inverted bottlenecks, no resampling filters), as all recipes here have.
    - gamma falls from `gamma` to `gamma_end`; its size follows the data: 64 dimensions in [-1, 1] want more than 3,072 do.
    - beta_2 stays at 0.99: the budgets here are too short for a schedule from 0.9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from paradigms.backbones.build import decoder, encoder
from paradigms.contract import Batch, Card, Frozen, Noise, Paradigm, Plan, Recipe, Sampler, Space, Update, require
from paradigms.optim import adamw, between, check_training, cosine


@dataclass(frozen=True)
class Config:
    """latent: dimensions of z. gamma, gamma_end: weight of the penalties at the start and at the end.

    batch, lr: training; no clipping and no weight decay, which both break the game's balance. backbone: "auto" or
    "mlp".
    """

    latent: int = 32
    gamma: float = 5.0
    gamma_end: float = 0.5
    batch: int = 64
    lr: float = 2e-3
    beta2: float = 0.99
    backbone: str = "auto"

    def __post_init__(self) -> None:
        check_training(self)
        require(self.gamma > 0 and self.gamma_end > 0, "gamma and gamma_end must be above 0")
        require(0 <= self.beta2 < 1, "beta2 must be from 0 to below 1")


def gradient_penalty(score: Tensor, x: Tensor) -> Tensor:
    """E ||grad_x D(x)||^2, differentiable; score (B, 1) of x (B, ...)."""
    (g,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    return g.square().flatten(1).sum(1).mean()


class GAN(Paradigm):
    """See the module's text."""

    card = Card(
        title="GAN (relativistic, R1 + R2)",
        paper="Huang et al., The GAN is dead; long live the GAN! A Modern GAN Baseline",
        year=2024,
        url="https://arxiv.org/abs/2501.05441",
        samplers=(Sampler("generator", (1,)),),
        default=Plan("generator"),
        no_likelihood="a GAN defines samples, not a density",
    )

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.generator = decoder(space, config.latent, 1, width, backbone=config.backbone, plain=True)
        self.critic = encoder(space, 1, width, backbone=config.backbone, plain=True)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        betas = (0.0, self.config.beta2)
        return {net: adamw(net, self.config.lr, betas) for net in (self.generator, self.critic)}

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = batch
        settings = {"lr": self.config.lr * cosine(progress)}
        gamma = between(self.config.gamma, self.config.gamma_end, progress)

        with torch.no_grad():
            fake = self.generator(self.prior(len(x), noise), y)
        real, fake = x.detach().requires_grad_(True), fake.requires_grad_(True)
        d_real, d_fake = self.critic(real, y), self.critic(fake, y)
        r1, r2 = gradient_penalty(d_real, real), gradient_penalty(d_fake, fake)
        pairing = F.softplus(d_fake - d_real).mean()
        terms = {"critic": pairing, "real": d_real.mean(), "fake": d_fake.mean(), "r1": r1, "r2": r2}
        yield Update(self.critic, pairing + gamma / 2 * (r1 + r2), terms, settings)

        fake = self.generator(self.prior(len(x), noise), y)  # the critic has stepped by now
        pairing = F.softplus(self.critic(x, y).detach() - self.critic(fake, y)).mean()
        yield Update(self.generator, pairing, {"generator": pairing}, settings)

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
        return self.generator(z, cond)


RECIPES = (Recipe("gan", GAN, Config(), "relativistic pairing loss with R1 and R2 penalties"),)
