"""Score SDE: learn the score of noised data for all noise levels, and run the noising diffusion backwards.

Model.      A diffusion dx = f x dt + g dw carries data (t = 0) to noise (t = 1); its marginals are x_t = alpha x + sigma eps.
            VP keeps the variance, dx = -beta/2 x dt + sqrt(beta) dw; sub-VP adds less noise to the same drift; VE adds noise
            and leaves the data (Song et al., eq. 9, 11, 15). A network gives grad log p_t(x_t) = -eps(x_t, t) / sigma, by way
            of x0 = c_skip x_t + c_out F, with F of unit variance whatever the path (on VP, at sigma_data = 1, it is -v).

Objective.  Denoising score matching (Vincent 2011; Song et al., eq. 7) with weight lambda(t):
                E_t lambda(t) E || score(x_t, t) + eps / sigma ||^2.
            "uniform": || F - F* ||^2 with t drawn so that the angle arctan(sigma / (alpha sigma_data)) is uniform: every noise
            level is visited alike. "likelihood": lambda = g^2, which bounds the likelihood (Song et al. 2021b, eq. 8): the
            error of eps with log SNR drawn uniformly.

Sampling.   The reverse SDE dx = (f x - g^2 score) dt + g dw (Anderson 1982) or the probability-flow ODE dx = (f x - g^2
            score / 2) dt (eq. 13), from t = 1 to t_min, and the denoised mean at the end: `maths.samplers`. With the angle
            phi as the time both are short on VP, at sigma_data = 1: dx = -F dphi, and
            dx = (tan(phi) x - 2 F) dphi + sqrt(2 tan(phi)) dw.

Likelihood. The ODE from t_min to 1 and the instantaneous change of variables (eq. 39), and the bound of the SDE:
            `maths.bounds`.

References
    Y. Song, J. Sohl-Dickstein, D. Kingma, A. Kumar, S. Ermon, B. Poole. Score-Based Generative Modeling through
        Stochastic Differential Equations. ICLR 2021. arXiv:2011.13456
    Y. Song, C. Durkan, I. Murray, S. Ermon. Maximum Likelihood Training of Score-Based Diffusion Models. NeurIPS 2021.
        arXiv:2101.09258
    Y. Song, S. Ermon. Improved Techniques for Training Score-Based Generative Models. NeurIPS 2020. arXiv:2006.09011

Where this differs from the paper
    - F of unit variance and uniform angles instead of eps-prediction and uniform t: with beta from 0.1 to 20 half of uniform t
      lies at a signal-to-noise ratio below 0.1, where there is little to learn.
    - The network is told the angle, which resolves small noise as t does not.
    - It is trained on uniformly dequantised pixels, whose density is what its likelihood measures.
    - t_min is where the noise is a fixed fraction of a bin of the data, not 1e-5. sigma_max of VE is the largest distance
      between training examples (technique 1 of Song & Ermon 2020), taken over 1,000 of them.
    - The prior, of samples and of both likelihoods, is N(0, sigma(1)^2 I), as the paper's is on VE; on VP and sub-VP theirs is
      N(0, I), whose variance is larger by 4e-5 and 9e-5.
    - The likelihood is of x: the density of x_(t_min) = alpha x at the same point, with D log alpha(t_min) added. Theirs is of
      x_eps without that term: on digits -7e-5 nats a dimension for VP and -6e-3 for sub-VP (at t_min), at their eps -5e-7.
    - The ODE's density is solved by RK4 on a fixed grid with its error stated, theirs by RK45 to 1e-5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from paradigms.core.buffers import number
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Plan
from paradigms.core.settings import require, setting
from paradigms.diffusion import Measured, Training
from paradigms.maths import bounds, samplers
from paradigms.maths.denoiser import Denoiser, Preconditioned
from paradigms.maths.paths import GaussianPath, SubVPPath, VEPath, VPPath, time_of_ratio
from paradigms.recipe import Recipe

SDES = ("vp", "subvp", "ve")
WEIGHTINGS = ("uniform", "likelihood")


@dataclass(frozen=True)
class Config(Training):
    sde: str = setting("vp", among=SDES, says="the SDE whose path is followed")
    weighting: str = setting("uniform", among=WEIGHTINGS, says="of the loss over time")
    beta_min: float = setting(0.1, above=0, says="beta at t = 0 of VP and sub-VP")
    beta_max: float = setting(20.0, above=0, says="beta at t = 1 of VP and sub-VP")
    floor: float = setting(0.1, above=0, most=1, says="noise at t_min in bin widths (images) or twentieths (vectors)")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta_min <= self.beta_max, "beta_min must be at most beta_max")
        require(self.beta_min + self.beta_max >= 8, "beta_min + beta_max must be at least 8, or t = 1 is not noise")


class ScoreSDE(Measured):
    """See the module's text. `net`: (x_t at unit variance, angle in units of a right angle, y) -> F."""

    card = Card(
        title="Score-based SDE (VP)",
        paper="Song et al., Score-Based Generative Modeling through SDEs",
        year=2021,
        url="https://arxiv.org/abs/2011.13456",
        samplers=samplers.offered(grid="cosine", on="cosine", main=("reverse-sde", "euler", "heun")),
        default=Plan("heun", 16),
        likelihoods=bounds.kinds(on="cosine"),
    )

    largest = 50.0

    @property
    def lowest(self) -> float:
        """sigma / alpha at t_min."""
        return float(self.config.floor * self.space.bin)

    @property
    def path(self) -> GaussianPath:
        if self.config.sde == "ve":
            return VEPath(self.lowest, number(self.sigma_max))
        return (VPPath if self.config.sde == "vp" else SubVPPath)(self.config.beta_min, self.config.beta_max)

    def denoiser(self, cond: Tensor | None = None) -> Denoiser:
        path, data = self.path, number(self.sigma_data)
        clock, t_min = partial(angle, path, data), time_of_ratio(path, self.lowest)
        return Denoiser(self.net, path, Preconditioned(data), clock, t_min, y=cond, null=self.null)

    def times(self, d: Denoiser, n: int, noise: Noise) -> Tensor:
        u, data = noise.uniform(n), number(self.sigma_data)
        low, high = d.path.log_snr(torch.tensor([d.t_max, d.t_min], dtype=torch.float64)).tolist()
        if self.config.weighting == "likelihood":
            log_snr = low + u * (high - low)
        else:
            last, first = (math.atan(math.exp(-v / 2) / data) for v in (low, high))
            log_snr = -2 * torch.log(data * torch.tan(first + u * (last - first)))
        return d.path.time_of_log_snr(log_snr).clamp(d.t_min, d.t_max)

    def weight(self, d: Denoiser, t: Tensor) -> Tensor | None:
        if self.config.weighting == "uniform":
            return None
        return d.prediction.coefficients(d.path, t).d.square()  # the error of eps is d times that of F


def angle(path: GaussianPath, sigma_data: float, t: Tensor) -> Tensor:
    """The network's time input: arctan(sigma / (alpha sigma_data)) in units of a right angle."""
    return torch.atan2(path.sigma(t), sigma_data * path.alpha(t)) * (2 / math.pi)


VP = Config()

RECIPES = (
    Recipe("score-sde", ScoreSDE, VP, "score matching along the VP SDE; reverse SDE and probability-flow sampling"),
    Recipe(
        "score-sde-subvp", ScoreSDE, replace(VP, sde="subvp"), "the sub-VP SDE",
        variant_of="score-sde", title="Score-based SDE (sub-VP)",
    ),
    Recipe(
        "score-sde-ve", ScoreSDE, replace(VP, sde="ve"), "the VE SDE",
        variant_of="score-sde", title="Score-based SDE (VE)",
    ),
    Recipe(
        "score-sde-likelihood", ScoreSDE, replace(VP, weighting="likelihood"), "VP with likelihood weighting",
        variant_of="score-sde", title="Score-based SDE (VP), likelihood weighting",
    ),
)  # fmt: skip
