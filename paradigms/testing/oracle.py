"""Perfect networks: the closed-form answer for Gaussians and mixtures of them, to put where a trained network would stand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paradigms.backbones import Backbone
from paradigms.maths.denoiser import Prediction
from paradigms.maths.paths import GaussianPath

__all__ = ["Exact", "Mixture"]


class Mixture:
    """Gaussians with diagonal covariances, and everything a perfect network knows of them; float64."""

    def __init__(self, weights: list[float], means: list[list[float]], stds: list[list[float]]) -> None:
        self.weights, self.means, self.stds = (torch.tensor(a, dtype=torch.float64) for a in (weights, means, stds))

    def sample(self, n: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[k] + self.stds[k] * noise

    @property
    def mean(self) -> Tensor:
        return (self.weights[:, None] * self.means).sum(0)

    @property
    def cov(self) -> Tensor:
        off = self.means - self.mean
        return torch.diag((self.weights[:, None] * self.stds.square()).sum(0)) + (self.weights * off.T) @ off

    def _parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, K) log weight x density, and (B, K, D) centred x and variance, of alpha x + sigma eps."""
        alpha, sigma = alpha.reshape(-1, 1, 1), sigma.reshape(-1, 1, 1)
        var = (alpha * self.stds).square() + sigma.square()
        off = x[:, None] - alpha * self.means
        normal = torch.distributions.Normal(torch.zeros(()), var.sqrt(), validate_args=False)
        return normal.log_prob(off).sum(2) + self.weights.log(), off, var

    def log_prob(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """The log density of alpha x + sigma eps."""
        return self._parts(x, torch.tensor(alpha).double(), torch.tensor(sigma).double())[0].logsumexp(1)

    def posterior(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """E[data | x] and E[noise | x]; alpha, sigma (B,)."""
        log, off, var = self._parts(x, alpha, sigma)
        share = log.softmax(1)[:, :, None]
        a, s = alpha.reshape(-1, 1, 1), sigma.reshape(-1, 1, 1)
        x0 = (share * (self.means + a * self.stds.square() * off / var)).sum(1)
        return x0, (share * s * off / var).sum(1)


class Exact(Backbone):
    """The network that a trained one approaches: the posterior mean of its `prediction`, given (c_in x_t, clock(t)).

    time: the inverse of the clock.
    """

    def __init__(
        self,
        data: Mixture,
        path: GaussianPath,
        prediction: Prediction,
        time: Callable[[Tensor], Tensor] = lambda told: told,
    ) -> None:
        super().__init__()
        self.data, self.path, self.prediction, self.time = data, path, prediction, time

    def forward(self, x: Tensor, told: Tensor, y: Tensor | None = None) -> Tensor:
        t = self.time(told.double())
        seen = self.prediction.coefficients(self.path, t).c_in[:, None]
        x0, eps = self.data.posterior(x.double() / seen, self.path.alpha(t), self.path.sigma(t))
        return self.prediction.target(self.path, t, x0, eps).to(x.dtype)
