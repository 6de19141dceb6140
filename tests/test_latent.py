"""Latent diffusion: a codec and a prior whose answers are known, and what stands between them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from typer.testing import CliRunner

from bench import runs, scores, suite
from bench.cli import app
from bench.progress import Progress
from bench.runs import configure, define, ensure, read_info
from bench.scores import codec as codec_scores
from bench.scores import pools
from bench.scores.reference import reference_of
from bench.tiers import get
from paradigms import catalogue
from paradigms.autoencoder import Autoencoder
from paradigms.backbones import count_calls
from paradigms.contract import Codec, Frozen, Paradigm, Trainable
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Plan
from paradigms.errors import BadInput
from paradigms.latent import Config, Latent, drawn
from paradigms.maths.observation import Gaussian, Observation
from paradigms.recipe import Need, Recipe
from paradigms.testing import Exact, Mixture, build, descend, examples, examples_for, shake
from reports.layout import PREPARED, STATE

FLOW, CHAIN = catalogue.get("latent-flow-matching"), catalogue.get("latent-ddpm")
CODEC = catalogue.get("autoencoder")
_SMOKE = get("smoke")
# Whatever the machine: without the caps in seconds.
SMOKE = replace(_SMOKE, small=replace(_SMOKE.small, flops=_SMOKE.small.flops / 2, seconds=1e9))
PLANE, IMAGES = Space((2,)), Space((1, 8, 8), 0, 17)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------------------------------- the oracle


class Linear(nn.Module):
    """x = a z + b + s eps of z ~ N(m, d^2), coordinate by coordinate, with the exact q(z | x); float64."""

    A, B, S = torch.tensor([1.7, -0.6]), torch.tensor([0.4, -1.0]), 0.3
    M, D = torch.tensor([0.8, -2.0]), torch.tensor([1.5, 0.4])

    def __init__(self) -> None:
        super().__init__()
        self.space = self.latent = PLANE
        self.law: Observation = Gaussian(PLANE)

    def encode(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        precision = self.A.double().square() / self.S**2 + 1 / self.D.double().square()
        mu = ((x - self.B) * self.A / self.S**2 + self.M / self.D.square()) / precision
        return mu, (-0.5 * precision.log()).expand_as(mu)

    def decode(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        mean = self.A * z + self.B
        return torch.cat([mean, torch.full_like(mean, math.log(self.S) + 2)], dim=1)

    @property
    def marginal(self) -> MultivariateNormal:
        var = (self.A * self.D).double().square() + self.S**2
        return MultivariateNormal((self.A * self.M + self.B).double(), torch.diag(var))


SHIFT, SCALE = torch.tensor([0.5, 1.0]).double(), torch.tensor([2.0, 0.3]).double()


def perfect(recipe: Recipe) -> Latent:
    """With a linear codec, scaled by other numbers than would make its variance one, and a network that is exact."""
    model = recipe.build(PLANE, 8, {"codec": Frozen(Linear())}).double().eval()
    model.shift.copy_(SHIFT)
    model.scale.copy_(SCALE)
    mean, std = (Linear.M - SHIFT) / SCALE, Linear.D / SCALE
    d = model.inner.denoiser()
    model.inner.net = Exact(Mixture([1.0], [mean.tolist()], [std.tolist()]), d.path, d.prediction)
    return model


def test_the_bound_of_a_perfect_model_is_its_log_density():
    """q is exact, so that the bound is tight: the mean over draws of z is log p(x)."""
    model, truth, n = perfect(FLOW), Linear().marginal, 2000
    kind = next(k for k in model.card.likelihoods if k.name == "ode")
    kind = replace(kind, options=(("steps", 20), ("probes", 0)))
    for x in ([1.8, 0.2], [-2.0, 1.0]):
        point = torch.tensor([x]).double()
        found = model.log_likelihood(point.expand(n, -1), kind, Noise("l"))
        spread = float(found.value.std()) / math.sqrt(n)
        assert float(found.value.mean()) == pytest.approx(float(truth.log_prob(point)), abs=4 * spread + 1e-3)
        # Term by term: what is expected of each in closed form.
        mu, log_sd = model.codec.encode(point)
        q = Normal(mu, log_sd.exp())
        expected = {
            "entropy": float(-(q.entropy() - SCALE.log()).sum()),
            "prior": -float((Normal(Linear.M, Linear.D).log_prob(q.sample((50_000,))) + SCALE.log()).sum(-1).mean()),
        }
        for name, value in expected.items():
            error = float(found.terms[name].std()) / math.sqrt(n)
            assert float(found.terms[name].mean()) == pytest.approx(value, abs=4 * error + 0.03), name


def test_a_bound_on_the_prior_is_a_bound_on_the_whole():
    model, truth, n = perfect(CHAIN), Linear().marginal, 400
    kind = next(k for k in model.card.likelihoods if str(k) == "vlb-continuous(terms=50)")
    x = truth.sample((n,))
    gap = truth.log_prob(x) - model.log_likelihood(x, kind, Noise("l")).value
    assert kind.relation == "≤"
    assert -3 * float(gap.std()) / math.sqrt(n) < float(gap.mean()) < 0.3


@pytest.mark.heavy
@pytest.mark.parametrize(("recipe", "steps"), [(FLOW, 32), (CHAIN, 400)], ids=lambda v: getattr(v, "name", str(v)))
def test_samples_of_a_perfect_model_have_the_law_of_the_data(recipe, steps):
    model, truth, n = perfect(recipe), Linear().marginal, 20_000
    z = model.prior(n, Noise("z")).double()
    plain = Plan(model.card.default.sampler, steps)
    x = model.sample(z, plan=plain, noise=Noise("s"))
    torch.testing.assert_close(x.mean(0), truth.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), truth.covariance_matrix, atol=0.1, rtol=0.04)
    mean = model.sample(z, replace(plain, options=(("decode", "mean"),)), Noise("s"))
    less = truth.covariance_matrix - Linear.S**2 * torch.eye(2).double()
    torch.testing.assert_close(torch.cov(mean.T), less, atol=0.05, rtol=0.04)
    assert float((x - mean).std()) == pytest.approx(Linear.S, rel=0.02)


def test_the_way_is_shown_decoded():
    model, seen = perfect(FLOW), []
    z = model.prior(5, Noise("z")).double()
    model.sample(z, Plan("euler", 4), Noise("s"), watch=lambda t, x: seen.append((t, x)))
    assert [t for t, _ in seen] == [1.0, 0.75, 0.5, 0.25, 0.0]
    torch.testing.assert_close(seen[0][1], Linear.A * (SHIFT + SCALE * z) + Linear.B)
    last = model.sample(z, Plan("euler", 4, (("decode", "mean"),)), Noise("s"))
    torch.testing.assert_close(seen[-1][1], last)


# ------------------------------------------------------------------------------------------------------------- codes


@pytest.mark.parametrize("space", [IMAGES, Space((3, 14, 14), 4, 256), Space((2,)), Space((2,), 3)], ids=str)
def test_codes_have_unit_variance(space):
    """Over data and posterior together, channel by channel; the data is what `prepare` was given."""
    model = build(FLOW, space, shaken=False)
    shake(model.parent.model, 0.3)
    x, y = examples(space, 300)
    data = model.prepare(Data(space.decode(x), y, space), Noise("prepare"))
    over = [0, *range(2, data.x.dim())]
    mu, log_sd = data.x.chunk(2, dim=1)
    torch.testing.assert_close(mu.mean(over), torch.zeros(mu.shape[1]), atol=1e-4, rtol=0)
    variance = mu.var(over, correction=0) + (2 * log_sd).exp().mean(over)
    torch.testing.assert_close(variance, torch.ones(mu.shape[1]), atol=1e-4, rtol=0)
    assert float(mu.std()) < 0.999, "the posterior's own variance is a part of it"
    assert data.space == Space((2 * model.codec.latent.shape[0], *model.codec.latent.shape[1:]), space.classes)
    assert len(data) == 300
    assert (data.y is None) == (y is None)
    torch.testing.assert_close(model.codes(x, y if space.classes else None), data.x, atol=1e-4, rtol=1e-4)


def test_scaling_is_undone_before_the_decoder():
    model, (x, _) = build(FLOW, IMAGES).eval(), examples(IMAGES, 6)
    model.prepare(Data(IMAGES.decode(x), None, IMAGES), Noise("prepare"))
    assert (model.scale - 1).abs().max() > 0.1
    mu, log_sd = model.codec.encode(x)
    scaled_mu, scaled_log_sd = model.codes(x, None).chunk(2, dim=1)
    torch.testing.assert_close(model.decode(scaled_mu, None), model.codec.decode(mu), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scaled_log_sd.exp() * model.scale, log_sd.exp())


def test_a_step_draws_codes_anew_from_the_posterior():
    codes = torch.cat([normal(4, 3, 2, 2), torch.full((4, 3, 2, 2), -1.0)], dim=1)
    z = torch.stack([drawn(codes, Noise(k)) for k in range(2000)])
    torch.testing.assert_close(z.mean(0), codes[:, :3], atol=0.06, rtol=0)
    torch.testing.assert_close(z.std(0), torch.full((4, 3, 2, 2), math.exp(-1)), atol=0.04, rtol=0)
    model = build(FLOW, IMAGES).train()
    batch = examples_for(model)
    first, other = (next(model.updates(batch, 0.5, Noise(k))).loss.item() for k in (0, 1))
    assert first != other


@pytest.mark.parametrize(
    ("shape", "factor", "grid"),
    [
        ((1, 8, 8), 0, (4, 4)), ((1, 14, 14), 0, (7, 7)), ((1, 28, 28), 0, (7, 7)), ((3, 32, 32), 0, (8, 8)),
        ((1, 28, 28), 2, (14, 14)), ((1, 8, 8), 4, (2, 2)), ((1, 9, 15), 0, (5, 8)),
    ],
)  # fmt: skip
def test_the_grid_of_codes_follows_from_the_image(shape, factor, grid):
    space = Space(shape, 0, 256)
    codec = build(CODEC, space, config=replace(CODEC.config, factor=factor, channels=3))
    assert codec.latent == Space((3, *grid))
    x = examples(space, 2).x
    mu, log_sd = codec.encode(x)
    assert mu.shape == log_sd.shape == (2, 3, *grid)
    assert codec.law.mean(codec.decode(mu)).shape == x.shape
    assert isinstance(codec, Codec)


# ------------------------------------------------------------------------------------------------------ first stage


@pytest.mark.parametrize("space", [IMAGES, PLANE], ids=["images", "plane"])
def test_the_codecs_loss_is_what_its_text_says(space):
    codec, (x, _) = build(CODEC, space, config=replace(CODEC.config, beta=0.7)), examples(space, 5)
    update = next(codec.updates(examples(space, 5), 0.3, Noise(1)))
    mu, log_sd = codec.encode(x)
    z = mu + log_sd.exp() * Noise(1).normal(*mu.shape)
    kl = kl_divergence(Normal(mu, log_sd.exp()), Normal(0.0, 1.0)).flatten(1).sum(1).mean()
    nats = -codec.law.log_prob(codec.decode(z), x).mean()
    assert update.loss.item() == pytest.approx((nats + 0.7 * kl).item() / space.dim, rel=1e-5)
    assert update.terms["kl"].item() == pytest.approx(kl.item(), rel=1e-5)


def test_a_codec_learns_to_give_back_what_it_was_given():
    codec = build(CODEC, IMAGES, width=16, shaken=False)
    base = normal(16, 3, 2, 2, seed=3)
    k = 8 + 12 * nn.functional.interpolate(base, (8, 8), mode="bilinear").mean(1, keepdim=True)
    x, optimizers = IMAGES.encode(k.clamp(0, 16).round()), codec.optimizers()

    def left() -> float:
        with torch.no_grad():
            return float((codec.law.mean(codec.decode(codec.encode(x)[0])) - x).square().mean() / x.var())

    before = left()
    for step in range(80):
        for update in codec.updates(Batch(x), 0.1, Noise(step)):
            descend(optimizers, update)
    assert before > 0.5
    assert left() < 0.1


def test_codes_that_say_nothing_are_told_of():
    codec = build(CODEC, IMAGES)
    assert codec.symptom({"active": 4.0}) is None
    assert codec.symptom({}) is None
    assert "posterior collapse: 3 of 4 channels" in codec.symptom({"active": 1.0})


# ------------------------------------------------------------------------------------------------ what is inside


def around(name: str) -> Recipe:
    """A recipe with any other inside, as a plugin would write it."""

    class Around(Latent):
        @staticmethod
        def inside() -> str:
            return name

    config = Config(catalogue.get(name).config)
    return Recipe(f"latent-{name}", Around, config, "", needs={"codec": Need("autoencoder", Codec)})


@pytest.mark.parametrize("name", ["gan", "vae", "normalizing-flow", "edm", "score-sde", "hvae", "mean-flow"])
@pytest.mark.parametrize("space", [IMAGES, Space((2,), 3)], ids=["images", "marked"])
def test_any_paradigm_can_stand_in_a_codecs_space(name, space):
    model = build(around(name), space)
    x, y = examples(space, 40)[:2]
    data = model.prepare(Data(space.decode(x), y, space), Noise("p"))
    for update in model.train().updates(data.batch(torch.arange(8)), 0.5, Noise(0)):
        assert update.loss.isfinite()
        assert update.module in model.optimizers()
    card, own = model.eval().card, catalogue.get(name).paradigm.card
    plan_ = Plan(card.default.sampler, 1 if card.sampler(card.default.sampler).steps == (1,) else 3)
    with torch.no_grad(), count_calls() as count:
        found = model.sample(model.prior(2, Noise("z")), plan_, Noise("s"), y[:2] if space.classes else None)
    assert found.shape == (2, *space.shape)
    if own.samplers[0].calls is not None:
        assert count.calls == own.sampler(plan_.sampler).calls_at(plan_.steps) + 1
    kinds = card.likelihoods
    assert [kind.name for kind in kinds] == [kind.name for kind in own.likelihoods_on(PLANE)]
    assert all(kind.relation != "=" for kind in kinds)
    if not kinds:
        with pytest.raises(NotImplementedError, match=own.no_likelihood):
            model.log_likelihood(x[:2], own, Noise(0))
        return
    kind = min(kinds, key=lambda kind: kind.calls)
    with torch.no_grad(), count_calls() as count:
        estimate = model.log_likelihood(x[:2], kind, Noise("l"), y[:2] if space.classes else None)
    assert estimate.value.isfinite().all()
    assert count.examples == 2 * kind.calls
    torch.testing.assert_close(sum(estimate.terms.values()), -estimate.value)


def test_a_model_that_makes_its_own_data_can_not(monkeypatch):
    model = build(FLOW, IMAGES)
    monkeypatch.setattr(type(model.inner), "prepare", lambda self, data, noise: replace(data))
    with pytest.raises(TypeError, match="flow-matching trains on data that it makes itself"):
        model.prepare(Data(IMAGES.decode(examples(IMAGES).x), None, IMAGES), Noise(0))


def test_settings_of_what_is_inside_are_its_own():
    own = catalogue.get("flow-matching").config
    assert FLOW.config.inner == own
    assert FLOW.config.batch == own.batch
    changed = configure(FLOW.config, ["inner.lr=1e-4", "inner.batch=32", "inner.times=logit-normal"])
    assert (changed.inner.lr, changed.batch, changed.inner.times) == (1e-4, 32, "logit-normal")
    with pytest.raises(BadInput, match="name one of its parts"):
        configure(FLOW.config, ["inner=3"])
    with pytest.raises(BadInput, match="times must be one of"):
        configure(FLOW.config, ["inner.times=never"])
    tier = SMOKE
    assert define(FLOW.name, "digits", 0, tier).id != define(FLOW.name, "digits", 0, tier, ["inner.lr=1e-4"]).id


def test_what_is_inside_must_be_a_recipe(monkeypatch):
    recipe = around("vae")
    monkeypatch.setattr(
        catalogue.plugins.Door, "ours", lambda _: iter([catalogue.plugins.Found(recipe, "here", False)])
    )
    with pytest.raises(BadInput, match="here: 'latent-vae' holds 'vae' inside, which is no recipe's name; mend it"):
        catalogue.recipes()


def test_a_codec_must_be_one_and_of_this_data():
    with pytest.raises(TypeError, match="its codec 'autoencoder' is not a Codec"):
        FLOW.build(IMAGES, 8, {"codec": Frozen(build("vae", IMAGES))})
    with pytest.raises(BadInput, match="train one on this data"):
        FLOW.build(IMAGES, 8, {"codec": Frozen(build(CODEC, PLANE))})
    assert not isinstance(build("vq-vae", IMAGES), Codec)
    assert not isinstance(build(FLOW, IMAGES), Codec)


def test_what_can_not_model_the_codes_is_refused_in_words():
    recipe = around("ot-flow-matching")
    with pytest.raises(BadInput, match=r"ot-flow-matching can not model codes of .*without labels"):
        build(recipe, Space((2,), 3))


@pytest.mark.parametrize("setting", ["channels=0", "beta=-1", "components=0", "factor=-1", "dims=-1"])
def test_a_codec_refuses_settings_that_make_none(setting):
    with pytest.raises(BadInput, match=setting.split("=")[0]):
        configure(CODEC.config, [setting])


def test_a_factor_beyond_the_image_is_refused():
    assert "lower factor" in Autoencoder.refuses(replace(CODEC.config, factor=9), IMAGES)
    assert Autoencoder.refuses(replace(CODEC.config, factor=8), IMAGES) is None


# ------------------------------------------------------------------------------------------------------ whole runs


def test_the_codec_and_its_model_cost_one_budget():
    for recipe in (FLOW, CHAIN):
        (need,) = recipe.needs.values()
        assert need.share + recipe.share == 1
        assert need.at_sampling


class Stop(Progress):
    """Stops while the model that stands on a codec is trained."""

    def update(self, stage, done, total, **facts):
        if "latent" in stage and done == 20 and total > 20:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    out = tmp_path_factory.mktemp("runs")
    return out, ensure(define(FLOW.name, "digits", 0, SMOKE), out, Progress(), device="cpu")


@pytest.mark.heavy
def test_the_codec_is_trained_first_and_costs(trained):
    out, folder = trained
    info = read_info(folder)
    codec = read_info(out / info.parents["codec"])
    assert info.status == codec.status == "ok"
    assert info.flops_total == pytest.approx(info.flops + codec.flops)
    assert info.flops_total <= 1.02 * info.budget["flops"]
    assert {codec.where, info.where} == set(info.costs)


@pytest.mark.heavy
def test_a_run_goes_on_from_its_checkpoint_with_the_same_bits(trained, tmp_path):
    out, folder = trained
    run = define(FLOW.name, "digits", 0, SMOKE)
    for path in folder.parent.glob("plan-*.json"):  # the same steps, whatever the clock says here
        (tmp_path / path.relative_to(out)).parent.mkdir(parents=True)
        (tmp_path / path.relative_to(out)).write_bytes(path.read_bytes())
    codec = out / read_info(folder).parents["codec"]
    (tmp_path / codec.relative_to(out)).parent.mkdir(parents=True)
    (tmp_path / codec.relative_to(out)).symlink_to(codec)
    with pytest.raises(KeyboardInterrupt):
        ensure(run, tmp_path, Stop(), device="cpu")
    again = run.folder(tmp_path)
    assert (again / PREPARED).exists(), "the codes are kept"
    assert (again / STATE).exists()
    ensure(run, tmp_path, Progress(), device="cpu")
    assert (again / runs.WEIGHTS).read_bytes() == (folder / runs.WEIGHTS).read_bytes()
    assert not (again / PREPARED).exists()
    assert read_info(again).resumed == (20,)


@pytest.mark.heavy
def test_a_run_says_what_its_codec_loses_and_a_codec_what_it_loses(trained):
    out, folder = trained
    tier = SMOKE
    rows = scores.evaluate(folder, tier, Progress())
    codec = out / read_info(folder).parents["codec"]
    own = scores.evaluate(codec, tier, Progress())
    assert {row.metric for row in own} == {"rfd", "reconstruction"}
    assert all(row.recipe == "autoencoder" and row.split == "test" for row in own)
    assert not (codec / "results.jsonl").exists(), "a codec is no row of a comparison"
    mine = [row for row in rows if row.metric in ("rfd", "reconstruction")]
    assert [(row.metric, row.features, row.value) for row in mine] == [(r.metric, r.features, r.value) for r in own]
    assert all(row.headline and row.recipe == FLOW.name for row in mine)
    model, _ = runs.load(folder)
    assert {row.n for row in mine} == {pools.pool_size(runs.dataset("digits"), tier)}
    terms = {row.metric: row.value for row in rows if row.metric.startswith("term_") and row.split == "test"}
    bits = next(row.value for row in rows if row.metric == "bits_per_dim" and row.split == "test")
    assert sum(terms.values()) / (64 * math.log(2)) == pytest.approx(bits, rel=1e-5)
    lost = next(row.value for row in mine if row.metric == "reconstruction")
    assert terms["term_reconstruction"] / (64 * math.log(2)) == pytest.approx(lost, rel=0.05)  # other examples
    assert isinstance(model, Paradigm)


def test_a_perfect_codec_loses_nothing(trained, monkeypatch):
    """Its reconstructions are the images: rfd is 0."""
    out, folder = trained
    model, info = runs.load(out / read_info(folder).parents["codec"])
    found = runs.dataset("digits")
    shown: list[Tensor] = []
    monkeypatch.setattr(model, "encode", lambda x, cond=None: (shown.append(x), 2 * [torch.zeros(len(x), 4, 4, 4)])[1])
    monkeypatch.setattr(model.law, "sample", lambda out, noise: shown[-1])
    row, other, _ = codec_scores.rows(runs.base_row(info), model, reference_of(found), pools.pool_size(found, SMOKE))
    assert abs(row.value) < 1e-6
    assert abs(other.value) < 1e-6


@pytest.mark.parametrize("verb", ["sample", "time"])
def test_a_codec_is_not_sampled(trained, verb):
    out, folder = trained
    found = CliRunner().invoke(app, [verb, str(out / read_info(folder).parents["codec"])])
    assert found.exit_code == 2
    assert "a first stage for others and does not sample" in found.output


def test_a_codec_is_not_compared():
    with pytest.raises(BadInput, match="first stage"):
        suite.plan_runs("digits", ["autoencoder"], SMOKE, 1, False)
    planned, _ = suite.plan_runs("digits", ["all"], SMOKE, 1, False)
    names = {run.recipe for run in planned}
    assert {"latent-flow-matching", "latent-ddpm"} <= names
    assert "autoencoder" not in names
    assert not issubclass(CODEC.paradigm, Paradigm)
    assert issubclass(CODEC.paradigm, Trainable)


def test_the_card_is_that_of_what_is_inside():
    for recipe in (FLOW, CHAIN):
        card: Card = recipe.paradigm.card
        own = catalogue.get(recipe.paradigm.inside()).paradigm.card
        assert card.default == own.default
        assert [s.name for s in card.samplers] == [s.name for s in own.samplers]
        assert all(s.options["decode"] == "sample" for s in card.samplers), "the likelihood's model draws its pixels"
        assert card is recipe.paradigm.card
