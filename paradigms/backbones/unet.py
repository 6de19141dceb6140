"""The U-Net of the diffusion family (after Ho et al. 2020 and Dhariwal & Nichol 2021), from 8 to 64 pixels.

Built for images a second. Channels double where the resolution halves, so each level costs about the same and most
parameters lie where positions are few. A block normalises once; one linear layer makes the modulations of all blocks;
a skip is added, not concatenated; and the 1x1 convolution on the way up comes before the upsampling.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.backbones import Backbone
from paradigms.backbones.blocks import Attention, standardise, zero
from paradigms.backbones.embed import Embedding


class Block(nn.Module):
    """x + conv(dropout(SiLU(standardise(conv(x)) · scale + shift))), (B, C, H, W) -> the same, scale and shift (B, C, 1, 1).

    The branch starts silent.
    """

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        h = torch.addcmul(shift, standardise(self.conv1(x)), scale)
        return x + self.conv2(self.dropout(F.silu(h)))


class UNet(Backbone):
    """(B, cin, H, W), t (B,), y (B,) -> (B, cout, H, W).

    channels: of each level; resolution halves between levels, rounding up. A block on the way down and one on the way up.
    patch:    the stem folds patch x patch pixels into channels (pixel-unshuffle) and the head unfolds them.
    attend:   whether the lowest level attends to all positions, between its two blocks.
    times:    how many times it is told, t (B, times) where there are several.
    emb:      numbers of the vector that the time and the label become; 0: eight for each channel of the first level.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        channels: tuple[int, ...],
        patch: int = 1,
        classes: int = 0,
        dropout: float = 0.0,
        attend: bool = False,
        times: int = 1,
        emb: int = 0,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.embed = Embedding(emb or 8 * channels[0], classes, times=times)
        # What is modulated, in the order it runs: the blocks down, the blocks up, the input of the head.
        self.channels = (*channels, *reversed(channels), channels[0])
        self.modulation = zero(nn.Linear(self.embed.dim, 2 * sum(self.channels)))
        self.stem = nn.Conv2d(cin * patch * patch, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(Block(c, dropout) for c in self.channels[:-1])
        steps = list(pairwise(channels))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in steps)
        self.attention = Attention(channels[-1]) if attend else nn.Identity()
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in reversed(steps))
        self.head = zero(nn.Conv2d(channels[0], cout * patch * patch, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.1-1.5x on a CPU

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        scales, shifts = self.modulation(self.embed(t, y))[:, :, None, None].chunk(2, dim=1)
        modulations = zip((1 + scales).split(self.channels, dim=1), shifts.split(self.channels, dim=1))
        blocks = iter(self.blocks)
        h = self.stem(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        skips: list[Tensor] = []
        for down in self.down:
            h = next(blocks)(h, *next(modulations))
            skips.append(h)
            h = down(h)
        h = self.attention(next(blocks)(h, *next(modulations)))
        h = next(blocks)(h, *next(modulations))
        for up in self.up:
            skip = skips.pop()
            h = skip + F.interpolate(up(h), size=skip.shape[-2:], mode="nearest")
            h = next(blocks)(h, *next(modulations))
        scale, shift = next(modulations)
        h = self.head(F.silu(torch.addcmul(shift, standardise(h), scale)))
        return F.pixel_shuffle(h, self.patch) if self.patch > 1 else h
