"""EDM: a denoiser whose network sees and gives numbers of unit variance at every noise level, trained where it matters.

Model.      x_sigma = x + sigma eps, with sigma itself as the time. The denoiser is preconditioned (Karras et al., eq. 7):
                D(x, sigma) = c_skip x + c_out F(c_in x, c_noise),    c_in = 1 / sqrt(sigma^2 + sigma_data^2),
                c_skip = sigma_data^2 c_in^2,    c_out = sigma sigma_data c_in,    c_noise ~ log sigma.

Objective.  Denoising with weight 1 / c_out^2 and log-normal noise levels (eq. 8, table 1), which is
                E_{sigma, x, eps} || F - F* ||^2,    log (sigma / sigma_data) ~ N(P_mean, P_std^2),
            where F* = (x - c_skip x_sigma) / c_out.

Sampling.   The probability-flow ODE dx = eps dsigma by Heun's method on the grid sigma_i^(1/7) (algorithm 1, eq. 5), with
            fresh noise added on the way where asked ("churn", algorithm 2), and every other sampler: `maths.samplers`.

Likelihood. The ODE's density and the bound of its diffusion: `maths.bounds`.

References
    T. Karras, M. Aittala, T. Aila, S. Laine. Elucidating the Design Space of Diffusion-Based Generative Models. NeurIPS 2022.
        arXiv:2206.00364

Where this differs from the paper
    - sigma_data is the training data's; sigma_min is a quarter of a bin (0.002 on bytes, as in the paper). P_mean is relative
      to sigma_data: log 0.5 above the paper's -1.2, whose sigma_data is 0.5.
    - c_noise runs from 0 to 1 between sigma_min and sigma_max, as the suite's networks want.
    - It is trained on uniformly dequantised pixels, whose density is what its likelihood measures. No augmentation.
    - sigma is held between sigma_min and sigma_max in training, which the authors leave open: 1e-5 of the draws lie
      below on bytes, 1.2 % on digits.
    - The prior is N(0, sigma_max^2 I), of samples as in the paper and of the likelihoods, which the paper does not give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paradigms.backbones import build
from paradigms.contract import (
    CONDITIONAL,
    Batch,
    Card,
    Data,
    Estimate,
    Frozen,
    Kind,
    Noise,
    Paradigm,
    Plan,
    Recipe,
    Space,
    Update,
    number,
    require,
)
from paradigms.maths import bounds, samplers
from paradigms.maths.denoiser import Denoiser, Preconditioned
from paradigms.maths.guidance import null_label, with_null, withheld
from paradigms.maths.likelihood import dequantise
from paradigms.maths.paths import EDMPath, expand
from paradigms.optim import adamw, check_training, cosine


@dataclass(frozen=True)
class Config:
    """P_mean, P_std: of log (sigma / sigma_data) in training. sigma_max: where sampling starts. floor: sigma_min in bin
    widths (images) or twentieths (vectors). batch, lr, dropout, weight_decay, clip: training. backbone: "auto" or "mlp".
    unlabelled: the part of the examples whose label is withheld (of no effect without labels)."""

    P_mean: float = -0.5
    P_std: float = 1.2
    sigma_max: float = 80.0
    floor: float = 0.25
    batch: int = 64
    lr: float = 2e-3
    dropout: float = 0.0
    weight_decay: float = 0.0
    clip: float = 1.0
    backbone: str = "auto"
    unlabelled: float = field(default=0.1, metadata=CONDITIONAL)

    def __post_init__(self) -> None:
        check_training(self)
        require(self.P_std > 0, "P_std must be above 0")
        require(self.sigma_max >= 10, "sigma_max must be at least 10, or t = 1 is not noise")
        require(0 < self.floor <= 1, "floor must be above 0 and at most 1")


class EDM(Paradigm):
    """See the module's text. `net`: (c_in x, c_noise, y) -> F."""

    card = Card(
        title="EDM (preconditioned denoiser)",
        paper="Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models",
        year=2022,
        url="https://arxiv.org/abs/2206.00364",
        samplers=samplers.samplers(grid="karras", main=("heun", "churn")),
        default=Plan("heun", 18),
        likelihoods=bounds.kinds(on="cosine"),
    )

    sigma_data: Tensor

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.null = null_label(space, config.unlabelled)
        self.net = build.denoiser(with_null(space, self.null), width, config.dropout, config.backbone)
        self.path = EDMPath(config.sigma_max)
        self.sigma_min = config.floor * (2 / space.levels if space.levels else 0.05)
        self.register_buffer("sigma_data", torch.tensor(1.0))

    def prepare(self, data: Data, noise: Noise) -> Data:
        self.sigma_data.copy_(data.batch(noise.integers(len(data), 10_000).to(data.x.device)).x.std())
        return data

    def denoiser(self, cond: Tensor | None = None) -> Denoiser:
        prediction, t_min = Preconditioned(number(self.sigma_data)), self.sigma_min / self.config.sigma_max
        return Denoiser(self.net, self.path, prediction, self.c_noise, t_min, y=cond, null=self.null)

    def c_noise(self, t: Tensor) -> Tensor:
        """log sigma, from 0 at sigma_min to 1 at sigma_max."""
        return 1 + torch.log(t) / math.log(self.config.sigma_max / self.sigma_min)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {self.net: adamw(self.net, self.config.lr, weight_decay=self.config.weight_decay)}

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x = dequantise(batch.x, self.space.levels, noise)
        eps, log_sigma = noise.normal(*x.shape), self.config.P_mean + self.config.P_std * noise.normal(len(x))
        y = withheld(batch.y, self.null, self.config.unlabelled, noise)
        d = self.denoiser(y)
        t = (self.sigma_data * log_sigma.exp() / self.config.sigma_max).clamp(d.t_min, d.t_max)
        c_in = d.prediction.coefficients(self.path, t).c_in
        out = self.net(expand(c_in, x) * self.path.perturb(x, eps, t), d.clock(t), y)
        loss = (out - d.prediction.target(self.path, t, x, eps)).square().mean()
        yield Update(self.net, loss, {"loss": loss}, {"lr": self.config.lr * cosine(progress)}, clip=self.config.clip)

    def prior(self, n: int, noise: Noise) -> Tensor:
        return noise.normal(n, *self.space.shape)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        return samplers.sample(self.card.samplers, self.denoiser(cond), z, plan, noise, watch)

    def check(self, plan: Plan) -> None:
        samplers.guided(self.denoiser(), plan)

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        return bounds.log_likelihood(self.denoiser(cond), x, self.space, kind, noise)


RECIPES = (
    Recipe(
        "edm",
        EDM,
        Config(),
        "preconditioned denoiser, log-normal noise levels, Heun on Karras et al.'s grid",
        variant_of="score-sde",
    ),
)
