"""The backbone "mlp": residual MLPs for vectors, and for images on request."""

from __future__ import annotations

from torch import Tensor

from paradigms.backbones import Backbone
from paradigms.backbones.mlp import MLP, PlainMLP
from paradigms.backbones.networks import Networks
from paradigms.core.data import Space

__all__ = ["BACKBONES", "Denoiser", "VectorDecoder", "VectorEncoder"]


class Denoiser(Backbone):
    """The MLP with an output shaped as its input."""

    def __init__(self, space: Space, width: int, dropout: float, outputs: int, times: int) -> None:
        super().__init__()
        self.shape = (outputs * space.shape[0], *space.shape[1:])
        self.net = MLP(space.dim, outputs * space.dim, width, classes=space.classes, dropout=dropout, times=times)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(x, t, y).view(-1, *self.shape)


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


def _encoder(space: Space, dout: int, width: int, dropout: float, plain: bool, depth: int) -> Backbone:
    return VectorEncoder(space, dout, width, dropout, plain)


def _decoder(space: Space, din: int, cout: int, width: int, dropout: float, plain: bool, depth: int) -> Backbone:
    return VectorDecoder(space, din, cout, width, dropout, plain)


BACKBONES = (
    Networks(
        "mlp",
        title="residual MLP on the numbers of an example, whatever their place",
        denoiser=Denoiser,
        encoder=_encoder,
        decoder=_decoder,
    ),
)
