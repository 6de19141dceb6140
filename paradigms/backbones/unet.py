"""The U-Net of the diffusion family (Ho et al. 2020; modulation of Dhariwal & Nichol 2021), from 8 to 64 pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.backbones import Backbone
from paradigms.backbones.blocks import Attention, ResBlock, groups, zero
from paradigms.backbones.embed import Embedding


class UNet(Backbone):
    """(B, cin, H, W), t (B,), y (B,) -> (B, cout, H, W).

    patch:  the stem folds patch x patch pixels into channels (pixel-unshuffle) and the head unfolds them.
    mults:  channels of each level in units of width; resolution halves between levels.
    depth:  residual blocks a level on the way down; one more on the way up.
    attend: levels that attend to all positions.
    times:  how many times it is told, t (B, times) where there are several.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        width: int,
        mults: tuple[int, ...],
        depth: int = 1,
        patch: int = 1,
        classes: int = 0,
        dropout: float = 0.0,
        attend: tuple[int, ...] = (),
        times: int = 1,
    ) -> None:
        super().__init__()
        emb = 4 * width
        self.patch = patch
        self.embed = Embedding(emb, classes, times=times)
        self.stem = nn.Conv2d(cin * patch * patch, width * mults[0], 3, padding=1)
        self.down, self.pool, self.up, self.unpool = nn.ModuleList(), nn.ModuleList(), nn.ModuleList(), nn.ModuleList()

        def stage(a: int, b: int, level: int) -> nn.ModuleList:
            return nn.ModuleList([ResBlock(a, b, emb, dropout), *([Attention(b)] if level in attend else [])])

        channels = [width * m for m in mults]
        c, skips = channels[0], [channels[0]]
        for level, width_here in enumerate(channels):
            blocks = nn.ModuleList()
            for _ in range(depth):
                blocks.append(stage(c, width_here, level))
                c = width_here
                skips.append(c)
            self.down.append(blocks)
            if level < len(channels) - 1:
                self.pool.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                skips.append(c)
        self.middle = ResBlock(c, c, emb, dropout)
        for level, width_here in reversed(list(enumerate(channels))):
            blocks = nn.ModuleList()
            for _ in range(depth + 1):
                blocks.append(stage(c + skips.pop(), width_here, level))
                c = width_here
            self.up.append(blocks)
            if level > 0:
                self.unpool.append(nn.Conv2d(c, c, 3, padding=1))
        self.norm = nn.GroupNorm(groups(c), c)
        self.head = zero(nn.Conv2d(c, cout * patch * patch, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.1-1.2x on a CPU

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        emb = self.embed(t, y)
        h = self.stem(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        skips = [h]
        for level, blocks in enumerate(self.down):
            for stage in blocks:  # type: ignore[attr-defined]
                h = self._run(stage, h, emb)
                skips.append(h)
            if level < len(self.pool):
                h = self.pool[level](h)
                skips.append(h)
        h = self.middle(h, emb)
        for level, blocks in enumerate(self.up):
            for stage in blocks:  # type: ignore[attr-defined]
                h = self._run(stage, torch.cat([h, skips.pop()], dim=1), emb)
            if level < len(self.unpool):
                size = skips[-1].shape[-2:]
                h = self.unpool[level](F.interpolate(h, size=size, mode="nearest"))
        h = self.head(F.silu(self.norm(h)))
        return F.pixel_shuffle(h, self.patch) if self.patch > 1 else h

    @staticmethod
    def _run(stage: nn.ModuleList, h: Tensor, emb: Tensor) -> Tensor:
        h = stage[0](h, emb)
        return stage[1](h) if len(stage) > 1 else h
