"""Levels: pixels folded into channels, and half of the channels handed to the noise after each (Dinh et al. 2017, 3.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.flows import Transform


class Squeeze(Transform):
    """(B, C, H, W) -> (B, 4C, H/2, W/2), each 2x2 square of pixels into channels; H and W even."""

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return F.pixel_unshuffle(x, 2), x.new_zeros(())

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        return F.pixel_shuffle(z, 2)


class Flatten(Transform):
    """(B, ...) to (B, D); back, the shape is the caller's to restore."""

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(())

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        return z


class MultiScale(Transform):
    """Levels, and between them a split: the first half of the channels is done, the rest goes on. z is flat, (B, D).

    shapes: of what each level puts out.
    """

    def __init__(self, levels: Sequence[Transform], shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.levels, self.shapes = nn.ModuleList(levels), list(shapes)
        halves = [(c // 2, *rest) for c, *rest in self.shapes[:-1]]
        self.parts: list[tuple[int, ...]] = [*halves, self.shapes[-1]]  # of the pieces of z

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(())
        z: list[Tensor] = []
        for level, part in zip(self.levels, self.parts):
            x, d = level(x, cond)
            log_det = log_det + d
            if len(z) < len(self.levels) - 1:
                z.append(x[:, : part[0]].flatten(1))
                x = x[:, part[0] :]
        return torch.cat([*z, x.flatten(1)], dim=1), log_det

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        pieces = z.split([math.prod(part) for part in self.parts], dim=1)
        *done, x = [piece.unflatten(1, part) for piece, part in zip(pieces, self.parts)]
        x = self.levels[-1].inverse(x, cond)  # type: ignore[operator]
        for level, part in zip(reversed(self.levels[:-1]), reversed(done)):
            x = level.inverse(torch.cat([part, x], dim=1), cond)  # type: ignore[operator]
        return x
