"""What the models of a Gaussian path share: training by regression, sampling and likelihoods by what a network expects.

Five bases: each of the first three adds to the one before, the last two add to `Regression`.

    FromNoise      one network `net` makes data of noise shaped as the data: its optimizer, its prior, a descent step.
    Diffusion      the network stands behind a `Denoiser`: every sampler and likelihood of a Gaussian path follows from it.
    Regression     the network is trained from data on what the denoiser's prediction should be,
                       E_{t, x, eps} w(t) || F(x_t, t, y) - F* ||^2,      x_t = alpha x + sigma eps,
                   with labels withheld from a part of the examples, so that it can be guided.
    Matching       what is predicted is the velocity of a path, at times of a given density (flow matching).
    Measured       the scale of the data and the largest distance in it are measured before training.

A paradigm's own file says along which path, at which times, with which weight, and what the network predicts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paradigms import optim
from paradigms.backbones import build
from paradigms.contract import Frozen, Paradigm, Update
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Estimate, Kind, Plan
from paradigms.core.settings import Settings, setting
from paradigms.maths import bounds, samplers
from paradigms.maths.denoiser import Denoiser, Velocity
from paradigms.maths.guidance import null_label, with_null, withheld
from paradigms.maths.likelihood import dequantise
from paradigms.maths.paths import GaussianPath, expand
from paradigms.maths.times import TIMES
from paradigms.optim import adamw, cosine

__all__ = ["Diffusion", "FromNoise", "Matching", "Measured", "Regression", "Timed", "Training"]

EXAMPLES = 1000  # between which distances are measured


@dataclass(frozen=True)
class Training(Settings):
    """The settings of every `Regression`."""

    batch: int = optim.batch(64)
    lr: float = optim.lr(2e-3)
    dropout: float = optim.dropout(0.0)
    weight_decay: float = optim.weight_decay(0.0)
    clip: float = optim.clip(1.0)
    backbone: str = optim.backbone("auto")
    unlabelled: float = setting(
        0.1, least=0, below=1, conditional=True, says="the part of the examples whose label is withheld"
    )


@dataclass(frozen=True)
class Timed(Training):
    """The settings of a training whose times have a density that one chooses."""

    times: str = setting("uniform", among=TIMES, says="density of t in training; skewed: towards the data")


class FromNoise(Paradigm):
    """A model whose one network `net` makes data of standard normal noise, shaped as the data."""

    net: nn.Module

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        decay = getattr(self.config, "weight_decay", 0.0)  # models of few steps have none
        return {self.net: adamw(self.net, self.config.lr, weight_decay=decay)}

    def prior(self, n: int, noise: Noise) -> Tensor:
        return noise.normal(n, *self.space.shape)

    def descent(self, loss: Tensor, terms: Mapping[str, Tensor], progress: float) -> Update:
        """One step of `net` down the loss, with a learning rate that falls to zero along half a cosine."""
        lr = self.config.lr * cosine(progress)
        return Update(self.net, loss, {"loss": loss, **terms}, {"lr": lr}, clip=self.config.clip)


class Diffusion(FromNoise):
    """A model of a Gaussian path: sampled and scored by its `Denoiser` alone.

    dequantised: its network was trained on uniformly dequantised pixels, whose density its bounds are then about.
    """

    dequantised: ClassVar[bool] = True

    @abstractmethod
    def denoiser(self, cond: Tensor | None = None) -> Denoiser:
        """What the network expects of noised data, with labels `cond` (B,) or without."""

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
        if not self.card.likelihoods:
            return super().log_likelihood(x, kind, noise, cond)
        return bounds.log_likelihood(self.denoiser(cond), x, self.space, kind, noise, self.dequantised)


class Regression(Diffusion):
    """A diffusion trained from data. `net`: (c_in x_t, clock(t), y) -> F.

    null:    the label for none, or None of a network that is never trained without labels.
    learned: the network puts out as many numbers more, for the variance of a step.
    """

    learned: ClassVar[bool] = False

    def __init__(self, config: Training, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.null = null_label(space, config.unlabelled)
        labelled, outputs = with_null(space, self.null), 2 if self.learned else 1
        self.net = build.denoiser(labelled, width, config.dropout, config.backbone, outputs)

    @abstractmethod
    def times(self, d: Denoiser, n: int, noise: Noise) -> Tensor:
        """The times (n,) at which a batch is trained, drawn between `d.t_min` and `d.t_max`."""

    def couple(self, x: Tensor, eps: Tensor) -> Tensor:
        """The noise (B, ...) that goes with each example: that of the batch, in this or another order."""
        return eps

    def weight(self, d: Denoiser, t: Tensor) -> Tensor | None:
        """The weight (B,) of the squared error at times t (B,); None is 1."""
        return None

    def loss(self, d: Denoiser, x: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss () of examples x with noise eps, (B, ...), at times t (B,), and further terms for the log."""
        error = (d.output(d.path.perturb(x, eps, t), t) - d.target(x, eps, t)).square()
        weight = self.weight(d, t)
        return (error if weight is None else expand(weight, x) * error).mean(), {}

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x = dequantise(batch.x, self.space.levels, noise) if self.dequantised else batch.x
        d = self.denoiser(withheld(batch.y, self.null, self.config.unlabelled, noise))
        eps = self.couple(x, noise.normal(*x.shape))
        loss, terms = self.loss(d, x, eps, self.times(d, len(x), noise))
        yield self.descent(loss, terms, progress)


class Matching(Regression):
    """Regression of a path's velocity. `net`: (x_t, t, y) -> u. The prior is N(0, I), t = 0 is data."""

    config: Timed
    t_min: float = 0.0

    @property
    @abstractmethod
    def path(self) -> GaussianPath: ...

    def denoiser(self, cond: Tensor | None = None) -> Denoiser:
        return Denoiser(self.net, self.path, Velocity(), t_min=self.t_min, y=cond, null=self.null)

    def times(self, d: Denoiser, n: int, noise: Noise) -> Tensor:
        return d.t_min + (1 - d.t_min) * TIMES[self.config.times].quantile(noise.uniform(n))


class Measured(Regression):
    """A regression whose noise levels follow the data.

    sigma_data: the standard deviation of the data. sigma_max: the largest distance between two examples (technique 1 of
    Song & Ermon 2020, arXiv:2006.09011). Both of `EXAMPLES` examples, drawn before training.
    largest:    sigma_max of a model that has seen no data yet.
    """

    largest: ClassVar[float]
    sigma_data: Tensor
    sigma_max: Tensor

    def __init__(self, config: Training, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.register_buffer("sigma_data", torch.tensor(1.0))
        self.register_buffer("sigma_max", torch.tensor(self.largest))

    def prepare(self, data: Data, noise: Noise) -> Data:
        x = data.batch(noise.integers(len(data), EXAMPLES).to(data.x.device)).x.flatten(1)
        self.sigma_data.copy_(x.std())
        self.sigma_max.copy_(torch.cdist(x, x).amax())
        return data
