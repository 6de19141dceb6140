"""ResNet encoder and decoder: the two halves of a VAE, and a GAN's critic and generator.

Both have the same resolutions (stem patch, levels, widths), so that all image recipes on one data set spend their
parameters alike. `Encoder` maps images to vectors, `Decoder` vectors to images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.backbones import Backbone
from paradigms.backbones.blocks import ResBlock, groups, zero
from paradigms.backbones.embed import Embedding


class PlainBlock(nn.Module):
    """Residual block without normalisation (Zhang et al. 2019, fix-up), (B, cin, H, W) -> (B, cout, H, W).

    leaky ReLU - conv - leaky ReLU - conv (zero at the start). The fan-in initialisation of the first convolution is
    divided by sqrt(blocks) so that `blocks` of them in a row keep the size of an update independent of their number.
    """

    def __init__(self, cin: int, cout: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        nn.init.kaiming_normal_(self.conv1.weight, a=0.2)
        with torch.no_grad():
            self.conv1.weight.mul_(blocks**-0.5)
        nn.init.zeros_(self.conv1.bias)  # type: ignore[arg-type]
        self.conv2 = zero(nn.Conv2d(cout, cout, 3, padding=1))
        self.skip = nn.Conv2d(cin, cout, 1, bias=False) if cin != cout else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return self.skip(x) + self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))


def sizes(size: int, levels: int) -> list[int]:
    """The resolution of each level: halved, rounding up."""
    out = [size]
    for _ in range(levels - 1):
        out.append(math.ceil(out[-1] / 2))
    return out


class Encoder(Backbone):
    """(B, cin, H, W), y -> (B, dout).

    plain: blocks without normalisation and dropout, and labels by projection (Miyato & Koyama 2018), as a critic wants;
    otherwise normalised blocks modulated by the label.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dout: int,
        width: int,
        mults: tuple[int, ...],
        depth: int = 1,
        patch: int = 1,
        classes: int = 0,
        dropout: float = 0.0,
        plain: bool = False,
    ) -> None:
        super().__init__()
        c, h, w = shape
        self.patch, self.plain = patch, plain
        self.embed = Embedding(4 * width, classes, timed=False) if not plain else None
        emb = 4 * width if classes and not plain else 0
        self.stem = nn.Conv2d(c * patch * patch, width * mults[0], 3, padding=1)
        self.blocks, self.pools = nn.ModuleList(), nn.ModuleList()
        total = depth * len(mults)
        cin = width * mults[0]
        for level, mult in enumerate(mults):
            if level:
                self.pools.append(nn.Conv2d(cin, cin, 3, stride=2, padding=1))
            row = nn.ModuleList()
            for _ in range(depth):
                row.append(PlainBlock(cin, width * mult, total) if plain else ResBlock(cin, width * mult, emb, dropout))
                cin = width * mult
            self.blocks.append(row)
        positions = sizes(h // patch, len(mults))[-1] * sizes(w // patch, len(mults))[-1]
        self.norm = nn.Identity() if plain else nn.GroupNorm(groups(cin), cin)
        self.head = nn.Linear(cin * positions, dout)
        self.project = nn.Embedding(classes, cin * positions) if plain and classes else None
        if self.project is not None:
            nn.init.zeros_(self.project.weight)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        emb = self.embed(None, y) if self.embed is not None else None
        h = self.stem(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        for level, row in enumerate(self.blocks):
            if level:
                h = self.pools[level - 1](h)
            for block in row:  # type: ignore[attr-defined]
                h = block(h, emb)
        h = (F.leaky_relu(h, 0.2) if self.plain else F.silu(self.norm(h))).flatten(1)
        out = self.head(h)
        if self.project is not None and y is not None:
            out = out + (self.project(y) * h).sum(1, keepdim=True)
        return out


class Decoder(Backbone):
    """(B, din), y -> (B, cout, H, W). plain: blocks without normalisation, and labels joined to the input."""

    def __init__(
        self,
        din: int,
        shape: tuple[int, ...],
        cout: int,
        width: int,
        mults: tuple[int, ...],
        depth: int = 1,
        patch: int = 1,
        classes: int = 0,
        dropout: float = 0.0,
        plain: bool = False,
    ) -> None:
        super().__init__()
        _, h, w = shape
        self.patch, self.plain = patch, plain
        self.embed = Embedding(4 * width, classes, timed=False)
        emb = 4 * width if classes and not plain else 0
        self.heights, self.widths = sizes(h // patch, len(mults)), sizes(w // patch, len(mults))
        self.top = width * mults[-1]
        self.stem = nn.Linear(
            din + (4 * width if classes and plain else 0), self.top * self.heights[-1] * self.widths[-1]
        )
        self.blocks, self.unpools = nn.ModuleList(), nn.ModuleList()
        total = depth * len(mults)
        cin = self.top
        for level, mult in reversed(list(enumerate(mults))):
            row = nn.ModuleList()
            for _ in range(depth):
                row.append(PlainBlock(cin, width * mult, total) if plain else ResBlock(cin, width * mult, emb, dropout))
                cin = width * mult
            self.blocks.append(row)
            if level:
                # As R3GAN, a 1x1 to the next width: it costs next to nothing, and the blocks do the work.
                below = width * mults[level - 1] if plain else cin
                self.unpools.append(nn.Conv2d(cin, below, 1) if plain else nn.Conv2d(cin, cin, 3, padding=1))
                cin = below
        self.norm = nn.Identity() if plain else nn.GroupNorm(groups(cin), cin)
        self.head = nn.Conv2d(cin, cout * patch * patch, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        emb = self.embed(None, y)
        if self.plain and emb is not None:
            z = torch.cat([z, emb], dim=1)
        h = self.stem(z).view(len(z), self.top, self.heights[-1], self.widths[-1])
        for i, row in enumerate(self.blocks):
            for block in row:  # type: ignore[attr-defined]
                h = block(h, emb)
            if i < len(self.unpools):
                level = len(self.blocks) - 2 - i
                size = (self.heights[level], self.widths[level])
                # A 1x1 convolution commutes with the upsampling, and is cheaper before it.
                h = self.unpools[i](h) if self.plain else h
                h = F.interpolate(h, size=size, mode="nearest")
                h = h if self.plain else self.unpools[i](h)
        h = self.head(F.leaky_relu(h, 0.2) if self.plain else F.silu(self.norm(h)))
        return F.pixel_shuffle(h, self.patch) if self.patch > 1 else h
