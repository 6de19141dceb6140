"""What a backbone is: the networks that it makes for a space, under one name for `--set backbone=NAME`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from paradigms.backbones import Backbone
from paradigms.core.data import Space

__all__ = ["Network", "Networks"]


@dataclass(frozen=True)
class Networks:
    """A backbone, whole, as it stands in `BACKBONES` at the foot of its file. What it does not make is None.

    denoiser: (space, width, dropout, outputs, times) -> a network (x (B, *shape), t (B,), y) -> (B, outputs * C, ...), where
              t is (B, times) with several times.
    encoder:  (space, dout, width, dropout, plain, depth) -> a network (x (B, *shape), y) -> (B, dout). plain: without
              normalisation, labels by projection, as a critic wants.
    decoder:  (space, din, cout, width, dropout, plain, depth) -> a network (z (B, din), y) -> (B, cout * C, ...).
    refuses:  why it can not be made for such data, in words for the user; None where it can.

    y (B,) are labels below `space.classes`, or None where that is 0. The parameters have to grow with `width`.
    """

    name: str
    title: str
    denoiser: Callable[..., nn.Module] | None = None
    encoder: Callable[..., nn.Module] | None = None
    decoder: Callable[..., nn.Module] | None = None
    refuses: Callable[[Space], str | None] = lambda space: None
    source: str = ""


class Network(Backbone):
    """Any module as one network of the suite: its forward pass is one network call, and follows `bfloat16`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *args: Any) -> Any:
        return self.net(*args)
