"""What samples are worth: distances to real data, fidelity and diversity, memorisation, and the toys' exact measures.

Every function takes tensors and returns numbers, in float64, and draws no random number that is not fixed by its code:
the same input gives the same value, and nothing here disturbs the global generators. Each value has a floor, which is
what real images score against other real images; `floor` computes it, and no value means much without it.

| metric       | best at | what it is, and where from                                                             |
|--------------|---------|----------------------------------------------------------------------------------------|
| fd           | 0       | Frechet distance of Gaussians fitted to features; biased up by about d/n (1706.08500)  |
| kd           | 0       | squared maximum mean discrepancy, cubic kernel; unbiased, so also below 0 (1801.01401) |
| precision    | 1       | share of samples within reach of a real image: fidelity (1904.06991)                   |
| recall       | 1       | share of real images within reach of a sample: diversity (1904.06991)                  |
| density      | 1       | real images that reach a sample, over k; unbounded, prefers contraction (2002.09797)   |
| coverage     | 1       | share of real images with a sample within their own reach (2002.09797)                 |
| label_tv     | 0       | total variation between predicted labels of samples and of real images                 |
| nn_ratio     | 1       | samples' distance to training images over held-out images' to them; 0 = copies         |
| authenticity | floor's | samples farther from the nearest training image than that from its next (2102.08921)   |
| w2           | floor's | exact 2-Wasserstein distance of at most 2,000 points                                   |
| sw2          | floor's | sliced 2-Wasserstein distance over 256 fixed directions (Bonneel et al. 2015)          |
| mmd2         | 0       | squared maximum mean discrepancy, five Gaussian widths, unbiased (Gretton et al. 2012) |
| modes        | all     | modes with at least a tenth of the samples they should have; of stacked images: with one |
| mode_tv      | 0       | total variation between the modes' shares of samples and of real vectors               |
| mode_kl      | floor's | KL(modes of stacked samples ‖ uniform), nats (1705.07761); (M-1)/2n of perfect samples |
| off_support  | floor's | share of samples where log p is below what 99 % of real vectors have                   |

"Within reach" of a point is nearer than its k-th nearest neighbour in its own set, k = 5 throughout (the authors of
density and coverage use 5; those of precision and recall used 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from bench.features import Features
from paradigms.errors import BadInput

if TYPE_CHECKING:
    from bench.data import Density

__all__ = [
    "NEIGHBOURS",
    "PER_FEATURE",
    "Features",
    "Value",
    "evenly",
    "floor",
    "frechet_distance",
    "kernel_distance",
    "label_accuracy",
    "label_distance",
    "memorisation",
    "neighbourhoods",
    "quality",
    "quality_without_fd",
    "stacked_modes",
    "vector_quality",
]

NEIGHBOURS = 5  # k of precision, recall, density, coverage
PER_FEATURE = 10  # samples per feature dimension below which a Frechet distance is refused
ASSIGNED = 2000  # points in the exact Wasserstein distance: 1 s, and it grows with the cube
DIRECTIONS = 256  # of the sliced Wasserstein distance
WIDTHS = 5  # Gaussian kernels in the MMD on vectors
COVERED = 0.1  # a mode is covered when it gets this part of its share of real samples
CHUNK = 1000  # rows of a distance matrix held at a time


class Value(NamedTuple):
    """One number: its metric, its standard error over samples where one is known, and its unit ("" = none)."""

    metric: str
    value: float
    error: float | None = None
    unit: str = ""


# ---------------------------------------------------------------------------------------------------- on features


def quality(fake: Features, real: Features) -> list[Value]:
    """ "fd" and everything of `quality_without_fd`, of samples against real images in one feature space.

    Compare rows at equal numbers of samples only: the bias of "fd" and the values of "coverage" depend on them. Raises
    BadInput on features of two spaces, on features that are not finite, and below 10 samples per feature on a side.
    """
    return [frechet_distance(fake, real), *quality_without_fd(fake, real)]


def quality_without_fd(fake: Features, real: Features) -> list[Value]:
    """ "kd", "precision", "recall", "density", "coverage" and, where the space is a classifier, "label_tv".

    For sets too small for a Frechet distance. Raises BadInput as `quality` does, and below 7 samples on either side.
    """
    values = [kernel_distance(fake, real), *neighbourhoods(fake, real)]
    if fake.logits is not None and real.logits is not None:
        values.append(label_distance(fake, real))
    return values


def floor(train: Features, test: Features) -> list[Value]:
    """What real data scores: `quality` of training images in the place of samples, as many as there are of `test`."""
    n = min(len(train.values), len(test.values))
    return quality(_take(train, n), _take(test, n))


def frechet_distance(fake: Features, real: Features) -> Value:
    """The squared 2-Wasserstein distance of the Gaussians fitted to both sets of features: "fd".

    |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), by torchmetrics in float64. Refused (BadInput) below 10 samples per
    feature: at n = d a perfect sampler scores as badly as a poor one.
    """
    _check(fake, real, at_least=PER_FEATURE * fake.space.dim, of="a Frechet distance")
    metric = FrechetInceptionDistance(feature=_Computed(fake.space.dim))
    metric.update(fake.values.double(), real=False)
    metric.update(real.values.double(), real=True)
    return Value("fd", max(0.0, metric.compute().item()))  # rounding may leave -1e-13 between equal sets


class _Computed(nn.Module):
    """Stands in torchmetrics for the network whose features are already there, so that they are computed once."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def kernel_distance(fake: Features, real: Features) -> Value:
    """The unbiased squared maximum mean discrepancy with the kernel (x.y/d + 1)^3 over all samples: "kd".

    Not over random subsets, as KID is usually taken: that is noisier and its spread is not the error of its mean. The
    error is the jackknife's. Two halves of one set that was divided class by class are more alike than independent
    draws, so that their floor lies a little below 0.
    """
    _check(fake, real, at_least=3, of="a kernel distance")
    d = fake.space.dim
    return _discrepancy(
        "kd", fake.values.double(), real.values.double(), lambda x, y: (x @ y.mT).div_(d).add_(1).pow_(3)
    )


def neighbourhoods(fake: Features, real: Features) -> list[Value]:
    """ "precision", "recall", "density" and "coverage" with k = 5.

    Distances are computed pair by pair, not through a matrix product: of a sample that copies a real image the distance
    is exactly 0, and a neighbour on the rim of a ball does not fall in or out by rounding.
    """
    k = NEIGHBOURS
    _check(fake, real, at_least=k + 2, of=f"neighbourhoods of k = {k}")
    x, y = fake.values.double(), real.values.double()
    reach_fake, reach_real = _reach(x, k), _reach(y, k)
    within = torch.zeros(len(x), dtype=torch.long)  # how many real balls hold the sample
    recalled, covered = 0, 0
    for part, reach in zip(y.split(CHUNK), reach_real.split(CHUNK)):
        distance = _distances(part, x)
        within += (distance < reach[:, None]).sum(0)
        recalled += int((distance < reach_fake).any(1).sum())
        covered += int((distance.amin(1) < reach).sum())
    return [
        Value("precision", (within > 0).double().mean().item()),
        Value("recall", recalled / len(y)),
        Value("density", within.double().mean().item() / k),
        Value("coverage", covered / len(y)),
    ]


def label_distance(fake: Features, real: Features) -> Value:
    """Total variation, half the sum of |p - q|, between the predicted labels of samples and of real images: "label_tv".

    Real images are labelled by the same classifier, so that its own preferences cancel.
    """
    _check(fake, real, at_least=1, of="a label histogram")
    if fake.logits is None or real.logits is None:
        raise BadInput(f"feature space {fake.space.id} predicts no labels; use a classifier's space")
    classes = real.logits.shape[1]
    p, q = (_shares(f.argmax(1), classes) for f in (fake.logits, real.logits))
    return Value("label_tv", _variation(p, q))


def label_accuracy(fake: Features, labels: Tensor) -> Value:
    """The share of samples that the classifier gives the label (N,) they were drawn for: "label_accuracy"."""
    if fake.logits is None:
        raise BadInput(f"feature space {fake.space.id} predicts no labels; use a classifier's space")
    if len(labels) != len(fake.logits):
        raise BadInput(
            f"{len(fake.logits)} samples but {len(labels)} labels; give each sample the label it was drawn for"
        )
    p = (fake.logits.argmax(1) == labels.cpu()).double().mean().item()
    return Value("label_accuracy", p, math.sqrt(p * (1 - p) / len(labels)))


def stacked_modes(channels: Sequence[Features]) -> list[Value]:
    """ "modes" and "mode_kl" of stacked images, from each channel's features in a classifier's space of K labels.

    A mode is a tuple of labels; of the M = K^channels modes those count that a sample shows. mode_kl is the divergence of the
    samples' histogram over modes from the uniform one, in nats: log M when all show one mode. Both depend on N: of n
    perfect samples M (1 - e^(-n/M)) modes are expected, so compare at equal N, with real images beside (Srivastava et
    al. 2017, arXiv:1705.07761).
    """
    mode, number = torch.zeros((), dtype=torch.long), 1
    for features in channels:
        if features.logits is None:
            raise BadInput(f"feature space {features.space.id} predicts no labels; use a classifier's space")
        _finite(features.logits, f"logits of samples in {features.space.id}")
        classes = features.logits.shape[1]
        mode, number = mode * classes + features.logits.argmax(1), number * classes
    share = _shares(mode, number)
    return [
        Value("modes", int((share > 0).sum()), unit=f"of {len(share)}"),
        Value("mode_kl", (torch.special.xlogy(share, share).sum() + math.log(len(share))).item(), unit="nats"),
    ]


# --------------------------------------------------------------------------------------------------- memorisation


def memorisation(fake: Tensor, train: Tensor, test: Tensor) -> list[Value]:
    """Are samples copies? "nn_ratio" and "authenticity", from nearest training images in the space of the pixels.

    fake, train, test: (N, ...) of the data's own integers, or real vectors, alike in shape.

    nn_ratio is the mean distance of samples to the nearest training example over that of held-out examples: 1 = as far
    from the training set as unseen data is, below 1 nearer to it, 0 = all copies; above 1 the samples are off the data.
    authenticity is the share of samples farther from the nearest training example than that one is from its own nearest
    (Alaa et al. 2022); held-out data does not score 1 either, so compare with it.

    Every sample is compared with every training example: 1,000 against 60,000 images of 28×28 take about 3 s.
    """
    for name, x in (("samples", fake), ("training examples", train), ("held-out examples", test)):
        if x.shape[1:] != train.shape[1:]:
            raise BadInput(f"memorisation: {name} are {tuple(x.shape[1:])}, training examples {tuple(train.shape[1:])}")
        _finite(x, f"memorisation: {name}")
        if len(x) < 2:
            raise BadInput(f"memorisation: {len(x)} {name}; at least 2 are needed")
    x, reference, held_out = (v.cpu().flatten(1) for v in (fake, train, test))
    distance, nearest = _nearest(x, reference)
    baseline, _ = _nearest(held_out, reference)
    neighbours, position = nearest.unique(return_inverse=True)
    spacing, _ = _nearest(reference[neighbours], reference, but=neighbours)
    if baseline.mean() == 0:
        raise BadInput("memorisation: every held-out example is also a training example; give a split of unseen data")
    return [
        Value("nn_ratio", (distance.mean() / baseline.mean()).item()),
        Value("authenticity", (distance > spacing[position]).double().mean().item()),
    ]


def _nearest(x: Tensor, reference: Tensor, but: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Distance (N,) float64 and index (N,) of the nearest row of `reference` to each row of x, leaving out row `but`.

    Candidates are ranked by a float32 matrix product, and the distance to the winner is then computed directly: it is
    exact for a copy, and elsewhere at most the rounding of the ranking away from the smallest.
    """
    keys = reference.float()
    centre = keys.mean(0)  # near the origin the products cancel less
    keys = keys - centre
    half = keys.square().sum(1) / 2
    distances, indices = [], []
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK]
        score = torch.addmm(half, part.float() - centre, keys.mT, alpha=-1)  # (|x - k|^2 - |x|^2) / 2
        if but is not None:
            score[torch.arange(len(part)), but[start : start + CHUNK]] = math.inf
        index = score.argmin(1)
        indices.append(index)
        distances.append((part.double() - reference[index].double()).square().sum(1).sqrt())
    return torch.cat(distances), torch.cat(indices)


# ----------------------------------------------------------------------------------------------------- on vectors


def vector_quality(fake: Tensor, real: Tensor, density: Density | None) -> list[Value]:
    """ "w2", "sw2" and "mmd2" of samples (N, D) against real vectors (M, D), and what a known density adds.

    With modes: "modes" and "mode_tv". With modes or log p: "off_support".
    """
    for name, x in (("samples", fake), ("real vectors", real)):
        if x.dim() != 2 or x.shape[1] != real.shape[1]:
            raise BadInput(f"vector metrics: {name} have shape {tuple(x.shape)}, expected (N, {real.shape[-1]})")
        if len(x) < 3:
            raise BadInput(f"vector metrics: {len(x)} {name}; at least 3 are needed")
        _finite(x, f"vector metrics: {name}")
    x, y = fake.cpu().double(), real.cpu().double()
    values = [_wasserstein(x, y), _sliced(x, y), _discrepancy("mmd2", x, y, _gaussians)]
    if density is not None:
        values += [*_modes(x, y, density), *_off_support(x, y, density)]
    return values


def _wasserstein(x: Tensor, y: Tensor) -> Value:
    """(min over pairings of the mean squared distance)^(1/2), on as many points of each as there are, at most 2,000."""
    n = min(len(x), len(y), ASSIGNED)
    cost = _distances(evenly(x, n), evenly(y, n)).square_().numpy()
    rows, columns = linear_sum_assignment(cost)
    return Value("w2", math.sqrt(cost[rows, columns].mean()))


def _sliced(x: Tensor, y: Tensor) -> Value:
    """The root mean over fixed random directions of the squared 1-D distance: sorted projections, paired."""
    n = min(len(x), len(y))
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(x.shape[1], DIRECTIONS, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=0)
    a, b = ((evenly(v, n) @ directions).sort(0).values for v in (x, y))
    return Value("sw2", (a - b).square().mean().sqrt().item())


def _gaussians(x: Tensor, y: Tensor) -> Tensor:
    """The mean of Gaussian kernels exp(-r^2 / 2 w^2), w = sqrt(D) / (1, 2, 4, 8, 16), for data of unit variance.

    The wide ones see lost modes, the narrow ones the shape of a mode. Halving a width is raising its kernel to the 4th.
    """
    kernel = _distances(x, y).square_().div_(-2 * x.shape[1]).exp_()
    total = kernel.clone()
    for _ in range(WIDTHS - 1):
        kernel.square_().square_()
        total += kernel
    return total.div_(WIDTHS)


def _modes(x: Tensor, y: Tensor, density: Density) -> list[Value]:
    """ "modes" and "mode_tv". A point within the radius of its nearest mode counts for that mode."""
    if density.modes is None:
        return []
    centres = density.modes.cpu().double()
    counts = []
    for points in (x, y):
        distance, mode = torch.cat([_distances(part, centres) for part in points.split(CHUNK)]).min(1)
        counts.append(torch.bincount(mode[distance <= density.mode_radius], minlength=len(centres)).double())
    hit, expected = counts[0], counts[1] * len(x) / len(y)
    covered = int((hit >= (COVERED * expected).clamp(min=1)).sum())
    # Where no sample is on any mode there is no histogram; it is as wrong as one can be.
    variation = _variation(hit / hit.sum(), counts[1] / counts[1].sum()) if hit.sum() else 1.0
    return [Value("modes", covered, unit=f"of {len(centres)}"), Value("mode_tv", variation)]


def _off_support(x: Tensor, y: Tensor, density: Density) -> list[Value]:
    """ "off_support": the share of samples where log p is below what 99 % of real vectors have.

    So it is 0.01 for perfect samples, or 0 where the density is constant on its support. Where log p is not known, the
    share outside the radius of every mode; where there are no modes either, nothing.
    """
    if density.log_prob is not None:
        # A hair below, so that a density constant on its support does not lose part of it to rounding.
        usual = density.log_prob(y).double().quantile(0.01) - 1e-6
        outside = density.log_prob(x).double() < usual
    elif density.modes is not None:
        outside = _distances(x, density.modes.cpu().double()).amin(1) > density.mode_radius
    else:
        return []
    share = outside.double().mean().item()
    return [Value("off_support", share, math.sqrt(share * (1 - share) / len(x)))]


# --------------------------------------------------------------------------------------------------------- shared


def _discrepancy(metric: str, x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> Value:
    """The unbiased estimate of E k(x, x') + E k(y, y') - 2 E k(x, y), with the jackknife's error.

    All that is needed are the row sums of the three kernel matrices, without the diagonal of the first two. Leaving out
    sample i changes the estimate by closed form, so the error costs nothing more.
    """
    n, m = len(x), len(y)
    xx, yy = _row_sums(x, x, kernel, diagonal=False)[0], _row_sums(y, y, kernel, diagonal=False)[0]
    xy, yx = _row_sums(x, y, kernel, diagonal=True)
    cross = xy.sum()

    value = xx.sum() / (n * (n - 1)) + yy.sum() / (m * (m - 1)) - 2 * cross / (n * m)
    without_x = (xx.sum() - 2 * xx) / ((n - 1) * (n - 2)) - 2 * (cross - xy) / ((n - 1) * m)
    without_y = (yy.sum() - 2 * yy) / ((m - 1) * (m - 2)) - 2 * (cross - yx) / (n * (m - 1))
    variance = (n - 1) * without_x.var(correction=0) + (m - 1) * without_y.var(correction=0)
    return Value(metric, value.item(), variance.sqrt().item())


def _row_sums(
    x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor], diagonal: bool
) -> tuple[Tensor, Tensor]:
    """Row and column sums of the kernel matrix of x and y, with or without its diagonal, a block of rows at a time."""
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64)
    for start in range(0, len(x), CHUNK):
        block = kernel(x[start : start + CHUNK], y)
        if not diagonal:
            block.diagonal(start).zero_()
        rows.append(block.sum(1))
        columns += block.sum(0)
    return torch.cat(rows), columns


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _reach(x: Tensor, k: int) -> Tensor:
    """The distance (N,) of each point to its k-th nearest other point."""
    return torch.cat([_distances(part, x).topk(k + 1, dim=1, largest=False).values[:, k] for part in x.split(CHUNK)])


def _shares(labels: Tensor, classes: int) -> Tensor:
    return torch.bincount(labels, minlength=classes).double() / len(labels)


def _variation(p: Tensor, q: Tensor) -> float:
    return (p - q).abs().sum().item() / 2


def evenly(x: Tensor, n: int) -> Tensor:
    """n rows of x, spread evenly over it: all of a sorted set is met, and no random number is drawn."""
    return x[torch.arange(n) * len(x) // n]


def _take(features: Features, n: int) -> Features:
    logits = None if features.logits is None else evenly(features.logits, n)
    return Features(evenly(features.values, n), logits, features.space)


def _check(fake: Features, real: Features, at_least: int, of: str) -> None:
    if fake.space.id != real.space.id:
        raise BadInput(
            f"features of {fake.space.id} and of {real.space.id} can not be compared; compute both in one feature space"
        )
    for name, features in (("samples", fake), ("real images", real)):
        values = features.values
        if values.dim() != 2 or values.shape[1] != features.space.dim:
            raise BadInput(
                f"features of {name} have shape {tuple(values.shape)}, "
                f"but {features.space.id} has {features.space.dim} features; compute them with it"
            )
        if len(values) < at_least:
            raise BadInput(
                f"{len(values)} {name} are too few for {of} in {features.space.id}: at least {at_least} are needed; "
                "give more, or leave this metric out"
            )
        _finite(values, f"features of {name} in {features.space.id}")


def _finite(x: Tensor, what: str) -> None:
    if x.is_floating_point() and not (finite := x.isfinite()).all():
        bad = int((~finite.flatten(1).all(1)).sum())
        raise BadInput(f"{what}: {bad} of {len(x)} are not finite; the model that drew them has diverged")
