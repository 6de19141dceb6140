"""Vectors on any scale: every recipe, every kind of likelihood and every number without a unit moves with the data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import pytest
import torch
from helpers import thinned
from torch import Tensor

from bench import runs, scores, tiers
from bench.data import toys
from bench.data.dataset import Dataset, Density, checksum
from bench.gpu_check import few
from bench.loop import Loop
from bench.metrics import vector_quality
from bench.progress import Progress
from bench.scores import baselines, likelihood, quality
from bench.scores.fitted import fit_density
from bench.scores.rows import row_of_data
from bench.store import Row
from paradigms import catalogue
from paradigms.contract import Codec, Frozen, Paradigm, Trainable
from paradigms.core.data import Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Estimate, Plan
from paradigms.errors import BadInput
from paradigms.recipe import Recipe
from paradigms.standardise import Standardised, column_units, directions, is_plain, standardised

PLANE = Space((2,))
DIGITS = Space((1, 8, 8), 0, 17)
# Powers of two, which floating point takes without rounding; and a thousandth and a thousand, elsewhere.
POWERS = torch.tensor([2.0**10, 2.0**-10], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
THOUSANDS = torch.tensor([1e3, 1e-3], dtype=torch.float64), torch.tensor([700.0, -2e-3], dtype=torch.float64)


def moved(x: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """s x + b, rounded as data are stored."""
    return (by[0] * x.double() + by[1]).float()


def ring(n: int = 256) -> Tensor:
    return toys.ring8().sample(n, torch.Generator().manual_seed(0))[0]


def trained(recipe: Recipe, data: Data, steps: int = 2, width: int = 8) -> Trainable:
    """A few real steps, on parents that had as many."""
    parents = {
        role: Frozen(trained(catalogue.get(n.recipe), data, steps, width), 64) for role, n in recipe.needs.items()
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = recipe.build(data.space, width, parents)
    loop = Loop(model, model.prepare(data, Noise("prepare")), 16, steps, ("data", recipe.name, 0))
    for k in range(steps):
        loop.step(k)
    return model.eval()


@torch.no_grad()
def answers(model: Paradigm, x: Tensor) -> tuple[Tensor, dict[str, Estimate]]:
    """Samples by a few steps of the usual sampler, and log p(x) in every kind of likelihood."""
    sampler = model.card.sampler(model.card.default.sampler)
    assert sampler is not None
    plan = Plan(sampler.name, 1 if sampler.steps == (1,) else 2)
    samples = model.sample(model.prior(16, Noise("z")), plan, Noise("s"))
    kinds = {kind.name: few(kind) for kind in model.card.likelihoods_on(model.space) if kind.calls <= 200}
    return samples, {name: model.log_likelihood(x, kind, Noise("l")) for name, kind in kinds.items()}


@pytest.mark.parametrize(
    "name", thinned([(name,) for name in catalogue.recipes()], lambda c: catalogue.get(c[0]).paradigm.updates)
)
def test_scaled_columns_are_the_same_problem(name):
    """Equal weights; samples mapped as the data; log p(x) lower by sum log s, in its parts too."""
    recipe, x = catalogue.get(name), ring()
    model = trained(recipe, Data(x, None, PLANE))
    for by, exact in ((POWERS, True), (THOUSANDS, False)):
        s, b = by
        other = trained(recipe, Data(moved(x, by), None, PLANE))
        for before, after in zip(model.core.state_dict().values(), other.core.state_dict().values(), strict=True):
            torch.testing.assert_close(after, before, rtol=0 if exact else 1e-3, atol=0 if exact else 1e-3)
        if isinstance(model, Codec):
            mu, there = model.encode(x[:4])[0], other.encode(moved(x[:4], by))[0]
            torch.testing.assert_close(there, mu, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-4)
            log_px, as_much = (
                model.law.log_prob(model.decode(mu), x[:4]),
                other.law.log_prob(other.decode(mu), moved(x[:4], by)),
            )
            torch.testing.assert_close(as_much, log_px - s.log().sum().float(), rtol=0, atol=2e-3)
            continue
        samples, likelihoods = answers(model, x[:4])
        there, as_much = answers(other, moved(x[:4], by))
        torch.testing.assert_close(
            there, moved(samples, by), rtol=0 if exact else 1e-3, atol=0 if exact else 1e-3 * float(s.max())
        )
        torch.testing.assert_close((there.double() - b) / s, samples.double(), rtol=0, atol=0 if exact else 1e-3)
        for kind, found in likelihoods.items():
            want = found.value.double() - s.log().sum()
            torch.testing.assert_close(as_much[kind].value.double(), want, rtol=1e-4, atol=1e-4)
            if found.terms:
                torch.testing.assert_close(
                    -sum(as_much[kind].terms.values()), as_much[kind].value, rtol=1e-5, atol=1e-4
                )


def test_what_stands_on_another_model_has_its_map():
    x = ring()
    teacher = trained(catalogue.get("flow-matching"), Data(moved(x, THOUSANDS), None, PLANE))
    child = catalogue.get("consistency").build(PLANE, 8, {"teacher": Frozen(teacher)})
    child.prepare(Data(x, None, PLANE), Noise("p"))
    assert torch.equal(child.origin, teacher.origin)
    assert torch.equal(child.unit, teacher.unit)
    assert {"origin", "unit"} <= set(child.state_dict()), "the weights' file holds the map"
    assert not any("parent" in name for name in child.state_dict())


def test_images_and_what_stands_on_a_model_without_a_map_have_none():
    flow = catalogue.get("flow-matching")
    assert not isinstance(flow.build(DIGITS, 8, {}), Standardised)
    plain = flow.paradigm(flow.config, PLANE, 8, {})
    assert not isinstance(catalogue.get("reflow").build(PLANE, 8, {"parent": Frozen(plain)}), Standardised)


class Shifted(Paradigm):
    """x = z + 1 of a standard normal z, whatever the data; or + `at`."""

    card = catalogue.get("maf").paradigm.card

    def __init__(self, config, space, width, parents, at: float = 1.0) -> None:
        super().__init__(config, space, width, parents)
        self.at = at

    def optimizers(self):
        return {}

    def updates(self, batch, progress, noise):
        yield from ()

    def prior(self, n, noise):
        return noise.normal(n, 2)

    def sample(self, z, plan, noise, cond=None, watch=None):
        if watch is not None:
            watch(1.0, z)
        return z + self.at

    def log_likelihood(self, x, kind, noise, cond=None):
        return Estimate(torch.distributions.Normal(self.at, 1.0).log_prob(x).sum(1))


def test_the_map_is_the_affine_one_of_the_training_part():
    """Samples o + u (z + 1), and the density of N(o + u, u^2), by torch.distributions."""
    x = torch.tensor([[0.0, 10.0], [4.0, 10.5], [8.0, 12.0]])
    model = standardised(Shifted(None, PLANE, 8, {}))
    data = model.prepare(Data(x, None, PLANE), Noise("p"))
    assert torch.allclose(data.x.mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(data.x.std(0, correction=0), torch.ones(2))
    o, u = x.double().mean(0), x.double().std(0, correction=0)
    z, seen = model.prior(5, Noise("z")), []
    samples = model.sample(z, model.card.default, Noise("s"), None, lambda t, x: seen.append((t, x)))
    assert torch.allclose(samples.double(), o + u * (z.double() + 1))
    assert seen[0][0] == 1
    assert torch.allclose(seen[0][1].double(), o + u * z.double()), "states on the way stand in the data's units too"
    found = model.log_likelihood(x, model.card.likelihoods[0], Noise("l")).value
    assert torch.allclose(found.double(), torch.distributions.Normal(o + u, u).log_prob(x.double()).sum(1))


def test_a_column_that_never_changes_is_drawn_as_it_is():
    x = torch.cat([ring(), torch.full((256, 1), 7.0)], 1)
    o, u = column_units(x)
    assert o[2] == 7
    assert u[2] == u[:2].min(), "the lower median of two"
    assert torch.equal(column_units(4 * x)[1], 4 * u)
    assert column_units(torch.full((5, 2), -3.0))[1].tolist() == [3, 3]
    assert column_units(torch.zeros(5, 2))[1].tolist() == [1, 1]
    for name in ("maf", "vae", "gan", "flow-matching", "latent-flow-matching"):
        model = trained(catalogue.get(name), Data(x, None, Space((3,))), 10)
        samples, likelihoods = answers(model, x[:4])
        assert samples.isfinite().all()
        assert samples[:, 2].eq(7).all()
        assert all(found.value.isfinite().all() for found in likelihoods.values())


def test_log_p_of_a_column_that_never_changes_is_0():
    """Of a perfect model, exactly; and with another value there is no mass at all."""
    x = torch.tensor([[0.0, 3.0], [4.0, 3.0], [8.0, 3.0]])
    model = standardised(Shifted(None, PLANE, 8, {}, at=0.0))
    data = model.prepare(Data(x, None, PLANE), Noise("p"))
    assert data.x[:, 1].unique().numel() == 3, "the model meets noise there"
    o, u = x[:, 0].double().mean(), x[:, 0].double().std(correction=0)
    kind = model.card.likelihoods[0]
    found = model.log_likelihood(x, kind, Noise("l")).value.double()
    assert torch.allclose(found, torch.distributions.Normal(o, u).log_prob(x[:, 0].double()))
    assert model.log_likelihood(x + 1, kind, Noise("l")).value.tolist() == [-math.inf] * 3
    assert model.sample(model.prior(4, Noise("z")), model.card.default, Noise("s"))[:, 1].tolist() == [3.0] * 4


# ------------------------------------------------------------------------------------------------- metrics, rows


def scaled(density: Density, s: float, b: float) -> Density:
    """The density of s x + b in closed form."""
    assert density.log_prob is not None
    assert density.modes is not None
    assert density.entropy is not None
    log_s = density.modes.shape[1] * math.log(s)

    def sample(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = density.sample(n, generator)
        return (s * x.double() + b).float(), y

    log_prob = density.log_prob
    return Density(
        lambda x: log_prob((x.double() - b) / s) - log_s,
        sample,
        density.entropy + log_s,
        s * density.modes + b,
        s * density.mode_radius,
    )


@pytest.mark.parametrize("s", [2.0**10, 1e-3])
def test_metrics_of_vectors_follow_the_scale(s):
    """Distances times s, shares and the discrepancy not at all."""
    x = ring(300)
    fake = ring(600)[300:] * 1.05 + 0.02
    before = {v.metric: v.value for v in vector_quality(fake, x, toys.ring8())}
    after = {v.metric: v.value for v in vector_quality(s * fake, s * x, scaled(toys.ring8(), s, 0.0))}
    for metric, value in before.items():
        factor = s if metric in ("w2", "sw2", "energy") else 1.0
        assert after[metric] == pytest.approx(factor * value, rel=1e-4, abs=1e-9 * factor), metric


@pytest.fixture
def rescaled(monkeypatch):
    """Puts a scaled ring8 in the place of ring8: the same noise, and other data."""

    def put(s: float, b: float) -> None:
        monkeypatch.setitem(toys.TOYS, "ring8", (lambda: scaled(toys.ring8(), s, b), toys.TOYS["ring8"][1]))
        runs.dataset.cache_clear()
        scores.forget()

    yield put
    runs.dataset.cache_clear()
    scores.forget()


SMOKE = tiers.get("smoke")
TINY = replace(
    SMOKE, vectors=replace(SMOKE.vectors, flops=3e7, seconds=1e9, params=2000), samples=200, likelihood_n=200, draws=1
)


@pytest.mark.parametrize("s", [1e-3, pytest.param(2.0**10, marks=pytest.mark.matrix)])
def test_the_rows_of_a_scaled_toy_are_those_of_the_toy(s, rescaled, tmp_path):
    """Through data set, run, evaluation and baselines."""

    def rows(out) -> dict[tuple[str, ...], float]:
        quiet = Progress("", None)
        folder = runs.ensure(runs.define("maf", "ring8", 0, TINY), out, quiet)
        made = scores.evaluate(folder, TINY, quiet) + scores.score_baselines("ring8", TINY, out / "b", quiet)
        return {(r.recipe, r.split, r.sampler, str(r.steps), r.metric): r.value for r in made if r.value is not None}

    before = rows(tmp_path / "a")
    rescaled(s, 0.0)
    after = rows(tmp_path / "b")
    assert before.keys() == after.keys()
    assert {"w2", "mmd2", "c2st", "modes", "off_support", "nll", "kl", "entropy"} <= {key[-1] for key in before}
    for key, value in before.items():
        metric = key[-1]
        if metric in ("nll", "entropy"):
            assert after[key] - 2 * math.log(s) == pytest.approx(value, abs=1e-3), key
        else:
            assert after[key] == pytest.approx(
                s * value if metric in ("w2", "sw2", "energy") else value,
                rel=2e-3,
                abs=1e-5 * (s if metric in ("w2", "sw2", "energy") else 1),
            ), key


def made(x: Tensor, test: Tensor) -> Dataset:
    train, held = (Data(part, None, Space((part.shape[1],))) for part in (x, test))
    return Dataset("own", train.space, train, held, checksum(train, held), ())


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (lambda x: torch.full_like(x, 3.0), "column 0 (from 0) never changes, nor do 1 more"),
        (lambda x: torch.cat([x, torch.ones(len(x), 1)], 1), "column 2 (from 0) never changes,"),
        (lambda x: torch.cat([x, x.sum(1, keepdim=True)], 1), "a column is a sum of others"),
    ],
)
def test_a_baseline_without_a_density_says_why(columns, said):
    found = made(columns(ring()), columns(ring(300)[256:]))
    rows = baselines.likelihood_rows(row_of_data(found), found, TINY)
    (row,) = rows
    assert (row.recipe, row.metric) == ("gaussian", "nll")
    assert row.value is None or math.isnan(row.value)
    assert row.reason.startswith(said)


def test_a_fitted_gaussian_does_not_depend_on_the_units():
    x = ring(1000).double() @ torch.tensor([[1.0, 0.3], [0.0, 0.4]], dtype=torch.float64)
    s, b = THOUSANDS
    before, after = fit_density(x, 0), fit_density(s * x + b, 0)
    assert torch.allclose(after.log_prob(s * x + b), before.log_prob(x) - s.log().sum())
    with pytest.raises(BadInput, match="never changes"):
        fit_density(torch.zeros(9, 2, dtype=torch.float64), 0)


# ------------------------------------------------------------------------------------------------- few examples


class Tailed(Shifted):
    """Sees an example far out as much farther still."""

    def log_likelihood(self, x, kind, noise, cond=None):
        return Estimate(torch.where(x[:, 0] > 50, -5000.0, -2.0))


def test_a_likelihood_that_hangs_on_few_examples_names_them():
    test = ring(400)
    test[3], test[250] = 100.0, 101.0
    found = made(ring(), test)
    model = Tailed(None, found.space, 8, {})
    examples = likelihood.Examples(found.test, "test", found)
    (row,) = likelihood.rows(row_of_data(found), model, model.card.likelihoods[0], examples)
    assert row.value == pytest.approx((398 * 2 + 2 * 5000) / 400)
    assert row.reason.startswith("the mean hangs on 2 of 400 examples (of the test part, counted from 0: ")
    assert {"3", "250"} == set(row.reason.split("0: ")[1].split(")")[0].split(", "))
    assert row.reason.endswith("without them it is 2")


# --------------------------------------------------------------------------------------------------- symptoms


def normals(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def funnel(n: int = 4000, d: int = 16) -> Tensor:
    x = normals(n, d)
    x[:, 0] *= 3
    x[:, 1:] *= (x[:, :1] / 2).exp()
    return x


def test_what_data_have_to_say_is_known():
    def z(x: Tensor) -> Tensor:
        o, u = column_units(x)
        return (x - o) / u

    line = normals(4000, 1)
    for plain in (
        normals(4000, 2),
        normals(200, 16),
        torch.full((50, 2), 3.0),
        torch.cat([line, torch.ones(4000, 1)], 1),
    ):
        assert is_plain(z(plain))
    told = [ring(4000), funnel(), torch.rand(4000, 16), torch.cat([line, line], 1), line.square()]
    assert not any(is_plain(z(x)) for x in told)
    assert [directions(z(x)) for x in (ring(), funnel(), torch.cat([line, 2 * line], 1), torch.zeros(9, 3))] == [
        2,
        16,
        1,
        0,
    ]


def symptom(name: str, x: Tensor, terms: dict[str, float], y: Tensor | None = None) -> str | None:
    """Of a recipe on vectors x, for the means of a log."""
    data = Data(x, y, Space((x.shape[1],), 0 if y is None else int(y.max()) + 1))
    model = catalogue.get(name).build(data.space, 8, {})
    model.prepare(data, Noise("p"))
    return model.symptom(terms)


@pytest.mark.parametrize("name", ["vae", "iwae"])
def test_posterior_collapse_is_said_of_vectors_where_it_is_one(name):
    assert symptom(name, funnel(), {"active": 1.0}) is None, "one number rules a funnel"
    assert symptom(name, torch.full((100, 2), 3.0), {"active": 0.0}) is None, "a point has nothing to tell"
    assert symptom(name, normals(4000, 4), {"active": 0.0}) is None, "and independent normals need no z"
    x, y = toys.ring8().sample(4000, torch.Generator().manual_seed(0))
    assert symptom(name, x, {"active": 0.0}, y) is None, "a label may tell it all"
    found = symptom(name, x, {"active": 0.0})
    assert found is not None
    assert found.startswith("posterior collapse: none of 16")
    assert "train longer" not in found


def test_collapse_of_codes_is_said_of_vectors_where_it_is_one():
    line = normals(4000, 1)
    assert symptom("autoencoder", torch.cat([line] * 4, 1), {"active": 1.0}) is None, "a line has one direction"
    assert "posterior collapse" in str(symptom("autoencoder", normals(4000, 4), {"active": 1.0}))
    assert symptom("hvae", funnel(), {"kl_1": 2.0, "kl_2": 0.0}) is None
    assert "posterior collapse" in str(symptom("hvae", funnel(), {"kl_1": 0.0, "kl_2": 0.0}))
    assert symptom("hvae", torch.zeros(100, 2), {"kl_1": 0.0, "kl_2": 0.0}) is None
    assert symptom("vq-vae", torch.zeros(100, 2), {"perplexity": 1.0}) is None
    assert "codebook collapse" in str(symptom("vq-vae", ring(), {"perplexity": 1.0}))


def test_no_mode_collapse_is_said_of_data_that_repeat():
    """Half of such data is as far from the other half as a perfect game's samples: not at all."""
    for name in ("gan", "gan-nonsaturating", "gan-hinge", "wgan-gp"):
        recipe, terms = catalogue.get(name), {}
        model = recipe.build(PLANE, 8, {})
        corners = torch.cartesian_prod(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])).repeat(64, 1)
        data = model.prepare(Data(corners, None, PLANE), Noise("p"))
        for update in model.updates(data.all(), 0.0, Noise("u")):
            terms |= {k: float(v.detach()) for k, v in update.terms.items()}
        assert terms["data_diversity"] == 0
        fine = {"critic": 0.6, "real": 0.2, "fake": -0.2, "penalty": 0.05}
        assert model.symptom({**fine, "diversity": 0.0, "data_diversity": terms["data_diversity"]}) is None
        assert "mode collapse" in str(model.symptom({**fine, "diversity": 0.5, "data_diversity": 1.02}))


@pytest.mark.parametrize(
    ("metric", "value", "of", "n", "said"),
    [
        ("label_modes", 7, 10, 891, "3 of 10 labels are missing, or nearly"),
        ("label_modes", 10, 10, 891, ""),
        ("modes", 24, 25, 2000, "1 of 25 modes are missing, or nearly"),
        ("modes", 640, 1000, 1000, ""),  # as many as a thousand fair draws show
        ("modes", 500, 1000, 1000, "500 of 1,000 modes are missing, or nearly"),
        ("modes", 995, 1000, 10_000, ""),
    ],
)
def test_missing_labels_and_modes_are_said_in_the_row(metric, value, of, n, said):
    row = dataclasses.replace(Row(), metric=metric, value=float(value), unit=f"of {of}", n=n)
    assert quality.marked(row).reason == said
