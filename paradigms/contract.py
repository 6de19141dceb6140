"""The contract every paradigm keeps: what is trained, what samples, and what one model asks of another.

A paradigm yields each loss together with the module that the loss trains; whoever drives it (the trainer) descends and
resumes the generator. So one loop trains a GAN (two optimizers, the second loss sees the stepped critic), a consistency
model (a target moved after each step) and a plain regression alike, and never asks which of them it holds.

Its words are those of `paradigms.core`: data, noise, plans, settings. Conventions: t = 0 is data, t = 1 is noise. Images
are (B, C, H, W) float32 in [-1, 1] at bin centres; vectors are (B, D). Log-likelihoods are nats per example.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer

from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Estimate, Kind, Plan
from paradigms.maths.denoiser import Denoiser
from paradigms.maths.observation import Observation
from paradigms.maths.paths import GaussianPath

__all__ = [
    "Codec",
    "Denoises",
    "Frozen",
    "Jumps",
    "Paradigm",
    "Trainable",
    "Update",
]


# ------------------------------------------------------------------------------------------------------- training


class Update(NamedTuple):
    """One descent step asked for by a paradigm.

    module:     whose parameters this loss trains; a key of `Trainable.optimizers()`.
    loss:       scalar.
    terms:      scalars for the log.
    settings:   optimizer settings for this step ("lr", "betas" ...), set before it; lr is multiplied by the warm-up.
    clip:       largest gradient norm; larger ones are scaled down.
    skip_above: a step whose gradient norm exceeds this is skipped, counted and logged.
    after:      called once after the optimizer step: a consistency target, a codebook.
    """

    module: nn.Module
    loss: Tensor
    terms: Mapping[str, Tensor] = {}
    settings: Mapping[str, Any] = {}
    clip: float = math.inf
    skip_above: float = math.inf
    after: Callable[[], None] | None = None


class Trainable(nn.Module, ABC):
    """Anything the trainer trains: paradigms, and codecs or noisy classifiers, which are trained but never ranked.

    `width` scales every network; the runner searches for the width whose trained parameters meet the target.

    fp32:      why products in bfloat16 are wrong for it, in words for the user; "" where they are not.
    eager:     its networks that can not be compiled, by attribute: those whose gradient is differentiated again, and
               those differentiated forward. {"*"}: all.
    idle:      its parameters, by name, that its losses need not depend on: no gradient need reach them.
    noiseless: its losses draw nothing from the noise.
    precision: what this model computes its networks in, "fp32", "tf32" or "bf16"; set by whoever builds it.
    """

    fp32: ClassVar[str] = ""
    eager: ClassVar[frozenset[str]] = frozenset()
    idle: ClassVar[frozenset[str]] = frozenset()
    noiseless: ClassVar[bool] = False
    precision: str = "fp32"

    def __init__(self, config: Any, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__()
        self.config = config
        self.space = space

    @staticmethod
    def inside() -> str:
        """The recipe of the model that this one holds inside itself, whose settings stand in `config.inner`; "" for none."""
        return ""

    @staticmethod
    def refuses(config: Any, space: Space) -> str | None:
        """Why this paradigm can not model such data, in words for the user; None when it can."""
        return None

    @abstractmethod
    def optimizers(self) -> dict[nn.Module, Optimizer]:
        """The optimizer of each trained module. Created anew by the caller, once per run."""

    @abstractmethod
    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        """The losses of one training step, in order. `progress` = step / steps in [0, 1].

        No side effects outside `Update.after`: a step may be run only to count its FLOPs.
        """

    def prepare(self, data: Data, noise: Noise) -> Data:
        """Called once before step 0, before the average is copied: data-dependent initialisation, drawn pairs, codes.

        Returns the data to train on.
        """
        return data

    @property
    def core(self) -> Trainable:
        """The model proper, in its own units: itself, but for models of vectors (`paradigms.standardise`)."""
        return self

    def to_core(self, x: Tensor) -> Tensor:
        """Data (B, *shape) in the units of `core`."""
        return x

    def from_core(self, z: Tensor) -> Tensor:
        """What `core` makes (B, *shape), in the units of the data."""
        return z

    def symptom(self, terms: Mapping[str, float]) -> str | None:
        """What the terms of the log say is wrong with the model, in words for the user; None when nothing is.

        terms: means of `Update.terms` over the last part of the training. Collapse of samples or of a latent shows
        there long before a score does.
        """
        return None


class Frozen:
    """A trained parent held by a child: its averaged weights, in eval mode, without gradients.

    images: the examples that it was trained on, repetitions counted: what its training cost, whatever the budget is in.
    Not a Module on purpose: a child that stores it does not train, average or save it.
    """

    def __init__(self, model: Trainable, images: int = 0) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.images = images


# -------------------------------------------------------------------------------------------- sampling, likelihood


class Paradigm(Trainable):
    """A way of learning to generate. Every subclass is final."""

    card: Card

    @abstractmethod
    def prior(self, n: int, noise: Noise) -> Tensor:
        """n draws of z, the noise that `sample` starts from."""

    @abstractmethod
    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        """Samples (B, *shape) from prior draws z. `watch(t, x_t)` sees the intermediate states where there are any."""

    def check(self, plan: Plan) -> None:
        """Raises BadInput when this model, as it was trained, can not draw by a plan that its card offers."""

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        """Log-likelihood of bin-centred (or real) x (B, *shape): a log mass on data with levels, else a log density."""
        raise NotImplementedError(self.card.no_likelihood)


@runtime_checkable
class Denoises(Protocol):
    """What a model needs of its teacher: all that it knows of noised data, and the network behind it, to start from."""

    net: nn.Module

    def denoiser(self, cond: Tensor | None = None) -> Denoiser: ...


@runtime_checkable
class Jumps(Protocol):
    """What a model of few steps makes of noised data x_t = alpha x + sigma eps: where the path through it ends."""

    path: GaussianPath

    def jump_to_data(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Codec(Protocol):
    """What a model of codes needs of its first stage: q(z | x) = N(mu, sd^2), and p(x | z).

    space, latent: of x and of z. law: p(x | z), given what `decode` makes of z.
    """

    space: Space
    latent: Space
    law: Observation

    def encode(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """mu and log sd, each (B, *latent.shape)."""
        ...

    def decode(self, z: Tensor, cond: Tensor | None = None) -> Tensor: ...
