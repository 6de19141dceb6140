"""NCSN: scores of the data at a ladder of noise levels, followed by Langevin dynamics from the noisiest level down.

Model.      x_i = x + sigma_i eps at L geometric levels sigma_1 > ... > sigma_L (i / L is the time in the code, from the
            least noise). A noise-conditional score network gives grad log p_i(x_i) = -eps(x_i, i) / sigma_i.

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
from paradigms.maths.denoiser import Denoiser, Eps
from paradigms.maths.guidance import null_label, with_null, withheld
from paradigms.maths.likelihood import dequantise
from paradigms.maths.paths import VEPath, expand
from paradigms.optim import adamw, check_training, cosine


@dataclass(frozen=True)
class Config:
    """L: noise levels. floor: sigma_L in bin widths (images) or twentieths (vectors).

    batch, lr, dropout, weight_decay, clip: training. backbone: "auto" or "mlp". unlabelled: the part of the examples
    whose label is withheld (of no effect without labels).
    """

    L: int = 200
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
        require(2 <= self.L <= 100_000, "L must be from 2 to 100,000")
        require(0 < self.floor <= 1, "floor must be above 0 and at most 1")


class NCSN(Paradigm):
    """See the module's text. `net`: (x_i at unit variance, i / L, y) -> eps."""

    card = Card(
        title="Noise-conditional score network (annealed Langevin)",
        paper="Song & Ermon, Generative Modeling by Estimating Gradients of the Data Distribution",
        year=2019,
        url="https://arxiv.org/abs/1907.05600",
        samplers=samplers.samplers(grid="logsnr", on="cosine", main=("langevin", "ddim")),
        default=Plan("langevin", 20),
        likelihoods=bounds.kinds(on="cosine"),
    )

    sigma_data: Tensor
    sigma_max: Tensor

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.null = null_label(space, config.unlabelled)
        self.net = build.denoiser(with_null(space, self.null), width, config.dropout, config.backbone)
        self.sigma_min = config.floor * (2 / space.levels if space.levels else 0.05)
        self.register_buffer("sigma_data", torch.tensor(1.0))
        self.register_buffer("sigma_max", torch.tensor(10.0))

    def prepare(self, data: Data, noise: Noise) -> Data:
        x = data.batch(noise.integers(len(data), 1000).to(data.x.device)).x.flatten(1)
        self.sigma_data.copy_(x.std())
        self.sigma_max.copy_(torch.cdist(x, x).amax())
        return data

    def denoiser(self, cond: Tensor | None = None) -> Denoiser:
        path = VEPath(self.sigma_min, number(self.sigma_max))
        return Denoiser(self.net, path, Eps(number(self.sigma_data)), told, t_min=0.0, y=cond, null=self.null)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {self.net: adamw(self.net, self.config.lr, weight_decay=self.config.weight_decay)}

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x = dequantise(batch.x, self.space.levels, noise)
        eps, t = noise.normal(*x.shape), noise.integers(self.config.L, len(x)) / (self.config.L - 1)
        y = withheld(batch.y, self.null, self.config.unlabelled, noise)
        d = self.denoiser(y)
        c_in = d.prediction.coefficients(d.path, t).c_in
        out = self.net(expand(c_in, x) * d.path.perturb(x, eps, t), t, y)
        loss = (eps - out).square().mean()
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


def told(t: Tensor) -> Tensor:
    """What the network is told of the level: its place between the least noise (0) and the most (1)."""
    return t


RECIPES = (
    Recipe(
        "ncsn",
        NCSN,
        Config(),
        "scores at 200 geometric noise levels; annealed Langevin dynamics",
        variant_of="score-sde",
    ),
)
