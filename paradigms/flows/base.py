"""The noise at the end of a flow: independent coordinates of a normal or of Student's t distribution.

The heavier the tails, the less a held-out example costs that falls far outside of what was seen (Alexanderson & Henter
2020, arXiv:2006.06599).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from paradigms.core.noise import Noise
from paradigms.maths.likelihood import standard_normal_log_prob


class Base(ABC):
    """A density of z (B, D) with independent coordinates."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log p_0(z), (B,)."""

    @abstractmethod
    def draw(self, n: int, dim: int, noise: Noise) -> Tensor:
        """n draws of z, (n, dim)."""


class Normal(Base):
    """N(0, I)."""

    def log_prob(self, z: Tensor) -> Tensor:
        return standard_normal_log_prob(z)

    def draw(self, n: int, dim: int, noise: Noise) -> Tensor:
        return noise.normal(n, dim)


class Student(Base):
    """Student's t with an even number nu of degrees of freedom: tails that fall as |z|^-(nu + 1)."""

    def __init__(self, nu: int) -> None:
        self.nu = nu

    def log_prob(self, z: Tensor) -> Tensor:
        half = (self.nu + 1) / 2
        constant = math.lgamma(half) - math.lgamma(self.nu / 2) - 0.5 * math.log(self.nu * math.pi)
        return (constant - half * torch.log1p(z.square() / self.nu)).sum(1)

    def draw(self, n: int, dim: int, noise: Noise) -> Tensor:
        # normal / sqrt(chi^2 / nu); half of a chi^2 of nu degrees is a sum of nu / 2 exponentials.
        half = -torch.log1p(-noise.uniform(n, dim, self.nu // 2)).sum(2)
        return noise.normal(n, dim) * (0.5 * self.nu / half.clamp_min(1e-6)).sqrt()
