"""Flow matching: regress the velocity of straight lines from data to noise.

Model.      A network u(x_t, t) that predicts the velocity of the linear path x_t = (1 - t) x + t eps from data x
            (t = 0) to noise eps ~ N(0, I) (t = 1). Along a line the velocity is dx_t/dt = eps - x.

Objective.  Conditional flow matching (Lipman et al., eq. 9; Liu et al., eq. 1):
                E_{t, x, eps} || u(x_t, t) - (eps - x) ||^2,      t ~ U(0, 1).
            The minimiser is E[eps - x | x_t], the velocity field whose flow carries the marginals p_t into each other.

Sampling.   Solve dx/dt = u(x, t) from x_1 = z ~ N(0, I) down to t = 0, by Euler, Heun, or an adaptive method.

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

from paradigms.backbones.build import denoiser
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
    Sampler,
    Space,
    Update,
)
from paradigms.maths.likelihood import SOLVED, SOLVED_RANGES, dequantise, ode_likelihood, standard_normal_log_prob
from paradigms.maths.paths import LinearPath
from paradigms.maths.solvers import dopri5, euler_step, grid, heun_step, solve
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


# Below 1e-6 float32 can not meet a tolerance.
TOLERANCES = {"rtol": (1e-6, 1.0), "atol": (1e-6, 1.0)}


class FlowMatching(Paradigm):
    """See the module's text. `net`: (x_t, t, y) -> u."""

    card = Card(
        title="Flow matching (linear path)",
        paper="Lipman et al., Flow Matching for Generative Modeling; Liu et al., Rectified Flow",
        year=2023,
        url="https://arxiv.org/abs/2210.02747",
        samplers=(
            Sampler("euler", (1, 2, 4, 8, 16, 32, 64), calls=(1, 0), order=1),
            Sampler("heun", (1, 2, 4, 8, 16, 32), calls=(2, 0), order=2),
            Sampler(
                "dopri5",
                (1,),
                calls=None,
                order=5,
                options={"rtol": 1e-3, "atol": 1e-3},
                ranges=TOLERANCES,
                note="steps are adaptive",
            ),
        ),
        default=Plan("heun", 16),
        likelihoods=(
            Kind("ode", "≈", 60, (("steps", 10), ("probes", 1)), note=SOLVED, ranges=SOLVED_RANGES),
            Kind("ode", "≈", 300, (("steps", 50), ("probes", 8)), note=SOLVED, ranges=SOLVED_RANGES),
        ),
    )

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.path = LinearPath()
        self.net = denoiser(space, width, config.dropout, config.backbone)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {self.net: adamw(self.net, self.config.lr, weight_decay=self.config.weight_decay)}

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = dequantise(batch.x, self.space.levels, noise), batch.y
        eps, t = noise.normal(*x.shape), noise.uniform(len(x))
        x_t = self.path.perturb(x, eps, t)
        loss = (self.net(x_t, t, y) - (eps - x)).square().mean()
        yield Update(self.net, loss, {"loss": loss}, {"lr": self.config.lr * cosine(progress)}, clip=self.config.clip)

    def velocity(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.net(x, t, cond)

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
        def field(x: Tensor, t: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
            return self.net(x, t, None if cond is None else cond[rows])

        if plan.sampler == "dopri5":
            return dopri5(field, z, 1.0, 0.0, plan.option("rtol", 1e-3), plan.option("atol", 1e-3))
        step = {"euler": euler_step, "heun": heun_step}[plan.sampler]
        return solve(field, z, grid(1.0, 0.0, plan.steps), step, watch)

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        return ode_likelihood(
            lambda h, t: self.net(h, t, cond),
            x,
            self.space,
            start=0.0,
            stop=1.0,
            steps=int(kind.option("steps", 10)),
            m=int(kind.option("probes", 1)),
            prior_log_prob=standard_normal_log_prob,
            noise=noise,
        )


RECIPES = (Recipe("flow-matching", FlowMatching, Config(), "velocity regression on straight paths; ODE sampling"),)
