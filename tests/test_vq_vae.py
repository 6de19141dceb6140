"""VQ-VAE: the codebook against brute force and closed forms, the prior against sums over all code grids."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from paradigms import catalogue
from paradigms.backbones import Backbone, count_calls
from paradigms.backbones.grid import resolutions
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Kind, Plan
from paradigms.testing import build, descend, examples
from paradigms.vq_vae import Codebook, CodePrior

RECIPE = catalogue.get("vq-vae")
SMALL = Space((1, 8, 8), 0, 17)  # a grid of 2 x 2 codes
ELBO = Kind("elbo", "≤", 3)


def model_of(space: Space = SMALL, **settings):
    return build(RECIPE, space, config=replace(RECIPE.config, **settings)).eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------------------------------- codebook


def test_the_nearest_code_is_that_of_brute_force():
    book = Codebook(23, 5, 0.9, 0.1)
    z = 2 * normal(7, 11, 5)
    expected = torch.tensor(
        [[min(range(23), key=lambda k: float((v - book.codes[k]).norm())) for v in row] for row in z]
    )
    assert torch.equal(book.nearest(z), expected)
    assert torch.equal(book.vectors(expected)[3, 4], book.codes[expected[3, 4]])


def test_the_codebook_is_the_running_mean_in_closed_form():
    """N_t = g^t N_0 + (1 - g) sum_s g^(t - s) n_s, and m alike (eqs. 6-8), with assignments that change each step."""
    g, t, size = 0.9, 25, 4
    book = Codebook(size, 3, g, restart=1e-6).double()
    book.start(normal(size, 3, seed=1).double())
    first = book.codes.clone()
    z = [normal(60, 3, seed=10 + s).double() for s in range(t)]
    c = []
    for s in range(t):
        c.append(book.nearest(z[s]))
        book.move(z[s], c[s], spare=torch.full((size, 3), math.nan).double())
    for k in range(size):
        count = g**t + (1 - g) * sum(g ** (t - 1 - s) * int((c[s] == k).sum()) for s in range(t))
        total = g**t * first[k] + (1 - g) * sum(g ** (t - 1 - s) * z[s][c[s] == k].sum(0) for s in range(t))
        assert float(book.count[k]) == pytest.approx(count)
        torch.testing.assert_close(book.codes[k], total / count)
    assert len({tuple(row.tolist()) for row in c}) > 1


def test_on_fixed_data_the_codebook_ends_as_k_means():
    """Four far clusters: each code is the mean of its own."""
    centres = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
    z = (centres[:, None] + 0.3 * normal(4, 50, 2)).flatten(0, 1)
    book = Codebook(4, 2, 0.8, 0.05)
    book.start(centres + 1.0)
    for _ in range(80):
        book.move(z, book.nearest(z), z[:4])
    torch.testing.assert_close(book.codes, z.view(4, 50, 2).mean(1), rtol=1e-4, atol=1e-4)
    assert float(book.perplexity()) == pytest.approx(4, rel=1e-4)


def test_a_code_that_is_hardly_used_is_restarted():
    book = Codebook(4, 2, 0.5, 0.1)
    book.start(torch.tensor([[0.0, 0.0], [1.0, 0.0], [50.0, 50.0], [60.0, 60.0]]))
    z = torch.cat([0.1 * normal(20, 2), torch.tensor([1.0, 0.0]) + 0.1 * normal(20, 2, seed=1)])
    spare = torch.tensor([[7.0, 7.0]]).expand(4, 2)
    used = book.nearest(z)
    assert set(used.tolist()) == {0, 1}
    book.move(z, used, spare)  # 0.5 and 0.5 left of the two idle ones, against 10.5: below a tenth of the mean, 5.5
    mean = 5.5
    assert torch.equal(book.codes[2:], spare[2:])
    assert book.count.tolist() == pytest.approx([10.5, 10.5, mean, mean])
    assert (book.codes[:2] - torch.tensor([[0.0, 0.0], [1.0, 0.0]])).norm(dim=1).max() < 0.3
    assert 2 < float(book.perplexity()) < 4


def test_perplexity_counts_the_codes_in_use():
    book = Codebook(8, 2, 0.9, 0.1)
    for count, expected in (([1.0] * 8, 8), ([3.0] * 4 + [0.0] * 4, 4), ([5.0] + [0.0] * 7, 1)):
        book.count.copy_(torch.tensor(count))
        assert float(book.perplexity()) == pytest.approx(expected)


def test_codes_start_on_outputs_of_the_encoder():
    model = model_of()
    x, _ = examples(SMALL, 40)
    model.prepare(Data(SMALL.decode(x), None, SMALL), Noise("p"))
    with torch.no_grad():
        outputs = model.codec.encoder(x, None).flatten(0, 1)
    gaps = torch.cdist(model.codec.codebook.codes, outputs).min(1).values
    assert gaps.max() < 1e-3
    assert len(model.codec.codebook.codes.unique(dim=0)) > 20


# ------------------------------------------------------------------------------------------------------- objective


class Given(Backbone):
    """An encoder whose outputs are parameters."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z = nn.Parameter(z)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.z.clone()


def test_the_gradient_passes_straight_through():
    """The encoder's gradient is that of -log p(x | z) at z = z_q, and the commitment's 2 beta (z_e - z_q)."""
    beta, dim = 0.7, SMALL.dim
    model, (x, _) = model_of(beta=beta), examples(SMALL, 3)
    model.codec.encoder = Given(normal(3, 4, RECIPE.config.dim))
    z = model.codec.encoder.z
    update = next(model.updates(Batch(x), 0.2, Noise(0)))
    (mine,) = torch.autograd.grad(update.loss, z, retain_graph=True)
    book = model.codec.codebook
    at = book.vectors(book.nearest(z)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(-model.codec.log_prob(x, at, None).mean() / dim, at)
    torch.testing.assert_close(mine, slope + beta * 2 * (z - at).detach() / z.numel(), rtol=1e-4, atol=1e-7)
    assert slope.abs().max() > 1e-5
    # Its value is that at the codes, and the codebook has no gradient: it moves in `after` alone.
    value = -float(model.codec.log_prob(x, at.detach(), None).mean().detach())
    assert float(update.terms["reconstruction"].detach()) == pytest.approx(value, rel=1e-5)
    assert not any(t.requires_grad for t in (book.codes, book.count, book.total))


def test_the_prior_does_not_pull_on_the_codec_and_learns_its_final_codes():
    model, batch = model_of(codec=0.6), examples(SMALL, 5)
    codec, prior = model.updates(batch, 0.59, Noise(0))
    assert codec.module is model.codec
    assert prior.module is model.code_prior
    grads = torch.autograd.grad(prior.loss, list(model.codec.parameters()), allow_unused=True)
    assert all(g is None for g in grads)
    assert codec.settings["lr"] < 1e-3 * model.config.lr < prior.settings["lr"]
    (only,) = list(model.updates(batch, 0.6, Noise(0)))
    assert only.module is model.code_prior
    assert only.after is None
    with torch.no_grad():
        c = model.codec.codebook.nearest(model.codec.encoder(batch.x, None))
        nats = -float(model.code_prior.log_prob(c, None).mean())
    assert float(only.terms["codes"].detach()) == pytest.approx(nats, rel=1e-5)
    before = {k: v.clone() for k, v in model.codec.state_dict().items()}
    descend(model.optimizers(), only)
    assert all(torch.equal(v, before[k]) for k, v in model.codec.state_dict().items())


# ----------------------------------------------------------------------------------------------------------- prior


def tiny_prior(size: int = 3, positions: int = 4, classes: int = 0) -> CodePrior:
    torch.manual_seed(0)
    prior = CodePrior(size, positions, 16, classes, 2, 0.0).eval()
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.4 * torch.randn(p.shape))
    return prior


def every_grid(size: int, positions: int) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(size)] * positions).view(-1, positions)


@pytest.mark.parametrize("classes", [0, 3])
def test_the_prior_is_a_law_over_all_code_grids(classes):
    prior, c = tiny_prior(classes=classes), every_grid(3, 4)
    totals = []
    with torch.no_grad():
        for label in range(max(1, classes)):
            y = torch.full((81,), label) if classes else None
            mass = prior.log_prob(c, y).exp()
            assert float(mass.sum()) == pytest.approx(1, abs=1e-5)
            assert float(mass.max() / mass.min()) > 10
            totals.append(mass)
    assert all(not torch.allclose(a, totals[0]) for a in totals[1:])


def test_the_prior_sees_only_earlier_codes():
    prior, c = tiny_prior(5, 6), torch.tensor([[0, 1, 2, 3, 4, 0]])
    with torch.no_grad():
        logits = prior(c.roll(1, dims=1))
        for j in range(6):
            other = c.clone()
            other[0, j] = (c[0, j] + 1) % 5
            changed = (prior(other.roll(1, dims=1)) - logits).abs().amax(2)[0] > 1e-6
            assert not changed[: j + 1].any(), "a position knows its own code or a later one"
            assert changed[j + 1 :].all(), "a later position does not see it"


def test_codes_drawn_one_by_one_have_the_prior_s_masses():
    """Chi-square over the 81 grids, false alarm 1e-4: the cache, the order and the inverse are those of `log_prob`."""
    prior, c, n = tiny_prior(), every_grid(3, 4), 20_000
    with torch.no_grad(), count_calls() as count:
        drawn = prior.draw(Noise("u").uniform(n, 4), None, 1.0)
    assert count.calls == 4
    with torch.no_grad():
        expected = prior.log_prob(c, None).exp().double() * n
    seen = torch.bincount(drawn @ torch.tensor([27, 9, 3, 1]), minlength=81).double()
    often = expected > 5
    assert often.sum() > 25
    both = [torch.cat([t[often], t[~often].sum()[None]]) for t in (seen, expected)]
    statistic = float(((both[0] - both[1]).square() / both[1]).sum())
    assert statistic < stats.chi2.isf(1e-4, len(both[0]) - 1)


def test_temperature_sharpens_the_prior():
    prior, u = tiny_prior(), Noise("u").uniform(4000, 4)
    with torch.no_grad():
        first = prior(torch.zeros(1, 1, dtype=torch.long))[0, 0]
        for temperature in (0.5, 1.0, 2.0):
            share = torch.bincount(prior.draw(u, None, temperature)[:, 0], minlength=3) / 4000
            assert (share - (first / temperature).softmax(0)).abs().max() < 4 * math.sqrt(0.25 / 4000)
        greedy = prior.draw(u[:5], None, 0.0)
        c = torch.zeros(1, 0, dtype=torch.long)
        for _ in range(4):  # step by step, without a cache
            before = torch.cat([torch.zeros(1, 1, dtype=torch.long), c], dim=1)
            c = torch.cat([c, prior(before)[:, -1:].argmax(2)], dim=1)
    assert torch.equal(greedy, c.expand(5, 4))


# ----------------------------------------------------------------------------------------------- samples, likelihood


@pytest.mark.parametrize("space", [SMALL, Space((2,))], ids=["images", "vectors"])
def test_the_bound_is_one_term_of_the_whole_sum(space):
    """log p(x) = log sum_c p(c) p(x | e_c) over all grids, for a codebook small enough to try them all."""
    model, (x, _) = model_of(space, size=3, slot_size=3), examples(space, 4)
    c = every_grid(3, model.codec.positions)
    with torch.no_grad():
        estimate = model.log_likelihood(x, ELBO, Noise("l"))
        prior, z = model.code_prior.log_prob(c, None), model.codec.codebook.vectors(c)
        each = torch.stack([prior + model.codec.log_prob(one.expand(len(c), *one.shape), z, None) for one in x])
        chosen = model.codec.codebook.nearest(model.codec.encoder(x, None))
    index = (chosen * 3 ** torch.arange(chosen.shape[1]).flip(0)).sum(1)
    torch.testing.assert_close(estimate.value, each[torch.arange(4), index], rtol=1e-5, atol=1e-4)
    assert (estimate.value <= each.logsumexp(1) + 1e-4).all()
    assert set(estimate.terms) == {"reconstruction", "codes"}


def test_samples_are_decoded_codes():
    model, n = model_of(), 6
    u = model.prior(n, Noise("z"))
    assert u.shape == (n, 4)
    with torch.no_grad(), count_calls() as count:
        x = model.sample(u, Plan("mean"), Noise("s"))
        assert count.calls == 4 + 1
        c = model.code_prior.draw(u, None, 1.0)
        out = model.codec.decoder(model.codec.codebook.vectors(c), None)
    torch.testing.assert_close(x, model.codec.law.mean(out))


def test_the_grid_has_a_code_for_so_many_pixels():
    for shape, factor, sizes in (
        ((1, 8, 8), 4, [(4, 4), (2, 2)]),
        ((1, 8, 8), 2, [(4, 4)]),
        ((3, 14, 14), 4, [(7, 7), (4, 4)]),
        ((1, 28, 28), 4, [(14, 14), (7, 7)]),
        ((3, 32, 32), 8, [(16, 16), (8, 8), (4, 4)]),
        ((1, 33, 33), 4, [(33, 33), (17, 17), (9, 9)]),
        ((1, 64, 48), 4, [(16, 12)]),
    ):
        space = Space(shape, 0, 256)
        assert resolutions(space, factor) == sizes
        model, (x, _) = model_of(space, factor=factor, size=4), examples(space, 2)
        with torch.no_grad():
            z = model.codec.encoder(x, None)
            assert z.shape == (2, math.prod(sizes[-1]), model.config.dim)
            assert model.codec.decoder(z, None).shape == (2, *model.codec.law.shape)


def test_a_grid_too_long_to_draw_is_refused():
    assert RECIPE.paradigm.refuses(RECIPE.config, Space((3, 128, 128), 0, 256)) is None
    reason = RECIPE.paradigm.refuses(RECIPE.config, Space((3, 256, 256), 0, 256))
    assert reason is not None
    assert reason.startswith("4,096 codes for an image")
    assert RECIPE.paradigm.refuses(replace(RECIPE.config, factor=8), Space((3, 256, 256), 0, 256)) is None


def test_codes_keep_their_place():
    """Position i of the row is the i-th place of the grid in raster order: a code changes the image around its place."""
    model = model_of(Space((1, 32, 32), 0, 17))
    z = normal(1, 64, model.config.dim)
    moved = z.clone()
    moved[0, 8 * 1 + 6] += 3.0  # row 1, column 6 of 8 x 8
    with torch.no_grad():
        gap = (model.codec.decoder(moved, None) - model.codec.decoder(z, None)).abs().sum(1)[0]
    row, column = divmod(int(gap.argmax()), 32)
    assert abs(row - 5.5) <= 5
    assert abs(column - 25.5) <= 5
    x = torch.zeros(1, 1, 32, 32)
    seen = x.clone()
    seen[0, 0, 4:8, 24:28] = 1.0
    with torch.no_grad():
        gap = (model.codec.encoder(seen, None) - model.codec.encoder(x, None)).norm(dim=2)[0]
    row, column = divmod(int(gap.argmax()), 8)
    assert abs(row - 1) <= 1
    assert abs(column - 6) <= 1


def test_collapse_of_the_codebook_is_said():
    model = model_of(size=64)
    said = model.symptom({"perplexity": 3.2})
    assert said is not None
    assert said.startswith("codebook collapse: the codes in use are worth 3.2 of 64")
    assert model.symptom({"perplexity": 40.0}) is None
    assert model.symptom({}) is None
    for progress in (0.1, 0.9):  # the term is there to the end, when the codec no longer learns
        terms: dict = {}
        for update in model.updates(examples(SMALL, 4), progress, Noise(0)):
            terms |= update.terms
        assert "perplexity" in terms


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 1),
        ("size", 10**8),
        ("dim", 0),
        ("dim", 100_000),
        ("factor", 0),
        ("slots", 0),
        ("slots", 2000),
        ("slot_size", 1),
        ("slot_size", 10**8),
        ("beta", 0.0),
        ("decay", 1.0),
        ("restart", 0.0),
        ("codec", 0.0),
        ("depth", 0),
        ("prior_dropout", 1.0),
    ],
)
def test_settings_that_make_no_sense_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        replace(RECIPE.config, **{key: value})
