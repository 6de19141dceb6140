"""Gaussian paths x_t = alpha(t) x + sigma(t) eps from data (t = 0) to noise (t = 1).

What can be learned along one determines all the rest (Kingma & Gao 2023, arXiv:2303.00848; `maths.denoiser`):

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
from functools import cached_property, lru_cache

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

    @abstractmethod
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """t with lambda(t) = log_snr: the inverse of `log_snr`, which falls in t."""

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t) = log alpha^2 / sigma^2."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def angle(self, t: Tensor) -> Tensor:
        """arctan(sigma / alpha), from 0 (data) to pi/2 (noise)."""
        return torch.atan2(self.sigma(t), self.alpha(t))

    def perturb(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return expand(self.alpha(t), x) * x + expand(self.sigma(t), x) * eps

    def velocity(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """u = alpha' x0 + sigma' eps."""
        return expand(self.alpha_dot(t), x0) * x0 + expand(self.sigma_dot(t), x0) * eps

    def score_of_eps(self, eps: Tensor, t: Tensor) -> Tensor:
        return -eps / expand(self.sigma(t), eps)


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

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


@dataclass(frozen=True)
class LinearBeta:
    """beta(t) = beta_min + (beta_max - beta_min) t, and B(t) = int_0^t beta."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + t * ((self.beta_max - self.beta_min) / 2))

    def time_of_integral(self, b: Tensor) -> Tensor:
        """The root of the quadratic B(t) = b, without cancellation."""
        return 2 * b / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * b))


@dataclass(frozen=True)
class VPPath(LinearBeta, GaussianPath):
    """The variance-preserving SDE dx = -beta/2 x dt + sqrt(beta) dw with linear beta(t) (Song et al. 2021, eq. 11, 32).

    alpha = exp(-B/2) and alpha^2 + sigma^2 = 1.
    """

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
        return self.time_of_integral(torch.nn.functional.softplus(-log_snr))


@dataclass(frozen=True)
class SubVPPath(LinearBeta, GaussianPath):
    """The sub-VP SDE (Song et al. 2021, eq. 15, 29): VP's alpha = exp(-B/2) with less noise, sigma = 1 - exp(-B)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.integral(t))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2 * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.beta(t) * self.alpha(t).square()

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # With q = exp(-B) the ratio sigma / alpha = (1 - q) / sqrt(q) = 2 sinh(B / 2).
        return self.time_of_integral(2 * torch.asinh(torch.exp(-log_snr / 2) / 2))


@dataclass(frozen=True)
class VEPath(GaussianPath):
    """The variance-exploding SDE (Song et al. 2021, eq. 9, 30): alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t.

    sigma(0) = sigma_min: this path does not reach the data itself.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._rate * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self._rate * self.sigma(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return (-log_snr / 2 - math.log(self.sigma_min)) / self._rate


@dataclass(frozen=True)
class EDMPath(GaussianPath):
    """alpha = 1 and sigma = sigma_max t (Karras et al. 2022, section 4: sigma itself is the time): dx = eps dsigma."""

    sigma_max: float = 80.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.sigma_max)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr / 2) / self.sigma_max


@dataclass(frozen=True)
class CosinePath(GaussianPath):
    """(alpha, sigma) = (cos, sin) of an angle that grows linearly from angle_0 to angle_1 (Nichol & Dhariwal 2021).

    Their offset near t = 0 is angle_0 > 0.
    """

    angle_0: float = 0.0
    angle_1: float = math.pi / 2

    def _angle(self, t: Tensor) -> Tensor:
        return self.angle_0 + t * (self.angle_1 - self.angle_0)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self._angle(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(self._angle(t))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -(self.angle_1 - self.angle_0) * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return (self.angle_1 - self.angle_0) * self.alpha(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return (torch.atan(torch.exp(-log_snr / 2)) - self.angle_0) / (self.angle_1 - self.angle_0)


@dataclass(frozen=True)
class BetaChainPath(GaussianPath):
    """Ho et al.'s chain: beta_i grows linearly from beta_1 to beta_T, alpha(i/T)^2 = prod_(j <= i) (1 - beta_j).

    alpha^2 + sigma^2 = 1. Between the chain's times log alpha is interpolated linearly.
    """

    T: int = 1000
    beta_1: float = 1e-4
    beta_T: float = 0.02

    @cached_property
    def _tables(self) -> dict[torch.device, Tensor]:
        beta = torch.linspace(self.beta_1, self.beta_T, self.T, dtype=torch.float64)
        table = torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-beta).cumsum(0) / 2])
        return {table.device: table}

    def _log_alpha(self, device: torch.device) -> Tensor:
        """(T + 1,) float64: log alpha at t = 0, 1/T ... 1. Copied to a device once."""
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        return self._tables[device]

    def _table(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(log alpha, d log alpha / dt), both in t's precision."""
        table, place = self._log_alpha(t.device), t.double() * self.T
        i = place.ceil().long().clamp(1, self.T)
        slope = table[i] - table[i - 1]
        value = table[i] + (place - i) * slope
        return value.to(t.dtype), (self.T * slope).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self._table(t)[0])

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self._table(t)[0]))

    def alpha_dot(self, t: Tensor) -> Tensor:
        value, slope = self._table(t)
        return slope * torch.exp(value)

    def sigma_dot(self, t: Tensor) -> Tensor:
        value, slope = self._table(t)
        return -slope * torch.exp(2 * value) / torch.sqrt(-torch.expm1(2 * value))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        table = self._log_alpha(log_snr.device)
        value = -torch.nn.functional.softplus(-log_snr.double()) / 2
        i = torch.searchsorted(-table, -value).clamp(1, self.T)
        t = (i + (value - table[i]) / (table[i] - table[i - 1])) / self.T
        return t.to(log_snr.dtype)


@lru_cache(maxsize=64)
def time_of_ratio(path: GaussianPath, ratio: float) -> float:
    """The time at which sigma / alpha is `ratio`, or 0 where it is larger from the start."""
    return max(0.0, float(path.time_of_log_snr(torch.tensor(-2 * math.log(ratio), dtype=torch.float64))))


# The paths that an ODE may be solved on besides the model's own. In linear coordinates Euler's method is DDIM.
COORDINATES: dict[str, GaussianPath] = {"linear": LinearPath(), "cosine": CosinePath(), "edm": EDMPath()}
