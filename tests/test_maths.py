"""The shared mathematics against closed forms: paths, solvers, divergence, likelihoods, data levels, randomness."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from paradigms.backbones import Backbone, count_calls
from paradigms.backbones.embed import Embedding
from paradigms.contract import Data, Frozen, Kind, Noise, Plan, Space, seed_of
from paradigms.errors import BadInput
from paradigms.maths import likelihood as lk
from paradigms.maths.bounds import ode_density, ode_likelihood
from paradigms.maths.denoiser import X0, Denoiser, Eps, Preconditioned, Velocity, VPrediction
from paradigms.maths.paths import BetaChainPath, CosinePath, EDMPath, LinearPath, SubVPPath, VEPath, VPPath
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


@pytest.mark.parametrize(("start", "stop"), [(0.0, 1.5), (1.5, 0.0)])
def test_dopri5_meets_its_tolerance(start, stop):
    truth, errors, calls = exact(start, stop), [], []
    for tolerance in (1e-3, 1e-6, 1e-9):
        made = []

        def field(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
            made.append(len(rows))  # noqa: B023
            return pendulum(x, t)

        errors.append(float((dopri5(field, START, start, stop, tolerance, tolerance) - truth).abs().max()))
        calls.append(sum(made))
        assert errors[-1] < 20 * tolerance
    assert errors[0] > errors[1] > errors[2] > 0
    assert calls[0] < calls[1] < calls[2]


def test_dopri5_has_order_five():
    """Steps grow as tolerance^(-1/5): a thousandfold tolerance costs four times as many."""

    def count(tolerance: float) -> int:
        made = []
        dopri5(lambda x, t, _: made.append(0) or pendulum(x, t), START[:1], 0.0, 3.0, tolerance, tolerance)
        return len(made) // 7

    assert count(1e-12) / count(1e-9) == pytest.approx(1000**0.2, rel=0.25)


def test_dopri5_rows_do_not_depend_on_the_batch():
    """Stiffness differs between rows, so that a shared step would show."""
    rates = torch.tensor([1.0, 30.0, 300.0], dtype=torch.float64)

    def solved(rows: list[int]) -> Tensor:
        here = rates[rows]

        def field(x: Tensor, t: Tensor, live: Tensor) -> Tensor:
            return -here[live][:, None] * (x - torch.cos(t)[:, None])

        return dopri5(field, START[rows], 0.0, 1.0, 1e-5, 1e-5)

    whole = solved([0, 1, 2])
    alone = torch.cat([solved([i]) for i in range(3)])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(solved([2, 0]), whole[[2, 0]], rtol=0, atol=1e-12)


def test_dopri5_gives_up_in_words():
    with pytest.raises(BadInput, match="rtol"):
        dopri5(lambda x, t, _: 1e6 * torch.cos(1e6 * t)[:, None] * x, START, 0.0, 1.0, 1e-9, 1e-9, max_steps=5)


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
    assert (count.calls, count.examples) == (4, 12)


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
