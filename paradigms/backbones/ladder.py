"""The bottleneck block and the bottom-up half of a ladder of latent variables (Child 2021): features at every resolution.

A vector is an image of one position: there, as at 2 x 2 positions and below, every convolution is 1x1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.backbones import Backbone
from paradigms.backbones.blocks import groups
from paradigms.backbones.embed import Embedding, modulate


class K:
    norm = False
    ratio = 0.5
    small = 2
    pool = False


class Bottleneck(nn.Module):
    def __init__(
        self, cin: int, middle: int, cout: int, kernel: int, emb: int = 0, last: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups(cin), cin) if K.norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.conv1 = nn.Conv2d(cin, middle, 1)
        self.conv2 = nn.Conv2d(middle, middle, kernel, padding=kernel // 2)
        self.conv3 = nn.Conv2d(middle, middle, kernel, padding=kernel // 2)
        self.conv4 = nn.Conv2d(middle, cout, 1)
        self.emb = nn.Linear(emb, 2 * middle) if emb else None
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.conv4.weight.mul_(last)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm(x)))
        if self.emb is not None:
            h = modulate(h, self.emb(emb))
        return self.conv4(self.dropout(F.silu(self.conv3(F.silu(self.conv2(F.silu(h)))))))


def kernel(size: tuple[int, int]) -> int:
    """Of the convolutions at a resolution: at 2 x 2 positions and below a 3x3 kernel would mostly see padding."""
    return 3 if max(size) > K.small else 1


def resolutions(height: int, width: int) -> list[tuple[int, int]]:
    """From (height, width) down to (1, 1), halved, rounding up."""
    sizes = [(height, width)]
    while sizes[-1] != (1, 1):
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))  # type: ignore[arg-type]
    return sizes


class BottomUp(Backbone):
    """(B, C, H, W), y -> one (B, width, h, w) for each of the `resolutions` of H / patch x W / patch, coarsest first.

    patch: patch x patch pixels are folded into channels before the first convolution. blocks: at each resolution.
    """

    def __init__(
        self, shape: tuple[int, ...], width: int, blocks: int, patch: int = 1, classes: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        c, h, w = shape
        self.patch = patch
        sizes = resolutions(h // patch, w // patch)
        self.embed = Embedding(width, classes, timed=False)
        emb = width if classes else 0
        first = kernel(sizes[0])
        self.stem = nn.Conv2d(c * patch * patch, width, first, padding=first // 2)
        last = (blocks * len(sizes)) ** -0.5
        self.rows = nn.ModuleList(
            nn.ModuleList(
                Bottleneck(width, middle(width), width, kernel(size), emb, last, dropout) for _ in range(blocks)
            )
            for size in sizes
        )
        self.pools = nn.ModuleList(nn.Conv2d(width, width, 2, stride=2) for _ in sizes[1:]) if K.pool else None
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        emb = self.embed(None, y)
        h = self.stem(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        features = []
        for i, row in enumerate(self.rows):
            if i:
                if K.pool:
                    h = self.pools[i - 1](F.pad(h, (0, h.shape[3] % 2, 0, h.shape[2] % 2)))
                else:
                    h = F.avg_pool2d(h, 2, ceil_mode=True)
            for block in row:  # type: ignore[attr-defined]
                h = h + block(h, emb)
            features.append(h)
        return features[::-1]


def middle(width: int) -> int:
    """The channels between the 1x1 convolutions of a block."""
    return max(1, int(width * K.ratio))
