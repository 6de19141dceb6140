"""Flow matching: regress the velocity of straight lines from data to noise.

Model.      A network u(x_t, t) that predicts the velocity of the linear path x_t = (1 - t) x + t eps from data x
            (t = 0) to noise eps ~ N(0, I) (t = 1). Along a line the velocity is dx_t/dt = eps - x.

Objective.  Conditional flow matching (Lipman et al., eq. 9; Liu et al., eq. 1):
                E_{t, x, eps} || u(x_t, t) - (eps - x) ||^2,      t ~ U(0, 1).
            The minimiser is E[eps - x | x_t], the velocity field whose flow carries the marginals p_t into each other.

Sampling.   Solve dx/dt = u(x, t) from x_1 = z ~ N(0, I) down to t = 0, by Euler, Heun, or an adaptive method; since u
            gives E[x | x_t] and E[eps | x_t], every other sampler of a Gaussian path serves as well: `maths.samplers`.

Likelihood. The same ODE run from data to noise: log p(x) = log N(x_1; 0, I) + int_0^1 div u dt (Chen et al. 2018).

References
    Y. Lipman, R. Chen, H. Ben-Hamu, M. Nickel, M. Le. Flow Matching for Generative Modeling. ICLR 2023. arXiv:2210.02747
    X. Liu, C. Gong, Q. Liu. Flow Straight and Fast: Rectified Flow. ICLR 2023. arXiv:2209.03003

Where this differs from the papers
    - Time runs the other way than in Lipman et al.: here t = 0 is data.
    - sigma_min = 0, as in rectified flow. Trained on uniformly dequantised pixels, whose density is what its likelihood
      measures; samples are rounded to the levels by whoever scores them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from paradigms.backbones import build
from paradigms.contract import (
    Batch,
    Card,
    Estimate,
    Frozen,
    Kind,
    Noise,
    Paradigm,
    Plan,
    Recipe,
    Space,
    Update,
)
from paradigms.maths import bounds, samplers
from paradigms.maths.denoiser import Denoiser, Velocity
from paradigms.maths.likelihood import dequantise
from paradigms.maths.paths import LinearPath
from paradigms.optim import adamw, check_training, cosine


@dataclass(frozen=True)
class Config:
    """batch: examples a step. lr: peak learning rate. dropout, weight_decay: regularisation. backbone: "auto" or "mlp"."""

    batch: int = 64
    lr: float = 2e-3
    dropout: float = 0.0
    weight_decay: float = 0.0
    clip: float = 1.0
    backbone: str = "auto"

    def __post_init__(self) -> None:
        check_training(self)


class FlowMatching(Paradigm):
    """See the module's text. `net`: (x_t, t, y) -> u."""

    card = Card(
        title="Flow matching (linear path)",
        paper="Lipman et al., Flow Matching for Generative Modeling; Liu et al., Rectified Flow",
        year=2023,
        url="https://arxiv.org/abs/2210.02747",
        samplers=samplers.samplers(free=True, main=("euler", "heun", "rk45")),
        default=Plan("heun", 16),
        likelihoods=bounds.kinds(diffusion=False),
    )

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.path = LinearPath()
        self.net = build.denoiser(space, width, config.dropout, config.backbone)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {self.net: adamw(self.net, self.config.lr, weight_decay=self.config.weight_decay)}

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = dequantise(batch.x, self.space.levels, noise), batch.y
        eps, t = noise.normal(*x.shape), noise.uniform(len(x))
        x_t = self.path.perturb(x, eps, t)
        loss = (self.net(x_t, t, y) - (eps - x)).square().mean()
        yield Update(self.net, loss, {"loss": loss}, {"lr": self.config.lr * cosine(progress)}, clip=self.config.clip)

    def denoiser(self, cond: Tensor | None = None) -> Denoiser:
        return Denoiser(self.net, self.path, Velocity(), told, t_min=0.0, y=cond)

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

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        return bounds.log_likelihood(self.denoiser(cond), x, self.space, kind, noise)


def told(t: Tensor) -> Tensor:
    """What the network is told of the time: t itself."""
    return t


RECIPES = (Recipe("flow-matching", FlowMatching, Config(), "velocity regression on straight paths; ODE sampling"),)
