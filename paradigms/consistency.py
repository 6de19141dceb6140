"""Consistency distillation: one network that jumps from any point of a teacher's ODE path to the path's end.

Model.      f(x_t, t) = x_t - t F(x_t, t, y): along the linear path x_t = (1 - t) x + t eps the velocity is (x_t - x) / t, so
            F is a mean velocity from t to 0. f(x, 0) = x holds by construction (Song et al. 2023, eq. 5, with c_skip = 1
            and c_out = -t). F starts as the teacher's velocity network.

Objective.  On neighbouring times s < t of one path (eq. 7): x_t is a noised example, x_s one Heun step of the teacher
            from it, and
                E rho( f(x_t, t), f-(x_s, s) ) / (t - s)^p
            where f- is an exponential average of f without gradient and rho the pseudo-Huber distance. The number of
            times doubles as training goes on: few at first (little variance), many at the end (little bias).

Sampling.   One step: f(z, 1). More (algorithm 1): noise the result back to a lower time and map again.

Likelihood. None: the model defines samples, not a density.

References
    Y. Song, P. Dhariwal, M. Chen, I. Sutskever. Consistency Models. ICML 2023. arXiv:2303.01469
    Y. Song, P. Dhariwal. Improved Techniques for Training Consistency Models. ICLR 2024. arXiv:2310.14189

Where this differs from the papers
    - The teacher is a flow-matching model, so the path is linear and the boundary condition needs no sigma_data.
    - The curriculum of step counts and the pseudo-Huber distance, proposed for training, are used in distillation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paradigms.contract import (
    Batch,
    Card,
    Frozen,
    Need,
    Noise,
    Paradigm,
    Plan,
    Recipe,
    Sampler,
    Space,
    Update,
    require,
)
from paradigms.maths.likelihood import dequantise
from paradigms.maths.paths import LinearPath, expand
from paradigms.maths.solvers import heun_step
from paradigms.optim import adamw, check_training, cosine


@dataclass(frozen=True)
class Config:
    """steps_start, steps_end: times on the path at the start and at the end. decay: of the target's average.

    huber: c of the pseudo-Huber distance in units of sqrt(D). batch, lr, clip: training.
    """

    steps_start: int = 8
    steps_end: int = 64
    decay: float = 0.95
    huber: float = 0.03
    batch: int = 64
    lr: float = 1e-3
    clip: float = 1.0

    def __post_init__(self) -> None:
        check_training(self)
        require(1 <= self.steps_start <= self.steps_end, "steps_start must be from 1 to steps_end")
        ratio = self.steps_end / self.steps_start
        require(math.log2(ratio).is_integer(), "steps_end must be steps_start times a power of two")
        require(0 <= self.decay < 1, "decay must be from 0 to below 1")
        require(self.huber >= 0, "huber must be at least 0")


class Consistency(Paradigm):
    """See the module's text. `net`: F, `target`: its average f- is made of; the teacher is held frozen."""

    card = Card(
        title="Consistency model (distilled)",
        paper="Song et al., Consistency Models",
        year=2023,
        url="https://arxiv.org/abs/2303.01469",
        samplers=(Sampler("multistep", (1, 2, 4, 8), stochastic=True, note="1 is the one-step map"),),
        default=Plan("multistep", 1),
        no_likelihood="a consistency model defines samples, not a density",
    )

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.path = LinearPath()
        self.teacher = parents["teacher"]
        path = self.teacher.model.denoiser().path
        if path != self.path:
            raise ValueError(f"the teacher's path is {path}; this map is written for {self.path}")
        self.net = copy.deepcopy(self.teacher.model.net).requires_grad_(True)
        self.target = copy.deepcopy(self.net).requires_grad_(False)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {self.net: adamw(self.net, self.config.lr)}

    def f(self, net: nn.Module, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return x - expand(t, x) * net(x, t, y)

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = dequantise(batch.x, self.space.levels, noise), batch.y
        doublings = math.log2(self.config.steps_end / self.config.steps_start)
        n = self.config.steps_start * 2 ** min(int(progress * (doublings + 1)), int(doublings))
        i = 1 + noise.integers(n, len(x))
        t, s = i / n, (i - 1) / n
        x_t = self.path.perturb(x, noise.normal(*x.shape), t)
        with torch.no_grad():
            x_s = heun_step(self.teacher.model.denoiser(y).velocity, x_t, t, s, expand(s - t, x))
            goal = self.f(self.target, x_s, s, y)
        c = self.config.huber * math.sqrt(self.space.dim)
        error = (self.f(self.net, x_t, t, y) - goal).square().flatten(1).sum(1)
        loss = ((torch.sqrt(error + c**2) - c) * n).mean() / math.sqrt(self.space.dim)
        terms = {"loss": loss, "gap": error.mean(), "times": torch.tensor(float(n))}
        yield Update(
            self.net,
            loss,
            terms,
            {"lr": self.config.lr * cosine(progress)},
            clip=self.config.clip,
            after=self.move_target,
        )

    @torch.no_grad()
    def move_target(self) -> None:
        torch._foreach_lerp_(list(self.target.parameters()), list(self.net.parameters()), 1 - self.config.decay)

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
        times = [1 - i / plan.steps for i in range(plan.steps)]
        x_t = x = z
        for i, t in enumerate(times):
            row = z.new_full((len(z),), t)
            if i:
                x_t = self.path.perturb(x, noise.normal(*z.shape), row)
            if watch:
                watch(t, x_t)
            x = self.f(self.net, x_t, row, cond)
        if watch:
            watch(0.0, x)
        return x


RECIPES = (
    Recipe(
        "consistency",
        Consistency,
        Config(),
        "distilled from flow-matching; one to a few steps",
        needs={"teacher": Need("flow-matching")},
    ),
)
