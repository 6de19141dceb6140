"""Which network of the family a space calls for. All recipes on one data set draw on the same sizes and blocks."""

from __future__ import annotations

import math

from paradigms.backbones import Backbone
from paradigms.backbones.mlp import MLP
from paradigms.backbones.unet import UNet
from paradigms.contract import Space


def stem_patch(size: int) -> int:
    """Pixels folded into channels before the first convolution: 2 up to 32 pixels, 4 above.

    At equal parameters a network that starts at half the resolution sees two to three times as many images a second.
    """
    return 2 if size <= 32 else 4


def denoiser(space: Space, width: int, dropout: float = 0.0, backbone: str = "auto") -> Backbone:
    """A network (x_t, t, y) -> an output shaped as x: a U-Net on images, an MLP on vectors (or on request)."""
    if space.is_image and backbone != "mlp":
        c, h, w = space.shape
        patch = stem_patch(min(h, w))
        if min(h, w) <= 16:
            return UNet(c, c, width, mults=(1, 2), patch=patch, classes=space.classes, dropout=dropout)
        return UNet(c, c, width, mults=(1, 2, 2), patch=patch, classes=space.classes, dropout=dropout, attend=(2,))
    return Reshaped(space, width, dropout)


class Reshaped(Backbone):
    """The MLP with an output shaped as its input."""

    def __init__(self, space: Space, width: int, dropout: float) -> None:
        super().__init__()
        self.shape = space.shape
        self.net = MLP(math.prod(space.shape), math.prod(space.shape), width, classes=space.classes, dropout=dropout)

    def forward(self, x, t, y=None):  # type: ignore[no-untyped-def]
        return self.net(x, t, y).view(-1, *self.shape)
