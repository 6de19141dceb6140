"""Flow matching and rectified flow against closed forms of a Gaussian, the assignment problem, POT and Meta's flow_matching.

torchcfm, whose couplings are POT's, can not be a test dependency: it brings torchdyn, and that torchvision and lightning.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import ot
import pytest
import torch
from flow_matching.path import AffineProbPath
from flow_matching.path.scheduler import CondOTScheduler, CosineScheduler, VPScheduler
from flow_matching.solver import ODESolver
from safetensors.torch import load_file
from scipy.integrate import quad
from torch import Tensor, nn
from typer.testing import CliRunner

from bench import cli, runs, suite, tiers
from bench.lab import straightness as shown
from bench.progress import Progress
from paradigms import catalogue, rectified_flow
from paradigms.backbones import Backbone, count_calls
from paradigms.contract import Frozen
from paradigms.core.data import Batch, Data, Pairs, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Plan
from paradigms.errors import BadInput
from paradigms.maths.couplings import assign, straightness
from paradigms.maths.denoiser import Denoiser, Velocity
from paradigms.maths.paths import CosinePath, GaussianPath, LinearPath, VPPath
from paradigms.maths.times import TIMES, LogitNormal, UShaped
from paradigms.testing import Exact, Mixture, build
from reports.layout import PREPARED, STATE

PLANE = Space((2,))
LABELLED = Space((2,), 4)
MEAN, STD = (0.6, -0.3), (0.8, 0.3)  # of the fixture `gaussian`
MATCHING = {
    "flow-matching": (LinearPath(), CondOTScheduler()),
    "ot-flow-matching": (LinearPath(), CondOTScheduler()),
    "flow-matching-cosine": (CosinePath(), CosineScheduler()),
    "flow-matching-vp": (VPPath(), VPScheduler()),
}


LINEAR = LinearPath()
QUIET = Progress()


def velocity_net(data: Mixture, path: GaussianPath = LINEAR) -> Exact:
    """The mean velocity along a path, given the state."""
    return Exact(data, path, Velocity())


class Written(Backbone):
    """A network that is a function (x, t, y), and what it was asked."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.asked = function, []
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.asked.append((x, t, y))
        return self.scale * self.function(x, t[:, None], y)


def loss_of(model, batch: Batch, noise: Noise) -> Tensor:
    (update,) = model.updates(batch, 0.5, noise)
    return update.loss.detach()


def perfect_parent(data: Mixture) -> Frozen:
    parent = build("flow-matching", PLANE)
    parent.net = velocity_net(data)
    return Frozen(parent, images=10_000)


def straight(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    """The velocity of the 2-rectified flow of the Gaussian: that of the lines x_t = (1 - t)(mean + std z) + t z."""
    mean, std = torch.tensor(MEAN).to(x), torch.tensor(STD).to(x)
    z = (x - (1 - t) * mean) / ((1 - t) * std + t)
    return z - (mean + std * z)


# ----------------------------------------------------------------------------------------------------------- times


def test_logit_normal_times_have_their_density():
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64, requires_grad=True)
    for times in (LogitNormal(), LogitNormal(-1.2, 1.2)):
        t = times.quantile(u)
        (slope,) = torch.autograd.grad(t.sum(), u)
        base = torch.distributions.Normal(*torch.tensor([times.mean, times.std], dtype=torch.float64))
        known = torch.distributions.TransformedDistribution(base, torch.distributions.SigmoidTransform())
        torch.testing.assert_close(-slope.log(), known.log_prob(t.detach()), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(base.cdf(torch.logit(t.detach())), u.detach(), rtol=1e-9, atol=1e-9)


def test_skewed_times_are_those_of_meta_mirrored():
    """Theirs: sigma = exp(-1.2 + 1.2 n), t' = 1 / (1 + sigma), with t' = 1 at the data."""
    n = torch.linspace(-3, 3, 61, dtype=torch.float64)
    theirs = 1 / (1 + (1.2 * n - 1.2).exp())
    ours = TIMES["skewed"].quantile(torch.special.ndtr(n))
    torch.testing.assert_close(ours, 1 - theirs, rtol=1e-9, atol=1e-12)


def test_u_shaped_times_have_their_density():
    u = torch.linspace(0, 1, 101, dtype=torch.float64, requires_grad=True)
    t = UShaped(4.0).quantile(u)
    (slope,) = torch.autograd.grad(t.sum(), u)
    whole, _ = quad(lambda s: math.cosh(4 * (s - 0.5)), 0, 1)
    torch.testing.assert_close(1 / slope, torch.cosh(4 * (t.detach() - 0.5)) / whole, rtol=1e-9, atol=1e-12)
    assert t[[0, 50, 100]].tolist() == pytest.approx([0, 0.5, 1], abs=1e-12)


@pytest.mark.parametrize("times", TIMES)
def test_a_recipe_trains_at_the_times_that_it_says(times):
    for name in ("flow-matching", "flow-matching-vp", "reflow"):
        recipe = catalogue.get(name)
        model = build(recipe, PLANE, config=replace(recipe.config, times=times))
        model.net = Written(lambda x, t, y: 0 * x)
        x = torch.randn(4000, 2)
        loss_of(model, Pairs(x, None, torch.randn(4000, 2)), Noise("t"))
        ((_, t, _),) = model.net.asked
        low = getattr(model, "t_min", 0.0)
        assert t.min() >= low
        assert t.max() <= 1
        for u in (0.1, 0.5, 0.9):
            mark = low + (1 - low) * TIMES[times].quantile(torch.tensor(u))
            assert float((t < mark).float().mean()) == pytest.approx(u, abs=4 * math.sqrt(u * (1 - u) / 4000))


# ------------------------------------------------------------------------------------------------- what is matched


@pytest.mark.parametrize("name", MATCHING)
def test_states_and_targets_are_those_of_meta(name):
    """The same x_t from the same x and eps, and a loss that vanishes at their dx_t, whose time runs the other way."""
    config = catalogue.get(name).config
    config = replace(config, coupled=64) if name == "ot-flow-matching" else config
    model, x = build(name, PLANE, config=config), torch.randn(64, 2)
    path, scheduler = MATCHING[name]
    assert model.path == path
    model.net = Written(lambda x, t, y: 0 * x)
    loss_of(model, Batch(x), Noise("p"))
    ((x_t, t, _),) = model.net.asked
    eps = Noise("p").normal(64, 2)
    if name == "ot-flow-matching":
        # POT's plan of a uniform problem is a permutation, and the same one: with continuous noise there is no tie.
        plan = torch.as_tensor(ot.emd(ot.unif(64), ot.unif(64), torch.cdist(x, eps).square().double().numpy()))
        assert torch.equal(plan > 0, plan > 0.5 / 64)
        eps = eps[plan.argmax(1)]
    theirs = AffineProbPath(scheduler).sample(x_0=eps, x_1=x, t=1 - t)
    torch.testing.assert_close(x_t, theirs.x_t, rtol=1e-5, atol=1e-5)
    model.net = Written(lambda *_: -theirs.dx_t)
    assert loss_of(model, Batch(x), Noise("p")) < 1e-8 * theirs.dx_t.square().mean() + 1e-10


def test_the_least_loss_on_a_gaussian_is_the_closed_form(gaussian):
    """Var(eps - x | x_t) = s^2 / ((1 - t)^2 s^2 + t^2), whose integral over t is s pi / 2; any other field loses more."""
    n = 200_000
    x = gaussian.sample(n).float()
    model = build("flow-matching", PLANE)
    model.net = velocity_net(gaussian)
    best = loss_of(model, Batch(x), Noise("least"))
    # The summands have a standard deviation of about 1.2.
    assert float(best) == pytest.approx(np.mean([s * math.pi / 2 for s in STD]), abs=4 * 1.2 / math.sqrt(2 * n))
    exact = model.net
    for change in (lambda x, t: 0.1 * x, lambda x, t: 0.1 + 0 * x, lambda x, t: 0.1 * t):
        off = Written(lambda x, t, y, change=change: exact(x, t[:, 0]) + change(x, t))
        model.net = off
        worse = loss_of(model, Batch(x), Noise("least"))
        ((x_t, t, _),) = off.asked
        added = change(x_t, t[:, None]).square().mean()
        # At the minimum the loss rises by the square of the change: the cross term is noise of zero mean.
        assert float(worse - best) == pytest.approx(float(added), abs=4 * 2 * 0.2 * 1.2 / math.sqrt(n))


def test_the_exact_likelihood_is_that_of_meta(mixture):
    """The ODE's density by our RK4 and by their solver (torchdiffeq's dopri5), with the exact divergence."""
    model = build("flow-matching", PLANE).double().eval()
    model.net = velocity_net(mixture)
    x = mixture.sample(32)
    kind = next(k for k in model.card.likelihoods if k.name == "ode")
    exact = replace(kind, options=tuple((dict(kind.options) | {"steps": 200, "probes": 0}).items()))
    ours = model.log_likelihood(x, exact, Noise("l"))

    def field(x: Tensor, t: Tensor) -> Tensor:
        return -model.net(x, (1 - t).expand(len(x)))

    def log_normal(z: Tensor) -> Tensor:
        return -0.5 * z.square().sum(1) - math.log(2 * math.pi)

    _, theirs = ODESolver(field).compute_likelihood(
        x, log_normal, step_size=None, method="dopri5", atol=1e-9, rtol=1e-9, exact_divergence=True,
        time_grid=torch.tensor([1.0, 0.0], dtype=torch.float64),
    )  # fmt: skip
    torch.testing.assert_close(ours.value, theirs.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.value, mixture.log_prob(x), rtol=1e-4, atol=1e-4)


# -------------------------------------------------------------------------------------------------------- coupling


def cost(x: Tensor, eps: Tensor) -> float:
    return float((x - eps).square().sum(1).mean())


def test_the_assignment_is_the_best_of_all_permutations():
    x, eps = torch.randn(6, 3), torch.randn(6, 3)
    best = min(cost(x, eps[list(p)]) for p in itertools.permutations(range(6)))
    assert cost(x, eps[assign(x, eps, 6)]) == pytest.approx(best, rel=1e-6)


def test_two_gaussians_are_coupled_at_the_optimum_of_the_assignment():
    """As POT has it, and in one dimension as sorting has it, near the transport cost of the two; marginals as they were."""
    generator = torch.Generator().manual_seed(0)
    x, eps = 2 + 0.5 * torch.randn(256, 8, generator=generator), torch.randn(256, 8, generator=generator)
    index = assign(x, eps, 256)
    assert sorted(index.tolist()) == list(range(256))
    squares = torch.cdist(x, eps).square().double().numpy()
    assert cost(x, eps[index]) == pytest.approx(ot.emd2(ot.unif(256), ot.unif(256), squares), rel=1e-5)
    assert cost(x, eps[index]) < cost(x, eps) - 1

    x, eps = torch.randn(2, 1000, 1, generator=generator, dtype=torch.float64)  # in float32 neighbours may tie
    x = 2 + 0.5 * x
    index = assign(x, eps, 1000)
    assert torch.equal(eps[index][x[:, 0].argsort()], eps.sort(0).values)
    assert cost(x, eps[index]) == pytest.approx(2**2 + 0.5**2, rel=0.05)  # W2^2
    assert cost(x, eps) == pytest.approx(2**2 + 0.5**2 + 1, rel=0.05)


def test_chunks_are_coupled_each_for_itself():
    x, eps = torch.randn(10, 1, 3, 3), torch.randn(10, 1, 3, 3)
    index = assign(x, eps, 4)
    assert [sorted(part.tolist()) for part in index.split(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert torch.equal(index[4:8], 4 + assign(x[4:8], eps[4:8], 4))
    flat = [cost(x.flatten(1), eps.flatten(1)[assign(x, eps, chunk)]) for chunk in (1, 5, 10)]
    assert flat == sorted(flat, reverse=True)
    assert flat[0] == pytest.approx(cost(x.flatten(1), eps.flatten(1)))


def test_training_couples_as_many_as_it_says():
    recipe = catalogue.get("ot-flow-matching")
    model = build(recipe, PLANE, config=replace(recipe.config, coupled=16))
    x = torch.randn(40, 2)
    eps = Noise("p").normal(40, 2)
    coupled = eps[assign(x, eps, 16)]
    model.net = Written(lambda x, t, y: 0 * x)
    loss = loss_of(model, Batch(x), Noise("p"))
    assert float(loss) == pytest.approx(float((coupled - x).square().mean()), rel=1e-6)
    assert cost(x, coupled) < cost(x, eps)


def test_a_coupled_model_offers_no_sampler_that_needs_a_score():
    for name in ("ot-flow-matching", "reflow"):
        card = catalogue.get(name).paradigm.card
        assert not [s.name for s in card.samplers if s.stochastic or "eta" in s.options]
        assert not [k.name for k in card.likelihoods if k.name != "ode"]
    assert any(s.stochastic for s in catalogue.get("flow-matching").paradigm.card.samplers)


# ---------------------------------------------------------------------------------------------------- straightness


@pytest.mark.parametrize(
    ("path", "t_min"), [(LinearPath(), 0.0), (CosinePath(), 0.0), (VPPath(), 0.05)], ids=["linear", "cosine", "vp"]
)
def test_straightness_of_a_gaussians_flow_is_the_closed_form(path, t_min, gaussian):
    """Its ODE keeps the standardised value w of each coordinate: Z_t = alpha mean + g(t) w, g^2 = alpha^2 s^2 + sigma^2."""
    d = Denoiser(velocity_net(gaussian, path), path, Velocity(), lambda t: t, t_min)
    z = Noise("z").normal(16, 2).double()
    found, length = straightness(d, z, 400)

    def at(f, t: float) -> float:
        return float(f(torch.tensor(t, dtype=torch.float64)))

    known, way = torch.zeros(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    for i, (mean, s) in enumerate(zip(MEAN, STD)):

        def g(t: float, s: float = s) -> float:
            return math.hypot(at(path.alpha, t) * s, at(path.sigma, t))

        def g_dot(t: float, s: float = s) -> float:
            a, b = at(path.alpha, t) * at(path.alpha_dot, t) * s * s, at(path.sigma, t) * at(path.sigma_dot, t)
            return (a + b) / math.hypot(at(path.alpha, t) * s, at(path.sigma, t))

        w = (z[:, i] * at(path.sigma, 1.0) - at(path.alpha, 1.0) * mean) / g(1.0)
        # v = p + q w; with time in units of the path's length S = mean (v - mean v)^2 and the way is mean v.
        span = 1 - t_min
        moments = [
            quad(f, t_min, 1, epsabs=1e-10, limit=500)[0]
            for f in (
                lambda t, m=mean: at(path.alpha_dot, t) * m,
                g_dot,
                lambda t, m=mean: (at(path.alpha_dot, t) * m) ** 2,
                lambda t, m=mean, g=g_dot: at(path.alpha_dot, t) * m * g(t),
                lambda t, g=g_dot: g(t) ** 2,
            )
        ]
        p, q, pp, pq, qq = moments
        known += span * (pp + 2 * pq * w + qq * w**2) - (p + q * w) ** 2
        way += (p + q * w) ** 2
    torch.testing.assert_close(length, way, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, known, rtol=1e-3, atol=1e-4)
    assert known.min() > 1e-4


def test_a_straight_flow_has_straightness_zero_and_a_bent_one_has_not():
    z = Noise("z").normal(64, 2)
    straight_flow, _ = straightness(Denoiser(Written(straight), LinearPath(), Velocity(), lambda t: t, 0.0), z, 32)
    assert straight_flow.abs().max() < 1e-5

    def bent(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return 3 * (t - 0.5) + 0 * x  # ends where it began

    found, length = straightness(Denoiser(Written(bent), LinearPath(), Velocity(), lambda t: t, 0.0), z, 256)
    # int (3 (t - 1/2))^2 dt = 9 / 12, in two coordinates.
    torch.testing.assert_close(found, torch.full_like(found, 2 * 9 / 12), rtol=1e-3, atol=1e-4)
    assert length.max() < 1e-6


# ---------------------------------------------------------------------------------------------------------- reflow


def reflow_of(data: Mixture, name: str = "reflow", **settings):
    recipe = catalogue.get(name)
    config = replace(recipe.config, **settings)
    parent = perfect_parent(data)
    return recipe.paradigm(config, PLANE, 8, {"parent": parent})


def drawn(model, n: int = 500) -> Data:
    return model.prepare(Data(torch.zeros(n, *model.space.shape), None, model.space), Noise("prepare"))


@pytest.mark.parametrize("name", ["reflow", "reflow-distilled"])
def test_pairs_lie_on_the_map_of_the_parents_ode(name, gaussian):
    """A Gaussian's flow carries z to mean + std z. Heun's error falls by four when the steps double."""
    errors = []
    for steps in (16, 32):
        pairs = drawn(reflow_of(gaussian, name, steps=steps))
        assert pairs.z.shape == pairs.x.shape
        truth = torch.tensor(MEAN) + torch.tensor(STD) * pairs.z
        errors.append(float((pairs.x - truth).norm(dim=1).mean()))
    assert errors[0] < 5e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    # z is the prior's, not seen by anything before.
    assert pairs.z.mean(0).abs().max() < 4 / math.sqrt(len(pairs))
    assert float((pairs.z.T.cov() - torch.eye(2)).abs().max()) < 6 / math.sqrt(len(pairs))


def test_reflow_loses_nothing_at_the_straight_flow_of_a_gaussian(gaussian):
    """Lines between z and mean + std z do not cross: the loss vanishes at their velocity and nowhere else."""
    model = reflow_of(gaussian, steps=64)
    batch = drawn(model).all()
    model.net = Written(straight)
    assert loss_of(model, batch, Noise("l")) < 1e-6
    z = Noise("z").normal(100, 2)
    with torch.no_grad():
        one = model.sample(z, Plan("euler", 1), Noise("s"))
    torch.testing.assert_close(one, torch.tensor(MEAN) + torch.tensor(STD) * z, rtol=1e-5, atol=1e-5)
    model.net = Written(lambda x, t, y: straight(x, t) + 0.1)
    assert loss_of(model, batch, Noise("l")) == pytest.approx(0.01, rel=0.05)
    model.net = velocity_net(gaussian)  # of the parent: bent, so it loses
    assert loss_of(model, batch, Noise("l")) > 1e-3


def test_the_distilled_map_is_the_flows_and_loses_nothing(gaussian):
    model = reflow_of(gaussian, "reflow-distilled", steps=64)
    batch = drawn(model).all()
    model.net = Written(straight)
    assert loss_of(model, batch, Noise("l")) < 1e-6
    assert (model.net.asked[-1][1] == 1).all(), "it is asked at t = 1 alone"
    z = Noise("z").normal(100, 2)
    with torch.no_grad():
        x = model.sample(z, model.card.default, Noise("s"))
    torch.testing.assert_close(x, torch.tensor(MEAN) + torch.tensor(STD) * z, rtol=1e-5, atol=1e-5)
    model.net = Written(lambda x, t, y: straight(x, t) + 0.1)
    assert loss_of(model, batch, Noise("l")) == pytest.approx(0.01, rel=0.05)


def test_training_on_the_pairs_straightens_the_paths(mixture):
    """S of the mixture's exact flow against that of a small network trained on its pairs for a few seconds."""
    parent = build("flow-matching", PLANE, width=24, seed=1)
    learned, parent.net = parent.net, velocity_net(mixture)
    config = replace(catalogue.get("reflow").config, lr=5e-3, batch=128, steps=16)
    z = Noise("z").normal(256, 2)
    before, _ = straightness(parent.denoiser(), z, 64)
    pairs = drawn(catalogue.get("reflow").paradigm(config, PLANE, 8, {"parent": Frozen(parent, 30_000)}))
    frozen = Frozen(build("flow-matching", PLANE, width=24, seed=1), 30_000)
    frozen.model.net = learned
    model = catalogue.get("reflow").paradigm(config, PLANE, 24, {"parent": frozen}).train()
    optimizers = model.optimizers()
    for k in range(300):
        index = Noise("order", k).integers(len(pairs), config.batch)
        for update in model.updates(pairs.batch(index), k / 300, Noise("r", k)):
            (optimizer,) = optimizers.values()
            optimizer.param_groups[0]["lr"] = update.settings["lr"]
            optimizer.zero_grad()
            update.loss.backward()
            optimizer.step()
    after, _ = straightness(model.eval().denoiser(), z, 64)
    assert after.mean() < 0.4 * before.mean()


def test_pairs_are_drawn_at_the_price_that_is_said(gaussian):
    """`drawing` of the parent's training, a training step being three calls for each example; at least a batch."""
    config = catalogue.get("reflow").config
    for images in (5_000, 20_000):
        parent = perfect_parent(gaussian)
        parent.images = images
        model = rectified_flow.Reflow(replace(config, drawing=0.5, steps=4), PLANE, 8, {"parent": parent})
        with count_calls() as count:
            pairs = drawn(model)
        assert count.examples == 2 * 4 * len(pairs)
        assert count.examples == pytest.approx(0.5 * 3 * images, rel=0.01)
    assert config.pairs(0) == config.batch
    assert replace(config, most=100).pairs(10**9) == 100
    assert config.pairs(2_000_000) == pytest.approx(10 * config.pairs(200_000), rel=1e-3), "in step with the budget"


@pytest.mark.parametrize("name", ["reflow", "reflow-distilled"])
def test_drawing_is_deterministic_and_leaves_the_parent_as_it_was(name, monkeypatch):
    model = build(name, LABELLED)
    before = {k: v.clone() for k, v in model.parent.model.state_dict().items()}
    data = Data(torch.randn(100, 2), torch.arange(100) % 3, LABELLED)  # no example of class 3
    state = torch.get_rng_state()
    first, again, other = (model.prepare(data, Noise("prepare", k)) for k in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(getattr(first, v), getattr(again, v)) for v in "xyz")
    assert not torch.equal(first.x, other.x)
    assert set(first.y.tolist()) == {0, 1, 2}
    monkeypatch.setattr(rectified_flow, "CHUNK", 7)
    chunked = model.prepare(data, Noise("prepare", 0))
    torch.testing.assert_close(chunked.x, first.x, rtol=1e-5, atol=1e-5)
    assert torch.equal(chunked.z, first.z)
    after = model.parent.model.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert not first.x.requires_grad
    with torch.no_grad():  # each x is where the parent takes its z under its label
        d = model.parent.model.denoiser(first.y)
        x = rectified_flow.samplers.sample(rectified_flow.ODE, d, first.z, Plan("heun", model.config.steps), Noise(0))
    torch.testing.assert_close(first.x, x, rtol=1e-5, atol=1e-5)


def test_it_starts_from_its_parents_weights_and_wants_pairs():
    model = build("reflow", PLANE, shaken=False)
    own, parent = model.net.state_dict(), model.parent.model.net.state_dict()
    assert all(torch.equal(own[k], parent[k]) for k in parent)
    with pytest.raises(TypeError, match="pairs"):
        next(model.updates(Batch(torch.zeros(4, 2)), 0.0, Noise(0)))


# ------------------------------------------------------------------------------------------------------- bad input


def bench(*arguments: object):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train ot-flow-matching --dataset digits --conditional", ["labels", "arXiv:2503.10636", "flow-matching"]),
        ("train reflow --dataset ring8 --set steps=0", ["steps must be at least 1", "--set steps=0"]),
        ("train reflow --dataset ring8 --set drawing=0", ["drawing must be above 0"]),
        ("train flow-matching --dataset ring8 --set times=late", ["times must be one of", "logit-normal", "'late'"]),
        ("train ot-flow-matching --dataset ring8 --set coupled=1", ["coupled must be 0, or 2 or more"]),
    ],
)
def test_what_can_not_be_trained_is_refused_in_a_line(arguments, words, tmp_path):
    result = bench(*arguments.split(), "--tier", "smoke", "--out", tmp_path)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line
    assert not list(tmp_path.iterdir())


def test_a_parent_that_does_not_fit_is_named():
    recipe = catalogue.get("reflow")
    for name in ("flow-matching-vp", "ddpm"):
        with pytest.raises(BadInput, match="its parent predicts"):
            recipe.build(PLANE, 8, {"parent": Frozen(build(name, PLANE))})
    with pytest.raises(BadInput, match="models Space"):
        recipe.build(LABELLED, 8, {"parent": Frozen(build("flow-matching", PLANE))})
    with pytest.raises(TypeError, match="'flow-matching' is not a Denoises"):
        recipe.build(PLANE, 8, {"parent": Frozen(build("vae", PLANE))})


# ------------------------------------------------------------------------------------------------ runs, kill -9


TINY = '[tiny]\nbase = "smoke"\nvectors = { flops = 1e8, seconds = 1000, images = 1_000, params = 2_000 }\n'


@pytest.fixture(scope="module")
def tier(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tier") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def trained(tier, tmp_path_factory) -> Path:
    """An output folder with a finished reflow and its parent; not to be changed."""
    out = tmp_path_factory.mktemp("trained")
    runs.ensure(planned(tier), out, QUIET, device="cpu")
    return out


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def planned(tier: Path, name: str = "reflow") -> runs.Run:
    return runs.define(name, "ring8", 0, tiers.get(f"{tier}:tiny"))


@pytest.mark.heavy
def test_drawing_is_booked_and_twins_share_one_budget(tier, copied):
    full, half = (planned(tier, name) for name in ("reflow", "reflow-equal-total"))
    budget = full.tier.vectors.flops
    infos = []
    for run in (full, half):
        info = runs.read_info(runs.ensure(run, copied, QUIET, device="cpu"))
        infos.append(info)
        parent = runs.read_info(copied / info.parents["parent"])
        assert info.status == parent.status == "ok"
        drawing = info.flops - info.steps * info.flops_per_step
        # Drawing 0.25 of the parent's training, counted as FLOPs: 2 x 8 calls of 2 FLOPs a weight for each pair.
        assert drawing == pytest.approx(0.25 * parent.flops, rel=0.15)
        assert info.flops == pytest.approx(run.share * budget, rel=0.05)
        assert info.flops_total == pytest.approx(info.flops + parent.flops)
    assert infos[0].flops_total == pytest.approx(2 * budget, rel=0.05)
    assert infos[1].flops_total == pytest.approx(budget, rel=0.05)
    distilled = planned(tier, "reflow-distilled-equal-total")
    shares, run = [distilled.share], distilled
    while run.parents:
        ((_, run),) = run.parents
        shares.append(run.share)
    assert shares == [0.25, 0.25, 0.5]


KILLED = """
import os, signal, sys
import bench.loop

bench.loop.CHECKPOINT_SECONDS = 0.0
stage, steps = sys.argv[1], int(sys.argv[2])
loop = bench.loop.Loop.step

def step(self, k):
    loop(self, k)
    if self.coords[1] == stage and k == steps:
        os.kill(os.getpid(), signal.SIGKILL)

bench.loop.Loop.step = step
from bench.cli import app
app(sys.argv[3:])
"""


@pytest.mark.heavy
def test_a_kill_at_either_stage_costs_nothing(tier, trained, tmp_path):
    """`bench train reflow` from nothing: killed in its parent's training, then in its own, then to the end; bit for bit."""
    whole, out = planned(tier).folder(trained), tmp_path / "killed"
    arguments = f"train reflow --dataset ring8 --tier {tier}:tiny --out {out} --device cpu".split()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

    def begin(stage: str, step: int) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", KILLED, stage, str(step), *arguments],
            env=environment,
            capture_output=True,
            text=True,
        )

    run = planned(tier)
    ((_, parent),) = run.parents
    for stage, folder in (("flow-matching", parent.folder(out)), ("reflow", run.folder(out))):
        done = begin(stage, 30)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert (folder / STATE).exists()
        assert runs.read_info(folder).status == "training"
    assert (run.folder(out) / PREPARED).exists(), "the pairs are kept"
    kept = (parent.folder(out) / "weights.safetensors").stat().st_mtime_ns
    result = bench(*arguments)
    assert result.exit_code == 0, result.output
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (run.folder(out), whole))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    info = runs.read_info(run.folder(out))
    assert info.resumed
    assert runs.read_info(parent.folder(out)).resumed
    assert info.flops == runs.read_info(whole).flops
    assert not (run.folder(out) / PREPARED).exists()
    # A second call is a cache hit.
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.name != ".lock"}
    assert bench(*arguments).exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert before[parent.folder(out) / "weights.safetensors"] == kept


def test_a_damaged_parent_is_named_and_not_trained_over(tier, copied):
    run = planned(tier)
    shutil.rmtree(run.folder(copied))
    ((_, parent),) = run.parents
    weights = parent.folder(copied) / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    result = bench("train", "reflow", "--dataset", "ring8", "--tier", f"{tier}:tiny", "--out", copied)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert str(weights) in line
    assert "damaged" in line
    assert weights.read_bytes() == bytes(data)
    assert not run.folder(copied).exists()


def test_a_reflow_draws_and_has_its_density_without_its_parent(tier, copied, trained):
    run = planned(tier)
    ((_, parent),) = run.parents
    shutil.rmtree(parent.folder(copied))
    (alone, _), (whole, _) = (runs.load(run.folder(out)) for out in (copied, trained))
    kind, x = alone.card.likelihoods[0], torch.randn(4, 2)
    one, two = (model.log_likelihood(x, kind, Noise("density")).value for model in (alone, whole))
    assert torch.equal(one, two)


def test_the_straightness_of_a_run_is_shown(tier, trained, capsys, monkeypatch):
    run = planned(tier)
    folders = [str(run.folder(trained)), str(run.parents[0][1].folder(trained))]
    assert shown.main([*folders, "-n", "12", "--steps", "8", "--json"]) == 0
    after, before = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (after["recipe"], before["recipe"]) == ("reflow", "flow-matching")
    model, info = runs.load(folders[0])
    S, length = straightness(model.denoiser(), model.prior(12, Noise("straightness", info.seed)), 8)
    assert after["S"] == pytest.approx(float(S.mean()), rel=1e-5)
    assert after["relative"] == pytest.approx(float(S.sum() / length.sum()), rel=1e-5)
    monkeypatch.setattr(shown, "CHUNK", 5)
    assert pytest.approx(after["S"], rel=1e-4) == shown.measure(Path(folders[0]), 12, 8).S
    for wrong in (["-n", "1"], ["--steps", "0"]):
        assert shown.main([folders[0], *wrong]) == 2
    assert shown.main([str(trained)]) == 2
    assert all(line.startswith("error: ") for line in capsys.readouterr().err.splitlines())


@pytest.mark.parametrize("conditional", [False, True])
def test_a_suite_leaves_the_coupling_out_only_where_labels_are_told(conditional):
    planned, skipped = suite.plan_runs("digits", ["flow-matching+"], tiers.get("smoke"), 1, conditional)
    assert ("ot-flow-matching" in {run.recipe for run in planned}) == (not conditional)
    assert ("ot-flow-matching" in skipped) == conditional
