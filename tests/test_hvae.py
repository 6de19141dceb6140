"""The ladder of latents: its bound and its samples against closed forms, against enumeration, and level by level."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from bench.loop import Loop
from paradigms import catalogue
from paradigms.backbones import Backbone, count_calls
from paradigms.backbones.ladder import BottomUp, Double, Halve, Pointwise, resolutions
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Kind, Plan
from paradigms.hierarchical_vae import ALL, Gaussian, HierarchicalVAE, Level
from paradigms.testing import build, examples, shake

HVAE = catalogue.get("hvae")
DIGITS = Space((1, 8, 8), 0, 17)
SMALL = dataclasses.replace(HVAE.config, latent=2, dropout=0.0)
# Every image can be listed: one resolution of two levels; and three resolutions, with odd sides.
TINY = [Space((1, 2, 2), 0, 3), Space((1, 1, 3), 0, 4)]
tiny = pytest.mark.parametrize("space", TINY, ids=["2x2", "1x3"])


def iwae(k: int) -> Kind:
    return Kind("iwae", "≤", k + 1, (("K", k),))


def estimate(model: HierarchicalVAE, x: Tensor, kind: Kind, *coords: object, y: Tensor | None = None):
    with torch.no_grad():
        return model.log_likelihood(x, kind, Noise("likelihood", *coords), y)


def options(**chosen: float) -> tuple[tuple[str, float], ...]:
    return tuple(chosen.items())


def draw(model, z: Tensor, sampler: str = "mean", seed: int = 0, **chosen: float) -> Tensor:
    with torch.no_grad():
        return model.sample(z, Plan(sampler, 1, options(**chosen)), Noise("x", seed))


def all_images(space: Space) -> Tensor:
    every = torch.tensor(list(itertools.product(range(space.levels), repeat=space.dim)))
    return space.encode(every.view(-1, *space.shape))


def trained(space: Space, x: Tensor, steps: int, config=SMALL, width: int = 16) -> HierarchicalVAE:
    model = build(HVAE, space, width, config=dataclasses.replace(config, batch=64), shaken=False)
    loop = Loop(model, Data(space.decode(x), None, space), 64, steps, ("test", "hvae", 0))
    for k in range(steps):
        loop.step(k)
    assert loop.skipped == 0
    return model.eval()


@pytest.fixture(scope="module")
def fitted() -> dict[Space, HierarchicalVAE]:
    """Ladders that know a little of a few images; their posteriors are made wider, so that no weight is rare and large."""
    models = {}
    for space in TINY:
        models[space] = trained(space, all_images(space)[1::12], 120, dataclasses.replace(SMALL, warm_up=0.6))
        with torch.no_grad():
            for block in itertools.chain(*models[space].ladder.down.rows):
                block.posterior.last.bias[SMALL.latent :] += 0.3
    return models


def bounds(model: HierarchicalVAE, kind: Kind, repeats: int) -> Tensor:
    """(repeats, images) independent estimates for every image of the model's space."""
    x = all_images(model.space)
    return estimate(model, x.repeat(repeats, 1, 1, 1), kind, kind).value.view(repeats, len(x)).double()


# ------------------------------------------------------------------------------------------- a linear Gaussian ladder


class Linear(nn.Module):
    """z1 ~ N(0, 1), z2 ~ N(a z1 + b, s^2), x = c z2 + d + r eps in two dimensions, and the exact posterior of both."""

    a, b, s, r = 1.3, -0.4, 0.7, 0.5
    c, d = torch.tensor([0.8, -1.1]), torch.tensor([0.3, 0.2])

    class Down(nn.Module):
        shapes = ((1, 1, 1), (1, 1, 1))

    def __init__(self) -> None:
        super().__init__()
        self.down, self.dim = self.Down(), 2

    def encode(self, x: Tensor, y: Tensor | None) -> list[Tensor]:
        return [x]

    def decode(self, eps: Tensor, y: Tensor | None, seen: list[Tensor] | None = None, informed: int = ALL):
        level1 = self.level(eps[:, :1], torch.zeros(len(eps), 1), 1.0, seen if informed > 0 else None, self.a)
        level2 = self.level(eps[:, 1:], self.a * level1.z + self.b, self.s, seen if informed > 1 else None, None)
        mean = level2.z * self.c + self.d
        return torch.cat([mean, torch.full_like(mean, math.log(self.r))], dim=1), [level1, level2]

    def level(self, eps: Tensor, mean: Tensor, sd: float, seen: list[Tensor] | None, slope: float | None) -> Level:
        """z ~ N(mean, sd^2) seen through x = u z + v + N(0, covariance): directly, or through the level below."""
        p = q = Gaussian(mean, torch.full_like(mean, math.log(sd)))
        if seen is not None:
            u, v = (self.c, self.d) if slope is None else (self.c * slope, self.c * self.b + self.d)
            covariance = self.r**2 * torch.eye(2)
            if slope is not None:
                covariance = covariance + self.s**2 * torch.outer(self.c, self.c)
            gain = torch.linalg.solve(covariance, u)
            precision = 1 / sd**2 + gain @ u
            q_mean = (mean / sd**2 + (seen[0] - v) @ gain[:, None]) / precision
            q = Gaussian(q_mean, torch.full_like(mean, -0.5 * math.log(precision)))
        return Level(p, q, q.mean + q.log_sd.exp() * eps)

    def log_prob(self, x: Tensor) -> Tensor:
        variance = self.a**2 + self.s**2
        covariance = variance * torch.outer(self.c, self.c) + self.r**2 * torch.eye(2)
        return torch.distributions.MultivariateNormal(self.c * self.b + self.d, covariance).log_prob(x)


@pytest.fixture
def linear() -> HierarchicalVAE:
    model = build(HVAE, Space((2,)))
    model.ladder = Linear()
    return model.eval()


def test_with_the_exact_posterior_every_draw_gives_the_exact_likelihood(linear):
    """p(x | z) p(z) / q(z | x) = p(x) whatever z is: the importance-weighted bound has no error and no variance."""
    x = examples(Space((2,)), 50).x
    for k in (1, 7):
        torch.testing.assert_close(estimate(linear, x, iwae(k)).value, linear.ladder.log_prob(x), rtol=1e-4, atol=1e-4)


def test_with_the_exact_posterior_the_elbo_is_the_exact_likelihood(linear):
    x, n = examples(Space((2,)), 5, seed=1).x, 20_000
    draws = estimate(linear, x.repeat(n, 1), Kind("elbo", "≤", 2)).value.view(n, 5).double()
    error = draws.std(0) / math.sqrt(n)
    assert error.max() < 0.02  # small enough to tell a wrong factor of a KL
    assert ((draws.mean(0) - linear.ladder.log_prob(x)).abs() < 5 * error).all()


def test_a_wrong_posterior_is_below_the_likelihood(linear, monkeypatch):
    x = examples(Space((2,)), 2000).x
    monkeypatch.setattr(linear.ladder, "encode", lambda x, y: [x + 2])
    gap = linear.ladder.log_prob(x) - estimate(linear, x, Kind("elbo", "≤", 2)).value
    assert gap.mean() > 5 * gap.std() / math.sqrt(len(x))


def test_temperature_scales_every_levels_deviation(linear):
    z = linear.prior(100_000, Noise("z"))
    for t in (0.0, 0.5, 1.0):
        x = draw(linear, z, temperature=t)
        sd = t * math.hypot(Linear.a, Linear.s) * Linear.c.abs()
        torch.testing.assert_close(x.std(0), sd, rtol=0.02, atol=1e-6)
        torch.testing.assert_close(x.mean(0), Linear.c * Linear.b + Linear.d, rtol=0, atol=0.02)
    sampled = draw(linear, z, "sample")
    exact = torch.outer(Linear.c, Linear.c) * (Linear.a**2 + Linear.s**2) + Linear.r**2 * torch.eye(2)
    torch.testing.assert_close(sampled.T.cov(), exact, rtol=0.03, atol=0.03)


def test_levels_not_drawn_stand_at_their_priors_mean(linear):
    z = linear.prior(7, Noise("z"))
    torch.testing.assert_close(draw(linear, z, levels=1), (Linear.a * z[:, :1] + Linear.b) * Linear.c + Linear.d)
    torch.testing.assert_close(draw(linear, z, levels=0), (Linear.b * Linear.c + Linear.d).expand(7, 2))
    assert torch.equal(draw(linear, z, levels=2), draw(linear, z))


def test_reconstruction_takes_the_first_levels_from_the_posterior(linear):
    """With z_1 from q and z_2 at its prior's mean, E x = c (a E[z_1 | x] + b) + d."""
    x, n = examples(Space((2,)), 3).x, 20_000
    _, (first, _) = linear.ladder.decode(torch.zeros(3, 2), None, [x])
    many = linear.reconstruct(x.repeat(n, 1), 1, Noise("r"), temperature=0.0).view(n, 3, 2).mean(0)
    torch.testing.assert_close(many, (Linear.a * first.q.mean + Linear.b) * Linear.c + Linear.d, rtol=0.02, atol=0.02)
    at_mean = linear.reconstruct(x, 0, Noise(0), temperature=0.0)
    torch.testing.assert_close(at_mean, (Linear.b * Linear.c + Linear.d).expand(3, 2))


# ----------------------------------------------------------------------------------------------------- level by level


def random_level(*shape: int) -> tuple[Level, Normal, Normal]:
    torch.manual_seed(0)
    p, q = (Gaussian(torch.randn(*shape), torch.randn(*shape)) for _ in range(2))
    return Level(p, q, torch.randn(*shape)), Normal(p.mean, p.log_sd.exp()), Normal(q.mean, q.log_sd.exp())


def test_the_kl_and_the_log_ratio_are_torchs():
    level, p, q = random_level(5, 3, 2, 4)
    torch.testing.assert_close(level.kl(), kl_divergence(q, p).sum((1, 2, 3)), rtol=1e-5, atol=1e-3)
    ratio = (p.log_prob(level.z) - q.log_prob(level.z)).sum((1, 2, 3))
    torch.testing.assert_close(level.log_ratio(), ratio, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("space", [DIGITS, Space((3, 5, 7), 0, 256), Space((2,))], ids=["digits", "odd", "vectors"])
def test_the_parts_of_the_bound_are_the_levels_of_the_pass(space):
    model, x = build(HVAE, space).eval(), examples(space, 6).x
    found = estimate(model, x, Kind("elbo", "≤", 2))
    eps = Noise("likelihood").normal(6, model.ladder.dim)
    with torch.no_grad():
        out, passed = model.ladder.decode(eps, None, model.ladder.encode(x, None))
        log_px = model.log_prob_x(x, out)
    kls = [v for name, v in found.terms.items() if name.startswith("kl_")]
    assert len(kls) == len(passed) == len(model.ladder.down.shapes)
    for kl, level in zip(kls, passed):
        p, q = (Normal(g.mean, g.log_sd.exp()) for g in (level.p, level.q))
        torch.testing.assert_close(kl, kl_divergence(q, p).flatten(1).sum(1), rtol=1e-4, atol=1e-3)
        assert (kl > 0).all()
    torch.testing.assert_close(found.terms["reconstruction"], -log_px)
    torch.testing.assert_close(found.value, log_px - sum(kls), rtol=1e-5, atol=1e-3)
    # The same pass as one importance weight.
    weight = log_px
    for level in passed:
        p, q = (Normal(g.mean, g.log_sd.exp()) for g in (level.p, level.q))
        weight = weight + (p.log_prob(level.z) - q.log_prob(level.z)).flatten(1).sum(1)
    torch.testing.assert_close(estimate(model, x, iwae(1)).value, weight, rtol=1e-4, atol=1e-2)


def test_a_posterior_equal_to_the_prior_has_no_kl():
    model, x = build(HVAE, DIGITS, shaken=False).eval(), examples(DIGITS, 3).x
    with torch.no_grad():
        for row in model.ladder.down.rows:
            for block in row:
                block.posterior.last.weight.zero_()
        terms = estimate(model, x, Kind("elbo", "≤", 2)).terms
    assert all(torch.equal(v, torch.zeros(3)) for name, v in terms.items() if name != "reconstruction")
    # Nor has a level that was not shown x, whatever the weights.
    shake(model)
    with torch.no_grad():
        eps = model.prior(3, Noise("z"))
        _, passed = model.ladder.decode(eps, None, model.ladder.encode(x, None), informed=2)
    zero = [torch.equal(level.kl(), torch.zeros(3)) for level in passed]
    assert zero == [False] * 2 + [True] * (len(passed) - 2)
    assert all(torch.equal(level.log_ratio(), torch.zeros(3)) for level in passed[2:])


def test_a_level_sees_those_above_it_and_none_below():
    model = build(HVAE, DIGITS).eval()
    ends = list(itertools.accumulate(math.prod(shape) for shape in model.ladder.down.shapes))
    z = model.prior(2, Noise("z"))
    with torch.no_grad():
        _, before = model.ladder.decode(z, None)
        for l, (start, end) in enumerate(zip([0, *ends], ends)):
            other = z.clone()
            other[:, start:end] += 1
            _, after = model.ladder.decode(other, None)
            same = [torch.equal(a.p.mean, b.p.mean) for a, b in zip(after, before)]
            assert same == [True] * (l + 1) + [False] * (len(ends) - l - 1)


def test_free_levels_are_respected():
    """With `levels` = k the eps of the first k matter, the others' do not; at temperature 0 none does."""
    model = build(HVAE, DIGITS).eval()
    sizes = [math.prod(shape) for shape in model.ladder.down.shapes]
    z, other = (model.prior(4, Noise(name)) for name in "ab")
    for k in range(len(sizes) + 1):
        drawn = sum(sizes[:k])
        below = torch.cat([z[:, :drawn], other[:, drawn:]], dim=1)
        assert torch.equal(draw(model, z, levels=k), draw(model, below, levels=k))
        if k:
            last = drawn - sizes[k - 1]
            above = torch.cat([z[:, :last], other[:, last:drawn], z[:, drawn:]], dim=1)
            assert not torch.equal(draw(model, z, levels=k), draw(model, above, levels=k))
    assert torch.equal(draw(model, z, temperature=0.0), draw(model, other, temperature=0.0))
    assert torch.equal(draw(model, z, "sample", temperature=0.0), draw(model, other, "sample", temperature=0.0))
    assert torch.equal(draw(model, z, levels=0), draw(model, z, temperature=0.0))


# -------------------------------------------------------------------------------------------------------- enumeration


@pytest.mark.heavy
@tiny
def test_the_weights_are_unbiased_for_a_distribution_over_all_images(fitted, space):
    """E exp(IWAE-K) = p(x), so the sum over every image is 1 on average; the bound's own sum is below."""
    sums = bounds(fitted[space], iwae(8), 256).exp().sum(1)
    error = sums.std() / math.sqrt(len(sums))
    assert error < 0.03
    assert abs(sums.mean() - 1) < 5 * error
    assert bounds(fitted[space], Kind("elbo", "≤", 2), 64).mean(0).exp().sum() < 1


@pytest.mark.heavy
@tiny
def test_samples_have_the_likelihoods_frequencies(fitted, space):
    """Chi-square of 10,000 samples against E exp(IWAE-8), with the error of both; false alarms: 1 in 10,000 seeds."""
    model, n = fitted[space], 10_000
    with torch.no_grad():
        x = model.sample(model.prior(n, Noise("z")), Plan("sample"), Noise("x"))
    place = space.levels ** torch.arange(space.dim - 1, -1, -1)
    seen = torch.bincount((space.decode(x).flatten(1).long() * place).sum(1), minlength=space.levels**space.dim)
    masses = bounds(model, iwae(8), 256).exp()
    often = n * masses.mean(0) > 10  # the others are one class

    def pooled(counts: Tensor) -> Tensor:
        return torch.cat([counts[..., often], counts[..., ~often].sum(-1, keepdim=True)], dim=-1)

    expected, error = n * pooled(masses).mean(0), n * pooled(masses).std(0) / math.sqrt(len(masses))
    assert len(expected) > 10
    chi = ((pooled(seen.double()) - expected).square() / (expected + error.square())).sum()
    assert chi < stats.chi2.ppf(1 - 1e-4, len(expected) - 1)


@pytest.mark.heavy
@tiny
def test_more_weights_are_tighter(fitted, space):
    """In expectation ELBO = IWAE-1 <= IWAE-4 <= IWAE-32 (Burda et al. 2016, theorem 1), on average over the images."""
    kinds = (Kind("elbo", "≤", 2), iwae(1), iwae(4), iwae(32))
    means = [bounds(fitted[space], kind, 64).mean(1) for kind in kinds]
    gaps = [b - a for a, b in itertools.pairwise(means)]
    errors = [gap.std() / math.sqrt(len(gap)) for gap in gaps]
    assert abs(gaps[0].mean()) < 4 * errors[0]
    assert all(gap.mean() > 4 * error for gap, error in zip(gaps[1:], errors[1:]))


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.heavy
def test_reconstructions_come_nearer_level_by_level():
    space = Space((1, 4, 4), 0, 5)
    x = examples(space, 24).x
    model = trained(space, x, 250, dataclasses.replace(SMALL, warm_up=1.0), 24)
    count = len(model.ladder.down.shapes)
    with torch.no_grad():
        errors = [float((model.reconstruct(x, k, Noise("r")) - x).square().mean()) for k in range(count + 1)]
        # Nothing of x is known at k = 0.
        assert torch.equal(model.reconstruct(x, 0, Noise("r")), model.reconstruct(x.flip(0), 0, Noise("r")))
    assert errors[count] < 0.3 * errors[0]
    assert errors[count] < 0.5 * x.var()


def test_the_kls_weight_rises_with_progress():
    config = dataclasses.replace(SMALL, warm_up=0.5)
    model, batch = build(HVAE, DIGITS, config=config), examples(DIGITS, 4)
    for progress, beta in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)):
        (update,) = model.updates(batch, progress, Noise(0))
        kl = sum(v for name, v in update.terms.items() if name.startswith("kl_"))
        torch.testing.assert_close(update.loss * DIGITS.dim, update.terms["reconstruction"] + beta * kl)


def test_exploding_steps_are_skipped_and_counted():
    data = Data(DIGITS.decode(examples(DIGITS, 32).x), None, DIGITS)
    for skip, skipped in ((1e-6, 3), (1e6, 0)):
        model = build(HVAE, DIGITS, config=dataclasses.replace(SMALL, skip=skip), shaken=False)
        before = [p.detach().clone() for p in model.parameters()]
        loop = Loop(model, data, 8, 3, ("test", "hvae", 0))
        for k in range(3):
            loop.step(k)
        assert loop.skipped == skipped
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters())) == (skipped > 0)


@pytest.mark.parametrize("space", [DIGITS, Space((3, 32, 32), 0, 256), Space((2,)), Space((16,))], ids=str)
def test_training_does_not_begin_with_an_explosion(space):
    """A threshold below the first gradient would skip every step and train nothing."""
    model = build(HVAE, space, 48, shaken=False)
    (update,) = model.updates(examples(space, 16), 0.0, Noise(0))
    gradients = torch.autograd.grad(update.loss, list(model.parameters()), allow_unused=True)
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients if g is not None]))
    assert update.clip < update.skip_above
    assert norm < update.skip_above / 10


def test_collapse_is_said_in_words():
    model = build(HVAE, DIGITS)
    assert model.symptom({"reconstruction": 50.0, "kl_1": 0.5, "kl_2": 9.0}) is None
    assert "level 1, 3 of 3" in model.symptom({"reconstruction": 50.0, "kl_1": 0.0, "kl_2": 9.0, "kl_3": 0.009})
    assert "every level" in model.symptom({"kl_1": 0.001, "kl_2": 0.0})


# ------------------------------------------------------------------------------------------------------------ network


def test_calls_are_one_for_each_direction():
    model, x = build(HVAE, DIGITS).eval(), examples(DIGITS, 3).x
    for calls, work in (
        (2, lambda: estimate(model, x, Kind("elbo", "≤", 2))),
        (6, lambda: estimate(model, x, iwae(5))),
        (1, lambda: draw(model, model.prior(3, Noise("z")), "sample")),
        (2, lambda: model.reconstruct(x, 1, Noise("r"))),
    ):
        with count_calls() as count:
            work()
        assert count.calls == calls
        assert count.examples == 3 * calls
    assert isinstance(model.ladder.up, Backbone)
    assert isinstance(model.ladder.down, Backbone)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((1, 8, 8), [(1, 1), (2, 2), (4, 4)]),
        ((1, 14, 14), [(1, 1), (2, 2), (4, 4), (7, 7)]),
        ((1, 28, 28), [(1, 1), (2, 2), (4, 4), (7, 7), (14, 14)]),
        ((3, 32, 32), [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16)]),
        ((2, 5, 9), [(1, 1), (1, 2), (2, 3), (3, 5), (5, 9)]),
        ((3,), [(1, 1)]),
    ],
)
def test_a_ladder_spans_all_resolutions(shape, sizes):
    space = Space(shape, 0, 256 if len(shape) == 3 else 0)
    model = build(HVAE, space).eval()
    assert model.ladder.down.sizes == sizes
    assert len(model.ladder.down.shapes) <= 12
    assert {s[1:] for s in model.ladder.down.shapes} == set(sizes)
    x = examples(space, 2).x
    assert [tuple(f.shape[2:]) for f in model.ladder.encode(x, None)] == sizes
    assert draw(model, model.prior(2, Noise("z")), "sample").shape == (2, *shape)
    assert estimate(model, x, Kind("elbo", "≤", 2)).value.isfinite().all()


def test_labels_reach_both_directions():
    space = Space((1, 8, 8), 4, 17)
    model, x = shake(build(HVAE, space), 0.2, seed=1).eval(), examples(space, 2).x
    y, other = torch.tensor([0, 1]), torch.tensor([2, 3])
    with torch.no_grad():
        for a, b in zip(model.ladder.encode(x, y), model.ladder.encode(x, other)):
            assert not torch.allclose(a, b)
        eps = model.prior(2, Noise("z"))
        for a, b in zip(model.ladder.decode(eps, y)[1], model.ladder.decode(eps, other)[1]):
            assert not torch.allclose(a.p.mean, b.p.mean)


def test_pieces_of_the_network_are_the_convolutions_they_stand_for():
    torch.manual_seed(0)
    x = torch.randn(3, 6, 5, 7)
    pointwise = Pointwise(6, 4)
    torch.testing.assert_close(pointwise(x), F.conv2d(x, pointwise.weight[:, :, None, None], pointwise.bias))
    halve, double = Halve(6), Double(6, (5, 7))
    kernel = halve.mix.weight.view(6, 6, 2, 2)
    half = halve(x)
    torch.testing.assert_close(half, F.conv2d(F.pad(x, (0, 1, 0, 1)), kernel, halve.mix.bias, stride=2))
    nn.init.normal_(double.bias)
    whole = F.conv_transpose2d(half, double.mix.weight.view(6, 4, 6).permute(2, 0, 1).reshape(6, 6, 2, 2), stride=2)
    torch.testing.assert_close(double(half), whole[:, :, :5, :7] + double.bias)
    assert resolutions(5, 7) == [(5, 7), (3, 4), (2, 2), (1, 1)]
    assert [tuple(f.shape) for f in BottomUp((6, 5, 7), 8)(x)] == [(3, 8, *size) for size in resolutions(5, 7)[::-1]]


@pytest.mark.parametrize(
    "setting", [{"blocks": 0}, {"components": 0}, {"warm_up": 2.0}, {"skip": 0.0}, {"latent": 0}, {"latent": 65}]
)
def test_a_config_refuses_what_can_not_be_trained(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        dataclasses.replace(HVAE.config, **setting)


def test_dropout_is_for_training_only():
    model, batch = build(HVAE, DIGITS), Batch(examples(DIGITS, 4).x)
    losses = [next(iter(model.train(mode).updates(batch, 1.0, Noise(0)))).loss.item() for mode in (True, False, False)]
    assert losses[1] == losses[2] != losses[0]
