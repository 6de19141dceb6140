"""Evaluation and measurement: pools, plans, likelihood rows, baselines, anyone's samples, counts and times."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.optim import Optimizer

from bench import measure, metrics, runs, scores, store
from bench.data import Dataset
from bench.data.dataset import checksum
from bench.features import spaces_for
from bench.lab import overhead
from bench.progress import Event, Progress
from bench.reading import Range
from bench.runs import loading
from bench.scores import external, kept, likelihood, pools, quality, reference
from bench.scores.fitted import fit_density, fit_pixels, log_histograms
from bench.scores.image_folder import folder_labels
from bench.scores.means import on_few, unit_of
from bench.scores.rows import Rows
from bench.scores.subject import other_weights
from bench.scores.work import Work
from bench.store import Row
from bench.tiers import Budget, Tier
from paradigms import catalogue
from paradigms.backbones import Backbone
from paradigms.contract import Frozen, Paradigm, Update
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Estimate, Kind, Plan, Sampler
from paradigms.errors import BadInput
from paradigms.recipe import Need, Recipe

QUIET = Progress()
BUDGET = Budget(flops=2e8, seconds=1e9, images=2_000, params=20_000)
TIER = Tier(
    name="tiny",
    summary="for the tests",
    match="flops",
    seeds=1,
    vectors=BUDGET,
    small=dataclasses.replace(BUDGET, flops=2e9, params=60_000),
    images=BUDGET,
    samples=700,
    max_calls=4,
    sweep_seeds=1,
    likelihood_n=64,
    likelihood_calls=100,
    timing_repeats=4,
    timing_seconds=0.05,
    timing_seeds=1,
)


class Net(Backbone):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Fake(Paradigm):
    """Passes its noise `steps` times through an identity network; owns a critic that sampling does not need."""

    card = Card(
        title="Fake",
        paper="",
        year=2000,
        url="",
        samplers=(
            Sampler("copy", (1, 2, 4, 8), options={"eta": 0.0}),
            Sampler("twice", (1, 3), calls=(2, 0)),
            Sampler("adaptive", (1,), calls=None),
        ),
        default=Plan("copy", 2),
        likelihoods=(
            Kind("mass", "=", 1),
            Kind("bound", "≤", 10, (("k", 1),)),
            Kind("bound", "≤", 90, (("k", 9),)),
            Kind("bound", "≤", 900, (("k", 90),)),
        ),
    )

    def __init__(self, config: Any, space: Space, width: int = 1, parents: Mapping[str, Frozen] | None = None) -> None:
        super().__init__(config, space, width, parents or {})
        self.net = Net(space.dim)
        self.critic = Net(space.dim)
        self.seen: list[Tensor | None] = []

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {self.net: torch.optim.SGD(self.net.parameters(), lr=0.1)}

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        yield Update(self.net, self.net(batch.x.flatten(1)).square().mean())

    def prior(self, n: int, noise: Noise) -> Tensor:
        return noise.uniform(n, *self.space.shape) * 2 - 1

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        self.seen.append(cond)
        x = z.flatten(1)
        for _ in range(plan.steps):
            # As a guided step with both halves in one batch: two evaluations a sample.
            x = self.net(torch.cat([x, x]))[: len(x)] if plan.sampler == "twice" else self.net(x)
        return x.view(z.shape) + plan.option("eta", 0.0)

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        """Uniform over the levels, in nats."""
        value = torch.full((len(x),), -self.space.dim * math.log(self.space.levels))
        return Estimate(value, {"prior": value / 2}, {"solver": torch.full((len(x),), 0.5)})


DIGITS = Space((1, 8, 8), levels=17)


@pytest.fixture(scope="module")
def fake() -> Fake:
    return Fake(None, DIGITS).eval()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def digits_run(out: Path) -> Path:
    return runs.ensure(runs.define("flow-matching", "digits", 0, TIER), out, QUIET, device="cpu")


@pytest.fixture(scope="module")
def ring_run(out: Path) -> Path:
    return runs.ensure(runs.define("flow-matching", "ring8", 0, TIER), out, QUIET, device="cpu")


@pytest.fixture(scope="module")
def gan_run(out: Path) -> Path:
    return runs.ensure(runs.define("gan", "ring8", 0, TIER, conditional=True), out, QUIET, device="cpu")


def only(rows: list[Row], **columns: Any) -> Row:
    found = [row for row in rows if all(getattr(row, k) == v for k, v in columns.items())]
    assert len(found) == 1, f"{len(found)} rows with {columns}"
    return found[0]


# --------------------------------------------------------------------------------------------------------- sampling


def test_sample_i_depends_on_nothing_but_seed_and_i(fake: Fake) -> None:
    plan = Plan("copy", 1)
    whole = pools.draw(fake, plan, 700, seed=3)
    before = torch.get_rng_state()
    part = pools.draw(fake, plan, 300, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(whole.x[:300], part.x)
    assert whole.x.dtype == torch.uint8
    assert whole.x.shape == (700, 1, 8, 8)
    assert not torch.equal(whole.x, pools.draw(fake, plan, 700, seed=4).x)
    assert len(whole.x.flatten(1).unique(dim=0)) == 700


def test_calls_are_counted_by_what_the_network_was_given(fake: Fake) -> None:
    assert pools.draw(fake, Plan("copy", 3), 300, 0).calls == 3
    assert pools.draw(fake, Plan("twice", 3), 300, 0).calls == 6


def test_progress_tells_images(fake: Fake) -> None:
    events: list[Event] = []
    work = Work(Progress("job", events.append), [300, 700])
    for name in ("one", "two"):
        with work.part(name, 300) as tell:
            pools.draw(fake, Plan("copy", 1), 300, 0, tell=tell)
    assert events[0] == Event("job", "evaluate one", 0, 1000, {"images": 0})
    assert events[-1] == Event("job", "evaluate two", 1000, 1000, {"images": 300})


def stops(after: int, when: Callable[[Event], bool] = lambda event: True) -> tuple[Progress, list[Event]]:
    """A listener that asks for a stop once it has heard so many events."""
    heard: list[Event] = []

    def update(stage: str, done: int, total: int, **facts: Any) -> None:
        heard.append(Event("", stage, done, total, facts))
        if sum(map(when, heard)) > after:
            raise KeyboardInterrupt

    progress = Progress()
    progress.update = update  # type: ignore[method-assign]
    return progress, heard


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        pytest.param("digits", ("test", "train"), marks=pytest.mark.heavy),
        pytest.param("stacked-digits", ("test",), marks=pytest.mark.heavy),
        ("ring8", ("test",)),
    ],
)
def test_every_part_of_scoring_is_told_of_and_can_be_stopped(name: str, splits: tuple[str, ...]) -> None:
    ref, told = reference.reference_of(runs.dataset(name)), list[tuple[str, int, int]]()
    x, y = ref.dataset.train.x[:700], ref.dataset.train.y
    given = x, None if y is None else y[:700], ref, splits
    quality.rows(Row(), *given, on_progress=lambda *heard: told.append(heard))
    names = list(dict.fromkeys(what for what, *_ in told))
    assert names == list(quality.costs(700, ref, splits))
    for name in names:
        parts = [(done, of) for what, done, of in told if what == name]
        assert parts == sorted(parts)
        assert parts[-1][0] == parts[-1][1] == parts[0][1]

        def stop(what: str, done: int, of: int, name: str = name) -> None:
            if what == name:
                raise KeyboardInterrupt

        if ref.channels is None:  # of digits and of vectors
            with pytest.raises(KeyboardInterrupt):
                quality.rows(Row(), *given, on_progress=stop)


def test_the_scoring_of_a_run_can_be_stopped_in_the_middle_of_a_metric(gan_run: Path) -> None:
    progress, heard = stops(1, lambda event: "distances" in event.facts)
    with pytest.raises(KeyboardInterrupt):
        scores.evaluate(gan_run, TIER, progress, force=True)
    assert heard[-1].stage == "evaluate generator-1"
    assert heard[-1].facts["distances"] != "100 %"


def test_anyones_samples_are_scored_on_one_count_and_leave_nothing_when_stopped(tmp_path: Path) -> None:
    path, to = tmp_path / "x.npy", tmp_path / "to"
    np.save(path, runs.dataset("digits").train.x[:100].numpy())
    progress, heard = stops(10**9)
    scores.score(path, "digits", progress)
    counts = [event.done for event in heard if event.total == 1000]
    assert counts == sorted(counts)
    assert (counts[0] < 100, counts[-1]) == (True, 1000)
    assert "the floor: features, digits" in {event.stage for event in heard}
    for after in (0, len(heard) // 2):
        with pytest.raises(KeyboardInterrupt):
            scores.score(path, "digits", stops(after)[0], to=to)
        assert not to.exists()


def test_a_folder_of_images_is_read_with_a_way_out(tmp_path: Path) -> None:
    for k in range(150):
        Image.new("L", (8, 8), k).save(tmp_path / f"{k}.png")
    told: list[tuple[str, int, int]] = []
    scores.read_samples(tmp_path, DIGITS, on_progress=lambda *heard: told.append(heard))
    assert told == [("read images", 0, 150), ("read images", 100, 150)]


@pytest.mark.heavy
def test_baselines_can_be_stopped_in_the_middle_of_a_metric(tmp_path: Path) -> None:
    progress, heard = stops(5, lambda event: "copies" in event.facts)
    with pytest.raises(KeyboardInterrupt):
        scores.score_baselines("digits", TIER, tmp_path / "base", progress)
    assert heard[-1].stage in ("baseline real-train", "baseline train-copies")
    assert not (tmp_path / "base").exists()


def test_images_are_encoded_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that 50,000 samples of 3 KB are not held as 600 MB of floats; the features are the same."""
    found, sizes, encode = runs.dataset("digits"), list[int](), Space.encode
    space = spaces_for("digits", found.space)[0]
    whole = space.features(found.space.encode(found.train.x), chunk=100)
    monkeypatch.setattr(Space, "encode", lambda self, k: sizes.append(len(k)) or encode(self, k))
    told: list[tuple[int, int]] = []
    parts = space.features(found.train.x, 100, found.space, lambda done, of: told.append((done, of)))
    assert torch.equal(parts.values, whole.values)
    assert max(sizes) <= 100
    assert told[-1] == (len(found.train), len(found.train))
    assert len(told) == len(sizes)


def test_plans_headline_first_then_the_sweep_within_the_calls() -> None:
    assert scores.plans(Fake.card, 4, sweep="") == [Plan("copy", 2)]
    swept = [(p.sampler, p.steps) for p in scores.plans(Fake.card, 4, sweep="all")]
    assert swept == [("copy", 2), ("copy", 1), ("copy", 4), ("twice", 1), ("adaptive", 1)]
    dear = dataclasses.replace(Fake.card, default=Plan("copy", 8, (("eta", 0.0),)))
    assert [p.steps for p in scores.plans(dear, 1, sweep="all")] == [8, 1, 1], "the headline is drawn at any cost"
    assert len(scores.plans(dear, 8, sweep="all")) == 7, "an option at its default is no other plan"


def test_the_dearest_affordable_kind_of_each_name() -> None:
    assert [(k.name, k.calls) for k in likelihood.affordable(Fake.card, DIGITS, 100)] == [("mass", 1), ("bound", 90)]
    assert [k.calls for k in likelihood.affordable(Fake.card, DIGITS, 5)] == [1]
    assert likelihood.affordable(Fake.card, DIGITS, 0) == []


def test_a_flow_is_asked_for_dequantisation_draws_only_where_there_are_levels() -> None:
    for name in ("normalizing-flow", "glow-variational", "maf"):
        card = catalogue.get(name).paradigm.card
        assert [k.name for k in likelihood.affordable(card, DIGITS, 100)] == ["exact", "dequantised-iwae"]
        assert [k.name for k in likelihood.affordable(card, Space((2,)), 100)] == ["exact"]


# ------------------------------------------------------------------------------------------------------- likelihood


def tailed(n: int, *far: float) -> Tensor:
    """Log-likelihoods of which all but the last are normal about -0.2."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.1 - 0.2
    x[n - len(far) :] = torch.tensor(far, dtype=torch.float64)
    return x


def test_a_mean_that_hangs_on_a_few_examples_says_so() -> None:
    few = tailed(512, -2250, -4000, -8000, -12000)
    told = on_few(few, unit_of(Space((2,))))
    assert told.startswith("the mean hangs on 4 of 512 examples, 2,250 to 1.2e+04 nats from the median, which is 0.2")
    assert f"without them it is {-few[:-4].mean():.4g}" in told
    assert "hangs on 1 of 64 examples, 299.8 nats" in on_few(tailed(64, -300))
    assert "hangs on 2 of 64 examples" in on_few(tailed(64, 300, -310))
    cauchy = torch.distributions.Cauchy(0.0, 1.0).icdf(torch.arange(0.5, 512) / 512).double()
    assert "hangs on " in on_few(cauchy)


@pytest.mark.parametrize("n", [8, 64, 512, 5000])
def test_a_mean_of_usual_examples_says_nothing(n: int) -> None:
    p = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    normal, exponential = torch.special.ndtri(p), -(1 - p).log()
    student = torch.from_numpy(scipy.stats.t.ppf(p.numpy(), 3))
    skewed = (0.5 * normal).exp()
    two_kinds = normal + 10 * (p > 0.9)
    for values in (normal, exponential, student, skewed, two_kinds, p, torch.ones(n).double()):
        assert on_few(values) == ""
    assert on_few(tailed(n, math.inf)) == "", "that is said otherwise"


def test_a_likelihood_that_hangs_on_a_few_examples_says_so_in_its_rows(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = runs.dataset("digits").test
    found = runs.dataset("digits")
    few = Data(data.x[:200], None, DIGITS)

    def odd(self: Fake, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        value = -0.2 - 0.01 * x.flatten(1).mean(1).double()
        value[x.flatten(1).mean(1) == x.flatten(1).mean(1).max()] = -5000.0
        return Estimate(value, {"part": value}, {"solver": value.abs()})

    monkeypatch.setattr(Fake, "log_likelihood", odd)
    rows = {
        r.metric: r for r in likelihood.rows(Row(), fake, Kind("mass", "=", 1), likelihood.Examples(few, "test", found))
    }
    assert "the mean hangs on" in rows["bits_per_dim"].reason
    assert "bits/dim from the median" in rows["bits_per_dim"].reason
    assert "nats from the median" in rows["term_part"].reason
    assert "the mean hangs on" in rows["bits_per_dim_solver_error"].reason


@pytest.mark.parametrize("constant", [(0, 1, 2), (1,)])
def test_constant_data_gets_its_baselines(
    constant: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What never changes has no density, which costs the Gaussian's row and no other."""
    parts = []
    for seed in (0, 1):
        x = torch.randn(300, 3, generator=torch.Generator().manual_seed(seed))
        x[:, list(constant)] = 0.1
        parts.append(Data(x, None, Space((3,), 0, 0)))
    name = f"constant-{len(constant)}"
    found = Dataset(name, parts[0].space, parts[0], parts[1], checksum(*parts), ())
    monkeypatch.setattr(runs, "dataset", lambda _: found)
    rows = scores.score_baselines(name, dataclasses.replace(TIER, samples=300), tmp_path, QUIET)
    assert not [r.reason for r in rows if r.status == "failed"]
    assert {r.recipe for r in rows} >= {"real-train", "train-copies", "gaussian"}
    (row,) = (r for r in rows if r.metric == "nll")
    more = ", nor do 2 more" if len(constant) == 3 else ""
    assert row.reason.startswith(f"column {constant[0]} (from 0) never changes{more}, so a Gaussian")
    if len(constant) == 3:
        assert only(rows, recipe="real-train", metric="w2").value == 0


def test_uniform_is_log2_of_the_levels(fake: Fake) -> None:
    found = runs.dataset("digits")
    part = scores.subset(found.test, 64, "digits", "likelihood test")
    rows = likelihood.rows(Row(), fake, Kind("mass", "=", 1), likelihood.Examples(part, "test", found))
    row = only(rows, metric="bits_per_dim")
    assert row.value == pytest.approx(math.log2(17), abs=1e-6)
    assert row.error == pytest.approx(0, abs=1e-12)
    assert (row.n, row.kind, row.relation, row.unit, row.split) == (64, "mass", "=", "bits/dim", "test")
    assert only(rows, metric="bits_per_dim_solver_error").value == pytest.approx(0.5 / 64 / math.log(2))
    assert only(rows, metric="term_prior").value == pytest.approx(-32 * math.log(17), rel=1e-6)


def test_the_true_density_has_no_divergence() -> None:
    found = runs.dataset("ring8")
    assert found.density is not None
    log_prob, entropy = found.density.log_prob, found.density.entropy
    assert log_prob is not None
    assert entropy is not None

    class Truth(Fake):
        def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
            return Estimate(log_prob(x))

    model = Truth(None, Space((2,))).eval()
    rows = likelihood.rows(Row(), model, Kind("exact", "=", 1), likelihood.Examples(found.test, "test", found))
    nll, kl = only(rows, metric="nll"), only(rows, metric="kl")
    assert nll.value is not None
    assert nll.error is not None
    assert abs(nll.value - entropy) < 4 * nll.error
    assert kl.value == pytest.approx(0, abs=1e-6)
    assert nll.unit == "nats"


def test_a_likelihood_that_is_not_finite_says_how_often(fake: Fake) -> None:
    class Broken(Fake):
        def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
            value = super().log_likelihood(x, kind, noise).value
            value[0] = -math.inf
            return Estimate(value)

    found = runs.dataset("digits")
    part = scores.subset(found.test, 40, "digits", "x")
    rows = likelihood.rows(Row(), Broken(None, DIGITS), Kind("mass", "=", 1), likelihood.Examples(part, "test", found))
    assert only(rows, metric="bits_per_dim").reason == "1 of 40 examples have no finite likelihood"


# ---------------------------------------------------------------------------------------------------------- quality


def test_real_images_score_near_the_floor_and_their_labels_are_read() -> None:
    ref = reference.reference_of(runs.dataset("digits"))
    train = ref.dataset.train
    rows = quality.rows(Row(), train.x[:700], train.y[:700], ref)  # type: ignore[index]
    classifier = ref.spaces[0].id
    good = only(rows, metric="fd", split="test", features=classifier).value
    assert good is not None
    assert only(rows, metric="label_accuracy").value > 0.97  # type: ignore[operator]
    assert only(rows, metric="nn_ratio").value == 0, "copies of training images"
    noise = torch.randint(17, (700, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    bad = only(quality.rows(Row(), noise, None, ref), metric="fd", split="test", features=classifier).value
    assert bad is not None
    assert bad > 20 * good
    assert {row.split for row in rows if row.metric == "fd"} == {"test", "train"}
    assert all(row.n == 700 for row in rows)


def test_labels_copies_and_pixels_have_their_rows() -> None:
    """Which split, space and number each of them is of."""
    ref = reference.reference_of(runs.dataset("digits"))
    train = ref.dataset.train
    assert train.y is not None
    rows = quality.rows(Row(), train.x[:700], train.y[:700], ref)
    classifier, plain = (space.id for space in ref.spaces)
    where = {(r.metric, r.split, r.features) for r in rows}
    assert {m[1:] for m in where if m[0] == "cas"} == {("test", classifier), ("test", plain)}
    assert {m[1:] for m in where if m[0] == "classifier_score"} == {("test", classifier)}
    assert {m[1:] for m in where if m[0] == "fld_gap"} == {("train", classifier), ("train", plain)}
    assert {m[1:] for m in where if m[0] == "sharpness"} == {("test", ""), ("train", "")}
    assert {m[1:] for m in where if m[0] == "nn_gap"} == {("train", "")}
    assert all(r.value < -100 for r in rows if r.metric == "fld_gap"), "copies of training images"  # type: ignore[operator]
    assert all(r.value > 0.9 for r in rows if r.metric == "cas")  # type: ignore[operator]
    unlabelled = quality.rows(Row(), train.x[:700], None, ref, copies=False)
    assert not {r.metric for r in unlabelled} & {"cas", "label_accuracy", "fld_gap", "nn_gap"}


@pytest.mark.heavy
def test_the_floor_of_copying_is_taken_of_unseen_examples(tmp_path: Path) -> None:
    """Half of the held-out examples, with the other half beside: were it all of them, they would be their own copies."""
    rows = [r for r in scores.score_baselines("digits", TIER, tmp_path, QUIET) if r.recipe == "real-train"]
    gap, ratio = only(rows, metric="nn_gap"), only(rows, metric="nn_ratio")
    assert (gap.n, ratio.n) == (449, 449)
    assert abs(gap.value) < 3 * gap.error  # type: ignore[arg-type, operator]
    assert ratio.value == pytest.approx(1, abs=0.05)
    assert all(-15 < r.value < 15 for r in rows if r.metric == "fld_gap")  # type: ignore[operator]
    assert len([r for r in rows if r.metric == "fld_gap"]) == 2
    assert only(rows, metric="cas", split="test", features=rows[0].features).value > 0.9  # type: ignore[operator]


@pytest.mark.heavy
def test_modes_of_stacked_digits_are_counted_by_the_digits_classifier() -> None:
    found = runs.dataset("stacked-digits")
    assert pools.pool_size(found, TIER) == 10_000
    assert pools.pool_size(found, dataclasses.replace(TIER, mode_samples=500)) == 500
    assert pools.pool_size(runs.dataset("digits"), TIER) == TIER.samples
    full = reference.reference_of(runs.dataset("stacked-digits"))
    few = {split: x[:300] for split, x in full.real.items()}
    features = {split: tuple(f.features(found.space.encode(x)) for f in full.spaces) for split, x in few.items()}
    ref = dataclasses.replace(full, real=few, features=features)
    x = few["test"].clone()
    real = quality.rows(Row(), x, None, ref, copies=False)
    modes = only(real, metric="modes")
    assert modes.features.startswith("digits@")
    assert (modes.split, modes.n, modes.unit) == ("test", 300, "of 1000")
    assert 230 < modes.value < 300  # type: ignore[operator]
    x[:, 1] = x[0, 1]  # one digit in the second channel: at most 100 modes are left
    flat = quality.rows(Row(), x, None, ref, ("test",), copies=False)
    assert only(flat, metric="modes").value <= 100  # type: ignore[operator]
    gap = only(flat, metric="mode_kl").value - only(real, metric="mode_kl").value  # type: ignore[operator]
    assert 1.0 < gap < math.log(10) + 0.1
    assert not [r for r in quality.rows(Row(), x, None, ref, ("train",), copies=False) if r.metric == "modes"]


def test_too_few_samples_cost_the_frechet_distance_only() -> None:
    ref = reference.reference_of(runs.dataset("digits"))
    rows = quality.rows(Row(), ref.dataset.train.x[:50], None, ref)
    for row in rows:
        if row.metric in ("fd", "fd_inf"):
            assert row.value is not None
            assert math.isnan(row.value)
            assert "too few" in row.reason
        else:
            assert row.value is not None
            assert math.isfinite(row.value)
    assert {"fd", "kd", "precision", "nn_ratio"} <= {row.metric for row in rows}


def test_the_reference_is_balanced_and_fixed() -> None:
    ref = reference.reference_of(runs.dataset("digits"))
    assert len(ref.real["test"]) == len(ref.real["train"]) == 898
    again = scores.subset(ref.dataset.train, 898, "digits", "train")
    assert torch.equal(again.x, ref.real["train"])
    assert not torch.equal(scores.subset(ref.dataset.train, 100, "digits", "a").x, ref.dataset.train.x[:100])


# -------------------------------------------------------------------------------------------------------- baselines


@pytest.mark.heavy
def test_baselines_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = scores.score_baselines("digits", TIER, tmp_path, QUIET)
    space = reference.reference_of(runs.dataset("digits")).spaces[0].id
    fd = {row.recipe: row.value for row in rows if (row.metric, row.split, row.features) == ("fd", "test", space)}
    assert fd["real-train"] < fd["gaussian"] / 5 < fd["uniform"] / 5  # type: ignore[operator]
    bits = {(r.recipe, r.split): r for r in rows if r.metric == "bits_per_dim"}
    assert bits["uniform", "test"].value == pytest.approx(math.log2(17))
    assert bits["pixel-histograms", "test"].value < math.log2(17)  # type: ignore[operator]
    assert bits["gaussian", "test"].relation == "≤"
    assert only(rows, recipe="real-train", metric="nn_ratio").value == pytest.approx(1, abs=0.05)
    assert {row.status for row in rows} == {"baseline"}
    assert Image.open(tmp_path / "grid.png").width >= 500
    store.verify(tmp_path)

    monkeypatch.setattr(quality, "rows", None)  # a second time nothing is computed
    assert scores.has_baselines("digits", TIER, tmp_path)
    assert len(scores.score_baselines("digits", TIER, tmp_path, QUIET)) == len(rows)
    assert not scores.has_baselines("digits", dataclasses.replace(TIER, samples=600), tmp_path)


def test_baselines_of_vectors(tmp_path: Path) -> None:
    rows = scores.score_baselines("ring8", TIER, tmp_path, QUIET)
    density = runs.dataset("ring8").density
    assert density is not None
    assert only(rows, metric="entropy").value == density.entropy
    assert only(rows, metric="kl", recipe="gaussian").value > 0.5  # type: ignore[operator]
    w2 = {row.recipe: row.value for row in rows if row.metric == "w2"}
    assert w2["real-train"] < w2["gaussian"]  # type: ignore[operator]


def test_gaussian_density_agrees_with_torch() -> None:
    x = torch.randn(500, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) @ torch.randn(
        5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    fitted = fit_density(x, 0)
    torch_normal = torch.distributions.MultivariateNormal(fitted.mean, fitted.factor @ fitted.factor.T)
    assert torch.allclose(fitted.log_prob(x), torch_normal.log_prob(x), atol=1e-9)
    drawn = fit_pixels(x).sample(100_000, Noise("test"))
    assert torch.allclose(torch.cov(drawn.T), torch.cov(x.T), atol=0.15)


def test_histograms_are_a_distribution() -> None:
    x = torch.randint(17, (50, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    masses = log_histograms(x, 17).exp()
    assert masses.shape == (17, 4)
    assert torch.allclose(masses.sum(0), torch.ones(4, dtype=torch.float64))


# ------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.heavy
def test_a_run_is_scored_once(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = dataclasses.replace(TIER, max_calls=2)
    rows = scores.evaluate(digits_run, tier, QUIET)
    assert {row.status for row in rows} == {"ok"}
    card = type(runs.load(digits_run)[0]).card  # type: ignore[attr-defined]
    headline = {(r.sampler, r.steps) for r in rows if r.headline and r.sampler}
    assert headline == {(card.default.sampler, card.default.steps)}
    assert len({(r.sampler, r.steps) for r in rows if r.sampler}) == len(scores.plans(card, 2, sweep="all"))
    for row in rows:
        if row.metric == "fd":
            claimed = card.sampler(row.sampler).calls_at(row.steps)
            assert row.n == 700
            assert row.n_ref == 898
            assert "@" in row.features
            assert claimed is None or row.calls == claimed
    assert {row.split for row in rows if row.metric == "bits_per_dim"} == {"test", "train"}
    assert all(row.params_sampling == row.params_trained for row in rows)
    assert {"grid.png", "samples.npz", "results.jsonl"} <= set(store.manifest(digits_run))
    with np.load(digits_run / "samples.npz") as kept:
        assert kept["samples"].shape == (64, 1, 8, 8)

    assert scores.is_evaluated(digits_run, tier)
    monkeypatch.setattr(pools, "draw", None)
    again = scores.evaluate(digits_run, tier, QUIET)
    assert [r.value for r in again if r.value is not None] == [r.value for r in rows if not math.isnan(r.value)]  # type: ignore[arg-type]
    assert not scores.is_evaluated(digits_run, dataclasses.replace(tier, max_calls=3))
    assert not scores.is_evaluated(digits_run, dataclasses.replace(tier, likelihood_n=65))


@pytest.mark.heavy
def test_rows_do_not_depend_on_what_was_evaluated_before(ring_run: Path, gan_run: Path) -> None:
    first = scores.evaluate(ring_run, TIER, QUIET, force=True)
    scores.evaluate(gan_run, TIER, QUIET, force=True)
    assert scores.evaluate(ring_run, TIER, QUIET, force=True) == first


@pytest.mark.heavy
def test_a_part_that_fails_is_a_row_and_never_a_cache_hit(ring_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of the metric")

    with monkeypatch.context() as patch:
        patch.setattr(metrics, "vector_quality", broken)
        rows = scores.evaluate(ring_run, TIER, QUIET, force=True)
    failed = [row for row in rows if row.status == "failed"]
    assert {row.reason for row in failed} == {"ZeroDivisionError: of the metric"}
    assert any(row.metric == "nll" and row.status == "ok" for row in rows)
    assert not scores.is_evaluated(ring_run, TIER)
    assert {row.status for row in scores.evaluate(ring_run, TIER, QUIET)} == {"ok"}


def test_a_part_that_leaves_the_gpu_unusable_ends_the_scoring() -> None:
    """The parts after it would fail of it too: the job fails, and another process scores the run."""
    rows: list[Row] = []
    with pytest.raises(RuntimeError, match="illegal memory"), Rows(Row(), rows).part("fd"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")
    with Rows(Row(), rows).part("fd"):
        raise RuntimeError("CUDA error: out of memory")
    assert [(row.status, row.reason) for row in rows] == [("failed", "RuntimeError: CUDA error: out of memory")]


def test_samples_that_are_not_finite_are_divergence(ring_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, info = runs.load(ring_run)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(math.nan)
    monkeypatch.setattr(runs, "load", lambda *_, **__: (model, info))
    rows = scores.evaluate(ring_run, TIER, QUIET, force=True)
    assert {row.reason for row in rows if row.metric == "w2"} >= {"heun-16 drew samples that are not finite"}
    with pytest.raises(BadInput, match="not finite"):  # what `bench sample` says
        pools.draw(model, Plan("heun", 2), 4, 0)  # type: ignore[arg-type]
    assert "diverged" in {row.status for row in rows}
    (ring_run / "results.jsonl").unlink()


def test_a_run_whose_samples_diverge_is_scored_once(ring_run: Path, tmp_path: Path, monkeypatch) -> None:
    """There is nothing to be seen of its samples, and that is whole."""
    folder = tmp_path / ring_run.name
    shutil.copytree(ring_run, folder)
    drawn = ("results.jsonl", "grid.png", "samples.npz")
    files = {name: said for name, said in store.manifest(folder).items() if name not in drawn}
    store.write_json(folder / store.MANIFEST, {"schema": store.SCHEMA, "files": files})
    monkeypatch.setattr(pools, "draw", lambda model, plan, *_: pools.finite(torch.full((2, 2), math.nan), plan))
    rows = scores.evaluate(folder, TIER, QUIET)
    assert {row.status for row in rows if row.sampler} == {"diverged"}
    assert not (folder / "samples.npz").exists() or "samples.npz" not in store.manifest(folder)
    assert scores.is_evaluated(folder, TIER)


def test_no_likelihood_says_why_and_a_critic_does_not_sample(gan_run: Path) -> None:
    rows = scores.evaluate(gan_run, TIER, QUIET)
    row = only(rows, metric="nll")
    assert row.status == "ok"
    assert row.value is None or math.isnan(row.value)
    assert row.reason
    assert row.params_sampling is not None
    assert row.params_trained is not None
    assert 0 < row.params_sampling < row.params_trained
    with np.load(gan_run / "samples.npz") as kept:
        assert set(kept) == {"samples", "labels"}


def test_disjoint_sets_are_one_stream_cut_in_pieces(fake: Fake) -> None:
    """Set 0 is what a single set would have been, and no sample is in two sets."""
    tier = dataclasses.replace(TIER, draws=3)
    assert pools.draws_of(Fake.card, Fake.card.default, tier) == 3
    assert pools.draws_of(Fake.card, Plan("copy", 4), tier) == 1, "the headline alone"
    assert pools.draws_of(Fake.card, Fake.card.default, dataclasses.replace(tier, max_calls=1)) == 1, "and in reach"
    labels = torch.arange(1500) % 10
    pool = pools.draw(fake, Plan("copy", 1), 1500, 3, labels)
    sets = list(pools.pieces(pool, 500))
    assert torch.equal(sets[0][0], pools.draw(fake, Plan("copy", 1), 500, 3).x)
    assert torch.equal(torch.cat([x for x, _ in sets]), pool.x)
    assert torch.equal(torch.cat([y for _, y in sets if y is not None]), labels)
    assert len(pool.x.flatten(1).unique(dim=0)) == 1500


VARIED = dataclasses.replace(TIER, samples=650, max_calls=40, sweep_seeds=0, draws=2, raw_seeds=1, snapshot_seeds=1)


@pytest.fixture(scope="module")
def varied(digits_run: Path) -> list[Row]:
    return scores.evaluate(digits_run, VARIED, QUIET)


@pytest.mark.heavy
def test_rows_of_each_set_of_each_kind_of_weights(varied: list[Row], digits_run: Path) -> None:
    info, space = runs.read_info(digits_run), reference.reference_of(runs.dataset("digits")).spaces[0].id
    fd = [row for row in varied if (row.metric, row.split, row.features) == ("fd", "test", space)]
    steps = runs.snapshots(digits_run)
    assert steps == [round(part * info.planned_steps) for part in (0.25, 0.5)]
    kinds = [(row.weights, row.fraction, row.draw) for row in fd]
    parts = [step / info.planned_steps for step in steps]
    assert kinds == [("ema", 1.0, 0), ("ema", 1.0, 1), ("raw", 1.0, 0), ("ema", parts[0], 0), ("ema", parts[1], 0)]
    assert all(row.headline and row.n == 650 and row.status == "ok" for row in fd)
    assert len({row.value for row in fd}) == 5
    # What it had cost by then, and that its seconds are not known.
    quarter, whole = fd[3], fd[0]
    assert quarter.images == steps[0] * info.batch < whole.images == info.images  # type: ignore[operator]
    assert quarter.flops == pytest.approx(info.flops - (info.steps - steps[0]) * info.flops_per_step)
    assert quarter.flops == pytest.approx(quarter.cost_total)
    assert store.load_rows(digits_run)[varied.index(quarter)].seconds is None
    # Copies are looked for once, in the first set of the averaged weights.
    assert [(r.draw, r.weights) for r in varied if r.metric == "nn_ratio"] == [(0, "ema")]


@pytest.mark.heavy
def test_the_rows_of_averaged_weights_are_of_averaged_weights(varied: list[Row], digits_run: Path) -> None:
    """EMA not applied, or applied to the raw rows too, would show here."""
    ref, found = reference.reference_of(runs.dataset("digits")), {}
    for weights in ("ema", "raw"):
        model, info = runs.load(digits_run, weights)  # type: ignore[arg-type]
        assert isinstance(model, Paradigm)
        x = pools.draw(model, type(model).card.default, 650, info.seed).x
        rows = quality.rows(Row(), x, None, ref, ("test",), copies=False)
        found[weights] = only(rows, metric="fd", features=ref.spaces[0].id).value
    told = {
        row.weights: row.value
        for row in varied
        if (row.metric, row.split, row.features, row.draw, row.fraction) == ("fd", "test", ref.spaces[0].id, 0, 1.0)
    }
    assert told == found
    assert found["ema"] != found["raw"]


@pytest.mark.heavy
def test_sets_weights_and_snapshots_are_part_of_what_rows_are_kept_under(varied: list[Row], digits_run: Path) -> None:
    assert scores.is_evaluated(digits_run, VARIED)
    for change in ({"draws": 3}, {"raw_seeds": 0}, {"snapshot_seeds": 0}):
        assert not scores.is_evaluated(digits_run, dataclasses.replace(VARIED, **change)), change
    assert not other_weights(digits_run, dataclasses.replace(runs.read_info(digits_run), seed=1), VARIED)


def test_each_split_is_compared_with_its_own_examples() -> None:
    """The wrong split: test images score 0 against themselves and the floor against the training split."""
    ref = reference.reference_of(runs.dataset("digits"))
    found = ref.dataset
    for split, part, other in (("test", found.test, found.train), ("train", found.train, found.test)):
        mine = {image.numpy().tobytes() for image in part.x}
        assert all(image.numpy().tobytes() in mine for image in ref.real[split])
        for space, features in zip(ref.spaces, ref.features[split]):
            assert torch.equal(features.values, space.features(found.space.encode(ref.real[split])).values)
        rows = quality.rows(Row(), ref.real[split], None, ref, copies=False)
        away = "train" if split == "test" else "test"
        for space in ref.spaces:
            fd = {row.split: row.value for row in rows if (row.metric, row.features) == ("fd", space.id)}
            assert fd[split] < 1e-6 < 0.05 < fd[away]  # type: ignore[operator]
        assert not torch.equal(other.x[: len(part.x)], part.x[: len(other.x)])


def test_samples_are_rounded_before_they_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything within a bin is the same integer: a shift of a quarter of a bin changes no row."""

    class Shifted(Fake):
        shift = 0.0

        def sample(self, z: Tensor, plan: Plan, noise: Noise, cond: Any = None, watch: Any = None) -> Tensor:
            return self.space.encode(((z + 1) * 8.5).floor().clamp(0, 16)) + self.shift * 2 / 17

    ref, found = reference.reference_of(runs.dataset("digits")), []
    for shift in (-0.25, 0.0, 0.25):
        model = Shifted(None, DIGITS).eval()
        model.shift = shift
        x = pools.draw(model, Plan("copy", 1), 700, 0).x
        assert x.dtype == torch.uint8
        found.append(quality.rows(Row(), x, None, ref, ("test",)))
    assert found[0] == found[1] == found[2]


def test_a_wide_space_is_compared_with_more_of_the_training_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "REFERENCE", 300)
    monkeypatch.setattr(reference, "WIDE", 10)
    scores.forget()
    try:
        found = runs.dataset("digits")
        own, wide = reference.reference_of(found), reference.reference_of(found, ("random-conv",))
    finally:
        scores.forget()
    assert [space.name for space in wide.spaces] == ["random-conv"]
    assert {split: len(x) for split, x in own.real.items()} == {"test": 300, "train": 300}
    assert {split: len(f[0].values) for split, f in wide.features.items()} == {"test": 640, "train": 640}
    rows = quality.rows(Row(), own.dataset.test.x[:640], None, wide, copies=False)
    assert {row.n_ref for row in rows if row.features} == {640}
    assert all(math.isfinite(row.value) for row in rows if row.metric == "fd")  # type: ignore[arg-type]


@pytest.mark.heavy
def test_training_images_are_found_out_by_their_neighbours_alone(tmp_path: Path) -> None:
    rows = scores.score_baselines("digits", TIER, tmp_path, QUIET)
    space = reference.reference_of(runs.dataset("digits")).spaces[0].id

    def value(recipe: str, metric: str, **columns: Any) -> float:
        found = only(rows, recipe=recipe, metric=metric, **columns).value
        assert found is not None
        return found

    for split in ("test", "train"):
        assert math.isfinite(value("train-copies", "fd", split=split, features=space))
    assert value("train-copies", "fd", split="test", features=space) < 1.3 * value(
        "real-train", "fd", split="test", features=space
    )
    assert value("train-copies", "nn_ratio") == 0
    assert value("train-copies", "authenticity") == 0
    assert "copies of training examples" in only(rows, recipe="train-copies", metric="nn_ratio").reason
    assert value("real-train", "nn_ratio") > 0.9
    assert only(rows, recipe="real-train", metric="nn_ratio").reason == ""
    assert value("uniform", "nn_ratio") > 2
    assert {row.data for row in rows} == {runs.dataset("digits").checksum[:12]}
    assert {row.torch for row in rows} == {torch.__version__}


@pytest.mark.heavy
def test_a_run_in_a_space_that_a_user_named(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = store.load_rows(digits_run) if (digits_run / "results.jsonl").exists() else None
    rows = scores.in_spaces(digits_run, ["random-conv"], TIER, QUIET, n=660)
    ref = reference.reference_of(runs.dataset("digits"), ("random-conv",))
    fd = only(rows, metric="fd", split="test")
    assert (fd.n, fd.features, fd.headline, fd.weights, fd.status) == (660, ref.spaces[0].id, True, "ema", "ok")
    model, info = runs.load(digits_run)
    assert isinstance(model, Paradigm)
    x = pools.draw(model, type(model).card.default, 660, info.seed).x
    assert fd.value == only(quality.rows(Row(), x, None, ref, ("test",), copies=False), metric="fd").value
    monkeypatch.setattr(pools, "draw", None)
    assert len(scores.in_spaces(digits_run, ["random-conv"], TIER, QUIET, n=660)) == len(rows)
    assert (store.load_rows(digits_run) if kept is not None else None) == kept, "the run's own rows are untouched"
    assert store.load_rows(digits_run / scores.SPACES)
    with pytest.raises(BadInput, match="did you mean"):
        scores.in_spaces(digits_run, ["random-cnov"], TIER, QUIET)


def test_a_damaged_run_is_refused(digits_run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "digits" / "flow-matching" / "copy"
    shutil.copytree(digits_run, copy)
    data = bytearray((copy / "weights.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "weights.safetensors").write_bytes(data)
    with pytest.raises(BadInput, match="damaged"):
        scores.evaluate(copy, TIER, QUIET)
    with pytest.raises(BadInput, match=r"run\.json"):
        scores.evaluate(tmp_path, TIER, QUIET)


# -------------------------------------------------------------------------------------------------- samples on disk


@pytest.fixture
def pool() -> scores.Pool:
    x = torch.randint(17, (12, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return scores.Pool(Plan("copy"), x, None, 1)


@pytest.mark.parametrize("name", ["x.npz", "folder"])
def test_samples_come_back_as_they_were(pool: scores.Pool, tmp_path: Path, name: str) -> None:
    to = tmp_path / name
    scores.write_samples(pool, DIGITS, to)
    assert torch.equal(scores.read_samples(to, DIGITS).x, pool.x)


def test_arrays_in_every_form(pool: scores.Pool, tmp_path: Path) -> None:
    k = pool.x.numpy()
    forms = {"first": k, "flat": k[:, 0], "last": np.moveaxis(k, 1, -1), "wide": k.astype(np.int64)}
    forms["float"] = DIGITS.encode(pool.x).numpy()
    forms["double"] = forms["float"].astype(np.float64)
    forms |= {"little": k.astype("<u2"), "big": k.astype(">u4"), "long": k.astype(np.uint64)}
    forms |= {"half": forms["float"].astype(np.float16), "big float": forms["float"].astype(">f4")}
    forms["longest"] = forms["float"].astype(np.longdouble)
    for name, array in forms.items():
        np.save(tmp_path / f"{name}.npy", array)
        assert torch.equal(scores.read_samples(tmp_path / f"{name}.npy", DIGITS).x, pool.x), name


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((5, 1, 9, 9), np.uint8), "shape"),
        (np.zeros((0, 1, 8, 8), np.uint8), "no sample: an array of shape"),
        (np.zeros((5, 1, 8, 8), bool), "not of bool; write them as uint8 and say --range 0..1"),
        (np.full((5, 1, 8, 8), 17, np.uint8), "levels 0 to 16"),
        (np.full((5, 1, 8, 8), -1), "levels 0 to 16"),
        (np.full((5, 1, 8, 8), 0.5), r"\[-1, 1\]"),
        (np.full((5, 1, 8, 8), np.nan), "not finite"),
        (np.full((5, 1, 8, 8), 1e200), "not finite"),
        (np.full((5, 1, 8, 8), 2**64 - 1, np.uint64), "levels 0 to 16"),
        (np.linspace(-128, 127, 320).reshape(5, 1, 8, 8), "these reach 128"),
        (np.zeros(5), r"shape \(5,\), but .* \(N, 1, 8, 8\)"),
        (np.float32(1), r"shape \(\)"),
        (np.array(["a", "b"]), "integers or floats"),
        (np.array([{}, {}], dtype=object), "integers or floats, not of Python objects"),
    ],
)
def test_arrays_that_are_refused(array: np.ndarray, words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(BadInput, match=words):
        scores.read_samples(tmp_path / "x.npy", DIGITS)


def as_floats(low: float, high: float) -> np.ndarray:
    """The first digits with black at `low` and white at `high`."""
    return (low + (high - low) * runs.dataset("digits").train.x[:100].double().numpy() / 16).astype(np.float32)


def noisy(x: np.ndarray, sd: float) -> np.ndarray:
    return x + np.random.default_rng(0).normal(0, sd, x.shape).astype(np.float32)


def one_pixel(x: np.ndarray, value: float) -> np.ndarray:
    x = x.copy()
    x[3, 0, 2, 2] = value
    return x


@pytest.mark.parametrize(
    ("array", "likely"),
    [
        (as_floats(0, 1), "0..1"),
        (one_pixel(as_floats(0, 1), -0.003), "0..1"),
        (one_pixel(as_floats(0, 1), -1), "0..1"),
        (noisy(as_floats(0, 1), 0.05), "0..1"),
        (noisy(as_floats(0, 1), 0.3), r"-0\.\d+\.\.1\.\d+"),
        (as_floats(-0.81, 1.85), r"-0\.81\.\.1\.85"),
        (np.rint(as_floats(0, 65520)).astype(np.uint16), r"0\.\.65520"),
        (as_floats(-2, 2), "-2..2"),
        (as_floats(-0.5, 0.5), "-0.5..0.5"),
        (as_floats(0, 255), "0..255"),
        (as_floats(0, 16), "0..16"),
        ((as_floats(0, 1) > 0.5).astype(np.float32), "0..1"),
        ((as_floats(0, 1) > 0.5).astype(np.uint8), "0..1"),
        (one_pixel((as_floats(0, 1) > 0.5).astype(np.uint8), 16), "0..1"),
        (np.where(as_floats(0, 1) > 0.5, 1, -1), "-1..1"),
        (np.rint(as_floats(0, 255)).astype(np.uint8), "0..255"),
    ],
)
def test_numbers_on_another_scale_are_refused_by_their_bulk(array: np.ndarray, likely: str, tmp_path: Path) -> None:
    found = runs.dataset("digits")
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(BadInput, match=rf"--range {likely}(,|$)"):
        scores.read_samples(tmp_path / "x.npy", found.space, found=found)


@pytest.mark.parametrize(
    ("array", "span", "words"),
    [
        (as_floats(-1, 1), None, "floats from -1 to 1 taken as -1..1, none outside"),
        (
            one_pixel(as_floats(-1, 1), 37),
            None,
            "floats from -1 to 37 taken as -1..1, 0.016 % of them outside, clipped",
        ),
        (as_floats(0, 1), Range(0, 1), "floats from 0 to 1 taken as 0..1, none outside"),
        (one_pixel(as_floats(0, 1), -0.003), Range(0, 1), "taken as 0..1, 0.016 % of them outside, clipped"),
        (as_floats(-2, 2), Range(-2, 2), "taken as -2..2"),
        (as_floats(0, 255), Range(0, 255), "taken as 0..255"),
        (np.rint(as_floats(0, 255)).astype(np.uint8), Range(0, 255), "integers from 0 to 255 taken as 0..255"),
        (np.rint(as_floats(0, 16)).astype(np.int64), None, ""),
    ],
)
def test_a_range_is_taken_as_given_and_what_was_clipped_is_said(
    array: np.ndarray, span: Range | None, words: str, tmp_path: Path
) -> None:
    found = runs.dataset("digits")
    np.save(tmp_path / "x.npy", array)
    given = scores.read_samples(tmp_path / "x.npy", found.space, span=span, found=found)
    wrong = (given.x != found.train.x[:100]).sum()
    assert wrong <= ("clipped" in words), "but for the one pixel that is off the scale"
    assert words in given.reading
    assert bool(words) == bool(given.reading)


def test_samples_that_reach_little_of_the_levels_are_read_and_said(tmp_path: Path) -> None:
    found = runs.dataset("digits")
    for array, part in (
        (np.zeros((5, 8, 8), np.uint8), "0%"),
        (np.full((5, 8, 8), -1.0), "0%"),
        (as_floats(-0.9, -0.3), "32%"),
    ):
        np.save(tmp_path / "x.npy", array)
        said = scores.read_samples(tmp_path / "x.npy", found.space, found=found).reading
        assert f"they reach {part} of the data's range" in said


@pytest.mark.parametrize("text", ["", "1", "0..", "..1", "1..0", "0..0", "0..nan", "0..inf", "a..b", "0-1"])
def test_a_range_that_is_none(text: str) -> None:
    with pytest.raises(BadInput, match=r"write LOW\.\.HIGH"):
        Range.parse(text)
    assert Range.parse("-1..1") == (-1, 1)
    assert Range.parse("0..1e2") == (0, 100)


def digits_in(
    folder: Path, n: int = 40, levels: int = 255, name: Callable[[int, int], str] = lambda i, y: f"{i:03d}.png"
) -> None:
    """The first digits of the test split as pictures, under names made of their number and their label."""
    found = runs.dataset("digits")
    assert found.test.y is not None
    for index, (image, label) in enumerate(zip(found.test.x[:n, 0].numpy(), found.test.y[:n].tolist())):
        path = folder / name(index, label)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.rint(image * (levels / 16)).astype(np.uint8))
        picture.save(path, **({"quality": 100} if path.suffix == ".jpg" else {}))


def test_pictures_that_hold_levels_for_bytes_are_refused(tmp_path: Path) -> None:
    found = runs.dataset("digits")
    digits_in(tmp_path, levels=16)
    with pytest.raises(
        BadInput, match=r"pictures of 0 to 16, a small part of 0\.\.255.*--range 0\.\.16, or --range 0\.\.255"
    ):
        scores.read_samples(tmp_path, found.space, found=found)
    given = scores.read_samples(tmp_path, found.space, span=Range(0, 16), found=found)
    assert torch.equal(given.x, found.test.x[:40])


def test_a_folder_of_samples_is_read_as_a_folder_of_data_is(tmp_path: Path) -> None:
    """Hidden files apart, in sub-folders, of every kind; what is left out or mixed is said."""
    found = runs.dataset("digits")
    digits_in(tmp_path / "flat", name=lambda i, y: f"{i:03d}.{'jpg' if i % 4 == 0 else 'png'}")
    (tmp_path / "flat" / "._000.png").write_bytes(b"of another system")
    (tmp_path / "flat" / "log.txt").write_text("")
    given = scores.read_samples(tmp_path / "flat", found.space, found=found)
    assert (given.x.int() - found.test.x[:40].int()).abs().max() <= 1
    assert given.y is None
    assert "kinds mixed, some of them lossy: 30 png, 10 jpg" in given.reading
    assert "1 file of other kinds left out: .txt 1; 1 hidden image left out" in given.reading
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "x.xyz").write_text("")
    with pytest.raises(BadInput, match=r"neither a run\.json nor PNG files .*1 file of other kinds left out: \.xyz 1"):
        scores.read_samples(tmp_path / "none", found.space, found=found)


@pytest.mark.parametrize("name", ["{y}/{i}.png", "00{y}/{i}.png", "train/{y}/{i}.png", "{y}/deeper/{i}.png"])
def test_sub_folders_called_like_classes_are_labels(name: str, tmp_path: Path) -> None:
    found = runs.dataset("digits")
    assert found.test.y is not None
    digits_in(tmp_path, name=lambda i, y: name.format(i=f"{i:03d}", y=y))
    given = scores.read_samples(tmp_path, found.space, found=found)
    assert given.y is not None
    pairs = {(x.numpy().tobytes(), int(y)) for x, y in zip(given.x, given.y)}
    assert pairs == {(x.numpy().tobytes(), int(y)) for x, y in zip(found.test.x[:40], found.test.y[:40])}
    assert "sub-folders taken as labels, of 10 classes" in given.reading


@pytest.mark.parametrize(
    ("name", "why"), [("cats/{i}.png", "'cats' is no class of the data"), ("{dir}{i}.png", "20 images lie in none")]
)
def test_sub_folders_that_are_no_classes_are_said(name: str, why: str, tmp_path: Path) -> None:
    found = runs.dataset("digits")
    digits_in(tmp_path, name=lambda i, y: name.format(i=f"{i:03d}", dir="3/" if i % 2 else ""))
    given = scores.read_samples(tmp_path, found.space, found=found)
    assert len(given.x) == 40
    assert given.y is None
    assert f"sub-folders read without labels, as {why}" in given.reading


def test_sub_folders_whose_names_differ_by_case_are_different_classes() -> None:
    found = dataclasses.replace(runs.dataset("digits"), labels=("A", "a"))
    space = dataclasses.replace(DIGITS, classes=2)
    labels, _ = folder_labels(["a/0.png", "A/1.png", "a/2.png"], space, found)
    assert labels is not None
    assert labels.tolist() == [1, 0, 1]


def test_ones_own_images_are_cropped_as_the_data_is(tmp_path: Path) -> None:
    """Photographs scored against themselves: the same pixels, by the same cut and the same filter."""
    for i in range(12):
        shape = (30 + i, 44 - i, 3)
        path = tmp_path / "own" / ("a", "b")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, shape).astype(np.uint8)).save(path)
    found = runs.dataset(f"folder:{tmp_path / 'own'}@16")
    assert found.train.y is not None
    with pytest.raises(BadInput, match="--crop"):
        scores.read_samples(tmp_path / "own", found.space, found=found)
    given = scores.read_samples(tmp_path / "own", found.space, crop=True, found=found)
    mine = sorted((x.numpy().tobytes(), int(y)) for x, y in zip(given.x, given.y))  # type: ignore[arg-type]
    theirs = [
        (x.numpy().tobytes(), int(y))
        for part in (found.train, found.test)
        for x, y in zip(part.x, part.y)  # type: ignore[arg-type]
    ]
    assert mine == sorted(theirs)
    assert "cut to the largest centred square" in given.reading
    wide = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 24)).astype(np.uint8)
    np.save(tmp_path / "wide.npy", wide)
    cut = scores.read_samples(tmp_path / "wide.npy", found.space, crop=True, found=found)
    assert np.array_equal(cut.x.numpy(), wide[:, :, :, 4:20])


def test_a_second_array_is_labels_if_it_can_be(pool: scores.Pool, tmp_path: Path) -> None:
    """The archive of guided-diffusion: arr_0 the samples, arr_1 their labels."""
    told, k = dataclasses.replace(DIGITS, classes=10), pool.x.numpy()
    for second, words in (
        (np.arange(12) % 10, "arr_1 taken as labels"),
        (np.arange(11) % 10, "not used: arr_1"),
        (np.arange(12), "not used: arr_1"),
        (np.linspace(0, 1, 12), "not used: arr_1"),
    ):
        np.savez(tmp_path / "x.npz", k, second)
        given = scores.read_samples(tmp_path / "x.npz", told)
        assert torch.equal(given.x, pool.x)
        assert (given.y is not None) == ("taken" in words)
        assert given.reading == words
    np.savez(tmp_path / "x.npz", k, np.arange(12) % 10)
    said = scores.read_samples(tmp_path / "x.npz", DIGITS)
    assert (said.y, said.reading) == (None, "not used: arr_1, as the data set has no classes")


def test_what_else_an_archive_holds_does_not_hide_its_samples(pool: scores.Pool, tmp_path: Path) -> None:
    told, k = dataclasses.replace(DIGITS, classes=10), pool.x.numpy()
    np.savez(tmp_path / "x.npz", images=k, samples=np.int64(12), settings=np.array({"steps": 9}))
    given = scores.read_samples(tmp_path / "x.npz", told)
    assert torch.equal(given.x, pool.x)
    assert given.reading == "not used: samples, settings"
    for refused, words in (
        ({"samples": k, "labels": np.array(["a"] * 12, dtype=object)}, "labels must be 12 integers"),
        ({"samples": k.astype(object)}, "not of Python objects"),
    ):
        np.savez(tmp_path / "x.npz", **refused)
        with pytest.raises(BadInput, match=words):
            scores.read_samples(tmp_path / "x.npz", told)


@pytest.mark.heavy
def test_a_score_depends_on_what_a_file_holds_and_not_on_names(tmp_path: Path) -> None:
    """1,500 samples, of which a tier scores 700: the choice is of their content."""
    found = runs.dataset("digits")
    x = torch.cat([found.train.x, found.test.x])[:1500].numpy()
    for name in ("one", "other"):
        np.save(tmp_path / f"{name}.npy", x if name == "one" else x[::-1])
    one, other = (
        [r for r in scores.score(tmp_path / f"{name}.npy", "digits", QUIET, tier=TIER) if r.status == "external"]
        for name in ("one", "other")
    )
    assert [(r.metric, r.value, r.error) for r in one] == [(r.metric, r.value, r.error) for r in other]
    assert {r.recipe for r in one} == {"one"}
    assert {r.recipe for r in other} == {"other"}
    digits_in(tmp_path / "a")
    digits_in(tmp_path / "b", name=lambda i, y: f"{999 - i}.png")
    first, second = (scores.score(tmp_path / name, "digits", QUIET) for name in ("a", "b"))
    assert [r.value for r in first if r.value == r.value] == [r.value for r in second if r.value == r.value]


def test_more_vectors_than_are_compared_are_a_choice_and_not_the_first(tmp_path: Path) -> None:
    found = runs.dataset("ring8")
    x = found.train.x[found.train.y.argsort()].numpy()  # type: ignore[union-attr]
    np.save(tmp_path / "sorted.npy", x)
    given = external._by_content(scores.read_samples(tmp_path / "sorted.npy", found.space), 2_000)
    centres = found.density.modes.float()  # type: ignore[union-attr]
    counts = torch.cdist(given.x, centres).argmin(1).bincount(minlength=8)
    assert (counts - 250).abs().max() < 5 * math.sqrt(250)


def test_samples_keep_names_of_their_own(tmp_path: Path) -> None:
    for path in ("a/samples.npz", "b/samples.npz", "a/mine.npz", "run.v2/x.png", "pngs/x.png", "b/mine.npz"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"")

    def called(path: str, to: Path | None = None) -> str:
        return external._name_of(tmp_path / path, "0" * 64, to)

    assert [called(p) for p in ("a/samples.npz", "b/samples.npz")] == ["a/samples", "b/samples"]
    assert [called(p) for p in ("a/mine.npz", "run.v2", "pngs", "a/.")] == ["mine", "run.v2", "pngs", "a"]
    kept = tmp_path / "external" / "first"
    store.save_rows(kept, [Row(status="external", recipe="mine", samples="1" * 12)], "")
    assert called("b/mine.npz", tmp_path / "external" / "second") == "b/mine"
    assert called("b/mine.npz", kept) == "mine", "its own place, made anew"
    assert called("b/bad\udcff.npz") == "bad\\xff"


def test_names_that_are_no_utf8_are_scored_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "bad\udcff.npy"
    np.save(path, runs.dataset("digits").test.x[:20].numpy())
    to = tmp_path / "to\udcfe"
    rows = scores.score(path, "digits", QUIET, to=to)
    assert (
        {row.recipe for row in store.load_rows(to)}
        == {"bad\\xff"}
        == {r.recipe for r in rows if r.status == "external"}
    )
    named = scores.score(path, "digits", QUIET, called="theirs\udcff")
    assert {r.recipe for r in named if r.status == "external"} == {"theirs\\xff"}


def test_files_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 and no more")
    Image.new("L", (9, 8)).save(tmp_path / "x.png")
    for path, words in (
        (tmp_path / "none.npz", "does not exist"),
        (tmp_path / "x.npz", "can not read"),
        (tmp_path, "9×8 pixels"),
    ):
        with pytest.raises(BadInput, match=words):
            scores.read_samples(path, DIGITS)
    with pytest.raises(BadInput, match="is one picture; give a folder of them"):
        scores.read_samples(tmp_path / "x.png", DIGITS)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="no regular file"):
        scores.read_samples(tmp_path / "pipe", DIGITS)
    (tmp_path / "x.png").unlink()
    (tmp_path / "pipe").rename(tmp_path / "x.png")
    with pytest.raises(BadInput, match=r"x\.png is no regular file"):
        scores.read_samples(tmp_path, DIGITS)
    (tmp_path / "x.png").unlink()
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="not a readable image"):
        scores.read_samples(tmp_path, DIGITS)
    (tmp_path / "text.npz").write_text("1 2 3")
    with pytest.raises(BadInput, match=r"can not read .*numpy\.savez") as told:
        scores.read_samples(tmp_path / "text.npz", DIGITS)
    assert "pickle" not in str(told.value)
    np.savez(tmp_path / "none.npz")
    with pytest.raises(BadInput, match="no array"):
        scores.read_samples(tmp_path / "none.npz", DIGITS)


def test_labels_before_the_samples_are_not_taken_for_them(pool: scores.Pool, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", y=np.zeros(12, np.int64), pictures=pool.x.numpy())
    assert torch.equal(scores.read_samples(tmp_path / "x.npz", DIGITS).x, pool.x)


def test_pictures_of_sixteen_bits_are_not_clipped(tmp_path: Path) -> None:
    levels = np.arange(64, dtype=np.uint16).reshape(8, 8) % 17
    Image.fromarray((levels * (65535 // 16)).astype(np.uint16)).save(tmp_path / "x.png")
    assert np.array_equal(scores.read_samples(tmp_path, DIGITS).x[0, 0].numpy(), levels)


def test_anyones_samples_get_the_same_rows(pool: scores.Pool, tmp_path: Path) -> None:
    train = runs.dataset("digits").train.x[:700]
    np.save(tmp_path / "mine.npy", train.numpy())
    rows = scores.score(tmp_path / "mine.npy", "digits", QUIET)
    direct = quality.rows(Row(), train, None, reference.reference_of(runs.dataset("digits")))
    mine = [row for row in rows if row.recipe == "mine"]
    assert [(r.metric, r.value) for r in mine] == [(r.metric, r.value) for r in direct]
    real = [row for row in rows if row.recipe != "mine"]
    assert {(r.recipe, r.status, r.split) for r in real} == {("real-train", "baseline", "test")}
    assert only(real, metric="fd", features=mine[0].features).n == 700
    np.save(tmp_path / "one.npy", train[:1].numpy())
    with pytest.raises(BadInput, match="nothing can be measured with 1 sample:"):
        scores.score(tmp_path / "one.npy", "digits", QUIET)


@pytest.mark.heavy
def test_external_samples_are_marked_kept_and_known_by_their_content(tmp_path: Path) -> None:
    found = runs.dataset("digits")
    x, y = found.test.x[:700].numpy(), found.test.y[:700].numpy()  # type: ignore[index]
    np.savez(tmp_path / "mine.npz", samples=x, labels=y)
    to = tmp_path / "runs" / "digits" / "external" / "mine"
    rows = scores.score(tmp_path / "mine.npz", "digits", QUIET, tier=TIER, to=to, specs=["random-conv"])
    mine = [row for row in rows if row.recipe == "mine"]
    assert {(row.status, row.tier, row.headline, row.draw, row.n) for row in mine} == {
        ("external", "tiny", True, 0, 700)
    }
    (digest,) = {row.samples for row in mine}
    assert {row.run for row in mine} == {f"external-{digest[:10]}"}
    assert {row.data for row in mine} == {found.checksum[:12]}
    assert only(mine, metric="label_accuracy").value > 0.97  # type: ignore[operator]
    assert store.load_rows(to) == mine
    store.verify(to)
    assert Image.open(to / "grid.png").width >= 500
    # The same samples in another file, shuffled labels, one changed sample.
    np.save(tmp_path / "again.npy", x)
    np.savez(tmp_path / "other.npz", samples=x, labels=y[::-1])
    changed = x.copy()  # x is the data set's own memory
    changed[0] = 16 - x[0]
    np.save(tmp_path / "changed.npy", changed)
    names = ("again.npy", "other.npz", "changed.npy")
    digests = {scores.score(tmp_path / name, "digits", QUIET)[0].samples for name in names}
    assert len(digests | {digest}) == 4


@pytest.mark.heavy
def test_more_samples_than_a_tier_draws_are_cut_to_as_many_by_a_fixed_choice(tmp_path: Path) -> None:
    found = runs.dataset("digits")
    order = found.test.y.argsort()  # type: ignore[union-attr]
    np.savez(tmp_path / "sorted.npz", x=found.test.x[order].numpy(), y=found.test.y[order].numpy())  # type: ignore[index]
    rows = scores.score(tmp_path / "sorted.npz", "digits", QUIET, tier=TIER)
    space = reference.reference_of(runs.dataset("digits")).spaces[0].id
    assert {row.n for row in rows} == {700}
    assert only(rows, metric="label_tv", features=space, status="external", split="test").value < 0.05  # type: ignore[operator]
    assert only(rows, metric="label_accuracy", status="external").value > 0.97, "labels are chosen with their samples"  # type: ignore[operator]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros(11, np.int64), r"labels must be 12 integers, .* not int64 \(11,\)"),
        (np.zeros(12, np.float32), "labels must be 12 integers, .* not float32"),
        (np.full(12, 10), "labels 10 to 10, but the data set has 0 to 9"),
        (np.full(12, -1), "labels -1 to -1"),
    ],
)
def test_labels_that_are_refused(pool: scores.Pool, labels: np.ndarray, words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", samples=pool.x.numpy(), labels=labels)
    with pytest.raises(BadInput, match=words):
        scores.read_samples(tmp_path / "x.npz", dataclasses.replace(DIGITS, classes=10))
    assert scores.read_samples(tmp_path / "x.npz", DIGITS).y is None, "data without classes has no use for them"


def test_safetensors_with_and_without_labels(pool: scores.Pool, tmp_path: Path) -> None:
    path, told = tmp_path / "x.safetensors", dataclasses.replace(DIGITS, classes=10)
    y = np.arange(12) % 10
    path.write_bytes(save_arrays({"y": y, "samples": DIGITS.encode(pool.x).numpy()}))
    given = scores.read_samples(path, told)
    assert torch.equal(given.x, pool.x)
    assert given.y is not None
    assert np.array_equal(given.y.numpy(), y)
    path.write_bytes(save_tensors({"samples": DIGITS.encode(pool.x).bfloat16(), "labels": torch.from_numpy(y)}))
    assert torch.equal(scores.read_samples(path, told).x, pool.x)
    path.write_bytes(save_arrays({"pictures": pool.x.numpy()}))
    assert scores.read_samples(path, told).y is None
    for content in (b"", b"{}", (2**60).to_bytes(8, "little"), save_arrays({})):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"can not read|no array"):
            scores.read_samples(path, told)


@pytest.mark.parametrize("how", ["bicubic", "bilinear"])
def test_a_stated_resize_is_pillows_antialiased_filter_rounded_to_the_levels(how: Any, tmp_path: Path) -> None:
    big = np.random.default_rng(0).integers(0, 17, (5, 1, 20, 20)).astype(np.uint8)
    np.save(tmp_path / "big.npy", big)
    with pytest.raises(BadInput, match=r"shape \(5, 1, 20, 20\).*--resize bicubic\|bilinear\|area\|nearest"):
        scores.read_samples(tmp_path / "big.npy", DIGITS)
    given = scores.read_samples(tmp_path / "big.npy", DIGITS, how)
    assert given.resized == f"20×20 to 8×8, {how}"
    assert given.x.dtype == torch.uint8
    for image, ours in zip(big[:, 0].astype(np.float32), given.x[:, 0].numpy()):
        filtered = np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling[how.upper()]))
        assert np.abs(ours - filtered.clip(0, 16)).max() < 0.502
    rows = scores.score(write_again(tmp_path / "again.npy", big), "digits", QUIET, resize=how)
    assert {row.resize for row in rows if row.status == "external"} == {f"20×20 to 8×8, {how}"}


def write_again(path: Path, big: np.ndarray) -> Path:
    np.save(path, np.concatenate([big] * 10))
    return path


def test_sizes_that_fit_are_left_alone_and_distortion_is_refused(pool: scores.Pool, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", pool.x.numpy())
    given = scores.read_samples(tmp_path / "x.npy", DIGITS, "bicubic")
    assert torch.equal(given.x, pool.x)
    assert given.resized == ""
    np.save(tmp_path / "wide.npy", np.zeros((5, 8, 16), np.uint8))
    with pytest.raises(BadInput, match="16×8 pixels can not become 8×8 without distortion"):
        scores.read_samples(tmp_path / "wide.npy", DIGITS, "area")
    np.save(tmp_path / "colour.npy", np.zeros((5, 3, 16, 16), np.uint8))
    with pytest.raises(BadInput, match="shape"):
        scores.read_samples(tmp_path / "colour.npy", DIGITS, "area")
    folder = tmp_path / "pngs"
    folder.mkdir()
    grey = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    for name, size in (("a", 16), ("b", 32), ("c", 8)):
        Image.fromarray(grey[:size, :size]).save(folder / f"{name}.png")
    with pytest.raises(BadInput, match=r"a\.png is 16×16 pixels.*--resize"):
        scores.read_samples(folder, DIGITS)
    given = scores.read_samples(folder, DIGITS, "area")
    assert given.resized == "16×16 to 8×8, area, and 1 other sizes"
    levels = torch.from_numpy(grey.astype(np.float64) * 16 / 255).round()
    blocks = levels[:16, :16].view(8, 2, 8, 2).mean((1, 3))
    assert (given.x[0, 0] - blocks).abs().max() <= 0.5


def test_the_floor_is_that_of_the_baselines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [(r.metric, r.value) for r in scores.floor("ring8", 700)]
    scores.score_baselines("ring8", TIER, tmp_path, QUIET)
    monkeypatch.setattr(quality, "rows", None)
    kept = [(r.metric, r.value) for r in scores.floor("ring8", 700, TIER, tmp_path)]
    assert made == kept


def test_dequantisation_makes_an_exact_density_a_bound(fake: Fake) -> None:
    found = runs.dataset("digits")
    part = scores.subset(found.test, 8, "digits", "x")
    for dequantised, relation in ((True, "≤"), (False, "=")):
        kind = Kind("mass", "=", 1, dequantised=dequantised)
        assert {r.relation for r in likelihood.rows(Row(), fake, kind, likelihood.Examples(part, "test", found))} == {
            relation
        }


@pytest.mark.heavy
def test_code_names_and_keys_follow_the_sources(
    ring_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row says which sources trained and which measured; a changed sampler, here or in a plugin, is measured anew."""
    info = runs.read_info(ring_run)
    subjects = [measure.Subject(ring_run, (Plan("euler", 1),))]
    scores.evaluate(ring_run, TIER, QUIET)
    measure.time_runs(subjects, TIER, QUIET)
    with monkeypatch.context() as patch:
        patch.setattr(measure, "_own_sources", lambda modules: b"a sampler was changed")
        assert not scores.is_evaluated(ring_run, TIER)
        assert not measure.is_timed(subjects, TIER)
        environment = runs.environment
        patch.setattr(runs, "environment", lambda *a, **k: {**environment(*a, **k), "code": "later"})
        rows = scores.evaluate(ring_run, TIER, QUIET) + measure.time_runs(subjects, TIER, QUIET)
        assert {row.code for row in rows} == {f"{info.code}+later"}
    assert measure.code_of("same", "same") == "same"

    plugin = tmp_path / "their_model.py"
    plugin.write_text("class Theirs: ...")
    patch_module = type(math)("their_model")
    patch_module.__file__ = str(plugin)
    monkeypatch.setitem(sys.modules, "their_model", patch_module)
    recipe = Recipe("theirs", type("Theirs", (Fake,), {"__module__": "their_model"}), None, "")
    child = Recipe("child", Fake, None, "", {"teacher": Need("theirs")})
    get = catalogue.get
    monkeypatch.setattr(catalogue, "get", lambda name: recipe if name == "theirs" else get(name))
    before = kept.code(recipe), kept.code(child), measure.sources(("measure",), recipe)
    plugin.write_text("class Theirs: 'another sampler'")
    after = kept.code(recipe), kept.code(child), measure.sources(("measure",), recipe)
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_grid_shows_each_image_in_its_place() -> None:
    x = torch.zeros(10, 1, 8, 8, dtype=torch.uint8)
    x[9] = 16
    with Image.open(io.BytesIO(scores.grid_png(x, DIGITS, columns=4, size=350))) as image:
        assert image.size == (35 * 10, 26 * 10)
        assert image.getpixel((15, 15)) == (0, 0, 0)
        assert image.getpixel((9 * 10 + 15, 18 * 10 + 15)) == (255, 255, 255)
    colour = Space((3, 4, 4), levels=256)
    with Image.open(io.BytesIO(scores.grid_png(torch.full((1, 3, 4, 4), 7, dtype=torch.uint8), colour, 1, 4))) as one:
        assert one.getpixel((0, 0)) == (7, 7, 7)
    with Image.open(io.BytesIO(scores.grid_png(torch.zeros(5, 2), Space((2,)), size=100))) as dots:
        assert dots.size == (100, 100)


# --------------------------------------------------------------------------------------------------------- measures


def test_counts_of_a_known_network(fake: Fake) -> None:
    plan = Plan("copy", 3)
    assert measure.flops_per_sample(fake, plan) == 3 * 2 * 64 * 64
    assert measure.params_sampling(fake, plan) == 64 * 64, "the critic is not needed"
    held = measure.peak_bytes(fake, plan, 1000)
    weights, one = 4 * 64 * 64, 4 * 64 * 1000
    assert weights + 2 * one <= held <= weights + 5 * one


def test_settings_stop_at_repeats_or_seconds(fake: Fake) -> None:
    many = measure.Timed(fake, Plan("copy", 1), 1, 5, 100.0)
    short = measure.Timed(fake, Plan("copy", 1), 1, 10**9, 0.002)
    measure.measure([many, short], torch.device("cpu"), QUIET)
    assert len(many.times) == 5
    assert sum(short.times) >= 0.002
    assert all(t > 0 for t in (*many.times, *short.times))


def test_watch_sees_that_we_did_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"wall": 0.0, "mine": 0.0, "machine": 0.0}
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(measure.time, "process_time", lambda: clock["mine"])
    monkeypatch.setattr(measure, "_machine_seconds", lambda: clock["machine"])
    for mine, machine, contended in ((1.0, 1.1, False), (0.5, 0.6, True), (1.0, 2.0, True)):
        clock.update(wall=0.0, mine=0.0, machine=0.0)
        with measure.Watch() as watch:
            clock.update(wall=1.0, mine=mine, machine=machine)
        assert watch.contended(torch.device("cpu")) is contended


def test_stray_ticks_in_a_short_burst_are_not_contention(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's clock counts in 10 ms: two ticks within 50 ms say nothing, the same in every burst do."""
    clock = {"now": 0.0, "machine": 0.0}
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(measure.time, "process_time", lambda: clock["now"])
    monkeypatch.setattr(measure, "_machine_seconds", lambda: clock["machine"])
    for strays, contended in (([2] + [0] * 19, False), ([2], False), ([2] * 20, True), ([5], True)):
        watch = measure.Watch()
        for ticks in strays:
            with watch:
                clock["now"] += 0.05
                clock["machine"] += 0.05 + 0.01 * ticks
        assert watch.contended(torch.device("cpu")) is contended, strays


def test_times_of_runs(ring_run: Path, gan_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subjects = [
        measure.Subject(ring_run, (Plan("heun", 16),), (Plan("euler", 1),)),
        measure.Subject(gan_run, (Plan("generator", 1),)),
    ]
    threads = torch.get_num_threads()
    rows = measure.time_runs(subjects, TIER, QUIET)
    assert torch.get_num_threads() == threads
    fast, slow = (only(rows, recipe=r, metric="latency", headline=True).value for r in ("gan", "flow-matching"))
    assert fast is not None
    assert slow is not None
    assert min(fast, slow) > 0
    swept = only(rows, metric="latency", sampler="euler")
    assert (swept.headline, swept.threads, swept.unit, swept.steps) == (False, 1, "s", 1)
    for metric in ("throughput", "throughput_batch", "peak_memory"):
        assert only(rows, recipe="gan", metric=metric).value > 0  # type: ignore[operator]
    assert store.load_rows(ring_run / measure.TIMING)
    assert measure.is_timed(subjects, TIER)
    assert not measure.is_timed(subjects, dataclasses.replace(TIER, timing_repeats=5))
    monkeypatch.setattr(measure, "measure", None)
    assert len(measure.time_runs(subjects, TIER, QUIET)) == len(rows)


def test_overhead_is_what_is_not_the_network(fake: Fake) -> None:
    found = overhead.overhead(fake, Plan("copy", 4), batch=8, rounds=3)
    assert found.calls == 4
    assert found.network > 0
    assert math.isfinite(found.rest)  # a difference of measured times
    made = overhead.Overhead(Plan("x", 5), 1, calls=10, network=1.0, rest=0.1)
    assert made.fraction == pytest.approx(0.1)
    assert made.per_call == pytest.approx(0.01)
    assert made.per_step == pytest.approx(0.02)


@pytest.mark.heavy
def test_overhead_from_the_command_line(ring_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert overhead.main([str(ring_run), "--batch", "1", "--rounds", "2"]) == 0
    assert "heun-16 batch 1: 32 calls" in capsys.readouterr().out
    assert overhead.main(["nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert overhead.main([str(ring_run), "--batch", "1", "--rounds", "2", "--sampler", "euler", "ddim"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["ddim-8", "euler-8"]
    assert overhead.main([str(ring_run), "--sampler", "hune"]) == 2
    assert "did you mean 'heun'" in capsys.readouterr().err


def test_data_in_another_version_is_refused(ring_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = dataclasses.replace(runs.dataset("ring8"), checksum="0")
    monkeypatch.setattr(loading, "dataset", lambda name, source=None: changed)
    with pytest.raises(BadInput, match="another version"):
        scores.evaluate(ring_run, TIER, QUIET)


def test_labels_follow_the_training_split() -> None:
    found = runs.dataset("digits")
    told = Fake(None, dataclasses.replace(DIGITS, classes=10))
    labels = scores.pool_labels(told, found.train, 5000, 0)
    assert labels is not None
    assert found.train.y is not None
    wanted = torch.bincount(found.train.y, minlength=10) / len(found.train)
    assert torch.allclose(torch.bincount(labels, minlength=10) / 5000, wanted, atol=0.03)
    assert scores.pool_labels(Fake(None, DIGITS), found.train, 10, 0) is None
    pools.draw(told, Plan("copy", 1), 300, 0, labels)
    assert torch.equal(torch.cat([c for c in told.seen if c is not None]), labels[:300])
    assert isinstance(found.train, Data)
