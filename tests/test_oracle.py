"""Perfect networks: the closed-form answer for a Gaussian or a mixture plugged in where a trained network would stand.

Then everything else a paradigm does is known: its samples' law, the order of its solvers, its likelihood.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from helpers import thinned, told_back
from scipy import integrate, stats
from torch import Tensor

from paradigms import catalogue
from paradigms.backbones import Backbone, count_calls
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Kind, Plan
from paradigms.errors import BadInput
from paradigms.maths import bounds, samplers
from paradigms.maths.denoiser import X0, Denoiser, Eps, Preconditioned, Prediction, Velocity, VPrediction
from paradigms.maths.likelihood import normal_log_prob
from paradigms.maths.paths import (
    BetaChainPath,
    CosinePath,
    EDMPath,
    GaussianPath,
    LinearPath,
    SubVPPath,
    VEPath,
    VPPath,
)
from paradigms.maths.samplers import levels
from paradigms.maths.solvers import grid, nodes, rk4_step, solve
from paradigms.testing import Exact, Mixture, build

PLANE = Space((2,))
LAWS = ("gaussian", "mixture")
DDPM, SDE, FLOW, EDM, NCSN = "ddpm", "score-sde", "flow-matching", "edm", "ncsn"
MODELS = (FLOW, SDE, "score-sde-subvp", "score-sde-ve", DDPM, "ddpm-linear", "ddpm-v", "ddpm-x0", EDM, NCSN)


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


@pytest.mark.parametrize(("name", "sampler", "order"), thinned(DETERMINISTIC, lambda case: case[1]))
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


@pytest.mark.parametrize(("name", "plan"), thinned(PLANS, lambda case: (case[1].sampler, case[1].options)), ids=str)
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


@pytest.mark.heavy
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


@pytest.mark.heavy
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


@pytest.mark.heavy
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


@pytest.mark.heavy
def test_the_bound_visits_every_step_and_strata_cover_the_chain():
    model, x, seen = build(DDPM, PLANE).eval(), torch.randn(500, 2), []
    model.net.register_forward_pre_hook(lambda net, args: seen.append((1000 * args[1].double()).round().long()))
    with torch.no_grad():
        model.log_likelihood(x, vlb(), Noise(0))
        assert sorted(int(t[0]) for t in seen) == list(range(1, 1001))
        assert all((t == t[0]).all() for t in seen)
        seen.clear()
        model.log_likelihood(x, vlb(terms=5), Noise(0))
        with pytest.raises(BadInput, match="terms = 1,001 are more than a chain of 1,000 steps has"):
            model.log_likelihood(x, vlb(terms=1001), Noise(0))
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


@pytest.mark.parametrize(("law", "name"), thinned(list(product(LAWS, MODELS)), lambda case: case[0]))
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
            times = grid(here.t_min, here.t_max, 50)
            y = x * at(here, here.t_min)[0]
            z = solve(here.along(nodes(times), y).velocity, y, times, rk4_step) * s1 / at(here, here.t_max)[1]
    mismatch = normal_log_prob(z, 0.0, math.log(s1)).sum(1) - data.log_prob(z, a1, s1)
    assert abs(float(mismatch.mean())) < (0.05 if name in ("score-sde-ve", NCSN) else 5e-4)
    gap = gap - mismatch
    assert gap.abs().max() < (5e-4 if law == "gaussian" else 0.05)
    assert abs(float(gap.mean())) < 1e-4
    assert (gap.abs() <= 10 * estimate.errors["solver"] + 0.05).all()


@pytest.mark.parametrize(
    "name", thinned([(name,) for name in MODELS], lambda case: catalogue.get(case[0]).paradigm.log_likelihood)
)
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


@pytest.mark.heavy
def test_a_respaced_bound_is_looser_than_the_whole_chains(gaussian):
    """Fewer steps make coarser posteriors: with the exact network the bound only loosens, and stays a bound."""
    model, x = perfect(DDPM, gaussian), gaussian.sample(4000)
    gaps = []
    for steps in (1000, 100, 10):
        with torch.no_grad():
            value = model.log_likelihood(x, vlb(steps), Noise("l")).value
            gaps.append(float((gaussian.log_prob(x) - value).mean()))
    assert 0 < gaps[0] < gaps[1] < gaps[2]


# ------------------------------------------------------------------------------------------ every path, every sampler


def exact_on(path: GaussianPath, prediction: Prediction, data: Mixture, t_min: float, T: int | None = None) -> Denoiser:
    return Denoiser(Exact(data, path, prediction), path, prediction, lambda t: t, t_min, T=T)


PATHS: dict[str, tuple[GaussianPath, Prediction, float, int | None]] = {
    "linear": (LinearPath(), Velocity(), 0.0, None),
    "vp": (VPPath(), Preconditioned(0.8), 5e-4, None),
    "subvp": (SubVPPath(), VPrediction(), 5e-3, None),
    "ve": (VEPath(0.01, 50.0), Eps(0.8), 0.0, None),
    "edm": (EDMPath(), Preconditioned(0.8), 0.005 / 80, None),
    "chain": (BetaChainPath(), Eps(), 1e-3, 1000),
    "cosine": (CosinePath(0.01, 1.56), X0(), 0.0, None),
}
# Enough steps to come near, on a grid where each method is at home.
AT_HOME: dict[str, Plan] = {
    "ancestral": Plan("ancestral", 250, (("grid", "cosine"),)),
    "ddim": Plan("ddim", 100, (("grid", "karras"),)),
    "dpmpp-2m": Plan("dpmpp-2m", 40, (("grid", "karras"),)),
    "dpmpp-2m-sde": Plan("dpmpp-2m-sde", 80, (("grid", "karras"),)),
    "euler": Plan("euler", 100, (("grid", "cosine"), ("on", "cosine"))),
    "heun": Plan("heun", 32, (("grid", "cosine"), ("on", "cosine"))),
    "rk4": Plan("rk4", 16, (("grid", "cosine"), ("on", "cosine"))),
    "rk45": Plan("rk45", 1, (("on", "cosine"),)),
    "reverse-sde": Plan("reverse-sde", 250, (("grid", "cosine"), ("on", "cosine"))),
    "churn": Plan("churn", 50),
    "langevin": Plan("langevin", 120, (("inner", 10),)),
}
DIRECTIONS = torch.tensor([[math.cos(a), math.sin(a)] for a in torch.linspace(0, math.pi, 9)[:-1].tolist()]).double().T


def sliced(x: Tensor, y: Tensor) -> float:
    """The 1-Wasserstein distance of two equally large samples, averaged over eight directions of the plane."""
    return float(((x @ DIRECTIONS).sort(0)[0] - (y @ DIRECTIONS).sort(0)[0]).abs().mean())


@pytest.fixture(scope="module")
def floor(mixture: Mixture) -> tuple[Tensor, float, float]:
    """2,000 draws of the data; the mean distance of 24 other draws from them, and its standard deviation."""
    real = mixture.sample(2000, seed=99)
    distances = torch.tensor([sliced(mixture.sample(2000, seed=100 + k), real) for k in range(24)])
    return real, float(distances.mean()), float(distances.std())


@pytest.mark.parametrize(("path", "sampler"), thinned(list(product(PATHS, AT_HOME)), lambda case: case[1]))
def test_every_sampler_on_every_path_comes_to_the_data(path, sampler, mixture, floor):
    """Moments within four standard errors and 0.02 of the scale; sliced distance within the floor's five deviations."""
    way, prediction, t_min, T = PATHS[path]
    d, n = exact_on(way, prediction, mixture, t_min, T), 500 if sampler == "langevin" else 2000
    offered = samplers.offered(free=d.free, T=T)
    assert {s.name for s in offered} == {*AT_HOME, "pc"}
    with torch.no_grad():
        x = samplers.sample(offered, d, prior(n), AT_HOME[sampler], Noise("w"))
    scale = mixture.cov.diag().sqrt()
    assert ((x.mean(0) - mixture.mean).abs() / scale < 4 / math.sqrt(n) + 0.02).all()
    assert ((x.T.cov() - mixture.cov).abs() / torch.outer(scale, scale) < 4 * math.sqrt(2 / n) + 0.04).all()
    real, mean, std = floor
    if n == len(real):
        assert sliced(x, real) < mean + 5 * std + 0.02


@pytest.mark.parametrize("path", ["vp", "ve", "edm"])
def test_predictor_corrector_comes_to_the_data(path):
    """In 64 dimensions: Langevin steps whose size follows the state's norm leave p(x) |eps|^2 at rest, which in the plane
    is sqrt(2) too wide, and here below a hundredth."""
    dim, n = 64, 400
    mean, std = torch.linspace(-1, 1, dim), torch.linspace(0.3, 0.8, dim)
    data = Mixture([1.0], [mean.tolist()], [std.tolist()])
    way, prediction, t_min, _ = PATHS[path]
    d, offered = exact_on(way, prediction, data, t_min), samplers.offered()
    with torch.no_grad():
        z = Noise("z").normal(n, dim).double()
        x = samplers.sample(offered, d, z, Plan("pc", 200, (("grid", "cosine"),)), Noise("w"))
    assert float((x.std(0) / std).mean()) == pytest.approx(1, abs=0.02 + 4 / math.sqrt(2 * n * dim))
    assert float((x.mean(0) - mean).square().mean().sqrt()) < 2 * float(std.mean()) / math.sqrt(n)


class OneAtATime:
    """Noise whose k-th draw is 1 in row k and 0 elsewhere: an affine sampler's rows then hold its response to each."""

    def __init__(self) -> None:
        self.drawn = 0

    def normal(self, n: int, dim: int) -> Tensor:
        out = torch.zeros(n, dim, dtype=torch.float64)
        out[self.drawn] = 1
        self.drawn += 1
        return out


def spread(d: Denoiser, plan: Plan) -> Tensor:
    """The standard deviation (D,) of what an affine sampler draws, without drawing: exact network of one Gaussian."""
    z = torch.zeros(2 * plan.steps + 2, 2, dtype=torch.float64)
    z[-1] = 1
    with torch.no_grad():
        x = samplers.sample(samplers.offered(free=d.free, T=d.T), d, z, plan, OneAtATime())
    return (x - x[-2]).square().sum(0).sqrt()


WEAK = (
    Plan("ancestral", 1, (("grid", "cosine"),)),
    Plan("ancestral", 1, (("grid", "cosine"), ("variance", "large"))),
    Plan("ddim", 1, (("grid", "cosine"), ("eta", 0.5))),
    Plan("reverse-sde", 1, (("grid", "cosine"), ("on", "cosine"))),
    Plan("reverse-sde", 1, (("grid", "cosine"), ("on", "own"))),
)


@pytest.mark.parametrize(
    ("path", "plan"), thinned(list(product(("linear", "vp", "edm"), WEAK)), lambda case: case[1]), ids=str
)
def test_weak_order_is_the_slope_of_the_spreads_error(path, plan, gaussian):
    """One: twice the steps halve the error of the standard deviation. Known without drawing, so to many digits."""
    way, prediction, t_min, T = PATHS[path]
    d = exact_on(way, prediction, gaussian, t_min, T)
    a, s = at(d, d.t_min)
    var = gaussian.stds[0].square()
    truth = a * var / (a**2 * var + s**2).sqrt()  # of the expected data at t_min
    errors = torch.stack([(spread(d, replace(plan, steps=n)) - truth).abs() for n in (100, 200, 400)])
    slopes = (errors[:-1] / errors[1:]).log2()
    assert (errors[-1] < 0.01).all()
    assert slopes.flatten().tolist() == pytest.approx([1] * 4, abs=0.2), errors


@pytest.mark.heavy
def test_chain_sde_and_ode_agree_in_distribution(mixture):
    """Two-sample Kolmogorov-Smirnov in four directions between each pair and against the data: with 2,000 draws each, 24
    tests at 1e-3 / 24, so that a false alarm comes once in a thousand seeds."""
    n = 2000
    drawn = [mixture.sample(n, seed=5)]
    plans = (
        ("chain", Plan("ancestral", 1000)),
        ("vp", Plan("reverse-sde", 400, (("grid", "cosine"), ("on", "cosine")))),
        ("vp", Plan("heun", 40, (("grid", "cosine"), ("on", "cosine")))),
    )
    for k, (path, plan) in enumerate(plans):
        way, prediction, t_min, T = PATHS[path]
        d = exact_on(way, prediction, mixture, t_min, T)
        with torch.no_grad():
            drawn.append(samplers.sample(samplers.offered(T=T), d, prior(n, seed=k), plan, Noise("w", k)))
    pairs = [(a, b) for i, a in enumerate(drawn) for b in drawn[:i]]
    projected = [((a @ DIRECTIONS[:, ::2]).T, (b @ DIRECTIONS[:, ::2]).T) for a, b in pairs]
    values = [stats.ks_2samp(u, v).pvalue for a, b in projected for u, v in zip(a.numpy(), b.numpy())]
    assert len(values) == 24
    assert min(values) > 1e-3 / 24


# -------------------------------------------------------------------------------------------------- bounds, closed form


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("v", [0.0, 0.3, 1.0])
def test_a_chains_step_is_the_divergence_of_two_gaussians(path, v):
    """KL of the forward posterior (Ho et al., eq. 6-7) from the same with x0 and a variance between it and the forward
    step's (eq. 3.2), by torch.distributions."""
    way = PATHS[path][0]
    s, t = torch.tensor([0.05, 0.3, 0.6]).double(), torch.tensor([0.1, 0.5, 0.9]).double()
    x, x0 = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a_t, s_t, a_s, s_s = (f(u)[:, None] for u in (t, s) for f in (way.alpha, way.sigma))
    ratio = a_t / a_s
    beta = s_t**2 - ratio**2 * s_s**2
    small, large = beta * s_s**2 / s_t**2, beta

    def mean(data: Tensor, x_t: float = 0.4) -> Tensor:
        return ratio * s_s**2 / s_t**2 * x_t + a_s * beta / s_t**2 * data

    log_var = v * large.log() + (1 - v) * small.log()
    q = torch.distributions.Normal(mean(x), small.sqrt().expand(3, 4))
    p = torch.distributions.Normal(mean(x0), (log_var / 2).exp().expand(3, 4))
    found = bounds.chain_step(way, t, s, x, x0, torch.tensor(v, dtype=torch.float64))
    torch.testing.assert_close(found, torch.distributions.kl_divergence(q, p), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("variance", ["large", "learned"])
def test_bounds_of_other_variances_have_their_closed_form(variance, gaussian):
    """All terms, respaced to 40 steps; learned: a network that says 0.4 everywhere, log variances in between."""
    draws, steps, path, share = 4000, 40, BetaChainPath(), 1.0 if variance == "large" else 0.4
    points = torch.tensor([[0.6, -0.3], [1.7, 0.2]], dtype=torch.float64)
    exact = Exact(gaussian, path, Eps())

    def net(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        eps = exact(x, t)
        return eps if variance == "large" else torch.cat([eps, torch.full_like(eps, 2 * share - 1)], dim=1)

    d = Denoiser(net, path, Eps(), lambda t: t, 1e-3, T=1000, learned=variance == "learned")
    with torch.no_grad():
        x = points.repeat_interleave(draws, 0)
        found = bounds.log_likelihood(d, x, PLANE, vlb(steps, 0, variance), Noise("l"), dequantised=False)
    times = levels(d, steps)
    alpha, sigma = path.alpha(times)[:, None, None], path.sigma(times)[:, None, None]
    off, var = points - gaussian.means[0], gaussian.stds[0].square()
    error = ((sigma**2 * off) ** 2 + (alpha * var * sigma) ** 2) / (alpha**2 * var + sigma**2) ** 2
    snr, rise = (alpha / sigma).square(), share * 2 * (sigma[:-1] / sigma[1:]).log()
    each = 0.5 * (torch.exp(-rise) - 1 + rise) + 0.5 * (snr[1:] - snr[:-1]) * error[:-1] * torch.exp(-rise)
    truth = each.sum((0, 2))
    values = found.terms["steps"].view(2, draws)
    spread = values.std(1) / math.sqrt(draws)
    assert ((values.mean(1) - truth).abs() < 4 * spread).all()
    assert (spread < 0.02 * truth).all(), "too noisy to say"


@pytest.mark.parametrize(("path", "end"), [("vp", 0.0), ("subvp", 0.0), ("ve", 0.0), ("edm", 0.0), ("vp", 0.2)])
def test_the_continuous_bound_has_its_closed_form(path, end, gaussian):
    """1/2 int E ||eps - eps(x_t)||^2 dlambda by quadrature; and on the data's average it lies below the log density.

    Close below, unless it ends early: at t = 0.2, where alpha = 0.8, the decoder has much left to do.
    """
    way, prediction, t_min, _ = PATHS[path]
    t_min = end or t_min
    d, draws = exact_on(way, prediction, gaussian, t_min), 3000
    points = torch.tensor([[0.6, -0.3], [1.7, 0.2]], dtype=torch.float64)
    off, var = points - gaussian.means[0], gaussian.stds[0].square()

    def error(snr: float) -> Tensor:  # of x0, summed over the plane: per point
        noise = 1 / snr
        return (((noise * off) ** 2 + var**2 * noise) / (var + noise) ** 2).sum(1)

    low, high = way.log_snr(torch.tensor([1.0, t_min]).double()).tolist()
    steps = [
        integrate.quad(lambda lam: 0.5 * math.exp(lam) * float(error(math.exp(lam))[i]), low, high, limit=200)[0]  # noqa: B023
        for i in range(2)
    ]
    a, s = at(d, 1.0)
    last = 0.5 * (a / s * points).square().sum(1)
    a, s = at(d, t_min)
    decoder = -math.log(2 * math.pi) - 2 * math.log(s / a) - 0.5 * error((a / s) ** 2) * (a / s) ** 2
    kind = Kind("vlb-continuous", "≤", 0, (("terms", 40),))
    with torch.no_grad():
        found = bounds.log_likelihood(d, points.repeat_interleave(draws, 0), PLANE, kind, Noise("c"))
        x = gaussian.sample(4000)
        slack = gaussian.log_prob(x) - bounds.log_likelihood(d, x, PLANE, kind, Noise("d")).value
    for values, truth in (
        (found.terms["steps"], torch.tensor(steps)),
        (-found.terms["decoder"], decoder),
        (found.terms["prior"], last),
    ):
        values = values.view(2, draws)
        noise = values.std(1) / math.sqrt(draws)
        assert ((values.mean(1) - truth).abs() < 4 * noise + 1e-9).all()
        assert (noise < 0.02 * truth.abs() + 0.02).all(), "too noisy to say"
    noise = float(slack.std()) / math.sqrt(len(x))
    assert -4 * noise < float(slack.mean()) < (1.0 if end else 0.02) + 4 * noise
    if not end:  # else the model's law is not the data's, and point by point anything may be said of it
        assert (gaussian.log_prob(points) - (decoder - torch.tensor(steps) - last) > -1e-6).all()


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["uniform", "normal"])
def test_dequantised_likelihoods_bound_the_mass_in_order(how):
    """A Gaussian whose masses on five levels are known: one draw < eight draws < the mass, which many draws reach."""
    space, data = Space((2,), 0, 5), Mixture([1.0], [[0.2, -0.3]], [[0.35, 0.25]])
    way, prediction, _, _ = PATHS["vp"]
    t_min = float(way.time_of_log_snr(torch.tensor(-2 * math.log(0.12)).double()))
    d = exact_on(way, prediction, data, t_min)
    x = space.encode(torch.tensor([[2, 1], [3, 2], [4, 4]])).double()
    std = (data.stds[0].square() + 0.12**2).sqrt()  # of the data with the noise that is left
    normal = torch.distributions.Normal(data.means[0], std)
    mass = torch.log(normal.cdf(x + 0.2) - normal.cdf(x - 0.2)).sum(1)
    means, errors = [], []
    for K, rows in ((1, 400), (8, 60), (32, 25)):
        options = {"steps": 6, "probes": 0, "on": "cosine", "dequantise": how, "K": K}
        kind = Kind("ode", "≈", 0, tuple(options.items()))
        found = bounds.log_likelihood(d, x.repeat_interleave(rows, 0), space, kind, Noise(how, K))
        values = found.value.view(3, rows)
        means.append(values.mean(1))
        errors.append(values.std(1) / math.sqrt(rows))
    one, eight, many = means
    assert (one < eight).all()
    assert (eight < mass).all()
    assert (mass.sum() - one.sum()) > 8 * errors[0].norm(), "the bound is loose, and seen to be"
    assert ((many - mass).abs() < 4 * errors[2] + 0.02).all()
