"""Progressive distillation: a student that takes two of its teacher's steps in one, then is the next student's teacher.

Model.      A denoiser along x_t = (1 - t) x + t eps, with the network, the prediction F (v, the velocity, eps ...) and the
            weights of a trained model of any Gaussian path. On this path DDIM's step from t to s is Euler's,
                x_s = x_t - (t - s) u(x_t, t),        u = eps(x_t, t) - x0(x_t, t).

Objective.  A student of N steps starts as its teacher, of 2N steps. At t = t_max i / N, i drawn from 1 ... N, two steps of the
            teacher, to t' = t - t_max / 2N and t'' = t - t_max / N, are one of the student if it has the velocity
                u~ = (x_t - x_t'') / (t - t''),
            that is x0~ = x_t - t u~ and eps~ = x_t + (1 - t) u~ (Salimans & Ho, algorithm 2). The loss is | F - F~ |^2, in
            the weighting that the prediction has of itself. When a round is over the student becomes the teacher and N
            is halved.

Sampling.   DDIM with the last round's number of steps.

Likelihood. None: the student of a few steps no longer follows the teacher's ODE.

References
    T. Salimans, J. Ho. Progressive Distillation for Fast Sampling of Diffusion Models. ICLR 2022. arXiv:2202.00512

Where this differs from the paper
    - DDIM in the coordinates of the linear path, whatever the teacher's: at equal noise-to-signal ratio their states differ by
      a factor, which DDIM does not see. The steps are even in t.
    - Rounds get equal parts of the training, each with a learning rate of its own that falls to zero along half a cosine.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from paradigms import optim
from paradigms.contract import Frozen, Update
from paradigms.core.buffers import number
from paradigms.core.data import Batch, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Plan, Sampler
from paradigms.core.settings import Settings, require, setting
from paradigms.diffusion import Diffusion
from paradigms.maths.denoiser import Denoiser
from paradigms.maths.likelihood import dequantise
from paradigms.maths.paths import LinearPath, expand
from paradigms.maths.solvers import euler_step
from paradigms.recipe import Need, Recipe

LINEAR = LinearPath()


@dataclass(frozen=True)
class Config(Settings):
    steps_start: int = setting(16, least=2, says="steps of the first teacher")
    steps_end: int = setting(1, least=1, says="steps of the last student")
    batch: int = optim.batch(64)
    lr: float = optim.lr(1e-3)
    clip: float = optim.clip(1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.steps_end < self.steps_start, "steps_end must be below steps_start")
        ratio = self.steps_start / self.steps_end
        require(math.log2(ratio).is_integer(), "steps_start must be steps_end times a power of two")

    @property
    def rounds(self) -> int:
        return int(math.log2(self.steps_start / self.steps_end))


class ProgressiveDistillation(Diffusion):
    """`net`: the student's. `teacher`: the network of the student before, first the parent's; `round`: whose student it is.

    Both are part of the state. The parent is held frozen.
    """

    card = Card(
        title="Progressive distillation",
        paper="Salimans & Ho, Progressive Distillation for Fast Sampling of Diffusion Models",
        year=2022,
        url="https://arxiv.org/abs/2202.00512",
        samplers=(
            Sampler(
                "ddim",
                (1, 2, 4, 8),
                order=1,
                note="the last student's number of steps is the one it was trained for",
            ),
        ),
        default=Plan("ddim", 1),
        no_likelihood="the student of a few steps no longer follows the teacher's ODE",
    )

    round: Tensor

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.start = parents["teacher"]
        self.net = copy.deepcopy(self.start.model.net).requires_grad_(True)
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.register_buffer("round", torch.tensor(0))

    def denoiser_of(self, net: nn.Module, y: Tensor | None) -> Denoiser:
        """What the parent knows, with another network, on the linear path."""
        return replace(self.start.model.denoiser(y).on(LINEAR), net=net, null=None)

    def denoiser(self, cond: Tensor | None = None) -> Denoiser:
        return self.denoiser_of(self.net, cond)

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = dequantise(batch.x, self.space.levels, noise), batch.y
        place = progress * self.config.rounds
        k = min(int(place), self.config.rounds - 1)
        # At a round's first step the student, as it stands, is the teacher; it is kept once the step is taken.
        begins = k > number(self.round)
        teacher = self.denoiser_of(self.net if begins else self.teacher, y)
        weights = [p.detach().clone() for p in self.net.parameters()] if begins else []

        n = self.config.steps_start >> (k + 1)
        h = teacher.t_max / n
        t = h * (1 + noise.integers(n, len(x)))
        x_t = LINEAR.perturb(x, noise.normal(*x.shape), t)
        with torch.no_grad():
            u = self.two_steps(teacher, x_t, t, h)
        student = self.denoiser(y)
        goal = student.target(x_t - expand(t, x) * u, x_t + expand(1 - t, x) * u, t)
        loss = (student.output(x_t, t) - goal).square().mean()
        update = self.descent(loss, {"steps": torch.tensor(float(n))}, min(place - k, 1.0))
        yield update._replace(after=(lambda: self.begin(k, weights)) if begins else None)

    @staticmethod
    def two_steps(teacher: Denoiser, x_t: Tensor, t: Tensor, h: float) -> Tensor:
        """u~ (B, ...): the velocity that carries x_t (B, ...) from t (B,) to t - h as two steps of the teacher do."""
        size = expand(torch.full_like(t, -h / 2), x_t)
        middle = euler_step(teacher.velocity, x_t, t, t - h / 2, size)
        return (x_t - euler_step(teacher.velocity, middle, t - h / 2, t - h, size)) / h

    @torch.no_grad()
    def begin(self, k: int, weights: list[Tensor]) -> None:
        """Round k, whose teacher has these weights."""
        torch._foreach_copy_(list(self.teacher.parameters()), weights)
        self.round.fill_(k)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        # The students' own times, t_max i / N.
        plan = replace(plan, options=(*plan.options, ("grid", "trailing"), ("eta", 0.0)))
        return super().sample(z, plan, noise, cond, watch)


RECIPES = (
    Recipe(
        "progressive-distillation", ProgressiveDistillation, Config(), "halves its teacher's steps, round by round",
        needs={"teacher": Need("flow-matching")}, variant_of="consistency",
    ),
    Recipe(
        "progressive-distillation-equal-total", ProgressiveDistillation, Config(),
        "half of the budget for the teacher, half for the students",
        needs={"teacher": Need("flow-matching", share=0.5)}, share=0.5,
        variant_of="consistency", title="Progressive distillation, one budget with its teacher",
    ),
)  # fmt: skip
