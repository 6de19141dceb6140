"""The normalizing flow: each transform and the whole invert exactly, and log |det| is that of the Jacobian."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import build, examples, shake
from torch import Tensor, nn

from paradigms import catalogue
from paradigms.contract import Batch, Data, Kind, Noise, Plan, Space
from paradigms.maths.likelihood import dequantise, standard_normal_log_prob
from paradigms.normalizing_flow import ActNorm, Conditioner, Coupling, Flow, Mixing, NormalizingFlow, VectorConditioner

RECIPE = catalogue.get("normalizing-flow")
PLANE, IMAGE = Space((2,)), Space((1, 8, 8), 0, 17)
RGB, LABELLED = Space((3, 8, 4), 0, 256), Space((1, 8, 8), 10, 17)
SPACES = {"2-D": PLANE, "3-D": Space((3,)), "8x8": IMAGE, "rgb": RGB, "labelled": LABELLED}
spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def transforms() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Each transform on vectors and on images, with parameters far from where they start."""
    torch.manual_seed(0)
    made: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "actnorm-vectors": (ActNorm(3), (3,)),
        "actnorm-images": (ActNorm(4), (4, 3, 3)),
        "mixing-vectors": (Mixing(5), (5,)),
        "mixing-images": (Mixing(4), (4, 2, 3)),
        "coupling-vectors": (Coupling(VectorConditioner(2, 6, 8, 0), 2, 2.0), (5,)),
        "coupling-images": (Coupling(Conditioner(2, 4, 8, 1, 0, 0.0), 2, 2.0), (4, 2, 3)),
    }
    return {name: (shake(module, 0.3).eval(), shape) for name, (module, shape) in made.items()}


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
        assert z.shape == x.shape
        assert (z - x).abs().max() > 0.1, "does nothing"
        torch.testing.assert_close(module.inverse(z, None), x, rtol=0, atol=1e-5)
        torch.testing.assert_close(module(module.inverse(x, None), None)[0], x, rtol=0, atol=1e-5)
    module, x = module.double(), x.double()
    truth = jacobian_log_det(lambda a: module(a, None)[0], x)
    torch.testing.assert_close(module(x, None)[1].expand(4), truth, rtol=0, atol=1e-8)
    assert truth.abs().max() > 0.1


def flow(space: Space, scale: float = 0.15, **changes) -> Flow:
    model = build(RECIPE, space, shaken=False, config=replace(RECIPE.config, **changes)).eval()
    return shake(model, scale).flow


@spaces
def test_the_flow_inverts(space):
    """On data and on draws from the prior, in float32."""
    f = flow(space, 0.05, steps=4)
    y = torch.arange(6) % space.classes if space.classes else None
    data = examples(space, 6).x
    with torch.no_grad():
        z, _ = f(data, y)
        assert z.shape == (6, space.dim)
        back, _ = f(z, y, inverse=True)
        torch.testing.assert_close(back, data, rtol=0, atol=1e-5)
        z = torch.randn(6, space.dim)
        again, _ = f(f(z, y, inverse=True)[0], y)
        torch.testing.assert_close(again, z, rtol=1e-5, atol=1e-5)


@spaces
def test_the_flows_determinant_is_that_of_its_jacobian(space):
    f, n = flow(space, steps=2).double(), 2
    y = torch.tensor([3, 7]) if space.classes else None
    x = torch.randn(n, *space.shape, dtype=torch.float64)
    rows = [
        jacobian_log_det(lambda a: f(a, None if y is None else y[i : i + 1])[0], x[i : i + 1])  # noqa: B023
        for i in range(n)
    ]
    log_det = f(x, y)[1]
    torch.testing.assert_close(log_det, torch.cat(rows), rtol=0, atol=1e-7)
    assert log_det.std() > 1e-3, "the same everywhere: no coupling acts"


def test_every_dimension_arrives_once():
    """Multi-scale bookkeeping: each pixel moves z, and no coordinate of z is made of nothing."""
    f = flow(IMAGE, steps=1).double()
    assert sum(math.prod(s) // 2 for s in f.shapes[:-1]) + math.prod(f.shapes[-1]) == IMAGE.dim
    assert len(f.levels) == len(f.shapes) == 2
    jacobian = torch.autograd.functional.jacobian(lambda a: f(a)[0].flatten(), torch.randn(1, 1, 8, 8).double())
    jacobian = jacobian.reshape(64, 64)
    assert torch.linalg.matrix_rank(jacobian) == 64
    assert (jacobian.abs().sum(0) > 0).all()
    assert (jacobian.abs().sum(1) > 0).all()


def test_the_density_integrates_to_one():
    """A 2-D flow with random parameters, by quadrature over where its samples fall."""
    model = build(RECIPE, PLANE, shaken=False, config=replace(RECIPE.config, steps=4)).eval()
    shake(model, 0.2, seed=3)
    with torch.no_grad():
        x = model.sample(model.prior(20_000, Noise("z")), Plan("inverse"), Noise(0))
        low, high = x.min(0).values, x.max(0).values
        low, high = low - 0.3 * (high - low), high + 0.3 * (high - low)
        n = 600
        axes = [torch.linspace(float(a), float(b), n) for a, b in zip(low, high)]
        grid = torch.cartesian_prod(*axes)
        density = torch.cat([model.log_density(part) for part in grid.split(60_000)]).double().exp()
        cell = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
        assert float(density.sum() * cell) == pytest.approx(1, abs=5e-3)
        # And it is the density of the samples: equal mean coordinate and mean log density.
        mean = (density[:, None] * grid).sum(0) * cell
        assert ((mean - x.mean(0)).abs() < 5 * x.std(0) / math.sqrt(20_000)).all()
        log = model.log_density(x)
        expected = float((density * density.clamp_min(1e-300).log()).sum() * cell)
        assert float(log.mean()) == pytest.approx(expected, abs=5 * float(log.std()) / math.sqrt(20_000))
        assert float(log.std()) > 0.3


def test_the_loss_is_the_negative_log_density_per_dimension():
    model, x = shake(build(RECIPE, IMAGE).eval(), 0.05), IMAGE.encode(torch.randint(17, (5, 1, 8, 8)))
    (update,) = model.updates(Batch(x), 0.5, Noise("same"))
    y = dequantise(x, 17, Noise("same"))
    z, log_det = model.flow(y)
    density = standard_normal_log_prob(z) + log_det
    assert float(update.loss.detach()) == pytest.approx(-float(density.detach().mean()) / 64, rel=1e-6)
    with torch.no_grad():
        mass = model.log_likelihood(x, Kind("exact", "≤", 1), Noise("same")).value
    torch.testing.assert_close(mass, density.detach() + 64 * math.log(2 / 17), rtol=1e-6, atol=1e-4)


def test_the_density_is_exact_on_vectors_and_bounds_the_mass_on_pixels():
    (kind,) = NormalizingFlow.card.likelihoods
    assert (kind.relation_on(Space((2,))), kind.relation_on(IMAGE)) == ("=", "≤")
    assert Kind("elbo", "≤", 2).relation_on(Space((2,))) == "≤"


def test_preparation_whitens_what_each_actnorm_sees():
    model = build(RECIPE, IMAGE, shaken=False)
    data = Data(torch.randint(17, (600, 1, 8, 8), dtype=torch.uint8), None, IMAGE)
    shift = [m for m in model.modules() if isinstance(m, ActNorm)]
    assert all((m.bias == 0).all() for m in shift)
    assert model.prepare(data, Noise("prepare")) is data
    seen = []
    for m in shift:
        m.register_forward_hook(lambda m, args, out: seen.append(out[0]))
    index = Noise("prepare").integers(600, 512)
    noise = Noise("prepare")
    noise.integers(600, 512)
    with torch.no_grad():
        model.flow(dequantise(data.batch(index).x, 17, noise))
    for out in seen:
        flat = out.transpose(0, 1).flatten(1)
        torch.testing.assert_close(flat.mean(1), torch.zeros(len(flat)), rtol=0, atol=1e-4)
        torch.testing.assert_close(flat.std(1), torch.ones(len(flat)), rtol=0, atol=2e-2)


def test_a_new_coupling_changes_nothing_and_none_stretches_beyond_its_bound():
    coupling = Coupling(VectorConditioner(2, 4, 8, 0), 2, 0.5)
    x = torch.randn(100, 4)
    assert torch.equal(coupling(x, None)[0], x)
    shake(coupling, 30.0)
    _, log_det = coupling(x, None)
    assert log_det.abs().max() <= 2 * 0.5 + 1e-5
    assert log_det.abs().max() > 0.5


def test_mixing_starts_as_a_rotation_and_stays_invertible():
    for channels in (2, 5, 12):
        mixing = Mixing(channels)
        lower, upper = mixing.factors()
        w = mixing.p @ lower @ upper
        torch.testing.assert_close(w @ w.T, torch.eye(channels), rtol=0, atol=1e-5)
        assert abs(mixing.log_diagonal.sum().item()) < 1e-5
        shake(mixing, 1.0)
        lower, upper = mixing.factors()
        truth = torch.linalg.slogdet((mixing.p @ lower @ upper).double()).logabsdet
        assert mixing.log_diagonal.sum().item() == pytest.approx(truth.item(), abs=1e-3)


def test_odd_images_are_refused_in_words():
    for shape, word in (((1, 7, 8), "odd"), ((1, 2, 2), "small"), ((1,), "two")):
        assert word in RECIPE.paradigm.refuses(RECIPE.config, Space(shape))
    assert RECIPE.paradigm.refuses(RECIPE.config, IMAGE) is None
