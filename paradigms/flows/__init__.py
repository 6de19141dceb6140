"""The invertible transforms that normalizing flows are composed of; each knows its inverse and its log-determinant.

`forward` goes from data to noise and returns (z, log |det dz/dx|), `inverse` from noise to data. x is (B, C, H, W) or
(B, D); `cond` is whatever the transform's networks are told besides x (a label's embedding, a feature map), or None.
A log-determinant is (B,), or a scalar where it is the same for every example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

__all__ = ["Chain", "Transform"]


class Transform(nn.Module, ABC):
    """An invertible map between tensors of equal size."""

    @abstractmethod
    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z and log |det dz/dx|, (B,) or a scalar."""

    @abstractmethod
    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """The x that `forward` carries to z."""


class Chain(Transform):
    """Transforms one after the other, the first next to the data; log-determinants add."""

    def __init__(self, transforms: Iterable[Transform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(())
        for transform in self.transforms:
            x, d = transform(x, cond)
            log_det = log_det + d
        return x, log_det

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        for transform in reversed(self.transforms):
            z = transform.inverse(z, cond)  # type: ignore[operator]
        return z
