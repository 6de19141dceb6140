"""What a decoder says of the data: p(x | out), the law of x given a network's output, for latent-variable models.

Data with levels: every pixel is an independent discretised mixture of logistics, its channels coupled (Salimans et al.
2017, PixelCNN++, arXiv:1701.05517). Real-valued data: independent Gaussians with learned scales.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor

from paradigms.core.data import Space
from paradigms.core.noise import Noise
from paradigms.maths import likelihood as lk


class Observation(ABC):
    """p(x | out): x (B, *space.shape), out (B, *shape), where `shape` is what a network must give for one example."""

    shape: tuple[int, ...]

    @abstractmethod
    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """log p(x | out), (B,): a log mass on data with levels, else a log density."""

    @abstractmethod
    def sample(self, out: Tensor, noise: Noise) -> Tensor:
        """x drawn from p(x | out)."""

    @abstractmethod
    def mean(self, out: Tensor) -> Tensor:
        """The mean of p(x | out)."""


class Gaussian(Observation):
    """Two numbers for each of x's: its mean and its log-scale + 2, along the first axis."""

    def __init__(self, space: Space) -> None:
        self.shape = (2 * space.shape[0], *space.shape[1:])

    @staticmethod
    def _split(out: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = out.chunk(2, dim=1)
        return mean, (log_scale - 2).clamp(-7, 3)

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        return lk.normal_log_prob(x, *self._split(out)).flatten(1).sum(1)

    def sample(self, out: Tensor, noise: Noise) -> Tensor:
        mean, log_scale = self._split(out)
        return mean + log_scale.exp() * noise.normal(*mean.shape)

    def mean(self, out: Tensor) -> Tensor:
        return self._split(out)[0]


class FixedGaussian(Observation):
    """One number for each of x's: its mean, around which it has a given scale."""

    def __init__(self, space: Space, scale: float) -> None:
        self.shape, self.scale = space.shape, scale

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        return lk.normal_log_prob(x, out, math.log(self.scale)).flatten(1).sum(1)

    def sample(self, out: Tensor, noise: Noise) -> Tensor:
        return out + self.scale * noise.normal(*out.shape)

    def mean(self, out: Tensor) -> Tensor:
        return out


class LogisticMixture(Observation):
    """A mixture of `components` logistics for each pixel; a vector is a row of pixels of one channel."""

    def __init__(self, space: Space, components: int) -> None:
        self.space, self.components = space, components
        self.channels, self.pixels = (space.shape[0], space.shape[1:]) if space.is_image else (1, space.shape)
        self.numbers = lk.logistic_mixture_numbers(components, self.channels)
        self.shape = (self.numbers, *self.pixels) if space.is_image else (self.numbers * math.prod(self.pixels),)

    def _split(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        out = out.reshape(-1, self.numbers, *self.pixels)
        return lk.split_logistic_mixture(out, self.components, self.channels)

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        logits, means, log_scales, coefficients = self._split(out)
        x = x.view(-1, self.channels, *self.pixels)
        each = lk.discretised_logistic_mixture(x, logits, means, log_scales, self.space.levels, coefficients)
        return each.flatten(1).sum(1)

    def sample(self, out: Tensor, noise: Noise) -> Tensor:
        logits, means, log_scales, coefficients = self._split(out)
        x = lk.sample_logistic_mixture(logits, means, log_scales, self.space.levels, noise, coefficients=coefficients)
        return x.view(-1, *self.space.shape)

    def mean(self, out: Tensor) -> Tensor:
        logits, means, _, coefficients = self._split(out)
        return lk.logistic_mixture_mean(logits, means, coefficients).view(-1, *self.space.shape)


def observation(space: Space, components: int) -> Observation:
    """The law that such data calls for."""
    return LogisticMixture(space, components) if space.levels else Gaussian(space)
