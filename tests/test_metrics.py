"""Metrics: closed forms, agreement with direct formulas, the order of the arguments, and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from bench import metrics
from bench.data import Density, load
from bench.features import Extractor, Features, FeatureSpace, random_conv, shipped, spaces_for
from bench.metrics import (
    Value,
    blocks,
    classification_accuracy_score,
    evenly,
    extrapolated_distance,
    floor,
    frechet_distance,
    kernel_distance,
    label_accuracy,
    label_distance,
    likelihood_gap,
    memorisation,
    neighbourhoods,
    quality,
    quality_without_fd,
    sharpness,
    stacked_modes,
    vector_quality,
    vectors,
)
from bench.metrics.likelihood_gap import fitted_variances
from bench.metrics.values import share
from paradigms.core.data import Space
from paradigms.errors import BadInput


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def space_of(d: int, name: str = "plain") -> FeatureSpace:
    return FeatureSpace(name, "0" * 12, (1, 1, d), Extractor(nn.Flatten(), d))


def features(values: Tensor, logits: Tensor | None = None) -> Features:
    return Features(values.float(), logits, space_of(values.shape[1]))


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed))


def table(values: list[Value]) -> dict[str, float]:
    assert len({v.metric for v in values}) == len(values)
    return {v.metric: v.value for v in values}


# --------------------------------------------------------------------------------------------------------- Frechet


def test_a_set_has_no_distance_to_itself() -> None:
    x = features(normal(400, 16) * torch.linspace(0.1, 3, 16) + 5)
    values = table(quality(x, x))
    assert values["fd"] == pytest.approx(0, abs=1e-9)
    assert values["kd"] <= 0  # the cross term holds the diagonal, the others do not
    assert (values["precision"], values["recall"], values["coverage"]) == (1, 1, 1)
    assert values["density"] == pytest.approx(6 / 5), "the k-th neighbour is within reach too"


def exactly(mean: np.ndarray, covariance: np.ndarray, n: int, seed: int) -> Tensor:
    """n points with this very sample mean and (unbiased) sample covariance."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return torch.from_numpy(x @ np.linalg.cholesky(covariance).T + mean)


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(1)
    d = 8
    a, b = (m @ m.T / d + 0.1 * np.eye(d) for m in rng.standard_normal((2, d, d)))
    mu, nu = rng.standard_normal((2, d))
    root = scipy.linalg.sqrtm(scipy.linalg.sqrtm(a) @ b @ scipy.linalg.sqrtm(a)).real
    expected = ((mu - nu) ** 2).sum() + np.trace(a + b - 2 * root)
    found = frechet_distance(features(exactly(mu, a, 300, 2)), features(exactly(nu, b, 500, 3)))
    assert found.value == pytest.approx(expected, rel=1e-5)  # features are float32


def test_frechet_distance_agrees_with_scipy_on_digits() -> None:
    data = load("digits")
    space = shipped("digits")
    x, y = (space.features(split.all().x) for split in (data.train, data.test))
    (m, s), (n, t) = ((f.values.double().mean(0).numpy(), np.cov(f.values.double().numpy().T)) for f in (x, y))
    expected = ((m - n) ** 2).sum() + np.trace(s + t) - 2 * np.sqrt(np.linalg.eigvals(s @ t).astype(complex)).real.sum()
    assert frechet_distance(x, y).value == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(y, x).value == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_survives_a_large_mean() -> None:
    """Running sums in float32 are off by a factor of six here."""
    x, y = normal(800, 8, 0).double(), 1.5 * normal(800, 8, 1).double()
    near, far = (frechet_distance(features(x + shift), features(y + shift)).value for shift in (0, 1000))
    assert far == pytest.approx(near, rel=1e-3)


def test_the_bias_of_few_samples_is_why_few_are_refused() -> None:
    d = 16
    few, many = (
        frechet_distance(features(normal(n, d, 1)), features(normal(n, d, 2))).value for n in (10 * d, 200 * d)
    )
    assert few > 10 * many
    with pytest.raises(BadInput, match=r"159 samples are too few for a Frechet distance.*160"):
        frechet_distance(features(normal(159, d)), features(normal(500, d)))
    with pytest.raises(BadInput, match="159 real images are too few"):
        frechet_distance(features(normal(500, d)), features(normal(159, d)))


def test_samples_that_are_all_the_same_have_a_distance() -> None:
    """A collapsed generator: no covariance at all, and the distance is that of a point."""
    x, same = normal(100, 4), torch.full((100, 4), 0.3)
    expected = (x.double().mean(0) - same.double().mean(0)).square().sum() + torch.cov(x.double().mT).trace()
    assert frechet_distance(features(same), features(x)).value == pytest.approx(expected.item(), rel=1e-12)
    assert frechet_distance(features(x), features(same)).value == pytest.approx(expected.item(), rel=1e-12)
    assert frechet_distance(features(same), features(same + 1)).value == pytest.approx(4, rel=1e-6)


@pytest.mark.heavy
def test_extrapolation_finds_the_distance_that_few_samples_hide() -> None:
    """Of Gaussians whose distance is known: fd is nine tenths bias, fd_inf has next to none over draws."""
    d, n = 32, 640
    truth = d * 0.05**2
    found = [
        (
            frechet_distance(features(1.05 * normal(n, d, 2 * i)), features(normal(n, d, 2 * i + 1))).value,
            *(
                v.value
                for v in extrapolated_distance(features(1.05 * normal(n, d, 2 * i)), features(normal(n, d, 2 * i + 1)))
            ),
        )
        for i in range(40)
    ]
    fd, fd_inf, straight = np.mean(found, axis=0)
    assert fd > 8 * truth
    assert fd_inf == pytest.approx(truth, abs=0.05 * fd + 3 * np.std([f[1] for f in found]) / math.sqrt(len(found)))
    assert straight > 0.99
    x, y = features(normal(n, d)), features(normal(n, d, 1))
    told: list[tuple[int, int]] = []
    first = extrapolated_distance(x, y, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (15, 15)
    assert first == extrapolated_distance(x, y)
    assert first != extrapolated_distance(x, y, seed=1)


# ---------------------------------------------------------------------------------------------------------- kernel


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def discrepancy(x: np.ndarray, y: np.ndarray, kernel: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    n, m = len(x), len(y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    return (
        (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.sum() / (n * m)
    )


def test_kernel_distance_is_the_direct_formula_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(57, 6, 0), normal(83, 6, 1) + 0.3
    expected = discrepancy(x.double().numpy(), y.double().numpy(), cubic)
    found = []
    for block in (2**22, 830, 83 * 57, 1):
        monkeypatch.setattr(blocks, "BLOCK", block)
        found.append(kernel_distance(features(x), features(y)))
    for value in found:
        assert value.value == pytest.approx(expected, rel=1e-9)
        assert value.error == pytest.approx(found[0].error, rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`:UserWarning")
def test_kernel_distance_is_torchmetrics_own_over_one_full_subset() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    x, y = normal(80, 6, 0), normal(80, 6, 1) + 0.3
    metric = KernelInceptionDistance(feature=space_of(6).extractor, subsets=1, subset_size=80)
    metric.update(x.reshape(80, 1, 1, 6), real=False)
    metric.update(y.reshape(80, 1, 1, 6), real=True)
    with torch.random.fork_rng():  # it draws its subsets from the global generator
        expected = metric.compute()[0].item()
    assert kernel_distance(features(x), features(y)).value == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_is_unbiased_and_its_error_is_its_spread() -> None:
    null = [
        kernel_distance(features(normal(60, 4, 2 * i)), features(normal(60, 4, 2 * i + 1))).value for i in range(200)
    ]
    assert abs(np.mean(null)) < 3 * np.std(null) / math.sqrt(len(null))
    apart = [
        kernel_distance(features(normal(60, 4, 2 * i)), features(normal(60, 4, 2 * i + 1) + 0.7)) for i in range(200)
    ]
    spread = np.std([v.value for v in apart])
    claimed = np.sqrt(np.mean([v.error**2 for v in apart if v.error is not None]))
    assert claimed == pytest.approx(spread, rel=0.25)


def test_the_jackknife_is_what_leaving_one_out_gives() -> None:
    x, y = normal(12, 3, 0).double().numpy(), normal(9, 3, 1).double().numpy() + 0.5
    without_x = [discrepancy(np.delete(x, i, 0), y, cubic) for i in range(len(x))]
    without_y = [discrepancy(x, np.delete(y, i, 0), cubic) for i in range(len(y))]
    variance = (len(x) - 1) * np.var(without_x) + (len(y) - 1) * np.var(without_y)
    found = kernel_distance(features(torch.from_numpy(x)), features(torch.from_numpy(y)))
    assert found.error == pytest.approx(math.sqrt(variance), rel=1e-5)


# -------------------------------------------------------------------------------------------------- neighbourhoods


def prdc(fake: np.ndarray, real: np.ndarray, k: int) -> dict[str, float]:
    """The definitions, spelled out with full matrices."""

    def pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(2))

    reach_real, reach_fake = (np.sort(pairs(a, a), axis=1)[:, k] for a in (real, fake))
    between = pairs(real, fake)
    return {
        "precision": (between <= reach_real[:, None]).any(0).mean(),
        "recall": (between <= reach_fake[None]).any(1).mean(),
        "density": (between <= reach_real[:, None]).sum(0).mean() / k,
        "coverage": (between.min(1) <= reach_real).mean(),
    }


def test_neighbourhoods_are_the_definitions_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, real = 1.1 * normal(150, 5, 0) + 0.2, normal(170, 5, 1)
    expected = prdc(fake.double().numpy(), real.double().numpy(), metrics.NEIGHBOURS)
    for block in (2**22, 64 * 150, 1):
        monkeypatch.setattr(blocks, "BLOCK", block)
        assert table(neighbourhoods(features(fake), features(real))) == pytest.approx(expected, abs=1e-12)


def test_collapsed_samples_have_precision_and_no_recall() -> None:
    """Samples that are all one mode of many: swapped arguments would give the reverse."""
    centres = 10 * normal(10, 8, 5)
    real = torch.cat([c + normal(40, 8, i) for i, c in enumerate(centres)])
    fake = centres[0] + 0.7 * normal(400, 8, 99)
    values = table(neighbourhoods(features(fake), features(real)))
    assert values["precision"] > 0.9
    assert values["recall"] < 0.15
    assert values["coverage"] < 0.15
    back = table(neighbourhoods(features(real), features(fake)))
    assert back["precision"] < 0.15


@pytest.mark.parametrize(
    ("scale", "n", "expected"),
    [  # (precision, recall, density, coverage) in 64 dimensions at 2,000 real points
        (1.0, 2000, (0.70, 0.71, 0.95, 0.96)),
        (0.9, 2000, (0.94, 0.32, 3.87, 1.00)),
        (1.1, 2000, (0.36, 0.93, 0.23, 0.64)),
        (1.0, 500, (0.72, 0.76, 0.87, 0.64)),
    ],
)
def test_contraction_pleases_density_and_few_samples_hurt_coverage(
    scale: float, n: int, expected: tuple[float, ...]
) -> None:
    """What these numbers do on Gaussians is known, and no reason to trust any of them alone."""
    values = table(neighbourhoods(features(scale * normal(n, 64, 1)), features(normal(2000, 64, 2))))
    found = [values[m] for m in ("precision", "recall", "density", "coverage")]
    assert found == pytest.approx(expected, abs=0.05, rel=0.1)


def test_samples_on_one_outlier_are_precise_and_nothing_else() -> None:
    real = normal(1000, 16, 0)
    outlier = real[real.norm(dim=1).argmax()]
    fake = outlier + 1e-3 * normal(1000, 16, 1)
    values = table(neighbourhoods(features(fake), features(real)))
    assert values["precision"] == 1
    assert values["recall"] < 0.02
    assert values["coverage"] < 0.02


# ----------------------------------------------------------------------------------------------------------- labels


def one_hot(labels: list[int], classes: int = 3) -> Tensor:
    return torch.eye(classes)[labels] * 5


def test_label_distance_is_total_variation() -> None:
    fake = features(normal(4, 2), one_hot([0, 0, 0, 1]))
    real = features(normal(8, 2), one_hot([0, 0, 0, 0, 1, 1, 2, 2]))
    found = table(label_distance(fake, real))
    assert found["label_tv"] == pytest.approx(0.25)
    p, q = np.array([3.5, 1.5, 0.5]) / 5.5, np.array([4.5, 2.5, 2.5]) / 9.5
    assert found["label_kl"] == pytest.approx(scipy.stats.entropy(p, q), rel=1e-12)
    assert found["label_modes"] == 2
    assert table(label_distance(fake, fake)) == {"label_tv": 0, "label_kl": 0, "label_modes": 2}
    dropped = features(normal(4, 2), one_hot([2, 2, 2, 2]))
    found = table(label_distance(dropped, features(normal(2, 2), one_hot([0, 1]))))
    assert (found["label_tv"], found["label_modes"]) == (1, 0), "a label that real images never show is no mode"
    assert 0 < found["label_kl"] < math.inf
    assert label_distance(real, real)[2].unit == "of 3"
    even = features(normal(100, 2), one_hot([0, 1] * 50))
    for few, modes in ((6, 2), (4, 1)):  # a tenth of its share is 5
        unlike = features(normal(100, 2), one_hot([1] * few + [0] * (100 - few)))
        assert table(label_distance(unlike, even))["label_modes"] == modes


def test_stacked_modes_are_counted_and_compared_with_equal_shares() -> None:
    """Against a count by hand: labels (0, 1), (0, 1), (2, 1), (2, 0) of 3 × 3 modes."""

    def named(*channels: list[int]) -> dict[str, float]:
        return table(stacked_modes([features(normal(len(c), 2), one_hot(c)) for c in channels]))

    found = named([0, 0, 2, 2], [1, 1, 1, 0])
    assert found["modes"] == 3
    assert found["mode_kl"] == pytest.approx(sum(p * math.log(p * 9) for p in (0.5, 0.25, 0.25)))
    every = [(a, b) for a in range(3) for b in range(3)]
    assert named([a for a, _ in every], [b for _, b in every]) == {"modes": 9, "mode_kl": pytest.approx(0, abs=1e-12)}
    assert named([1] * 5, [2] * 5, [0] * 5) == {"modes": 1, "mode_kl": pytest.approx(math.log(27))}
    assert named([0, 1], [1, 0])["modes"] == 2, "which channel shows a label matters"
    (modes, _) = stacked_modes([features(normal(2, 2), one_hot([0, 1]))] * 2)
    assert modes.unit == "of 9"
    with pytest.raises(BadInput, match="predicts no labels"):
        stacked_modes([features(normal(2, 2))])


def test_perfect_samples_show_the_modes_that_chance_leaves_them() -> None:
    """Of n draws from 1,000 equal modes 1000 (1 - e^(-n/1000)) are seen: why 10,000 are drawn."""
    for n, seen, off in ((2_000, 1000 * (1 - math.exp(-2)), 40), (10_000, 1000, 1)):
        labels = torch.randint(10, (3, n), generator=generator())
        found = table(stacked_modes([features(normal(n, 2), one_hot(c.tolist(), 10)) for c in labels]))
        assert found["modes"] == pytest.approx(seen, abs=off)
    assert found["mode_kl"] == pytest.approx(999 / 20_000, rel=0.1)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Roots p of (hits/n - p)^2 = z^2 p (1 - p) / n (Wilson 1927), by their quadratic."""
    z = scipy.stats.norm.ppf(0.975)
    low, high = sorted(np.roots([n + z * z, -(2 * hits + z * z), hits * hits / n]).real)
    return max(low, 0.0), min(high, 1.0)


def test_a_proportion_has_wilsons_interval_and_no_error_at_its_ends() -> None:
    for hits, n in ((0, 891), (891, 891), (3, 891), (450, 891), (1, 1), (0, 2)):
        found = share("any", hits / n, n)
        assert (found.low, found.high) == pytest.approx(wilson(hits, n), abs=1e-12), (hits, n)
        assert (found.error is None) == (hits in (0, n))
    assert share("label_accuracy", 1.0, 891).low == pytest.approx(0.9957, abs=5e-5)


def test_every_metric_that_is_a_proportion_has_an_interval_at_its_border() -> None:
    n = 60
    fake = features(normal(n, 2), one_hot([k % 3 for k in range(n)]))
    labels = torch.tensor([k % 3 for k in range(n)])
    apart = features(torch.stack([labels.float(), -labels.float()], 1) + 0.01 * normal(n, 2))
    points = load("ring8").test.x[:n]
    away = {v.metric: v for v in vector_quality(points + 50, points, load("ring8").density)}
    train = torch.randint(256, (n, 1, 4, 4), generator=generator(1), dtype=torch.uint8)
    test = torch.randint(256, (n, 1, 4, 4), generator=generator(2), dtype=torch.uint8)
    copied = {v.metric: v for v in memorisation(train, train, test)}
    for value, p, answers in (
        (label_accuracy(fake, labels), 1, n),
        (classification_accuracy_score(apart, labels, apart, labels), 1, n),
        (away["c2st"], 1, 2 * n),
        (away["off_support"], 1, n),
        (copied["authenticity"], 0, n),
    ):
        assert value.value == p, value
        assert (value.low, value.high) == pytest.approx(wilson(p * answers, answers), abs=1e-12), value
        assert value.error is None, value
    assert (copied["nn_gap"].value, copied["nn_gap"].error) == (1, None), "all samples answer alike: no scatter"


def test_samples_without_scatter_have_no_error() -> None:
    real = torch.randint(256, (50, 1, 8, 8), generator=generator(3), dtype=torch.uint8)
    for fake in (torch.full_like(real, 7), real[:1].expand_as(real)):  # constant; one picture again and again
        assert sharpness(fake, real).error is None
    assert sharpness(real.flip(0), real).error is not None
    x = normal(30, 3)
    assert kernel_distance(features(x[:1].expand_as(x)), features(x)).error is None
    assert kernel_distance(features(x + 1), features(x)).error is not None


def cubic_discrepancy(x: Tensor, y: Tensor) -> Fraction:
    """The unbiased discrepancy of the kernel (x.y/d + 1)^3 in whole numbers."""
    a, b = ([[Fraction(float(v)) for v in row] for row in z] for z in (x, y))

    def mean(p: list[list[Fraction]], q: list[list[Fraction]], same: bool) -> Fraction:
        kernels = [
            (sum((u * v for u, v in zip(r, s)), Fraction(0)) / len(r) + 1) ** 3
            for i, r in enumerate(p)
            for j, s in enumerate(q)
            if not (same and i == j)
        ]
        return sum(kernels, Fraction(0)) / len(kernels)

    return mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)


@pytest.mark.parametrize("centre", [0.0, 1.0, 1e4, 1e6])
def test_the_kernel_distance_of_features_far_off_centre_is_exact(centre: float) -> None:
    """In floats the kernel is 1e24 at mean 1e4, and rounding of it alone would be 1e8."""
    x, y = (normal(n, 3, seed).double() * 0.01 + centre for n, seed in ((9, 1), (11, 2)))
    expected = float(cubic_discrepancy(x, y))
    space = space_of(3)
    found = kernel_distance(Features(x, None, space), Features(y, None, space))
    assert found.value == pytest.approx(expected, rel=1e-6)
    left_out = [float(cubic_discrepancy(torch.cat([x[:i], x[i + 1 :]]), y)) for i in range(len(x))]
    left_out_y = [float(cubic_discrepancy(x, torch.cat([y[:i], y[i + 1 :]]))) for i in range(len(y))]
    variance = (len(x) - 1) * np.var(left_out) + (len(y) - 1) * np.var(left_out_y)
    assert found.error == pytest.approx(math.sqrt(variance), rel=1e-6)


def test_label_accuracy_counts_and_has_a_binomial_error() -> None:
    fake = features(normal(4, 2), one_hot([0, 1, 2, 2]))
    value = label_accuracy(fake, torch.tensor([0, 1, 2, 0]))
    assert value.value == 0.75
    assert value.error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    with pytest.raises(BadInput, match="4 samples but 3 labels"):
        label_accuracy(fake, torch.tensor([0, 1, 2]))
    with pytest.raises(BadInput, match="predicts no labels"):
        label_accuracy(features(normal(4, 2)), torch.zeros(4))


# ---------------------------------------------------------------------------------------------------------- quality


def digits_features(space: FeatureSpace) -> tuple[Features, Features]:
    data = load("digits")
    return space.features(data.train.all().x), space.features(data.test.all().x)


def test_quality_says_which_metrics_a_space_has() -> None:
    spaces = spaces_for("digits", Space((1, 8, 8), 10, 17))
    names = [[v.metric for v in floor(*digits_features(space))] for space in spaces]
    plain = ["fd", "kd", "precision", "recall", "density", "coverage"]
    assert names == [[*plain, "label_tv", "label_kl", "label_modes"], plain]


def test_the_floor_takes_equal_numbers_from_all_of_the_training_split() -> None:
    train, test = digits_features(shipped("digits"))
    part = Features(test.values[:700], None, test.space)
    values = floor(train, part)
    chosen = Features(train.values[torch.arange(700) * 899 // 700], None, train.space)
    assert values == quality(chosen, part)
    assert evenly(torch.arange(10), 5).tolist() == [0, 2, 4, 6, 8]
    assert evenly(torch.arange(3), 3).tolist() == [0, 1, 2]


def test_real_data_is_nearer_than_a_gaussian_and_that_nearer_than_noise() -> None:
    data = load("digits")
    rng = np.random.default_rng(0)
    pixels = data.train.x.flatten(1).double().numpy()
    drawn = rng.multivariate_normal(pixels.mean(0), np.cov(pixels.T), 898).round().clip(0, 16)
    gaussian = torch.from_numpy(drawn.astype(np.uint8)).reshape(-1, 1, 8, 8)
    noise = torch.from_numpy(rng.integers(0, 17, (898, 1, 8, 8), dtype=np.uint8))
    for space in (shipped("digits"), random_conv((1, 8, 8))):
        train, test = digits_features(space)
        real = table(floor(train, test))
        fitted, uniform = (table(quality(space.features(data.space.encode(k)), test)) for k in (gaussian, noise))
        assert 10 * real["fd"] < fitted["fd"] < 0.5 * uniform["fd"]
        assert real["kd"] < 0.1 * fitted["kd"] < 0.1 * uniform["kd"]
        for metric in ("precision", "recall", "coverage"):
            assert real[metric] > 0.9 > fitted[metric] > uniform[metric]


def test_quality_does_not_depend_on_the_order_of_the_samples() -> None:
    train, test = digits_features(shipped("digits"))
    order = torch.randperm(len(train.values), generator=generator())
    assert train.logits is not None
    shuffled = Features(train.values[order], train.logits[order], train.space)
    a, b = table(quality(train, test)), table(quality(shuffled, test))
    assert b == pytest.approx(a, rel=1e-9, abs=1e-12)


def test_quality_draws_nothing_and_repeats_itself() -> None:
    train, test = digits_features(shipped("digits"))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    a = quality(train, test)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (np.random.get_state()[1] == numpy_state).all()
    assert quality(train, test) == a


def test_a_small_set_still_has_every_other_metric() -> None:
    x, y = features(normal(30, 8, 0)), features(normal(20, 8, 1))
    with pytest.raises(BadInput, match="too few for a Frechet distance"):
        quality(x, y)
    assert [v.metric for v in quality_without_fd(x, y)] == ["kd", "precision", "recall", "density", "coverage"]
    with pytest.raises(BadInput, match="6 samples are too few"):
        quality_without_fd(features(normal(6, 8)), y)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    """torchmetrics would return nan and say nothing."""
    values = normal(100, 4)
    values[3, 2] = values[7, 1] = bad
    good = features(normal(100, 4, 1))
    for function in (quality, quality_without_fd, frechet_distance, kernel_distance, neighbourhoods):
        with pytest.raises(BadInput, match=r"features of samples in plain@0+: 2 of 100 are not finite"):
            function(features(values), good)
        with pytest.raises(BadInput, match="real images"):
            function(good, features(values))


def test_features_of_two_spaces_are_never_compared() -> None:
    a = features(normal(100, 4))
    b = Features(a.values, None, space_of(4, "other"))
    with pytest.raises(BadInput, match=r"plain@.*other@.*one feature space"):
        quality(a, b)
    with pytest.raises(BadInput, match="has 4 features"):
        quality(Features(normal(100, 5), None, a.space), a)


# ----------------------------------------------------------------------------------------------------- memorisation


def test_copies_unseen_data_and_noise_are_told_apart() -> None:
    data = load("digits")
    train, test = data.train.x, data.test.x
    copies = table(memorisation(train, train, test))
    assert (copies["nn_ratio"], copies["authenticity"]) == (0, 0)
    assert copies["nn_gap"] > 0.99, "all but the one that is not among as many as there are held-out examples"
    unseen = table(memorisation(test, train, test))
    assert (unseen["nn_ratio"], unseen["nn_gap"]) == (1, -1), "copies of the held-out examples"
    assert 0.4 < unseen["authenticity"] < 0.7
    neither = memorisation(test[::2], train, test[1::2])[2]
    assert neither.error is not None
    assert abs(neither.value) < 3 * neither.error
    half = table(memorisation(torch.cat([train[:449], test[:449]]), train, test))
    assert 0.4 < half["nn_ratio"] < 0.6
    noise = torch.randint(0, 17, train.shape, generator=generator(), dtype=torch.uint8)
    assert table(memorisation(noise, train, test))["nn_ratio"] > 1.5


def test_memorisation_is_the_direct_formula_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, train, test = (
        torch.randint(0, 256, (n, 3, 4, 4), generator=generator(n), dtype=torch.uint8) for n in (31, 47, 29)
    )
    x, t, h = (v.flatten(1).double() for v in (fake, train, test))
    between = torch.cdist(x, t)
    within = torch.cdist(t, t).fill_diagonal_(math.inf)
    nearest = between.argmin(1)
    ratio = between.amin(1).mean() / torch.cdist(h, t).amin(1).mean()
    authenticity = (between.amin(1) > within.amin(1)[nearest]).double().mean()
    for block in (2**22, 8 * 47, 1):
        monkeypatch.setattr(blocks, "BLOCK", block)
        values = table(memorisation(fake, train, test))
        assert values["nn_ratio"] == pytest.approx(ratio.item(), rel=1e-9)
        assert values["authenticity"] == pytest.approx(authenticity.item(), rel=1e-9)
        # As many of the one as of the other, evenly taken.
        a, b = torch.cdist(x, t[torch.arange(29) * 47 // 29]).amin(1), torch.cdist(x, h).amin(1)
        assert values["nn_gap"] == pytest.approx(((b.sum() - a.sum()) / (b.sum() + a.sum())).item(), rel=1e-9)


def test_a_copy_is_at_distance_zero_in_bytes_too() -> None:
    """A float32 matrix product alone would put it some units away."""
    train = torch.randint(200, 256, (300, 1, 28, 28), generator=generator(), dtype=torch.uint8)
    test = torch.randint(200, 256, (50, 1, 28, 28), generator=generator(1), dtype=torch.uint8)
    found = table(memorisation(train[:60], train, test))
    assert (found["nn_ratio"], found["authenticity"]) == (0, 0)


def test_the_likelihood_gap_is_that_of_torchs_mixture() -> None:
    """With the variances that expectation maximisation found, and each of its steps raises the likelihood it fits."""
    fake, train, test = normal(40, 3, 0).double(), normal(60, 3, 1).double(), 1.3 * normal(50, 3, 2).double() + 0.2
    mean, sd = test.mean(0), test.std(0)
    x, t, h = ((v - mean) / sd for v in (fake, train, test))
    x = torch.cat([x, t.mean(0, keepdim=True)])
    squared = (t[:, None] - x[None]).square().sum(2)

    def mixture(steps: int) -> MixtureSameFamily:
        spread = fitted_variances(squared, 3, steps).sqrt()[:, None].expand(-1, 3)
        return MixtureSameFamily(Categorical(torch.ones(len(x)).double()), Independent(Normal(x, spread), 1))

    fits = [mixture(steps).log_prob(t).mean().item() for steps in range(25)]
    assert all(b > a - 1e-12 for a, b in pairwise(fits))
    assert fits[20] > fits[0] + 0.1
    expected = 100 / 3 * (mixture(20).log_prob(h).mean().item() - fits[20])
    found = likelihood_gap(*(features(v) for v in (fake, train, test))).value
    assert found == pytest.approx(expected, rel=1e-5), "features are float32"
    dead = [features(torch.cat([v, torch.zeros(len(v), 1)], 1)) for v in (fake, train, test)]
    assert likelihood_gap(*dead).value == pytest.approx(found, rel=1e-9), "a unit that is constant counts for nothing"
    with pytest.raises(BadInput, match="are all constant"):
        likelihood_gap(features(fake), features(train), features(0 * test + 1))


def test_memorisation_refuses_what_it_can_not_answer() -> None:
    x = torch.zeros(5, 1, 4, 4, dtype=torch.uint8)
    y = torch.arange(80, dtype=torch.uint8).reshape(5, 1, 4, 4)
    with pytest.raises(BadInput, match=r"held-out examples are \(1, 5, 5\)"):
        memorisation(x, y, torch.zeros(5, 1, 5, 5))
    with pytest.raises(BadInput, match="every held-out example is also a training example"):
        memorisation(x, y, y)
    with pytest.raises(BadInput, match="1 samples; at least 2"):
        memorisation(x[:1], y, x)
    with pytest.raises(BadInput, match="samples: 5 of 5 are not finite"):
        memorisation(torch.full((5, 1, 4, 4), math.nan), y, x)


# ---------------------------------------------------------------------------------------------------------- vectors


DISTANCES = ["w2", "sw2", "mmd2", "energy", "c2st"]


def ring() -> Density:
    density = load("ring8").density
    assert density is not None
    assert density.modes is not None
    return density


def draw(n: int, seed: int) -> Tensor:
    return ring().sample(n, generator(seed))[0]


def test_real_vectors_cover_every_mode() -> None:
    values = vector_quality(draw(1500, 1), draw(1500, 2), ring())
    found = table(values)
    assert [v.metric for v in values] == [*DISTANCES, "modes", "mode_tv", "off_support"]
    assert found["modes"] == 8
    assert next(v for v in values if v.metric == "modes").unit == "of 8"
    assert found["mode_tv"] < 0.05
    assert found["off_support"] == pytest.approx(0.01, abs=0.008)
    assert abs(found["mmd2"]) < 0.002
    assert found["w2"] < 0.5


def test_a_lost_mode_is_seen_by_every_measure() -> None:
    density = ring()
    assert density.modes is not None
    x = draw(1500, 1)
    kept = x[torch.cdist(x.double(), density.modes.double()).argmin(1) != 3][:1000]
    good, bad = (table(vector_quality(v, draw(1000, 2), density)) for v in (x[:1000], kept))
    assert bad["modes"] == 7
    assert bad["mode_tv"] == pytest.approx(1 / 8, abs=0.03)
    assert bad["mmd2"] > 10 * abs(good["mmd2"])
    assert bad["w2"] > 1.5 * good["w2"]
    assert bad["sw2"] > 1.5 * good["sw2"]


@pytest.mark.heavy
def test_a_few_stray_samples_do_not_make_a_mode() -> None:
    density = ring()
    assert density.modes is not None
    one = density.modes[0].float() + 0.01 * normal(990, 2)
    stray = density.modes[1:8].float().repeat(2, 1)[:10]  # one or two samples where 125 belong
    found = table(vector_quality(torch.cat([one, stray]), draw(1000, 2), density))
    assert found["modes"] == 1
    assert found["mode_tv"] > 0.8


def test_a_mode_reaches_as_far_as_its_radius() -> None:
    """Samples just inside the radius of four modes and just outside that of the others."""
    density = ring()
    assert density.modes is not None
    reach = torch.tensor([0.99] * 4 + [1.01] * 4)[:, None] * density.mode_radius * torch.tensor([0.6, 0.8])
    found = table(vector_quality((density.modes.float() + reach).repeat(20, 1), draw(1000, 2), density))
    assert found["modes"] == 4
    assert found["mode_tv"] == pytest.approx(0.5, abs=0.03)


def test_samples_on_no_mode() -> None:
    found = table(vector_quality(50 + normal(100, 2), draw(500, 2), ring()))
    assert (found["modes"], found["mode_tv"], found["off_support"]) == (0, 1, 1)


@pytest.mark.heavy
def test_off_support_is_where_real_data_practically_never_is() -> None:
    data = load("checkerboard")
    real = data.test.x[:2000]
    assert table(vector_quality(data.train.x[:1000], real, data.density))["off_support"] == 0
    uniform = (torch.rand(1000, 2, generator=generator()) * 2 - 1) * real.abs().max()
    assert table(vector_quality(uniform, real, data.density))["off_support"] == pytest.approx(0.5, abs=0.05)
    moons = load("moons")
    found = table(vector_quality(moons.train.x[:1000], moons.test.x[:1000], moons.density))
    assert found["off_support"] == pytest.approx(0.01, abs=0.01)
    assert "modes" not in found


def test_off_support_by_radius_where_log_p_is_not_known() -> None:
    known = ring()
    unknown = replace(known, log_prob=None)
    x, y = torch.cat([draw(600, 1), draw(400, 3) + 30]), draw(500, 2)
    for density in (known, unknown):
        assert table(vector_quality(x, y, density))["off_support"] == pytest.approx(0.4 + 0.6 * 0.01, abs=0.01)
    assert [v.metric for v in vector_quality(x, y, replace(unknown, modes=None))] == DISTANCES


def test_without_a_density_the_distances_remain() -> None:
    assert [v.metric for v in vector_quality(normal(50, 3), normal(60, 3, 1), None)] == DISTANCES


def test_wasserstein_of_a_shift_is_the_shift() -> None:
    x = normal(500, 3)
    shift = torch.tensor([0.3, -0.4, 1.2])
    found = table(vector_quality(x + shift, x, None))
    assert found["w2"] == pytest.approx(1.3, rel=1e-5)
    # The mean square of a projected shift is |shift|^2 / D over all directions; 256 of them are near it.
    assert found["sw2"] == pytest.approx(1.3 / math.sqrt(3), rel=0.1)


def test_wasserstein_in_one_dimension_is_sorting() -> None:
    x, y = normal(300, 1, 0), 2 * normal(300, 1, 1) + 1
    expected = (x.sort(0).values - y.sort(0).values).double().square().mean().sqrt().item()
    found = table(vector_quality(x, y, None))
    assert found["w2"] == pytest.approx(expected, rel=1e-6)
    assert found["sw2"] == pytest.approx(expected, rel=1e-6)


def test_wasserstein_takes_its_points_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted samples: the first of them would be one end."""
    monkeypatch.setattr(vectors, "ASSIGNED", 100)
    x = torch.linspace(-1, 1, 1000)[:, None]
    assert table(vector_quality(x, x[torch.randperm(1000, generator=generator())], None))["w2"] < 0.2


def test_mmd_is_the_direct_formula() -> None:
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = ((a[:, None] - b[None]) ** 2).sum(2)
        widths = [math.sqrt(a.shape[1]) / 2**i for i in range(5)]
        return np.mean([np.exp(-squared / (2 * w * w)) for w in widths], axis=0)

    x, y = normal(40, 3, 0), normal(55, 3, 1) + 0.2
    found = table(vector_quality(x, y, None))["mmd2"]
    a, b = ((v.double().numpy() - y.double().numpy().mean(0)) / y.double().numpy().std(0) for v in (x, y))
    assert found == pytest.approx(discrepancy(a, b, kernel), rel=1e-9)


def test_vector_metrics_do_not_depend_on_order_and_draw_nothing() -> None:
    x, y = draw(500, 1), draw(500, 2)
    state = torch.get_rng_state()
    a = table(vector_quality(x, y, ring()))
    b = table(vector_quality(x[torch.randperm(500, generator=generator())], y, ring()))
    assert torch.equal(state, torch.get_rng_state())
    assert b == pytest.approx(a, rel=1e-9, abs=1e-12)


def test_wrong_vectors_are_refused() -> None:
    x = normal(10, 2)
    with pytest.raises(BadInput, match=r"samples have shape \(10, 3\), expected \(N, 2\)"):
        vector_quality(normal(10, 3), x, None)
    with pytest.raises(BadInput, match="2 real vectors; at least 3"):
        vector_quality(x, x[:2], None)
    with pytest.raises(BadInput, match="samples: 1 of 10 are not finite"):
        vector_quality(torch.cat([x[:9], x[:1] * math.nan]), x, None)
