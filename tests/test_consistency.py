"""Consistency models and progressive distillation against closed forms, diffusers' schedulers, and their papers' rules."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from paradigms import catalogue
from paradigms.backbones import Backbone, count_calls
from paradigms.consistency import LINEAR, doubled, jump, noised
from paradigms.core.data import Batch, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Plan
from paradigms.errors import BadInput
from paradigms.maths.denoiser import Denoiser, Preconditioned, Velocity
from paradigms.maths.paths import EDMPath, GaussianPath, VPPath, expand
from paradigms.recipe import Need
from paradigms.testing import Exact, Mixture, build, descend, examples, train_a_little

PLANE, IMAGES = Space((2,)), Space((1, 8, 8), 0, 17)
PARENTS = ("flow-matching", "edm", "score-sde", "ddpm")
FLOW = (LINEAR, Velocity())


def of_parent(name: str, parent: str, space: Space = PLANE, **changes):
    """A small model of a recipe with another parent."""
    recipe = catalogue.get(name)
    recipe = dataclasses.replace(recipe, needs={role: Need(parent) for role in recipe.needs})
    return build(recipe, space, config=dataclasses.replace(recipe.config, **changes))


class ExactJump(Backbone):
    """The network of the map that carries one Gaussian along its ODE to s_min, whatever the path and prediction.

    bend: how much farther out it ends the later it starts.
    """

    def __init__(self, data: Mixture, of: Denoiser, bend: float = 0.0) -> None:
        super().__init__()
        self.data, self.path, self.prediction, self.t_min = data, of.path, of.prediction, of.t_min
        self.bend = nn.Parameter(torch.tensor(bend, dtype=torch.float64))

    def end(self, x: Tensor, t: Tensor) -> Tensor:
        """Where the ODE ends, divided by alpha: each coordinate keeps its standardised value."""
        alpha, sigma = expand(self.path.alpha(t), x), expand(self.path.sigma(t), x)
        t_min = torch.tensor(self.t_min, dtype=torch.float64)
        s_min = self.path.sigma(t_min) / self.path.alpha(t_min)
        mean, var = self.data.means[0], self.data.stds[0].square()
        w = (x - alpha * mean) / (alpha.square() * var + sigma.square()).sqrt()
        return mean + (var + s_min.square()).sqrt() * w * (1 + self.bend * expand(t, x))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        x, t = x.double(), t.double()
        x_t = x / expand(self.prediction.coefficients(self.path, t).c_in, x)
        alpha, sigma = expand(self.path.alpha(t), x), expand(self.path.sigma(t), x)
        t_min = torch.tensor(self.t_min, dtype=torch.float64)
        rate = self.path.sigma(t_min) / self.path.alpha(t_min) / sigma.clamp_min(1e-300)
        # f = (s_min / s) x_t / alpha + (1 - s_min / s) x0, solved for x0; s = sigma / alpha.
        x0 = (self.end(x_t, t) - rate * x_t) / (1 - rate * alpha).clamp_min(1e-300)
        eps = (x_t - alpha * x0) / sigma.clamp_min(1e-9)
        return self.prediction.target(self.path, t, x0, eps)


def denoisers(net: nn.Module | None = None) -> dict[str, Denoiser]:
    """Of three paths and predictions, told t itself."""
    given = net or nn.Identity()
    return {
        "linear": Denoiser(given, LINEAR, Velocity(), lambda t: t, t_min=0.0),
        "edm": Denoiser(given, EDMPath(80.0), Preconditioned(0.5), lambda t: t, t_min=0.03 / 80),
        "vp": Denoiser(given, VPPath(), Preconditioned(0.5), lambda t: t, t_min=0.001),
    }


def perfect(kind: str, data: Mixture, bend: float = 0.0) -> Denoiser:
    """The exact map of a Gaussian, asked for on the linear path."""
    d = denoisers()[kind]
    return dataclasses.replace(d, net=ExactJump(data, d, bend)).on(LINEAR)


# ---------------------------------------------------------------------------------------------------- the boundary


@pytest.mark.parametrize("parent", PARENTS)
@pytest.mark.parametrize("name", ["consistency", "easy-consistency"])
def test_the_map_is_the_identity_at_t_min(name, parent):
    """In x / alpha, and without a gradient to the network: by construction, for a parent of any path."""
    model, x = of_parent(name, parent, IMAGES), torch.randn(5, 1, 8, 8)
    d = model.denoiser_of(model.net, None)
    assert (d.t_min == 0) == (parent == "flow-matching")
    f = model.f(model.net, x, torch.full((5,), d.t_min), None)
    torch.testing.assert_close(f, x / (1 - d.t_min), rtol=1e-6, atol=0)
    if parent == "flow-matching":
        assert torch.equal(f, x)
    f.square().sum().backward()
    assert all(not p.grad.any() for p in model.net.parameters() if p.grad is not None)
    assert (model.f(model.net, x, torch.full((5,), 0.3), None) - x / 0.7).abs().max() > 1e-2


@pytest.mark.parametrize("parent", PARENTS)
def test_the_map_starts_as_the_parents_own_euler_step(parent):
    model, x = of_parent("easy-consistency", parent).double(), torch.randn(64, 2).double()
    t = torch.full((64,), 0.6, dtype=torch.float64)
    start = model.start.model.double().denoiser().on(LINEAR)
    model.net.load_state_dict(start.net.state_dict())
    s, s_min = 0.6 / 0.4, start.t_min / (1 - start.t_min)
    x0, _ = start.both(x, t)
    step = x / 0.4 + (s_min - s) * (x / 0.4 - x0) / s  # d(x / alpha) / ds = (x / alpha - x0) / s
    torch.testing.assert_close(model.f(model.net, x, t, None), step, rtol=1e-7, atol=1e-7)


def scheduler(sigma_min: float) -> CMStochasticIterativeScheduler:
    return CMStochasticIterativeScheduler(
        num_train_timesteps=40, sigma_min=sigma_min, sigma_max=80.0, sigma_data=0.5, clip_denoised=False
    )


class Constant(Backbone):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.full_like(x, self.value)


def edm(net: nn.Module, sigma_min: float) -> Denoiser:
    return Denoiser(net, EDMPath(80.0), Preconditioned(0.5), lambda t: t, t_min=sigma_min / 80).on(LINEAR)


@pytest.mark.parametrize("sigma_min", [0.002, 1e-6])
def test_boundary_coefficients_are_those_of_the_paper(sigma_min):
    """c_out to the digit; c_skip with s s_min in place of what the paper has, equal to it as s_min goes to 0."""
    s = torch.tensor([sigma_min, 0.01, 0.3, 1.0, 7.0, 80.0], dtype=torch.float64)
    t, one = s / (1 + s), torch.ones(6, 1, dtype=torch.float64)
    c_out = jump(edm(Constant(1.0), sigma_min), 0 * one, t)[:, 0]
    c_skip = jump(edm(Constant(0.0), sigma_min), one * (1 - t)[:, None], t)[:, 0]
    skip, out = scheduler(sigma_min).get_scalings_for_boundary_condition(s)
    torch.testing.assert_close(c_out, out, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(c_skip, (s * sigma_min + 0.25) / (s.square() + 0.25), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(c_skip, skip, rtol=0, atol=sigma_min + 1e-8)


def test_multistep_sampling_is_that_of_diffusers():
    class Net(Backbone):
        def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            return torch.tanh(2 * x + 40 * expand(t, x))

    known, net = scheduler(1e-6), Net()
    known.set_timesteps(timesteps=[39, 22, 11])
    z, generator = torch.randn(16, 2).double(), torch.Generator().manual_seed(3)
    draws, sigmas = [], known.sigmas[:3].double().tolist()
    x = z * sigmas[0]
    for when, sigma in zip(known.timesteps, sigmas):
        out = net(known.scale_model_input(x, when), torch.full((16,), sigma / 80, dtype=torch.float64))
        state = generator.get_state()
        x = known.step(out, when, x, generator=generator).prev_sample
        after = generator.get_state()
        generator.set_state(state)
        draws.append(torch.randn(16, 2, generator=generator, dtype=torch.float64))
        generator.set_state(after)
    assert len({*sigmas}) == 3

    d = edm(net, 1e-6)
    ours = z * sigmas[0]
    for i, sigma in enumerate(sigmas):
        t = torch.full((16,), sigma / (1 + sigma)).double()
        x_t = ours * (1 - t[:, None]) if i == 0 else noised(d, ours, draws[i - 1], t)
        ours = jump(d, x_t, t)
    torch.testing.assert_close(ours, x.double(), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("kind", ["linear", "edm", "vp"])
def test_the_exact_map_is_constant_along_the_ode(kind, gaussian):
    d = perfect(kind, gaussian)
    w = torch.randn(50, 2, dtype=torch.float64)
    ends = []
    for t in (0.03, 0.2, 0.5, 0.9):
        spread = ((1 - t) ** 2 * gaussian.stds[0].square() + t**2).sqrt()
        ends.append(jump(d, (1 - t) * gaussian.means[0] + spread * w, torch.full((50,), t, dtype=torch.float64)))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("parent", ["flow-matching", "edm"])
def test_the_exact_map_samples_the_gaussian_at_any_step_count(parent, steps, gaussian, monkeypatch):
    model, n = of_parent("consistency", parent), 40_000
    d = perfect("linear" if parent == "flow-matching" else "edm", gaussian)
    monkeypatch.setattr(model, "denoiser_of", lambda net, y: d)
    z, seen = model.prior(n, Noise("z")).double(), []
    with torch.no_grad():
        x = model.sample(z, Plan("multistep", steps), Noise("again"), watch=lambda t, x_t: seen.append((t, x_t)))
    assert [t for t, _ in seen] == pytest.approx([d.t_max * (1 - i / steps) for i in range(steps)] + [0.0])
    assert torch.equal(seen[0][1], d.t_max * z)  # the noise that the path ends with
    s_min = d.t_min / (1 - d.t_min)
    std = (gaussian.stds[0].square() + s_min**2).sqrt()
    if steps == 1 and parent == "flow-matching":
        torch.testing.assert_close(x, gaussian.means[0] + std * z)
    # A prior of std t_max in place of the noised data's own spread moves the moments by less than 1 %.
    assert ((x.mean(0) - gaussian.mean).abs() / std < 4 / math.sqrt(n) + 0.01).all()
    assert (x.std(0) / std - 1).abs().max() < 4 / math.sqrt(2 * n) + 0.001


def distilled(data: Mixture, n: int, bend: float = 0.0):
    model = of_parent("consistency", "flow-matching", steps_start=n, steps_end=n)
    model.teacher.model.net = Exact(data, *FLOW)
    model.net = model.target = ExactJump(data, denoisers()["linear"], bend)
    return model


def test_the_exact_map_minimises_the_distillation_loss(gaussian):
    """Up to the teacher's Heun step, of third order: doubling the times divides the squared gap by 2^6."""
    batch = Batch(gaussian.sample(2000).float())

    def gap(times: int, bend: float = 0.0) -> float:
        (update,) = distilled(gaussian, times, bend).updates(batch, 0.5, Noise("c"))
        assert float(update.terms["times"]) == times
        return float(update.terms["gap"].detach())

    gaps = [gap(n) for n in (4, 8, 16, 32)]
    assert gaps[0] < 0.03
    assert all(a / b > 12 for a, b in pairwise(gaps[1:])), gaps
    assert gap(32, bend=0.3) > 100 * gaps[-1]


@pytest.mark.parametrize("name", ["consistency-training", "easy-consistency"])
def test_the_exact_map_is_where_training_stands_still(name, gaussian):
    """The gradient to where the map ends has mean zero there, in the limit of near times, and not elsewhere."""
    changes = {"steps_start": 1024, "steps_end": 1024} if name == "consistency-training" else {"stages": 9}
    recipe = catalogue.get(name)
    config = dataclasses.replace(recipe.config, huber=1e3, P_mean=0.0, P_std=1.0, **changes)  # a square
    model = build(recipe, PLANE, config=config)

    def slope(bend: float) -> tuple[float, float]:
        model.net = ExactJump(gaussian, denoisers()["linear"], bend)
        found = []
        for k in range(20):
            batch = Batch(gaussian.sample(2000, seed=k).float())
            (update,) = model.updates(batch, 0.999, Noise("c", k))
            found.append(torch.autograd.grad(update.loss, model.net.bend)[0] * 1e3)
        found = torch.stack(found)
        return float(found.mean()), float(found.std() / math.sqrt(len(found)))

    (exact, _), (out, error), (back, _) = slope(0.0), slope(0.2), slope(-0.2)
    assert out > 8 * error
    assert back < -8 * error
    assert abs(exact) < 0.1 * min(out, -back) + 4 * error


# ------------------------------------------------------------------------------------------- weights, times, targets


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_the_weight_is_one_over_the_difference_of_times(progress):
    """With F = 0 the map is the identity: the distance of neighbours is the path's length between them."""
    x, y = examples(PLANE, 64)
    model = build(catalogue.get("consistency-training"), PLANE, config=dataclasses.replace(
        catalogue.get("consistency-training").config, huber=1e-9))  # fmt: skip
    model.net = Constant(0.0)
    (update,) = model.updates(Batch(x, y), progress, Noise("w"))
    noise = Noise("w")
    length = (noise.normal(64, 2) - x).norm(dim=1)
    torch.testing.assert_close(update.loss, length.mean() / math.sqrt(2), rtol=1e-4, atol=0)

    model = build("consistency", PLANE)
    model.net, model.target, model.teacher.model.net = Constant(0.0), Constant(0.0), Constant(3.0)
    model.config = dataclasses.replace(model.config, huber=1e-9)
    (update,) = model.updates(Batch(x, y), progress, Noise("w"))
    assert float(update.loss) == pytest.approx(3.0, rel=1e-4)

    model = build("easy-consistency", PLANE)
    model.net, model.config = Constant(0.0), dataclasses.replace(model.config, huber=1e-9)
    (update,) = model.updates(Batch(x, y), progress, Noise("w"))
    noise = Noise("w")
    length, log_s = (noise.normal(64, 2) - x).norm(dim=1), -1.1 + 2 * noise.normal(64)
    s, s_r = model.times(log_s, progress)
    expected = (length * (s / (1 + s) - s_r / (1 + s_r)) / (s - s_r)).mean() / math.sqrt(2)
    torch.testing.assert_close(update.loss, expected, rtol=1e-3, atol=0)


def test_the_curriculum_doubles():
    seen = [doubled(8, 64, k / 40) for k in range(41)]
    assert (seen[0], seen[10], seen[20], seen[30], seen[40]) == (8, 16, 32, 64, 64)
    assert all(b in (a, 2 * a) for a, b in pairwise(seen))
    for name in ("consistency", "consistency-training"):
        model = build(name, PLANE)
        terms = [float(next(model.updates(examples(PLANE), p, Noise(0))).terms["times"]) for p in (0.0, 1.0)]
        assert terms == [model.config.steps_start, model.config.steps_end]


def test_training_times_are_log_normal_on_the_grid():
    """The share of each interval is the normal probability of its log s (Song & Dhariwal, eq. 10)."""
    model, seen = build("consistency-training", PLANE), []
    model.f = lambda net, x_t, t, y: seen.append(t) or x_t * net.net.head.weight.sum()
    n = model.config.steps_start
    list(model.updates(examples(PLANE, 40_000), 0.0, Noise("t")))
    r, t = seen
    torch.testing.assert_close(t - r, torch.full_like(t, 1 / n))
    edges = torch.logit(torch.arange(n + 1) / n)
    expected = torch.distributions.Normal(model.config.P_mean, model.config.P_std).cdf(edges).diff()
    found = torch.bincount((t * n).round().long() - 1, minlength=n) / len(t)
    assert ((found - expected).abs() < 4 * (expected / len(t)).sqrt() + 1e-4).all()


def test_the_times_of_easy_tuning_come_together():
    """Geng et al.: r = 0 at first (the denoiser's own loss), then 1 - s_r / s = n(s) / q^(stage + 1)."""
    model, log_s = build("easy-consistency", PLANE), torch.linspace(-5, 4, 50)
    s, s_r = model.times(log_s, 0.0)
    assert not s_r[s < 1].any()
    stages = model.config.stages
    gaps = []
    for stage in range(stages):
        s, s_r = model.times(log_s, (stage + 0.5) / stages)
        gaps.append(1 - s_r / s)
        n = 1 + 8 / (1 + torch.exp(s))
        torch.testing.assert_close(gaps[-1], (n / 2 ** (stage + 1)).clamp_max(1), rtol=1e-4, atol=1e-6)
    assert all((b <= a).all() for a, b in pairwise(gaps))
    assert torch.equal(model.times(log_s, 1.0)[1], model.times(log_s, 1 - 1e-6)[1])


@pytest.mark.parametrize(
    ("name", "quiet", "loud"),
    [("consistency", 3, 1), ("consistency-training", 1, 1), ("easy-consistency", 1, 1), ("consistency-edm", 3, 1)],
)
def test_all_but_the_map_itself_is_computed_without_autograd_and_in_one_batch(name, quiet, loud):
    model, graded = build(name, IMAGES), []
    hook = nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: graded.append(torch.is_grad_enabled()) if type(module).__name__ == "UNet" else None
    )
    try:
        with count_calls() as count:
            list(model.updates(examples(IMAGES, 6), 0.5, Noise(0)))
    finally:
        hook.remove()
    assert (graded.count(False), graded.count(True)) == (quiet, loud)
    assert count.examples == 6 * count.calls == 6 * (quiet + loud)


def test_the_target_is_an_average_or_the_network_itself():
    recipe = catalogue.get("consistency")
    for decay in (0.95, 0.0):
        model = build(recipe, PLANE, config=dataclasses.replace(recipe.config, decay=decay))
        with torch.no_grad():
            for p in model.net.parameters():
                p.fill_(1.0)
            for p in model.target.parameters():
                p.zero_()
        model.move_target()
        model.move_target()
        assert all(torch.allclose(p, torch.full_like(p, 1 - decay**2)) for p in model.target.parameters())


# ------------------------------------------------------------------------------------------------------- bad input


def test_times_are_chosen_by_the_plan(gaussian):
    model = build("consistency", PLANE)
    z, seen = model.prior(4, Noise("z")), []
    plan = Plan("multistep", 3, (("times", "0.821/0.3"),))
    model.card.samplers[0].check(plan)
    with torch.no_grad():
        model.sample(z, plan, Noise("s"), watch=lambda t, _: seen.append(t))
    assert seen == [1.0, 0.821, 0.3, 0.0]


@pytest.mark.parametrize(
    ("steps", "times", "said"),
    [
        (3, "0.3/0.8", "falling times"),
        (3, "0.5/0.5", "falling times"),
        (3, "1.2/0.5", "falling times"),
        (3, "0.5/0", "falling times"),
        (3, "nan/0.5", "falling times"),
        (3, "0.5", "for 2 steps, not 3"),
        (2, 7.0, "falling times"),
        (2, "soon", "written 0.8/0.4, or even"),
        (0, "even", "1 to"),
    ],
)
@pytest.mark.parametrize("name", ["consistency", "mean-flow"])
def test_times_that_do_not_fall_are_refused_in_one_line(name, steps, times, said):
    sampler = catalogue.get(name).paradigm.card.samplers[0]
    with pytest.raises(BadInput, match=said) as caught:
        sampler.check(Plan(sampler.name, steps, (("times", times),)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("consistency", "decay", 1.0),
        ("consistency", "huber", 0.0),
        ("consistency-training", "steps_end", 100),
        ("consistency-training", "P_std", 0.0),
        ("easy-consistency", "q", 1.0),
        ("easy-consistency", "stages", 0),
        ("progressive-distillation", "steps_end", 16),
        ("progressive-distillation", "steps_start", 12),
    ],
)
def test_a_config_that_can_not_be_trained_is_refused(name, key, value):
    with pytest.raises(ValueError, match=key):
        dataclasses.replace(catalogue.get(name).config, **{key: value})


# -------------------------------------------------------------------------------------------- progressive distillation


def euler_gaussian(data: Mixture, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """An Euler step from t to s with the exact velocity of one Gaussian on the linear path."""
    x0, eps = data.posterior(x, 1 - t, t)
    return x + (s - t)[:, None] * (eps - x0)


class TwoSteps(Backbone):
    """The velocity of the student that takes two Euler steps of the exact teacher in one, h long."""

    def __init__(self, data: Mixture, h: float) -> None:
        super().__init__()
        self.data, self.h = data, h

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        x, t = x.double(), t.double()
        middle = euler_gaussian(self.data, x, t, t - self.h / 2)
        return (x - euler_gaussian(self.data, middle, t - self.h / 2, t - self.h)) / self.h


def test_the_student_that_takes_two_steps_in_one_has_no_loss(gaussian):
    model = build("progressive-distillation", PLANE)
    model.teacher = Exact(gaussian, *FLOW)
    model.net = TwoSteps(gaussian, 1 / 8)
    batch = Batch(gaussian.sample(500).double())
    (update,) = model.updates(batch, 0.1, Noise("p"))
    assert float(update.terms["steps"]) == 8
    assert update.after is None
    assert update.loss < 1e-10  # times and noise are single
    model.net = TwoSteps(gaussian, 1 / 4)
    assert next(model.updates(batch, 0.1, Noise("p"))).loss > 1e-5
    # And its N steps are the teacher's 2N.
    z = torch.randn(20, 2).double()
    model.net = TwoSteps(gaussian, 1 / 8)
    with torch.no_grad():
        student = model.sample(z, Plan("ddim", 8), Noise(0))
        model.net = Exact(gaussian, *FLOW)
        teacher = model.sample(z, Plan("ddim", 16), Noise(0))
    torch.testing.assert_close(student, teacher, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("parent", ["edm", "score-sde", "ddpm"])
def test_two_steps_in_one_for_a_parent_of_any_path(parent):
    """F~ is what the student must put out to step as its teacher does twice, in the parent's own prediction."""
    model = of_parent("progressive-distillation", parent).double()
    seen = {}

    class Probe(Backbone):
        def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            return seen.setdefault("F", torch.zeros_like(x))

    teacher, inner = model.denoiser_of(model.teacher, None), model.net
    x, _ = examples(PLANE, 32)
    model.net = Probe()
    (update,) = model.updates(Batch(x.double()), 0.1, Noise("p"))
    goal_square = float(update.loss)
    noise, h = Noise("p"), teacher.t_max / 8
    t = h * (1 + noise.integers(8, 32)).double()
    x_t = LINEAR.perturb(x.double(), noise.normal(32, 2).double(), t)
    with torch.no_grad():
        middle = x_t - h / 2 * teacher.velocity(x_t, t)
        end = middle - h / 2 * teacher.velocity(middle, t - h / 2)
    # The F with which one step of the student ends there: x0 = a x + b F and u = (x_t - x0) / t.
    a, b, *_ = teacher.prediction.coefficients(LINEAR, t)
    x0 = x_t - t[:, None] * (x_t - end) / h
    F = (x0 - a[:, None] * x_t) / b[:, None]
    assert goal_square == pytest.approx(float(F.square().mean()), rel=1e-5)
    model.net = inner


def test_ddim_on_the_linear_path_is_the_euler_scheduler_of_diffusers():
    model, z = build("progressive-distillation", PLANE).double(), torch.randn(16, 2).double()
    known = FlowMatchEulerDiscreteScheduler()
    known.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    with torch.no_grad():
        x = z
        for when, t in zip(known.timesteps, (1.0, 0.75, 0.5, 0.25)):
            u = model.denoiser().velocity(x, torch.full((16,), t, dtype=torch.float64))
            x = known.step(u, when, x).prev_sample.double()
        ours = model.sample(z, Plan("ddim", 4), Noise(0))
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


def test_rounds_halve_the_steps_and_the_student_becomes_the_teacher():
    model = build("progressive-distillation", PLANE, shaken=False)
    optimizers, parent = model.optimizers(), model.start.model
    assert all(torch.equal(a, b) for a, b in zip(model.teacher.parameters(), parent.net.parameters()))
    seen = []
    for k in range(16):
        before = [p.detach().clone() for p in model.net.parameters()]
        held = [p.clone() for p in model.teacher.parameters()]
        (update,) = model.updates(examples(PLANE, 8, k), k / 16, Noise(k))
        seen.append((int(update.terms["steps"]), update.settings["lr"] / model.config.lr))
        if k in (4, 8, 12):  # the first target is the new teacher's
            other = build("progressive-distillation", PLANE)
            other.net.load_state_dict(model.net.state_dict())
            other.teacher.load_state_dict(model.net.state_dict())
            other.round.fill_(k // 4)
            (expected,) = other.updates(examples(PLANE, 8, k), k / 16, Noise(k))
            assert torch.equal(update.loss, expected.loss)
        descend(optimizers, update)
        if update.after is not None:
            update.after()
        expected = before if k in (4, 8, 12) else held
        assert all(torch.equal(a, b) for a, b in zip(model.teacher.parameters(), expected)), k
    assert [n for n, _ in seen] == [8] * 4 + [4] * 4 + [2] * 4 + [1] * 4
    assert [lr for _, lr in seen[:4]] == [lr for _, lr in seen[12:]]
    assert seen[0][1] == 1.0


@pytest.mark.parametrize("stop", [3, 4, 5, 9])
def test_a_resumed_distillation_ends_with_the_same_bits(stop):
    """Also where it stops right before, at or after a round's end: teacher and round are part of the state."""

    def run(model, optimizers, steps):
        for k in steps:
            for update in model.updates(examples(PLANE, 8, k), k / 12, Noise(k)):
                descend(optimizers, update)
                if update.after is not None:
                    update.after()

    whole = build("progressive-distillation", PLANE)
    run(whole, whole.optimizers(), range(12))
    first, second = build("progressive-distillation", PLANE), build("progressive-distillation", PLANE, shaken=False)
    optimizers, others = first.optimizers(), second.optimizers()
    run(first, optimizers, range(stop))
    second.load_state_dict(first.state_dict())
    for a, b in zip(others.values(), optimizers.values()):
        a.load_state_dict(b.state_dict())
    run(second, others, range(stop, 12))
    after, expected = second.state_dict(), whole.state_dict()
    assert all(torch.equal(after[name], expected[name]) for name in expected)


def test_paths_of_parents_are_left_as_they_are():
    """A child asks on the linear path; the parent's own denoiser stays what it was."""
    model = of_parent("consistency", "edm")
    path: GaussianPath = model.teacher.model.denoiser().path
    train_a_little(model)
    assert model.teacher.model.denoiser().path == path != LINEAR
