"""Guidance: what a network expects with a label is exaggerated beyond what it expects without one.

Training.   One network learns both: a label is replaced by one more, "none", with a probability (Ho & Salimans 2022,
            algorithm 1). At any x_t it then answers F(x_t, y) and F(x_t, none).

Sampling.   F = F(x_t, none) + w (F(x_t, y) - F(x_t, none)). At one x_t the expected x0, eps, v, velocity and score are
            affine in F with equal coefficients for both answers, so they are combined alike, on any path; for the score
                grad log [p_t(x_t | y)^w p_t(x_t)^(1 - w)].
            w = 1 is the model with labels as it is and w = 0 the one without: the network is asked once. Any other w asks it
            for a batch twice as large. Ho & Salimans count from 0: their w is this one less 1; it is the "guidance scale"
            of most code since.

Interval.   Guidance can be kept to some noise levels, sigma / alpha from `low` to `high` (Kynkäänniemi et al. 2024), which
            mean the same on every path; outside it is the model with labels. In much noise guidance costs diversity, and
            in little it has no effect.

Likelihood. None is given of a guided model. p_t^w p_t^(1 - w) is not what noise makes of p_0^w p_0^(1 - w), so that the
            guided score belongs to no diffusion: the ODE and the SDE along it sample different laws, neither of which is
            p_0^w p_0^(1 - w) (Bradley & Nakkiran 2024), bounds bound nothing, and the density that the ODE does define is
            that of its solver and of no model of the data.

References
    J. Ho, T. Salimans. Classifier-Free Diffusion Guidance. 2022. arXiv:2207.12598
    T. Kynkäänniemi et al. Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion
        Models. NeurIPS 2024. arXiv:2404.07724
    A. Bradley, P. Nakkiran. Classifier-Free Guidance is a Predictor-Corrector. 2024. arXiv:2408.09000
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from paradigms.core.data import Space
from paradigms.core.noise import Noise
from paradigms.maths.paths import GaussianPath

__all__ = ["PURE", "Guidance", "null_label", "with_null", "withheld"]

PURE = 1e6  # sigma / alpha from which on a state is noise and nothing else


# ------------------------------------------------------------------------------------------------------- training


def null_label(space: Space, unlabelled: float) -> int | None:
    """The label that says "none", next after the last; None of a model without labels, and of one that always has them."""
    return space.classes if space.classes and unlabelled > 0 else None


def with_null(space: Space, null: int | None) -> Space:
    """What a network is told of the data: one more class where there is a label for none."""
    return space if null is None else replace(space, classes=space.classes + 1)


def withheld(y: Tensor | None, null: int | None, unlabelled: float, noise: Noise) -> Tensor | None:
    """Labels (B,), each replaced by `null` with probability `unlabelled`; by a stream of its own."""
    if y is None or null is None:
        return y
    return torch.where(noise.at("unlabelled").uniform(len(y)) < unlabelled, null, y)


# ------------------------------------------------------------------------------------------------------- sampling


@dataclass(frozen=True)
class Guidance:
    """strength: w. null: the label for none. low, high: of sigma / alpha, both included, `PURE` for all noise.

    variance: of the network's channels the second half are the variance of a step, which is not guided: it is the one
    with labels.
    """

    strength: float
    null: int
    low: float = 0.0
    high: float = PURE
    variance: bool = False

    def covers(self, path: GaussianPath, t: Tensor) -> Tensor:
        """At which times (N,) of a path it acts, (N,) bool."""
        t = t.double()  # in float32 cos(pi / 2) is negative
        ratio = (path.sigma(t) / path.alpha(t)).clamp_max(PURE)
        return (self.low <= ratio) & (ratio <= self.high)

    def ask(
        self, net: Callable[[Tensor, Tensor, Tensor | None], Tensor], x: Tensor, clock: Tensor, y: Tensor | None
    ) -> Tensor:
        """F (B, ...) of a network for x (B, ...), clock (B,) and labels y (B,), guided in every row."""
        if y is None:
            raise ValueError("guidance needs the labels of what is drawn")
        none = torch.full_like(y, self.null)
        if self.strength == 0:
            return net(x, clock, none)
        told, free = net(torch.cat([x, x]), torch.cat([clock, clock]), torch.cat([y, none])).chunk(2)
        if not self.variance:
            return torch.lerp(free, told, self.strength)
        (told, v), (free, _) = told.chunk(2, dim=1), free.chunk(2, dim=1)
        return torch.cat([torch.lerp(free, told, self.strength), v], dim=1)
