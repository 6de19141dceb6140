"""Blur, seen in the pixels alone."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from bench.metrics.blocks import Tell, in_turn
from bench.metrics.stream import Stream
from bench.metrics.values import Value
from paradigms.errors import BadInput
from reports.metrics import Metric

__all__ = ["Sharpness", "sharpness"]

PIXELS = 2**22  # of a part at most: 32 MiB of float64
ROUNDING = 1e-12  # of the squared mean: a smaller variance is none


class Sharpness(Stream[tuple[float, float]]):
    """Mean and standard error of the variance of the Laplacian of images (B, C, H, W), of the data's own integers.

    The variance over the pixels of a channel, with the kernel of four neighbours and no border, averaged over channels
    (Pech-Pacheco et al. 2000). Floats are refused: unrounded samples carry noise below a level, which counts as edges.
    """

    state = ("n", "total", "squares")

    def __init__(self) -> None:
        self.n, self.total, self.squares = 0, 0.0, 0.0

    def update(self, batch: Tensor, tell: Tell | None = None) -> None:
        if batch.dim() != 4 or min(batch.shape[2:]) < 3:
            raise BadInput(f"sharpness: images have shape {tuple(batch.shape)}, expected (B, C, H, W) from 3×3")
        if batch.is_floating_point():
            raise BadInput(f"sharpness: images are {batch.dtype}; round them to the data's integers first")
        if not len(batch):
            return
        kernel = torch.tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64)[None, None]
        before = self.n
        for part in batch.cpu().split(max(1, PIXELS // math.prod(batch.shape[1:]))):
            answer = conv2d(part.double().flatten(0, 1)[:, None], kernel)
            each = answer.flatten(1).var(1, correction=0).view(len(part), -1).mean(1)
            self.n += len(each)
            self.total += each.sum().item()
            self.squares += each.square().sum().item()
            if tell is not None:
                tell(self.n - before, len(batch))

    def merge(self, other: Self) -> None:
        self.n += other.n
        self.total += other.total
        self.squares += other.squares

    def compute(self) -> tuple[float, float]:
        if self.n < 2:
            raise BadInput(f"sharpness of {self.n} images; at least 2 are needed")
        mean = self.total / self.n
        variance = self.squares / self.n - mean**2
        scatters = variance > ROUNDING * mean**2  # between equal images, rounding leaves 1e-16 of the square
        return mean, math.sqrt(variance / (self.n - 1)) if scatters else 0.0


def sharpness(fake: Tensor, real: Tensor, tell: Tell | None = None) -> Value:
    """ "sharpness": the mean variance of the Laplacian of samples over that of real images: 1, below it blur, above it
    noise. Both (N, C, H, W) of the data's integers. It has no error where the images of a side are all as sharp.

    Raises BadInput for other shapes and for floats.
    """
    sides = []
    for x, of in zip((fake, real), in_turn(tell, len(fake), len(real))):
        metric = Sharpness()
        metric.update(x, of)
        sides.append(metric.compute())
    (a, a_error), (b, b_error) = sides
    if b == 0:
        raise BadInput("sharpness: the real images are constant")
    return Value("sharpness", a / b, math.hypot(a_error, a / b * b_error) / b if a_error and b_error else None)


METRICS = (
    Metric(
        "sharpness",
        title="Sharpness",
        best="1",
        meaning="variance of the Laplacian of samples over that of real images; below 1 blur, above it noise",
        source="Pech-Pacheco et al. 2000",
        cost="0.16",
        place=50,
    ),
)
