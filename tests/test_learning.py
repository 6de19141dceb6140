"""Every recipe learns a ring of eight Gaussians in some seconds: it covers them, and its likelihood comes near."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bench.data
from bench import metrics, runs, tiers
from paradigms import catalogue
from paradigms.contract import Paradigm
from paradigms.core.noise import Noise

pytestmark = pytest.mark.learning

PARADIGMS = [name for name, recipe in catalogue.recipes().items() if issubclass(recipe.paradigm, Paradigm)]
RING = "ring8"
N = 1000
# Budgets in multiples of what suffices for the others: these start slowly, or share theirs with a codec or a teacher.
TIMES = dict.fromkeys(
    (
        *(
            "easy-consistency-edm",
            "gan-hinge",
            "gan-nonsaturating",
            "latent-ddpm",
            "latent-flow-matching",
            "maf",
            "ncsn",
        ),
        *("progressive-distillation-equal-total", "vq-vae"),
    ),
    2,
) | {"ddpm-linear": 4}
# A token of a point in the plane is one number, and a block moves it by the other one alone, affinely: four blocks change each
# coordinate twice, which leaves bridges between the modes and strays (1 to 3 % beyond 3; the data end at 1.8). Dropout, which
# small sets of images need, keeps 20,000 points from being fitted at all: NLL 1.6, of eight blocks 1.4, and without it 0.9.
SETTINGS = dict.fromkeys(("tarflow", "tarflow-denoised"), ("blocks=8", "dropout=0"))
# ddpm-x0 is not asked for noise at low noise levels, where the bound counts its errors most: 8.1 nats after 3e10 FLOPs,
# 7.1 after 6e10, 4.7 after 2.4e11. Through codes a bound also pays for KL that was weighed by a tenth in training: 2.8, 3.0.
LOOSE = {"ddpm-x0", "latent-ddpm", "latent-flow-matching"}


def case(name: str):
    """Variants of a paradigm are `matrix` too; each game of a GAN is one of its own."""
    row = name in catalogue.rows() or catalogue.get(name).variant_of == "gan"
    return pytest.param(name, marks=[] if row else [pytest.mark.matrix])


def learned(name: str, out: Path) -> Paradigm:
    """The recipe's model, trained on the ring once for all tests."""
    run = runs.define(name, RING, 0, tier(name), SETTINGS.get(name, ()))
    model, _ = runs.load(runs.ensure(run, out))
    return model


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """One output folder for all workers, so that a model is trained once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "learning"


def tier(name: str) -> tiers.Tier:
    """Counted in FLOPs alone: the same steps on every machine."""
    quick, flops = tiers.get("quick"), 3e10 * TIMES.get(name, 1)
    return replace(quick, name="test", vectors=replace(quick.vectors, flops=flops, seconds=1e9))


@pytest.fixture(scope="module")
def fitted() -> float:
    """How far a Gaussian fitted to the ring is from it."""
    data = bench.data.load(RING)
    generator = torch.Generator().manual_seed(0)
    factor = torch.linalg.cholesky(data.train.x.T.cov())
    gaussian = data.train.x.mean(0) + torch.randn(N, 2, generator=generator) @ factor.T
    return {v.metric: v.value for v in metrics.vector_quality(gaussian, data.test.x[:N], data.density)}["w2"]


@pytest.mark.parametrize("name", [case(name) for name in PARADIGMS])
def test_a_recipe_learns_the_ring(name, out, fitted):
    data = bench.data.load(RING)
    model = learned(name, out)
    with torch.no_grad():
        fake = model.sample(model.prior(N, Noise("z")), model.card.default, Noise("s"))
    found = {v.metric: v.value for v in metrics.vector_quality(fake, data.test.x[:N], data.density)}
    assert found["w2"] < 0.6 * fitted
    assert found["modes"] == 8
    # The game without a penalty reaches its modes unevenly.
    assert found["mode_tv"] < (0.3 if name == "gan-nonsaturating" else 0.2)


@pytest.mark.parametrize("name", [case(n) for n in PARADIGMS if catalogue.get(n).paradigm.card.likelihoods])
def test_a_likelihood_learns_the_rings_entropy(name, out):
    """Held-out NLL against the truth's, 0.30 nats, and that of a Gaussian fitted to the ring, 2.82."""
    data = bench.data.load(RING)
    model = learned(name, out)
    kind = min(model.card.likelihoods, key=lambda kind: kind.calls)
    x = data.test.x[:500]
    with torch.no_grad():
        nll = -float(model.log_likelihood(x, kind, Noise("l")).value.mean())
    truth = -float(data.density.log_prob(x).mean())
    gaussian = -float(
        torch.distributions.MultivariateNormal(data.train.x.mean(0), data.train.x.T.cov()).log_prob(x).mean()
    )
    assert truth - 0.1 < nll
    assert name in LOOSE or nll < gaussian - 0.7
