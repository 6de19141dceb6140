"""Toy densities: the only data on which "who is right" is known, because log p is.

Each has about unit variance (the mean over its coordinates is 1) and labels that say which mode a point came from.

    ring8         8 equal Gaussians, sd 0.1, on a ring; neighbours are 10.8 sd apart
    grid25        5×5 equal Gaussians, sd 0.05, on a square grid; neighbours are 14 sd apart
    moons         an angle uniform on one of two half circles, plus Gaussian noise of a tenth of the radius; its density
                  is an integral over the angle, taken by Gauss-Legendre quadrature with a relative error below 1e-10
    checkerboard  uniform on the 8 black squares of a 4×4 board; exact, -inf outside
    gmm16         16 equal Gaussians in 16 dimensions, each stretched 4:1 along axes of its own

Entropies. A mixture's entropy is H(x|y) + H(y) - H(y|x). The first two are closed forms; the third, how far the modes
overlap, is below 1e-6 nats in all three mixtures and left out. The checkerboard's is exact; the moons' was found once
by two-dimensional quadrature. The tests compute them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bench.data.dataset import Dataset, Density, checksum
from bench.data.names import Definition
from paradigms.core.data import Data, Space
from paradigms.core.noise import seed_of

__all__ = ["N_TEST", "N_TRAIN", "TOYS", "load_toy"]

N_TRAIN, N_TEST = 20_000, 10_000
NODES = 128  # angles per moon: at most 0.04 apart under a kernel 0.06 wide or more wherever p > 1e-60
CHUNK = 4096  # rows of log p at a time, so that a large x does not make (N, K, D) intermediates

# The share of a Gaussian mode that `mode_radius` holds: what three standard deviations hold in the plane.
COVERED = 1 - math.exp(-4.5)
GMM16_RADIUS = 2.467  # by Monte Carlo, 4 million draws
MOONS_ENTROPY = 1.686641638841  # nats, by quadrature on [-4, 4]²


def load_toy(name: str) -> Dataset:
    """The splits of a toy, drawn from a seed that is a function of (name, split) alone."""
    make, labels = TOYS[name]
    density = make()
    parts = []
    for split, n in (("train", N_TRAIN), ("test", N_TEST)):
        generator = torch.Generator().manual_seed(seed_of("data", name, split))
        parts.append(density.sample(n, generator))
    space = Space(tuple(parts[0][0].shape[1:]), classes=len(labels))
    train, test = (Data(x, y, space) for x, y in parts)
    source = f"toy density with known log p, {N_TRAIN:,} + {N_TEST:,} draws from fixed seeds"
    return Dataset(name, space, train, test, checksum(train, test), labels, density, source)


# ------------------------------------------------------------------------------------------------------- mixtures


def mixture(means: Tensor, factor: Tensor, radius: float) -> Density:
    """Equal Gaussians with means (K, D) and covariances L_k L_kᵀ, `factor` (K, D, D) lower triangular; float64.

    The modes must hardly overlap: the entropy leaves H(y|x) out. radius: see `Density.mode_radius`.
    """
    modes, dim = means.shape
    inverse = torch.linalg.inv(factor)
    centre = torch.einsum("kij,kj->ki", inverse, means)
    log_scale = torch.diagonal(factor, dim1=1, dim2=2).log().sum(1)
    constant = -0.5 * dim * math.log(2 * math.pi) - math.log(modes)

    def log_prob(x: Tensor) -> Tensor:
        turned = x.to(torch.float64) @ inverse.reshape(modes * dim, dim).T.to(x.device)
        white = turned.view(-1, modes, dim) - centre.to(x.device)
        each = -0.5 * white.square().sum(2) - log_scale.to(x.device)
        return torch.logsumexp(each, dim=1) + constant

    def sample(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(modes, (n,), generator=generator)
        eps = torch.randn(n, dim, generator=generator, dtype=torch.float64)
        x = means[y] + torch.einsum("nij,nj->ni", factor[y], eps)
        return x.to(torch.float32), y

    within = 0.5 * dim * math.log(2 * math.pi * math.e) + float(log_scale.mean())
    return Density(chunked(log_prob), sample, within + math.log(modes), means, radius)


def ring8() -> Density:
    sd = 0.1
    angle = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
    # Each coordinate has variance radius²/2 + sd².
    means = math.sqrt(2 * (1 - sd**2)) * torch.stack([angle.cos(), angle.sin()], 1)
    return mixture(means, sd * torch.eye(2, dtype=torch.float64).expand(8, 2, 2), radius=3 * sd)


def grid25() -> Density:
    sd = 0.05
    step = torch.arange(-2, 3, dtype=torch.float64)
    # {-2, ..., 2} has variance 2.
    means = math.sqrt((1 - sd**2) / 2) * torch.cartesian_prod(step, step)
    eye = sd * torch.eye(2, dtype=torch.float64)
    return mixture(means, eye.expand(25, 2, 2), radius=3 * sd)


def gmm16() -> Density:
    return mixture(*gmm16_parameters(), radius=GMM16_RADIUS)


def gmm16_parameters() -> tuple[Tensor, Tensor]:
    """Means (16, 16) and covariance factors (16, 16, 16)."""
    modes = dim = 16
    # NumPy promises never to change the stream of RandomState, so these are the same numbers everywhere.
    draw = np.random.RandomState(16)
    means = draw.standard_normal((modes, dim))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    means -= means.mean(0)
    spread = np.geomspace(0.25, 1.0, dim)
    spread *= math.sqrt(0.16 / np.square(spread).mean())  # mean variance within a mode: 0.16
    means *= math.sqrt(dim * modes * 0.84 / np.square(means).sum())  # ... and between them: 0.84
    axes = np.linalg.qr(draw.standard_normal((modes, dim, dim)))[0]
    covariance = torch.from_numpy(axes * spread**2 @ axes.transpose(0, 2, 1))
    return torch.from_numpy(means), torch.linalg.cholesky(covariance)


# ---------------------------------------------------------------------------------------------------------- others


def moons() -> Density:
    """x = scale·(centre + (±cos θ, ±sin θ) + 0.1 ε), θ ~ U[0, π]: scikit-learn's two moons with a density."""
    noise = 0.1
    # Variances before scaling: 1/2 + 1/4 + noise² across, 1/2 - m² + (m - 1/4)² + noise² up, m = 2/π the mean of sin.
    up = 0.5 - (2 / math.pi) ** 2 + (2 / math.pi - 0.25) ** 2
    scale = math.sqrt(2 / (0.75 + up + 2 * noise**2))
    sd = scale * noise

    def curve(angle: Tensor, moon: Tensor) -> Tensor:
        """Points of the upper (0) or lower (1) half circle, centred on the middle of the figure; (..., 2)."""
        sign = 1 - 2 * moon
        return scale * torch.stack([sign * angle.cos() - sign / 2, sign * angle.sin() - sign / 4], -1)

    node, weight = np.polynomial.legendre.leggauss(NODES)
    angle = torch.from_numpy((node + 1) * (math.pi / 2))
    points = torch.cat([curve(angle, torch.full_like(angle, moon)) for moon in (0, 1)])
    log_weight = torch.from_numpy(np.tile(np.log(weight / 4), 2)) - math.log(2 * math.pi * sd**2)

    def log_prob(x: Tensor) -> Tensor:
        gap = x.to(torch.float64).unsqueeze(1) - points.to(x.device)
        return torch.logsumexp(log_weight.to(x.device) - gap.square().sum(2) / (2 * sd**2), dim=1)

    def sample(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(2, (n,), generator=generator)
        angle = math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
        x = curve(angle, y.to(torch.float64)) + sd * torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return x.to(torch.float32), y

    return Density(chunked(log_prob), sample, MOONS_ENTROPY, None, 0.0)


def checkerboard() -> Density:
    """Uniform on the 8 squares (column + row even) of a board of 4×4 on [-√3, √3]²; each coordinate is uniform."""
    half = math.sqrt(3)  # so that the variance half²/3 is 1
    side = half / 2
    column, row = torch.cartesian_prod(torch.arange(4), torch.arange(4)).unbind(1)
    black = (column + row) % 2 == 0
    corner = torch.stack([column, row], 1)[black].to(torch.float64) * side - half
    log_area = math.log(len(corner) * side**2)

    def log_prob(x: Tensor) -> Tensor:
        cell = torch.floor((x.to(torch.float64) + half) / side)
        inside = ((cell >= 0) & (cell < 4)).all(1) & (cell.sum(1) % 2 == 0)
        return torch.full(inside.shape, -log_area, dtype=torch.float64, device=x.device).masked_fill(~inside, -math.inf)

    def sample(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(len(corner), (n,), generator=generator)
        # A point on an edge could be rounded to float32 across it, where p is 0: keep 1e-6 of a side away.
        u = torch.rand(n, 2, generator=generator, dtype=torch.float64).clamp_(1e-6, 1 - 1e-6)
        return (corner[y] + side * u).to(torch.float32), y

    # The radius reaches the corners: every point of a square counts for it. Nothing nearer than that to two centres.
    return Density(log_prob, sample, log_area, corner + side / 2, side / math.sqrt(2))


def chunked(log_prob: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function, a few thousand rows at a time."""
    return lambda x: torch.cat([log_prob(part) for part in x.split(CHUNK)])


def _numbered(n: int) -> tuple[str, ...]:
    return tuple(map(str, range(n)))


TOYS: dict[str, tuple[Callable[[], Density], tuple[str, ...]]] = {
    "ring8": (ring8, _numbered(8)),
    "grid25": (grid25, _numbered(25)),
    "moons": (moons, ("upper", "lower")),
    "checkerboard": (checkerboard, _numbered(8)),
    "gmm16": (gmm16, _numbered(16)),
}


DATASETS = (
    Definition(
        "ring8",
        title="Eight Gaussians on a ring",
        shape=(2,),
        classes=8,
        n_train=20_000,
        n_test=10_000,
        where="generated; log p known in closed form",
        load=lambda _: load_toy("ring8"),
    ),
    Definition(
        "grid25",
        title="Twenty-five Gaussians on a grid",
        shape=(2,),
        classes=25,
        n_train=20_000,
        n_test=10_000,
        where="generated; log p known in closed form",
        load=lambda _: load_toy("grid25"),
    ),
    Definition(
        "moons",
        title="Two noisy half circles",
        shape=(2,),
        classes=2,
        n_train=20_000,
        n_test=10_000,
        where="generated; log p by quadrature to 1e-10",
        load=lambda _: load_toy("moons"),
    ),
    Definition(
        "checkerboard",
        title="Uniform on the black squares of a 4×4 board",
        shape=(2,),
        classes=8,
        n_train=20_000,
        n_test=10_000,
        where="generated; log p known in closed form",
        load=lambda _: load_toy("checkerboard"),
    ),
    Definition(
        "gmm16",
        title="Sixteen tilted Gaussians in 16 dimensions",
        shape=(16,),
        classes=16,
        n_train=20_000,
        n_test=10_000,
        where="generated; log p known in closed form",
        load=lambda _: load_toy("gmm16"),
    ),
)
