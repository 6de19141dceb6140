"""Agreement with others' code and with the definitions, on random features and on those of real images.

`pytest -s` prints the difference of each. torch-fidelity itself can not be a dependency of these tests: it needs
torchvision, whose wheel does not import beside a CPU build of torch, and from then on neither does torchmetrics. Its
formulas stand here as they are in its metric modules, written from the papers; `python -m bench.lab.metric_speed
--torch-fidelity FOLDER` compares with its own code where somebody has unpacked it.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import ot
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.stats
import torch
from prdc import compute_prdc
from sklearn.metrics.pairwise import polynomial_kernel
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from bench.data import load
from bench.features import Extractor, Features, FeatureSpace, random_conv, shipped
from bench.metrics import (
    ClassifierScore,
    Moments,
    Sharpness,
    distance_of_gaussians,
    kernel_distance,
    neighbourhoods,
)
from bench.metrics.vectors import energy_distance, gaussian_discrepancy, sliced_wasserstein, wasserstein

ROWS: list[tuple[str, str, str, float]] = []


@pytest.fixture(scope="module", autouse=True)
def printed() -> Iterator[None]:
    """The agreement table, with `pytest -s`."""
    yield
    print(f"\n{'metric':16} {'on':34} {'peer':34} relative difference")
    for row in ROWS:
        print(f"{row[0]:16} {row[1]:34} {row[2]:34} {row[3]:.1e}")


def agree(metric: str, on: str, peer: str, ours: float, theirs: float, within: float) -> None:
    difference = abs(ours - theirs) / abs(theirs)
    ROWS.append((metric, on, peer, difference))
    assert difference <= within, f"{metric} on {on}: {ours!r} here, {theirs!r} from {peer}"


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def space_of(d: int) -> FeatureSpace:
    return FeatureSpace("plain", "0" * 12, (1, 1, d), Extractor(nn.Flatten(), d))


def features(values: Tensor) -> Features:
    return Features(values, None, space_of(values.shape[1]))


# --------------------------------------------------------------------------------------------------------- Frechet


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(0), np.cov(x, rowvar=False)


def with_sqrtm(x: Tensor, y: Tensor) -> float:
    """Heusel et al.'s formula with scipy's square root of a matrix."""
    (m, s), (n, t) = moments(x.numpy()), moments(y.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)
        root = scipy.linalg.sqrtm(s @ t)
    return float(((m - n) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root).real)


def with_eigvals(x: Tensor, y: Tensor) -> float:
    """As torch-fidelity 0.4 has it: eigenvalues of the product, complex roots, real part."""
    (m, s), (n, t) = moments(x.numpy()), moments(y.numpy())
    roots = np.sqrt(np.linalg.eigvals(s @ t).astype("complex128")).real
    return float(((m - n) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * roots.sum())


def with_torchmetrics(x: Tensor, y: Tensor) -> float:
    metric = FrechetInceptionDistance(feature=space_of(x.shape[1]).extractor)
    for side, real in ((x, False), (y, True)):
        # Its update would go through float32 features; its state is what it computes from.
        which = "real" if real else "fake"
        setattr(metric, f"{which}_features_sum", side.sum(0))
        setattr(metric, f"{which}_features_cov_sum", side.mT @ side)
        setattr(metric, f"{which}_features_num_samples", torch.tensor(len(side)))
    metric._update_count = 1
    metric.orig_dtype = torch.float64
    return float(metric.compute())


def with_qr(x: Tensor, y: Tensor) -> float:
    """From the features, without a covariance: nothing is squared, so null directions stay null."""
    a, b = (torch.linalg.qr((v - v.mean(0)) / math.sqrt(len(v) - 1)).R for v in (x, y))
    shift = (x.mean(0) - y.mean(0)).square().sum()
    return float(shift + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.mT).sum())


def ours(x: Tensor, y: Tensor) -> float:
    return distance_of_gaussians(Moments.of(x), Moments.of(y))


PEERS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "scipy sqrtm": with_sqrtm,
    "torch-fidelity's formula": with_eigvals,
    "torchmetrics": with_torchmetrics,
}


@functools.cache
def digits(name: str) -> tuple[Tensor, Tensor]:
    space = shipped("digits") if name == "classifier" else random_conv((1, 8, 8))
    data = load("digits")
    x, y = (space.features(split.all().x).values.double() for split in (data.train, data.test))
    return x, y


def full_rank() -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    power = torch.arange(1, 65).double() ** -0.5
    return {
        "64 normal": lambda: (normal(2000, 64, 0), 1.1 * normal(2000, 64, 1) + 0.1),
        "64 with a power-law spectrum": lambda: (normal(2000, 64, 2) * power, normal(3000, 64, 3) * power),
        "64 with means of 100": lambda: (normal(2000, 64, 4) + 100, normal(2000, 64, 5) + 100.1),
        "digits, classifier": lambda: digits("classifier"),
        "digits, random-conv": lambda: digits("random-conv"),
    }


@pytest.mark.parametrize("on", full_rank())
def test_frechet_is_that_of_scipy_and_the_peers_at_full_rank(on: str) -> None:
    x, y = full_rank()[on]()
    found = ours(x, y)
    for peer, theirs in PEERS.items():
        agree("fd", on, peer, found, theirs(x, y), 1e-6)
    agree("fd", on, "QR + SVD", found, with_qr(x, y), 1e-9)


def dead(n: int, seed: int) -> Tensor:
    """A ReLU layer of 128 units of which some never fire, as trained networks have."""
    mix = normal(128, 128, 99) / math.sqrt(128)
    return (normal(n, 128, seed) @ mix - torch.linspace(-1, 6, 128, dtype=torch.float64)).relu()


class ReluNet(nn.Module):
    """Real images through rectified units of the digits' own pixels: 256 units of 64 pixels, many dead or tied."""

    def forward(self, x: Tensor) -> Tensor:
        weight = normal(64, 256, 7)
        weight[:, ::4] = weight[:, 1::4]  # a unit that repeats another
        bias = torch.linspace(0, 80, 256, dtype=torch.float64)
        return (x.flatten(1).double() @ weight - bias).relu()


def digits_features() -> tuple[Tensor, Tensor]:
    data, net = load("digits"), ReluNet()
    return net(data.train.all().x), net(data.test.all().x)


def singular() -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    mix, other = normal(20, 64, 10), normal(20, 64, 11)
    turn = torch.linalg.qr(normal(64, 64, 15)).Q
    steep = torch.arange(1, 65).double() ** -4.0  # of deviations: variances span 14 decades
    slow = torch.logspace(0, -4, 64, dtype=torch.float64)

    def each(draw: Callable[[int], Tensor], x: int, y: int) -> Callable[[], tuple[Tensor, Tensor]]:
        return lambda: (draw(x), draw(y))

    return {
        "dead units": each(lambda s: dead(2000, s), 0, 1),
        "digits, ReLU, dead and tied units": digits_features,
        "rank 20 of 64, one subspace": lambda: (normal(2000, 20, 2) @ mix, 1.02 * normal(2000, 20, 3) @ mix),
        "rank 20 of 64, two subspaces": lambda: (normal(2000, 20, 2) @ mix, normal(2000, 20, 3) @ other),
        "rank 20 of 64 against full": lambda: (normal(2000, 20, 2) @ mix, normal(2000, 64, 3)),
        "the same in float32": lambda: ((normal(2000, 20, 2) @ mix).float().double(), normal(2000, 64, 3)),
        "40 samples of 64": lambda: (normal(40, 64, 4), normal(50, 64, 5)),
        "40 samples of 64 against 2,000": lambda: (normal(40, 64, 4), normal(2000, 64, 5)),
        "units over 8 decades": each(lambda s: normal(2000, 64, s) * 10 ** torch.linspace(-4, 4, 64), 6, 7),
        "spectrum over 16 decades": each(lambda s: normal(2000, 64, s) * torch.arange(1, 65) ** -4.0, 8, 9),
        "the same, turned": each(lambda s: (normal(2000, 64, s) * steep) @ turn, 8, 9),
        "8 decades, turned, a dead unit": each(
            lambda s: torch.cat([(normal(2000, 64, s) * slow) @ turn, torch.ones(2000, 1)], 1), 16, 17
        ),
        "rank 100 of 400, means of 300": each(lambda s: normal(3000, 100, s) @ normal(100, 400, 12) + 300, 13, 14),
    }


@pytest.mark.parametrize("on", singular())
def test_frechet_is_right_where_covariances_are_singular(on: str) -> None:
    """Where the peers turn a null direction's 1e-16 into 1e-8 each."""
    x, y = singular()[on]()
    agree("fd", on, "QR + SVD", ours(x, y), with_qr(x, y), 1e-8)


def test_one_null_direction_is_never_taken_for_a_narrow_one() -> None:
    """Rounding makes its variance positive in one draw of four, and a Cholesky factor then exists."""
    turn = torch.linalg.qr(normal(64, 64, 15)).Q
    for seed in range(100, 124, 2):
        x, y = (normal(2000, 64, s) @ turn for s in (seed, seed + 1))
        for side in (x, y):
            side[:, 5] = side[:, 9]
        assert ours(x, y) == pytest.approx(with_qr(x, y), rel=1e-10)


def test_the_singular_cases_are_what_the_peers_get_wrong() -> None:
    """The reference would prove nothing if everything agreed with it."""
    x, y = singular()["rank 20 of 64, one subspace"]()
    assert abs(with_eigvals(x, y) / with_qr(x, y) - 1) > 1e-7


# ---------------------------------------------------------------------------------------------------------- kernel


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """As torch-fidelity 0.4 has it, on one subset that holds everything: equally many of both."""
    xx, yy, xy = (polynomial_kernel(a, b, degree=3, coef0=1) for a, b in ((x, x), (y, y), (x, y)))
    m = len(x)
    assert len(y) == m
    return float((xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.sum() / m**2)


def pairs() -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    return {
        "16 normal, shifted": lambda: (normal(300, 16, 0), normal(300, 16, 1) + 0.3),
        "digits, classifier": lambda: tuple(v[:800] for v in digits("classifier")),
        "digits, random-conv": lambda: tuple(v[:800] for v in digits("random-conv")),
    }


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`:UserWarning")
@pytest.mark.parametrize("on", pairs())
def test_kernel_distance_is_kid_over_all_samples(on: str) -> None:
    x, y = pairs()[on]()
    found = kernel_distance(features(x), features(y)).value
    agree("kd", on, "torch-fidelity's formula", found, kid(x.numpy(), y.numpy()), 1e-9)
    metric = KernelInceptionDistance(feature=space_of(x.shape[1]).extractor, subsets=1, subset_size=len(x))
    metric.update(x.float(), real=False)
    metric.update(y.float(), real=True)
    with torch.random.fork_rng():  # it draws its subsets from the global generator
        theirs = float(metric.compute()[0])
    # It works in float32: the terms are up to 1e4 times their difference.
    scale = float(polynomial_kernel(x.numpy(), y.numpy(), degree=3, coef0=1).mean())
    ROWS.append(("kd", on, "torchmetrics (float32)", abs(found - theirs) / abs(theirs)))
    assert abs(found - theirs) < 1e-5 * scale


# -------------------------------------------------------------------------------------------------- neighbourhoods


@pytest.mark.parametrize("on", pairs())
def test_neighbourhoods_are_those_of_prdc(on: str) -> None:
    x, y = pairs()[on]()
    theirs = compute_prdc(real_features=y.numpy(), fake_features=x.numpy(), nearest_k=5)
    for value in neighbourhoods(features(x), features(y)):
        agree(value.metric, on, "prdc", value.value, float(theirs[value.metric]), 1e-12)


# ---------------------------------------------------------------------------------------------------------- labels


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore`:UserWarning", "ignore:std:UserWarning")
def test_classifier_score_is_the_inception_score_of_one_split() -> None:
    logits = 3 * normal(500, 10, 0)
    metric = ClassifierScore(10)
    metric.update(logits)
    theirs = InceptionScore(feature=nn.Identity(), splits=1)
    theirs.update(logits)
    with torch.random.fork_rng():  # it shuffles by the global generator
        agree(
            "classifier_score", "500 logits", "torchmetrics", metric.compute().value, float(theirs.compute()[0]), 1e-9
        )
    p = scipy.special.softmax(logits.numpy(), 1)
    kl = np.mean([scipy.stats.entropy(row, p.mean(0)) for row in p])
    agree("classifier_score", "500 logits", "scipy.stats.entropy", metric.compute().value, float(np.exp(kl)), 1e-12)


# --------------------------------------------------------------------------------------------------------- vectors


def clouds() -> dict[str, tuple[Tensor, Tensor]]:
    ring = load("ring8")
    return {
        "2-D normal": (normal(400, 2, 0), 1.3 * normal(400, 2, 1) + 0.5),
        "ring8": (ring.train.x[:400].double(), ring.test.x[:400].double()),
        "8-D normal": (normal(300, 8, 2), normal(300, 8, 3) + 0.2),
    }


@pytest.mark.parametrize("on", clouds())
def test_wasserstein_distances_are_those_of_pot(on: str) -> None:
    x, y = clouds()[on]
    exact = math.sqrt(ot.emd2([], [], ot.dist(x.numpy(), y.numpy())))
    agree("w2", on, "POT emd2", wasserstein(x, y).value, exact, 1e-9)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(x.shape[1], 256, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=0)
    theirs = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=directions.numpy())
    agree("sw2", on, "POT, the same directions", sliced_wasserstein(x, y).value, float(theirs), 1e-9)
    many = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), n_projections=2_000, seed=1)
    agree("sw2", on, "POT, 2,000 directions", sliced_wasserstein(x, y).value, float(many), 0.1)


def test_one_dimension_is_scipys() -> None:
    x, y = normal(300, 1, 0), 0.7 * normal(300, 1, 1) + 1
    a, b = x[:, 0].numpy(), y[:, 0].numpy()
    root = float(np.sqrt(((np.sort(a) - np.sort(b)) ** 2).mean()))
    agree("w2", "1-D normal", "sorting", wasserstein(x, y).value, root, 1e-12)
    # scipy's is the root of the biased estimate, which counts each point as its own partner.
    n = len(a)
    biased = scipy.stats.energy_distance(a, b) ** 2
    within = sum(np.abs(v[:, None] - v[None]).sum() * (1 / n**2 - 1 / (n * (n - 1))) for v in (a, b))
    agree("energy", "1-D normal", "scipy.stats", energy_distance(x, y).value, float(biased + within), 1e-9)


def test_mmd_on_vectors_is_that_of_scikit_learns_kernels() -> None:
    from sklearn.metrics.pairwise import rbf_kernel

    x, y = normal(200, 3, 0), normal(250, 3, 1) + 0.2

    def kernel(a: Tensor, b: Tensor) -> np.ndarray:
        return np.mean([rbf_kernel(a.numpy(), b.numpy(), gamma=4**i / (2 * 3)) for i in range(5)], axis=0)

    n, m = len(x), len(y)
    a, b = (
        (v.double() - y.double().mean(0)) / y.double().std(0, correction=0) for v in (x, y)
    )  # in units of y's columns
    xx, yy, xy = kernel(a, a), kernel(b, b), kernel(a, b)
    expected = (xx.sum() - n) / (n * (n - 1)) + (yy.sum() - m) / (m * (m - 1)) - 2 * xy.mean()
    agree("mmd2", "3-D normal", "scikit-learn", gaussian_discrepancy(x, y).value, float(expected), 1e-9)


# ------------------------------------------------------------------------------------------------------- sharpness


def test_sharpness_is_scipys_laplacian() -> None:
    x = load("digits").test.x[:50]
    metric = Sharpness()
    metric.update(x)
    inner = [scipy.ndimage.laplace(image[0].double().numpy())[1:-1, 1:-1].var() for image in x]
    mean, error = metric.compute()
    agree("sharpness", "50 digits", "scipy.ndimage.laplace", mean, float(np.mean(inner)), 1e-12)
    agree("its error", "50 digits", "scipy.stats.sem", error, float(scipy.stats.sem(inner)), 1e-9)
