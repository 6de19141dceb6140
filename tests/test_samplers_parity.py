"""Step by step against independent libraries: the same network, the same noise, and every state on the way compared.

diffusers' schedulers keep their tables in float32, whose rounding is multiplied by sigma / alpha = 157 at the chain's end:
they are given the same tables in float64, so that what is compared is the arithmetic of a step. Some of them carry the state
in float32 all the same. torchdiffeq solves the same field.
"""

from __future__ import annotations

import math
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
import torchdiffeq
from diffusers.schedulers.deprecated.scheduling_sde_vp import ScoreSdeVpScheduler
from torch import Tensor, nn

from paradigms.backbones import count_calls
from paradigms.core.plans import Plan
from paradigms.maths import samplers as S
from paradigms.maths.bounds import ode_density
from paradigms.maths.denoiser import Denoiser, Eps, Preconditioned, Velocity
from paradigms.maths.likelihood import divergence_exact, normal_log_prob
from paradigms.maths.paths import COORDINATES, BetaChainPath, EDMPath, LinearPath, VEPath, VPPath
from paradigms.maths.solvers import dopri5, euler_step, grid, heun_step, solve
from paradigms.testing import Exact, Mixture

SHAPE = (2, 2, 3, 3)  # images: two channels, so that a learned variance has four
CLOSE = {"rtol": 1e-6, "atol": 1e-5}  # where the state, of up to 400, is carried in float32
EXACT = {"rtol": 1e-9, "atol": 1e-9}


class Net(nn.Module):
    """A small smooth network; its weights are part of the test."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(channels)

        def weight(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[-1])

        self.inner, self.outer, self.channels = weight(32, 19), weight(9 * channels, 32), channels

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        h = torch.tanh(torch.cat([x.flatten(1), 3 * t[:, None]], dim=1) @ self.inner.T)
        return (h @ self.outer.T).view(len(x), self.channels, 3, 3)


class Given:
    """Noise that is drawn beforehand, one draw after the other."""

    def __init__(self, n: int, shape: tuple[int, ...] = SHAPE) -> None:
        generator = torch.Generator().manual_seed(7)
        self.draws = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(n)]
        self.used = 0

    def normal(self, *shape: int) -> Tensor:
        self.used += 1
        assert self.draws[self.used - 1].shape == shape
        return self.draws[self.used - 1]


def start(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def told(t: Tensor) -> Tensor:
    return t


def chain(learned: bool = False, reach: float = math.inf) -> Denoiser:
    return Denoiser(Net(4 if learned else 2), BetaChainPath(), Eps(), told, 1e-3, T=1000, learned=learned, reach=reach)


def states(method, d: Denoiser, x: Tensor, times: Tensor, given: Given | None = None, **options) -> list[Tensor]:
    """The state after every step."""
    seen: list[Tensor] = []
    with torch.no_grad():
        end = method(
            d, x, times, Plan("", len(times), tuple(options.items())), given, lambda t, x: seen.append(x.clone())
        )
    assert torch.equal(end, seen[-1])
    return seen


def exact(scheduler):
    """A scheduler of diffusers with its tables in float64."""
    scheduler.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.one = scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return scheduler


LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def compare(ours: list[Tensor], theirs: list[Tensor], close: dict[str, float]) -> None:
    assert len(ours) == len(theirs)
    for k, (a, b) in enumerate(zip(ours, theirs)):
        torch.testing.assert_close(a, b, **close, msg=lambda text: f"step {k}: {text}")  # noqa: B023
    assert all((a - b).abs().max() > 0 for a, b in pairwise(ours)), "nothing moved"


def test_the_chain_is_the_same():
    theirs = diffusers.DDPMScheduler(**LINEAR)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(BetaChainPath().alpha(t).square(), exact(theirs).alphas_cumprod, rtol=1e-12, atol=0)
    torch.testing.assert_close(BetaChainPath().sigma(t).square(), 1 - theirs.alphas_cumprod, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("reach", [math.inf, 1.0])
@pytest.mark.parametrize(
    ("spacing", "steps"),
    [pytest.param("linspace", 1000, marks=pytest.mark.matrix), ("linspace", 27), ("leading", 50), ("trailing", 10)],
)
@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_ancestral_steps(variance, spacing, steps, reach):
    learned = variance == "learned"
    scheduler = diffusers.DDPMScheduler(
        **LINEAR, variance_type={"learned": "learned_range"}.get(variance, f"fixed_{variance}"),
        clip_sample=reach == 1.0, timestep_spacing=spacing,
    )  # fmt: skip
    exact(scheduler).set_timesteps(steps)
    d, noise, x, theirs = chain(learned, reach), Given(steps), start(), []
    generator = torch.Generator().manual_seed(7)
    for t in scheduler.timesteps:
        out = d.net(x, ((t.double() + 1) / 1000).expand(2))
        x = scheduler.step(out, t, x, generator=generator).prev_sample
        theirs.append(x)
    times = (scheduler.timesteps.double() + 1) / 1000
    ours = states(S.ancestral, d, start(), times, noise, variance=variance)
    assert noise.used == steps - 1
    if (
        spacing == "trailing" and variance != "small"
    ):  # there they add noise to the last step too, whatever it ends with
        assert (ours[-1] - theirs[-1]).abs().max() > 0.1
        ours, theirs = ours[:-1], theirs[:-1]
    compare(ours, theirs, EXACT)
    if spacing != "leading":
        kind = {"linspace": "uniform"}.get(spacing, spacing)
        torch.testing.assert_close(S.levels(d, steps, kind), times, rtol=0, atol=5.01e-4 if steps == 27 else 1e-12)


@pytest.mark.parametrize("reach", [math.inf, 1.0])
@pytest.mark.parametrize(("spacing", "steps"), [("leading", 50), ("leading", 8), ("trailing", 10), ("trailing", 100)])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_steps(eta, spacing, steps, reach):
    """Not their "linspace", whose step ends at t - 1000 // N and so not where the next one begins."""
    scheduler = diffusers.DDIMScheduler(**LINEAR, clip_sample=reach == 1.0, timestep_spacing=spacing)
    exact(scheduler).set_timesteps(steps)
    d, x, theirs = chain(reach=reach), start(), []
    generator = torch.Generator().manual_seed(7)
    for t in scheduler.timesteps:
        out = d.net(x, ((t.double() + 1) / 1000).expand(2))
        x = scheduler.step(out, t, x, eta=eta, use_clipped_model_output=True, generator=generator).prev_sample
        theirs.append(x)
    times = (scheduler.timesteps.double() + 1) / 1000
    compare(states(S.ddim, d, start(), times, Given(steps), eta=eta), theirs, EXACT)


@pytest.mark.parametrize("grid_kind", ["linspace", "trailing", "karras"])
@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
def test_dpm_solver_steps(algorithm, steps, grid_kind):
    """Their Karras sigmas are rounded to times of the chain for the network; here it is asked at the sigmas themselves."""
    karras = grid_kind == "karras"
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **LINEAR, algorithm_type=algorithm, use_karras_sigmas=karras,
        timestep_spacing="linspace" if karras else grid_kind,
    )  # fmt: skip
    exact(scheduler).set_timesteps(steps)
    d = chain()
    if karras:
        times = S.levels(d, steps, "karras")
        ratio = torch.exp(-d.path.log_snr(times) / 2)
        torch.testing.assert_close(ratio, scheduler.sigmas[:-1].double(), rtol=1e-6, atol=0)
    else:
        times = (scheduler.timesteps.double() + 1) / 1000
        ratio = d.path.sigma(times) / d.path.alpha(times)
    scheduler.sigmas = torch.cat([ratio, torch.zeros(1, dtype=torch.float64)])
    scheduler.set_begin_index(0)
    noise, x, theirs = Given(steps), start(), []
    for k, t in enumerate(times):
        out = d.net(x, t.expand(2))
        sde = {"variance_noise": noise.draws[k]} if algorithm.startswith("sde") else {}
        x = scheduler.step(out, scheduler.timesteps[k], x, **sde).prev_sample
        theirs.append(x)
    method = S.dpmpp_2m_sde if algorithm.startswith("sde") else S.dpmpp_2m
    compare(states(method, d, start(), times, noise), theirs, CLOSE)


@pytest.mark.parametrize(("scheduler", "sampler"), [("Euler", "euler"), ("Heun", "heun")])
def test_ode_steps_in_sigma(scheduler, sampler):
    """k-diffusion's form, dx = eps dsigma of x / alpha, which is our ODE on the path of EDM; on Karras' sigmas."""
    steps = 12
    theirs_ = getattr(diffusers, f"{scheduler}DiscreteScheduler")(**LINEAR, use_karras_sigmas=True)
    exact(theirs_).set_timesteps(steps)
    top = float(torch.exp(-chain().path.log_snr(torch.ones(1, dtype=torch.float64)) / 2))
    d = chain().on(EDMPath(top))
    times = S.levels(d, steps, "karras")
    sigma = torch.cat([d.path.sigma(times), torch.zeros(1, dtype=torch.float64)])
    found = theirs_.sigmas if sampler == "euler" else torch.cat([theirs_.sigmas[:1], theirs_.sigmas[1::2]])
    torch.testing.assert_close(found.double(), sigma, rtol=1e-6, atol=0)
    double = sampler == "heun"
    theirs_.sigmas = torch.cat([sigma[:1], sigma[1:-1].repeat_interleave(2), sigma[-1:]]) if double else sigma
    theirs_.is_scale_input_called = True
    asked = times if not double else torch.cat([times[:1], times[1:].repeat_interleave(2)])
    x, theirs = start(top), []
    for k, t in enumerate(asked):
        eps = d.both(x, t.expand(2))[1]
        x = theirs_.step(eps, theirs_.timesteps[k], x).prev_sample
        if not double or k % 2 == 1 or k == len(asked) - 1:  # Heun's prediction is not yet a step's end
            theirs.append(x)
    ours = states(S.METHODS[sampler].run, d, start(top), times)
    compare(ours, theirs, EXACT if double else CLOSE)


def test_edm_preconditioning_and_multistep():
    """c_skip, c_out, c_in, c_noise and Karras' grid, solved by the multistep method in sigma."""
    steps, data = 18, 0.5
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=data)
    scheduler.set_timesteps(steps)
    d = Denoiser(Net(), EDMPath(), Preconditioned(data), lambda t: (80 * t).log() / 4, 0.002 / 80)
    times = S.levels(d, steps, "karras")
    sigma = torch.cat([d.path.sigma(times), torch.zeros(1, dtype=torch.float64)])
    torch.testing.assert_close(scheduler.sigmas.double(), sigma, rtol=2e-6, atol=0)
    scheduler.sigmas = sigma
    scheduler.set_begin_index(0)
    x, theirs = start(80), []
    for t, s in zip(scheduler.timesteps, sigma):
        F = d.net(scheduler.precondition_inputs(x, s), (s.log() / 4).expand(2))
        assert float(t) == pytest.approx(float(s.log() / 4), abs=1e-6)
        x = scheduler.step(F, t, x).prev_sample
        theirs.append(x)
    compare(states(S.dpmpp_2m, d, start(80), times), theirs, CLOSE)


def test_edm_churn_raises_the_noise_as_theirs():
    """Their sampler with churn steps by Euler, ours by Heun: compared on a step to sigma = 0, where both end at x0."""
    d = Denoiser(Net(), EDMPath(), Preconditioned(0.5), lambda t: (80 * t).log() / 4, 0.002 / 80)
    times = torch.tensor([2.0 / 80], dtype=torch.float64)
    for churn, low in ((0.3, 0.05), (40.0, 0.05), (40.0, 3.0)):
        scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
        scheduler.set_timesteps(1)
        scheduler.sigmas, scheduler.is_scale_input_called = torch.tensor([2.0, 0.0], dtype=torch.float64), True
        gamma = min(churn, math.sqrt(2) - 1) if low <= 2 else 0.0
        generator, hat = torch.Generator().manual_seed(7), torch.tensor(2.0 * (1 + gamma), dtype=torch.float64)
        raised = start(2)
        if gamma:
            raised = raised + 1.003 * (hat**2 - 4).sqrt() * Given(1).draws[0]
        F = d.net(scheduler.precondition_inputs(raised, hat), (hat.log() / 4).expand(2))
        options = {"s_churn": churn, "s_tmin": low, "s_tmax": 50.0, "s_noise": 1.003, "generator": generator}
        theirs = scheduler.step(F, scheduler.timesteps[0], start(2), **options).prev_sample
        ours = states(S.churn, d, start(2), times, Given(1), churn=churn, noise=1.003, **{"from": low, "to": 50.0})
        torch.testing.assert_close(ours[0], theirs, **CLOSE)


def test_reverse_sde_steps_of_vp():
    """Euler-Maruyama with a step of 1 / N. Their grid runs in N points from 1 to 0.001, apart by a little less than the
    step that is taken; here both are asked at 1, 1 - 1/N ... Their last state keeps its noise, ours is x0."""
    steps = 20
    scheduler = ScoreSdeVpScheduler(beta_min=0.1, beta_max=20)
    scheduler.set_timesteps(steps)
    d = Denoiser(Net(), VPPath(), Eps(), told, 1e-3)
    times = S.levels(d, steps, "trailing")
    x, theirs, generator = start(), [], torch.Generator().manual_seed(7)
    for t in times[:-1]:
        eps = d.net(x, t.expand(2))
        x, _ = scheduler.step_pred(eps, x, t.expand(2), generator=generator)
        theirs.append(x)
    ours = states(S.reverse_sde, d, start(), times, Given(steps))
    compare(ours[:-1], theirs, EXACT)


def ve(steps: int) -> tuple[diffusers.ScoreSdeVeScheduler, Denoiser, Tensor]:
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0, sampling_eps=1e-3, snr=0.05)
    scheduler.set_timesteps(steps)
    scheduler.set_sigmas(steps)
    d = Denoiser(Net(), VEPath(0.01, 50.0), Eps(0.5), told, 0.0)
    times = S.levels(d, steps, "logsnr")
    torch.testing.assert_close(scheduler.discrete_sigmas.flip(0).double(), d.path.sigma(times), rtol=1e-5, atol=0)
    scheduler.discrete_sigmas = d.path.sigma(times).flip(0)
    return scheduler, d, times


def test_predictor_steps_of_ve():
    """Their predictor (Song et al. 2021, eq. 47) is the ancestral step with the forward step's variance, "large"."""
    steps = 15
    scheduler, d, times = ve(steps)
    x, theirs, generator = start(50), [], torch.Generator().manual_seed(7)
    for t, own in zip(scheduler.timesteps[:-1], times):
        x = scheduler.step_pred(d.score(x, own.expand(2)), t, x, generator=generator).prev_sample
        theirs.append(x)
    ours = states(S.ancestral, d, start(50), times, Given(steps), variance="large")
    compare(ours[:-1], theirs, EXACT)


def test_corrector_steps_of_ve():
    """Their Langevin step takes the norms' means over the batch, ours each sample's: equal for a batch of one."""
    scheduler, d, times = ve(2)
    x, noise = start(50)[:1], Given(2, (1, *SHAPE[1:]))
    predicted = states(S.ancestral, d, x, times, noise, variance="small")[0]
    scheduler.config.snr = 0.05
    score = d.score(predicted, times[1:2])

    class Second(torch.Generator):
        """Past the first draw."""

    generator = Second().manual_seed(7)
    torch.randn(noise.draws[0].shape, generator=generator, dtype=torch.float64)
    state = generator.get_state()
    given = torch.randn(noise.draws[0].shape, generator=torch.Generator().set_state(state), dtype=torch.float64)
    torch.testing.assert_close(given, noise.draws[1])
    # randn_tensor draws in the default precision.
    torch.set_default_dtype(torch.float64)
    try:
        theirs = scheduler.step_correct(score, predicted, generator=generator).prev_sample
    finally:
        torch.set_default_dtype(torch.float32)
    ours = states(S.predictor_corrector, d, x, times, Given(2, (1, *SHAPE[1:])), snr=0.05)[0]
    torch.testing.assert_close(ours, theirs, **EXACT)
    assert (ours - predicted).abs().max() > 1e-5


# ------------------------------------------------------------------------------------------------------ torchdiffeq


@pytest.fixture(scope="module")
def law() -> Mixture:
    return Mixture([0.7, 0.3], [[1.0, 0.5], [-1.2, -0.4]], [[0.4, 0.2], [0.3, 0.5]])


def models(law: Mixture) -> dict[str, Denoiser]:
    vp, linear = VPPath(), LinearPath()
    return {
        "vp": Denoiser(Exact(law, vp, Preconditioned(0.8)), vp, Preconditioned(0.8), told, 5e-4),
        "linear": Denoiser(Exact(law, linear, Velocity()), linear, Velocity(), told, 0.0),
    }


@pytest.mark.parametrize("name", ["vp", "linear"])
def test_ode_solutions_are_torchdiffeqs(name, law):
    d = models(law)[name]
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():

        def field(t: Tensor, x: Tensor) -> Tensor:
            return d.velocity(x, t.clamp(d.t_min, d.t_max).expand(len(x)))  # dopri5 steps over the end

        times = grid(d.t_max, d.t_min, 20)
        at = d.along(times, x)
        for step, method in ((euler_step, "euler"), (heun_step, "heun2")):
            theirs = torchdiffeq.odeint(field, x, times, method=method)[-1]
            torch.testing.assert_close(solve(at.velocity, x, times, step), theirs, **EXACT)
        ends = torch.tensor([d.t_max, d.t_min], dtype=torch.float64)
        theirs = torchdiffeq.odeint(field, x, ends, method="dopri5", rtol=1e-9, atol=1e-9)[-1]
        ours = dopri5(lambda times, x, rows: d.velocities(times, x), x, d.t_max, d.t_min, 1e-9, 1e-9)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "on"), [("vp", "cosine"), ("linear", "linear")])
def test_the_default_likelihood_needs_no_more_calls_than_dopri5(name, on, law):
    """The same density; and dopri5 spends no fewer calls on the accuracy that RK4 has from 40, in the same coordinates or
    the model's own (twenty more, at half the steps, state the error; dopri5's are unstated)."""
    own = models(law)[name]
    d, x = own.on(COORDINATES[on]), law.sample(50)

    def density(rtol: float, on: Denoiser) -> tuple[Tensor, int]:
        def joint(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                here = state[0].detach().requires_grad_(True)
                u = on.velocity(here, t.clamp(on.t_min, on.t_max).expand(len(here)))
                return u.detach(), divergence_exact(u, here)[0].detach()

        ends = torch.tensor([on.t_min, on.t_max], dtype=torch.float64)
        alpha = float(on.path.alpha(ends)[0])
        with count_calls() as count:
            z, div = torchdiffeq.odeint(
                joint, (alpha * x, x.new_zeros(len(x))), ends, rtol=rtol, atol=rtol, method="dopri5"
            )
        prior = normal_log_prob(z[-1], 0.0, float(on.path.sigma(ends)[1].log())).sum(1)
        return prior + div[-1] + 2 * math.log(alpha), count.calls

    truth, _ = density(1e-8, d)
    torch.testing.assert_close(density(1e-7, own)[0], truth, rtol=0, atol=2e-4)
    torch.testing.assert_close(ode_density(d, x, 100, None)[0], truth, rtol=0, atol=2e-5)
    with count_calls() as count:
        fine = ode_density(d, x, 10, None)[0]
    error = float((fine - truth).abs().mean())
    for where in (own, d):
        tried = (density(10.0**-k, where) for k in np.arange(2.0, 7.0, 0.5))
        calls = next(c for value, c in tried if float((value - truth).abs().mean()) <= error)
        print(f"\n{name}: RK4 on {on} {count.calls} calls, mean error {error:.1e} nats; dopri5 on "
              f"{type(where.path).__name__} {calls} calls")  # fmt: skip
        assert count.calls == 40 <= calls
