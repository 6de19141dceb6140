"""Mean flow against closed forms, other ways to differentiate, and diffusers' Euler scheduler."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench import flops
from paradigms import catalogue
from paradigms.backbones import Backbone, count_calls
from paradigms.backbones.embed import Embedding
from paradigms.core.data import Batch, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Plan
from paradigms.mean_flow import SLOW
from paradigms.testing import Mixture, build, examples

PLANE, IMAGES, ATTENDED = Space((2,)), Space((1, 8, 8), 0, 17), Space((1, 20, 20), 3, 256)


def mean_flow(space: Space = PLANE, **changes):
    recipe = catalogue.get("mean-flow")
    return build(recipe, space, config=dataclasses.replace(recipe.config, **changes))


class ExactMean(Backbone):
    """The average velocity of one Gaussian's flow along the linear path; `bend` times t - r is added to it."""

    def __init__(self, data: Mixture, bend: float = 0.0) -> None:
        super().__init__()
        self.data = data
        self.bend = nn.Parameter(torch.tensor(bend, dtype=torch.float64))

    def moved(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Where the flow carries z from t to r: each coordinate keeps its standardised value."""
        mean, var = self.data.means[0], self.data.stds[0].square()
        spread = [((1 - s).square() * var + s.square()).sqrt() for s in (t, r)]
        return (1 - r) * mean + spread[1] * (z - (1 - t) * mean) / spread[0]

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        end, length = (t.double() / SLOW).unsqueeze(2).unbind(1)
        z = z.double()
        # Where t = r the average is the velocity itself: over a length of which it is still linear.
        length = torch.where(length == 0, torch.full_like(length, 1e-5), length)
        return (z - self.moved(z, end, end - length)) / length + self.bend * length * z


def velocity(data: Mixture, z: Tensor, t: Tensor) -> Tensor:
    x0, eps = data.posterior(z, 1 - t, t)
    return eps - x0


# ------------------------------------------------------------------------------------------------------ the identity


def test_the_average_velocity_fulfils_the_identity(gaussian):
    """u = v - (t - r) du/dt with v the marginal velocity; a bent one does not."""
    model = mean_flow()
    generator = torch.Generator().manual_seed(0)
    z, r = (torch.randn(200, 2, generator=generator).double(), torch.rand(200, generator=generator).double() * 0.4)
    t = r + 0.5
    v = velocity(gaussian, z, t)

    def off(bend: float) -> float:
        model.net = ExactMean(gaussian, bend)
        u = model.u(z, r, t, None)
        return float((u - v + (t - r)[:, None] * model.derivative(z, r, t, v, None)).detach().abs().max())

    assert off(0.0) < 1e-10
    assert off(0.1) > 1e-2


@pytest.mark.parametrize("same", [0.0, 0.75])
def test_training_stands_still_at_the_average_velocity(same, gaussian):
    """There the squared error's gradient has mean zero, and points back from either side."""
    model = mean_flow(same=same, p=0.0)

    def slope(bend: float) -> tuple[float, float]:
        model.net = ExactMean(gaussian, bend)
        found = []
        for k in range(20):
            (update,) = model.updates(Batch(gaussian.sample(2000, seed=k).double()), 0.5, Noise("m", k))
            found.append(torch.autograd.grad(update.loss, model.net.bend)[0])
        found = torch.stack(found)
        return float(found.mean()), float(found.std() / len(found) ** 0.5)

    (exact, error), (out, _), (back, _) = slope(0.0), slope(0.3), slope(-0.3)
    assert abs(exact) < 4 * error
    assert out > 8 * error
    assert back < -8 * error


@pytest.mark.parametrize("space", [IMAGES, ATTENDED, PLANE], ids=["images", "attended", "vectors"])
def test_the_derivative_is_that_of_two_other_ways(space):
    """Central differences along (v, 0, 1), and reverse mode twice."""
    model = mean_flow(space).double()
    x, y = examples(space, 3)
    z, v = x.double(), torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    r, t = torch.tensor([0.1, 0.3, 0.0]).double(), torch.tensor([0.4, 0.9, 1.0]).double()
    found = model.derivative(z, r, t, v, y)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    h = 1e-5
    with torch.no_grad():
        differences = (model.u(z + h * v, r, t + h, y) - model.u(z - h * v, r, t - h, y)) / (2 * h)
    torch.testing.assert_close(found, differences, rtol=1e-5, atol=1e-6)

    z, t = z.requires_grad_(True), t.requires_grad_(True)
    with sdpa_kernel(SDPBackend.MATH):
        u = model.u(z, r, t, y)
        w = torch.zeros_like(u, requires_grad=True)
        by_z, by_t = torch.autograd.grad(u, (z, t), w, create_graph=True)
        (twice,) = torch.autograd.grad((by_z * v).sum() + by_t.sum(), w)
    torch.testing.assert_close(found, twice, rtol=1e-9, atol=1e-9)


# -------------------------------------------------------------------------------------------------- loss and its parts


class Linear(Backbone):
    """u = a (t - r) z: du/dt = a z + a (t - r) v."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.a * t[:, 1:] / SLOW * z


@pytest.mark.parametrize("p", [0.0, 0.75])
def test_the_loss_is_that_of_the_paper(p):
    """Target, stopped gradient and weight, by hand for a network whose derivative is known."""
    model, (x, _) = mean_flow(p=p), examples(PLANE, 16)
    model.net = Linear(0.7)
    (update,) = model.updates(Batch(x), 0.5, Noise("l"))
    noise = Noise("l")
    eps = noise.normal(16, 2)
    r, t, m = model.times(16, noise)
    assert (m, bool((t[:m] > r[:m]).all()), bool((t[m:] == r[m:]).all())) == (8, True, True)
    t, d, v = t[:, None], (t - r)[:, None], eps - x
    z = (1 - t) * x + t * eps
    target = v - d * (0.7 * z + 0.7 * d * v)
    error = 0.7 * d * z - target
    square = error.square().sum(1)
    weight = (square + 1e-3) ** -p
    torch.testing.assert_close(update.loss, (weight * square).mean(), rtol=1e-5, atol=1e-6)
    (slope,) = torch.autograd.grad(update.loss, model.net.a)
    torch.testing.assert_close(slope, (weight * 2 * (error * d * z).sum(1)).mean(), rtol=1e-4, atol=1e-5)


def test_times_are_logit_normal_and_ordered():
    model = mean_flow(same=0.0)
    r, t, m = model.times(50_000, Noise("t"))
    assert m == 50_000
    assert (r <= t).all()
    # The sums of the two's moments do not depend on which is which.
    a, b, std = model.config.P_mean, model.config.P_mean_r, model.config.P_std
    r, t = torch.logit(r.double()), torch.logit(t.double())
    assert float((r + t).mean()) == pytest.approx(a + b, abs=0.04)
    assert float((r + t).std()) == pytest.approx(std * 2**0.5, abs=0.03)
    assert float((r * t).mean()) == pytest.approx(a * b, abs=0.1)


@pytest.mark.heavy
def test_the_derivative_is_paid_for_by_the_rows_that_need_it():
    """A step costs at most 2.2 times one of the same network that needs none."""
    model = mean_flow(IMAGES)
    batch = examples(IMAGES, 64)
    with count_calls() as count:
        list(model.updates(batch, 0.5, Noise(0)))
    assert (count.calls, count.examples) == (2, 64 + 32)

    def cost(same: float) -> float:
        return flops.of_training_step(mean_flow(IMAGES, same=same), batch, Noise(0))

    plain = flops.of_training_step(build("flow-matching", IMAGES), batch, Noise(0))
    assert 1.1 < cost(0.75) / plain < 1.3  # a quarter of the rows pay for two passes more
    assert 1.2 < cost(0.5) / plain < 1.6
    assert 1.5 < cost(0.0) / plain < 2.2


# ------------------------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_the_average_velocity_samples_exactly_at_any_step_count(steps, gaussian):
    model, z = mean_flow(), torch.randn(100, 2).double()
    model.net = ExactMean(gaussian)
    seen = []
    with torch.no_grad():
        x = model.sample(z, Plan("mean-flow", steps), Noise(0), watch=lambda t, _: seen.append(t))
    torch.testing.assert_close(x, gaussian.means[0] + gaussian.stds[0] * z, rtol=1e-10, atol=1e-10)
    assert seen == pytest.approx([1 - i / steps for i in range(steps + 1)])


def test_sampling_is_the_euler_scheduler_of_diffusers_with_average_velocities():
    model, z, times = mean_flow().double(), torch.randn(16, 2).double(), (1.0, 0.6, 0.3, 0.0)
    known = FlowMatchEulerDiscreteScheduler()
    known.set_timesteps(sigmas=list(times[:-1]))
    x = z
    with torch.no_grad():
        for when, t, r in zip(known.timesteps, times, times[1:]):
            rows = [torch.full((16,), s, dtype=torch.float64) for s in (r, t)]
            x = known.step(model.u(x, *rows, None), when, x).prev_sample.double()
        ours = model.sample(z, Plan("mean-flow", 3, (("times", "0.6/0.3"),)), Noise(0))
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("space", [PLANE, IMAGES], ids=["vectors", "images"])
def test_the_network_hears_both_times(space):
    model, x = mean_flow(space).double(), examples(space, 4).x.double()
    half, low, high = (torch.full((4,), v, dtype=torch.float64) for v in (0.5, 0.2, 0.8))
    with torch.no_grad():
        u = model.u(x, low, half, None)
        assert (model.u(x, half, half, None) - u).abs().max() > 1e-6
        assert (model.u(x, low, high, None) - u).abs().max() > 1e-6


def test_one_time_is_embedded_as_before():
    """An embedding of several times concatenates what an embedding of one has."""
    one, two = Embedding(8), Embedding(8, times=2)
    assert two.time[0].in_features == 2 * one.time[0].in_features
    t = torch.tensor([[0.1, 0.7]])
    assert one(t[:, 0]).shape == two(t).shape == (1, 8)
    with torch.no_grad():
        first = one.time[0]
        k = len(one.cycles)
        two.time[0].weight.zero_()
        two.time[0].weight[:, :k], two.time[0].weight[:, 2 * k : 3 * k] = first.weight[:, :k], first.weight[:, k:]
        two.time[0].bias.copy_(first.bias)
        two.time[2].load_state_dict(one.time[2].state_dict())
        torch.testing.assert_close(two(t), one(t[:, 0]))
