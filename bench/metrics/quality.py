"""Every metric of one kind of data, in the order of the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from bench.metrics.blocks import Tell, in_turn
from bench.metrics.frechet import frechet_distance
from bench.metrics.kernel import kernel_distance
from bench.metrics.labels import label_distance
from bench.metrics.modes import modes, off_support
from bench.metrics.neighbours import neighbourhoods
from bench.metrics.values import Features, Value, finite, take
from bench.metrics.vectors import (
    energy_distance,
    gaussian_discrepancy,
    sliced_wasserstein,
    two_sample_accuracy,
    wasserstein,
)
from paradigms.errors import BadInput

if TYPE_CHECKING:
    from bench.data import Density

__all__ = ["floor", "quality", "quality_without_fd", "vector_quality"]


def quality(fake: Features, real: Features) -> list[Value]:
    """ "fd" and everything of `quality_without_fd`, of samples against real images in one feature space.

    Compare rows at equal numbers of samples only: the bias of "fd" and the values of "coverage" depend on them. Raises
    BadInput on features of two spaces, on features that are not finite, and below 10 samples per feature on a side.
    """
    return [frechet_distance(fake, real), *quality_without_fd(fake, real)]


def quality_without_fd(fake: Features, real: Features, tell: Tell | None = None) -> list[Value]:
    """ "kd", "precision", "recall", "density", "coverage" and, where the space is a classifier, the label metrics.

    For sets too small for a Frechet distance. Raises BadInput as `quality` does, and below 7 samples on either side.
    """
    n, m = len(fake.values), len(real.values)
    of_kernel, of_neighbours = in_turn(tell, 2 * n + m, n + 2 * m)
    values = [kernel_distance(fake, real, of_kernel), *neighbourhoods(fake, real, of_neighbours)]
    if fake.logits is not None and real.logits is not None:
        values += label_distance(fake, real)
    return values


def floor(train: Features, test: Features) -> list[Value]:
    """What real data scores: `quality` of training images in the place of samples, as many as there are of `test`."""
    n = min(len(train.values), len(test.values))
    return quality(take(train, n), take(test, n))


def vector_quality(fake: Tensor, real: Tensor, density: Density | None, tell: Tell | None = None) -> list[Value]:
    """ "w2", "sw2", "mmd2", "energy" and "c2st" of samples (N, D) against real vectors (M, D), and what a known density
    adds.

    With modes: "modes" and "mode_tv". With modes or log p: "off_support". Raises BadInput for other shapes, for numbers
    that are not finite, and below 3 on either side.
    """
    for name, x in (("samples", fake), ("real vectors", real)):
        if x.dim() != 2 or x.shape[1] != real.shape[1]:
            raise BadInput(f"vector metrics: {name} have shape {tuple(x.shape)}, expected (N, {real.shape[-1]})")
        if len(x) < 3:
            raise BadInput(f"vector metrics: {len(x)} {name}; at least 3 are needed")
        finite(x, f"vector metrics: {name}")
    x, y = fake.cpu().double(), real.cpu().double()
    measures = (wasserstein, sliced_wasserstein, gaussian_discrepancy, energy_distance, two_sample_accuracy)
    values = [measure(x, y, of) for measure, of in zip(measures, in_turn(tell, 5, 5, 40, 40, 10))]
    if density is not None:
        values += [*modes(x, y, density), *off_support(x, y, density)]
    return values
