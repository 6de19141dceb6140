"""Every recipe learns a ring of eight Gaussians in some seconds: it covers them, and its likelihood comes near."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bench.data
from bench import metrics, tiers
from bench import run as runs
from paradigms import catalogue
from paradigms.contract import Noise, Paradigm

pytestmark = pytest.mark.learning

PARADIGMS = [name for name, recipe in catalogue.recipes().items() if issubclass(recipe.paradigm, Paradigm)]
RING = "ring8"


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """One output folder for all, so that a teacher is trained once."""
    return tmp_path_factory.mktemp("runs")


def tier() -> tiers.Tier:
    """Capped in CPU-seconds, so on another machine it is other steps: with the whole 6e10 FLOPs wgan-gp ends 1.3 from the
    ring (W2), where a fitted Gaussian has 0.63. Until that is understood, these tests are not part of `.ci/run`."""
    quick = tiers.get("quick")
    return replace(quick, name="test", vectors=replace(quick.vectors, flops=6e10, seconds=15))


@pytest.mark.parametrize("name", PARADIGMS)
def test_a_recipe_learns_the_ring(name, out):
    data = bench.data.load(RING)
    model, _ = runs.load(runs.ensure(runs.plan(name, RING, 0, tier()), out))
    n = 2000
    with torch.no_grad():
        fake = model.sample(model.prior(n, Noise("z")), model.card.default, Noise("s"))
    real = data.test.x[:n]
    found = {v.metric: v.value for v in metrics.vector_quality(fake, real, data.density)}
    # A Gaussian fitted to the ring is this far from it.
    generator = torch.Generator().manual_seed(0)
    factor = torch.linalg.cholesky(data.train.x.T.cov())
    gaussian = data.train.x.mean(0) + torch.randn(n, 2, generator=generator) @ factor.T
    far = {v.metric: v.value for v in metrics.vector_quality(gaussian, real, data.density)}
    assert found["w2"] < 0.6 * far["w2"]
    assert found["modes"] == 8
    # The game without a penalty reaches its modes unevenly.
    assert found["mode_tv"] < (0.3 if name == "gan-nonsaturating" else 0.2)


@pytest.mark.parametrize("name", [n for n in PARADIGMS if catalogue.get(n).paradigm.card.likelihoods])
def test_a_likelihood_learns_the_rings_entropy(name, out):
    """Held-out NLL against the truth's, 0.30 nats, and that of a Gaussian fitted to the ring, 2.82."""
    data = bench.data.load(RING)
    model, _ = runs.load(runs.ensure(runs.plan(name, RING, 0, tier()), out))
    kind = min(model.card.likelihoods, key=lambda kind: kind.calls)
    x = data.test.x[:500]
    with torch.no_grad():
        nll = -float(model.log_likelihood(x, kind, Noise("l")).value.mean())
    truth = -float(data.density.log_prob(x).mean())
    gaussian = -float(
        torch.distributions.MultivariateNormal(data.train.x.mean(0), data.train.x.T.cov()).log_prob(x).mean()
    )
    assert truth - 0.1 < nll < gaussian - 0.7
