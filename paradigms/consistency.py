"""Consistency: one network that jumps from any point of an ODE path to the path's end, distilled or trained from data.

Model.      Along x_t = (1 - t) x + t eps, with D(x_t, t) what a denoiser expects of x and s = t / (1 - t) its noise,
                f(x_t, t) = (s_min / s) x_t / (1 - t) + (1 - s_min / s) D(x_t, t),
            an Euler step of the ODE from s to s_min. f(x_t, t_min) = x_t / (1 - t_min), the identity, holds by
            construction (Song et al. 2023, eq. 5). Where t_min = 0 it is f = D = x_t - t F, F a mean velocity from t to 0.

Objective.  For neighbouring times r < t of one path, f- a copy of f without gradient and d the pseudo-Huber distance
            d(a, b) = sqrt(|a - b|^2 + c^2) - c,
                E d( f(x_t, t), f-(x_r, r) ) / (t - r).
            Distillation: x_r is one Heun step of a teacher from x_t (eq. 7), f- an exponential average.
            Training: x_r has the same x and eps as x_t (improved training, eq. 2-5), f- the weights as they are. Times lie
            on a grid whose number of steps doubles as training goes on: little variance first, little bias at last.
            Easy: the same from a trained denoiser's weights, with r -> t (Geng et al., eq. 9-10),
                1 - s_r / s = n(s) / q^(stage + 1),    n(s) = 1 + k sigmoid(-b s),
            which begins with r = 0 (the denoiser's own loss) and ends with a nearly continuous one.

Sampling.   One step: f(z, t_max); easy: f(t z, t), with t at the s below which 98 % of the training lies. More
            (algorithm 1): noise the result back to a lower time and map again.

Likelihood. None: the model defines samples, not a density.

References
    Y. Song, P. Dhariwal, M. Chen, I. Sutskever. Consistency Models. ICML 2023. arXiv:2303.01469
    Y. Song, P. Dhariwal. Improved Techniques for Training Consistency Models. ICLR 2024. arXiv:2310.14189
    Z. Geng, A. Pokle, W. Luo, J. Lin, J. Z. Kolter. Consistency Models Made Easy. ICLR 2025. arXiv:2406.14548

Where this differs from the papers
    - One path for all parents: at equal s the states of two paths differ by a factor, so a teacher of any Gaussian path is
      asked in linear coordinates. For an EDM network c_out is then the paper's, c_skip = (s s_min + sigma_data^2) /
      (s^2 + sigma_data^2), which differs from the paper's by at most the order of s_min and starts f at the teacher's
      own Euler step.
    - The grid is even in t, not Karras et al.'s in s. The curriculum and the pseudo-Huber distance, proposed for training,
      serve in distillation too.
    - Easy: c is that of improved training, not 0, at which a perfect f has no gradient. No dropout.
    - Easy: samples begin at s = 20, above which 2 % of the draws log s ~ N(-1.1, 2^2) lie, where Geng et al.'s code begins
      at 80, with 0.3 % (0.8 % above 40): at a small budget so few draws leave f untrained there. The price is the distance of
      x_20 / 20 from N(0, I), which is data / 20.
    - f is never clipped; Song et al.'s sampler clips it to [-1, 1] after every step by default. Rounding to the data's levels
      does that to the last step, so that one step is the same. Clipping makes two to eight steps worse.
      `docs/notes.md` has the measurements behind both choices.
    - Distillation: the target's average has the paper's rate for ImageNet, 0.95 (0 on CIFAR-10); its loss is divided by t - r,
      where the paper's has weight 1 on a grid of fixed size (18 or 40 steps).
    - Training: 8 to 128 steps (the paper's 10 to 1,280), f = x_t - t F down to t = 0 for EDM's c_skip and c_out down to
      s = 0.002, no dropout (0.3) and AdamW for RAdam.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from paradigms import optim
from paradigms.backbones import build
from paradigms.contract import Frozen, Update
from paradigms.core.data import Batch, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Plan, Sampler
from paradigms.core.settings import Settings, require, setting
from paradigms.diffusion import FromNoise
from paradigms.maths.denoiser import Denoiser, Velocity
from paradigms.maths.likelihood import dequantise
from paradigms.maths.paths import LinearPath, expand
from paradigms.maths.solvers import heun_step
from paradigms.recipe import Need, Recipe

LINEAR = LinearPath()
HIGHEST = 2.05  # of log s, in standard deviations from its mean: 2 % of easy tuning's draws lie above


# ------------------------------------------------------------------------------------------------------ the map f


def jump(d: Denoiser, x_t: Tensor, t: Tensor) -> Tensor:
    """f(x_t, t) of a denoiser on the linear path: x_t (B, ...) carried to s_min; t (B,) in [t_min, t_max]."""
    x0, _ = d.both(x_t, t)
    if d.t_min == 0:
        return x0
    t_min = t.new_full((), d.t_min)
    # Of equal operations, so that at t = t_min it is 1 to the last digit and the network has no say.
    share = ((1 - t) / t) / ((1 - t_min) / t_min)
    return expand(t_min / (1 - t_min) / t, x_t) * x_t + expand(1 - share, x_t) * x0


def noised(d: Denoiser, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """What f carries to x, drawn anew: x has noise s_min already, so sqrt(s^2 - s_min^2) is added. eps as x; t (B,)."""
    rest = (t.square() - ((1 - t) * (d.t_min / (1 - d.t_min))).square()).clamp_min(0).sqrt()
    return expand(1 - t, x) * x + expand(rest, x) * eps


def pseudo_huber(error: Tensor, c: float) -> Tensor:
    """sqrt(|e|^2 + c^2) - c of squared errors |e|^2 (B,)."""
    return torch.sqrt(error + c**2) - c


def doubled(start: int, end: int, progress: float) -> int:
    """start, 2 start, ... end, each for an equal part of the training."""
    doublings = int(math.log2(end / start))
    return start * 2 ** min(int(progress * (doublings + 1)), doublings)


def check_steps(config: Any) -> None:
    """Raises ValueError for a config whose steps_start does not double up to its steps_end; for its __post_init__."""
    require(config.steps_start <= config.steps_end, "steps_start must be at most steps_end")
    ratio = config.steps_end / config.steps_start
    require(math.log2(ratio).is_integer(), "steps_end must be steps_start times a power of two")


def _huber(default: float) -> Any:
    return setting(default, above=0, says="c of the pseudo-Huber distance in units of sqrt(D)")


CARD = Card(
    title="Consistency model (distilled)",
    paper="Song et al., Consistency Models",
    year=2023,
    url="https://arxiv.org/abs/2303.01469",
    samplers=(
        Sampler(
            "multistep",
            (1, 2, 4, 8),
            stochastic=True,
            options={"times": "even"},
            falling={"times": (0.001, 0.999)},
            note="1 is the one-step map; times: of the later steps, noise as its share t of the linear path",
        ),
    ),
    default=Plan("multistep", 1),
    no_likelihood="a consistency model defines samples, not a density",
)


class Consistency(FromNoise):
    """What the three share: `net` behind a denoiser on the linear path, and the sampler."""

    path = LINEAR

    @property
    def highest(self) -> float:
        """The noise s at which samples begin, where the path has as much."""
        return math.inf

    @abstractmethod
    def denoiser_of(self, net: nn.Module, y: Tensor | None) -> Denoiser:
        """The denoiser that f is made of, with `net` as its network, on the linear path."""

    def f(self, net: nn.Module, x_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return jump(self.denoiser_of(net, y), x_t, t)

    def jump_to_data(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        d = self.denoiser_of(self.net, cond)
        return jump(d, x_t, t.clamp(d.t_min, d.t_max))

    def update(
        self, f: Tensor, goal: Tensor, weight: Tensor | float, progress: float, terms: dict[str, Tensor]
    ) -> Update:
        """A step towards f = goal, (B, ...); weight (B,)."""
        error = (f - goal).square().flatten(1).sum(1)
        scale = math.sqrt(self.space.dim)
        loss = (weight * pseudo_huber(error, self.config.huber * scale)).mean() / scale
        return self.descent(loss, {"gap": error.mean(), **terms}, progress)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        d = self.denoiser_of(self.net, cond)
        first = min(d.t_max, 1 / (1 + 1 / self.highest))
        even = tuple(first * (1 - i / plan.steps) for i in range(1, plan.steps))
        times = (first, *(min(max(t, d.t_min), first) for t in plan.numbers("times", even)))
        x_t, x = first * z, z
        for i, t in enumerate(times):
            row = z.new_full((len(z),), t)
            if i:
                x_t = noised(d, x, noise.normal(*z.shape).to(z), row)
            if watch:
                watch(t, x_t)
            x = jump(d, x_t, row)
        if watch:
            watch(0.0, x)
        return x


# --------------------------------------------------------------------------------------------------- distillation


@dataclass(frozen=True)
class Config(Settings):
    steps_start: int = setting(8, least=1, says="steps of the grid of times at the start")
    steps_end: int = setting(64, least=1, says="steps of the grid of times at the end")
    decay: float = setting(
        0.95, least=0, below=1, says="of the target's average; 0: the target is the network without gradient"
    )
    huber: float = _huber(0.03)
    batch: int = optim.batch(64)
    lr: float = optim.lr(1e-3)
    clip: float = optim.clip(1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self)


class ConsistencyDistillation(Consistency):
    """`net`: F, started from the teacher's. `target`: f-'s, its average. The teacher is held frozen."""

    card = CARD

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.teacher = parents["teacher"]
        self.net = copy.deepcopy(self.teacher.model.net).requires_grad_(True)
        self.target = copy.deepcopy(self.net).requires_grad_(False)

    def denoiser_of(self, net: nn.Module, y: Tensor | None) -> Denoiser:
        return replace(self.teacher.model.denoiser(y).on(LINEAR), net=net, null=None)

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = dequantise(batch.x, self.space.levels, noise), batch.y
        teacher = self.teacher.model.denoiser(y).on(LINEAR)
        n = doubled(self.config.steps_start, self.config.steps_end, progress)
        i = 1 + noise.integers(n, len(x))
        span = teacher.t_max - teacher.t_min
        t, r = (teacher.t_min + span * (k / n) for k in (i, i - 1))
        x_t = LINEAR.perturb(x, noise.normal(*x.shape), t)
        with torch.no_grad():
            x_r = heun_step(teacher.velocity, x_t, t, r, expand(r - t, x))
            goal = self.f(self.target, x_r, r, y)
        f = self.f(self.net, x_t, t, y)
        update = self.update(f, goal, n / span, progress, {"times": torch.tensor(float(n))})
        yield update._replace(after=self.move_target)

    @torch.no_grad()
    def move_target(self) -> None:
        torch._foreach_lerp_(list(self.target.parameters()), list(self.net.parameters()), 1 - self.config.decay)


# ------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class TrainingConfig(Settings):
    steps_start: int = setting(8, least=1, says="steps of the grid of times at the start")
    steps_end: int = setting(128, least=1, says="steps of the grid of times at the end")
    P_mean: float = setting(-1.1, says="mean of log s")
    P_std: float = setting(2.0, above=0, says="standard deviation of log s")
    huber: float = _huber(0.00054)
    batch: int = optim.batch(64)
    lr: float = optim.lr(1e-3)
    clip: float = optim.clip(1.0)
    backbone: str = optim.backbone("auto")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self)


class ConsistencyTraining(Consistency):
    """Improved training from data alone. `net`: F of f = x_t - t F."""

    card = replace(
        CARD,
        title="Consistency model (improved training)",
        paper="Song & Dhariwal, Improved Techniques for Training Consistency Models",
        year=2024,
        url="https://arxiv.org/abs/2310.14189",
    )

    def __init__(self, config: TrainingConfig, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.net = build.denoiser(space, width, 0.0, config.backbone)

    def denoiser_of(self, net: nn.Module, y: Tensor | None) -> Denoiser:
        return Denoiser(net, LINEAR, Velocity(), y=y)

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = dequantise(batch.x, self.space.levels, noise), batch.y
        eps, log_s = noise.normal(*x.shape), self.config.P_mean + self.config.P_std * noise.normal(len(x))
        n = doubled(self.config.steps_start, self.config.steps_end, progress)
        # The interval of the grid that a log-normal s falls into.
        i = (torch.sigmoid(log_s) * n).ceil().clamp(1, n)
        t, r = i / n, (i - 1) / n
        with torch.no_grad():
            goal = self.f(self.net, LINEAR.perturb(x, eps, r), r, y)
        f = self.f(self.net, LINEAR.perturb(x, eps, t), t, y)
        yield self.update(f, goal, float(n), progress, {"times": torch.tensor(float(n))})


# ----------------------------------------------------------------------------------------------------------- easy


@dataclass(frozen=True)
class EasyConfig(Settings):
    P_mean: float = setting(-1.1, says="mean of log s")
    P_std: float = setting(2.0, above=0, says="standard deviation of log s")
    q: float = setting(2.0, above=1, says="1 - s_r / s falls as q^-stage")
    stages: int = setting(8, least=1, says="stages over which 1 - s_r / s falls")
    k: float = setting(8.0, least=0, says="of n(s)")
    b: float = setting(1.0, says="of n(s)")
    huber: float = _huber(0.00054)
    batch: int = optim.batch(64)
    lr: float = optim.lr(1e-3)
    clip: float = optim.clip(1.0)


class EasyConsistency(Consistency):
    """`net`: F, started from the parent's, whose path and preconditioning f goes on with."""

    card = replace(
        CARD,
        title="Easy consistency tuning (ECT)",
        paper="Geng et al., Consistency Models Made Easy",
        year=2025,
        url="https://arxiv.org/abs/2406.14548",
    )

    def __init__(self, config: EasyConfig, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.start = parents["start"]
        self.net = copy.deepcopy(self.start.model.net).requires_grad_(True)

    @property
    def highest(self) -> float:
        return math.exp(self.config.P_mean + HIGHEST * self.config.P_std)

    def denoiser_of(self, net: nn.Module, y: Tensor | None) -> Denoiser:
        return replace(self.start.model.denoiser(y).on(LINEAR), net=net, null=None)

    def times(self, log_s: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """s and s_r (B,), s_r < s; log_s (B,)."""
        stage = min(int(progress * self.config.stages), self.config.stages - 1)
        s = log_s.exp()
        gap = (1 + self.config.k * torch.sigmoid(-self.config.b * s)) / self.config.q ** (stage + 1)
        return s, s * (1 - gap).clamp_min(0)

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = dequantise(batch.x, self.space.levels, noise), batch.y
        eps, log_s = noise.normal(*x.shape), self.config.P_mean + self.config.P_std * noise.normal(len(x))
        d = self.denoiser_of(self.net, y)
        s, s_r = self.times(log_s, progress)
        t, r = ((v / (1 + v)).clamp(d.t_min, d.t_max) for v in (s, s_r))
        with torch.no_grad():
            goal = jump(d, LINEAR.perturb(x, eps, r), r)
        f = jump(d, LINEAR.perturb(x, eps, t), t)
        yield self.update(f, goal, 1 / (s - s_r), progress, {"gap_s": (1 - s_r / s).mean()})


FLOW = {"teacher": Need("flow-matching")}

RECIPES = (
    Recipe(
        "consistency", ConsistencyDistillation, Config(), "distilled from flow-matching; one to a few steps", needs=FLOW,
        aliases=("consistency-distillation",),
    ),
    Recipe(
        "consistency-equal-total", ConsistencyDistillation, Config(), "half of the budget for the teacher, half for the map",
        needs={"teacher": Need("flow-matching", share=0.5)}, share=0.5,
        variant_of="consistency", title="Consistency model (distilled), one budget with its teacher",
    ),
    Recipe(
        "consistency-edm", ConsistencyDistillation, Config(), "distilled from edm", needs={"teacher": Need("edm")},
        variant_of="consistency", title="Consistency model (distilled from EDM)",
    ),
    Recipe(
        "consistency-training", ConsistencyTraining, TrainingConfig(), "trained from data alone, without a teacher",
        variant_of="consistency", aliases=("ict",),
    ),
    Recipe(
        "easy-consistency", EasyConsistency, EasyConfig(), "tuned from a trained flow-matching model, r -> t",
        needs={"start": Need("flow-matching")}, variant_of="consistency", aliases=("ect",),
    ),
    Recipe(
        "easy-consistency-edm", EasyConsistency, EasyConfig(), "tuned from a trained edm model, r -> t",
        needs={"start": Need("edm")}, variant_of="consistency", title="Easy consistency tuning (ECT) of EDM",
    ),
    Recipe(
        "easy-consistency-equal-total", EasyConsistency, EasyConfig(), "half of the budget for the start, half for the tuning",
        needs={"start": Need("flow-matching", share=0.5)}, share=0.5,
        variant_of="consistency", title="Easy consistency tuning (ECT), one budget with its start",
    ),
)  # fmt: skip
