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
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from paradigms.contract import Frozen
from paradigms.core.buffers import number
from paradigms.core.data import Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Plan
from paradigms.core.settings import setting
from paradigms.diffusion import Regression, Training
from paradigms.maths import bounds, samplers
from paradigms.maths.denoiser import Denoiser, Preconditioned
from paradigms.maths.paths import EDMPath
from paradigms.recipe import Recipe


@dataclass(frozen=True)
class Config(Training):
    P_mean: float = setting(-0.5, says="mean of log (sigma / sigma_data) in training")
    P_std: float = setting(1.2, above=0, says="standard deviation of log (sigma / sigma_data) in training")
    sigma_max: float = setting(80.0, least=10, otherwise="t = 1 is not noise", says="sigma at which sampling starts")
    floor: float = setting(0.25, above=0, most=1, says="sigma_min in bin widths (images) or twentieths (vectors)")


class EDM(Regression):
    """See the module's text. `net`: (c_in x, c_noise, y) -> F."""

    card = Card(
        title="EDM (preconditioned denoiser)",
        paper="Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models",
        year=2022,
        url="https://arxiv.org/abs/2206.00364",
        samplers=samplers.offered(grid="karras", main=("heun", "churn")),
        default=Plan("heun", 18),
        likelihoods=bounds.kinds(on="cosine"),
    )

    sigma_data: Tensor

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.path = EDMPath(config.sigma_max)
        self.sigma_min = config.floor * space.bin
        self.register_buffer("sigma_data", torch.tensor(1.0))

    def prepare(self, data: Data, noise: Noise) -> Data:
        self.sigma_data.copy_(data.batch(noise.integers(len(data), 10_000).to(data.x.device)).x.std())
        return data

    def denoiser(self, cond: Tensor | None = None) -> Denoiser:
        prediction, t_min = Preconditioned(number(self.sigma_data)), self.sigma_min / self.config.sigma_max
        return Denoiser(self.net, self.path, prediction, self.c_noise, t_min, y=cond, null=self.null)

    def c_noise(self, t: Tensor) -> Tensor:
        """The network's time input: log sigma, scaled to 0 at sigma_min and 1 at sigma_max."""
        return 1 + torch.log(t) / math.log(self.config.sigma_max / self.sigma_min)

    def times(self, d: Denoiser, n: int, noise: Noise) -> Tensor:
        sigma = self.sigma_data * (self.config.P_mean + self.config.P_std * noise.normal(n)).exp()
        return (sigma / self.config.sigma_max).clamp(d.t_min, d.t_max)


RECIPES = (
    Recipe(
        "edm",
        EDM,
        Config(),
        "preconditioned denoiser, log-normal noise levels, Heun on Karras et al.'s grid",
        variant_of="score-sde",
    ),
)
