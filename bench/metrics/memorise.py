"""Are samples copies of training examples? By nearest neighbours among the pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.metrics.blocks import Tell, blocks, in_turn, pair_distances
from bench.metrics.values import Value, evenly, finite, share
from paradigms.errors import BadInput
from reports.metrics import Metric

__all__ = ["memorisation"]

PART = 4096  # rows squared at once
NOISE = 1e-12  # an error of the gap, a number between -1 and 1, that is rounding


def memorisation(fake: Tensor, train: Tensor, test: Tensor, tell: Tell | None = None) -> list[Value]:
    """ "nn_ratio", "authenticity" and "nn_gap", from nearest neighbours in the space of the pixels.

    fake, train, test: (N, ...) of the data's own integers, or real vectors, alike in shape.

    nn_ratio is the mean distance of samples to the nearest training example over that of held-out examples: 1 = as far
    from the training set as unseen data is, below 1 nearer to it, 0 = all copies; above 1 the samples are off the data.
    authenticity is the share of samples farther from the nearest training example than that one is from its own nearest
    (Alaa et al. 2022, arXiv:2102.08921); held-out data does not score 1 either, so compare with it.
    nn_gap is the mean distance to the nearest of as many held-out as training examples, less that to the training ones,
    over the sum of both: 0 = no nearer to the one than to the other, 1 = copies of training examples, -1 = of held-out
    ones. It needs no scale, for bad samples are as far from both. Its error is that of a ratio of paired means; where
    all samples answer alike, as copies do, there is none.

    Every sample is compared with every training example: 1,000 against 60,000 images of 28×28 take about 3 s.
    """
    for name, x in (("samples", fake), ("training examples", train), ("held-out examples", test)):
        if x.shape[1:] != train.shape[1:]:
            raise BadInput(f"memorisation: {name} are {tuple(x.shape[1:])}, training examples {tuple(train.shape[1:])}")
        finite(x, f"memorisation: {name}")
        if len(x) < 2:
            raise BadInput(f"memorisation: {len(x)} {name}; at least 2 are needed")
    x, reference, held_out = (v.to(fake.device).flatten(1) for v in (fake, train, test))
    n = min(len(reference), len(held_out))
    pairs = [len(a) * len(reference) for a in (x, held_out, x)] + [len(x) * n] * 2
    of_samples, of_held_out, of_spacing, *of_gap = in_turn(tell, *pairs)
    distance, found = _nearest(x, reference, tell=of_samples)
    baseline, _ = _nearest(held_out, reference, tell=of_held_out)
    if baseline.mean() == 0:
        raise BadInput("memorisation: every held-out example is also a training example; give a split of unseen data")
    neighbours, position = found.unique(return_inverse=True)
    spacing, _ = _nearest(reference[neighbours], reference, but=neighbours, tell=of_spacing)
    to_train = distance if n == len(reference) else _nearest(x, evenly(reference, n), tell=of_gap[0])[0]
    to_test, _ = _nearest(x, evenly(held_out, n), tell=of_gap[1])
    return [
        Value("nn_ratio", (distance.mean() / baseline.mean()).item()),
        share("authenticity", (distance > spacing[position]).double().mean().item(), len(x)),
        _gap(to_train, to_test),
    ]


def _gap(to_train: Tensor, to_test: Tensor) -> Value:
    difference, total = to_test - to_train, to_test + to_train
    if total.mean() == 0:
        raise BadInput(
            "memorisation: every sample is both a training and a held-out example; give a split of unseen data"
        )
    gap = difference.mean() / total.mean()
    error = (difference - gap * total).std() / (total.mean() * math.sqrt(len(total)))
    return Value("nn_gap", gap.item(), error.item() if error > NOISE else None)


def _nearest(
    x: Tensor, reference: Tensor, but: Tensor | None = None, tell: Tell | None = None
) -> tuple[Tensor, Tensor]:
    """Distance (N,) float64 and index (N,) of the nearest row of `reference` to each row of x, leaving out row `but`.

    Candidates are ranked by a float32 matrix product, and the distance to the winner is then computed directly: it is
    exact for a copy, and elsewhere at most the rounding of the ranking away from the smallest.
    """
    keys = reference.to(torch.float32, copy=True)  # as large as the training split: held once
    centre = keys.mean(0)  # near the origin the products cancel less
    keys -= centre
    half = torch.cat([part.square().sum(1) for part in keys.split(PART)]) / 2
    distances, indices = [], []
    for part in blocks(len(x), len(reference), tell):
        score = torch.addmm(half, x[part].float() - centre, keys.mT, alpha=-1)  # (|x - k|^2 - |x|^2) / 2
        if but is not None:
            score[torch.arange(len(score), device=score.device), but[part]] = math.inf
        index = score.argmin(1)
        indices.append(index)
        distances.append(pair_distances(x[part], reference[index]).sqrt())
    return torch.cat(distances), torch.cat(indices)


METRICS = (
    Metric(
        "nn_ratio",
        title="NN ratio",
        best="1",
        meaning="distance to the nearest training image: of samples over that of held-out images; 0 = copies",
        cost="1.4",
        place=60,
    ),
    Metric(
        "authenticity",
        title="Authenticity",
        best="floor",
        meaning="share of samples farther from their nearest training image than that is from its own nearest",
        source="arXiv:2102.08921",
        place=60,
    ),
    Metric(
        "nn_gap",
        title="NN gap",
        best="0",
        meaning="how much nearer samples are to training than to held-out images, -1 to 1; 1 = copies",
        place=60,
    ),
)
