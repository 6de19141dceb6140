"""What a known density adds: which of its modes samples reach, and how many samples are where it has no mass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.metrics.blocks import blocks
from bench.metrics.labels import COVERED, variation
from bench.metrics.values import Value, share
from bench.metrics.vectors import distances

if TYPE_CHECKING:
    from bench.data import Density

__all__ = ["modes", "off_support"]


def modes(x: Tensor, y: Tensor, density: Density) -> list[Value]:
    """ "modes" and "mode_tv". A point within the radius of its nearest mode counts for that mode."""
    if density.modes is None:
        return []
    centres = density.modes.cpu().double()
    counts = []
    for points in (x, y):
        distance, mode = torch.cat([distances(points[p], centres) for p in blocks(len(points), len(centres))]).min(1)
        on = distance <= density.mode_radius
        counts.append(torch.bincount(mode[on], minlength=len(centres)).double())
    hit, expected = counts[0], counts[1] * len(x) / len(y)
    covered = int((hit >= (COVERED * expected).clamp(min=1)).sum())
    # Where no sample is on any mode there is no histogram; it is as wrong as one can be.
    tv = variation(hit / hit.sum(), counts[1] / counts[1].sum()) if hit.sum() else 1.0
    return [Value("modes", covered, unit=f"of {len(centres)}"), Value("mode_tv", tv)]


def off_support(x: Tensor, y: Tensor, density: Density) -> list[Value]:
    """ "off_support": the share of samples where log p is below what 99 % of real vectors have.

    So it is 0.01 for perfect samples, or 0 where the density is constant on its support. Where log p is not known, the
    share outside the radius of every mode; where there are no modes either, nothing.
    """
    if density.log_prob is not None:
        # A hair below, so that a density constant on its support does not lose part of it to rounding.
        usual = density.log_prob(y).double().quantile(0.01) - 1e-6
        outside = density.log_prob(x).double() < usual
    elif density.modes is not None:
        outside = distances(x, density.modes.cpu().double()).amin(1) > density.mode_radius
    else:
        return []
    return [share("off_support", outside.double().mean().item(), len(x))]
