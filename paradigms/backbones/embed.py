"""How a network is told the time and the label: both become one vector that modulates every block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Embedding(nn.Module):
    """Time t (B,) and, where there are classes, labels y (B,) to a vector (B, dim).

    t is embedded by sines and cosines of `frequencies` octave-spaced frequencies from 1/2 to 16 cycles: high enough
    to resolve t near 0, low enough not to stiffen the ODE. Without a time (`timed=False`) or classes no parameters are
    owned for them. times: how many times there are, t (B, times). Raises ValueError when there are classes and no labels
    are given.
    """

    cycles: Tensor

    def __init__(self, dim: int, classes: int = 0, timed: bool = True, frequencies: int = 16, times: int = 1) -> None:
        super().__init__()
        self.dim = dim
        cycles = torch.logspace(-1, 4, frequencies, base=2.0)
        self.register_buffer("cycles", 2 * math.pi * cycles, persistent=False)
        self.time = (
            nn.Sequential(nn.Linear(2 * frequencies * times, dim), nn.SiLU(), nn.Linear(dim, dim)) if timed else None
        )
        self.label = nn.Embedding(classes, dim) if classes else None
        if self.label is not None:
            # Beside a time a label must be as loud: at 0.02 it is heard only after hundreds of steps.
            nn.init.normal_(self.label.weight, std=1.0 if timed else 0.02)

    def forward(self, t: Tensor | None, y: Tensor | None = None) -> Tensor | None:
        out = None
        if self.time is not None:
            assert t is not None
            angle = (t.to(self.cycles.dtype)[..., None] * self.cycles).flatten(1)
            out = self.time(torch.cat([angle.sin(), angle.cos()], dim=1))
        if self.label is not None:
            if y is None:
                raise ValueError("a conditional model needs the labels of its examples")
            label = self.label(y)
            out = label if out is None else out + label
        return None if out is None else F.silu(out)


def modulate(h: Tensor, scale_shift: Tensor) -> Tensor:
    """h · (1 + scale) + shift, with scale and shift (B, 2C) spread over the positions of h (B, C, ...)."""
    scale, shift = scale_shift.view(*scale_shift.shape, *(1,) * (h.dim() - 2)).chunk(2, dim=1)
    return torch.addcmul(shift + h, h, scale)
