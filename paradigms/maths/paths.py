"""Gaussian paths x_t = alpha(t) x + sigma(t) eps from data (t = 0) to noise (t = 1), and the conversions along them.

One network output determines all others (Kingma & Gao 2023, arXiv:2303.00848):

    x0    = (x_t - sigma eps) / alpha            the denoised data
    v     = alpha eps - sigma x0                 Salimans & Ho 2022, arXiv:2202.00512
    score = -eps / sigma                         grad log p_t(x_t)
    u     = alpha' x0 + sigma' eps               the probability-flow velocity dx_t/dt

Times are (B,); data is (B, ...); `expand` puts a (B,) tensor beside it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


def expand(a: Tensor, x: Tensor) -> Tensor:
    """(B,) as (B, 1, ..., 1) with as many dimensions as x."""
    return a.reshape(-1, *(1,) * (x.dim() - 1))


class GaussianPath(ABC):
    """alpha(t), sigma(t) and their derivatives; t (B,) in [0, 1]."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def sigma_dot(self, t: Tensor) -> Tensor: ...

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t) = log alpha^2 / sigma^2."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def perturb(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return expand(self.alpha(t), x) * x + expand(self.sigma(t), x) * eps

    def velocity(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """u = alpha' x0 + sigma' eps."""
        return expand(self.alpha_dot(t), x0) * x0 + expand(self.sigma_dot(t), x0) * eps

    def x0_of_eps(self, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return (x_t - expand(self.sigma(t), x_t) * eps) / expand(self.alpha(t), x_t)

    def eps_of_x0(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        return (x_t - expand(self.alpha(t), x_t) * x0) / expand(self.sigma(t), x_t)

    def score_of_eps(self, eps: Tensor, t: Tensor) -> Tensor:
        return -eps / expand(self.sigma(t), eps)

    def eps_of_score(self, score: Tensor, t: Tensor) -> Tensor:
        return -expand(self.sigma(t), score) * score

    def both_of_v(self, x_t: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, eps) of v = alpha eps - sigma x0, for any path: solve it with x_t = alpha x0 + sigma eps."""
        a, s = expand(self.alpha(t), x_t), expand(self.sigma(t), x_t)
        norm = a.square() + s.square()
        return (a * x_t - s * v) / norm, (s * x_t + a * v) / norm

    def both_of_u(self, x_t: Tensor, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, eps) of u = alpha' x0 + sigma' eps: solve it with x_t = alpha x0 + sigma eps."""
        a, s = expand(self.alpha(t), x_t), expand(self.sigma(t), x_t)
        da, ds = expand(self.alpha_dot(t), x_t), expand(self.sigma_dot(t), x_t)
        det = a * ds - s * da
        return (ds * x_t - s * u) / det, (a * u - da * x_t) / det


@dataclass(frozen=True)
class LinearPath(GaussianPath):
    """alpha = 1 - t, sigma = t (Lipman et al. 2023; Liu et al. 2023): u = eps - x0, a constant along each line."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class VPPath(GaussianPath):
    """The variance-preserving SDE dx = -beta/2 x dt + sqrt(beta) dw with linear beta(t) (Song et al. 2021, eq. 11, 32).

    alpha = exp(-B/2) with B(t) = int_0^t beta = beta_min t + (beta_max - beta_min) t^2 / 2, and alpha^2 + sigma^2 = 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + t * ((self.beta_max - self.beta_min) / 2))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        # -expm1 keeps the digits of 1 - exp(-B) near t = 0.
        return torch.sqrt(-torch.expm1(-self.integral(t)))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2 * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.beta(t) / 2 * self.alpha(t).square() / self.sigma(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """t with lambda(t) = log_snr: B = softplus(-lambda), then the root of the quadratic."""
        b = torch.nn.functional.softplus(-log_snr)
        return 2 * b / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * b))


@dataclass(frozen=True)
class CosinePath(GaussianPath):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) (Nichol & Dhariwal 2021, without its offset): an arc of a circle."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t * (math.pi / 2))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * (math.pi / 2))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -(math.pi / 2) * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return (math.pi / 2) * self.alpha(t)
