"""Noise: random numbers that are a function of their coordinates and row alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["BLOCKS", "Blocks", "Noise", "seed_of"]


def seed_of(*coords: object) -> int:
    """A 63-bit seed that is a pure function of the coordinates."""
    return int.from_bytes(hashlib.blake2b(repr(coords).encode(), digest_size=8).digest(), "big") >> 1


class Blocks(NamedTuple):
    """How `Noise` cuts a draw into blocks on a kind of device: at most so many rows and about so many numbers a block.

    version: of the numbers that come out; runs of different versions have different noise.
    """

    version: int
    rows: int
    numbers: int


# On a CPU a number costs the most: little waste at batch 1. On a GPU a launch does: one block holds any usual batch, and
# filling it takes less than some 0.05 ms. There the numbers are those of one model of GPU: torch gives a thread of the
# kernel a stream of its own, and takes as many threads as the multiprocessors hold (`calc_execution_policy` in ATen's
# cuda/DistributionTemplates.h), 221,184 on 108 of them and 270,336 on 132. A larger draw goes round them again.
BLOCKS: Mapping[str, Blocks] = {"cpu": Blocks(1, 1024, 2**12), "cuda": Blocks(2, 4096, 2**23)}


class Noise:
    """Counter-based randomness: what is drawn depends on (coords, how many draws came before, row), on nothing else.

    Rows are drawn in fixed blocks (`BLOCKS`), one generator seed per block, so that a batch cut in chunks, micro-batches
    or ranks gives the same rows as the whole: chunk [a, b) uses `noise.rows(a)`. No state has to be saved to resume.
    """

    def __init__(self, *coords: object, first: int = 0, device: torch.device | str = "cpu") -> None:
        self.coords = coords
        self.first = first
        self.device = torch.device(device)
        self._draws = 0
        self._generator = torch.Generator(self.device)

    def rows(self, first: int) -> Noise:
        """The same stream from its first draw, for rows `first`, `first` + 1, ..."""
        return Noise(*self.coords, first=first, device=self.device)

    def at(self, *coords: object) -> Noise:
        """An independent stream named by further coordinates, at the same rows."""
        return Noise(*self.coords, *coords, first=self.first, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, float32, `shape` = (rows, ...)."""
        return self._draw(shape, lambda s: torch.randn(s, generator=self._generator, device=self.device))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), float32."""
        return self._draw(shape, lambda s: torch.rand(s, generator=self._generator, device=self.device))

    def rademacher(self, *shape: int) -> Tensor:
        """-1 or +1 with equal probability, float32."""
        return self.uniform(*shape).sub_(0.5).sign_().add_(0.5).sign_()

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform on {0, ..., high - 1}, int64."""
        return self._draw(shape, lambda s: torch.randint(high, s, generator=self._generator, device=self.device))

    def _draw(self, shape: tuple[int, ...], draw: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        n, rest, most = shape[0], tuple(shape[1:]), BLOCKS[self.device.type]
        size = max(1, min(most.rows, most.numbers // max(1, math.prod(rest))))
        k, self._draws = self._draws, self._draws + 1
        first, last = self.first // size, max(self.first, self.first + n - 1) // size
        blocks = []
        for block in range(first, last + 1):
            self._generator.manual_seed(seed_of(*self.coords, k, block))
            blocks.append(draw((size, *rest)))
        whole = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        offset = self.first - first * size
        return whole[offset : offset + n]
