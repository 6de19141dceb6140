"""A data set of one's own in one file: points on a spiral with a little noise.

[project.entry-points."bench.datasets"]
mine = "my_package.my_dataset"
"""

import math

import torch

from bench.data import Dataset, Definition


def spiral(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (n, 2) float32 on two arms, and which arm (n,) int64: of a fixed seed, so the same everywhere."""
    generator = torch.Generator().manual_seed(seed)
    arm = torch.randint(2, (n,), generator=generator)
    angle = 3 * math.pi * torch.rand(n, generator=generator).sqrt() + math.pi * arm
    radius = (angle - math.pi * arm) / (2 * math.pi)
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return points + 0.03 * torch.randn(n, 2, generator=generator), arm


def load(files) -> Dataset:
    """files: the verified files of `origin`, by name; none here."""
    return Dataset.of(
        "spiral",
        spiral(5000, 0),
        spiral(2000, 1),
        labels=("first", "second"),
        source="two noisy spirals; no licence needed",
    )


DATASETS = (
    Definition(
        "spiral",
        title="Two arms of a spiral",
        shape=(2,),
        classes=2,
        n_train=5000,
        n_test=2000,
        where="generated",
        load=load,
    ),
)
