"""Which network of the family a space calls for. All recipes on one data set draw on the same sizes and blocks."""

from __future__ import annotations

import math

from torch import Tensor

from paradigms.backbones import Backbone
from paradigms.backbones.mlp import MLP, PlainMLP
from paradigms.backbones.resnet import Decoder, Encoder
from paradigms.backbones.unet import UNet
from paradigms.core.data import Space

BACKBONES = ("auto", "mlp")


def levels(space: Space) -> tuple[int, tuple[int, ...]]:
    """(patch, mults) of encoders and decoders: pixels folded into channels at first, and the widths of the levels.

    At equal parameters a network that starts at half the resolution sees two to three times as many images a second.
    """
    size = min(space.shape[1:])
    # Sides that the patch does not divide are not folded.
    patch = math.gcd(2 if size <= 32 else 4, *space.shape[1:])
    return patch, ((1, 2) if size <= 16 else (1, 2, 2))


def convolutional(space: Space, backbone: str) -> bool:
    """Whether a space is modelled by convolutions: images, unless the MLP is asked for."""
    return space.is_image and backbone != "mlp"


class Denoiser(Backbone):
    """The MLP with an output shaped as its input."""

    def __init__(self, space: Space, width: int, dropout: float, outputs: int, times: int) -> None:
        super().__init__()
        self.shape = (outputs * space.shape[0], *space.shape[1:])
        self.net = MLP(space.dim, outputs * space.dim, width, classes=space.classes, dropout=dropout, times=times)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(x, t, y).view(-1, *self.shape)


def denoiser(
    space: Space, width: int, dropout: float = 0.0, backbone: str = "auto", outputs: int = 1, times: int = 1
) -> Backbone:
    """(x_t (B, *shape), t (B,), y) -> (B, *shape): a U-Net on images, a residual MLP on vectors (or on request).

    outputs: how many numbers for each of x's, stacked along the first axis. times: how many times it is told, t (B, times)
    where there are several.
    """
    if not convolutional(space, backbone):
        return Denoiser(space, width, dropout, outputs, times)
    mults = (1, 2, 4, 8) if min(space.shape[1:]) > 16 else (1, 2, 4)
    # Convolutions run best on multiples of 8 channels.
    channels = tuple(8 * max(1, round(width * mult / 8)) for mult in mults)
    return unet(space, channels, dropout, outputs, times)


def unet(
    space: Space, channels: tuple[int, ...], dropout: float = 0.0, outputs: int = 1, times: int = 1, emb: int = 0
) -> UNet:
    """The U-Net with these channels at its levels, folding and attending as the size of the images asks for."""
    c, *sides = space.shape
    patch, attend = math.gcd(2, *sides) if min(sides) > 32 else 1, min(sides) > 16
    return UNet(c, outputs * c, channels, patch, space.classes, dropout, attend, times, emb)


class VectorEncoder(Backbone):
    """(x (B, D), y) -> (B, dout) by the MLP."""

    def __init__(self, space: Space, dout: int, width: int, dropout: float, plain: bool) -> None:
        super().__init__()
        self.net = (
            PlainMLP(space.dim, dout, width, classes=space.classes, critic=True)
            if plain
            else MLP(space.dim, dout, width, timed=False, classes=space.classes, dropout=dropout)
        )

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(x, y=y)


class VectorDecoder(Backbone):
    """(z (B, din), y) -> (B, cout, *shape) by the MLP, cout numbers for each coordinate of x."""

    def __init__(self, space: Space, din: int, cout: int, width: int, dropout: float, plain: bool) -> None:
        super().__init__()
        self.shape = (cout * space.shape[0], *space.shape[1:])
        self.net = (
            PlainMLP(din, cout * space.dim, width, classes=space.classes)
            if plain
            else MLP(din, cout * space.dim, width, timed=False, classes=space.classes, dropout=dropout)
        )

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(z, y=y).view(-1, *self.shape)


def encoder(
    space: Space,
    dout: int,
    width: int,
    dropout: float = 0.0,
    backbone: str = "auto",
    plain: bool = False,
    depth: int = 1,
) -> Backbone:
    """(x (B, *shape), y) -> (B, dout). plain: no normalisation, labels by projection, as a critic wants."""
    if not convolutional(space, backbone):
        return VectorEncoder(space, dout, width, dropout, plain)
    patch, mults = levels(space)
    return Encoder(space.shape, dout, width, mults, depth, patch, space.classes, dropout, plain)


def decoder(
    space: Space,
    din: int,
    cout: int,
    width: int,
    dropout: float = 0.0,
    backbone: str = "auto",
    plain: bool = False,
    depth: int = 1,
) -> Backbone:
    """(z (B, din), y) -> (B, cout * C, ...): `cout` numbers for each number of x, stacked along the first axis."""
    if not convolutional(space, backbone):
        return VectorDecoder(space, din, cout, width, dropout, plain)
    patch, mults = levels(space)
    out = cout * space.shape[0]
    return Decoder(din, space.shape, out, width, mults, depth, patch, space.classes, dropout, plain)
