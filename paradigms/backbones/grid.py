"""Encoder and decoder between an example and a grid of vectors, from the U-Net's blocks: the two halves of a codec.

Images keep their places, (B, C, H, W) <-> (B, P, dim) with the P positions in raster order; a vector has no places, and
its "grid" is what one network gives, cut into a row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.backbones import Backbone
from paradigms.backbones.blocks import ResBlock, groups
from paradigms.backbones.embed import Embedding
from paradigms.backbones.images import levels
from paradigms.core.data import Space


def resolutions(space: Space, factor: int) -> list[tuple[int, int]]:
    """(H, W) of each level of the codec: after the patch, then halved (rounding up) until `factor` is reached."""
    scale, _ = levels(space)
    sizes = [(space.shape[1] // scale, space.shape[2] // scale)]
    while scale < factor:
        scale *= 2
        sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))
    return sizes


def channels(width: int, level: int) -> int:
    """The width of a level: doubled below the first."""
    return width * min(2, level + 1)


class GridEncoder(Backbone):
    """(x (B, C, H, W), y) -> (B, P, dim), a vector for each of the P positions of the last level.

    Without dropout: a code must be a function of its image, or a prior learns other codes than it is asked about.
    """

    def __init__(self, space: Space, dim: int, width: int, factor: int) -> None:
        super().__init__()
        self.patch, _ = levels(space)
        self.embed = Embedding(4 * width, space.classes, timed=False)
        emb = 4 * width if space.classes else 0
        self.stem = nn.Conv2d(space.shape[0] * self.patch**2, width, 3, padding=1)
        self.blocks, self.pools = nn.ModuleList(), nn.ModuleList()
        c, n = width, len(resolutions(space, factor))
        for level in range(n):
            if level:
                self.pools.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
            self.blocks.append(ResBlock(c, channels(width, level), emb))
            c = channels(width, level)
        self.last = ResBlock(c, c, emb)
        self.norm = nn.GroupNorm(groups(c), c)
        self.head = nn.Conv2d(c, dim, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        emb = self.embed(None, y)
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        for level, block in enumerate(self.blocks):
            h = block(h if level == 0 else self.pools[level - 1](h), emb)
        h = self.head(F.silu(self.norm(self.last(h, emb))))
        return h.flatten(2).transpose(1, 2)


class GridDecoder(Backbone):
    """(z (B, P, dim), y) -> (B, cout, H, W)."""

    def __init__(self, space: Space, dim: int, cout: int, width: int, factor: int, dropout: float) -> None:
        super().__init__()
        self.patch, _ = levels(space)
        self.sizes = resolutions(space, factor)
        self.embed = Embedding(4 * width, space.classes, timed=False)
        emb = 4 * width if space.classes else 0
        c = channels(width, len(self.sizes) - 1)
        self.stem = nn.Conv2d(dim, c, 1)
        self.first = ResBlock(c, c, emb, dropout)
        self.blocks, self.unpools = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(self.sizes))):
            self.blocks.append(ResBlock(c, channels(width, level), emb, dropout))
            c = channels(width, level)
            if level:
                self.unpools.append(nn.Conv2d(c, c, 3, padding=1))
        self.norm = nn.GroupNorm(groups(c), c)
        self.head = nn.Conv2d(c, cout * self.patch**2, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        emb = self.embed(None, y)
        h = self.stem(z.transpose(1, 2).unflatten(2, self.sizes[-1]))
        h = self.first(h, emb)
        for i, block in enumerate(self.blocks):
            h = block(h, emb)
            if i < len(self.unpools):
                h = self.unpools[i](F.interpolate(h, size=self.sizes[-2 - i], mode="nearest"))
        return F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.patch)


class RowEncoder(nn.Module):
    """(x (B, *shape), y) -> (B, slots, dim): the one vector that `net` gives, cut into a row."""

    def __init__(self, net: Backbone, slots: int) -> None:
        super().__init__()
        self.net, self.slots = net, slots

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(x, y).unflatten(1, (self.slots, -1))


class RowDecoder(nn.Module):
    """(z (B, slots, dim), y) -> what `net` makes of the row as one vector."""

    def __init__(self, net: Backbone) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(z.flatten(1), y)
