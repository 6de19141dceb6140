"""The four adversarial games: losses and penalties against closed forms, their dynamics, spectral norms, the symptom."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from paradigms import catalogue
from paradigms.backbones import Backbone, spectral
from paradigms.backbones.resnet import PlainBlock
from paradigms.core.data import Batch, Space
from paradigms.core.noise import Noise
from paradigms.gan import diversity, gradient_penalty, lipschitz_penalty
from paradigms.testing import build, descend, examples

GAMES = ("gan", "gan-nonsaturating", "wgan-gp", "gan-hinge")
PLANE, MARKED = Space((2,)), Space((2,), 4)
IMAGES, LABELLED = Space((1, 8, 8), 0, 17), Space((3, 8, 8), 10, 17)


@pytest.fixture(autouse=True)
def fixed_draws():
    torch.manual_seed(0)


class Quadratic(Backbone):
    """D(x) = x^T A x / 2 + b x + c, whose gradient is A x + b for symmetric A."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[1.0, 0.4], [0.4, -2.0]]))
        self.b = nn.Parameter(torch.tensor([0.3, -0.7]))
        self.c = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return (0.5 * ((x @ self.a) * x).sum(1) + x @ self.b + self.c)[:, None]

    def gradient(self, x: Tensor) -> Tensor:
        return x @ self.a + self.b


def quadratic(name: str, **settings):
    """A small model of the plane with the quadratic critic, and 32 examples."""
    recipe = catalogue.get(name)
    model = build(name, PLANE, config=dataclasses.replace(recipe.config, **settings))
    model.critic = Quadratic()
    return model, torch.randn(32, 2, generator=torch.Generator().manual_seed(1))


def fakes(model) -> list[Tensor]:
    """Collects what the generator gives from now on."""
    seen: list[Tensor] = []
    model.generator.register_forward_hook(lambda m, args, out: seen.append(out.detach()))
    return seen


def step(model, x: Tensor, progress: float = 0.4, y: Tensor | None = None):
    """The updates of one step with the samples each was made of; nothing is descended."""
    seen = fakes(model)
    return [(update, seen[-1]) for update in model.updates(Batch(x, y), progress, Noise(0))]


def gradients(loss: Tensor, critic: Quadratic) -> tuple[Tensor, ...]:
    a, b = torch.autograd.grad(loss, [critic.a, critic.b], retain_graph=True)
    return a + a.T, b  # A is only known up to its symmetric part


# ------------------------------------------------------------------------------------------------------- penalties


def test_the_zero_centred_penalty_is_the_closed_form_with_its_gradient():
    critic, x = Quadratic(), torch.randn(16, 2)
    ours, truth = gradient_penalty(critic, x, None), critic.gradient(x).square().sum(1).mean()
    torch.testing.assert_close(ours, truth)
    for mine, exact in zip(gradients(ours, critic), gradients(truth, critic)):  # what a double backward is for
        torch.testing.assert_close(mine, exact)


def test_the_lipschitz_penalty_is_the_closed_form_on_the_segment():
    critic, x, fake, u = Quadratic(), torch.randn(16, 2), torch.randn(16, 2) + 3, torch.rand(16)
    ours = lipschitz_penalty(critic, x, fake, None, u)
    between = u[:, None] * x + (1 - u[:, None]) * fake
    truth = (critic.gradient(between).norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(ours, truth)
    for mine, exact in zip(gradients(ours, critic), gradients(truth, critic)):
        torch.testing.assert_close(mine, exact)
    for end, value in ((x, 1.0), (fake, 0.0)):
        at_end = (critic.gradient(end).norm(dim=1) - 1).square().mean()
        torch.testing.assert_close(lipschitz_penalty(critic, x, fake, None, torch.full((16,), value)), at_end)


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, 3.0])
def test_the_penalties_of_a_linear_critic_are_its_slope(slope):
    w = slope * F.normalize(torch.randn(192), dim=0).view(3, 8, 8) if slope else torch.zeros(3, 8, 8)
    w.requires_grad_(True)

    def critic(x: Tensor, y: Tensor | None) -> Tensor:
        return (x * w).flatten(1).sum(1, keepdim=True)

    x, fake = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    assert gradient_penalty(critic, x, None).item() == pytest.approx(slope**2, rel=1e-4)
    penalty = lipschitz_penalty(critic, x, fake, None, torch.rand(4))
    assert penalty.item() == pytest.approx((slope - 1) ** 2, rel=1e-4, abs=1e-5)
    assert torch.autograd.grad(penalty, w)[0].isfinite().all()  # the norm has no slope at 0


@pytest.mark.parametrize("space", [IMAGES, LABELLED, PLANE, MARKED])
def test_the_penalty_of_a_real_critic_equals_finite_differences(space):
    critic, (x, y) = build("gan", space).critic.double(), examples(space, 3)
    x, h = x.double(), 1e-5
    truth = 0.0
    for i in range(space.dim):
        e = torch.zeros(space.dim, dtype=torch.float64)
        e[i] = h
        e = e.view(space.shape)
        truth += ((critic(x + e, y) - critic(x - e, y)) / (2 * h)).square().mean().item()
    assert gradient_penalty(critic, x, y).item() == pytest.approx(truth, rel=1e-6)


# ---------------------------------------------------------------------------------------------------------- losses


def test_pairing_with_both_penalties():
    model, x = quadratic("gan", penalised=0.25)
    (critic, fake), (generator, other) = step(model, x, progress=0.4)
    D = model.critic
    pairing = torch.log1p(torch.exp(D(fake) - D(x))).mean()
    torch.testing.assert_close(critic.terms["critic"], pairing)
    r1, r2 = (D.gradient(v[:8]).square().sum(1).mean() for v in (x, fake))
    torch.testing.assert_close(critic.terms["r1"], r1)
    torch.testing.assert_close(critic.terms["r2"], r2)
    c = model.config
    gamma = 2 * c.gamma_end * (c.gamma / c.gamma_end) ** (0.5 * (1 + math.cos(math.pi * 0.4)))  # 2 dimensions
    torch.testing.assert_close(critic.loss, pairing + gamma / 2 * (r1 + r2))
    torch.testing.assert_close(generator.loss, torch.log1p(torch.exp(D(x) - D(other))).mean())
    for mine, exact in zip(gradients(critic.loss, D), gradients(pairing + gamma / 2 * (r1 + r2), D)):
        torch.testing.assert_close(mine, exact)


def test_penalties_on_a_part_of_the_batch_are_unbiased():
    """Their mean over the parts of a batch is the penalty on all of it."""
    model, x = quadratic("gan", penalised=1.0)
    (whole, fake), _ = step(model, x)
    part = [gradient_penalty(model.critic, v[i : i + 8], None) for v in (x, fake) for i in range(0, 32, 8)]
    torch.testing.assert_close(sum(part) / 4, whole.terms["r1"] + whole.terms["r2"])


def test_the_non_saturating_losses_are_cross_entropies_and_the_generators_has_the_labels_swapped():
    model, x = quadratic("gan-nonsaturating")
    (critic, fake), (generator, other) = step(model, x)
    D, bce = model.critic, F.binary_cross_entropy_with_logits
    truth = bce(D(x), torch.ones(32, 1)) + bce(D(fake), torch.zeros(32, 1))
    torch.testing.assert_close(critic.loss, truth)
    torch.testing.assert_close(generator.loss, bce(D(other), torch.ones(32, 1)))
    # At D = 0 everywhere the classifier's loss is 2 log 2, its value where samples are data.
    with torch.no_grad():
        for p in D.parameters():
            p.zero_()
    assert step(model, x)[0][0].loss.item() == pytest.approx(2 * math.log(2))


def test_the_wasserstein_losses():
    model, x = quadratic("wgan-gp", n_critic=4, batch=32, vector_penalty=7.0)
    *critic, (generator, other) = step(model, x)
    D = model.critic
    assert len(critic) == 4
    for (update, fake), part in zip(critic, x.chunk(4)):  # every critic step has data of its own
        assert update.module is D
        gap = D(fake).mean() - D(part).mean()
        penalty = (update.loss - gap) / 7.0
        ends = [(D.gradient(torch.lerp(fake, part, u)).norm(dim=1) - 1).square() for u in torch.linspace(0, 1, 33)]
        assert 0 < penalty < torch.stack(ends).amax(0).mean()
    torch.testing.assert_close(generator.loss, -D(other).mean())
    gap = D(part).mean() - D(fake).mean()  # of the last critic step
    torch.testing.assert_close(generator.terms["real"] - generator.terms["fake"], gap)
    torch.testing.assert_close(7.0 * generator.terms["penalty"], critic[-1][0].loss + gap)


def test_the_hinge_losses_and_their_optimum():
    model, x = quadratic("gan-hinge")
    x = 3 * x  # scores on both sides of the margin
    (critic, fake), (generator, other) = step(model, x)
    D = model.critic
    truth = (1 - D(x)).clamp(min=0).mean() + (1 + D(fake)).clamp(min=0).mean()
    assert 0 < (D(x) > 1).float().mean() < 1
    torch.testing.assert_close(critic.loss, truth)
    torch.testing.assert_close(generator.loss, -D(other).mean())


def test_the_best_hinge_critic_is_the_sign_of_the_density_ratio():
    """Lim & Ye 2017: D* = sign(p - q), and the loss there is 2 min(p, q) summed: found here by descent on a table."""
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    scores = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.SGD([scores], lr=0.05)
    model = build("gan-hinge", PLANE)
    counts = 10
    x, z = (torch.arange(4).repeat_interleave((counts * v).round().long()) for v in (p, q))

    class Table(Backbone):
        def forward(self, v: Tensor, y: Tensor | None = None) -> Tensor:
            return scores[v.long()]

    class Given(Backbone):
        def forward(self, v: Tensor, y: Tensor | None = None) -> Tensor:
            return z[:, None].float()

    model.critic, model.generator = Table(), Given()
    for _ in range(400):
        loss = next(model.updates(Batch(x[:, None].float()), 0.0, Noise(0))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(scores.detach(), (p - q).sign(), atol=0.06, rtol=0)
    assert loss.item() == pytest.approx(2 * torch.minimum(p, q).sum().item(), abs=0.05)


LIGHT = {"gan": {"gamma": 1e-6, "gamma_end": 1e-6}, "wgan-gp": {"penalty": 1e-6}}


@pytest.mark.parametrize("name", GAMES)
def test_descent_opens_the_gap_and_then_lifts_the_samples(name):
    model, x = quadratic(name, **LIGHT.get(name, {}))
    updates, D = model.updates(Batch(x), 0.4, Noise(0)), model.critic

    def scores() -> tuple[float, float]:
        with torch.no_grad():
            return D(x).mean().item(), D(model.draw(500, None, Noise(9))).mean().item()

    for update in updates:
        parameters = list(update.module.parameters())
        grads = torch.autograd.grad(update.loss, parameters, allow_unused=True)
        (real, fake), sizes = scores(), [0 if g is None else g.abs().max().item() for g in grads]
        with torch.no_grad():
            for p, g in zip(parameters, grads):
                p.sub_(0.0 if g is None else 0.02 / max(sizes) * g)
        after = scores()
        if update.module is D:
            assert after[0] - after[1] > real - fake
        else:
            assert after[1] > fake


@pytest.mark.parametrize("name", ["gan", "wgan-gp"])
def test_losses_that_compare_scores_do_not_see_a_common_shift(name):
    model, x = quadratic(name)
    first = [u.loss.item() for u, _ in step(model, x)][:-1]
    with torch.no_grad():
        model.critic.c.add_(10)
    assert [u.loss.item() for u, _ in step(model, x)][:-1] == pytest.approx(first, rel=1e-4)


@pytest.mark.parametrize("name", GAMES)
def test_the_critic_sees_fixed_samples_and_the_generator_the_stepped_critic(name):
    model, x = quadratic(name)
    seen, updates = fakes(model), model.updates(Batch(x), 0.4, Noise(0))
    for update in updates:
        for p in (*model.generator.parameters(), *model.critic.parameters()):
            p.grad = None
        if update.module is model.generator:
            break
        update.loss.backward()  # not only into the critic: nothing else may be reached
        assert all(p.grad is None for p in model.generator.parameters())
        assert model.critic.a.grad is not None
        with torch.no_grad():
            model.critic.b.add_(torch.tensor([2.0, -1.0]))  # the critic's step
    D, fake = model.critic, seen[-1]
    truth = {
        "gan": F.softplus(D(x[: len(fake)]) - D(fake)),
        "gan-nonsaturating": F.softplus(-D(fake)),
        "wgan-gp": -D(fake),
        "gan-hinge": -D(fake),
    }[name]
    torch.testing.assert_close(update.loss, truth.mean())
    update.loss.backward(inputs=list(model.generator.parameters()))
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.generator.parameters())
    assert next(updates, None) is None


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("space", [LABELLED, MARKED])
def test_a_penalised_critics_step_moves_the_critic_alone(name, space):
    model = build(name, space).train()
    optimizers = model.optimizers()
    update = next(model.updates(examples(space, 8), 0.2, Noise(0)))
    before = {k: v.clone() for k, v in model.core.state_dict().items()}
    descend(optimizers, update)
    moved = {k for k, v in model.core.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all(k.startswith("critic.") for k in moved)
    assert not any(k.endswith((".u", ".v")) for k in moved)


# -------------------------------------------------------------------------------------------------------- dynamics


class Slope(Backbone):
    """D(x) = psi x, of the Dirac-GAN."""

    def __init__(self) -> None:
        super().__init__()
        self.psi = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.psi * x


class Point(Backbone):
    """G(z) = theta."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(1.0))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.theta.expand(len(z), 1)


def dirac(name: str, gamma: float, steps: int, lr: float = 0.1) -> Tensor:
    """Distances from the equilibrium (0, 0) along plain gradient descent on our losses; data is the point 0."""
    config = catalogue.get(name).config
    if name == "gan":
        config = dataclasses.replace(config, gamma=gamma, gamma_end=gamma, penalised=1.0)
    model = build(name, Space((1,)), config=config)
    model.generator, model.critic = Point(), Slope()
    path = []
    for k in range(steps):
        for update in model.updates(Batch(torch.zeros(4, 1)), 0.0, Noise(k)):
            (p,) = update.module.parameters()
            (g,) = torch.autograd.grad(update.loss, p)
            with torch.no_grad():
                p.sub_(lr * g)
        path.append(math.hypot(model.generator.theta.item(), model.critic.psi.item()))
    return torch.tensor(path)


def test_the_penalised_game_of_two_points_converges_and_the_bare_one_does_not():
    """Mescheder et al. 2018, section 2 and lemma 2.3: without a penalty the parameters circle; with R1 they spiral in."""
    free, held, bare = dirac("gan", 1e-9, 200), dirac("gan", 0.4, 200), dirac("gan-nonsaturating", 0.0, 200)
    assert held[-1] < 0.01
    assert free[-60:].min() > 0.5
    assert bare[-60:].min() > 0.5


def test_the_penalised_game_shrinks_at_the_rate_of_its_linearised_step():
    """Near the equilibrium psi <- psi - lr (theta / 2 + 2 gamma psi), both penalties counted; theta <- theta + lr psi / 2."""
    gamma, lr = 0.6, 0.1
    path = dirac("gan", gamma, 300, lr)
    critic = torch.tensor([[1.0, 0.0], [-lr / 2, 1 - 2 * gamma * lr]], dtype=torch.float64)  # of (theta, psi)
    generator = torch.tensor([[1.0, lr / 2], [0.0, 1.0]], dtype=torch.float64)
    rate = torch.linalg.eigvals(generator @ critic).abs().max().log().item()
    assert math.log(path[299] / path[200]) / 99 == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize("name", GAMES)
def test_schedules_end_where_they_should(name):
    model, batch = build(name, PLANE), examples(PLANE, 8)
    config = model.config
    critic_lr = getattr(config, "critic_lr", config.lr)
    for progress, share in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
        for update in model.updates(batch, progress, Noise(0)):
            rate = critic_lr if update.module is model.critic else config.lr
            assert update.settings["lr"] == pytest.approx(share * rate, abs=1e-12)
    if name == "gan-nonsaturating":
        assert critic_lr < config.lr
        assert update.settings["betas"] == (config.beta1, config.beta2)
    if name == "gan":
        first, last = (next(model.updates(batch, p, Noise(0))) for p in (0.0, 1.0))
        assert first.settings["betas"] == pytest.approx((0.0, config.beta2))
        assert last.settings["betas"] == pytest.approx((0.0, config.beta2_end))
        for update, gamma in ((first, config.gamma), (last, config.gamma_end)):
            penalty = update.terms["r1"] + update.terms["r2"]
            torch.testing.assert_close(update.loss, update.terms["critic"] + gamma * PLANE.dim / 2 * penalty)


# --------------------------------------------------------------------------------------------------- spectral norm


def weights(critic: nn.Module) -> dict[str, tuple[nn.Module, Tensor]]:
    """The normalised weights of a critic as matrices."""
    found = {}
    for name, module in critic.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            found[name] = (module, module.weight.flatten(1))
    return found


@pytest.mark.parametrize("space", [LABELLED, MARKED])
def test_every_weight_of_the_hinge_critic_has_spectral_norm_one(space):
    critic = build("gan-hinge", space).critic  # shaken: the vectors are of other weights
    plain = [n for n, m in critic.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Embedding)]
    assert set(plain) == set(weights(critic))
    off = max(abs(torch.linalg.svdvals(w)[0].item() - 1) for _, w in weights(critic).values())
    for _ in range(300):
        spectral.power_iteration(critic)
    near = max(abs(torch.linalg.svdvals(w)[0].item() - 1) for _, w in weights(critic).values())
    assert near < 1e-3 < off


def test_a_spectral_gradient_is_the_papers():
    """d/dW of sum(C * W/sigma) = (C - <C, W> u v^T / sigma) / sigma at the true u, v (Miyato et al. 2018, eq. 10)."""
    layer = nn.Linear(5, 4).double()
    c = torch.randn(4, 5, dtype=torch.float64)
    spectral.normalise(layer)
    for _ in range(500):
        spectral.power_iteration(layer)
    weight = layer.parametrizations.weight.original
    u, s, vh = torch.linalg.svd(weight.detach())
    (ours,) = torch.autograd.grad((c * layer.weight).sum(), weight)
    truth = (c - (c * weight).sum() / s[0] * torch.outer(u[:, 0], vh[0])) / s[0]
    torch.testing.assert_close(ours, truth, rtol=1e-6, atol=1e-8)


def test_the_vectors_of_the_power_iteration_move_only_after_the_step():
    model = build("gan-hinge", IMAGES).train()
    optimizers = model.optimizers()

    def vectors() -> list[Tensor]:
        return [b.clone() for n, b in model.critic.named_buffers() if n.endswith((".u", ".v"))]

    before = vectors()
    assert len(before) == 2 * len(weights(model.critic))
    update = next(model.updates(examples(IMAGES), 0.2, Noise(0)))
    descend(optimizers, update)
    model.critic(examples(IMAGES).x)
    assert all(torch.equal(a, b) for a, b in zip(before, vectors()))
    update.after()
    assert not all(torch.equal(a, b) for a, b in zip(before, vectors()))
    assert all(b.norm().item() == pytest.approx(1, abs=1e-5) for b in vectors())


def test_a_conditional_critic_is_a_projection():
    """Miyato & Koyama 2018, eq. 3: D(x, y) = psi(phi(x)) + e(y)^T phi(x), so scores are linear in e."""
    critic, (x, y) = build("gan", LABELLED).critic, examples(LABELLED, 5)
    first = critic(x, y)
    rest = first - critic(x, None)
    assert rest.abs().min() > 0
    with torch.no_grad():
        critic.project.weight.mul_(3)
    torch.testing.assert_close(critic(x, y) - critic(x, None), 3 * rest, rtol=1e-4, atol=1e-4)


def test_a_plain_block_starts_as_its_skip_and_its_branch_is_scaled_by_the_depth():
    """Fix-up (Zhang et al. 2019): the last layer at 0, the first of m = 2 layers scaled by L^(-1/(2m - 2))."""
    torch.manual_seed(0)
    x = torch.randn(2, 16, 5, 5)
    assert torch.equal(PlainBlock(16, 16, 4)(x), x)
    one, nine = PlainBlock(64, 64, 1).conv1.weight, PlainBlock(64, 64, 9).conv1.weight
    assert (one.std() / nine.std()).item() == pytest.approx(3, rel=0.05)


# --------------------------------------------------------------------------------------------------------- symptom


def test_diversity_is_the_ratio_of_distances_to_the_nearest_sample():
    real = torch.tensor([[0.1], [1.0], [3.2]])  # to the nearest sample: .1, .5, .8
    fake = torch.tensor([[0.0], [0.5], [4.0]])  # to the nearest other: .5, .5, 3.5
    assert diversity(fake, real).item() == pytest.approx((4.5 / 3) / (1.4 / 3))
    assert diversity(7 * fake, 7 * real).item() == pytest.approx((4.5 / 3) / (1.4 / 3))
    assert diversity(fake[:1], real).item() == 1
    assert diversity(torch.zeros(3, 1), real).item() == 0
    assert diversity(fake, fake).isfinite()


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])
def test_diversity_sees_lost_modes_even_where_those_kept_are_as_wide_as_they_should_be(shape):
    """Ten modes of data: samples of all ten have 1 (32 among 32 against 31: a little more), of fewer ever less."""
    centres, draw = torch.randn(10, *shape), torch.Generator().manual_seed(1)

    def batch(modes: int) -> Tensor:
        which = torch.randint(modes, (32,), generator=draw)
        return centres[which] + 0.2 * torch.randn(32, *shape, generator=draw)

    found = [torch.stack([diversity(batch(k), batch(10)) for _ in range(200)]).mean().item() for k in (1, 2, 4, 10)]
    assert found == sorted(found)
    assert found[1] < 0.5
    assert found[3] == pytest.approx(1.05, abs=0.05)


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("space", [IMAGES, MARKED])
def test_the_symptom_names_a_collapse_and_is_silent_on_a_good_model(name, space):
    model, batch = build(name, space), examples(space, 40)

    class Given(Backbone):
        def __init__(self, rows: int) -> None:
            super().__init__()
            self.x = nn.Parameter(examples(space, 1000, seed=1).x[:rows])

        def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
            return self.x[(z[:, 0].abs() * 1e4).long() % len(self.x)]

    def said(rows: int) -> str | None:
        model.generator = Given(rows)
        terms: dict[str, float] = {}
        for update in model.updates(batch, 0.5, Noise(0)):
            terms |= {k: v.item() for k, v in update.terms.items()}
        assert {"real", "fake", "critic", "generator", "diversity"} <= set(terms)
        return model.symptom(terms)

    assert "collapse" in said(1)  # ignores z
    assert "collapse" in said(3)  # three samples only, far apart
    assert said(1000) is None  # as good as data


@pytest.mark.parametrize("name", GAMES)
def test_the_symptom_names_lost_modes(name):
    """Of ten modes two, each as wide as it should be; and all ten."""
    model, centres = build(name, IMAGES), torch.rand(10, 1, 8, 8) * 2 - 1

    def batch(modes: int, n: int) -> Tensor:
        return centres[torch.arange(n) % modes] + 0.3 * torch.randn(n, 1, 8, 8)

    def said(modes: int) -> str | None:
        class Given(Backbone):
            def __init__(self) -> None:
                super().__init__()
                self.x = nn.Parameter(batch(modes, 1000))

            def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
                return self.x[(z[:, 0].abs() * 1e4).long() % len(self.x)]

        model.generator = Given()
        rounds = [{k: v.item() for u in model.updates(Batch(batch(10, 160)[torch.randperm(160)]), 0.5, Noise(i))
                   for k, v in u.terms.items()} for i in range(10)]  # fmt: skip
        return model.symptom({key: sum(terms[key] for terms in rounds) / 10 for key in rounds[0]})

    assert "mode collapse" in said(2)
    assert said(10) is None


@pytest.mark.parametrize("name", GAMES)
def test_the_symptom_names_a_runaway_critic(name):
    model = build(name, PLANE)
    fine = {"critic": 0.6, "generator": 0.7, "real": 0.2, "fake": -0.2, "diversity": 0.9, "penalty": 0.05}
    assert model.symptom(fine) is None
    won = fine | {"critic": 1e-3, "real": 40.0, "fake": -40.0, "penalty": 100.0}
    assert "runaway critic" in model.symptom(won)
    assert model.symptom({}) is None  # a log without a line


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        *[(name, "lr", 0.0) for name in GAMES],
        *[(name, "batch", 0) for name in GAMES],
        *[(name, "latent", 0) for name in GAMES],
        *[(name, "beta2", 1.0) for name in GAMES],
        *[(name, "backbone", "conv") for name in GAMES],
        ("gan", "gamma", 0.0),
        ("gan", "gamma_end", -1.0),
        ("gan", "penalised", 0.0),
        ("gan", "penalised", 1.5),
        ("gan", "beta2_end", 1.0),
        ("gan-nonsaturating", "beta1", -0.1),
        ("gan-nonsaturating", "critic_lr", 0.0),
        ("wgan-gp", "n_critic", 0),
        ("wgan-gp", "n_critic", 7),
        ("wgan-gp", "penalty", 0.0),
        ("gan-hinge", "beta1", 1.0),
    ],
)
def test_a_config_refuses_what_can_not_be_trained(name, key, value):
    with pytest.raises(ValueError, match=key):
        dataclasses.replace(catalogue.get(name).config, **{key: value})


def test_the_games_are_variants_of_one_row():
    assert {catalogue.get(name).variant_of for name in GAMES[1:]} == {"gan"}
    assert catalogue.get("gan").variant_of == ""


@pytest.mark.parametrize("name", GAMES)
def test_z_has_no_more_dimensions_than_x(name):
    assert build(name, PLANE).prior(3, Noise(0)).shape == (3, 2)
    assert build(name, IMAGES).prior(3, Noise(0)).shape == (3, catalogue.get(name).config.latent)
    paradigm, config = catalogue.get(name).paradigm, catalogue.get(name).config
    for space, most in ((PLANE, 64), (IMAGES, 64), (LABELLED, 192)):
        assert paradigm.refuses(dataclasses.replace(config, latent=most), space) is None
        assert f"at most {most}" in paradigm.refuses(dataclasses.replace(config, latent=most + 1), space)
