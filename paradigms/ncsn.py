"""NCSN: scores of the data at a ladder of noise levels, followed by Langevin dynamics from the noisiest level down.

Model.      x_i = x + sigma_i eps at L geometric levels sigma_1 > ... > sigma_L ((L - i) / (L - 1) is the time in the
            code). A noise-conditional score network gives grad log p_i(x_i) = -eps(x_i, i) / sigma_i.

Objective.  Denoising score matching with weight sigma_i^2 (Song & Ermon 2019, eq. 5-6):
                E_{i, x, eps} sigma_i^2 || score + eps / sigma_i ||^2 = E || eps - eps(x_i, i) ||^2.

Sampling.   Annealed Langevin dynamics (algorithm 1): a few steps x + e score + sqrt(2 e) w at each level with e = k sigma_i^2
            (technique 4 of Song & Ermon 2020), and the denoised mean at the end (Jolicoeur-Martineau et al. 2021). Every
            other sampler of a Gaussian path serves as well: `maths.samplers`.

Likelihood. The bound of its diffusion, and the density of the ODE that its scores define: `maths.bounds`.

References
    Y. Song, S. Ermon. Generative Modeling by Estimating Gradients of the Data Distribution. NeurIPS 2019. arXiv:1907.05600
    Y. Song, S. Ermon. Improved Techniques for Training Score-Based Generative Models. NeurIPS 2020. arXiv:2006.09011
    A. Jolicoeur-Martineau et al. Adversarial score matching and improved sampling for image generation. ICLR 2021.
        arXiv:2009.05475

Where this differs from the papers
    - sigma_1 is the largest distance between training examples (technique 1 of 2020), taken over 1,000 of them, and sigma_L a
      fixed fraction of a bin of the data.
    - The network sees x_i at unit variance, and is told the level as the suite's networks are told a time.
    - It is trained on uniformly dequantised pixels.
    - The prior is N(0, sigma_1^2 I), of samples and of the likelihoods, which the papers do not give; their samples start from
      uniform pixels, whose standard deviation is below sigma_1 (a few units here) and at any sigma_1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from paradigms.core.buffers import number
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Plan
from paradigms.core.settings import setting
from paradigms.diffusion import Measured, Training
from paradigms.maths import bounds, samplers
from paradigms.maths.denoiser import Denoiser, Eps
from paradigms.maths.paths import VEPath
from paradigms.recipe import Recipe


@dataclass(frozen=True)
class Config(Training):
    L: int = setting(200, least=2, most=100_000, says="number of noise levels")
    floor: float = setting(0.25, above=0, most=1, says="sigma_L in bin widths (images) or twentieths (vectors)")


class NCSN(Measured):
    """See the module's text. `net`: (x_i at unit variance, its time, y) -> eps."""

    card = Card(
        title="Noise-conditional score network (annealed Langevin)",
        paper="Song & Ermon, Generative Modeling by Estimating Gradients of the Data Distribution",
        year=2019,
        url="https://arxiv.org/abs/1907.05600",
        samplers=samplers.offered(grid="logsnr", on="cosine", main=("langevin", "ddim")),
        default=Plan("langevin", 20),
        likelihoods=bounds.kinds(on="cosine"),
    )

    largest = 10.0

    def denoiser(self, cond: Tensor | None = None) -> Denoiser:
        path = VEPath(self.config.floor * self.space.bin, number(self.sigma_max))
        return Denoiser(self.net, path, Eps(number(self.sigma_data)), y=cond, null=self.null)

    def times(self, d: Denoiser, n: int, noise: Noise) -> Tensor:
        """Places of levels between the least noise (0) and the most (1), which is also the network's time input."""
        return noise.integers(self.config.L, n) / (self.config.L - 1)


RECIPES = (
    Recipe(
        "ncsn",
        NCSN,
        Config(),
        "scores at 200 geometric noise levels; annealed Langevin dynamics",
        variant_of="score-sde",
    ),
)
