"""The backbone "auto": a U-Net and a ResNet pair on images, the MLP on vectors. All recipes share its sizes and blocks."""

from __future__ import annotations

import math

from paradigms.backbones import Backbone, vectors
from paradigms.backbones.networks import Networks
from paradigms.backbones.resnet import Decoder, Encoder
from paradigms.backbones.unet import UNet
from paradigms.core.data import Space

__all__ = ["BACKBONES", "levels", "unet"]


def levels(space: Space) -> tuple[int, tuple[int, ...]]:
    """(patch, mults) of encoders and decoders: pixels folded into channels at first, and the widths of the levels.

    At equal parameters a network that starts at half the resolution sees two to three times as many images a second.
    """
    size = min(space.shape[1:])
    # Sides that the patch does not divide are not folded.
    patch = math.gcd(2 if size <= 32 else 4, *space.shape[1:])
    return patch, ((1, 2) if size <= 16 else (1, 2, 2))


def denoiser(space: Space, width: int, dropout: float, outputs: int, times: int) -> Backbone:
    """A U-Net on images, the MLP on vectors."""
    if not space.is_image:
        return vectors.Denoiser(space, width, dropout, outputs, times)
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


def encoder(space: Space, dout: int, width: int, dropout: float, plain: bool, depth: int) -> Backbone:
    """A ResNet on images, the MLP on vectors."""
    if not space.is_image:
        return vectors.VectorEncoder(space, dout, width, dropout, plain)
    patch, mults = levels(space)
    return Encoder(space.shape, dout, width, mults, depth, patch, space.classes, dropout, plain)


def decoder(space: Space, din: int, cout: int, width: int, dropout: float, plain: bool, depth: int) -> Backbone:
    """A ResNet on images, the MLP on vectors."""
    if not space.is_image:
        return vectors.VectorDecoder(space, din, cout, width, dropout, plain)
    patch, mults = levels(space)
    out = cout * space.shape[0]
    return Decoder(din, space.shape, out, width, mults, depth, patch, space.classes, dropout, plain)


BACKBONES = (
    Networks(
        "auto",
        title="U-Net and ResNets on images, the MLP on vectors",
        denoiser=denoiser,
        encoder=encoder,
        decoder=decoder,
    ),
)
