"""What a known density adds: which of its modes samples reach, and how many samples are where it has no mass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.metrics.blocks import blocks
from bench.metrics.labels import COVERED, logits_of, variation
from bench.metrics.values import Features, Value, share
from bench.metrics.vectors import distances
from reports.metrics import Metric

if TYPE_CHECKING:
    from bench.data import Density

__all__ = ["modes", "off_support", "stacked_modes"]


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


def stacked_modes(channels: Sequence[Features]) -> list[Value]:
    """ "modes" and "mode_kl" of stacked images, from each channel's features in a classifier's space of K labels.

    A mode is a tuple of labels; of the M = K^channels modes those count that a sample shows. mode_kl is the divergence
    of the samples' histogram over modes from the uniform one, in nats: log M when all show one mode. Both depend on N:
    of n perfect samples M (1 - e^(-n/M)) modes are expected, so compare at equal N, with real images beside (Srivastava
    et al. 2017, arXiv:1705.07761).
    """
    mode, number = torch.zeros((), dtype=torch.long), 1
    for features in channels:
        logits = logits_of(features)
        mode, number = mode * logits.shape[1] + logits.argmax(1), number * logits.shape[1]
    shares = torch.bincount(mode, minlength=number).double() / len(mode)
    return [
        Value("modes", int((shares > 0).sum()), unit=f"of {len(shares)}"),
        Value("mode_kl", (torch.special.xlogy(shares, shares).sum() + math.log(len(shares))).item(), unit="nats"),
    ]


METRICS = (
    Metric(
        "modes",
        title="Modes",
        direction="↑",
        judged=True,
        best="all",
        meaning="modes with at least a tenth of their expected samples; in stacked images, with one sample",
        cost="<0.01",
        place=90,
    ),
    Metric(
        "mode_tv",
        title="Mode TV",
        direction="↓",
        judged=True,
        best="0",
        meaning="total variation between the modes' shares of samples and of real vectors",
        place=90,
    ),
    Metric(
        "mode_kl",
        title="Mode KL",
        direction="↓",
        judged=True,
        best="floor",
        meaning="KL(modes of stacked samples ‖ uniform), nats; (M-1)/2n of perfect samples",
        source="arXiv:1705.07761",
        ratio=True,
        place=90,
    ),
    Metric(
        "off_support",
        title="Off support",
        direction="↓",
        judged=True,
        best="floor",
        meaning="share of samples where log p is below what 99 % of real vectors have",
        cost="<0.01",
        place=90,
    ),
)
