"""The bottleneck block of a ladder of latent variables, and its bottom-up half: features of x at every resolution.

Resolutions halve, rounding up, until one position is left. A vector is an image of one position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.backbones import Backbone
from paradigms.backbones.blocks import zero
from paradigms.backbones.embed import Embedding, modulate


class Pointwise(nn.Linear):
    """A 1x1 convolution, (B, cin, H, W) -> (B, cout, H, W), as a matrix product: 2 to 4 times as fast on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Bottleneck(nn.Module):
    """1x1 - 3x3 - 3x3 - 1x1 convolutions, a SiLU before each: (B, cin, H, W) -> (B, cout, H, W), without a skip.

    Half of `width` is the width in the middle, where an embedding (B, emb) modulates. At 2 x 2 positions and below, where
    a 3x3 kernel would mostly see padding, the 3x3 convolutions are left out. gain: multiplies the last weights at the
    start; 0 silences the block.
    """

    def __init__(
        self,
        cin: int,
        width: int,
        cout: int,
        size: tuple[int, int],
        emb: int = 0,
        dropout: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        middle, spatial = max(1, width // 2), max(size) > 2
        self.first, self.last = Pointwise(cin, middle), Pointwise(middle, cout)
        self.inner = nn.ModuleList(nn.Conv2d(middle, middle, 3, padding=1) for _ in range(2 if spatial else 0))
        self.emb = zero(nn.Linear(emb, 2 * middle)) if emb else None
        self.dropout = nn.Dropout(dropout)
        for layer in (self.first, *self.inner, self.last):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.last.weight.mul_(gain)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.first(F.silu(x))
        if self.emb is not None:
            h = modulate(h, self.emb(emb))
        for layer in self.inner:
            h = layer(F.silu(h))
        return self.last(self.dropout(F.silu(h)))


class Halve(nn.Module):
    """(B, C, H, W) -> (B, C, H / 2, W / 2), rounded up: a linear map of each 2 x 2 positions (zeros beyond an odd edge)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = Pointwise(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        return self.mix(F.pixel_unshuffle(x, 2))


class Double(nn.Module):
    """(B, C, h, w) -> (B, C, *size), size = 2h or 2h - 1 by the same of w: a linear map to each of 2 x 2 positions, and a
    bias learned for every position."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.mix = Pointwise(channels, 4 * channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(1, channels, *size))

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.size
        return F.pixel_shuffle(self.mix(x), 2)[:, :, :height, :width] + self.bias


def resolutions(height: int, width: int) -> list[tuple[int, int]]:
    """From (height, width) down to (1, 1), halved, rounding up."""
    sizes = [(height, width)]
    while sizes[-1] != (1, 1):
        h, w = sizes[-1]
        sizes.append((-(-h // 2), -(-w // 2)))
    return sizes


class BottomUp(Backbone):
    """(B, C, H, W), y -> one (B, width, h, w) for each of the `resolutions` of H / patch x W / patch, coarsest first.

    patch: patch x patch pixels are folded into channels before the first convolution. One block at each resolution.
    """

    def __init__(
        self, shape: tuple[int, ...], width: int, patch: int = 1, classes: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        c, h, w = shape
        self.patch = patch
        sizes = resolutions(h // patch, w // patch)
        self.embed = Embedding(width, classes, timed=False)
        kernel = 3 if max(sizes[0]) > 2 else 1
        self.stem = nn.Conv2d(c * patch * patch, width, kernel, padding=kernel // 2)
        emb, gain = width if classes else 0, len(sizes) ** -0.5
        self.blocks = nn.ModuleList(Bottleneck(width, width, width, size, emb, dropout, gain) for size in sizes)
        self.halves = nn.ModuleList(Halve(width) for _ in sizes[1:])
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        emb = self.embed(None, y)
        h = self.stem(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        features: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            if i:
                h = self.halves[i - 1](h)
            h = h + block(h, emb)
            features.append(h)
        return features[::-1]
