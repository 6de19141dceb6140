"""Computations of the product as functions of factors: what `test_draws` walks."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ledger import Ledger, ledger, unnoted
from safetensors.torch import load_file
from torch import Tensor

import bench.data
from bench import measure, runs, tiers, trajectory
from bench.data import Dataset, toys
from bench.features import Features, classifier
from bench.features import train as features_train
from bench.features.convolutions import random_conv
from bench.loop import train
from bench.metrics import frechet, vectors
from bench.progress import Progress
from bench.runs import budget, training
from bench.scores import baselines, codec, likelihood, pools, reference
from bench.store import Row
from paradigms import catalogue
from paradigms.contract import Frozen, Paradigm, Trainable
from paradigms.core.data import Data, Space
from paradigms.core.plans import Kind, Plan
from paradigms.flows.linear import Mixing
from paradigms.testing import shake
from paradigms.testing.checks import few

CPU = torch.device("cpu")

# ------------------------------------------------------------------------------------------------------ the models

IMAGES, VECTORS = Space((1, 4, 4), 3, 5), Space((2,), 4)
STILL = Space((3,), 4)  # vectors, of which a column never changes


def dataset(space: Space, name: str = "data", n: int = 12) -> Dataset:
    """n training and n - 2 held-out examples; the same for every name."""
    with unnoted():
        return _dataset(space, name, n)


def _dataset(space: Space, name: str, n: int) -> Dataset:
    generator = torch.Generator().manual_seed(5)
    parts = []
    for count in (n, n - 2):
        if space.levels:
            x = torch.randint(space.levels, (count, *space.shape), generator=generator).to(torch.uint8)
        else:
            x = torch.randn(count, *space.shape, generator=generator)
            x[:, 2:] = 0.5
        parts.append(Data(x, torch.arange(count) % space.classes, space))
    labels = tuple(map(str, range(space.classes)))
    return Dataset(name, space, *parts, "c0ffee", labels, None if space.levels else replace(toys.moons(), entropy=None))


@functools.cache
def _model(name: str, space: Space) -> Any:
    recipe = catalogue.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parents = {role: Frozen(copy.deepcopy(_model(need.recipe, space))) for role, need in recipe.needs.items()}
        return shake(recipe.build(space, 4, parents, recipe.config)).eval()


def model(name: str, space: Space) -> Any:
    """A small model of a recipe, its parents with it, which the caller may train."""
    with unnoted():
        return copy.deepcopy(_model(name, space))


def taken(name: str, *spaces: Space) -> list[Space]:
    recipe = catalogue.get(name)
    return [space for space in spaces if recipe.paradigm.refuses(recipe.config, space) is None]


def distinct() -> list[str]:
    """A recipe of each paradigm."""
    return list({recipe.paradigm: name for name, recipe in reversed(catalogue.recipes().items())}.values())


# ------------------------------------------------------------------------------------------------------ the scenes


@dataclass(frozen=True)
class Scene:
    """A computation as a function of factors.

    work:    the computation; returns numbers by name.
    usual:   the factors' values. others: another value of each factor that is tried.
    follows: by name the factors that the numbers depend on; of all other factors they are independent.
    within:  rounding between two sizes of a chunk; 0: none.
    again:   places that draw a number twice, with the reason.
    apart:   streams that are opened here under other names: the order of a plan's steps is that of "plan".
    """

    work: Callable[..., Mapping[str, Tensor]]
    usual: Mapping[str, Any]
    others: Mapping[str, Any]
    follows: Mapping[str, str] = field(default_factory=dict)
    within: float = 1e-4
    again: Mapping[str, str] = field(default_factory=dict)
    apart: tuple[str, ...] = ()


def recorded(scene: Scene, before: int = 0, **factors: Any) -> tuple[Ledger, Mapping[str, Tensor]]:
    """What the scene draws, and its numbers, after others have drawn in the same process."""
    with torch.random.fork_rng(devices=[]), ledger() as found:
        torch._C.default_generator.manual_seed(before)
        state = np.random.get_state()
        np.random.seed(before)
        numbers = scene.work(**{**scene.usual, **factors})
        np.random.set_state(state)
    return found, numbers


def trained(name: str, space: Space) -> Scene:
    """Two steps of a training, from data prepared for it."""

    def work(data: str, recipe: str, seed: int) -> Mapping[str, Tensor]:
        at, given = model(name, space), dataset(space).train
        coords, progress = (data, recipe, seed), Progress()
        with tempfile.TemporaryDirectory() as folder:
            ended = train(
                at,
                given,
                batch=5,
                steps=2,
                coords=coords,
                folder=Path(folder),
                progress=progress,
                checkpoint_seconds=1e9,
            )
        assert ended.status == "ok", ended.reason
        return {"weights": torch.cat([v.double().flatten() for v in ended.ema.values()])}

    usual = {"data": "a", "recipe": name, "seed": 0}
    return Scene(work, usual, {"seed": 1}, {"weights": "data recipe seed"})


def whole_run() -> Scene:
    """A run as `bench train` makes it, but for the plan of its steps."""
    tier = tiers.get("smoke")

    def work(data: str, recipe: str, seed: int, threads: int) -> Mapping[str, Tensor]:
        initial: dict[str, Tensor] = {}

        def started(at: Trainable, *args: Any, **named: Any) -> Any:
            initial["initial"] = torch.cat([p.detach().flatten().clone() for p in at.parameters()])
            return train(at, *args, **named)

        spending = budget.Spending(4, 1, "", 3, 4, 1.0, 1.0, "flops")
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as out:
            patch.setattr(bench.data, "load", lambda name, source=None: dataset(IMAGES, name), raising=False)
            patch.setattr(training, "spending_of", lambda *_: spending)
            patch.setattr(training, "train", started)
            runs.dataset.cache_clear()
            run = runs.define(recipe, data, seed, tier, ["batch=4", "dropout=0.5"], conditional=True)
            folder = runs.ensure(run, Path(out), Progress(), device="cpu", threads=threads)
            runs.dataset.cache_clear()
            assert runs.read_info(folder).status == "ok", runs.read_info(folder).reason
            weights = load_file(folder / "weights.safetensors")
        return {**initial, "weights": torch.cat([v.double().flatten() for v in weights.values()])}

    usual = {"data": "digits", "recipe": "flow-matching", "seed": 0, "threads": 1}
    others = {"data": "mnist", "recipe": "flow-matching-cosine", "seed": 1, "threads": 2}
    return Scene(work, usual, others, {"initial": "data recipe seed", "weights": "data recipe seed"})


def planned() -> Scene:
    """The calibration of a run: a few steps of a model that is thrown away."""

    def work(data: str, recipe: str, seed: int) -> Mapping[str, Tensor]:
        tier = replace(tiers.get("smoke"), vectors=tiers.Budget(flops=1e12, seconds=1e9, images=10**6, params=500))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bench.data, "load", lambda name, source=None: dataset(VECTORS, name), raising=False)
            patch.setattr(budget, "_seconds_per_step", lambda loop, *_: loop.step(7) or 1e-6)
            runs.dataset.cache_clear()
            run = runs.define(recipe, data, seed, tier, ["batch=4"])
            spent = budget._calibrate(run, run.definition, dataset(VECTORS).train.unlabelled(), {}, 1)
            runs.dataset.cache_clear()
        return {"steps": torch.tensor([spent.width, spent.planned_steps])}

    usual = {"data": "ring8", "recipe": "flow-matching", "seed": 0}
    others = {"data": "moons", "recipe": "flow-matching-cosine", "seed": 1}
    again = dict.fromkeys(("bench/runs/budget.py:fit_width.count", "bench/runs/budget.py:_calibrate"), "a fixed seed")
    return Scene(work, usual, others, again=again, apart=("bench/loop.py:Order._epoch", "bench/loop.py:Loop._step"))


@contextmanager
def chunks_of(chunk: int) -> Iterator[None]:
    """While it holds, everything is computed so many examples at a time."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (pools, codec):
            patch.setattr(module, "chunk_size", lambda *_: chunk)
        yield


def default(at: Paradigm) -> Plan:
    return few(next(s for s in at.card.samplers if s.name == at.card.default.sampler))


def sampled(name: str, space: Space, plan: Plan | None = None) -> Scene:
    """Samples as they are drawn to be scored: for labels as frequent as in the data, a chunk at a time."""

    def work(seed: int, chunk: int) -> Mapping[str, Tensor]:
        at = model(name, space)
        with chunks_of(chunk):
            labels = pools.pool_labels(at, dataset(space).train, 7, seed)
            pool = pools.draw(at, plan or default(at), 7, seed, labels)
        return {"samples": pool.x, "labels": labels}

    return Scene(work, {"seed": 0, "chunk": 3}, {"seed": 1, "chunk": 7}, {"samples": "seed", "labels": "seed"})


def cheap(kind: Kind) -> Kind:
    """The same kind with few steps, probes and draws."""
    few = {"steps": 2, "probes": 1, "terms": 3, "K": 3, "draws": 2}
    options = tuple((name, few.get(name, value)) for name, value in kind.options)
    return replace(kind, options=(*options, *([("dequantise", "normal")] if kind.name == "ode" else [])))


def scored(name: str, space: Space, kind: Kind) -> Scene:
    """Likelihoods of one kind as rows have them, a chunk at a time."""

    def work(data: str, split: str, chunk: int) -> Mapping[str, Tensor]:
        found = dataset(space, data)
        with chunks_of(chunk):
            examples = likelihood.Examples(found.test, split, found)
            estimate = likelihood._estimate(model(name, space), kind, examples, "cpu", None)
        return {"value": estimate.value}

    usual, others = {"data": "a", "split": "test", "chunk": 4}, {"data": "b", "split": "train", "chunk": 10}
    exact = name == "vq-vae" or (kind.name == "exact" and not (space.levels and kind.dequantised))
    return Scene(work, usual, others, {} if exact else {"value": "data split"}, within=2e-3)


def reconstructed(space: Space) -> Scene:
    def work(data: str, chunk: int) -> Mapping[str, Tensor]:
        found = dataset(space, data)
        ref = SimpleNamespace(dataset=found, device=CPU)
        with chunks_of(chunk):
            x, value = codec._reconstructed(model("autoencoder", space), found.test, ref, lambda *_: None)
        return {"x": x, "value": value}

    return Scene(work, {"data": "a", "chunk": 4}, {"data": "b", "chunk": 10}, {"x": "data", "value": "data"}, 1e-3)


def baseline() -> Scene:
    """The baselines of a data set: which examples and noise they take."""

    def work(data: str) -> Mapping[str, Tensor]:
        given: dict[str, Tensor] = {}
        found = dataset(IMAGES, data)

        def rows(base: Row, x: Tensor, *_: Any, **__: Any) -> list[Row]:
            given[f"{base.recipe} {len(given)}"] = x
            return []

        def kept(folder: Path, pool: pools.Pool, _: Dataset) -> None:
            given["grid"] = pool.x

        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
            patch.setattr(bench.data, "load", lambda name, source=None: found, raising=False)
            patch.setattr(baselines, "reference_of", lambda *_, **__: SimpleNamespace(spaces=(), dataset=found))
            patch.setattr(baselines.quality, "rows", rows)
            patch.setattr(baselines.pictures, "keep", kept)
            patch.setattr(baselines.pictures, "kept_of", lambda _: 4)
            runs.dataset.cache_clear()
            tier = replace(tiers.get("smoke"), samples=6, likelihood_n=5)
            baselines.score_baselines(data, tier, Path(folder), Progress())
            runs.dataset.cache_clear()
        return given

    again = {"bench/scores/reference.py:subset": "copies of training examples are the first of the same order"}
    names = ("gaussian 3", "uniform 4", "real-train 0", "real-train 1", "train-copies 2", "grid")
    return Scene(work, {"data": "a"}, {"data": "b"}, dict.fromkeys(names, "data"), again=again)


def shuffled() -> Scene:
    """The part of a split that is scored."""

    def work(data: str, split: str) -> Mapping[str, Tensor]:
        return {"x": reference.subset(dataset(VECTORS, data).train, 6, data, split).x}

    return Scene(work, {"data": "a", "split": "test"}, {"data": "b", "split": "train"}, {"x": "data split"})


def followed() -> Scene:
    """A trajectory, and the data noised beside it."""

    def work(seed: int, data: str) -> Mapping[str, Tensor]:
        at = model("score-sde", VECTORS)
        way = trajectory.follow(at, few(at.card.samplers[0]), 4, seed, torch.arange(4))
        (_, _, noised), *_ = trajectory._forward(at, dataset(VECTORS, data), 20, "cpu")
        return {"way": way.states, "noised": noised}

    return Scene(work, {"seed": 0, "data": "a"}, {"seed": 1, "data": "b"}, {"way": "seed"})


def measured() -> Scene:
    def work(seed: int) -> Mapping[str, Tensor]:
        at = model("score-sde", VECTORS)
        return {"x": measure.sample_once(at, few(at.card.samplers[0]), 4, "cpu", seed)}

    return Scene(work, {"seed": 0}, {"seed": 1}, {"x": "seed"})


def classified() -> Scene:
    """The classifier of a feature space, in training."""

    def work(seed: int, data: str) -> Mapping[str, Tensor]:
        shape = classifier.Architecture((1, 4, 4), (4,), (2,), 6, 3, 0.5)
        how = features_train.Training(epochs=2, batch=4, warmup=1, flip=True)
        net = features_train.fit(dataset(IMAGES, data).train, shape, how, seed)
        return {"weights": torch.cat([v.double().flatten() for v in net.state_dict().values()])}

    return Scene(work, {"seed": 0, "data": "a"}, {"seed": 1, "data": "b"}, {"weights": "seed"})


def compared() -> Scene:
    """Metrics that draw: shuffles, directions, folds."""

    def work(seed: int, order: int) -> Mapping[str, Tensor]:
        x, y = (torch.linspace(-2, 2, 120).sin().view(60, 2).double() * k for k in (1, 2))
        a, b = (Features(v.repeat(1, 1), None, SimpleNamespace(dim=2, id="plane")) for v in (x, y))
        moved = x.roll(order, 0)
        fd = frechet.extrapolated_distance(a, b, seed)[0].value
        found = {"fd_inf": fd, "sw2": vectors.sliced_wasserstein(moved, y).value}
        found["c2st"] = vectors.two_sample_accuracy(moved, y).value
        return {name: torch.tensor(value) for name, value in found.items()}

    again = {"bench/metrics/vectors.py:sliced_wasserstein": "its seed is that of the first shuffle"}
    return Scene(work, {"seed": 0, "order": 0}, {"seed": 1, "order": 7}, {"fd_inf": "seed"}, again=again)


def toy(name: str) -> Scene:
    """A toy data set; its two splits are drawn from streams of their own."""

    def work() -> Mapping[str, Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(toys, "N_TRAIN", 50)
            patch.setattr(toys, "N_TEST", 50)
            found = toys.load_toy(name)
        assert not torch.equal(found.train.x, found.test.x)
        return {"train": found.train.x, "test": found.test.x}

    return Scene(work, {}, {})


def fixed() -> Scene:
    """Networks of which a part is fixed, and the count of their parameters."""

    def work(channels: int) -> Mapping[str, Tensor]:
        convolutions = random_conv((1, 8, 8)).extractor.state_dict()
        recipe = catalogue.get("flow-matching")
        width, params = budget.fit_width(recipe, VECTORS, 500, {}, recipe.config)
        mixing = Mixing(channels).p @ Mixing(channels).lower
        return {
            "convolutions": torch.cat([v.flatten() for v in convolutions.values()]),
            "width": torch.tensor([width, params]),
            "mixing": mixing.detach(),
        }

    again = dict.fromkeys(("paradigms/flows/linear.py:Mixing.__init__", "bench/runs/budget.py:fit_width.count"), "")
    return Scene(work, {"channels": 3}, {"channels": 4}, {"mixing": "channels"}, again=again)


SPECIAL = {
    "a run": whole_run(),
    "a plan": planned(),
    "reconstructions": reconstructed(IMAGES),
    "baselines": baseline(),
    "a subset": shuffled(),
    "a trajectory": followed(),
    "measured samples": measured(),
    "a classifier": classified(),
    "metrics": compared(),
    "fixed parts": fixed(),
    **{f"toy {name}": toy(name) for name in toys.TOYS},
}


def scenes() -> dict[str, Scene]:
    """Every scene by name: the special ones, the training of each paradigm, and of each code of theirs that samples or
    takes likelihoods one."""
    found, known = dict(SPECIAL), set[object]()
    for name in distinct():
        paradigm = catalogue.get(name).paradigm
        for space in taken(name, IMAGES, VECTORS)[:1] + taken(name, STILL)[: name in ("vae", "iwae")]:
            where = f"{name} on {space.shape}"
            found[f"training {where}"] = trained(name, space)
            if not issubclass(paradigm, Paradigm):
                continue
            if is_new(known, paradigm.prior, paradigm.sample, space):
                found[f"samples {where}"] = sampled(name, space)
            for kind in paradigm.card.likelihoods_on(space):
                code = (kind.name == "ode" or paradigm.log_likelihood, kind.name, space)
                if kind.calls <= 64 and is_new(known, *code):
                    found[f"{kind.name} {where}"] = scored(name, space, cheap(kind))
    for sampler in catalogue.get("ddpm").paradigm.card.samplers:
        found[f"samples of {sampler.name}"] = sampled("ddpm", VECTORS, few(sampler))
    return found


def is_new(known: set[object], *what: object) -> bool:
    fresh = what not in known
    known.add(what)
    return fresh
