"""Data: what one example is, a batch of them, and a split held on a device.

Images are (B, C, H, W) float32 in [-1, 1] at bin centres; vectors are (B, D).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Batch", "Data", "Pairs", "Space"]


@dataclass(frozen=True)
class Space:
    """What one example is.

    shape:   (C, H, W) of an image or (D,) of a vector.
    classes: how many labels a model of this space is told; 0 = unconditional.
    levels:  how many integer values a pixel takes (256; 17 for scikit-learn's digits); 0 = real-valued.
    """

    shape: tuple[int, ...]
    classes: int = 0
    levels: int = 0

    @property
    def dim(self) -> int:
        return math.prod(self.shape)

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3

    @property
    def bin(self) -> float:
        """The unit of the least noise: the width of a level's bin on [-1, 1], a twentieth of real-valued data's unit."""
        return 2 / self.levels if self.levels else 0.05

    def encode(self, k: Tensor) -> Tensor:
        """Integers k in [0, L) to bin centres (2k + 1)/L - 1, float32; real-valued data passes unchanged."""
        if not self.levels:
            return k
        return k.to(torch.float32, copy=True).mul_(2).add_(1).div_(self.levels).sub_(1)

    def decode(self, x: Tensor) -> Tensor:
        """Float images to the integer of the bin they fall in (uint8); real-valued data passes unchanged."""
        if not self.levels:
            return x
        return ((x + 1) * (self.levels / 2)).floor_().clamp_(0, self.levels - 1).to(torch.uint8)


class Batch(NamedTuple):
    """x: (B, *shape) float32. y: (B,) int64 labels, or None when the model is unconditional."""

    x: Tensor
    y: Tensor | None = None


class Pairs(Batch):
    """A batch of examples that a model made, and z (B, *shape) float32, the noise that each was made of."""

    z: Tensor

    def __new__(cls, x: Tensor, y: Tensor | None, z: Tensor) -> Pairs:
        pairs = super().__new__(cls, x, y)
        pairs.z = z
        return pairs


@dataclass(frozen=True)
class Data:
    """A split held on one device: integers where the space has levels, float32 otherwise; batched by index.

    z: the noise that each example was made of, where `Trainable.prepare` drew such pairs.
    """

    x: Tensor
    y: Tensor | None
    space: Space
    z: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor) -> Batch:
        """The examples at `index` (B,), encoded; labels only when the space has classes. `Pairs` where there is z."""
        y = self.y.index_select(0, index) if self.y is not None and self.space.classes else None
        x = self.space.encode(self.x.index_select(0, index))
        return Batch(x, y) if self.z is None else Pairs(x, y, self.z.index_select(0, index))

    def all(self) -> Batch:
        return self.batch(torch.arange(len(self), device=self.x.device))

    def unlabelled(self) -> Data:
        """The same examples for a model that is told no labels."""
        return replace(self, y=None, space=replace(self.space, classes=0))

    def to(self, device: torch.device | str) -> Data:
        y, z = (None if v is None else v.to(device) for v in (self.y, self.z))
        return replace(self, x=self.x.to(device), y=y, z=z)
