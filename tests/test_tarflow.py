"""TarFlow: the causal transformer and its cache, each block's triangular Jacobian, the density, the denoised samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import zuko
from torch import Tensor
from torch.distributions import Independent, Normal

from bench.lab import kv_cache
from paradigms import catalogue
from paradigms.backbones import count_calls
from paradigms.backbones.causal import CausalTransformer
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Kind, Plan
from paradigms.maths.likelihood import dequantise, standard_normal_log_prob
from paradigms.tarflow import Block, Flow, TarFlow, patch_of, patchify, sizes, unpatchify
from paradigms.testing import build, examples, shake, train_a_little

RECIPE, DENOISED = catalogue.get("tarflow"), catalogue.get("tarflow-denoised")
PLANE, MARKED, IMAGE = Space((2,)), Space((2,), 4), Space((1, 8, 8), 0, 17)
RGB, LABELLED = Space((3, 8, 4), 0, 256), Space((1, 8, 8), 10, 17)
SPACES = {"2-D": PLANE, "5-D": Space((5,)), "8x8": IMAGE, "rgb": RGB, "labelled": LABELLED, "marked": MARKED}
spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
EXACT = Kind("exact", "=", 1, dequantised=True)


def labels(space: Space, n: int) -> Tensor | None:
    return torch.arange(n) % space.classes if space.classes else None


def trained(space: Space, steps: int = 4, **changes) -> TarFlow:
    """A model that started on data, was shaken and has learned for a few steps."""
    model = build(RECIPE, space, width=16, shaken=False, config=replace(RECIPE.config, **changes))
    (x, y) = examples(space, 64)
    model.prepare(Data(space.decode(x), y, space), Noise("prepare"))
    return train_a_little(shake(model, 0.05), steps, 16).eval()


def block(tokens: int = 6, dim: int = 3, flipped: bool = False, seed: int = 0) -> Block:
    """A block far from the identity, in float64."""
    torch.manual_seed(seed)
    return shake(Block(CausalTransformer(dim, 2 * dim, 32, 2, tokens), flipped), 0.2, seed).double().eval()


def jacobian(f, x: Tensor) -> Tensor:
    """d f / d x at one example x (1, ...), as a matrix."""
    return torch.autograd.functional.jacobian(lambda a: f(a).flatten(), x).reshape(x.numel(), x.numel())


# ----------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("side", "patch", "tokens"), [(8, 2, 16), (14, 2, 49), (28, 4, 49), (32, 4, 64), (64, 8, 64), (7, 1, 49)]
)
def test_the_patch_follows_the_size(side, patch, tokens):
    space = Space((3, side, side), 0, 256)
    assert patch_of(space, 0) == patch
    assert sizes(space, patch) == (tokens, 3 * patch**2)
    assert build(RECIPE, space).flow.tokens == tokens
    assert RECIPE.paradigm.refuses(RECIPE.config, space) is None


@pytest.mark.parametrize(("shape", "patch"), [((1, 8, 8), 2), ((3, 8, 12), 4), ((2, 6, 4), 1), ((6,), 1), ((6,), 3)])
def test_patches_make_the_round_trip(shape, patch):
    x = torch.arange(2 * math.prod(shape)).float().view(2, *shape)
    tokens = patchify(x, patch)
    assert tokens.shape == (2, *sizes(Space(shape), patch))
    assert torch.equal(unpatchify(tokens, shape, patch), x)


def test_a_token_is_one_patch_and_they_are_read_row_by_row():
    x = torch.arange(2 * 4 * 6).float().view(1, 2, 4, 6)
    for t, token in enumerate(patchify(x, 2)[0]):
        i, j = 2 * (t // 3), 2 * (t % 3)
        assert set(token.tolist()) == set(x[0, :, i : i + 2, j : j + 2].flatten().tolist())
    vector = torch.arange(6).float()[None]
    assert patchify(vector, 2)[0].tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("shape", "patch", "words"),
    [
        ((1, 8, 8), 3, "patch 3 does not divide 8x8"),
        ((1, 8, 6), 4, "patch 4 does not divide 8x6"),
        ((5,), 2, "patch 2 does not divide 5"),
        ((1, 8, 8), 8, "at least two tokens"),
        ((1,), 0, "at least two tokens"),
        ((1, 37, 38), 0, "1,406 tokens"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused_in_words(shape, patch, words):
    for recipe in (RECIPE, DENOISED):
        assert words in recipe.paradigm.refuses(replace(recipe.config, patch=patch), Space(shape))


# ------------------------------------------------------------------------------------------------------ transformer


def transformer(tokens: int = 7, width: int = 70, classes: int = 0) -> CausalTransformer:
    torch.manual_seed(0)
    return shake(CausalTransformer(3, 4, width, 2, tokens, classes), 0.1).double().eval()


def test_an_output_sees_its_own_and_the_inputs_before_it_and_all_of_them():
    net, x = transformer(5), torch.randn(1, 5, 3, dtype=torch.float64)
    j = torch.autograd.functional.jacobian(net, x)[0, :, :, 0].abs().sum((1, 3))  # (output token, input token)
    assert (j.tril() == j).all()
    assert (j[torch.ones(5, 5).tril().bool()] > 1e-6).all()


def test_one_token_at_a_time_with_a_cache_equals_all_at_once():
    net, x, y = transformer(7, classes=3), torch.randn(4, 7, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    cache = net.cache(4)
    with torch.no_grad():
        for again in range(2):  # a used cache forgets what it read
            cache.read = 0
            steps = torch.cat([net(x[:, t : t + 1] * (1 + again), y, cache) for t in range(7)], dim=1)
            torch.testing.assert_close(steps, net(x * (1 + again), y), rtol=0, atol=1e-12)
        with pytest.raises(ValueError, match="1 tokens after 7 of at most 7"):
            net(x[:, :1], y, cache)
        with pytest.raises(ValueError, match="one at a time"):
            net(x[:, :2], y, net.cache(4))
        with pytest.raises(ValueError, match="8 tokens"):
            net(torch.zeros(1, 8, 3).double(), y[:1])


def test_heads_and_the_size_of_the_cache():
    for width, heads in ((8, 1), (63, 1), (64, 2), (70, 2), (127, 3), (200, 6)):
        net = CausalTransformer(3, 4, width, 2, 7)
        assert net.layers[0].heads == heads
        assert width < 32 or 32 <= net.layers[0].head < 64
        cache = net.cache(5)
        assert cache.kv.numel() == 2 * 2 * 5 * 7 * heads * (width // heads)


# ------------------------------------------------------------------------------------------------------------ block


@pytest.mark.parametrize("flipped", [False, True])
def test_a_blocks_jacobian_is_triangular_in_its_order(flipped):
    b, x = block(flipped=flipped), torch.randn(1, 6, 3, dtype=torch.float64)
    j = jacobian(lambda a: b(a)[0], x)
    parts = j.view(6, 3, 6, 3).transpose(1, 2)  # (token out, token in, 3, 3)
    if flipped:
        parts = parts.flip(0, 1)
    before = torch.ones(6, 6).tril(-1).bool()
    assert (parts[~before & ~torch.eye(6).bool()] == 0).all(), "a token is told of later ones"
    assert (parts[before].abs().sum((1, 2)) > 1e-6).all(), "a token is not told of an earlier one"
    own = parts[torch.arange(6), torch.arange(6)]
    assert (own == torch.diag_embed(own.diagonal(dim1=1, dim2=2))).all(), "shift or scale of a token reads itself"
    assert (own.diagonal(dim1=1, dim2=2) > 0).all()
    assert (own.diagonal(dim1=1, dim2=2).log().abs() > 1e-3).all()


@pytest.mark.parametrize("flipped", [False, True])
def test_a_blocks_density_is_a_product_of_conditional_gaussians(flipped):
    """p(x) = prod_t N(x_t; mu(x_<t), exp(alpha(x_<t))^2), built token by token from torch.distributions."""
    b, x = block(flipped=flipped), torch.randn(4, 6, 3, dtype=torch.float64)
    with torch.no_grad():
        z, log_det = b(x)
        truth = torch.zeros(4, dtype=torch.float64)
        order = x.flip(1) if flipped else x
        for t in range(6):
            seen = torch.cat([torch.zeros(4, 1, 3).double(), order[:, :t]], dim=1)
            mu, alpha = b.net(seen)[:, -1].chunk(2, dim=1)
            truth += Independent(Normal(mu, alpha.exp()), 1).log_prob(order[:, t])
        torch.testing.assert_close(standard_normal_log_prob(z) + log_det, truth, rtol=0, atol=1e-10)
    assert truth.std() > 0.1


@pytest.mark.parametrize("flipped", [False, True])
def test_a_block_inverts_with_and_without_its_cache(flipped):
    b, z = block(flipped=flipped), torch.randn(4, 6, 3, dtype=torch.float64)
    cache = b.net.cache(4)
    x = b.inverse(z)
    torch.testing.assert_close(b.inverse(z, cache=cache), x, rtol=0, atol=1e-10)
    torch.testing.assert_close(b.inverse(z + 1, cache=cache), b.inverse(z + 1), rtol=0, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(b(x)[0], z, rtol=0, atol=1e-10)
        torch.testing.assert_close(b.inverse(b(z)[0], cache=cache), z, rtol=0, atol=1e-10)
    assert (x - z).abs().max() > 0.1, "does nothing"


# ------------------------------------------------------------------------------------------------------------- flow


@spaces
def test_the_flow_inverts(space):
    """On data and on draws from the prior, in float32, with the cache and without."""
    model, y = trained(space), labels(space, 6)
    data = dequantise(examples(space, 6).x, space.levels, Noise("u"))
    with torch.no_grad():
        z, _ = model.flow(data, y)
        assert z.shape == (6, model.flow.tokens, model.flow.dim)
        torch.testing.assert_close(model.flow.inverse(z, y), data, rtol=0, atol=1e-5)
        z = model.prior(6, Noise("z"))
        x = model.sample(z, Plan("inverse"), Noise(0), y)
        torch.testing.assert_close(x, model.flow.inverse(z, y, cached=False), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(model.flow(x, y)[0], z, rtol=1e-5, atol=1e-5)
        assert (patchify(x, model.flow.patch) - z).abs().max() > 0.3, "does nothing"


@spaces
def test_the_flows_determinant_is_that_of_its_jacobian(space):
    model, y = trained(space).double(), labels(space, 2)
    x = torch.randn(2, *space.shape, dtype=torch.float64)
    log_det = model.flow(x, y)[1]
    for i in range(2):
        row = None if y is None else y[i : i + 1]
        j = jacobian(lambda a: model.flow(a, row)[0], x[i : i + 1])  # noqa: B023
        assert log_det[i].item() == pytest.approx(torch.linalg.slogdet(j).logabsdet.item(), abs=1e-8)
    assert (log_det[0] - log_det[1]).abs() > 1e-3, "the same everywhere: no scale acts"


def test_every_second_block_reads_backwards_so_that_all_of_x_moves_all_of_z():
    flow = trained(IMAGE, blocks=3).double().flow
    assert [b.flipped for b in flow.blocks] == [False, True, False]
    j = jacobian(lambda a: flow(a)[0], torch.randn(1, 1, 8, 8, dtype=torch.float64))
    assert (j.abs() > 0).float().mean() > 0.95
    alone = Flow(IMAGE, 16, 1, 1, 0, 0.0).double()
    j = jacobian(lambda a: shake(alone, 0.1)(a)[0], torch.randn(1, 1, 8, 8, dtype=torch.float64))
    assert (j.abs() > 0).float().mean() < 0.55


def test_a_new_flow_is_the_identity():
    flow, x = Flow(IMAGE, 16, 4, 2, 0, 0.0).eval(), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        z, log_det = flow(x)
    assert torch.equal(z, patchify(x, 2))
    assert (log_det == 0).all()


def test_a_run_starts_at_independent_gaussians():
    """After `prepare` the density is that of a Gaussian for each pixel with the data's mean and standard deviation."""
    x = torch.randint(17, (512, 1, 8, 8), dtype=torch.uint8)
    x[:, :, 0] = 3  # a row of pixels that never change
    data = Data(x, None, IMAGE)
    for recipe in (RECIPE, DENOISED):
        model = build(recipe, IMAGE, shaken=False).eval()
        assert model.prepare(data, Noise("prepare")) is data
        noise = Noise("prepare")
        seen = data.batch(noise.integers(512, 512)).x
        gaussian = recipe is DENOISED
        seen = seen + recipe.config.sigma * noise.normal(*seen.shape) if gaussian else dequantise(seen, 17, noise)
        start = Independent(Normal(seen.mean(0), seen.std(0) + 1e-3), 3)
        with torch.no_grad():
            density = model.flow.log_density(seen[:9])
        torch.testing.assert_close(density, start.log_prob(seen[:9]), rtol=1e-5, atol=1e-3)


@pytest.mark.heavy
@pytest.mark.parametrize("space", [PLANE, MARKED], ids=["2-D", "marked"])
def test_the_density_integrates_to_one_and_is_that_of_the_samples(space):
    """By quadrature over where the samples fall."""
    model = shake(build(RECIPE, space, width=16).eval(), 0.15, seed=3)

    def label(n: int) -> Tensor | None:
        return torch.full((n,), 2) if space.classes else None

    with torch.no_grad():
        x = model.sample(model.prior(20_000, Noise("z")), Plan("inverse"), Noise(0), label(20_000))
        low, high = x.min(0).values, x.max(0).values
        low, high = low - 0.3 * (high - low), high + 0.3 * (high - low)
        n = 400
        axes = [torch.linspace(float(a), float(b), n) for a, b in zip(low, high)]
        grid = torch.cartesian_prod(*axes)
        log = torch.cat([model.log_likelihood(p, EXACT, Noise(0), label(len(p))).value for p in grid.split(40_000)])
        density = log.double().exp()
        cell = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
        assert float(density.sum() * cell) == pytest.approx(1, abs=5e-3)
        mean = (density[:, None] * grid).sum(0) * cell
        assert ((mean - x.mean(0)).abs() < 5 * x.std(0) / math.sqrt(20_000)).all()
        found = model.flow.log_density(x, label(20_000))
        expected = float((density * density.clamp_min(1e-300).log()).sum() * cell)
        assert float(found.mean()) == pytest.approx(expected, abs=5 * float(found.std()) / math.sqrt(20_000))
        assert float(found.std()) > 0.3


def test_the_loss_is_the_negative_log_density_per_dimension():
    model, x = trained(IMAGE), IMAGE.encode(torch.randint(17, (5, 1, 8, 8)))
    (update,) = model.updates(Batch(x), 0.5, Noise("same"))
    z, log_det = model.flow(dequantise(x, 17, Noise("same")))
    density = (standard_normal_log_prob(z) + log_det).detach()
    assert float(update.loss.detach()) == pytest.approx(-float(density.mean()) / 64, rel=1e-6)
    with torch.no_grad():
        mass = model.log_likelihood(x, EXACT, Noise("same")).value
    torch.testing.assert_close(mass, density + 64 * math.log(2 / 17), rtol=1e-6, atol=1e-4)


def test_the_noisy_models_loss_is_that_of_data_with_gaussian_noise():
    model, x = build(DENOISED, IMAGE, config=replace(DENOISED.config, sigma=0.3)).eval(), examples(IMAGE, 5).x
    (update,) = model.updates(Batch(x), 0.5, Noise("same"))
    with torch.no_grad():
        density = model.flow.log_density(x + 0.3 * Noise("same").normal(5, 1, 8, 8))
    assert float(update.loss.detach()) == pytest.approx(-float(density.mean()) / 64, rel=1e-6)


# --------------------------------------------------------------------------------------------------------- sampling


def test_the_first_token_is_drawn_by_constants_of_its_class():
    model, y = shake(trained(LABELLED, blocks=1), 0.2).eval(), torch.tensor([0, 1, 1])
    z = torch.zeros(3, 16, 4)
    first = patchify(model.flow.inverse(z, y), 2)[:, 0]
    assert (first[0] - first[1]).abs().max() > 1e-3
    torch.testing.assert_close(first[1], first[2])
    out = model.flow.blocks[0].net(torch.zeros(3, 1, 4), y)
    torch.testing.assert_close(first, out[:, 0, :4])  # z = 0 is its mean


def test_the_temperature_scales_the_prior():
    for recipe, sampler in ((RECIPE, "inverse"), (DENOISED, "noisy"), (DENOISED, "denoised")):
        model = shake(build(recipe, PLANE).eval(), 0.1)
        z = model.prior(5, Noise("z"))

        def draw(z: Tensor, t: float, model=model, sampler=sampler) -> Tensor:
            return model.sample(z, Plan(sampler, 1, (("temperature", t),)), Noise(0))

        assert torch.equal(draw(z, 0.5), draw(0.5 * z, 1.0))
        assert not torch.equal(draw(z, 0.5), draw(z, 1.0))
        assert (draw(z, 0.0) == draw(z, 0.0)[:1]).all()


def test_sampling_takes_a_call_for_each_token_of_each_block_and_a_density_one():
    model, x = build(RECIPE, IMAGE, config=replace(RECIPE.config, blocks=3)).eval(), examples(IMAGE, 2).x
    with count_calls() as count:
        model.sample(model.prior(2, Noise("z")), Plan("inverse"), Noise(0))
    assert (count.calls, count.examples) == (3 * 16, 2 * 3 * 16)
    denoised = build(DENOISED, IMAGE, config=replace(DENOISED.config, blocks=3)).eval()
    for sampler, calls in (("noisy", 48), ("denoised", 49)):
        with count_calls() as count:
            denoised.sample(denoised.prior(2, Noise("z")), Plan(sampler), Noise(0))
        assert count.calls == calls
    with count_calls() as count, torch.no_grad():
        model.log_likelihood(x, EXACT, Noise(0))
    assert count.calls == 1


def test_denoising_a_gaussian_gives_the_posterior_mean():
    """Data N(m, s^2) seen as y = x + sigma eps: E[x | y] = (s^2 y + sigma^2 m) / (s^2 + sigma^2)."""
    model = build(DENOISED, PLANE, shaken=False, config=replace(DENOISED.config, sigma=0.7)).double().eval()
    m, s = torch.tensor([0.4, -1.0]).double(), torch.tensor([0.5, 2.0]).double()
    with torch.no_grad():
        bias = torch.stack([m, (s**2 + 0.49).sqrt().log()], dim=1)  # (tokens, mu and alpha)
        model.flow.blocks[0].net.bias.copy_(bias)
    y = torch.randn(6, 2, dtype=torch.float64)
    with torch.no_grad():
        found = model.denoise(y)
    torch.testing.assert_close(found, (s**2 * y + 0.49 * m) / (s**2 + 0.49), rtol=0, atol=1e-12)
    assert not found.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_denoising_follows_the_gradient_of_the_models_own_density():
    model, y = shake(build(DENOISED, MARKED, width=16), 0.1).double().eval(), torch.tensor([0, 1, 3])
    z = model.prior(3, Noise("z")).double()
    with torch.no_grad():
        noisy, denoised = (model.sample(z, Plan(name), Noise(0), y) for name in ("noisy", "denoised"))
        step = 1e-5 * torch.eye(2).double()
        rise = [model.flow.log_density(noisy + e, y) - model.flow.log_density(noisy - e, y) for e in step]
    score = torch.stack(rise, dim=1) / 2e-5
    torch.testing.assert_close(denoised - noisy, model.config.sigma**2 * score, rtol=1e-5, atol=1e-8)
    assert score.abs().min() > 1e-3


@pytest.mark.heavy
def test_the_cache_is_timed_against_sampling_without_it(capsys, monkeypatch):
    monkeypatch.setattr(kv_cache, "SPACES", (IMAGE,))
    assert kv_cache.main(["tarflow", "--batch", "1", "3", "--rounds", "2"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "CPU, 1 threads" in head
    assert len(lines) == 2
    assert all("8x8, 16 tokens x 4 blocks" in line and "times; " in line and line.endswith("MB") for line in lines)
    assert kv_cache.main(["normalizing-flow"]) == 2
    assert "does not draw token by token" in capsys.readouterr().err
    pair = kv_cache.Pair([1.0, 2.0], [3.0, 8.0], 1.0, 2.0)
    assert pair.ratios == [3.0, 4.0]
    assert kv_cache.spread(pair.ratios) == "3.5 (3.2-3.8)"


def test_a_block_is_zukos_autoregressive_transform():
    """zuko inverts by as many passes as there are numbers: density and inverse agree, given the same shift and scale."""
    b = block(tokens=4, dim=2)

    def meta(x: Tensor):
        before = torch.nn.functional.pad(x.view(-1, 4, 2), (0, 0, 1, -1))
        mu, alpha = b.net(before).chunk(2, dim=-1)
        # z = (x - mu) exp(-alpha), as a shift and a log-scale of x
        shift, log_scale = (-mu * torch.exp(-alpha)).flatten(-2), (-alpha).flatten(-2)
        # zuko's log-scale is l / (1 + |l / log slope|).
        unbounded = log_scale / (1 - (log_scale / math.log(1e-3)).abs())
        return zuko.transforms.DependentTransform(zuko.transforms.MonotonicAffineTransform(shift, unbounded, 1e-3), 1)

    theirs = zuko.transforms.AutoregressiveTransform(meta, passes=8)
    x = torch.randn(5, 8, dtype=torch.float64)
    with torch.no_grad():
        z, log_det = b(x.view(5, 4, 2))
        their_z, their_log_det = theirs.call_and_ladj(x)
        torch.testing.assert_close(z.flatten(1), their_z, rtol=0, atol=1e-10)
        torch.testing.assert_close(log_det, their_log_det, rtol=0, atol=1e-10)
        torch.testing.assert_close(b.inverse(z).flatten(1), theirs.inv(their_z), rtol=0, atol=1e-10)
