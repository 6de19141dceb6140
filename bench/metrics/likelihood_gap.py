"""Does a density built from the samples explain training data better than held-out data? The gap of FLD."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.metrics.blocks import squared_distances
from bench.metrics.values import Features, Value, check, evenly
from paradigms.errors import BadInput
from reports.metrics import Metric

__all__ = ["fitted_variances", "likelihood_gap"]

FITTED = 1000  # samples, and examples of either split, at most: the distances of all pairs are held
STEPS = 20  # of expectation maximisation
NARROWEST = 1e-8  # variance of a component on a copy, of features of variance 1


def likelihood_gap(fake: Features, train: Features, test: Features) -> Value:
    """ "fld_gap": the generalisation gap of the feature likelihood divergence (Jiralerspong et al. 2023,
    arXiv:2302.04440), 100/d (mean NLL of training features - mean NLL of held-out ones): 0, and below it copying.

    The density is a mixture of isotropic Gaussians, one on each sample, whose variances are fitted to the training
    features: a sample that is a copy gets a narrow one, from which the training set profits and held-out data does not.
    Features are standardised by the held-out ones and constant ones left out; at most 1,000 of each set are taken,
    evenly. The fit itself favours the training data a little, so unseen data in the place of samples scores below 0 too.

    Unlike the authors', the fit is 20 steps of expectation maximisation from the nearest distances, not 50 of Adam, and
    one more component at the mean, which they have in the fit alone, stays: without it the likelihood of held-out data
    under samples that are all copies is 0, and the gap has no size. Raises BadInput as `check` does.
    """
    for side in (train, test):
        check(fake, side, at_least=2, of="a likelihood gap")
    x, t, h = (evenly(f.values, min(len(f.values), FITTED)).double() for f in (fake, train, test))
    scale = h.std(0)
    varies = scale > 1e-6 * scale.max()  # a unit that is dead on held-out data has no scale
    if not varies.any():
        raise BadInput(f"the held-out features of {test.space.id} are all constant; no density can be fitted to them")
    x, t, h = ((v[:, varies] - h.mean(0)[varies]) / scale[varies] for v in (x, t, h))
    x, d = torch.cat([x, t.mean(0, keepdim=True)]), x.shape[1]
    near, far = (squared_distances(v, x).clamp_(min=0) for v in (t, h))
    variance = fitted_variances(near, d)
    seen, unseen = (_joint(squared, variance, d).logsumexp(1).mean() for squared in (near, far))
    return Value("fld_gap", 100 / d * (unseen - seen).item())


def fitted_variances(squared: Tensor, d: int, steps: int = STEPS) -> Tensor:
    """Variances (n,) of n isotropic components in d dimensions, from the squared distances (m, n) of what they explain.

    No step lowers the likelihood of the m points, up to the narrowest variance allowed.
    """
    variance = (squared.amin(0) / d).clamp_(min=NARROWEST)
    for _ in range(steps):
        weights = _joint(squared, variance, d).softmax(1)
        variance = ((weights * squared).sum(0) / (d * weights.sum(0)).clamp_(min=1e-300)).clamp_(min=NARROWEST)
    return variance


def _joint(squared: Tensor, variance: Tensor, d: int) -> Tensor:
    """log of the weight 1/n times the density N(t; x, variance I) of each pair, (m, n)."""
    log_scale = d / 2 * (2 * math.pi * variance).log() + math.log(len(variance))
    return torch.addcdiv(-log_scale, squared, variance, value=-0.5)


METRICS = (
    Metric(
        "fld_gap",
        title="FLD gap",
        best="floor",
        meaning="generalisation gap of the feature likelihood divergence; far below 0 = copies",
        source="arXiv:2302.04440",
        cost="0.12",
        place=70,
    ),
)
