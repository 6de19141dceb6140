"""Coupling layers: one part of x, kept as it is, sets the elementwise map of the rest (Dinh et al. 2017, section 3.3).

A coupling is composed of a map (affine or spline), a partition (channels or a checkerboard) and a network, the
conditioner, called as net(kept, cond). Every conditioner ends in a layer of zeros: a new coupling is the identity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.backbones.blocks import ResBlock, groups, zero
from paradigms.backbones.mlp import MLP
from paradigms.flows import Transform
from paradigms.flows.spline import rational_quadratic


class Elementwise(ABC):
    """A monotonic map of each number of x (B, C, ...), set by `size` parameters for it, params (B, size C, ...).

    All zeros is the identity. Both directions return the mapped x and the log slope of the map data -> noise there.
    """

    size: int

    @abstractmethod
    def owner(self, c: int) -> Tensor:
        """The channel that each of the size c parameters belongs to, (size c,)."""

    @abstractmethod
    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def inverse(self, z: Tensor, params: Tensor) -> Tensor: ...


class Affine(Elementwise):
    """z = x exp(s) + m (ibid., section 3.2), with s = bound tanh(s' / bound): no map stretches by more than e^bound."""

    size = 2

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def owner(self, c: int) -> Tensor:
        return torch.arange(c).repeat(2)

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        s, m = params.chunk(2, dim=1)
        return self.bound * torch.tanh(s / self.bound), m

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        s, m = self._split(params)
        return torch.addcmul(m, x, s.exp()), s

    def inverse(self, z: Tensor, params: Tensor) -> Tensor:
        s, m = self._split(params)
        return (z - m) * (-s).exp()


class Spline(Elementwise):
    """A rational-quadratic spline of `bins` bins on [-bound, bound] (Durkan et al. 2019)."""

    def __init__(self, bins: int, bound: float) -> None:
        self.bins, self.bound, self.size = bins, bound, 3 * bins - 1

    def owner(self, c: int) -> Tensor:
        return torch.arange(c).repeat_interleave(self.size)

    def _map(self, x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        # Channels last: with convolutions in that memory format each number's parameters lie in a row.
        p = params.movedim(1, -1).unflatten(-1, (x.shape[1], self.size))
        w, h, d = p.split([self.bins, self.bins, self.bins - 1], dim=-1)
        z, log_slope = rational_quadratic(x.movedim(1, -1), w, h, d, inverse, self.bound)
        return z.movedim(-1, 1), log_slope.movedim(-1, 1)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(x, params, inverse=False)

    def inverse(self, z: Tensor, params: Tensor) -> Tensor:
        return self._map(z, params, inverse=True)[0]


# ------------------------------------------------------------------------------------------------------ partitions


class Coupling(Transform):
    """The first `kept` channels stay and set the map of the others; net: (B, kept, ...) -> (B, size (C - kept), ...)."""

    def __init__(self, net: nn.Module, kept: int, by: Elementwise) -> None:
        super().__init__()
        self.net, self.kept, self.map = net, kept, by

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = x[:, : self.kept], x[:, self.kept :]
        b, log_slope = self.map.forward(b, self.net(a, cond))
        return torch.cat([a, b], dim=1), log_slope.flatten(1).sum(1)

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        a, b = z[:, : self.kept], z[:, self.kept :]
        return torch.cat([a, self.map.inverse(b, self.net(a, cond))], dim=1)


class Checkerboard(Transform):
    """Pixels (i, j) with i + j + parity even stay and set the map of the others; net: (B, C, H, W) -> (B, size C, H, W).

    The network sees zeros where pixels move (ibid., figure 3).
    """

    kept: Tensor

    def __init__(self, net: nn.Module, height: int, width: int, parity: int, by: Elementwise) -> None:
        super().__init__()
        self.net, self.map = net, by
        board = (torch.arange(height)[:, None] + torch.arange(width) + parity) % 2 == 0
        self.register_buffer("kept", board, persistent=False)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_slope = self.map.forward(x, self.net(x * self.kept, cond))
        return torch.where(self.kept, x, z), log_slope.masked_fill(self.kept, 0.0).flatten(1).sum(1)

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        return torch.where(self.kept, z, self.map.inverse(z, self.net(z * self.kept, cond)))


# ----------------------------------------------------------------------------------------------------- conditioners


class ImageConditioner(nn.Module):
    """(B, cin, H, W), label's embedding (B, emb) or None -> (B, cout, H, W): the suite's residual blocks."""

    def __init__(self, cin: int, cout: int, width: int, blocks: int, emb: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(cin, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(width, width, emb, dropout) for _ in range(blocks))
        self.norm = nn.GroupNorm(groups(width), width)
        self.head = nn.Conv2d(width, cout, 3, padding=1)
        zero(self.head)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, cond)
        return self.head(F.silu(self.norm(h)))


class Folded(nn.Module):
    """A conditioner that sees fold x fold pixels as channels, and whose outputs are unfolded again."""

    def __init__(self, net: nn.Module, fold: int) -> None:
        super().__init__()
        self.net, self.fold = net, fold

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        return F.pixel_shuffle(self.net(F.pixel_unshuffle(x, self.fold), cond), self.fold)


class VectorConditioner(nn.Module):
    """(B, cin), label's embedding (B, emb) or None -> (B, cout): the suite's MLP, the embedding as further inputs."""

    def __init__(self, cin: int, cout: int, width: int, emb: int = 0) -> None:
        super().__init__()
        self.net = MLP(cin + emb, cout, width, depth=2, timed=False)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.net(x if cond is None else torch.cat([x, cond], dim=1))
