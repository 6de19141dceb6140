"""Linear transforms of the channels: a scaling set from data (actnorm), a learned mixing (1x1 convolution), a reversal."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.flows import Transform


class ActNorm(Transform):
    """z = x exp(s) + b for each channel (Kingma & Dhariwal 2018, section 3.1); `initialise` whitens what it is shown."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias, self.log_scale = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Zero mean and unit variance for each channel of this batch (B, C, ...)."""
        flat = x.transpose(0, 1).flatten(1)
        std = flat.std(1) + 1e-3
        self.bias.copy_(-flat.mean(1) / std)
        self.log_scale.copy_(-std.log())

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        shape = (-1, *(1,) * (x.dim() - 2))
        z = torch.addcmul(self.bias.view(shape), x, self.log_scale.exp().view(shape))
        return z, self.log_scale.sum() * x[0, 0].numel()

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        shape = (-1, *(1,) * (z.dim() - 2))
        return (z - self.bias.view(shape)) * (-self.log_scale).exp().view(shape)


class Mixing(Transform):
    """z = W x at every position, with W = P L (U + diag(sign exp(s))) and log |det W| = sum s (ibid., eq. 10-11).

    P is fixed; it starts as a random rotation, the same for each number of channels.
    """

    p: Tensor
    sign: Tensor
    eye: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Drawn from a private generator: two recipes that differ elsewhere start from the same rotation.
        rotation, _ = torch.linalg.qr(
            torch.randn(channels, channels, generator=torch.Generator().manual_seed(channels))
        )
        p, lower, upper = torch.linalg.lu(rotation)
        self.register_buffer("p", p)
        self.register_buffer("sign", upper.diagonal().sign())
        self.register_buffer("eye", torch.eye(channels), persistent=False)
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(upper.diagonal().abs().log())

    def factors(self) -> tuple[Tensor, Tensor]:
        """L and U."""
        return self.lower.tril(-1) + self.eye, self.upper.triu(1) + torch.diag(self.log_diagonal.exp() * self.sign)

    def weight(self) -> Tensor:
        """W, (C, C)."""
        lower, upper = self.factors()
        return self.p @ lower @ upper

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return over_channels(self.weight(), x), self.log_diagonal.sum() * x[0, 0].numel()

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        # W^-1 once, by two triangular solves of C columns, not of B H W.
        lower, upper = self.factors()
        half = torch.linalg.solve_triangular(lower, self.p.T, upper=False, unitriangular=True)
        return over_channels(torch.linalg.solve_triangular(upper, half, upper=True), z)


def over_channels(weight: Tensor, x: Tensor) -> Tensor:
    """weight @ x at every position of x (B, C, ...): channels last in memory, this is one matrix product, no copies."""
    return F.linear(x.movedim(1, -1), weight).movedim(-1, 1)


class Reverse(Transform):
    """The channels in reverse order, so that the next coupling moves what this one kept."""

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flip(1), x.new_zeros(())

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        return z.flip(1)
