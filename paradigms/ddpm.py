"""DDPM: a Markov chain that adds noise in T steps, and a network that learns to take each step back; sampled also by DDIM.

Model.      Forward (fixed): q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I), alpha_t^2 + sigma_t^2 = 1, t = 1 ... T (i / T in the
            code). Reverse (learned): p(x_s | x_t) = q(x_s | x_t, x0(x_t)), the forward posterior (Ho et al., eq. 6-7)
            with the data replaced by x0(x_t), and p(x_T) = N(0, sigma_T^2 I). Its variance is the posterior's ("small"), the
            forward step's ("large"), or learned between the two. The network predicts eps, x0 or
            v = alpha eps - sigma x0: three parametrisations of one denoiser.

Objective.  Regression of what is predicted; for eps that is Ho et al., eq. 14:
                E_{t, x_0, eps} || eps - eps(alpha_t x_0 + sigma_t eps, t) ||^2.
            A learned variance adds 0.001 times the bound in bits per dimension, without a gradient to the mean (Nichol &
            Dhariwal, eq. 16, and their code's unit).

Sampling.   Ancestral: x_s ~ p(x_s | x_t) along all T or fewer times. DDIM (Song et al. 2021, eq. 12) and every other sampler
            of a Gaussian path: `maths.samplers`.

Likelihood. -log p(x_0) <= L_T + sum_t L_{t-1} + L_0 (Ho et al., eq. 5): `maths.bounds`, where the sum runs over all terms, of
            the whole chain or of a respaced one (whose bound is its own, and looser), or over strata. L_0 is the mass of the
            bin under N(x0(x_1), sigma_1^2 / alpha_1^2) (eq. 13).

References
    J. Ho, A. Jain, P. Abbeel. Denoising Diffusion Probabilistic Models. NeurIPS 2020. arXiv:2006.11239
    J. Song, C. Meng, S. Ermon. Denoising Diffusion Implicit Models. ICLR 2021. arXiv:2010.02502
    A. Nichol, P. Dhariwal. Improved Denoising Diffusion Probabilistic Models. ICML 2021. arXiv:2102.09672
    T. Salimans, J. Ho. Progressive Distillation for Fast Sampling of Diffusion Models. ICLR 2022. arXiv:2202.00512

Where this differs from the papers
    - The row's schedule is Nichol & Dhariwal's cosine one with its offset stated as what it is for: the first step's noise is
      a fixed fraction of the data's bin width (they chose s = 0.008 from the width of a byte). Noise far below a bin
      teaches nothing about the data and costs bits in the bound.
    - x0(x_t) is clipped in sampling to where the data reach: [-1, 1] on data with levels (as in Ho et al.'s code), the
      largest training value on vectors. At t = T an error of eps counts sigma / alpha = 200 times.
    - The last step of the chain returns the mean, as in Ho et al.'s code.
    - p(x_T) has the variance sigma_T^2 that the chain ends with; 1 differs from it by 3e-5. Samples start from it too.
    - L_0 has the forward step's variance for small and large variances alike, and in x0's scale: sigma_1 / alpha_1, where
      eq. 13 has sigma_1 (0.3 % less on digits). The authors' code gives small ones the posterior's of the step before,
      0.74 sigma_1 on the linear chain (0.00738, and the same bound to 1e-4) but 0.19 sigma_1 on the cosine one here, whose
      first step is large: on digits the full bound goes from 1.99 to 3.97 bits/dim. Learned ones go between the two as
      theirs do (2.00 with sigma_1 / alpha_1 and v trained from t = 2 on, 1.86 as it is).
    - x0 is not clipped in the bound, where the authors' evaluation clips it.
    - Between the chain's times, where only solvers of ODEs ask, the network is told fractions of T.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from paradigms.contract import Frozen
from paradigms.core.buffers import number
from paradigms.core.data import Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Plan
from paradigms.core.settings import require, setting
from paradigms.diffusion import Regression, Training
from paradigms.maths import bounds, samplers
from paradigms.maths.denoiser import X0, Denoiser, Eps, Prediction, VPrediction
from paradigms.maths.paths import BetaChainPath, CosinePath, GaussianPath, expand
from paradigms.recipe import Recipe

T = 1000
PREDICTIONS: dict[str, Prediction] = {"eps": Eps(), "x0": X0(), "v": VPrediction()}
SCHEDULES = ("cosine", "linear")


@dataclass(frozen=True)
class Config(Training):
    predicts: str = setting("eps", among=PREDICTIONS, says="what the network predicts")
    schedule: str = setting("cosine", among=SCHEDULES, says="of the noise; linear: in beta")
    first: float = setting(
        0.7, above=0, most=4, says="noise of step 1 in bin widths (images) or twentieths (vectors); cosine schedule"
    )
    last: float = setting(0.005, above=0, below=0.5, says="alpha_T; cosine schedule")
    beta_1: float = setting(1e-4, above=0, below=1, says="beta of step 1; linear schedule")
    beta_T: float = setting(0.02, above=0, below=1, says="beta of step T; linear schedule")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta_1 <= self.beta_T, "beta_1 must be at most beta_T")
        require(self.beta_1 + self.beta_T >= 0.01, "beta_1 + beta_T must be at least 0.01, or x_T is not noise")


def schedule_of(config: Config, space: Space) -> GaussianPath:
    """The chain's alpha_t and sigma_t as a path through its times i / T."""
    if config.schedule == "linear":
        return BetaChainPath(T, config.beta_1, config.beta_T)
    first = math.asin(config.first * space.bin)
    last = math.acos(config.last)
    # Linear in t from the first step's noise at t = 1 / T to alpha_T at t = 1.
    return CosinePath((T * first - last) / (T - 1), last)


@dataclass(frozen=True)
class LearnedConfig(Config):
    vlb: float = setting(
        0.001, above=0, otherwise="nothing trains the variances",
        says="weight, in the loss, of the bound: T times a step's term in bits per dimension",
    )  # fmt: skip


class Chain(Regression):
    """What the chains share. `net`: (x_t, t, y) -> what is predicted, and with `learned` as many numbers for the variance."""

    dequantised = False
    reach: Tensor

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.path = schedule_of(config, space)
        self.prediction = PREDICTIONS[config.predicts]
        # The largest |x| of the data, which on vectors is learned in `prepare`.
        reach = torch.tensor(1.0 if space.levels else math.inf)
        self.register_buffer("reach", reach, persistent=not space.levels)

    def prepare(self, data: Data, noise: Noise) -> Data:
        if not self.space.levels:
            self.reach.copy_(data.x.abs().amax())
        return data

    def denoiser(self, cond: Tensor | None = None) -> Denoiser:
        return Denoiser(
            self.net,
            self.path,
            self.prediction,
            t_min=1 / T,
            T=T,
            reach=number(self.reach),
            learned=self.learned,
            y=cond,
            null=self.null,
        )

    def times(self, d: Denoiser, n: int, noise: Noise) -> Tensor:
        return (1 + noise.integers(T, n)) / T

    @abstractmethod
    def loss(self, d: Denoiser, x: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]: ...


CARD = Card(
    title="Denoising diffusion (DDPM, DDIM)",
    paper="Ho et al., Denoising Diffusion Probabilistic Models; Song et al., DDIM",
    year=2020,
    url="https://arxiv.org/abs/2006.11239",
    samplers=samplers.offered(on="cosine", T=T, main=("ancestral", "ddim")),
    default=Plan("ancestral", 100),
    likelihoods=bounds.kinds(on="cosine", variance="small", chain=100),
)


class DDPM(Chain):
    """The variance of a step is fixed."""

    card = CARD
    loss = Regression.loss


class LearnedVariance(Chain):
    """`net`: (x_t, t, y) -> (eps, v): log variance = v log (large) + (1 - v) log (small), v scaled to [0, 1]."""

    card = replace(
        CARD,
        title="Denoising diffusion with learned variances",
        paper="Nichol & Dhariwal, Improved Denoising Diffusion Probabilistic Models",
        year=2021,
        url="https://arxiv.org/abs/2102.09672",
        samplers=samplers.offered(on="cosine", T=T, learned=True, main=("ancestral", "ddim")),
        likelihoods=bounds.kinds(on="cosine", variance="learned", chain=100),
    )
    learned = True

    def loss(self, d: Denoiser, x: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x_t = self.path.perturb(x, eps, t)
        out, v = self.net(x_t, t, d.y).chunk(2, dim=1)
        simple = (out - d.target(x, eps, t)).square().mean()
        # L_(t-1), or L_0 at t = 1, in bits. The mean is held fixed: it trains v alone.
        a, b, *_ = self.prediction.coefficients(self.path, t)
        x0, v = expand(a, x) * x_t + expand(b, x) * out.detach(), (v + 1) / 2
        later = t.clamp_min(2 / T)
        step = bounds.chain_step(self.path, later, later - 1 / T, x, x0, v)
        first = torch.full_like(t, 1 / T)
        decoder = -bounds.decoder_step(self.path, first, 2 * first, x, x0, v, self.space.levels)
        bound = T / math.log(2) * torch.where(expand(t < 1.5 / T, x), decoder, step).mean()
        loss = simple + self.config.vlb * bound
        return loss, {"simple": simple, "bound": bound}


RECIPES = (
    Recipe("ddpm", DDPM, Config(), "noise prediction on a cosine schedule, T = 1000; ancestral and DDIM sampling"),
    Recipe(
        "ddpm-linear",
        DDPM,
        Config(schedule="linear"),
        "the chain of the paper: beta from 1e-4 to 0.02",
        variant_of="ddpm",
        title="DDPM, linear schedule",
    ),
    Recipe("ddpm-v", DDPM, Config(predicts="v"), "v-prediction", variant_of="ddpm", title="DDPM, v-prediction"),
    Recipe("ddpm-x0", DDPM, Config(predicts="x0"), "data prediction", variant_of="ddpm", title="DDPM, x0-prediction"),
    Recipe("ddpm-learned", LearnedVariance, LearnedConfig(), "variances learned by the bound", variant_of="ddpm"),
)
