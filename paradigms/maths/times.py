"""Where along a path a network is trained: distributions of t on [0, 1], each as its quantile function.

A loss that is plain in t under another distribution than the uniform one is a weighted loss: its minimiser at each t is
the same, the network's effort goes elsewhere.

References
    Esser et al. 2024, arXiv:2403.03206 (logit-normal, section 3.1)
    Karras et al. 2022, arXiv:2206.00364 (log-normal sigma with P_mean = -1.2, P_std = 1.2, which Lipman et al. 2024,
        arXiv:2412.06264, take as "skewed" times of a linear path: t / (1 - t) = sigma)
    Lee et al. 2024, arXiv:2405.20320 (U-shaped, section 4.1, for rectified flows)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TIMES", "LogitNormal", "Times", "UShaped", "Uniform"]


class Times(ABC):
    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """The time t in [0, 1] below which a part u in [0, 1) of all times lie; any shape."""


@dataclass(frozen=True)
class Uniform(Times):
    def quantile(self, u: Tensor) -> Tensor:
        return u


@dataclass(frozen=True)
class LogitNormal(Times):
    """log (t / (1 - t)) ~ N(mean, std^2): on the linear path, log sigma / alpha. mean < 0 leans towards the data."""

    mean: float = 0.0
    std: float = 1.0

    def quantile(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@dataclass(frozen=True)
class UShaped(Times):
    """p(t) proportional to cosh(a (t - 1/2)): most at both ends."""

    a: float = 4.0

    def quantile(self, u: Tensor) -> Tensor:
        return 0.5 + torch.asinh((2 * u - 1) * math.sinh(self.a / 2)) / self.a


TIMES: dict[str, Times] = {
    "uniform": Uniform(),
    "logit-normal": LogitNormal(),
    "skewed": LogitNormal(-1.2, 1.2),
    "u-shaped": UShaped(),
}
