"""Masked autoregressive transforms: one pass from data to noise, D passes back (Papamakarios et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from paradigms.backbones import Backbone
from paradigms.backbones.blocks import zero
from paradigms.flows import Transform
from paradigms.flows.coupling import Elementwise


class Mask(nn.Module):
    """weight -> weight * mask. Within `parametrize.cached()` the product is taken once."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class MaskedLinear(nn.Linear):
    """A linear layer whose output of degree j sees only inputs of degree below j (`strict`) or up to j.

    before, after: the degrees of inputs and outputs (Germain et al. 2015, eq. 8-9).
    """

    def __init__(self, before: Tensor, after: Tensor, strict: bool) -> None:
        super().__init__(len(before), len(after))
        parametrize.register_parametrization(self, "weight", Mask(after[:, None] - before >= int(strict)))


class MADE(Backbone):
    """(B, D), label's embedding (B, emb) or None -> (B, len(owner)): outputs owned by i see x_1 ... x_{i-1} alone.

    One hidden layer and residual ones of two (hidden degrees spread over 1 ... D - 1, the same in each); the label
    shifts the first. Its last layer starts at zero.
    """

    def __init__(
        self, dim: int, owner: Tensor, width: int, blocks: int = 1, emb: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        inputs = torch.arange(1, dim + 1)
        hidden = torch.linspace(1, max(1, dim - 1), width).round().long()
        self.stem = MaskedLinear(inputs, hidden, strict=False)
        self.label = nn.Linear(emb, width) if emb else None
        self.first = nn.ModuleList(MaskedLinear(hidden, hidden, strict=False) for _ in range(blocks))
        self.second = nn.ModuleList(MaskedLinear(hidden, hidden, strict=False) for _ in range(blocks))
        self.dropout = nn.Dropout(dropout)
        self.head = zero(MaskedLinear(hidden, owner + 1, strict=True))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        h = self.stem(x)
        if self.label is not None:
            h = h + self.label(cond)
        for first, second in zip(self.first, self.second):
            h = h + second(self.dropout(F.silu(first(F.silu(h)))))
        return self.head(F.silu(h))


class Autoregressive(Transform):
    """z_i = map(x_i; params_i(x_1 ... x_{i-1})): MAF's layer (ibid., eq. 3-5). The inverse fills x coordinate by coordinate."""

    def __init__(self, net: nn.Module, by: Elementwise) -> None:
        super().__init__()
        self.net, self.map = net, by

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_slope = self.map.forward(x, self.net(x, cond))
        return z, log_slope.sum(1)

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        x = torch.zeros_like(z)
        rank = torch.arange(z.shape[1], device=z.device)
        with parametrize.cached():  # the masked weights are the same in every pass
            for i in range(z.shape[1]):
                x = torch.where(rank == i, self.map.inverse(z, self.net(x, cond)), x)
        return x
