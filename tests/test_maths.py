"""The shared mathematics against closed forms: paths, solvers, divergence, likelihoods, data levels, randomness."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from paradigms.backbones import Backbone, count_calls
from paradigms.backbones.embed import Embedding
from paradigms.contract import Frozen
from paradigms.core.data import Data, Space
from paradigms.core.noise import Noise, seed_of
from paradigms.core.plans import Kind, Plan
from paradigms.errors import BadInput
from paradigms.maths import bounds, samplers
from paradigms.maths import likelihood as lk
from paradigms.maths.bounds import ode_density, ode_likelihood
from paradigms.maths.denoiser import X0, Denoiser, Eps, Preconditioned, Velocity, VPrediction
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
from paradigms.maths.solvers import dopri5, euler_step, grid, heun_step, nodes, rk4_step, solve
from paradigms.optim import between, cosine

TO_DATA = [LinearPath(), VPPath(), VPPath(0.5, 5.0), SubVPPath(), CosinePath(), EDMPath(), BetaChainPath(37, 0.01, 0.4)]
PATHS = [*TO_DATA, VEPath(), CosinePath(0.01, 1.56)]
path = pytest.mark.parametrize("path", PATHS, ids=lambda p: f"{type(p).__name__}-{getattr(p, 'beta_min', '')}")
GOLDEN_SEED = 1358982498073323602
GOLDEN_NORMAL = [-2.578312, 0.325022, -0.231903, 0.774784, 1.636205, -0.415218, 0.687175, -1.330119]
GOLDEN_INTEGERS = [201, 154, 221, 150, 131, 486]
TIMES = torch.tensor([1e-4, 0.02, 0.3, 0.5, 0.77, 0.98], dtype=torch.float64)


# ----------------------------------------------------------------------------------------------------------- paths


@path
@pytest.mark.parametrize("shape", [(6, 3), (6, 2, 4, 5)], ids=["vectors", "images"])
def test_every_prediction_gives_back_data_and_noise(path, shape):
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    t = TIMES
    a, s = (f(t).reshape(-1, *(1,) * (len(shape) - 1)) for f in (path.alpha, path.sigma))
    x_t = path.perturb(x, eps, t)
    close = {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close(x_t, a * x + s * eps, **close)
    written = {
        Eps(): eps,
        Eps(0.8): eps,
        X0(): x,
        VPrediction(): a * eps - s * x,
        Velocity(): path.velocity(x, eps, t),
        Preconditioned(0.7): None,
    }
    for prediction, target in written.items():
        F = prediction.target(path, t, x, eps)
        if target is not None:
            torch.testing.assert_close(F, target, **close)
        asked = []
        d = Denoiser(lambda *args: asked.append(args) or F, path, prediction, lambda t: 3 * t, 1e-4)  # noqa: B023
        x0, noise = d.both(x_t, t)
        torch.testing.assert_close(x0, x, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(noise, eps, rtol=1e-6, atol=1e-6)
        seen, clock, label = asked[0]
        unit = {Eps(0.8): 0.8, Preconditioned(0.7): 0.7}.get(prediction)
        c_in = 1 if unit is None else 1 / ((unit * a) ** 2 + s**2).sqrt()
        torch.testing.assert_close(seen, c_in * x_t)
        assert torch.equal(clock, 3 * t)
        assert label is None
        torch.testing.assert_close(d.score(x_t, t), -eps / s, rtol=1e-6, atol=1e-6 / float(s.min()))
        torch.testing.assert_close(
            d.velocity(x_t, t), path.velocity(x, eps, t), rtol=1e-6, atol=1e-6 * float(path.sigma_dot(t).max())
        )


@path
def test_derivatives_equal_autograd(path):
    t = TIMES.clone().requires_grad_()
    for value, slope in ((path.alpha, path.alpha_dot), (path.sigma, path.sigma_dot)):
        (expected,) = torch.autograd.grad((value(t) + 0 * t).sum(), t)
        torch.testing.assert_close(slope(TIMES), expected, rtol=1e-10, atol=1e-12)
    log_snr = torch.log(path.alpha(TIMES) ** 2 / path.sigma(TIMES) ** 2)
    torch.testing.assert_close(path.log_snr(TIMES), log_snr, rtol=1e-10, atol=1e-10)


@path
def test_paths_run_from_data_to_noise(path):
    t = grid(0, 1, 100)
    if path in TO_DATA:
        assert path.alpha(t)[0] == 1
        assert path.sigma(t)[0] == 0
    assert (path.sigma(t) / path.alpha(t))[-1] > 3.5
    assert path.sigma(t)[-1] > 0.95
    assert (path.log_snr(t[1:-1]).diff() < 0).all()


@path
def test_the_velocity_is_the_derivative_of_the_path(path):
    x, eps = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    t, h = TIMES[1:-1], 1e-6
    x, eps = x[1:-1], eps[1:-1]
    slope = (path.perturb(x, eps, t + h) - path.perturb(x, eps, t - h)) / (2 * h)
    torch.testing.assert_close(path.velocity(x, eps, t), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vp", [VPPath(), VPPath(0.5, 5.0)])
def test_vp_path_is_its_own_sde(vp):
    """alpha' = -beta/2 alpha and (sigma^2)' = beta (1 - sigma^2): the moments of dx = -beta/2 x dt + sqrt(beta) dw."""
    t = TIMES.clone().requires_grad_()
    torch.testing.assert_close(vp.alpha(t).square() + vp.sigma(t).square(), torch.ones_like(t), rtol=0, atol=1e-12)
    (rate,) = torch.autograd.grad(vp.sigma(t).square().sum(), t)
    torch.testing.assert_close(rate, vp.beta(TIMES) * (1 - vp.sigma(TIMES).square()), rtol=1e-9, atol=1e-12)
    assert float(vp.integral(torch.ones(()))) == pytest.approx((vp.beta_min + vp.beta_max) / 2)


@path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_time_of_log_snr_is_the_inverse(path, dtype):
    t = torch.tensor([1e-6, 1e-4, 1e-2, 0.1, 0.5, 0.9, 0.99], dtype=dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    # From VE's log SNR, and from that of a path that does not reach the data, t follows to an absolute precision alone.
    near = 1 if path not in TO_DATA else 1e-2
    torch.testing.assert_close(path.time_of_log_snr(path.log_snr(t)), t, rtol=tolerance, atol=tolerance * near)


# ------------------------------------------------------------------------------------------------- one path as another


class Retimed(GaussianPath):
    """A path run with the clock t^2."""

    def __init__(self, path: GaussianPath) -> None:
        self.path = path

    def alpha(self, t: Tensor) -> Tensor:
        return self.path.alpha(t.square())

    def sigma(self, t: Tensor) -> Tensor:
        return self.path.sigma(t.square())

    def alpha_dot(self, t: Tensor) -> Tensor:
        return 2 * t * self.path.alpha_dot(t.square())

    def sigma_dot(self, t: Tensor) -> Tensor:
        return 2 * t * self.path.sigma_dot(t.square())

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return self.path.time_of_log_snr(log_snr).sqrt()


def wavy(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """A smooth network, of which nothing else is known; each example apart."""
    t = t.reshape(-1, *(1,) * (x.dim() - 1))
    return 0.8 * x * t + torch.sin(2 * x.flip(1)) * (1 - 0.5 * t) - 0.3


def known(path: GaussianPath, t_min: float = 1e-3, **more) -> Denoiser:
    return Denoiser(wavy, path, Preconditioned(0.7), lambda t: t, t_min, **more)


START_Z = torch.randn(7, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def drawn(d: Denoiser, sampler: str, steps: int = 12, z: Tensor = START_Z, **options) -> Tensor:
    plan = Plan(sampler, steps, tuple(options.items()))
    return samplers.sample(samplers.offered(free=d.free, T=d.T), d, z, plan, Noise("w"))


@path
@pytest.mark.parametrize("other", [LinearPath(), CosinePath(), EDMPath(), VPPath()], ids=lambda p: type(p).__name__)
def test_another_path_tells_the_same(path, other):
    """x' on the other path is k x' on its own: the same x0 and eps there, and a score k times as large."""
    d = known(path, 0.02, t_max=0.9)
    moved = d.on(other)
    assert 0 <= moved.t_min < moved.t_max <= 1
    there = torch.linspace(moved.t_min, moved.t_max, 7, dtype=torch.float64)[1:-1]
    here = path.time_of_log_snr(other.log_snr(there))
    k = (path.sigma(here) / other.sigma(there))[:, None]
    torch.testing.assert_close(k, (path.alpha(here) / other.alpha(there))[:, None], rtol=1e-9, atol=0)
    x = START_Z[:5]
    for found, expected in zip(moved.both(x, there), d.both(k * x, here)):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(moved.score(x, there), k * d.score(k * x, here), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("other", [VPPath(), CosinePath()], ids=lambda p: type(p).__name__)
def test_x0_is_clipped_and_velocities_are_not(other):
    """And eps then gives back the state."""
    d = known(VPPath(), 0.02).on(other)
    times = torch.tensor([0.3, 0.7], dtype=torch.float64)
    clipped, whole = replace(d, reach=0.1).along(times, START_Z), d.along(times, START_Z)
    for t in times.tolist():
        assert torch.equal(clipped.velocity(START_Z, t), whole.velocity(START_Z, t))
        assert torch.equal(clipped.eps(START_Z, t), whole.eps(START_Z, t))
        x0, eps = clipped.both(START_Z, t)
        assert torch.equal(x0, whole.both(START_Z, t)[0].clamp(-0.1, 0.1))
        assert (x0.abs() == 0.1).any()
        at = torch.tensor([t], dtype=torch.float64)
        torch.testing.assert_close(other.perturb(x0, eps, at), START_Z)
        for there in (clipped, whole):
            x0, eps = there.both(START_Z, t)
            torch.testing.assert_close(there.combined(START_Z, t, 0.6, 0.3), 0.6 * x0 + 0.3 * eps)
            torch.testing.assert_close(there.combined(START_Z, t, 1.0, 0.3), x0 + 0.3 * eps)


@pytest.mark.parametrize("grid_kind", ["cosine", "karras", "logsnr"])
@pytest.mark.parametrize(
    "sampler", ["ancestral", "ddim", "dpmpp-2m", "dpmpp-2m-sde", "pc", "churn", "langevin", "euler", "heun", "rk4"]
)
@pytest.mark.parametrize("way", [VPPath(), VEPath(0.01, 50.0), EDMPath(), SubVPPath()], ids=lambda p: type(p).__name__)
def test_samples_do_not_depend_on_how_time_is_told(way, sampler, grid_kind):
    """The clock t^2 instead of t, on grids that are laid in the noise itself; the ODE's in sigma."""
    plain = known(way)
    retimed = replace(plain, path=Retimed(way), clock=torch.square, t_min=math.sqrt(plain.t_min))
    options = {"grid": grid_kind, **({"on": "edm"} if sampler in ("euler", "heun", "rk4") else {})}
    a, b = (drawn(d, sampler, **options) for d in (plain, retimed))
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
    assert not torch.allclose(a, drawn(known(VPPath(0.5, 9.0)), sampler, **options), atol=1e-3)


@path
def test_ddim_is_alpha_x0_plus_sigma_eps_and_euler_in_linear_coordinates(path):
    d = known(path, 0.02, t_max=0.95)
    times = samplers.levels(d, 9, "cosine")
    z = START_Z * float(path.sigma(times[0]))
    x = z
    for t, s in pairwise(times):
        x0, eps = d.both(x, t.expand(7))
        x = path.alpha(s) * x0 + path.sigma(s) * eps
    x = d.both(x, times[-1].expand(7))[0]
    found = samplers.ddim(d, z, times, Plan("ddim", options=(("eta", 0.0),)), Noise(0), lambda t, x: None)
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)

    linear = d.on(LinearPath())
    along = linear.path.time_of_log_snr(path.log_snr(times))
    start = z * linear.path.sigma(along[0]) / path.sigma(times[0])
    at = linear.along(nodes(along), start)
    end = solve(at.velocity, start, along, euler_step)
    torch.testing.assert_close(at.both(end, float(along[-1]))[0], x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "way", [VPPath(), LinearPath(), EDMPath(), CosinePath(0.01, 1.56)], ids=lambda p: type(p).__name__
)
def test_ddim_with_full_noise_is_ancestral_on_any_path(way):
    d = known(way, 0.02)
    a, b = drawn(d, "ancestral", grid="cosine"), drawn(d, "ddim", grid="cosine", eta=1.0)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(a, drawn(d, "ddim", grid="cosine", eta=0.9), atol=1e-3)


@path
@pytest.mark.parametrize("kind", samplers.GRIDS)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_levels_fall_from_the_prior_to_the_end(path, kind, n):
    """n of them, the first at t_max; the last at t_min where noise is left there, else a step before it."""
    for t_min in (0.004, 0.0):
        d = known(path, t_min)
        t = samplers.levels(d, n, kind)
        assert t.shape == (n,)
        assert float(t[0]) == 1.0
        assert (t.diff() < 0).all()
        assert t[-1] >= t_min
        if n > 1 and kind != "trailing" and not d.free:
            assert float(t[-1]) == pytest.approx(t_min, abs=1e-9)
        if d.free:
            assert t[-1] > 0
        ratio = path.sigma(t) / path.alpha(t)
        if n == 7 and kind == "karras" and not d.free and float(ratio[0]) < 1e6:
            assert (ratio ** (1 / 7)).diff().tolist() == pytest.approx(
                [float((ratio ** (1 / 7)).diff().mean())] * 6, rel=1e-6
            )
        if n == 7 and kind == "logsnr" and not d.free and float(ratio[0]) < 1e6:
            assert ratio.log().diff().tolist() == pytest.approx([float(ratio.log().diff().mean())] * 6, rel=1e-6)
        if n == 7 and kind == "cosine":
            angle = path.angle(t)
            assert angle.diff().tolist() == pytest.approx([float(angle.diff().mean())] * 6, rel=1e-6)


@pytest.mark.parametrize("sampler", ["dpmpp-2m", "dpmpp-2m-sde", "ancestral", "heun", "pc"])
def test_a_level_may_be_asked_for_twice(sampler):
    """Where a chain is asked more often than it has times, or a grid comes to its end early."""
    chain = known(BetaChainPath(20, 0.01, 0.4), 1 / 20, T=20)
    assert drawn(chain, sampler, steps=20 if sampler == "ancestral" else 50).isfinite().all()
    assert drawn(known(VPPath(), 0.1), sampler, steps=40, grid="trailing").isfinite().all()


@pytest.mark.parametrize("sampler", [s.name for s in samplers.offered(free=True)])
@pytest.mark.parametrize("on", ["own", "linear", "cosine", "edm"])
def test_a_path_free_of_noise_is_sampled_on_every_other(sampler, on):
    """Its prior is pure noise, alpha = 0, which on the cosine path is 6e-17 and in float32 below 0."""
    offered = samplers.offered(free=True)
    claims = next(s for s in offered if s.name == sampler)
    if "on" not in claims.options:
        return
    d = Denoiser(lambda x, t, y: x - 0.5 * torch.tanh(x), LinearPath(), Velocity(), lambda t: t, 0.0)
    options = {"on": on, **({"grid": "cosine"} if "grid" in claims.options else {})}
    x = drawn(d, sampler, steps=1 if sampler == "rk45" else 40, z=START_Z.float(), **options)
    assert x.abs().max() < 20


def test_the_priors_divergence_is_small():
    """At t = 1, bits/dim of data at the edge of [-1, 1], the worst: VP and sub-VP below 1e-4. VE's depends on sigma_max."""
    space, x = Space((1, 8, 8), 0, 256), torch.ones(2, 1, 8, 8, dtype=torch.float64)
    found = {}
    for way in (VPPath(), SubVPPath(), VEPath(0.01, 50.0), EDMPath(), BetaChainPath(), LinearPath()):
        d = Denoiser(lambda x, t, y: x, way, VPrediction(), lambda t: t, 1e-3)
        bits = -lk.bits_per_dim(-bounds._prior(d, x), 64)
        found[type(way).__name__] = abs(float(bits[0]))
        one = torch.ones((), dtype=torch.float64)
        s = way.sigma(one)
        law = [torch.distributions.Normal(torch.as_tensor(m, dtype=torch.float64), s) for m in (way.alpha(one), 0.0)]
        assert found[type(way).__name__] == pytest.approx(
            float(torch.distributions.kl_divergence(*law)) / math.log(2), rel=1e-9, abs=1e-15
        )
    print("\nprior, bits/dim at |x| = 1:", {k: f"{v:.1e}" for k, v in found.items()})
    assert max(found["VPPath"], found["SubVPPath"], found["BetaChainPath"]) < 1e-4
    assert found["LinearPath"] == 0
    assert space.dim == 64


@pytest.mark.parametrize("sampler", [s.name for s in samplers.offered()])
def test_a_sample_does_not_depend_on_its_batch(sampler):
    """Norms of the corrector and steps of the adaptive solver are each sample's own: one wild neighbour moves nobody."""
    d, options = known(VPPath()), {"snr": 0.1} if sampler == "pc" else {}
    steps = 1 if sampler == "rk45" else 10
    wild = START_Z.clone()
    wild[3] *= 1000
    others = [0, 1, 2, 4, 5, 6]
    a, b = drawn(d, sampler, steps, START_Z, **options), drawn(d, sampler, steps, wild, **options)
    torch.testing.assert_close(a[others], b[others], rtol=0, atol=1e-9)
    assert not torch.allclose(a[3], b[3])


def test_the_corrector_steps_by_the_norms_of_each_sample():
    """Song et al. 2021, algorithm 4, written with the score."""
    d, snr, x = known(VPPath()), 0.05, START_Z
    times = samplers.levels(d, 2, "cosine")
    noise, w = Noise("pc"), Noise("pc")
    first = []
    samplers.ancestral(
        d, x, times, Plan("ancestral", options=(("variance", "small"),)), noise, lambda t, x: first.append(x)
    )
    w.normal(7, 3)
    z = w.normal(7, 3).double()
    score = d.score(first[0], times[1].expand(7))
    e = 2 * (snr * z.norm(dim=1, keepdim=True) / score.norm(dim=1, keepdim=True)).square()
    assert (e < 0.25 * float(d.path.sigma(times[1])) ** 2).all(), "or the cap would be in the way"
    expected = first[0] + e * score + (2 * e).sqrt() * z
    seen = []
    plan = Plan("pc", 2, (("snr", snr),))
    samplers.predictor_corrector(d, x, times, plan, Noise("pc"), lambda t, x: seen.append(x))
    torch.testing.assert_close(seen[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("high", [60.0, 1e6])
def test_langevin_and_churn_are_their_algorithms(high):
    """Song & Ermon 2020, algorithm 1 with e = step sigma^2; Karras et al. 2022, algorithm 2, line by line."""
    d = known(EDMPath(), 0.002 / 80)
    times = samplers.levels(d, 5, "karras")
    sigma, x0 = 80 * times, 80 * START_Z
    noise, x = Noise("a"), x0
    for t, s in zip(times, sigma):
        for _ in range(3):
            x = x + 0.07 * s**2 * d.score(x, t.expand(7)) + math.sqrt(2 * 0.07) * s * noise.normal(7, 3).double()
    x = d.both(x, times[-1].expand(7))[0]
    plan = Plan("langevin", 5, (("inner", 3), ("step", 0.07)))
    torch.testing.assert_close(samplers.langevin(d, x0, times, plan, Noise("a"), lambda t, x: None), x)

    noise, x, n = Noise("b"), x0, 5
    s_churn, s_noise, low = 1.0, 1.01, 0.01
    for i in range(n):
        t, s = sigma[i], sigma[i + 1] if i + 1 < n else torch.zeros(()).double()
        gamma = min(s_churn / n, math.sqrt(2) - 1) if low <= t <= high else 0.0
        hat = t + gamma * t
        if gamma:
            x = x + (hat**2 - t**2).sqrt() * s_noise * noise.normal(7, 3).double()
        slope = (x - d.both(x, (hat / 80).expand(7))[0]) / hat
        y = x + (s - hat) * slope
        if s > 0:
            slope = (slope + (y - d.both(y, (s / 80).expand(7))[0]) / s) / 2
            y = x + (s - hat) * slope
        x = y
    plan = Plan("churn", n, (("churn", s_churn), ("noise", s_noise), ("from", low), ("to", high)))
    torch.testing.assert_close(
        samplers.churn(d, x0, times, plan, Noise("b"), lambda t, x: None), x, rtol=1e-9, atol=1e-9
    )


# --------------------------------------------------------------------------------------------------------- solvers


def pendulum(x: Tensor, t: float | Tensor) -> Tensor:
    """A smooth nonlinear field, driven in time."""
    return torch.stack([x[:, 1], -torch.sin(x[:, 0]) + torch.cos(3 * torch.as_tensor(t, dtype=x.dtype))], dim=1)


START = torch.tensor([[1.0, 0.0], [0.3, -1.2], [-2.0, 0.5]], dtype=torch.float64)


def exact(start: float, stop: float) -> Tensor:
    from scipy.integrate import solve_ivp

    rows = []
    for x in START:
        solution = solve_ivp(
            lambda t, y: pendulum(torch.tensor(y)[None], torch.tensor([t]))[0].numpy(),
            (start, stop), x.numpy(), method="DOP853", rtol=1e-13, atol=1e-13,
        )  # fmt: skip
        rows.append(torch.tensor(solution.y[:, -1]))
    return torch.stack(rows)


@pytest.mark.parametrize(("step", "order"), [(euler_step, 1), (heun_step, 2), (rk4_step, 4)])
@pytest.mark.parametrize(("start", "stop"), [(0.0, 1.5), (1.5, 0.0)])
def test_solver_order_is_the_slope_of_its_error(step, order, start, stop):
    counts = torch.tensor([20, 40, 80])
    truth = exact(start, stop)
    found = [solve(pendulum, START, grid(start, stop, int(n)), step) for n in counts]
    errors = torch.tensor([float((x - truth).norm()) for x in found])
    slopes = -(errors.log2().diff() / counts.double().log2().diff())
    assert slopes.tolist() == pytest.approx([order] * 2, abs=0.15)


@pytest.mark.parametrize(("step", "calls"), [(euler_step, 1), (heun_step, 2), (rk4_step, 4)])
def test_solver_cost_grid_and_watch(step, calls):
    asked, seen = [], []

    def field(x: Tensor, t: float) -> Tensor:
        assert isinstance(t, float)
        asked.append(t)
        return pendulum(x, t)

    times = torch.tensor([1.0, 0.7, 0.1], dtype=torch.float64)
    x = solve(field, START, times, step, lambda t, state: seen.append((t, state)))
    assert len(asked) == 2 * calls
    assert set(asked) <= set(nodes(times).tolist())
    assert [t for t, _ in seen] == times.tolist()[1:]
    assert torch.equal(seen[0][1], solve(field, START, times[:2], step))
    assert torch.equal(seen[-1][1], x)


@pytest.mark.parametrize("step", [euler_step, heun_step, rk4_step])
def test_rows_may_have_times_and_steps_of_their_own(step):
    """As the training of a consistency model has them: (B,) times, (B, 1) steps."""
    t, s = torch.tensor([1.0, 0.7, 0.2]).double(), torch.tensor([0.6, 0.9, 0.1]).double()
    together = step(pendulum, START, t, s, (s - t)[:, None])
    alone = [step(pendulum, x[None], float(a), float(b), float(b - a)) for x, a, b in zip(START, t, s)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-14)


def test_grid_ends_where_it_should():
    assert grid(0.3, 0.9, 7).tolist() == pytest.approx(np.linspace(0.3, 0.9, 8).tolist(), abs=1e-15)
    assert grid(1, 0, 1).tolist() == [1, 0]


def at_its_times(field):
    """A field of (x, t, rows) in the form that the adaptive solver takes."""
    return lambda times, x, rows: lambda k, x: field(x, times[k], rows)


@pytest.mark.parametrize(("start", "stop"), [(0.0, 1.5), (1.5, 0.0)])
def test_dopri5_meets_its_tolerance(start, stop):
    truth, errors, calls = exact(start, stop), [], []
    for tolerance in (1e-3, 1e-6, 1e-9):
        made = []

        def field(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
            made.append(len(rows))  # noqa: B023
            return pendulum(x, t)

        errors.append(
            float((dopri5(at_its_times(field), START, start, stop, tolerance, tolerance) - truth).abs().max())
        )
        calls.append(sum(made))
        assert errors[-1] < 20 * tolerance
    assert errors[0] > errors[1] > errors[2] > 0
    assert calls[0] < calls[1] < calls[2]


def test_dopri5_has_order_five():
    """Steps grow as tolerance^(-1/5): a thousandfold tolerance costs four times as many."""

    def count(tolerance: float) -> int:
        made = []
        dopri5(
            at_its_times(lambda x, t, _: made.append(0) or pendulum(x, t)), START[:1], 0.0, 3.0, tolerance, tolerance
        )
        return len(made) // 7

    assert count(1e-12) / count(1e-9) == pytest.approx(1000**0.2, rel=0.25)


def test_dopri5_rows_do_not_depend_on_the_batch():
    """Stiffness differs between rows, so that a shared step would show."""
    rates = torch.tensor([1.0, 30.0, 300.0], dtype=torch.float64)

    def solved(rows: list[int]) -> Tensor:
        here = rates[rows]

        def field(x: Tensor, t: Tensor, live: Tensor) -> Tensor:
            return -here[live][:, None] * (x - torch.cos(t)[:, None])

        return dopri5(at_its_times(field), START[rows], 0.0, 1.0, 1e-5, 1e-5)

    whole = solved([0, 1, 2])
    alone = torch.cat([solved([i]) for i in range(3)])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(solved([2, 0]), whole[[2, 0]], rtol=0, atol=1e-12)


def test_dopri5_judges_an_example_by_its_mean_square():
    """A state repeated over 64 coordinates is no harder than one of them: as many rounds."""
    rounds = []
    for width in (1, 64):
        made = []

        def field(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
            made.append(t)  # noqa: B023
            return -20 * (x - torch.cos(t)[:, None])

        dopri5(at_its_times(field), torch.full((1, width), 0.5, dtype=torch.float64), 0.0, 1.0, 1e-5, 1e-5)
        rounds.append(len(made))
    assert rounds[0] == rounds[1] > 12


def test_dopri5_of_no_examples_is_none():
    assert dopri5(at_its_times(lambda x, t, _: x), START[:0], 0.0, 1.0, 1e-3, 1e-3).shape == START[:0].shape


def test_dopri5_ends_a_row_that_left_the_numbers_and_no_other():
    """At once, as NaN: from the start, from a time on, and where a state may not go; a trial step too far is taken back."""
    made = []

    def field(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        made.append(len(rows))
        out = -x.clone()
        out[rows == 1] = math.nan
        out[(rows == 2) & (t > 0.5)] = math.inf
        out[rows == 3] = -1 / x[rows == 3]  # x^2 = 1 - 2 t, and then nothing
        out[(rows == 3) & (x[:, 0] <= 0)] = math.nan
        out[rows == 4] = torch.where(x[rows == 4] < -1e3, math.nan, -900 * x[rows == 4])  # stiff: trials overshoot
        return out

    start = torch.ones(5, 1, dtype=torch.float64)
    found = dopri5(at_its_times(field), start, 0.0, 1.0, 1e-6, 1e-6)
    assert found[:, 0].isfinite().tolist() == [True, False, False, False, True]
    assert found[0, 0] == pytest.approx(math.exp(-1), abs=1e-5)
    assert found[4, 0] == pytest.approx(0, abs=1e-3)
    alone = dopri5(lambda times, x, rows: at_its_times(field)(times, x, rows + 4), start[4:], 0.0, 1.0, 1e-6, 1e-6)
    assert torch.equal(alone[0], found[4])
    made.clear()
    assert dopri5(at_its_times(lambda x, t, rows: field(x, t, rows + 1)), start[:1], 0.0, 1.0, 1e-6, 1e-6).isnan().all()
    assert len(made) == 7, "one round"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rate", "wall", "beyond"), [(1.0, 1.5, math.nan), (10.0, 100.0, math.inf), (3.0, 2.0, -math.inf)]
)
def test_dopri5_gives_up_a_row_at_a_wall(dtype, rate, wall, beyond):
    """x' = rate x up to a state behind which there are no numbers; the other row of the batch arrives."""
    made = []

    def field(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        made.append(len(rows))
        return torch.where(x.abs() > wall, beyond, rate * x)

    start = torch.tensor([[1.0], [0.0]], dtype=dtype)
    found = dopri5(at_its_times(field), start, 0.0, 1.0, 1e-5, 1e-5)
    assert found[0].isnan().all()
    assert found[1] == 0
    assert len(made) < 6 * 150


def test_dopri5_gives_up_in_words():
    with pytest.raises(BadInput, match="rtol"):
        dopri5(
            at_its_times(lambda x, t, _: 1e6 * torch.cos(1e6 * t)[:, None] * x),
            START,
            0.0,
            1.0,
            1e-9,
            1e-9,
            max_steps=5,
        )


# ------------------------------------------------------------------------------------------------------ divergence


def nonlinear(x: Tensor) -> Tensor:
    """Images (B, 2, 2, 2) to the same, with a full Jacobian."""
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (torch.tanh(x.flatten(1) @ weight) * x.flatten(1).sum(1, keepdim=True)).view_as(x)


def test_exact_divergence_is_the_jacobians_trace():
    x = torch.randn(5, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    jacobians = [torch.autograd.functional.jacobian(lambda a: nonlinear(a[None])[0].flatten(), row) for row in x]
    expected = [j.view(8, 8).trace() for j in jacobians]
    torch.testing.assert_close(lk.divergence_exact(nonlinear(x), x), torch.stack(expected)[None])


def test_hutchinson_is_unbiased_and_its_probes_are_independent():
    x = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    trace = lk.divergence_exact(nonlinear(x), x)[0]
    probes = Noise("probes").rademacher(4000, 4, 2, 2, 2).double()
    values = lk.divergence_hutchinson(nonlinear(x), x, probes)
    assert values.shape == (4000, 4)
    error = values.std(0) / math.sqrt(4000)
    assert (error > 0).all()
    assert ((values.mean(0) - trace).abs() < 4 * error).all()
    # Averaged over all 2^D probes it is exact.
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 8)
    every = signs.view(256, 1, 2, 2, 2).expand(-1, 4, -1, -1, -1)
    torch.testing.assert_close(lk.divergence_hutchinson(nonlinear(x), x, every).mean(0), trace)


def straight(field) -> Denoiser:
    """The model whose ODE is dx/dt = field(x, t) from t = 0, with the prior N(0, I) at t = 1; t (B,)."""
    return Denoiser(lambda x, t, y: field(x, t), LinearPath(), Velocity(), lambda t: t, 0.0)


def test_change_of_variables_along_a_linear_field():
    """dx/dt = a x carries N(0, s^2) to N(0, s^2 e^{2a}): log p(x) is known to the last digit, for any probes."""
    a, space = torch.tensor([0.7, -0.4], dtype=torch.float64), Space((2,))
    x = torch.randn(6, 2, dtype=torch.float64)
    expected = lk.normal_log_prob(x, 0.0, -a).sum(1)  # the prior at stop is N(0, I)

    def field(h: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (6,)
        return a.to(h.dtype) * h

    for m in (0, 2):
        here = x if m == 0 else x.float()  # probes are float32
        kind = Kind("ode", "≈", 0, (("steps", 16), ("probes", m)))
        estimate = ode_likelihood(straight(field), here, space, kind, Noise("p"))
        torch.testing.assert_close(estimate.value.double(), expected, rtol=0, atol=1e-6 if m == 0 else 1e-5)
        assert (estimate.errors["solver"] < 1e-4).all()
        assert ("probe" in estimate.errors) == (m > 1)


def test_solver_error_bounds_the_error_made():
    """The distance to half as many steps is about 15 times the error of a fourth-order method."""
    space, x = Space((2,)), torch.randn(50, 2, dtype=torch.float64)
    d = straight(lambda h, t: torch.sin(3 * h.flip(1)) * h * torch.cos(2 * t)[:, None])

    def value(steps: int):
        return ode_likelihood(d, x, space, Kind("ode", "≈", 0, (("steps", steps), ("probes", 0))), Noise("p"))

    coarse, truth = value(8), value(200).value
    assert torch.equal(truth, ode_density(d, x, 200, None)[0])
    assert ((coarse.value - truth).abs() <= coarse.errors["solver"] + 1e-6).double().mean() > 0.95


def test_one_set_of_probes_serves_the_whole_solve(monkeypatch):
    """Drawn once for each draw of the dequantisation; every call of the fine and of the coarse solution sees them."""
    seen, drawn = [], []
    hutchinson, rademacher = bounds.divergence_hutchinson, Noise.rademacher
    monkeypatch.setattr(
        bounds, "divergence_hutchinson", lambda out, x, p: seen.append(p.clone()) or hutchinson(out, x, p)
    )
    monkeypatch.setattr(Noise, "rademacher", lambda self, *shape: drawn.append(rademacher(self, *shape)) or drawn[-1])
    d = straight(lambda h, t: torch.sin(3 * h.flip(1)) * h)
    kind = Kind("ode", "≈", 0, (("steps", 4), ("probes", 3), ("K", 2)))
    ode_likelihood(d, torch.randn(5, 2), Space((2,)), kind, Noise("p"))
    assert len(drawn) == 2 * 3
    assert len(seen) == 2 * (4 * 4 + 4 * 2)
    for k in range(2):
        first = torch.stack(drawn[3 * k : 3 * k + 3])
        assert all(torch.equal(p, first) for p in seen[24 * k : 24 * k + 24])
    assert not torch.equal(seen[0], seen[-1])


@pytest.mark.parametrize("std", [0.02, 0.2, 3.0])
def test_normal_dequantisation_is_a_truncated_normal(std):
    """Within its bin, with the density that is said, which integrates to one."""
    levels, n = 5, 20_000
    x = Space((2,), 0, levels).encode(torch.tensor([[1, 3]])).double().expand(n, 2)
    y, log_q = lk.dequantise_normal(x, levels, std, Noise("n"))
    assert (y - x).abs().max() <= 1 / levels + 1e-12
    half = 1 / (levels * std)
    law = stats.truncnorm(-half, half, scale=std)
    e = (y - x).numpy()
    np.testing.assert_allclose(log_q.numpy(), law.logpdf(e).sum(1), rtol=1e-5, atol=1e-5)
    assert stats.kstest(e.flatten(), law.cdf).pvalue > 1e-3
    if std > 0.1:  # else nearly all of the bin is where hardly a draw falls
        assert float(torch.exp(-log_q).mean()) == pytest.approx(0.16, rel=0.02), "E 1/q is the bin's area"


# ---------------------------------------------------------------------------------------- levels, bits, discretised


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_are_bin_centres_and_come_back(levels):
    space, k = Space((levels,), 0, levels), torch.arange(levels)
    x = space.encode(k)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), (2 * k.double() + 1) / levels - 1, rtol=0, atol=1e-7)
    assert torch.equal(space.decode(x), k.to(torch.uint8))
    inside = 0.999 / levels
    assert torch.equal(space.decode(x + inside), k.to(torch.uint8))
    assert torch.equal(space.decode(x - inside), k.to(torch.uint8))
    assert space.decode(torch.tensor([-9.0, -1.0, 1.0, 9.0])).tolist() == [0, 0, levels - 1, levels - 1]
    floats = k.float()
    space.encode(floats)
    assert torch.equal(floats, k.float()), "encode wrote to its input"


def test_real_values_pass_unchanged():
    x = torch.randn(3, 2)
    assert torch.equal(Space((2,)).decode(Space((2,)).encode(x)), x)
    assert torch.equal(lk.dequantise(x, 0, Noise(0)), x)
    assert torch.equal(lk.log_mass(x[:, 0], Space((2,))), x[:, 0])


@pytest.mark.parametrize(("levels", "bits"), [(256, 8.0), (17, 4.087463)])
def test_uniform_costs_log2_of_the_levels(levels, bits):
    """Two ways to the same number: a mass of 1/L, and a dequantised density of 1/2 on [-1, 1]."""
    space = Space((1, 8, 8), 0, levels)
    mass = torch.full((3,), -64 * math.log(levels), dtype=torch.float64)
    density = torch.full((3,), 64 * math.log(1 / 2), dtype=torch.float64)  # 1/2 on [-1, 1]
    for log_p in (mass, lk.log_mass(density, space)):
        assert lk.bits_per_dim(log_p, 64).tolist() == pytest.approx([bits] * 3, abs=1e-6)
    assert lk.bits_per_dim(-64 * math.log(levels), 64) == pytest.approx(bits, abs=1e-6)


def test_dequantisation_fills_its_bin_and_no_other():
    space, k = Space((4096,), 0, 17), torch.arange(17)[:, None].expand(17, 4096)
    y = lk.dequantise(space.encode(k), 17, Noise("u"))
    assert torch.equal(space.decode(y), k.to(torch.uint8))
    u = ((y.double() + 1) * 17 / 2 - k).flatten()
    assert 0 <= u.min() < 1e-3
    assert 1 - 1e-3 < u.max() <= 1
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3


PARAMETERS = [(m, s) for m in (-30.0, -1.0, -0.2, 0.0, 0.93, 1.0, 4.0) for s in (1e-3, 0.02, 0.3, 1.0, 20.0)]


@pytest.mark.parametrize("levels", [17, 256])
@pytest.mark.parametrize("name", ["logistic", "normal"])
def test_discretised_masses_sum_to_one_and_equal_scipy(name, levels):
    """In float32, up to extreme means and scales, and far out in the tails, against float64."""
    mean, scale = torch.tensor(PARAMETERS).T[:, :, None]
    x = Space((levels,), 0, levels).encode(torch.arange(levels))[None].expand(len(mean), -1)
    if name == "logistic":
        mine = lk.discretised_logistic(x, mean, scale.log(), levels)
        law = stats.logistic(mean.double().numpy(), scale.double().numpy())
    else:
        mine = lk.discretised_normal(x, mean, scale, levels)
        law = stats.norm(mean.double().numpy(), scale.double().numpy())
    assert mine.dtype == torch.float32
    assert mine.double().exp().sum(1).tolist() == pytest.approx([1] * len(mean), abs=2e-5)
    edges = np.linspace(-1, 1, levels + 1)
    edges[0], edges[-1] = -np.inf, np.inf
    with np.errstate(divide="ignore"):
        left = np.diff(law.cdf(edges[None]), axis=1)
        right = -np.diff(law.sf(edges[None]), axis=1)
        truth = torch.from_numpy(np.log(np.where(x.numpy() < mean.numpy(), left, right)))
    seen = truth > -600  # below, float64 cannot hold the mass itself
    close = {"rtol": 2e-3, "atol": 2e-3}
    torch.testing.assert_close(mine.double()[seen], truth[seen], **close)
    assert (truth < -100).any()
    assert mine.isfinite().all()
    assert (mine[~seen] < -590).all()


def test_discretised_gradients_pull_outliers_in():
    """A pixel far from its predicted mean still pulls the mean: a floor on the mass would silence it."""
    mean = torch.tensor([-0.9, 0.9], requires_grad=True)
    log_scale = torch.full((2,), -6.0, requires_grad=True)
    x = torch.tensor([0.5, -0.5])
    out = lk.discretised_logistic(x, mean, log_scale, 17)
    out.sum().backward()
    assert (out < -300).all()
    torch.testing.assert_close(mean.grad, torch.tensor([1.0, -1.0]) * math.exp(6.0), rtol=1e-3, atol=0)
    assert (log_scale.grad > 0).all()


def mixture_parameters(n: int, k: int, c: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logits, means, log-scales and colour coefficients of n pixels, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return normal(n, k), 0.6 * normal(n, k, c), normal(n, k, c) - 1.5, normal(n, k, c * (c - 1) // 2).tanh()


def every_colour(levels: int, c: int) -> Tensor:
    """All L^C pixels, (L^C, C), bin-centred."""
    return (2 * torch.cartesian_prod(*[torch.arange(levels).double()] * c).view(-1, c) + 1) / levels - 1


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("c", [1, 2, 3, 4])
def test_a_mixture_of_logistics_is_a_law_over_all_colours(c, coupled):
    """The masses of all L^C colours sum to one, and equal the mixture written out by scipy's logistic."""
    levels, k = 5, 4
    logits, means, log_scales, a = mixture_parameters(3, k, c)
    x = every_colour(levels, c)
    for i in range(3):
        rows = [part[i : i + 1].expand(len(x), *part.shape[1:]) for part in (logits, means, log_scales, a)]
        mine = lk.discretised_logistic_mixture(x, *rows[:3], levels, rows[3] if coupled else None)
        assert float(mine.exp().sum()) == pytest.approx(1, abs=1e-12)
        shift = np.zeros((c, c))
        truth = np.zeros(len(x))
        for j in range(k):
            if coupled:  # eq. 3: green's mean depends on red, blue's on red and green
                shift[np.tril_indices(c, -1)] = a[i, j].numpy()
            law = stats.logistic(means[i, j].numpy() + x.numpy() @ shift.T, log_scales[i, j].exp().numpy())
            upper = np.where(x.numpy() > 1 - 1.5 / levels, np.inf, x.numpy() + 1 / levels)
            lower = np.where(x.numpy() < -1 + 1.5 / levels, -np.inf, x.numpy() - 1 / levels)
            truth += float(logits[i].softmax(0)[j]) * (law.cdf(upper) - law.cdf(lower)).prod(1)
        np.testing.assert_allclose(mine.exp().numpy(), truth, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("levels", [17, 256])
def test_one_logistic_is_a_mixture_of_one(levels):
    """In float32 and far out in the tails: no digit is lost on the way."""
    mean, scale = torch.tensor(PARAMETERS).T[:, :, None]
    x = Space((levels,), 0, levels).encode(torch.arange(levels))[None].expand(len(mean), -1)
    alone = lk.discretised_logistic(x, mean, scale.log(), levels)
    logits, means, log_scales = torch.zeros_like(x)[:, None], mean[:, None, None], scale.log()[:, None, None]
    mixed = lk.discretised_logistic_mixture(
        x[:, None], logits, means.expand(-1, 1, 1, levels), log_scales.expand(-1, 1, 1, levels), levels
    )
    torch.testing.assert_close(mixed, alone, rtol=1e-6, atol=1e-6)
    assert mixed.isfinite().all()
    # Equal components are one, whatever their weights; a component without weight is none.
    many = [t.expand(-1, 3, 1, levels) for t in (means, log_scales)]
    weights = torch.tensor([0.5, -1.0, 2.0])[None, :, None].expand(len(mean), 3, levels)
    torch.testing.assert_close(lk.discretised_logistic_mixture(x[:, None], weights, *many, levels), alone)


@pytest.mark.parametrize("coupled", [True, False])
def test_samples_of_a_mixture_have_its_masses(coupled):
    """Chi-square over the 4^3 colours of a pixel, false alarm 1e-4; `decode` finds the bins."""
    levels, k, n = 4, 3, 40_000
    one = mixture_parameters(1, k, 3, seed=3)
    logits, means, log_scales, a = (part.expand(n, *part.shape[1:]) for part in one)
    drawn = lk.sample_logistic_mixture(
        logits, means, log_scales, levels, Noise("m"), coefficients=a if coupled else None
    )
    space, x = Space((3,), 0, levels), every_colour(levels, 3)
    colour = space.decode(drawn.float()).long() @ torch.tensor([16, 4, 1])
    rows = [part.expand(len(x), *part.shape[1:]) for part in one]
    mass = lk.discretised_logistic_mixture(x, *rows[:3], levels, rows[3] if coupled else None).exp()
    seen = torch.bincount(colour, minlength=64).double()
    assert (mass * n > 5).all()
    assert stats.chisquare(seen.numpy(), (mass * n).numpy()).pvalue > 1e-4


def test_a_mixtures_temperature_goes_from_its_likeliest_mean_to_its_law():
    parts = mixture_parameters(500, 4, 3, seed=1)
    logits, means, log_scales, a = parts
    best = logits.argmax(1)[:, None, None].expand(-1, 1, 3)
    cold = lk.sample_logistic_mixture(logits, means, log_scales, 17, Noise(0), 0.0)
    torch.testing.assert_close(cold, means.gather(1, best).squeeze(1))
    sharp = means.gather(1, best).squeeze(1)
    assert torch.equal(lk.sample_logistic_mixture(logits, means, log_scales, 17, Noise(0), 0.0, a)[:, 0], sharp[:, 0])
    # Only one component: half the temperature is half the scale.
    half, full = (
        lk.sample_logistic_mixture(logits[:, :1], means[:, :1], log_scales[:, :1], 17, Noise(0), t) for t in (0.5, 1.0)
    )
    torch.testing.assert_close(half - means[:, 0], 0.5 * (full - means[:, 0]))


def test_the_mean_of_a_mixture_is_that_of_its_samples():
    """On many fine levels, where cutting into bins moves nothing; means well inside, so that nothing is clamped."""
    n = 40_000
    one = mixture_parameters(1, 3, 3, seed=2)
    logits, means, log_scales, a = (part.expand(n, *part.shape[1:]) for part in one)
    x = lk.sample_logistic_mixture(logits, 0.3 * means, log_scales - 2, 10**6, Noise("m"), coefficients=a)
    mean = lk.logistic_mixture_mean(logits[:1], 0.3 * means[:1], a[:1])[0]
    assert (((x.mean(0) - mean) / (x.std(0) / math.sqrt(n))).abs() < 4).all()


@pytest.mark.parametrize("c", [1, 3])
def test_a_networks_zero_output_is_about_uniform(c):
    k, levels = 10, 17
    out = torch.zeros(levels**c, lk.logistic_mixture_numbers(k, c), dtype=torch.float64, requires_grad=True)
    logits, means, log_scales, a = lk.split_logistic_mixture(out, k, c)
    assert (a is None) == (c == 1)
    log = lk.discretised_logistic_mixture(every_colour(levels, c), logits, means, log_scales, levels, a)
    mass = log.detach().exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    if c == 1:
        assert 0.5 / levels < float(mass.min()) <= float(mass.max()) < 2 / levels
    # No two components are pulled alike, so that they can part.
    log[0].backward()
    pulls = out.grad[0, k : k + k * c].view(k, c)
    assert all(len(set(channel)) == k for channel in pulls.T.tolist())


def test_normal_log_prob_is_torchs():
    x, mean, log_std = (torch.randn(3, 4, dtype=torch.float64) for _ in range(3))
    torch.testing.assert_close(
        lk.normal_log_prob(x, mean, log_std), torch.distributions.Normal(mean, log_std.exp()).log_prob(x)
    )
    joint = torch.distributions.MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
    torch.testing.assert_close(lk.standard_normal_log_prob(x), joint.log_prob(x))


# ------------------------------------------------------------------------------------------------------ randomness


DRAWS = {
    "normal": lambda noise, n, *rest: noise.normal(n, *rest),
    "uniform": lambda noise, n, *rest: noise.uniform(n, *rest),
    "rademacher": lambda noise, n, *rest: noise.rademacher(n, *rest),
    "integers": lambda noise, n, *rest: noise.integers(1000, n, *rest),
}


@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("rest", [(), (1,), (3,), (1, 8, 8), (3, 40, 40)], ids=str)
def test_rows_do_not_depend_on_how_they_are_cut(kind, rest):
    draw, n = DRAWS[kind], 70 if len(rest) > 1 else 2500
    noise = Noise("run", 3, "x")
    whole = [draw(noise, n, *rest) for _ in range(2)]  # two draws of one stream
    for cuts in ([0, 1, n], [0, n // 2, n // 2 + 3, n], [0, n - 1, n]):
        for k in range(2):
            parts = []
            for a, b in pairwise(cuts):
                chunk = noise.rows(a)
                drawn = [draw(chunk, b - a, *rest) for _ in range(2)]
                parts.append(drawn[k])
            assert torch.equal(torch.cat(parts), whole[k])
    assert not torch.equal(whole[0], whole[1])


def test_streams_are_apart():
    """Other coordinates, another place in the stream, a further name, other rows: other numbers."""
    n = 64
    streams = [Noise(), Noise(0), Noise(1), Noise(0, 0), Noise("0")]
    streams += [Noise(0).at("x"), Noise(0).at(0).at(1), Noise(0).rows(n)]
    drawn = [s.normal(n) for s in streams]
    drawn.append(streams[1].normal(n))  # its second draw
    equal = {(i, j) for i in range(len(drawn)) for j in range(i) if (drawn[i] == drawn[j]).any()}
    assert not equal
    assert torch.equal(Noise(0).at("x").normal(n), Noise(0, "x").normal(n))
    correlation = np.corrcoef(torch.stack([Noise("c", i).normal(4000) for i in range(8)]).numpy())
    assert np.abs(correlation - np.eye(8)).max() < 0.08


def test_rows_keep_their_names():
    at = Noise("a", first=1500).at("b")
    assert torch.equal(at.normal(10), Noise("a", "b").normal(1510)[1500:])


def test_moments():
    noise = Noise("moments")
    normal, uniform = noise.normal(20_000, 2), noise.uniform(20_000, 2)
    sign, whole = noise.rademacher(20_000, 2), noise.integers(7, 20_000, 2)
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert set(sign.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(sign.mean())) < 0.02
    assert whole.dtype == torch.int64
    assert stats.chisquare(torch.bincount(whole.flatten(), minlength=7).numpy()).pvalue > 1e-3


def test_seeds_are_the_same_in_every_process_and_release():
    assert seed_of("digits", "vae", 0, "step", 17) == GOLDEN_SEED
    assert seed_of() != seed_of(0) != seed_of("0")
    assert Noise("digits", 0).normal(4, 2).flatten().tolist() == pytest.approx(GOLDEN_NORMAL, abs=1e-5)
    assert Noise("digits", 0).integers(1000, 6).tolist() == GOLDEN_INTEGERS


def test_drawing_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    noise = Noise(1)
    first = noise.normal(5), noise.uniform(5), noise.rademacher(5), noise.integers(3, 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    noise = Noise(1)
    again = noise.normal(5), noise.uniform(5), noise.rademacher(5), noise.integers(3, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, again))


# ---------------------------------------------------------------------------------------------------- small types


def test_data_is_batched_by_index_and_labels_follow_the_space():
    space = Space((1, 2, 2), 3, 17)
    data = Data(torch.arange(20, dtype=torch.uint8).view(5, 1, 2, 2) % 17, torch.tensor([0, 1, 2, 0, 1]), space)
    x, y = data.batch(torch.tensor([3, 0, 3]))
    assert torch.equal(x, space.encode(data.x[[3, 0, 3]]))
    assert y.tolist() == [0, 0, 0]
    assert len(data) == 5
    assert torch.equal(data.all().x, space.encode(data.x))
    without = data.unlabelled()
    assert without.space == Space((1, 2, 2), 0, 17)
    assert without.batch(torch.tensor([1])).y is None
    assert without.all().y is None


def test_a_frozen_parent_is_no_part_of_its_child():
    parent = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    child = nn.Module()
    child.teacher = Frozen(parent)
    assert not list(child.parameters())
    assert not list(child.children())
    assert not parent.training
    assert not any(p.requires_grad for p in parent.parameters())


def test_a_plan_reads_its_options():
    plan = Plan("ddim", 20, (("eta", 0.5),))
    assert plan.option("eta", 0.0) == 0.5
    assert plan.option("rtol", 1e-3) == 1e-3
    assert str(plan) == "ddim-20 eta=0.5"


def test_only_outermost_backbones_are_counted():
    class Inner(Backbone):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 1e6:
                raise ValueError
            return x

    class Outer(Backbone):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.inner(x))

    outer, x = Outer(), torch.zeros(3, 2)
    with count_calls() as count:
        outer(x)
        nn.Sequential(outer.inner, nn.Identity())(x)
        with pytest.raises(ValueError):  # noqa: PT011
            outer(x + 1e7)
        outer(x)
    outer(x)
    assert (count.calls, count.examples) == (3, 9), "a call that raised is none"


def test_embedding_separates_times_and_labels():
    embed = Embedding(32, classes=4)
    t = torch.tensor([0.0, 1e-3, 0.5, 1.0])
    out = embed(t, torch.zeros(4, dtype=torch.long))
    assert torch.pdist(out).min() > 1e-4
    with pytest.raises(ValueError, match="labels"):
        embed(t)
    assert Embedding(32, timed=False)(None) is None
    assert not list(Embedding(32, timed=False).parameters())


def test_schedules_end_where_they_should():
    assert (cosine(0.0), cosine(0.5), cosine(1.0)) == pytest.approx((1.0, 0.5, 0.0))
    assert (between(20, 5, 0.0), between(20, 5, 0.5), between(20, 5, 1.0)) == pytest.approx((20, 10, 5))
