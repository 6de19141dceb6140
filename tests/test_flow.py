"""Normalizing flows: each transform and the whole invert exactly, and log |det| is that of the Jacobian."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import scipy.stats
import torch
from helpers import thinned
from torch import Tensor, nn

from paradigms import catalogue
from paradigms.backbones import count_calls
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Kind, Plan
from paradigms.errors import BadInput
from paradigms.flows import Chain, Transform
from paradigms.flows.autoregressive import MADE, Autoregressive
from paradigms.flows.base import Normal, Student
from paradigms.flows.coupling import Affine, Checkerboard, Coupling, ImageConditioner, Spline, VectorConditioner
from paradigms.flows.dequantise import Uniform, Variational
from paradigms.flows.linear import ActNorm, Mixing, Reverse
from paradigms.flows.multiscale import MultiScale, Squeeze
from paradigms.flows.spline import rational_quadratic
from paradigms.maths.likelihood import dequantise
from paradigms.normalizing_flow import RECIPES as OURS
from paradigms.normalizing_flow import Flow, NormalizingFlow
from paradigms.testing import build, descend, examples, shake

NAMES = [recipe.name for recipe in OURS]
PLANE, IMAGE = Space((2,)), Space((1, 8, 8), 0, 17)
RGB, LABELLED = Space((3, 8, 4), 0, 256), Space((1, 8, 8), 10, 17)
SPACES = {"2-D": PLANE, "3-D": Space((3,)), "8x8": IMAGE, "rgb": RGB, "labelled": LABELLED, "marked": Space((2,), 4)}
each = pytest.mark.parametrize("name", NAMES)
spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


# ------------------------------------------------------------------------------------------------------ transforms


def vector_net(cin: int, cout: int) -> nn.Module:
    return VectorConditioner(cin, cout, 8)


def image_net(cin: int, cout: int) -> nn.Module:
    return ImageConditioner(cin, cout, 8, 1)


def transforms() -> dict[str, tuple[Transform, tuple[int, ...]]]:
    """Each transform on vectors and on images, with parameters far from where they start."""
    torch.manual_seed(0)
    affine, spline = Affine(2.0), Spline(5, 2.0)
    made: dict[str, tuple[Transform, tuple[int, ...]]] = {
        "actnorm-vectors": (ActNorm(3), (3,)),
        "actnorm-images": (ActNorm(4), (4, 3, 3)),
        "mixing-vectors": (Mixing(5), (5,)),
        "mixing-images": (Mixing(4), (4, 2, 3)),
        "affine-vectors": (Coupling(vector_net(2, 6), 2, affine), (5,)),
        "affine-images": (Coupling(image_net(2, 4), 2, affine), (4, 2, 3)),
        "spline-vectors": (Coupling(vector_net(2, 3 * spline.size), 2, spline), (5,)),
        "spline-images": (Coupling(image_net(2, 2 * spline.size), 2, spline), (4, 2, 3)),
        "checkerboard-even": (Checkerboard(image_net(2, 4), 3, 4, 0, affine), (2, 3, 4)),
        "checkerboard-odd": (Checkerboard(image_net(1, spline.size), 3, 5, 1, spline), (1, 3, 5)),
        "autoregressive-affine": (Autoregressive(MADE(5, affine.owner(5), 9), affine), (5,)),
        "autoregressive-spline": (Autoregressive(MADE(4, spline.owner(4), 9), spline), (4,)),
        "chain": (Chain([Squeeze(), Mixing(4), Coupling(image_net(2, 4), 2, affine), Reverse()]), (1, 4, 2)),
    }
    # A spline's slopes are exponentials of its network's outputs: less is far for it.
    far = {name: 0.1 if "spline" in name or "odd" in name else 0.3 for name in made}
    return {name: (shake(module, far[name]).eval(), shape) for name, (module, shape) in made.items()}


def jacobian_log_det(f, x: Tensor) -> Tensor:
    """log |det| of f at each row of x, by autograd."""
    rows = []
    for row in x:
        jacobian = torch.autograd.functional.jacobian(lambda a: f(a[None])[0].flatten(), row)
        rows.append(torch.linalg.slogdet(jacobian.reshape(row.numel(), row.numel())).logabsdet)
    return torch.stack(rows)


@pytest.mark.parametrize("name", transforms())
def test_each_transform_inverts_and_knows_its_determinant(name):
    module, shape = transforms()[name]
    x = torch.randn(4, *shape)
    with torch.no_grad():
        z, _ = module(x, None)
        assert z.numel() == x.numel()
        if z.shape == x.shape:
            assert (z - x).abs().max() > 0.1, "does nothing"
            torch.testing.assert_close(module(module.inverse(x, None), None)[0], x, rtol=0, atol=1e-5)
        torch.testing.assert_close(module.inverse(z, None), x, rtol=0, atol=1e-5)
    module, x = module.double(), x.double()
    truth = jacobian_log_det(lambda a: module(a, None)[0], x)
    torch.testing.assert_close(module(x, None)[1].expand(4), truth, rtol=0, atol=1e-8)
    assert truth.abs().max() > 0.1


def test_a_new_coupling_changes_nothing_and_no_affine_one_stretches_beyond_its_bound():
    x = torch.randn(100, 4)
    for by in (Affine(0.5), Spline(4, 2.0)):
        z, log_det = Coupling(vector_net(2, 2 * by.size), 2, by)(x)
        torch.testing.assert_close(z, x, rtol=0, atol=1e-6)
        assert log_det.abs().max() < 1e-5
    coupling = shake(Coupling(vector_net(2, 4), 2, Affine(0.5)), 30.0)
    _, log_det = coupling(x)
    assert 0.5 < log_det.abs().max() <= 2 * 0.5 + 1e-5


def test_a_spline_is_the_identity_outside_its_interval_and_smooth_at_its_ends():
    torch.manual_seed(0)
    w, h, d = torch.randn(1, 7).double(), torch.randn(1, 7).double(), torch.randn(1, 6).double()
    x = torch.linspace(-4, 4, 4001).double()
    p = [a.expand(len(x), -1) for a in (w, h, d)]
    z, log_slope = rational_quadratic(x, *p, bound=2.5)
    outside = x.abs() >= 2.5
    assert torch.equal(z[outside], x[outside])
    assert (log_slope[outside] == 0).all()
    assert (z.diff() > 0).all()
    # It is the derivative, and reaches the tails' slope of one.
    with torch.enable_grad():
        x.requires_grad_()
        (slope,) = torch.autograd.grad(rational_quadratic(x, *p, bound=2.5)[0].sum(), x)
    x.requires_grad_(False)
    torch.testing.assert_close(log_slope, slope.log(), rtol=0, atol=1e-9)
    edge = torch.tensor([-2.5 + 1e-9, 2.5 - 1e-9], dtype=torch.float64)
    assert rational_quadratic(edge, *(a[:2] for a in p), bound=2.5)[1].abs().max() < 1e-6
    back, log_back = rational_quadratic(z, *p, inverse=True, bound=2.5)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_back, -log_slope, rtol=0, atol=1e-8)


def test_a_spline_survives_any_parameters():
    """However far the network runs away, it stays monotone, finite and invertible."""
    x = torch.linspace(-3, 3, 301)
    p = [50 * torch.randn(301, n, generator=torch.Generator().manual_seed(n)) for n in (8, 8, 7)]
    z, log_slope = rational_quadratic(x, *p)
    assert z.isfinite().all()
    assert log_slope.isfinite().all()
    torch.testing.assert_close(rational_quadratic(z, *p, inverse=True)[0], x, rtol=0, atol=2e-3)


def test_mixing_starts_as_a_rotation_and_stays_invertible():
    for channels in (2, 5, 12):
        mixing = Mixing(channels)
        w = mixing.weight()
        torch.testing.assert_close(w @ w.T, torch.eye(channels), rtol=0, atol=1e-5)
        assert abs(mixing.log_diagonal.sum().item()) < 1e-5
        shake(mixing, 1.0)
        truth = torch.linalg.slogdet(mixing.weight().double()).logabsdet
        assert mixing.log_diagonal.sum().item() == pytest.approx(truth.item(), abs=1e-3)


def test_checkerboards_of_both_parities_move_every_pixel_once():
    boards = [Checkerboard(image_net(1, 2), 5, 4, parity, Affine(1.0)).kept for parity in (0, 1)]
    assert torch.equal(boards[0], ~boards[1])
    assert (boards[0][:-1] != boards[0][1:]).all()
    assert (boards[0][:, :-1] != boards[0][:, 1:]).all()
    # What moves, moves by what stays alone.
    module, x = (
        shake(Checkerboard(image_net(1, 2), 5, 4, 0, Affine(1.0)), 0.3).double(),
        torch.randn(1, 1, 5, 4).double(),
    )
    jacobian = torch.autograd.functional.jacobian(lambda a: module(a)[0].flatten(), x).reshape(20, 20)
    kept = boards[0].flatten()
    torch.testing.assert_close(jacobian[kept], torch.eye(20).double()[kept])
    assert torch.equal(jacobian[~kept][:, ~kept], torch.diag(jacobian.diagonal()[~kept]))
    assert (jacobian[~kept][:, kept] != 0).any(1).all()


def test_a_made_sees_every_earlier_coordinate_and_no_other():
    for dim, width in ((2, 3), (6, 16), (9, 8)):
        net = shake(MADE(dim, Affine(1.0).owner(dim), width), 0.5).double()
        x = torch.randn(1, dim).double()
        jacobian = torch.autograd.functional.jacobian(net, x).reshape(2, dim, dim)
        earlier = torch.ones(dim, dim).tril(-1).bool()
        assert (jacobian[:, ~earlier] == 0).all()
        if width >= dim:
            assert (jacobian[:, earlier] != 0).all()


def test_the_splits_hand_over_every_coordinate_once():
    shapes = [(4, 4, 4), (8, 2, 2), (16, 1, 1)]
    scales = MultiScale([Squeeze(), Squeeze(), Squeeze()], shapes)
    x = torch.arange(64.0).view(1, 1, 8, 8)
    z, log_det = scales(x)
    assert z.flatten().sort().values.tolist() == list(range(64))
    assert float(log_det) == 0
    assert torch.equal(scales.inverse(z), x)
    assert [math.prod(p) for p in scales.parts] == [32, 16, 16]


# ----------------------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize("nu", [2, 4, 10])
def test_students_noise_is_scipys(nu):
    """Density and draws; at 10 degrees of freedom a normal would already be told apart."""
    z = torch.linspace(-9, 9, 60).view(20, 3)
    truth = torch.from_numpy(scipy.stats.t.logpdf(z.double().numpy(), nu)).sum(1).float()
    torch.testing.assert_close(Student(nu).log_prob(z), truth, rtol=1e-5, atol=1e-5)
    draws = Student(nu).draw(20_000, 2, Noise(0))
    assert draws.shape == (20_000, 2)
    assert all(scipy.stats.kstest(column.numpy(), "t", (nu,)).pvalue > 1e-3 for column in draws.T)
    assert torch.equal(Student(nu).draw(7, 2, Noise(0).rows(3)), draws[3:10])
    assert abs(float(torch.corrcoef(draws.clamp(-5, 5).T)[0, 1])) < 0.05


def test_normal_noise_is_the_standard_one():
    z = torch.randn(4, 3)
    torch.testing.assert_close(Normal().log_prob(z), torch.distributions.Normal(0, 1).log_prob(z).sum(1))
    assert torch.equal(Normal().draw(5, 3, Noise(0)), Noise(0).normal(5, 3))


# ----------------------------------------------------------------------------------------------------- whole flows


def takes(name: str, space: Space) -> bool:
    recipe = catalogue.get(name)
    return recipe.paradigm.refuses(recipe.config, space) is None


def model_of(name: str, space: Space, scale: float = 0.15, **changes) -> NormalizingFlow:
    recipe = catalogue.get(name)
    model = build(recipe, space, shaken=False, config=replace(recipe.config, **changes)).eval()
    return shake(model, scale)


@pytest.mark.parametrize(
    ("name", "space", "decay"), [("glow", IMAGE, 0.5), ("maf", IMAGE, 5.0), ("maf", Space((2,)), 0.5)]
)
def test_only_the_networks_weights_decay_and_those_of_maf_more_on_images(name, space, decay):
    model = model_of(name, space)
    decayed, kept = next(iter(model.optimizers().values())).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (decay, 0.0)
    assert sum(len(group["params"]) for group in (decayed, kept)) == len(list(model.parameters()))
    assert all(p.dim() > 1 for p in decayed["params"])


@each
@spaces
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.matrix) for seed in (1, 2))])
def test_the_flow_inverts(name, space, seed):
    """On data and on draws from the prior, in float32.

    Each step is within a few units of its last place; what is left is how far a flow squeezes. At twice this shake the
    spline flow squeezes 8x8 images by 20 in some direction, and the rounding of z alone, at |z| = 4, moves x by 5e-6.
    """
    model = shake(model_of(name, space, 0.0, steps=4), 0.025, seed)
    y = torch.arange(6) % space.classes if space.classes else None
    data = examples(space, 6, seed).x
    with torch.no_grad():
        z, log_det = model.flow(data, y)
        assert z.shape == (6, space.dim)
        assert log_det.std() > 1e-3, "no coupling acts"
        torch.testing.assert_close(model.invert(z, y), data, rtol=0, atol=1e-5)
        z = model.prior(6, Noise("z", seed))
        x = model.invert(z, y)
        again, _ = model.flow(x, y)
        torch.testing.assert_close(again, z, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.invert(again, y), x, rtol=1e-5, atol=1e-5)


# One vector and one image space of each flow by default.
@pytest.mark.parametrize(
    ("name", "space"),
    thinned([(name, space) for name in NAMES for space in SPACES.values()], lambda case: (case[0], case[1].is_image)),
)
def test_the_flows_determinant_is_that_of_its_jacobian(name, space):
    f, n = model_of(name, space, steps=2).double().flow, 2
    y = torch.tensor([3, 1]) if space.classes else None
    x = torch.randn(n, *space.shape, dtype=torch.float64)
    rows = [
        jacobian_log_det(lambda a: f(a, None if y is None else y[i : i + 1])[0], x[i : i + 1])  # noqa: B023
        for i in range(n)
    ]
    log_det = f(x, y)[1]
    torch.testing.assert_close(log_det, torch.cat(rows), rtol=0, atol=1e-7)
    assert log_det.std() > 1e-4, "the same everywhere: no coupling acts"


def stripes(n: int, seed: int = 0) -> Tensor:
    """Integer images whose pixels depend on each other: a wave of random phase and height."""
    g = torch.Generator().manual_seed(seed)
    phase, height = torch.rand(n, 1, 1, 1, generator=g), torch.rand(n, 1, 1, 1, generator=g)
    wave = torch.sin(torch.arange(8.0).view(1, 1, 8, 1) + torch.arange(8.0) / 2 + 6.3 * phase)
    return (8 + 8 * height * wave).round().clamp(0, 16).to(torch.uint8)


@pytest.mark.heavy
@each
def test_a_trained_flow_inverts_and_has_learnt(name):
    """After real training too, in float32: on data and on samples."""
    torch.manual_seed(0)
    model = build(name, IMAGE, shaken=False)
    data = model.prepare(Data(stripes(512), None, IMAGE), Noise("prepare"))
    held_out = IMAGE.encode(stripes(64, seed=1))
    optimizers = model.train().optimizers()

    def bits() -> float:
        with torch.no_grad():
            return (
                -float(model.log_likelihood(held_out, Kind("exact", "≤", 1), Noise(1)).value.mean()) / 64 / math.log(2)
            )

    before = bits()
    for k in range(12):
        (update,) = model.updates(data.batch(torch.arange(64) + 64 * (k % 8)), 0.0, Noise(k))
        descend(optimizers, update)
    model.eval()
    assert bits() < before - 0.1
    with torch.no_grad():
        for x in (held_out, model.invert(model.prior(64, Noise("z")), None)):
            torch.testing.assert_close(model.invert(model.flow(x)[0], None), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "maf"])
def test_every_dimension_arrives_once(name):
    """Multi-scale bookkeeping: each pixel moves z, and no coordinate of z is made of nothing."""
    f = model_of(name, IMAGE, steps=1).double().flow
    assert isinstance(f.body, MultiScale)
    assert sum(math.prod(p) for p in f.body.parts) == IMAGE.dim
    assert len(f.body.levels) == 2
    jacobian = torch.autograd.functional.jacobian(lambda a: f(a)[0].flatten(), torch.randn(1, 1, 8, 8).double())
    jacobian = jacobian.reshape(64, 64)
    assert torch.linalg.matrix_rank(jacobian) == 64
    assert (jacobian.abs().sum(0) > 0).all()
    assert (jacobian.abs().sum(1) > 0).all()


@each
def test_the_density_integrates_to_one(name):
    """A 2-D flow with random parameters, by quadrature over where its samples fall."""
    model = shake(model_of(name, PLANE, 0.0, steps=3), 0.2, seed=3)
    with torch.no_grad():
        x = model.sample(model.prior(10_000, Noise("z")), Plan("inverse"), Noise(0))
        low, high = x.min(0).values, x.max(0).values
        low, high = low - 0.3 * (high - low), high + 0.3 * (high - low)
        n = 500
        axes = [torch.linspace(float(a), float(b), n) for a, b in zip(low, high)]
        grid = torch.cartesian_prod(*axes)
        density = torch.cat([model.log_density(part) for part in grid.split(50_000)]).double().exp()
        cell = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
        assert float(density.sum() * cell) == pytest.approx(1, abs=5e-3)
        # And it is the density of the samples: equal mean coordinate and mean log density.
        mean = (density[:, None] * grid).sum(0) * cell
        assert ((mean - x.mean(0)).abs() < 5 * x.std(0) / math.sqrt(len(x))).all()
        log = model.log_density(x)
        expected = float((density * density.clamp_min(1e-300).log()).sum() * cell)
        assert float(log.mean()) == pytest.approx(expected, abs=5 * float(log.std()) / math.sqrt(len(x)))
        assert float(log.std()) > 0.3


@each
def test_the_temperature_scales_the_noise(name):
    model = model_of(name, PLANE, steps=2)
    z = model.prior(5, Noise("z"))
    with torch.no_grad():
        draws = {t: model.sample(z, Plan("inverse", 1, (("temperature", t),)), Noise(0)) for t in (0.0, 0.7, 1.0)}
        assert torch.equal(draws[1.0], model.sample(z, Plan("inverse"), Noise(0)))
        torch.testing.assert_close(model.flow(draws[0.7])[0], 0.7 * z, rtol=0, atol=1e-5)
        torch.testing.assert_close(draws[0.0], draws[0.0][:1].expand(5, 2), rtol=0, atol=1e-6)
    for bad in (-0.1, 2.5):
        with pytest.raises(BadInput, match="temperature from 0 to 2"):
            model.card.samplers[0].check(Plan("inverse", 1, (("temperature", bad),)))


def test_a_sample_of_maf_costs_a_pass_for_each_coordinate_of_each_layer():
    model = model_of("maf", Space((6,)), steps=3)
    with count_calls() as count, torch.no_grad():
        model.sample(model.prior(2, Noise("z")), Plan("inverse"), Noise(0))
    assert count.calls == 3 * 6
    with count_calls() as count, torch.no_grad():
        model.log_likelihood(torch.randn(2, 6), Kind("exact", "=", 1), Noise(0))
    assert count.calls == 1


# ------------------------------------------------------------------------------------------ objective, likelihood


@each
def test_the_loss_is_the_negative_log_likelihood_per_dimension(name):
    model, x = model_of(name, IMAGE, 0.05), IMAGE.encode(torch.randint(17, (5, 1, 8, 8)))
    (update,) = model.updates(Batch(x), 0.5, Noise("same"))
    point, log_q = model.dequantiser(x, None, Noise("same"))
    z, log_det = model.flow(point)
    density = model.base.log_prob(z) + log_det - log_q
    assert float(update.loss.detach()) == pytest.approx(-float(density.detach().mean()) / 64, rel=1e-6)
    with torch.no_grad():
        mass = model.log_likelihood(x, Kind("exact", "≤", 1), Noise("same")).value
    torch.testing.assert_close(mass, density.detach() + 64 * math.log(2 / 17), rtol=1e-6, atol=1e-4)


def test_the_density_is_exact_on_vectors_and_bounds_the_mass_on_pixels():
    for recipe in OURS:
        exact, iwae = recipe.paradigm.card.likelihoods
        assert (exact.relation_on(Space((2,))), exact.relation_on(IMAGE)) == ("=", "≤")
        assert iwae.relation_on(IMAGE) == "≤"
        for k in (0, 1.5, 10**6):
            with pytest.raises(BadInput, match="whole numbers K from 1 to 100,000"):
                replace(iwae, options=(("K", k),)).check()


def test_more_dequantisation_draws_tighten_the_bound():
    """log of a mean of K weights: on the same draws, regrouped, it rises with K (Burda et al. 2016, theorem 1)."""
    model, x = model_of("glow", IMAGE, 0.05), examples(IMAGE, 8).x
    with torch.no_grad():
        noise = Noise("same")
        each = torch.stack([model.bound(x, None, noise) for _ in range(8)])
        means = [float((each.view(-1, k, 8).logsumexp(1) - math.log(k)).mean()) for k in (1, 2, 4, 8)]
        assert means == sorted(means)
        assert means[-1] > means[0] + 1e-3
        kind = Kind("dequantised-iwae", "≤", 8, (("K", 8),))
        found = model.log_likelihood(x, kind, Noise("same")).value
    expected = each.logsumexp(0) - math.log(8) + 64 * math.log(2 / 17)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-4)


def test_a_learned_dequantisation_is_a_density_on_the_bin():
    """Its log q is that of its draws, by the Jacobian; 1 / q has mean 1 over them; and they stay in the bin."""
    torch.manual_seed(0)
    module = shake(Variational((1, 2, 2), 17, 0, 8, 3, 2.0), 0.1).eval()
    x = torch.full((20_000, 1, 2, 2), 0.0)
    with torch.no_grad():
        point, log_q = module(x, None, Noise(0))
    assert ((point - x).abs() <= 1 / 17 + 1e-6).all()
    weights = (-log_q).exp()
    assert float(weights.mean()) == pytest.approx(1, abs=5 * float(weights.std()) / math.sqrt(len(x)))
    assert float(log_q.std()) > 0.05

    class Fixed:
        """The one draw eps, in place of a stream."""

        def __init__(self, eps: Tensor) -> None:
            self.eps = eps

        def normal(self, *shape: int) -> Tensor:
            return self.eps.view(shape)

    module, eps, one = module.double(), torch.randn(4).double(), torch.randn(1, 1, 2, 2).double()
    jacobian = torch.autograd.functional.jacobian(lambda e: module(one, None, Fixed(e))[0].flatten(), eps)
    per_bin = torch.linalg.slogdet(jacobian).logabsdet - 4 * math.log(2 / 17)
    truth = torch.distributions.Normal(0, 1).log_prob(eps).sum() - per_bin
    torch.testing.assert_close(module(one, None, Fixed(eps))[1][0], truth, rtol=0, atol=1e-8)


def test_a_learned_dequantisation_starts_near_uniform_and_depends_on_the_image():
    torch.manual_seed(0)
    module = Variational((1, 4, 4), 17, 0, 8, 3, 2.0).eval()
    a, b = torch.zeros(2000, 1, 4, 4), torch.full((2000, 1, 4, 4), 0.5)
    with torch.no_grad():
        u = (module(a, None, Noise(0))[0] * 17 / 2 + 0.5).flatten()
        assert float((u.sort().values - torch.linspace(0, 1, len(u))).abs().max()) < 0.015
        shake(module, 0.1)
        assert (module(a, None, Noise(0))[0] - (module(b, None, Noise(0))[0] - b)).abs().max() > 1e-3


def test_both_dequantisations_bound_the_same_mass():
    """Many draws of either estimate log P(x) of one flow."""
    space = Space((1, 4, 4), 0, 5)
    model, x = model_of("glow-variational", space, 0.03, steps=2), examples(space, 2).x
    found = []
    assert isinstance(model.dequantiser, Variational)
    with torch.no_grad():
        for module in (model.dequantiser, Uniform(5)):
            model.dequantiser = module
            found.append(
                model.bound(x.repeat(4000, 1, 1, 1), None, Noise(0)).view(4000, 2).logsumexp(0) - math.log(4000)
            )
    torch.testing.assert_close(*found, rtol=0, atol=0.2)
    assert model_of("glow-variational", PLANE).dequantiser.__class__ is Uniform


@each
def test_preparation_whitens_what_each_actnorm_sees(name):
    model = build(name, IMAGE, shaken=False)
    data = Data(torch.randint(17, (600, 1, 8, 8), dtype=torch.uint8), None, IMAGE)
    norms = [m for m in model.modules() if isinstance(m, ActNorm)]
    assert norms
    assert all((m.bias == 0).all() for m in norms)
    assert model.prepare(data, Noise("prepare")) is data
    seen = []
    for m in norms:
        m.register_forward_hook(lambda m, args, out: seen.append(out[0]))
    noise = Noise("prepare")
    index = noise.integers(600, 512)
    with torch.no_grad():
        model.flow(model.dequantiser(data.batch(index).x, None, noise)[0])
    assert len(seen) == len(norms)
    for out in seen:
        flat = out.transpose(0, 1).flatten(1)
        torch.testing.assert_close(flat.mean(1), torch.zeros(len(flat)), rtol=0, atol=1e-4)
        torch.testing.assert_close(flat.std(1), torch.ones(len(flat)), rtol=0, atol=2e-2)


def test_uniform_dequantisation_is_the_shared_one():
    x = examples(IMAGE, 3).x
    point, log_q = Uniform(17)(x, None, Noise(3))
    assert torch.equal(point, dequantise(x, 17, Noise(3)))
    assert float(log_q) == 0
    assert torch.equal(Uniform(0)(x, None, Noise(3))[0], x)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "maf"])
def test_odd_images_are_refused_in_words(name):
    paradigm, config = catalogue.get(name).paradigm, catalogue.get(name).config
    for shape, words in (
        ((1, 7, 8), "even and at least 4, not 7x8"),
        ((1, 8, 7), "not 8x7"),
        ((1, 2, 2), "at least 4, not 2x2"),
        ((1,), "two"),
    ):
        assert words in paradigm.refuses(config, Space(shape))
    assert paradigm.refuses(config, IMAGE) is None


def test_maf_takes_odd_images_and_refuses_large_ones_in_words():
    assert takes("maf", Space((1, 7, 7), 0, 256))
    recipe = catalogue.get("maf")
    assert "784" in recipe.paradigm.refuses(recipe.config, Space((1, 28, 28), 0, 256))
    assert "two" in recipe.paradigm.refuses(recipe.config, Space((1,)))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("normalizing-flow", {"steps": 0}),
        ("normalizing-flow", {"blocks": -1}),
        ("glow-variational", {"dequantise_steps": 0}),
        ("normalizing-flow", {"bins": 1}),
        ("normalizing-flow", {"bound": 0.0}),
        ("realnvp", {"bound": -1.0}),
        ("maf", {"steps": 0}),
        ("maf", {"nu": 3}),
        ("normalizing-flow", {"weight_decay": -1.0}),
        ("maf", {"image_decay": -1.0}),
    ],
)
def test_configs_refuse_what_can_not_be_built(name, setting):
    (key,) = setting
    with pytest.raises(ValueError, match=key):
        replace(catalogue.get(name).config, **setting)


def test_one_row_stands_for_all_flows():
    assert [(r.name, r.aliases) for r in OURS if not r.variant_of] == [("normalizing-flow", ("neural-spline-flow",))]
    assert {r.variant_of for r in OURS} == {"", "normalizing-flow"}
    assert all(isinstance(build(r, PLANE).flow, Flow) for r in OURS)
