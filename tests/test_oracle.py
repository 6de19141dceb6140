"""Perfect networks: the closed-form answer for a Gaussian or a mixture plugged in where a trained network would stand.

Then everything else a paradigm does is known: its samples' law, the order of its solvers, its likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import Exact, Mixture, build
from torch import Tensor

from paradigms import catalogue, edm
from paradigms.backbones import Backbone, count_calls
from paradigms.contract import Batch, Data, Kind, Noise, Plan, Space
from paradigms.maths.denoiser import Denoiser
from paradigms.maths.likelihood import normal_log_prob
from paradigms.maths.paths import CosinePath
from paradigms.maths.samplers import levels
from paradigms.maths.solvers import grid, nodes, rk4_step, solve
from paradigms.score_sde import ScoreSDE

PLANE = Space((2,))
DDPM, SDE, FLOW, EDM, NCSN = "ddpm", "score-sde", "flow-matching", "edm", "ncsn"
MODELS = (FLOW, SDE, "score-sde-subvp", "score-sde-ve", DDPM, "ddpm-linear", "ddpm-v", "ddpm-x0", EDM, NCSN)


def told_back(model) -> Callable[[Tensor], Tensor]:
    """The inverse of what the network of `model` is told of the time."""
    if isinstance(model, ScoreSDE):
        path, data = model.path, float(model.sigma_data)
        return lambda angle: path.time_of_log_snr(-2 * torch.log(data * torch.tan(angle * (math.pi / 2))))
    if isinstance(model, edm.EDM):
        lowest, highest = model.sigma_min, model.config.sigma_max
        return lambda c: (lowest / highest) ** (1 - c)
    return lambda t: t


def perfect(name: str, data: Mixture):
    """A model of the plane whose network is exact, in float64."""
    model = build(name, PLANE)
    if not name.startswith(DDPM):  # `prepare` gives a chain its clip
        model.prepare(Data(data.sample(1000).float(), None, PLANE), Noise("prepare"))
    model = model.double().eval()
    d = model.denoiser()
    model.net = Exact(data, d.path, d.prediction, told_back(model))
    return model


def prior(n: int, seed: int = 0) -> Tensor:
    return Noise("prior", seed).normal(n, 2).double()


def at(d: Denoiser, t: float) -> tuple[float, float]:
    """(alpha, sigma) at a time."""
    t = torch.tensor(t, dtype=torch.float64)
    return float(d.path.alpha(t)), float(d.path.sigma(t))


def denoised(data: Mixture, d: Denoiser, x: Tensor) -> Tensor:
    """The expected data at the end of the path, where noise is left."""
    a, s = (torch.tensor([v], dtype=torch.float64) for v in at(d, d.t_min))
    return x if d.free else data.posterior(x, a, s)[0]


def transported(data: Mixture, d: Denoiser, z: Tensor) -> Tensor:
    """Where the probability-flow ODE of one Gaussian carries z: each coordinate keeps its standardised value."""
    (a, s), (a0, s0) = at(d, d.t_max), at(d, d.t_min)
    mean, var = data.means[0], data.stds[0].square()
    w = (s * z - a * mean) / (a**2 * var + s**2).sqrt()
    return denoised(data, d, a0 * mean + (a0**2 * var + s0**2).sqrt() * w)


# -------------------------------------------------------------------------------------------------------- samplers


DETERMINISTIC = [
    (name, s.name, s.order)
    for name in MODELS
    for s in catalogue.get(name).paradigm.card.samplers
    if not s.stochastic and s.calls is not None
]


@pytest.mark.parametrize(("name", "sampler", "order"), DETERMINISTIC)
def test_samplers_have_the_order_they_claim(name, sampler, order, gaussian):
    model, z = perfect(name, gaussian), prior(64)
    truth = transported(gaussian, model.denoiser(), z)
    # On the linear path log SNR has no ends, and the multistep method's error is that of its order times a logarithm.
    counts = (256, 512, 1024) if (name, sampler) == (FLOW, "dpmpp-2m") else (64, 128, 256)
    with torch.no_grad():
        errors = [float((model.sample(z, Plan(sampler, n), Noise(0)) - truth).norm(dim=1).mean()) for n in counts]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] < 0.02
    assert slopes == pytest.approx([order] * 2, abs=0.25), errors


def test_adaptive_sampling_arrives(gaussian):
    model, z = perfect(FLOW, gaussian), prior(64)
    truth = transported(gaussian, model.denoiser(), z)
    with torch.no_grad():
        for tolerance in (1e-3, 1e-6):
            plan = Plan("rk45", 1, (("rtol", tolerance), ("atol", tolerance)))
            error = (model.sample(z, plan, Noise(0)) - truth).abs()
            assert error.mean() < 3 * tolerance
            assert error.max() < 100 * tolerance


PLANS = [
    (FLOW, Plan("euler", 200)),
    (FLOW, Plan("heun", 32)),
    (FLOW, Plan("rk45")),
    (SDE, Plan("reverse-sde", 500)),
    (SDE, Plan("euler", 200)),
    (SDE, Plan("heun", 32)),
    (DDPM, Plan("ancestral", 500)),
    (DDPM, Plan("ddim", 200)),
    (DDPM, Plan("ddim", 500, (("eta", 0.5),))),
]


@pytest.mark.parametrize(("name", "plan"), PLANS, ids=[f"{n}-{p}" for n, p in PLANS])
def test_samples_of_a_mixture_have_its_moments(name, plan, mixture):
    """Mean, covariance and the share of each component, within four standard errors and a small bias of the solver."""
    model, n = perfect(name, mixture), 4000
    with torch.no_grad():
        x = model.sample(prior(n), plan, Noise("draws"))
    scale = mixture.cov.diag().sqrt()
    assert ((x.mean(0) - mixture.mean).abs() / scale < 4 / math.sqrt(n) + 0.01).all()
    assert ((x.T.cov() - mixture.cov).abs() / torch.outer(scale, scale) < 4 * math.sqrt(2 / n) + 0.02).all()
    near = torch.cdist(x, mixture.means).argmin(1)
    truth = torch.cdist(mixture.sample(20_000, seed=1), mixture.means).argmin(1).double().mean()
    assert abs(float(near.double().mean() - truth)) < 4 * math.sqrt(0.25 / n)
    # Not only the moments: the mean log density is minus the entropy.
    entropy = mixture.log_prob(mixture.sample(20_000, seed=2))
    assert abs(float(mixture.log_prob(x).mean() - entropy.mean())) < 4 * float(entropy.std()) / math.sqrt(n) + 0.05


def test_the_reverse_sde_converges(gaussian):
    """More steps, less bias: the spread comes closer to the data's (Euler-Maruyama has weak order 1)."""
    model, z = perfect(SDE, gaussian), prior(20_000)
    with torch.no_grad():
        gaps = [
            float((model.sample(z, Plan("reverse-sde", n), Noise("w", n)).std(0) / gaussian.stds[0] - 1).abs().max())
            for n in (25, 200)
        ]
    assert gaps[1] < 0.03
    assert gaps[1] < gaps[0] / 2


# ------------------------------------------------------------------------------------------------------------- DDPM


@pytest.mark.parametrize("space", [PLANE, Space((1, 8, 8), 0, 17)], ids=["vectors", "levels"])
def test_ddim_with_full_noise_is_the_ancestral_chain(space):
    model = build(DDPM, space).eval()
    z = model.prior(3, Noise("z"))
    with torch.no_grad():
        ancestral = model.sample(z, Plan("ancestral", 20), Noise("w"))
        ddim = model.sample(z, Plan("ddim", 20, (("eta", 1.0),)), Noise("w"))
    assert torch.equal(ancestral, ddim)


def test_ancestral_steps_are_the_forward_posterior(mixture):
    """The same chain written from Ho et al., eq. 6-7 between any two times, with the same draws."""
    model, z, steps = perfect(DDPM, mixture), prior(50), 25
    d, noise, x = model.denoiser(), Noise("w"), at(model.denoiser(), 1.0)[1] * z
    times = [*levels(d, steps).tolist(), 0.0]
    assert 1000 * np.array(times[:-1]) == pytest.approx(np.linspace(1000, 1, steps), abs=0.5 + 1e-9)
    assert 1000 * np.array(times) == pytest.approx((1000 * np.array(times)).round(), abs=1e-9)
    for t, s in pairwise(times):
        a_t, s_t = at(d, t)
        a_s, s_s = at(d, s) if s else (1.0, 0.0)
        ratio = a_t / a_s
        beta = s_t**2 - ratio**2 * s_s**2  # the variance of q(x_t | x_s)
        x0, _ = mixture.posterior(x, *(torch.tensor([v], dtype=torch.float64) for v in (a_t, s_t)))
        mean = ratio * s_s**2 / s_t**2 * x + a_s * beta / s_t**2 * x0
        x = mean if s == 0 else mean + math.sqrt(beta * s_s**2 / s_t**2) * noise.normal(50, 2).double()
    with torch.no_grad():
        ours = model.sample(z, Plan("ancestral", steps), Noise("w"))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-9)


def test_ddim_is_eulers_method_in_rescaled_coordinates(mixture):
    """d(x / alpha) = eps d(sigma / alpha) (Song et al. 2021, section 4.3)."""
    model, z, steps = perfect(DDPM, mixture), prior(50), 25
    d = model.denoiser()
    ends = [*(at(d, t) for t in levels(d, steps).tolist()), (1.0, 0.0)]
    y = ends[0][1] * z / ends[0][0]
    for (a, sigma), (a_s, sigma_s) in pairwise(ends):
        _, eps = mixture.posterior(a * y, *(torch.tensor([v], dtype=torch.float64) for v in (a, sigma)))
        y = y + (sigma_s / a_s - sigma / a) * eps
    with torch.no_grad():
        ours = model.sample(z, Plan("ddim", steps), Noise("w"))
    torch.testing.assert_close(ours, y, rtol=0, atol=1e-9)


def bound_terms(d: Denoiser, steps: int, data: Mixture, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L_T, sum of L_{t-1} and E log p(x | x_1) of one Gaussian in closed form, (B,) each."""
    times = levels(d, steps)
    alpha, sigma = d.path.alpha(times)[:, None, None], d.path.sigma(times)[:, None, None]
    off, var = x - data.means[0], data.stds[0].square()
    total = alpha**2 * var + sigma**2
    # E_eps (x - x0hat)^2: the bias and the variance of the posterior mean at x_t = alpha x + sigma eps.
    error = ((sigma**2 * off) ** 2 + (alpha * var * sigma) ** 2) / total**2
    snr = (alpha / sigma).square()
    chain = (0.5 * (snr[1:] - snr[:-1]) * error[:-1]).sum((0, 2))
    a, s = at(d, 1.0)
    last = torch.distributions.kl_divergence(
        torch.distributions.Normal(a * x, torch.full_like(x, s)), torch.distributions.Normal(0.0, s)
    ).sum(1)
    std = sigma[-1] / alpha[-1]
    decoder = (-0.5 * math.log(2 * math.pi) - std.log() - 0.5 * error[-1] / std**2).sum(1)
    return last, chain, decoder


def vlb(steps: int = 1000, terms: int = 0, variance: str = "small") -> Kind:
    return Kind("vlb", "≤", 0, (("steps", steps), ("terms", terms), ("variance", variance)))


def test_variational_bound_term_by_term(gaussian):
    model, draws = perfect(DDPM, gaussian), 1500
    points = torch.tensor([[0.6, -0.3], [1.7, 0.2]], dtype=torch.float64)
    x = points.repeat_interleave(draws, 0)
    with torch.no_grad():
        every = model.log_likelihood(x, vlb(), Noise("l"))
        some = model.log_likelihood(x, vlb(terms=50), Noise("m"))
    last, steps, decoder = bound_terms(model.denoiser(), 1000, gaussian, points)

    def check(values: Tensor, truth: Tensor) -> None:
        values = values.view(2, draws)
        error = values.std(1) / math.sqrt(draws)
        assert ((values.mean(1) - truth).abs() < 4 * error + 1e-6).all()
        assert (error < 0.1 * truth.abs() + 0.02).all(), "too noisy to say"

    for estimate in (every, some):
        torch.testing.assert_close(estimate.terms["prior"].view(2, draws)[:, 0], last, rtol=1e-5, atol=1e-7)
        check(estimate.terms["steps"], steps)
        check(-estimate.terms["decoder"], decoder)
        check(estimate.value, decoder - steps - last)


def test_variational_bound_lies_above_the_entropy(gaussian):
    """Never better than the truth, within a tenth of a nat at T = 1000, and twice as near with twice the steps."""
    model, x = perfect(DDPM, gaussian), gaussian.sample(4000)
    smooth = replace(model.denoiser(), T=None)

    def gap(steps: int) -> float:
        last, chain, decoder = bound_terms(smooth, steps, gaussian, x)
        return float((last + chain - decoder + gaussian.log_prob(x)).mean())

    assert 0 < gap(1000) < 0.1
    assert gap(1000) / gap(2000) == pytest.approx(2, abs=0.1)
    some = x[:1000]
    with torch.no_grad():
        value = model.log_likelihood(some, vlb(terms=200), Noise("l")).value
    slack = gaussian.log_prob(some) - value
    assert float(slack.mean()) == pytest.approx(gap(1000), abs=4 * float(slack.std()) / math.sqrt(len(some)))


def test_the_bound_visits_every_step_and_strata_cover_the_chain():
    model, x, seen = build(DDPM, PLANE).eval(), torch.randn(500, 2), []
    model.net.register_forward_pre_hook(lambda net, args: seen.append((1000 * args[1].double()).round().long()))
    with torch.no_grad():
        model.log_likelihood(x, vlb(), Noise(0))
        assert sorted(int(t[0]) for t in seen) == list(range(1, 1001))
        assert all((t == t[0]).all() for t in seen)
        seen.clear()
        model.log_likelihood(x, vlb(terms=5), Noise(0))
    decoder, *strata = seen
    assert (decoder == 1).all()
    assert (int(strata[-1].min()), int(strata[0].max())) == (2, 1000)
    for upper, lower in pairwise(strata):  # each stratum ends where the next begins
        assert lower.max() < upper.min() <= lower.max() + 5
    assert all(len(t.unique()) > 150 for t in strata)


def test_ddpm_samples_stay_where_the_data_are(gaussian):
    """An untrained network's errors are multiplied by sigma / alpha = 200 at t = T unless x0 is clipped."""
    model, x = build(DDPM, PLANE).eval(), gaussian.sample(500).float()
    z = model.prior(200, Noise("z"))
    with torch.no_grad():
        assert model.sample(z, Plan("ddim", 20), Noise(0)).abs().max() > 20
        assert model.prepare(Data(x, None, PLANE), Noise(0)).x is x
        for plan in (Plan("ddim", 20), Plan("ancestral", 20)):
            assert 0.9 * x.abs().max() < model.sample(z, plan, Noise(0)).abs().max() <= x.abs().max()
    kept = build(DDPM, PLANE, seed=1)
    kept.load_state_dict(model.state_dict())
    assert float(kept.reach) == float(x.abs().max())


def test_the_bound_of_a_worse_network_is_worse(gaussian):
    good, x = perfect(DDPM, gaussian), gaussian.sample(500)
    bad = perfect(DDPM, Mixture([1.0], [[0.2, 0.1]], [[0.5, 0.5]]))
    with torch.no_grad():
        values = [model.log_likelihood(x, vlb(terms=50), Noise(0)).value for model in (good, bad)]
    assert (values[0] - values[1]).mean() > 0.3


# --------------------------------------------------------------------------------------------------- ODE likelihood


def ode(name: str, steps: int, probes: int, **options: str) -> Kind:
    """The ODE's likelihood, on the coordinates of the model's card."""
    card = catalogue.get(name).paradigm.card
    on = next(k for k in card.likelihoods if k.name == "ode").word("on", "own")
    return Kind("ode", "≈", 0, tuple({"steps": steps, "probes": probes, "on": on, **options}.items()))


def density_there(data: Mixture, d: Denoiser, x: Tensor) -> Tensor:
    """The log density of x_t / alpha at t_min, which is what the ODE ends with."""
    a, s = at(d, d.t_min)
    return data.log_prob(a * x, a, s) + x.shape[1] * math.log(a)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("law", ["gaussian", "mixture"])
def test_ode_likelihood_is_the_density(name, law, request):
    """Exact trace, RK4, at most 100 calls: within 1e-4 nats of the closed form in the mean.

    Point by point it differs by what the prior differs from the law at t = 1, which is taken off: 0.01 nats in the mean
    where sigma_max is the diameter of the data, else 1e-4.
    """
    data = request.getfixturevalue(law)
    model, x = perfect(name, data), data.sample(3000)
    with count_calls() as count:
        estimate = model.log_likelihood(x, ode(name, 16, 0), Noise(0))
    assert count.calls <= 100
    d = model.denoiser()
    gap = estimate.value - density_there(data, d, x)
    (a1, s1), (a, s) = at(d, d.t_max), at(d, d.t_min)
    if law == "gaussian":
        z = (a * (x - data.means[0])) * ((a1 * data.stds[0]) ** 2 + s1**2).sqrt()
        z = z / ((a * data.stds[0]) ** 2 + s**2).sqrt() + a1 * data.means[0]
    else:
        here = d.on(CosinePath())
        with torch.no_grad():
            times = grid(here.t_min, here.t_max, 100)
            y = x * at(here, here.t_min)[0]
            z = solve(here.along(nodes(times), y).velocity, y, times, rk4_step) * s1 / at(here, here.t_max)[1]
    mismatch = normal_log_prob(z, 0.0, math.log(s1)).sum(1) - data.log_prob(z, a1, s1)
    assert abs(float(mismatch.mean())) < (0.05 if name in ("score-sde-ve", NCSN) else 5e-4)
    gap = gap - mismatch
    assert gap.abs().max() < (5e-4 if law == "gaussian" else 0.05)
    assert abs(float(gap.mean())) < 1e-4
    assert (gap.abs() <= 10 * estimate.errors["solver"] + 0.05).all()


@pytest.mark.parametrize("name", MODELS)
def test_ode_likelihood_with_probes_agrees(name, mixture):
    """Hutchinson's estimate is unbiased and says its own error."""
    model, x = perfect(name, mixture), mixture.sample(400).float()
    estimate = model.log_likelihood(x, ode(name, 10, 8), Noise(0))
    gap = estimate.value - density_there(mixture, model.denoiser(), x.double())
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(400) + 2e-3
    said = float(estimate.errors["probe"].square().mean().sqrt())
    assert float(gap.std()) == pytest.approx(said, rel=0.5)


# ------------------------------------------------------------------------------------------------- training targets


@pytest.mark.parametrize("name", [*MODELS, "score-sde-likelihood"])
def test_the_loss_is_least_at_the_exact_network(name, mixture):
    """The regression target is the one whose mean the sampler wants: any other network does worse on average."""
    model, batch = perfect(name, mixture).float(), Batch(mixture.sample(4000).float())

    def loss(scale: float, shift: float) -> float:
        exact = perfect(name, mixture).net

        class Bent(Backbone):
            def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
                return scale * exact(x, t) + shift

        model.net = Bent()
        return sum(float(next(model.updates(batch, 0.5, Noise(k))).loss) for k in range(4)) / 4

    best = loss(1.0, 0.0)
    assert all(loss(*bent) > best + 5e-4 for bent in ((1.1, 0.0), (0.9, 0.0), (1.0, 0.1), (1.0, -0.1)))


def test_normal_helper_agrees():
    """The closed forms above lean on it."""
    data = Mixture([1.0], [[0.2, 0.4]], [[0.5, 2.0]])
    x = data.sample(5)
    torch.testing.assert_close(normal_log_prob(x, data.means[0], data.stds[0].log()).sum(1), data.log_prob(x))


def test_a_respaced_bound_is_looser_than_the_whole_chains(gaussian):
    """Fewer steps make coarser posteriors: with the exact network the bound only loosens, and stays a bound."""
    model, x = perfect(DDPM, gaussian), gaussian.sample(4000)
    gaps = []
    for steps in (1000, 100, 10):
        with torch.no_grad():
            value = model.log_likelihood(x, vlb(steps), Noise("l")).value
            gaps.append(float((gaussian.log_prob(x) - value).mean()))
    assert 0 < gaps[0] < gaps[1] < gaps[2]
