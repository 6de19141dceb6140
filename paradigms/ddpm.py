"""DDPM: a Markov chain that adds noise in T steps, and a network that learns to take each step back; sampled also by DDIM.

Model.      Forward (fixed): q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I), alpha_t^2 + sigma_t^2 = 1, t = 1 ... T.
            Reverse (learned): p(x_{t-1} | x_t) = q(x_{t-1} | x_t, x0(x_t)), the forward posterior (Ho et al., eq. 6-7)
            with the data replaced by x0(x_t) = (x_t - sigma_t eps(x_t, t)) / alpha_t, and p(x_T) = N(0, I). Its variance
            is the posterior's ("fixed-small").

Objective.  Noise prediction (Ho et al., eq. 14):   E_{t, x_0, eps} || eps - eps(alpha_t x_0 + sigma_t eps, t) ||^2.

Sampling.   Ancestral: draw x_s ~ p(x_s | x_t) along T or fewer times (respaced: the posterior between any two times).
            DDIM (Song et al. 2021, eq. 12): x_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c w, with
            c = eta sigma_s / sigma_t sqrt(1 - alpha_t^2 / alpha_s^2). eta = 0 is deterministic, eta = 1 is ancestral.

Likelihood. -log p(x_0) <= L_T + sum_t L_{t-1} + L_0 (Ho et al., eq. 5). With the posterior's variance
                L_T     = KL(q(x_T | x_0) || N(0, I)),
                L_{t-1} = (SNR_{t-1} - SNR_t) / 2 || x_0 - x0(x_t) ||^2,      SNR = alpha^2 / sigma^2,
                L_0     = -log of the bin's mass under N(x0(x_1), beta_1) (eq. 13).
            The sum runs over all terms, of the whole chain or of a respaced one (whose bound is its own, and looser), or
            over m strata of t with one term drawn from each, which is unbiased.

References
    J. Ho, A. Jain, P. Abbeel. Denoising Diffusion Probabilistic Models. NeurIPS 2020. arXiv:2006.11239
    J. Song, C. Meng, S. Ermon. Denoising Diffusion Implicit Models. ICLR 2021. arXiv:2010.02502
    A. Nichol, P. Dhariwal. Improved Denoising Diffusion Probabilistic Models. ICML 2021. arXiv:2102.09672

Where this differs from the papers
    - The schedule is Nichol & Dhariwal's cosine one with its offset stated as what it is for: the first step's noise is
      a fixed fraction of the data's bin width (they chose s = 0.008 from the width of a byte). Noise far below a bin
      teaches nothing about the data and costs bits in the bound.
    - x0(x_t) is clipped in sampling to where the data reach: [-1, 1] on data with levels (as in Ho et al.'s code), the
      largest training value on vectors. At t = T an error of eps counts sigma / alpha = 200 times. Never in the bound.
    - The last step of the chain returns the mean, as in Ho et al.'s code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paradigms.backbones.build import denoiser
from paradigms.contract import (
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
    Sampler,
    Space,
    Update,
    require,
)
from paradigms.errors import BadInput
from paradigms.maths.likelihood import discretised_normal, normal_log_prob
from paradigms.maths.paths import expand
from paradigms.optim import adamw, check_training, cosine


@dataclass(frozen=True)
class Config:
    """T: steps of the chain. first: noise of step 1 in bin widths (images) or absolute (vectors). last: alpha_T.

    batch, lr, dropout, weight_decay, clip: training. backbone: "auto" or "mlp".
    """

    T: int = 1000
    first: float = 0.7
    last: float = 0.005
    batch: int = 64
    lr: float = 2e-3
    dropout: float = 0.0
    weight_decay: float = 0.0
    clip: float = 1.0
    backbone: str = "auto"

    def __post_init__(self) -> None:
        check_training(self)
        require(self.T >= 2, "T must be at least 2")
        require(0 < self.first <= 4, "first must be above 0 and at most 4 bins")
        require(0 < self.last < 0.5, "last must be above 0 and below 0.5")


class DDPM(Paradigm):
    """See the module's text. `net`: (x_t, t/T, y) -> eps."""

    card = Card(
        title="Denoising diffusion (DDPM, DDIM)",
        paper="Ho et al., Denoising Diffusion Probabilistic Models; Song et al., DDIM",
        year=2020,
        url="https://arxiv.org/abs/2006.11239",
        samplers=(
            Sampler("ancestral", (10, 25, 50, 100, 250, 1000), stochastic=True),
            Sampler("ddim", (2, 4, 8, 16, 32, 50, 100), order=1, options={"eta": 0.0}, ranges={"eta": (0, 1)}),
        ),
        default=Plan("ancestral", 100),
        likelihoods=(
            Kind(
                "vlb-100",
                "≤",
                100,
                (("steps", 100),),
                note="all terms of the chain of 100 steps that the default draws",
                ranges={"steps": (2, 1_000_000)},
            ),
            Kind(
                "vlb",
                "≤",
                51,
                (("terms", 50),),
                note="one term from each of 50 strata of t",
                ranges={"terms": (1, 1_000_000)},
            ),
            Kind("vlb", "≤", 1000, note="all terms"),
        ),
    )

    alpha: Tensor
    sigma: Tensor
    reach: Tensor

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.net = denoiser(space, width, config.dropout, config.backbone)
        first = config.first * (2 / space.levels if space.levels else 0.05)
        # The angle of (alpha, sigma) grows linearly from the first step's noise to alpha_T.
        angle = torch.linspace(math.asin(first), math.acos(config.last), config.T, dtype=torch.float64)
        # Index 0 is the data itself.
        self.register_buffer("alpha", torch.cat([torch.ones(1), angle.cos()]).float(), persistent=False)
        self.register_buffer("sigma", torch.cat([torch.zeros(1), angle.sin()]).float(), persistent=False)

        # The largest |x| of the data, which on vectors is learned in `prepare`.
        reach = torch.tensor(1.0 if space.levels else math.inf)
        self.register_buffer("reach", reach, persistent=not space.levels)

    def prepare(self, data: Data, noise: Noise) -> Data:
        if not self.space.levels:
            self.reach.copy_(data.x.abs().amax())
        return data

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {self.net: adamw(self.net, self.config.lr, weight_decay=self.config.weight_decay)}

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The predicted noise; t (B,) int64 in 1 ... T."""
        return self.net(x_t, t / self.config.T, y)

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = batch
        eps, t = noise.normal(*x.shape), 1 + noise.integers(self.config.T, len(x))
        x_t = expand(self.alpha[t], x) * x + expand(self.sigma[t], x) * eps
        loss = (eps - self.eps(x_t, t, y)).square().mean()
        yield Update(self.net, loss, {"loss": loss}, {"lr": self.config.lr * cosine(progress)}, clip=self.config.clip)

    def prior(self, n: int, noise: Noise) -> Tensor:
        return noise.normal(n, *self.space.shape)

    def x0(self, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return (x_t - expand(self.sigma[t], x_t) * eps) / expand(self.alpha[t], x_t)

    def chain(self, steps: int) -> Tensor:
        """T = t_N > ... > t_0 = 0, (steps + 1,) int64: the whole chain, or a respaced one (Nichol & Dhariwal, section 4)."""
        if steps > self.config.T:
            raise BadInput(f"{steps} steps are more than the chain has; T = {self.config.T}")
        return torch.linspace(self.config.T, 0, steps + 1, dtype=torch.float64).round().long()

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        eta = 1.0 if plan.sampler == "ancestral" else plan.option("eta", 0.0)
        times = self.chain(plan.steps).to(z.device)
        rows = times[:, None].expand(-1, len(z)).contiguous()
        # The coefficients of all steps at once, (steps,), as Python floats: no tensor arithmetic on scalars in the loop.
        a_t, s_t, a_s, s_s = (c.double() for c in (self.alpha[times[:-1]], self.sigma[times[:-1]],
                                                   self.alpha[times[1:]], self.sigma[times[1:]]))  # fmt: skip
        c = eta * s_s / s_t * (1 - (a_t / a_s).square()).sqrt()
        steps = torch.stack([a_t, s_t, a_s, (s_s.square() - c.square()).clamp_min(0).sqrt(), c], dim=1).tolist()
        reach = float(self.reach)
        x = z
        if watch:
            watch(1.0, x)
        for i, (at, st, a, d, c_i) in enumerate(steps):
            eps = self.eps(x, rows[i], cond)
            x0 = (x - st * eps) / at
            if math.isfinite(reach):
                # Clipping moves x0, so the noise that goes with it is recomputed from x_t.
                x0 = x0.clamp_(-reach, reach)
                eps = (x - at * x0) / st
            x = a * x0 + d * eps
            if c_i > 0:
                x = x + c_i * noise.normal(*x.shape)
            if watch:
                watch(float(times[i + 1]) / self.config.T, x)
        return x

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        T, b = self.config.T, len(x)
        a_T, s_T = self.alpha[T], self.sigma[T]
        prior = 0.5 * ((a_T * x).square() + s_T**2 - 1 - 2 * s_T.log()).flatten(1).sum(1)

        N = min(int(kind.option("steps", T)), T)
        times = self.chain(N).flip(0).to(x.device)
        first = times[1]
        x_1 = self.alpha[first] * x + self.sigma[first] * noise.normal(*x.shape)
        one = first.expand(b)
        mean, std = self.x0(x_1, self.eps(x_1, one, cond), one), self.sigma[first]
        if self.space.levels:
            decoder = discretised_normal(x, mean, std, self.space.levels)
        else:
            decoder = normal_log_prob(x, mean, std.log())
        decoder = decoder.flatten(1).sum(1)

        # The steps t_k -> t_{k-1}, k = 2 ... N, in m strata; a stratum of n terms counts the drawn one n times.
        m = min(int(kind.option("terms", N - 1)), N - 1)
        edges = torch.linspace(2, N + 1, m + 1, dtype=torch.float64).round().long().tolist()
        snr = (self.alpha.double() / self.sigma.double()).square()
        steps = []
        for lo, hi in pairwise(edges):
            k = lo + (noise.uniform(b) * (hi - lo)).long().clamp_max(hi - lo - 1)
            t, s = times[k], times[k - 1]
            x_t = expand(self.alpha[t], x) * x + expand(self.sigma[t], x) * noise.normal(*x.shape)
            error = (x - self.x0(x_t, self.eps(x_t, t, cond), t)).square().flatten(1).sum(1)
            steps.append((hi - lo) * 0.5 * (snr[s] - snr[t]).to(x.dtype) * error)
        chain = torch.stack(steps).sum(0)
        return Estimate(decoder - chain - prior, terms={"prior": prior, "steps": chain, "decoder": -decoder})


RECIPES = (
    Recipe("ddpm", DDPM, Config(), "noise prediction on a cosine schedule, T = 1000; ancestral and DDIM sampling"),
)
