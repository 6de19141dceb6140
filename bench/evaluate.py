"""Scores: one pool of samples per (sampler, step count), every metric on it, every likelihood the card declares.

A pool is drawn once, in chunks whose size depends on the data's shape alone; sample i of it does not depend on the
chunk, the pool's size, the worker or what was drawn before. It is rounded to the data's integers, its features are
computed once, and every metric reads them, against as many test as training examples. Network calls are counted while
the pool is drawn. The headline plan draws several disjoint sets, one long stream cut in pieces, and from the tier
"standard" on its rows are also made with the raw weights and with those of a quarter and half of the budget.

`evaluate` scores a finished run, `likelihoods` and `in_spaces` add those that a user chose, `baselines` scores what
needs no model (real against real, training images as samples, a fitted Gaussian, noise), `score` anyone's samples: the
same rows for all. Finished rows are kept under a key of all that they depend on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import io
import itertools
import json
import math
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial, wraps
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, ParamSpec, get_args

import numpy as np
import safetensors
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bench import arithmetic, measure, metrics, reading, runs
from bench.arithmetic import DTYPES
from bench.data import Dataset
from bench.data.dataset import label_of
from bench.data.folder import SUFFIXES, centred_square, images_below, read_image
from bench.data.names import Name, readable
from bench.features import Features, FeatureSpace, cached, named, shipped, spaces_for
from bench.opened import Opened, opened
from bench.progress import Progress
from bench.reading import Range
from bench.schedule import is_spoiled
from bench.sharing import beside_others
from bench.store import (
    RESULTS,
    SCHEMA,
    Row,
    fits,
    load_rows,
    locked,
    manifest,
    parse,
    put,
    results_key,
    save_rows,
    verify,
    write_atomic,
    write_manifest,
)
from bench.tiers import Tier
from paradigms import catalogue
from paradigms.backbones import count_calls
from paradigms.contract import (
    Card,
    Codec,
    Data,
    Kind,
    Noise,
    Paradigm,
    Plan,
    Recipe,
    Space,
    seed_of,
    settings_text,
)
from paradigms.errors import BadInput
from paradigms.maths.likelihood import bits_per_dim
from paradigms.standardise import column_units
from reports.words import shortened

__all__ = [
    "ASKED",
    "PLANS",
    "SPACES",
    "WAYS",
    "Pool",
    "Resize",
    "Samples",
    "baselines",
    "draw",
    "evaluate",
    "floor",
    "forget",
    "grid_png",
    "has_baselines",
    "in_spaces",
    "is_evaluated",
    "likelihoods",
    "plans",
    "read_samples",
    "samples_of",
    "score",
    "write_samples",
]

GRID = "grid.png"
SAMPLES = "samples.npz"
ASKED = "likelihood"  # folder of the likelihoods that a user chose, inside the run's own
PLANS = "samplers"  # of the rows of plans that a user chose
SPACES = "features"  # and of the rows in feature spaces that a user named
REFERENCE = 10_000  # at most so many real examples of either split stand behind a quality number
WIDE = 25  # but so many per feature, of what there are, in a wide space: a Frechet distance needs them
NAMED = 5  # examples named at most, of those that decide a likelihood
LOST = 0.01  # of the labels or modes: real data leave out as many of a thousand, by chance
MEMORISED = 0.5  # nn_ratio below which samples are called copies; held-out images have 1
Resize = Literal["bicubic", "bilinear", "area", "nearest"]
WAYS: tuple[str, ...] = get_args(Resize)
FEW = 32  # one in so many examples at most are few
FLAT = 1e-10  # of the variance of a column: what is less in some direction is rounding
KEPT_VECTORS = 2_000  # samples kept for the report's scatter plots
P = ParamSpec("P")


# ----------------------------------------------------------------------------------------------------- references


CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Reference:
    """What samples of a data set are compared with: as many training as test examples, and their features.

    In a wide space (2,048 features) there may be more of the training split, whose features alone are kept then.

    real:     split -> integers (N, C, H, W), or float32 (N, D).
    labels:   split -> (N,), or None for data without classes.
    features: split -> one entry for each feature space; empty for vectors.
    channels: the classifier that says which mode an image of stacked ones shows.
    device:   where features lie and are compared.
    """

    dataset: Dataset
    spaces: tuple[FeatureSpace, ...]
    real: dict[str, Tensor]
    labels: dict[str, Tensor | None]
    features: dict[str, tuple[Features, ...]]
    channels: FeatureSpace | None = None
    device: torch.device = CPU


def subset(data: Data, n: int, name: str, split: str) -> Data:
    """The first n of a fixed shuffle of a split: the same examples for every run. name: the data set's `key`."""
    if n >= len(data):
        return data
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed_of("subset", name, split)))[:n]
    return dataclasses.replace(data, x=data.x[order], y=None if data.y is None else data.y[order])


dataset = runs.dataset


# Is told what is computed, how much of it is done, and of how much; it may raise, and so end the work.
Told = Callable[[str, int, int], object]


def _nobody(what: str, done: int, of: int) -> None: ...


def _tell(told: Told, what: str) -> metrics.Tell:
    def tell(done: int, of: int) -> None:
        told(what, done, of)

    return tell


def reference(
    name: Name, specs: tuple[str, ...] = (), device: torch.device | str = "cpu", told: Told = _nobody
) -> Reference:
    """The reference of a data set in its own feature spaces, or in those that a user named; made once in each process.

    Features are computed and compared on `device`.
    """
    return _reference(name, specs, torch.device(device), _Listener(told))


@dataclass(frozen=True)
class _Listener:
    """Who is told of work whose result is kept; the result is the same whoever that is, so all are equal."""

    told: Told = field(compare=False)


def forget() -> None:
    """Drops the references that this process holds: data of a user's own may have changed where they lie."""
    _reference.cache_clear()


@lru_cache(maxsize=4)
def _reference(name: Name, specs: tuple[str, ...], device: torch.device, listener: _Listener) -> Reference:
    found = dataset(name)
    n = min(len(found.test), len(found.train), REFERENCE)
    parts = {"test": found.test, "train": found.train}
    some = {split: subset(part, n, found.key, split) for split, part in parts.items()}
    real, labels = {k: part.x for k, part in some.items()}, {k: part.y for k, part in some.items()}
    spaces = tuple(named(spec, found.space) for spec in specs) or tuple(spaces_for(found.name, found.space))
    spaces = tuple(space.on(device) for space in spaces)

    def features(space: FeatureSpace, split: str) -> Features:
        wide = (
            subset(parts[split], WIDE * space.dim, found.key, split).x if WIDE * space.dim > REFERENCE else real[split]
        )
        return cached(
            space, found, split, wide, _tell(listener.told, f"features of real images, {space.name}, {split}")
        )

    kept = {split: tuple(features(space, split) for space in spaces) for split in parts}
    channels = shipped(found.stacked).on(device) if found.stacked else None
    return Reference(found, spaces, real, labels, kept, channels, device)


# -------------------------------------------------------------------------------------------------------- sampling


@dataclass(frozen=True, eq=False)
class Pool:
    """Samples of one plan: x (N, *shape) as the data is stored, the labels they were drawn for, calls per sample."""

    plan: Plan
    x: Tensor
    y: Tensor | None
    calls: float | None


def pool_size(found: Dataset, tier: Tier) -> int:
    """How many samples of each plan stand against how many held-out examples; all rows of a data set alike."""
    return min(tier.mode_samples if found.stacked else tier.samples, len(found.test))


def chunk_size(space: Space, device: torch.device | str = "cpu") -> int:
    """Rows computed at once. A function of shape and kind of device alone, because the last bits of a product are not."""
    return min(4096, max(32, (2**14 if torch.device(device).type == "cpu" else 2**22) // space.dim))


def draws_of(card: Card, plan: Plan, tier: Tier) -> int:
    """How many disjoint sets a plan draws: several only the headline, where the tier can afford its calls."""
    return tier.draws if plan == card.default and _expected_calls(card, plan) <= tier.max_calls else 1


def pool_labels(model: Paradigm, data: Data, n: int, seed: int) -> Tensor | None:
    """Labels (n,) in the proportions of the training split; None for a model that is told none."""
    if not model.space.classes or data.y is None:
        return None
    return data.y[Noise("labels", seed).integers(len(data.y), n)]


@torch.no_grad()
def draw(
    model: Paradigm,
    plan: Plan,
    n: int,
    seed: int,
    labels: Tensor | None = None,
    device: torch.device | str = "cpu",
    tell: Callable[[int], None] | None = None,
) -> Pool:
    """n samples of a plan, on the CPU. `tell` is given the number of samples drawn so far, after each chunk."""
    noise, size = Noise("sample", seed, device=device), chunk_size(model.space, device)
    parts: list[Tensor] = []
    with count_calls() as count, arithmetic.sampling(model, plan, torch.device(device)):
        for first in range(0, n, size):
            rows = min(size, n - first)
            z = model.prior(rows, noise.at("prior").rows(first))
            cond = None if labels is None else labels[first : first + rows].to(device)
            x = model.sample(z, plan, noise.at("steps").rows(first), cond)
            if tuple(x.shape) != (rows, *model.space.shape):
                raise BadInput(f"{plan}: samples have shape {tuple(x.shape)}, not {(rows, *model.space.shape)}")
            parts.append(model.space.decode(_finite(x, plan)).cpu())
            if tell is not None:
                tell(first + rows)
    return Pool(plan, torch.cat(parts), labels, count.examples / n if count.calls else None)


def pieces(pool: Pool, n: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """A pool in disjoint sets of n samples, in the order in which they were drawn, with their labels."""
    for first in range(0, len(pool.x), n):
        yield pool.x[first : first + n], None if pool.y is None else pool.y[first : first + n]


class NotFinite(BadInput):
    """Samples or likelihoods are not numbers."""


def _finite(x: Tensor, plan: Plan) -> Tensor:
    if not torch.isfinite(x).all():
        raise NotFinite(f"{plan} drew samples that are not finite")
    return x


def plans(card: Card, max_calls: int, sweep: str) -> list[Plan]:
    """What is drawn: the headline plan, always and first; in a sweep every step count within the calls.

    sweep: "" for none, "main" for the samplers that the card says a short one tries, "all" for every sampler.
    """
    found = [card.default]
    seen = {_identity(card, card.default)}
    for sampler in card.samplers:
        if not sweep or (sweep == "main" and not sampler.main):
            continue
        for steps in sampler.steps:
            plan, calls = Plan(sampler.name, steps), sampler.calls_at(steps)
            if (calls is None or calls <= max_calls) and _identity(card, plan) not in seen:
                seen.add(_identity(card, plan))
                found.append(plan)
    return found


def _identity(card: Card, plan: Plan) -> tuple[object, ...]:
    """Equal for two plans that draw the same way: an option at its default may be written or not."""
    sampler = card.sampler(plan.sampler)
    options = {**(dict(sampler.options) if sampler else {}), **dict(plan.options)}
    return plan.sampler, plan.steps, tuple(sorted(options.items()))


# --------------------------------------------------------------------------------------------------------- quality


@contextmanager
def _section(rows: list[Row], base: Row, metric: str) -> Iterator[None]:
    """A part of the evaluation that fails is a row with its reason; the other parts go on where this process still can."""
    try:
        yield
    except NotFinite as error:
        rows.append(dataclasses.replace(base, status="diverged", metric=metric, value=math.nan, reason=str(error)))
    except BadInput as error:  # what a metric refuses to compute
        rows.append(dataclasses.replace(base, metric=metric, value=math.nan, reason=str(error)))
    except (Exception, SystemExit) as error:  # a plugin's code may end the program
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if is_spoiled(reason):  # the other parts would fail of it, and a fresh process may have none of them fail
            raise
        rows.append(dataclasses.replace(base, status="failed", metric=metric, value=math.nan, reason=reason))


def quality(
    base: Row,
    x: Tensor,
    y: Tensor | None,
    ref: Reference,
    splits: Sequence[str] = ("test", "train"),
    copies: bool = True,
    told: Told = _nobody,
) -> list[Row]:
    """Every metric of samples x (N, *shape), as the data is stored, against each split; `base` fills the other columns.

    y: labels the samples were drawn for, where they were. copies: ask whether they are copies of training examples.
    told: hears of every chunk and block of the work, under the names in `_costs_of_quality`.
    """
    rows: list[Row] = []
    base = dataclasses.replace(base, n=len(x), draw=base.draw or 0)

    def add(values: Sequence[metrics.Value], **columns: Any) -> None:
        rows.extend(_of_values(base, values, **columns))

    if not ref.spaces:
        if "test" not in splits:
            return rows
        # Empirical distances depend on both sizes: equal ones, and no more than the transport problem can hold.
        real = ref.real["test"][: len(x)]
        with _section(rows, dataclasses.replace(base, split="test"), "w2"):
            found = metrics.vector_quality(x[: len(real)], real, ref.dataset.density, _tell(told, "distances"))
            add(found, split="test", n_ref=len(real))
        return [_marked(row) for row in rows]
    stored = ref.dataset.space
    fakes = [space.features(x, stored=stored, tell=_tell(told, f"features, {space.name}")) for space in ref.spaces]
    for index, (space, fake) in enumerate(zip(ref.spaces, fakes)):
        for split in splits:
            real_features = ref.features[split][index]
            columns: dict[str, Any] = {"split": split, "features": space.id, "n_ref": len(real_features.values)}
            here = dataclasses.replace(base, **columns)
            tell = {what: _tell(told, f"{what}, {space.name}, {split}") for what in ("fd", "fd_inf", "pairs")}
            # A Frechet distance is refused when samples are few: that costs its own row, not the others.
            with _section(rows, here, "fd"):
                add([metrics.frechet_distance(fake, real_features, tell["fd"])], **columns)
            with _section(rows, here, "fd_inf"):
                add(metrics.extrapolated_distance(fake, real_features, progress=tell["fd_inf"]), **columns)
            with _section(rows, here, "kd"):
                add(metrics.quality_without_fd(fake, real_features, tell["pairs"]), **columns)
        if "test" in splits:
            rows += _labels(base, fake, y, ref.features["test"][index], ref.labels["test"])
            told(f"labels, {space.name}", 1, 1)
    for split in splits:
        columns = {"split": split, "n_ref": len(ref.real[split])}
        with _section(rows, dataclasses.replace(base, **columns), "sharpness"):
            add([metrics.sharpness(x, ref.real[split], _tell(told, f"sharpness, {split}"))], **columns)
    if ref.channels is not None and "test" in splits:
        columns = {"split": "test", "features": ref.channels.id}
        with _section(rows, dataclasses.replace(base, **columns), "modes"):
            tells = metrics.in_turn(_tell(told, "modes"), *[len(x)] * x.shape[1])
            channels = [ref.channels.features(c, stored=stored, tell=of) for c, of in zip(x.split(1, dim=1), tells)]
            add(metrics.stacked_modes(channels), **columns)
    if copies:
        rows += memorisation(base, x, fakes, ref, told)
    return [_marked(row) for row in rows]


def _costs_of_quality(
    n: int, ref: Reference, splits: Sequence[str] = ("test", "train"), copies: bool = True
) -> dict[str, float]:
    """What the parts of `quality` of n samples cost, about, in multiplications, by the names that it tells of them."""
    if not ref.spaces:
        return {"distances": 1.0}
    costs = {f"features, {s.name}": 1e4 * n * (s.pixels or math.prod(s.shape[1:])) for s in ref.spaces}
    for index, space in enumerate(ref.spaces):
        d = space.dim
        for split in splits:
            m = len(ref.features[split][index].values)
            costs[f"fd, {space.name}, {split}"] = (n + m + 10 * d) * d**2
            costs[f"fd_inf, {space.name}, {split}"] = 5 * (n + m + 30 * d) * d**2
            costs[f"pairs, {space.name}, {split}"] = 2 * (n * n + m * m + n * m) * (d + 32)
        if "test" in splits:
            costs[f"labels, {space.name}"] = 1e3 * n * d
    dim = math.prod(ref.dataset.space.shape)
    costs |= {f"sharpness, {split}": 150.0 * dim * (n + len(ref.real[split])) for split in splits}
    if ref.channels is not None and "test" in splits:
        costs["modes"] = 1e4 * n * dim
    if copies:
        held_out, train = min(n, len(ref.real["test"])), len(ref.dataset.train)
        costs["copies"] = ((2 * n + held_out) * train + 2 * n * held_out) * (dim + 32) / 2
    return costs


def _labels(base: Row, fake: Features, y: Tensor | None, real: Features, truth: Tensor | None) -> list[Row]:
    """What labels say of samples: those a classifier's space reads, and y (N,), those they were drawn for."""
    rows: list[Row] = []
    here = dataclasses.replace(base, split="test", features=fake.space.id, n_ref=len(real.values))
    if fake.logits is not None:
        with _section(rows, here, "classifier_score"):
            rows += _of_values(here, [metrics.classifier_score(fake)])
            if y is not None:
                rows += _of_values(here, [metrics.label_accuracy(fake, y)])
    if y is not None and truth is not None:
        with _section(rows, here, "cas"):
            rows += _of_values(here, [metrics.classification_accuracy_score(fake, y, real, truth)])
    return rows


def _of_values(base: Row, values: Sequence[metrics.Value], **columns: Any) -> list[Row]:
    return [dataclasses.replace(base, **{**v._asdict(), **columns}) for v in values]


def memorisation(base: Row, x: Tensor, fakes: Sequence[Features], ref: Reference, told: Told = _nobody) -> list[Row]:
    """Are images x (N, *shape), as the data is stored, copies of training examples? In pixels and by their features."""
    rows: list[Row] = []
    base = dataclasses.replace(base, n=len(x), draw=base.draw or 0)
    # All of the training split, for any of it may have been copied; as many held-out examples as samples.
    train, held_out = ref.dataset.train.x, ref.real["test"][: len(x)]
    with _section(rows, base, "nn_ratio"):
        found = metrics.memorisation(x.to(ref.device), train, held_out, _tell(told, "copies"))
        rows += _of_values(base, found, split="train", n_ref=len(train))
    for fake, seen, unseen in zip(fakes, ref.features["train"], ref.features["test"]):
        here = dataclasses.replace(base, split="train", features=fake.space.id, n_ref=len(seen.values))
        with _section(rows, here, "fld_gap"):
            rows += _of_values(here, [metrics.likelihood_gap(fake, seen, unseen)])
    return rows


def _marked(row: Row) -> Row:
    """Says so where samples are copies of training examples, or leave out labels or modes."""
    if row.value is None or row.reason:
        return row
    if row.metric == "nn_ratio" and row.value < MEMORISED:
        near = "copies of training examples, or nearly: held-out ones have 1, copies 0"
        return dataclasses.replace(row, reason=near)
    if row.metric in ("label_modes", "modes"):
        number, what = int(row.unit.removeprefix("of ")), "labels" if row.metric == "label_modes" else "modes"
        usual = number * (1 - (1 - 1 / number) ** (row.n or 0))  # of as many fair draws: few can not show a thousand
        chance = 3 * math.sqrt(usual * (1 - usual / number))
        if usual - row.value > max(chance, LOST * number):
            lost = number - int(row.value)
            return dataclasses.replace(row, reason=f"{lost:,} of {number:,} {what} are missing, or nearly")
    return row


# ------------------------------------------------------------------------------------------------------ likelihood


def affordable(card: Card, space: Space, calls: int) -> list[Kind]:
    """For each kind of likelihood of such data the most expensive variant within the calls, in the card's order."""
    best: dict[str, Kind] = {}
    for kind in card.likelihoods_on(space):
        if kind.calls <= calls and (kind.name not in best or kind.calls > best[kind.name].calls):
            best[kind.name] = kind
    return list(best.values())


def _unit_of(space: Space) -> Callable[[float], float]:
    """Nats as they are printed, of a likelihood: bits/dim is linear in them, so values and errors are turned alike."""
    return (lambda v: float(bits_per_dim(v, space.dim))) if space.levels else (lambda v: -v)


def _places(data: Data, split: str, found: Dataset, few: Tensor) -> str:
    """Which examples of a split these of `data` are, in words."""
    whole = {"train": found.train, "test": found.test}[split].x
    places = [int((whole == data.x[i]).flatten(1).all(1).nonzero()[0]) for i in few[:NAMED]]
    return f" (of the {split} part, counted from 0: {', '.join(map(str, places))}{' …' if len(few) > NAMED else ''})"


def _standard_error(values: Tensor) -> float | None:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None


def on_few(
    values: Tensor,
    unit: str,
    scale: Callable[[float], float] = float,
    places: Callable[[Tensor], str] = lambda few: "",
) -> str:
    """Says so where the mean of values (N,) hangs on a few of them: how many, which, and what it is without; else "".

    The few are farther from the median than the standard deviation of all: at most one in 32, with half or more of the
    squared deviations. Of a normal law a third is as far; of 512 log-likelihoods four at -10,000 nats are such few, and
    neither their mean nor its error says what a typical example has.

    scale: brings a value to the unit of the row. places: says where such values come from, the farthest first.
    """
    if not torch.isfinite(values).all() or len(values) < FEW:
        return ""
    median = values.quantile(0.5)
    squared = (values - median).square()
    few = squared > values.var()
    k = int(few.sum())
    if not 0 < k <= len(values) / FEW or squared[few].sum() < 0.5 * squared.sum():
        return ""
    far = squared[few].sqrt().sort().values
    near, most = (abs(scale(float(distance))) for distance in (far[0], far[-1]))
    span = f"{near:,.4g}" if k == 1 else f"{near:,.4g} to {most:,.4g}"
    return (
        f"the mean hangs on {k} of {len(values):,} examples{places(squared.argsort(descending=True)[:k])}, {span} {unit} "
        f"from the median, which is "
        f"{scale(float(median)):.4g}; without them it is {scale(float(values[~few].mean())):.4g}"
    )


@torch.no_grad()
def likelihood(
    base: Row,
    model: Paradigm,
    kind: Kind,
    data: Data,
    split: str,
    found: Dataset,
    device: torch.device | str = "cpu",
    tell: Callable[[int], None] | None = None,
) -> list[Row]:
    """The negative log-likelihood of `data` in bits/dim (data with levels) or nats, with its errors in rows beside it.

    The value's own error is the standard error over the examples, which contains what dequantisation and random probes
    scatter. Systematic errors that the estimate knows of (the solver's) come as rows of their own, averaged over
    examples; so do its named terms, in nats.
    """
    # The same dequantisation for every run: numbers on one data set are paired.
    noise, size = Noise("likelihood", found.key, split, device=device), chunk_size(model.space, device)
    base = dataclasses.replace(base, dtype=DTYPES["fp32"])
    values: list[Tensor] = []
    terms: dict[str, list[Tensor]] = {}
    errors: dict[str, list[Tensor]] = {}
    with count_calls() as count:
        for first in range(0, len(data), size):
            batch = dataclasses.replace(data, space=model.space).batch(
                torch.arange(first, min(first + size, len(data)))
            )
            cond = None if batch.y is None else batch.y.to(device)
            estimate = model.log_likelihood(batch.x.to(device), kind, noise.rows(first), cond)
            values.append(estimate.value.detach().double().cpu())
            for into, named in ((terms, estimate.terms), (errors, estimate.errors)):
                for name, part in named.items():
                    into.setdefault(name, []).append(part.detach().double().cpu())
            if tell is not None:
                tell(first + len(batch.x))
    value = torch.cat(values)
    levels = model.space.levels
    scale = _unit_of(model.space)
    metric, unit = ("bits_per_dim", "bits/dim") if levels else ("nll", "nats")
    base = dataclasses.replace(
        base,
        split=split,
        n=len(value),
        kind=kind.name,
        relation=kind.relation_on(model.space),
        options=settings_text(kind.options),
        calls=count.examples / len(value) if count.calls else 0.0,
        unit=unit,
        sampler="",
        steps=None,
    )
    lost = int((~torch.isfinite(value)).sum())
    places = partial(_places, data, split, found)
    reason = (
        f"{lost} of {len(value)} examples have no finite likelihood" if lost else on_few(value, unit, scale, places)
    )
    error = _standard_error(value)
    rows = [
        dataclasses.replace(
            base,
            metric=metric,
            value=scale(float(value.mean())),
            error=None if error is None else abs(scale(error)),
            reason=reason,
        )
    ]
    for name, parts in errors.items():
        known = torch.cat(parts).abs()
        each, told = abs(scale(float(known.mean()))), on_few(known, unit, lambda v: abs(scale(v)))
        rows.append(dataclasses.replace(base, metric=f"{metric}_{name}_error", value=each, reason=told))
    for name, parts in terms.items():
        term = torch.cat(parts)
        rows.append(
            dataclasses.replace(
                base,
                metric=f"term_{name}",
                value=float(term.mean()),
                error=_standard_error(term),
                unit="nats",
                reason=on_few(term, "nats"),
            )
        )
    if not levels and split == "test" and found.density is not None and found.density.entropy is not None:
        rows.append(_divergence(rows[0], value, data, found))
    return rows


def _divergence(nll: Row, value: Tensor, data: Data, found: Dataset) -> Row:
    """KL(data || model) in nats. Where log p is known the difference is taken example by example: far less scatter."""
    density = found.density
    assert density is not None
    assert density.entropy is not None
    assert nll.value is not None
    if density.log_prob is None:
        return dataclasses.replace(nll, metric="kl", value=nll.value - density.entropy)
    difference = density.log_prob(data.x.double()) - value
    reason = nll.reason
    if bool(difference.isfinite().all()):
        reason = on_few(difference, "nats", places=partial(_places, data, nll.split, found))
    return dataclasses.replace(
        nll, metric="kl", value=float(difference.mean()), error=_standard_error(difference), reason=reason
    )


# ------------------------------------------------------------------------------------------------------------ runs


def _beside_others(work: Callable[P, list[Row]]) -> Callable[P, list[Row]]:
    """What scores a run on a `device` holds a part of it meanwhile, so that nothing is timed there (see `bench.sharing`)."""
    signature = inspect.signature(work)

    @wraps(work)
    def sharing(*args: P.args, **kwargs: P.kwargs) -> list[Row]:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        progress, device = given.arguments["progress"], runs.device_of(given.arguments["device"])
        with beside_others(device, lambda: progress.update("wait for the GPU to score", 0, 1)):
            return work(*args, **kwargs)

    return sharing


@_beside_others
def evaluate(
    folder: Path,
    tier: Tier,
    progress: Progress,
    device: str = "cpu",
    force: bool = False,
    data: Name | None = None,
    out: Path | None = None,
) -> list[Row]:
    """Scores a finished run and writes results.jsonl, grid.png and samples.npz into its folder; returns the rows.

    What another tier than its own measures goes into a folder of that tier's inside (see `bench.runs.measured`), here and
    below. What was there before stays until all of the new is made.

    Every sampler and step count is tried on the first `tier.sweep_seeds` training seeds, the headline plan on all. That
    one draws `tier.draws` disjoint sets, and on the first seeds it is drawn with other weights too (see `others`). A
    codec, which does not sample, is asked for its reconstructions, and nothing of that is kept: rows are for what can be
    compared, and the models that stand on it have these among theirs. `data` says where its data lie, if not where they
    did, `out` where its parents may be besides its own output folder (as below; see `bench.runs.load`).
    Raises BadInput when the folder is not that of a finished, whole run.
    """
    folder = Path(folder)
    run = opened(folder, device, data, out)
    info, found = run.info, run.data
    if isinstance(run.model, Codec):
        return _of_codec(_measured(run, tier), run.model, found, tier, device, progress.update)
    model, sweep = run.paradigm, _sweep(info, tier)
    key, place = _key(folder, info, tier, found, run.recipe), runs.measured(folder, tier.name)
    if not force and (kept := _kept(place, key)) is not None:
        return kept
    manifest(place)  # that it is damaged is said before the work
    ref = reference(found.place, device=device, told=progress.update)
    card = model.card
    n = pool_size(found, tier)
    todo = plans(card, tier.max_calls, sweep)
    kinds, variants = affordable(card, model.space, tier.likelihood_calls), others(folder, info, tier)
    work = Work(progress, [n * draws_of(card, plan, tier) * _expected_calls(card, plan) for plan in todo])
    work.add([n * _expected_calls(card, card.default)] * len(variants))
    work.add(_costs(kinds, found, tier))
    base = _measured(run, tier)
    rows: list[Row] = []
    shown: Pool | None = None
    for plan in todo:
        drawn, sets = _planned(base, plan, card), draws_of(card, plan, tier)
        with work.part(str(plan), n * sets) as tell, _section(rows, drawn, "fd" if ref.spaces else "w2"):
            pool = draw(
                model, plan, n * sets, info.seed, pool_labels(model, found.train, n * sets, info.seed), device, tell
            )
            scored = work.scored(str(plan))
            rows += _of_pool(dataclasses.replace(drawn, calls=pool.calls), pool, n, ref, model, device, scored)
            if plan == card.default:
                shown = pool
    for variant in variants:
        its = opened(folder, device, data, out, variant.weights, variant.step)
        other, drawn = its.paradigm, _planned(_measured(its, tier, variant.weights), card.default, card)
        with work.part(str(variant), n) as tell, _section(rows, drawn, "fd" if ref.spaces else "w2"):
            pool = draw(other, card.default, n, info.seed, pool_labels(other, found.train, n, info.seed), device, tell)
            drawn, scored = dataclasses.replace(drawn, calls=pool.calls), work.scored(str(variant))
            rows += quality(drawn, pool.x, pool.y, ref, ("test",), copies=False, told=scored)
    for kind in kinds:
        rows += _of_splits(dataclasses.replace(base, headline=kind == kinds[0]), model, kind, found, tier, device, work)
    if not kinds:
        rows.append(_no_likelihood(base, card, model.space, tier))
    codec = getattr(model, "codec", None)
    if isinstance(codec, Codec):
        rows += _of_codec(_planned(base, card.default, card), codec, found, tier, device, work.scored("the codec"))
    with locked(place):
        if shown is not None:
            _keep_samples(place, shown, found)
        save_rows(place, rows, key)
    return rows


@torch.no_grad()
def _of_codec(base: Row, codec: Codec, found: Dataset, tier: Tier, device: str, told: Told = _nobody) -> list[Row]:
    """What a codec loses: how far held-out examples are from their own reconstructions, and -log p(x | z).

    z is drawn from q(z | x) and x from p(x | z). Both sides hold the same examples, so a perfect codec has rfd 0. What
    samples made of its codes score can hardly be better.
    """
    base = dataclasses.replace(base, dtype=DTYPES["fp32"])
    ref, n = reference(found.place, device=device, told=told), pool_size(found, tier)
    data = Data(ref.real["test"][:n], None if ref.labels["test"] is None else ref.labels["test"][:n], codec.space)
    noise = Noise("reconstruct", found.key, device=device)
    parts, values = list[Tensor](), list[Tensor]()
    for index in torch.arange(len(data)).split(chunk_size(codec.space, device)):
        batch, rows = data.batch(index), noise.rows(int(index[0]))
        x, y = batch.x.to(device), None if batch.y is None else batch.y.to(device)
        mu, log_sd = codec.encode(x, y)
        out = codec.decode(mu + log_sd.exp() * rows.at("z").normal(*mu.shape), y)
        parts.append(codec.space.decode(codec.law.sample(out, rows.at("x"))).cpu())
        values.append(codec.law.log_prob(out, x).double().cpu())
        told("reconstructions", int(index[-1]) + 1, len(data))
    base, made = dataclasses.replace(base, split="test", n=len(data)), list[Row]()
    for space, real in zip(ref.spaces, ref.features["test"]):
        here = dataclasses.replace(base, features=space.id, n_ref=len(data))
        with _section(made, here, "rfd"):
            tell = _tell(told, f"features of reconstructions, {space.name}")
            fake = space.features(torch.cat(parts), stored=ref.dataset.space, tell=tell)
            same = Features(real.values[:n], None, space)
            made += _of_values(here, [metrics.reconstruction_distance(fake, same)])
    value, levels, scale = torch.cat(values), codec.space.levels, _unit_of(codec.space)
    error = _standard_error(value)
    unit = "bits/dim" if levels else "nats"
    lost = dataclasses.replace(base, metric="reconstruction", unit=unit, reason=on_few(value, unit, scale))
    return [
        *made,
        dataclasses.replace(lost, value=scale(float(value.mean())), error=None if error is None else abs(scale(error))),
    ]


def _of_pool(
    drawn: Row, pool: Pool, n: int, ref: Reference, model: Paradigm, device: str, told: Told = _nobody
) -> list[Row]:
    """The rows of a plan's samples, in disjoint sets of n, and of what one costs."""
    rows: list[Row] = []
    # The training split asks for copies, and only the headline is asked, once.
    splits = ("test", "train") if drawn.headline else ("test",)
    for index, (x, y) in enumerate(pieces(pool, n)):
        here = dataclasses.replace(drawn, draw=index)
        rows += quality(here, x, y, ref, splits, copies=drawn.headline and index == 0, told=told)
    flops = measure.flops_per_sample(model, pool.plan, device)
    return [*rows, dataclasses.replace(drawn, metric="flops_per_sample", value=flops, unit="FLOP", n=1)]


class Variant(NamedTuple):
    """Other weights of a run: "raw", or averaged ones after an earlier step."""

    weights: Literal["ema", "raw"]
    step: int | None = None

    def __str__(self) -> str:
        return f"{self.weights} weights" + (f" at step {self.step:,}" if self.step else "")


def others(folder: Path, info: runs.Info, tier: Tier) -> list[Variant]:
    """The weights besides the final averaged ones with which the headline plan is drawn, on the first seeds."""
    found = [Variant("raw")] if info.seed < tier.raw_seeds else []
    return found + [Variant("ema", step) for step in runs.snapshots(folder) if info.seed < tier.snapshot_seeds]


def _planned(base: Row, plan: Plan, card: Card) -> Row:
    return dataclasses.replace(
        base,
        sampler=plan.sampler,
        steps=plan.steps,
        options=settings_text(plan.options),
        headline=plan == card.default,
        draw=0,
        dtype=DTYPES["fp32"] if plan.sampler in arithmetic.ADAPTIVE else base.dtype,
    )


@_beside_others
def in_spaces(
    folder: Path,
    specs: Sequence[str],
    tier: Tier,
    progress: Progress,
    device: str = "cpu",
    force: bool = False,
    n: int | None = None,
    data: Name | None = None,
    out: Path | None = None,
) -> list[Row]:
    """The rows of the headline plan in feature spaces that a user named (see `bench.features.named`), on n samples.

    They are kept in a folder inside the run's, for each space and n. n: by default as many as the tier draws. Raises BadInput
    as `evaluate` does, and for a space that can not be had.
    """
    folder = Path(folder)
    run = opened(folder, device, data, out)
    model, info, found = run.paradigm, run.info, run.data
    ref, card = reference(found.place, tuple(specs), device, progress.update), model.card
    n = n or pool_size(found, tier)
    protocol = SCHEMA, tier.name, found.checksum, torch.__version__, code(run.recipe)
    key = _digest("spaces", protocol, _weights_of(folder))
    asked = _Asked(runs.measured(folder, tier.name) / SPACES, key, _space_of)
    wanted = {(space.id, n): space for space in ref.spaces}
    todo = [space for name, space in wanted.items() if force or name not in asked.known]
    if not todo:
        return asked.with_new([], wanted)
    work = Work(progress, [n * _expected_calls(card, card.default)])
    drawn, made = _planned(_measured(run, tier), card.default, card), list[Row]()
    with work.part(str(card.default), n) as tell, _section(made, drawn, "fd"):
        labels = pool_labels(model, found.train, n, info.seed)
        pool = draw(model, card.default, n, info.seed, labels, device, tell)
        drawn = dataclasses.replace(drawn, calls=pool.calls)
        scored = quality(drawn, pool.x, pool.y, ref, copies=False, told=work.scored(str(card.default)))
        made += [row for row in scored if row.features]  # what needs none is among the tier's own rows
    # Where nothing could be drawn, that is the answer in every space.
    rows = [
        dataclasses.replace(row, features=space.id, n=n)
        for space in todo
        for row in made
        if row.features in ("", space.id)
    ]
    return asked.with_new(rows, wanted)


def shown(folder: Path) -> list[Row]:
    """The rows of a folder that a report shows beside the others of the run.

    Of a space that a user named with several numbers of samples those of the largest, and none where the tier has its own.
    """
    rows = load_rows(folder)
    if Path(folder).name != SPACES:
        return rows
    own = {row.features for row in _rows_of(Path(folder).parent)}
    most: dict[str, int] = {}
    for row in rows:
        most[row.features] = max(most.get(row.features, 0), row.n or 0)
    return [row for row in rows if row.features not in own and row.n == most[row.features]]


@_beside_others
def likelihoods(
    folder: Path,
    kinds: Sequence[Kind],
    tier: Tier,
    progress: Progress,
    device: str = "cpu",
    force: bool = False,
    data: Name | None = None,
    out: Path | None = None,
) -> list[Row]:
    """The rows of likelihoods that a user chose, on the tier's examples: with options of their own and at any cost.

    They are kept in a folder inside the run's, beside those of the tier, and never lead. Raises BadInput as `evaluate`
    does, and for an option outside its range.
    """
    for kind in kinds:
        kind.check()
    folder = Path(folder)
    run = opened(folder, device, data, out)
    model, found = run.paradigm, run.data
    wanted = {(kind.name, settings_text(kind.options)): kind for kind in kinds}
    key = _digest("likelihood", _protocol(found, tier, run.recipe), _weights_of(folder))
    asked = _Asked(runs.measured(folder, tier.name) / ASKED, key, _kind_of)
    todo = {name: kind for name, kind in wanted.items() if force or name not in asked.known}
    work, base = Work(progress, _costs(list(todo.values()), found, tier)), _measured(run, tier)
    rows = [row for kind in todo.values() for row in _of_splits(base, model, kind, found, tier, device, work)]
    return asked.with_new(rows, wanted)


@_beside_others
def sampled(
    folder: Path,
    chosen: Sequence[Plan],
    tier: Tier,
    progress: Progress,
    device: str = "cpu",
    force: bool = False,
    data: Name | None = None,
    out: Path | None = None,
) -> list[Row]:
    """The rows of plans that a user chose, on as many samples as the tier draws, at any cost; as `likelihoods` otherwise.

    A plan that the tier itself draws for this run is not drawn again. Raises BadInput as `evaluate` does, and for a plan
    that the model can not draw by.
    """
    folder = Path(folder)
    run = opened(folder, device, data, out)
    model, info, found = run.paradigm, run.info, run.data
    for plan in chosen:
        model.check(plan)
    card, n = model.card, pool_size(found, tier)
    ref = reference(found.place, device=device, told=progress.update)
    wanted = {(plan.sampler, plan.steps, settings_text(plan.options)): plan for plan in chosen}
    place = runs.measured(folder, tier.name)
    asked = _Asked(place / PLANS, _digest("plans", _protocol(found, tier, run.recipe), _weights_of(folder)), _plan_of)
    # As they stand, made by this code or an earlier one: the report shows them, and a plan must not count twice.
    tiers = [row for row in _rows_of(place) if row.tier == tier.name and _plan_of(row) in wanted]
    own = {name: plan for name, plan in wanted.items() if name not in {_plan_of(row) for row in tiers}}
    todo = {name: plan for name, plan in own.items() if force or name not in asked.known}
    work = Work(progress, [n * _expected_calls(card, plan) for plan in todo.values()])
    base, rows = _measured(run, tier), list[Row]()
    for plan in todo.values():
        drawn = _planned(base, plan, card)
        with work.part(str(plan), n) as tell, _section(rows, drawn, "fd" if ref.spaces else "w2"):
            pool = draw(model, plan, n, info.seed, pool_labels(model, found.train, n, info.seed), device, tell)
            scored = work.scored(str(plan))
            rows += _of_pool(dataclasses.replace(drawn, calls=pool.calls), pool, n, ref, model, device, scored)
    return [*asked.with_new(rows, own), *tiers]


class _Asked:
    """What a user asked of a run beside what its tier measures, kept in a folder of its own, each question under its key.

    name: of a row, what the user asked for by it. An answer stays until that same question is answered anew.
    """

    def __init__(self, folder: Path, key: str, name: Callable[[Row], tuple[object, ...]]) -> None:
        self.folder, self.key, self.name = folder, key, name
        manifest(folder)  # that it is damaged is said before the work
        self._read()

    def _read(self) -> None:
        self.rows = _rows_of(self.folder)
        kept = (results_key(self.folder) if self.rows else None) or "{}"
        names = {json.dumps(self.name(row)) for row in self.rows}
        # Older versions had one key for all.
        self.keys = _keys_of(kept) if kept.startswith("{") else dict.fromkeys(names, kept)

    @property
    def known(self) -> set[tuple[object, ...]]:
        """What is answered as it would be now."""
        return {name for row in self.rows if self.keys.get(json.dumps(name := self.name(row))) == self.key}

    def with_new(self, rows: list[Row], wanted: Collection[tuple[object, ...]]) -> list[Row]:
        """Keeps the new rows in place of the old of the same name, failures apart; returns those that were wanted."""
        if not rows:
            return self._with_new(rows, wanted)
        with locked(self.folder):
            self._read()  # what others have answered meanwhile stays
            return self._with_new(rows, wanted)

    def _with_new(self, rows: list[Row], wanted: Collection[tuple[object, ...]]) -> list[Row]:
        failed = {self.name(row) for row in rows if row.status == "failed"}
        new = {self.name(row) for row in rows}
        whole = [row for row in rows if self.name(row) not in failed]
        kept = [row for row in self.rows if self.name(row) not in new - failed] + whole
        if whole:
            self.keys |= {json.dumps(name): self.key for name in new - failed}
            save_rows(self.folder, kept, json.dumps(self.keys, sort_keys=True))
        return [row for row in [r for r in self.rows if self.name(r) not in new] + rows if self.name(row) in wanted]


def _keys_of(text: str) -> dict[str, str]:
    """The key of each question; none where that is damaged, and all are answered anew."""
    with suppress(ValueError):
        if fits(Mapping[str, str])(keys := parse(text.encode())):
            return keys
    return {}


def _kind_of(row: Row) -> tuple[object, ...]:
    return row.kind, row.options


def _space_of(row: Row) -> tuple[object, ...]:
    return row.features, row.n


def _plan_of(row: Row) -> tuple[object, ...]:
    return row.sampler, row.steps, row.options


def _measured(run: Opened, tier: Tier, weights: str = "ema") -> Row:
    """The columns that all rows of a run's evaluation share."""
    here = runs.environment(run.device, torch.get_num_threads(), run.recipe)
    used = None
    if isinstance(run.model, Paradigm):
        used = measure.params_sampling(run.model, run.model.card.default, run.device)
    return dataclasses.replace(
        runs.base_row(run.info),
        tier=tier.name,
        weights=weights,
        params_sampling=used,
        device=here["device_name"],
        threads=here["threads"],
        torch=here["torch"],
        code=measure.code_of(run.info.code, here["code"]),
    )


def _examples(found: Dataset, tier: Tier) -> dict[str, Data]:
    """The examples of each split that likelihoods are taken of."""
    return {
        split: subset(part, tier.likelihood_n, found.key, f"likelihood {split}")
        for split, part in (("test", found.test), ("train", found.train))
    }


def _costs(kinds: Sequence[Kind], found: Dataset, tier: Tier) -> list[float]:
    """What `_of_splits` will report, in network calls, for each of its parts."""
    return [len(part) * max(1, kind.calls) for kind in kinds for part in _examples(found, tier).values()]


def _of_splits(
    base: Row, model: Paradigm, kind: Kind, found: Dataset, tier: Tier, device: str, work: Work
) -> list[Row]:
    """The rows of one kind of likelihood on both splits; a failure is a row."""
    rows: list[Row] = []
    metric = "bits_per_dim" if model.space.levels else "nll"
    for split, part in _examples(found, tier).items():
        relation = kind.relation_on(model.space)
        here = dataclasses.replace(
            base, split=split, kind=kind.name, relation=relation, options=settings_text(kind.options)
        )
        with work.part(f"{kind.name} {split}", len(part)) as tell, _section(rows, here, metric):
            rows += likelihood(base, model, kind, part, split, found, device, tell)
    return rows


def is_evaluated(folder: Path, tier: Tier, data: Name | None = None) -> bool:
    """Whether `evaluate` would find the rows of a trained run ready, under this tier and these sources."""
    info = runs.read_info(folder)
    recipe, found = catalogue.get(info.recipe), runs.data_of(folder, info, data)
    return _kept(runs.measured(folder, tier.name), _key(folder, info, tier, found, recipe)) is not None


def _no_likelihood(base: Row, card: Card, space: Space, tier: Tier) -> Row:
    reason = card.no_likelihood
    if card.likelihoods:
        cheapest = min(card.likelihoods_on(space), key=lambda kind: kind.calls)
        reason = (
            f"{cheapest.name} takes {cheapest.calls} network calls an example; "
            f"the tier '{tier.name}' allows {tier.likelihood_calls}"
        )
    metric = "bits_per_dim" if space.levels else "nll"
    unit = "bits/dim" if space.levels else "nats"
    return dataclasses.replace(base, split="test", metric=metric, value=math.nan, reason=reason, unit=unit)


class Work:
    """Progress over parts of unequal cost: one count for the whole evaluation, and the images of each part."""

    def __init__(self, progress: Progress, costs: Sequence[float]) -> None:
        self.progress = progress
        self.costs = list(costs)
        self._index = 0

    def add(self, costs: Sequence[float]) -> None:
        self.costs += costs

    @contextmanager
    def part(self, name: str, n: int) -> Iterator[Callable[[int], None]]:
        before, mine, total = sum(self.costs[: self._index]), self.costs[self._index], sum(self.costs)

        def tell(done: int) -> None:
            self.progress.update(f"evaluate {name}", round(before + mine * done / n), round(total), images=done)

        tell(0)
        yield tell
        self._index += 1

    def scored(self, name: str) -> Told:
        """Who is told of the scoring of what the part at hand made: a sign of life, for the count stays what it is."""
        done, total = round(sum(self.costs[: self._index + 1])), round(sum(self.costs))

        def told(what: str, part: int, of: int) -> None:
            self.progress.update(f"evaluate {name}", done, total, **{what: f"{100 * part // max(1, of)} %"})

        return told


def _expected_calls(card: Card, plan: Plan) -> float:
    sampler = card.sampler(plan.sampler)
    calls = sampler.calls_at(plan.steps) if sampler else None
    return 100.0 if calls is None else max(1, calls)


def code(recipe: Recipe | None = None) -> str:
    """Short sha256 over the sources that make evaluation's numbers, a plugin's own among them."""
    return measure.sources(("arithmetic", "evaluate", "features", "flops", "inception", "measure", "metrics"), recipe)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _protocol(found: Dataset, tier: Tier, recipe: Recipe | None = None) -> tuple[object, ...]:
    """What the numbers of a data set depend on besides the model."""
    spaces = [space.id for space in spaces_for(found.name, found.space)]
    spaces += [shipped(found.stacked).id] if found.stacked else []
    n = pool_size(found, tier)
    return SCHEMA, tier.name, n, tier.likelihood_n, spaces, found.checksum, torch.__version__, code(recipe)


def _sweep(info: runs.Info, tier: Tier) -> str:
    """Which samplers are swept over: the tier's on its first seeds, none on the others."""
    return tier.sweep if info.seed < tier.sweep_seeds else ""


def _key(folder: Path, info: runs.Info, tier: Tier, found: Dataset, recipe: Recipe) -> str:
    """All that a run's rows depend on."""
    variants = others(folder, info, tier)
    drawn = _sweep(info, tier), tier.max_calls, tier.draws, variants, tier.likelihood_calls
    return _digest("evaluate", _protocol(found, tier, recipe), drawn, _weights_of(folder))


def _weights_of(folder: Path) -> list[tuple[str, str]]:
    return sorted((name, f["sha256"]) for name, f in manifest(folder).items() if name.endswith(".safetensors"))


def _baselines_key(found: Dataset, tier: Tier) -> str:
    return _digest("baselines", _protocol(found, tier))


def has_baselines(name: Name, tier: Tier, folder: Path) -> bool:
    """Whether `baselines` would find its rows ready."""
    return _kept(folder, _baselines_key(dataset(name), tier)) is not None


def _rows_of(folder: Path) -> list[Row]:
    try:
        return load_rows(folder)
    except BadInput:  # not evaluated yet, or damaged and to be made anew
        return []


def _are_whole(folder: Path, names: Collection[str]) -> bool:
    """Whether these files of a folder are there as its manifest lists them."""
    try:
        verify(folder, names)
    except BadInput:
        return False
    return True


def _kept(folder: Path, key: str) -> list[Row] | None:
    """The rows saved under this key; None where there are none, a part of them failed, or a file of them is not whole."""
    try:
        if results_key(folder) != key:
            return None
        rows, drawn = load_rows(folder), {GRID, SAMPLES} & manifest(folder).keys()  # of diverged samples there are none
    except BadInput:
        return None  # damaged results are made anew; the model they come from is checked when it is loaded
    return None if any(row.status == "failed" for row in rows) or not _are_whole(folder, drawn) else rows


# --------------------------------------------------------------------------------------------------------- pictures


def in_columns(x: Tensor, found: Dataset) -> Tensor:
    """Vectors (N, D) in units of the training part's columns, as float64; images as they are."""
    if found.space.is_image:
        return x
    o, u = column_units(found.train.x)
    return (x.double() - o) / u


def grid_png(x: Tensor, space: Space, columns: int = 8, size: int = 640) -> bytes:
    """Images (N, C, H, W), integers, as a PNG `columns` wide, enlarged by a whole factor to about `size` pixels.

    Vectors (N, D), in units of the data's columns: their first two coordinates as dots.
    """
    if not space.is_image:
        return _png(Image.fromarray(_scatter(x.double().numpy(), size)))
    n, channels, height, width = x.shape
    rows = -(-n // columns)
    tiles = torch.full((rows * columns, channels, height + 1, width + 1), 255, dtype=torch.uint8)
    tiles[:n, :, :height, :width] = to_bytes(x, space)
    page = tiles.view(rows, columns, channels, height + 1, width + 1).permute(0, 3, 1, 4, 2)
    page = page.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]
    array = page.expand(-1, -1, 3).numpy() if channels == 1 else page.numpy()
    image = Image.fromarray(np.ascontiguousarray(array))
    factor = max(1, size // image.width)
    return _png(image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST))


def to_bytes(x: Tensor, space: Space) -> Tensor:
    """Integers 0 ... L - 1 to grey values 0 ... 255, evenly spread; bytes stay what they are."""
    return (x.double() * 255 / (space.levels - 1)).round().to(torch.uint8)


def _scatter(points: np.ndarray, size: int, reach: float = 2.5) -> np.ndarray:
    """Dots in [-reach, reach]^2, darker where more of them fall; (N, 1) in the middle of it."""
    points = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=size // 2, range=[[-reach, reach]] * 2)
    grey = 1 - np.minimum(1.0, counts[::-1] / max(1.0, np.quantile(counts[counts > 0], 0.9) if counts.any() else 1.0))
    shade = np.stack([grey, 0.35 + 0.65 * grey, 0.6 + 0.4 * grey], axis=-1)
    return np.repeat(np.repeat((255 * shade).astype(np.uint8), 2, axis=0), 2, axis=1)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return out.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def write_samples(pool: Pool, space: Space, to: Path, units: Callable[[Tensor], Tensor] = lambda x: x) -> None:
    """A pool into a grid (.png), an archive (.npz: samples, labels) or, without a suffix, a folder of one PNG each."""
    if to.suffix.lower() == ".png":
        write_atomic(to, grid_png(units(pool.x), space, columns=max(1, math.isqrt(len(pool.x) - 1) + 1)))
    elif to.suffix.lower() == ".npz":
        write_atomic(to, npz(**_arrays(pool, len(pool.x))))
    else:
        digits = max(5, len(str(len(pool.x) - 1)))
        for index, image in enumerate(to_bytes(pool.x, space)):
            array = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy()
            write_atomic(to / f"{index:0{digits}d}.png", _png(Image.fromarray(array)))


def _arrays(pool: Pool, n: int) -> dict[str, np.ndarray]:
    return {"samples": pool.x[:n].numpy()} | ({} if pool.y is None else {"labels": pool.y[:n].numpy()})


def _keep_samples(folder: Path, pool: Pool, found: Dataset) -> None:
    """The first samples of the headline pool, not chosen, as a picture and as numbers for the report."""
    kept = 64 if found.space.is_image else KEPT_VECTORS
    grid, numbers = grid_png(in_columns(pool.x[:kept], found), found.space), npz(**_arrays(pool, kept))
    write_manifest(folder, {GRID: put(folder / GRID, grid), SAMPLES: put(folder / SAMPLES, numbers)})


# -------------------------------------------------------------------------------------------------------- baselines


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean (D,), factor factor^T), float64."""

    mean: Tensor
    factor: Tensor

    def sample(self, n: int, noise: Noise) -> Tensor:
        return self.mean + noise.normal(n, len(self.mean)).double() @ self.factor.T

    def log_prob(self, x: Tensor) -> Tensor:
        """x (N, D) float64 -> (N,) nats; needs a lower triangular factor of full rank."""
        white = torch.linalg.solve_triangular(self.factor, (x - self.mean).T, upper=False).T
        log_volume = self.factor.diagonal().log().sum()
        return -0.5 * white.square().sum(1) - log_volume - 0.5 * len(self.mean) * math.log(2 * math.pi)


def fit_pixels(x: Tensor) -> Gaussian:
    """The Gaussian with the mean and covariance of x (N, D), float64: the one samples are drawn from."""
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    return Gaussian(x.mean(0), vectors * values.clamp_min(0).sqrt())


def fit_density(x: Tensor, levels: int) -> Gaussian:
    """A Gaussian with a density everywhere, fitted to x (N, D): Ledoit and Wolf's shrinkage, which needs no tuning, and
    the variance that dequantisation adds (pixels that never change have none of their own).

    Without levels it shrinks in units of the columns, which the data's scale does not change. Raises BadInput where such
    data have no density: a column that never changes, or one that the others determine.
    """
    from sklearn.covariance import ledoit_wolf

    if levels:
        covariance = torch.from_numpy(ledoit_wolf(x.numpy())[0])
        covariance += torch.eye(x.shape[1], dtype=x.dtype) * (2 / levels) ** 2 / 12
        return Gaussian(x.mean(0), torch.linalg.cholesky(covariance))
    still = (x.amin(0) == x.amax(0)).nonzero().flatten().tolist()
    if still:
        which = f"column {still[0]} (from 0) never changes" + (f", nor do {len(still) - 1} more" if still[1:] else "")
        raise BadInput(f"{which}, so a Gaussian fitted to the data has no density; leave such columns out")
    o, u = column_units(x)
    z = (x - o) / u
    if torch.linalg.eigvalsh(z.T @ z / len(z))[0] < FLAT:
        raise BadInput("a column is a sum of others, so a Gaussian fitted to the data has no density; leave it out")
    return Gaussian(o, u[:, None] * torch.linalg.cholesky(torch.from_numpy(ledoit_wolf(z.numpy())[0])))


def baselines(name: Name, tier: Tier, folder: Path, progress: Progress, force: bool = False) -> list[Row]:
    """Scores what needs no model, once for each data set and protocol, into `folder`/results.jsonl; returns the rows.

    grid.png and samples.npz there show real test images, to be set beside the models' grids.

    real-train: real data as if it were samples, each split against the other: the floor. train-copies: training images
    as samples, what a model that memorises scores: its distances are the floor's or better, only the nearest
    neighbours tell. gaussian: a Gaussian fitted
    to the training pixels. uniform: noise, each level equally likely. pixel-histograms: independent pixels (likelihood
    only).
    """
    found = dataset(name)
    key = _baselines_key(found, tier)
    if not force and (kept := _kept(folder, key)) is not None:
        return kept
    manifest(folder)  # that it is damaged is said before the work
    ref, n = reference(name, told=progress.update), pool_size(found, tier)
    base = dataclasses.replace(_environment(found), status="baseline", tier=tier.name)
    rows: list[Row] = []
    space, total = found.space, 5
    step, at = 0, ""

    def tell(stage: str) -> None:
        nonlocal step, at
        at = f"baseline {stage}"
        progress.update(at, step, total)
        step += 1

    def told(what: str, done: int, of: int) -> None:
        progress.update(at, step - 1, total, **{what: f"{100 * done // max(1, of)} %"})

    tell("real-train")
    real = dataclasses.replace(base, recipe="real-train")
    # Each split as if it were samples, against the other.
    seen, unseen = subset(found.train, n, found.key, "floor"), subset(found.test, n, found.key, "floor")
    rows += quality(real, seen.x, seen.y, ref, ("test",), copies=False, told=told)
    rows += quality(real, unseen.x, unseen.y, ref, ("train",), copies=False, told=told)
    if ref.spaces:
        # Half of the held-out examples, which are no copies, with the other half as the held-out ones.
        some, others = (_every_second(ref, first, n) for first in (0, 1))
        rows += memorisation(real, some.real["test"], some.features["test"], others, told)
    tell("train-copies")
    copied = subset(found.train, n, found.key, "copies")
    rows += quality(dataclasses.replace(base, recipe="train-copies"), copied.x, copied.y, ref, told=told)
    flat = space.encode(found.train.x).flatten(1).double()
    tell("gaussian")
    gaussian = fit_pixels(flat).sample(n, Noise("gaussian", found.key)).float()
    fitted = space.decode(gaussian.view(n, *space.shape))
    rows += quality(dataclasses.replace(base, recipe="gaussian"), fitted, None, ref, told=told)
    tell("uniform")
    if space.levels:
        noise = Noise("uniform", found.key).integers(space.levels, n, *space.shape).to(torch.uint8)
        rows += quality(dataclasses.replace(base, recipe="uniform"), noise, None, ref, told=told)
    tell("likelihood")
    rows += _likelihood_baselines(base, found, tier, told)
    shown = subset(found.test, 64 if space.is_image else KEPT_VECTORS, found.key, "grid")
    with locked(folder):
        _keep_samples(folder, Pool(Plan("real"), shown.x, shown.y, None), found)
        save_rows(folder, rows, key)
    progress.update("baselines", total, total)
    return rows


def _every_second(ref: Reference, first: int, n: int) -> Reference:
    """With every second held-out example alone, the first n of them."""

    def part(x: Tensor) -> Tensor:
        return x[first::2][:n]

    features = tuple(
        Features(part(f.values), None if f.logits is None else part(f.logits), f.space) for f in ref.features["test"]
    )
    return dataclasses.replace(
        ref, real={**ref.real, "test": part(ref.real["test"])}, features={**ref.features, "test": features}
    )


def _environment(found: Dataset) -> Row:
    """The columns that say on what and where a number was made, for rows that belong to no run."""
    here = runs.environment(torch.device("cpu"), torch.get_num_threads())
    return Row(
        dataset=found.name,
        data=found.checksum[:12],
        device=here["device_name"],
        threads=here["threads"],
        dtype=here["dtype"],
        torch=here["torch"],
        code=here["code"],
    )


def _likelihood_baselines(base: Row, found: Dataset, tier: Tier, told: Told = _nobody) -> list[Row]:
    """Log mass (nats) of each test and training example under models that need no training, as rows."""
    space, rows = found.space, list[Row]()
    train = space.encode(found.train.x).flatten(1).double()
    bits = bool(space.levels)
    base = dataclasses.replace(
        base, metric="bits_per_dim" if bits else "nll", unit="bits/dim" if bits else "nats", split="test"
    )
    scale = _unit_of(space)
    kind, relation = ("exact, dequantised", "≤") if bits else ("exact", "=")
    gaussian: Gaussian | None = None
    with _section(rows, dataclasses.replace(base, recipe="gaussian", kind=kind, relation=relation), base.metric):
        gaussian = fit_density(train, space.levels)
    told("fit", 1, 1)
    histograms = _log_histograms(found.train.x, space.levels, _tell(told, "histograms")) if space.levels else None
    for split, whole in (("test", found.test), ("train", found.train)):
        part = subset(whole, tier.likelihood_n, found.key, f"likelihood {split}")
        told(split, 0, 1)
        x = space.encode(part.x).flatten(1).double()
        values: list[tuple[str, str, str, Tensor]] = []
        if histograms is not None:
            uniform = torch.full((len(x),), -space.dim * math.log(space.levels), dtype=torch.float64)
            pixels = histograms.gather(0, part.x.flatten(1).long()).sum(1)
            values = [("uniform", "exact", "=", uniform), ("pixel-histograms", "exact", "=", pixels)]
        if gaussian is not None:
            offset = 0.0
            if bits:
                u = Noise("likelihood", found.key, split).uniform(*x.shape).double()
                x, offset = x + (u - 0.5) * (2 / space.levels), space.dim * math.log(2 / space.levels)
            values.append(("gaussian", kind, relation, gaussian.log_prob(x) + offset))
        for recipe, how, relates, value in values:
            error = _standard_error(value)
            rows.append(
                dataclasses.replace(
                    base,
                    recipe=recipe,
                    split=split,
                    value=scale(float(value.mean())),
                    error=None if error is None else abs(scale(error)),
                    n=len(value),
                    kind=how,
                    relation=relates,
                    reason=on_few(value, base.unit, scale, partial(_places, part, split, found)),
                )
            )
            if not bits and split == "test" and found.density is not None and found.density.entropy is not None:
                rows.append(_divergence(rows[-1], value, part, found))
    if found.density is not None and found.density.entropy is not None:
        truth = dataclasses.replace(base, recipe="real-train", metric="entropy", split="", unit="nats", relation="=")
        rows.append(dataclasses.replace(truth, value=found.density.entropy))
    return rows


def _log_histograms(x: Tensor, levels: int, tell: metrics.Tell | None = None) -> Tensor:
    """log (count + 1) / (N + L) for each level and pixel, (L, D), of integers x: independent pixels, Laplace-smoothed."""
    flat, counts = x.flatten(1), list[Tensor]()
    for level in range(levels):
        counts.append((flat == level).sum(0))
        if tell is not None:
            tell(level + 1, levels)
    return torch.log((torch.stack(counts).double() + 1) / (len(flat) + levels))


# -------------------------------------------------------------------------------------------------- anyone's samples


class Samples(NamedTuple):
    """Anyone's samples: x (N, *shape) as the data is stored, labels (N,) where there are any, what was done to size.

    reading: in words, what their numbers were taken for and what was cut, clipped or left out.
    """

    x: Tensor
    y: Tensor | None = None
    resized: str = ""
    reading: str = ""


# Names that say nothing of the model: the folder's name goes before them.
COMMON = frozenset(
    {"samples", "sample", "images", "image", "imgs", "x", "arr", "data", "fake", "generated", "gen", "out", "output"}
)


def score(
    what: Path | Samples,
    name: Name,
    progress: Progress,
    *,
    resize: Resize | None = None,
    specs: Sequence[str] = (),
    tier: Tier | None = None,
    to: Path | None = None,
    called: str = "",
    span: Range | None = None,
    crop: bool = False,
) -> list[Row]:
    """The same metrics for anyone's samples: an .npz, .npy or .safetensors file, a folder of images, or what
    `samples_of` gave. Raises BadInput.

    Their rows have the status "external"; those of the floor ("real-train") follow: as many real images, scored alike.
    The numbers depend on what the files hold and on no name.

    resize: how samples of another size are brought to the data's; without it they are refused.
    span, crop: as in `read_samples`.
    called: the name of their rows; else the file's, after its folder's where that one is as common as "samples".
    specs:  feature spaces besides the data set's own (see `bench.features.named`).
    tier:   whose report the rows shall stand in: as many samples are scored as it draws, a fixed choice of them.
    to:     a folder for the rows, a picture and the first samples; inside a folder of runs, `bench report` shows them. It
            keeps what the same samples scored on other data, by other tiers and in other spaces.
    """
    found, path = dataset(name), SAMPLE if isinstance(what, Samples) else Path(what)
    if isinstance(what, Samples):
        given = what
    else:
        given = read_samples(path, found.space, resize, span=span, crop=crop, found=found, told=progress.update)
    most = len(given.x) if tier is None else pool_size(found, tier)
    if not found.space.is_image:
        most = min(most, len(found.test), REFERENCE)  # of vectors no more are compared
    if len(given.x) > most or (path is not SAMPLE and path.is_dir()):
        given = _by_content(given, most, _tell(progress.update, "order the samples"))
    n, digest = len(given.x), _content(given)
    name_of = _readable(called) or (str(path) if path is SAMPLE else _name_of(path, digest, to))
    base = dataclasses.replace(
        _environment(found),
        status="external",
        run=f"external-{digest[:10]}",
        recipe=name_of,
        tier=tier.name if tier else "",
        headline=True,
        samples=digest[:12],
        resize=given.resized,
        reading=given.reading,
    )
    _join(to, base, [])
    own = reference(name, told=progress.update)
    asked = reference(name, tuple(specs), told=progress.update) if specs else None
    scoring = Scoring(progress)
    of_own = scoring.add("", _costs_of_quality(n, own))
    of_asked = scoring.add("", {} if asked is None else _costs_of_quality(n, asked, copies=False))
    of_floor = scoring.add(
        "the floor: ",
        {
            what: cost
            for ref in (own, asked)
            if ref
            for what, cost in _costs_of_quality(n, ref, ("test",), False).items()
        },
    )
    rows = quality(base, given.x, given.y, own, told=of_own)
    if asked is not None:
        rows += quality(base, given.x, given.y, asked, copies=False, told=of_asked)
    if not any(row.value is not None and math.isfinite(row.value) for row in rows):
        reason = next((row.reason for row in rows if row.reason), "give more samples")
        raise BadInput(f"{path}: nothing can be measured with {n} sample{'s' * (n != 1)}: {reason}")
    if to is not None:
        with locked(to):
            kept = _join(to, base, rows)
            if not kept or not _are_whole(to, (GRID, SAMPLES)):
                _keep_samples(to, Pool(Plan("external"), given.x, given.y, None), found)
            save_rows(to, [*kept, *rows], digest)
    return rows + floor(name, n, specs=specs, told=of_floor)


def _join(to: Path | None, base: Row, rows: Sequence[Row]) -> list[Row]:
    """The rows in `to` that stay beside new ones: what the samples scored on other data, by another tier, in another space.

    Raises BadInput where they are those of others.
    """
    kept = _rows_of(to) if to is not None else []
    if other := next((row.recipe for row in kept if row.recipe != base.recipe), None):
        raise BadInput(f"{to} holds the rows of {other}; name a new folder for those of {base.recipe}")
    spaces = {row.features for row in rows}
    return [
        row
        for row in kept
        if (row.dataset, row.tier) != (base.dataset, base.tier)
        or (row.samples == base.samples and row.features not in spaces)
    ]


class Scoring:
    """One count over the parts of several scorings, whose costs are known."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.total = progress, 0.0

    def add(self, before: str, costs: Mapping[str, float]) -> Told:
        """Who is told of a scoring with such parts, called `before` and their names. All are added before work begins."""
        start = self.total
        ends = dict(zip(costs, itertools.accumulate(costs.values())))
        self.total += sum(costs.values())

        def told(what: str, done: int, of: int) -> None:
            at = start + ends.get(what, 0) - costs.get(what, 0) * (1 - done / max(1, of))
            self.progress.update(f"{before}{what}", round(1000 * at / self.total), 1000)

        return told


def _by_content(given: Samples, most: int, tell: metrics.Tell = lambda done, of: None) -> Samples:
    """At most so many samples, in an order that depends on what each holds: not on names, nor on the order they came in.

    The order is that of a hash, so that they are a random choice.
    """
    keys = list[bytes]()
    for index, row in enumerate(given.x):
        if index % 4096 == 0:
            tell(index, len(given.x))
        label = b"" if given.y is None else str(int(given.y[index])).encode()
        keys.append(hashlib.blake2b(row.contiguous().numpy().tobytes() + label, digest_size=16).digest())
    chosen = torch.tensor(sorted(range(len(keys)), key=keys.__getitem__)[:most])
    return given._replace(x=given.x[chosen], y=None if given.y is None else given.y[chosen])


def _name_of(path: Path, digest: str, to: Path | None) -> str:
    """What samples are called: by their file or folder, and by the folder around it where that says too little.

    It does so where the name is a common one, or where other samples of that name are kept beside `to`.
    """
    path = Path(os.path.abspath(path))
    own = path.name if path.is_dir() else path.stem
    beside = [folder.parent for folder in to.parent.glob(f"*/{RESULTS}") if folder.parent != to] if to else []
    rows = [row for folder in beside for row in _rows_of(folder)[:1]]
    taken = any(
        row.status == "external" and row.recipe == _readable(own) and row.samples != digest[:12] for row in rows
    )
    if path.parent.name and (taken or own.lower() in COMMON):
        own = f"{path.parent.name}/{own}"
    return _readable(own)


def _readable(name: str) -> str:
    """A name on one line, that can be written."""
    return " ".join(readable(name).split())


def _content(given: Samples) -> str:
    """sha256 over type, shape and bytes of samples as they are scored, and of their labels."""
    digest = hashlib.sha256()
    for tensor in (given.x, given.y):
        if tensor is not None:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.contiguous().reshape(-1).numpy().data)
    return digest.hexdigest()


def floor(
    name: Name,
    n: int,
    tier: Tier | None = None,
    folder: Path | None = None,
    specs: Sequence[str] = (),
    told: Told = _nobody,
) -> list[Row]:
    """What n real training examples score as if they were samples: rows of the recipe "real-train", split "test".

    folder: where `baselines` of the tier may have kept them; else they are made. specs: further feature spaces.
    """
    if tier is not None and folder is not None and has_baselines(name, tier, folder):
        return [row for row in load_rows(folder) if row.recipe == "real-train" and row.split == "test"]
    found = dataset(name)
    base = dataclasses.replace(
        _environment(found), status="baseline", tier=tier.name if tier else "", recipe="real-train"
    )
    real = subset(found.train, n, found.key, "floor")
    refs = [reference(name, told=told), *([reference(name, tuple(specs), told=told)] if specs else [])]
    return [row for ref in refs for row in quality(base, real.x, real.y, ref, ("test",), copies=False, told=told)]


def read_samples(
    path: Path,
    space: Space,
    resize: Resize | None = None,
    *,
    span: Range | None = None,
    crop: bool = False,
    found: Dataset | None = None,
    told: Told = _nobody,
) -> Samples:
    """Samples as the data is stored: integers 0 ... L - 1 (uint8), or float32 vectors. Raises BadInput.

    Arrays: integers are the data's own levels; floats are images in [-1, 1]; channels first or last. Where the bulk of
    them lies elsewhere they are refused. A file's array "labels" or "y", or a further one that can be nothing else, are
    the samples' labels. A folder is read as a folder of data is, sub-folders with it, and these are labels where they
    are called like the data's classes, or by their numbers; images hold 0 ... 255, spread evenly over the levels, as
    `bench sample --to folder/` writes them. Samples of another size are resized as `resize` says (antialiased where it
    interpolates, then rounded to the levels), or refused.

    span:  the range of the numbers, where it is not the one above; see `bench.reading`.
    crop:  the largest centred square is cut out first and resized, by Pillow's bicubic filter unless `resize` says
           otherwise: what is done to a folder of data.
    found: the data set of the space, whose own pixels and names of classes are compared.
    """
    _refuse_for_vectors(space, span, crop)
    if path.is_dir():
        return _read_folder(path, space, resize, span, crop, found, told)
    if not path.exists():
        raise BadInput(f"{path} does not exist; give an .npz, .npy or .safetensors file, a folder of images or a run")
    if path.suffix.lower() in SUFFIXES:
        raise BadInput(f"{path} is one picture; give a folder of them, or an .npz, .npy or .safetensors file")
    if not path.is_file():  # a pipe would be waited for, and can not be read twice
        raise BadInput(f"{path} is no regular file; give an .npz, .npy or .safetensors file, or a folder of images")
    try:
        with _heads(path) as heads:
            x, labels, unused = _taken(*_only_array(heads, path), path, space, resize, crop)
    except BadInput:
        raise
    except MemoryError:
        raise BadInput(f"{path} holds more than there is memory for; give fewer samples, as 8-bit integers") from None
    except OSError as error:
        if error.strerror:
            raise BadInput(f"can not read {path}: {error.strerror}") from None
        raise _not_an_archive(path) from None
    except Exception:  # numpy raises whatever it meets first, with advice that is not for us
        raise _not_an_archive(path) from None
    x, resized, taken = _as_stored(x, path, space, resize, span, crop, found)
    return Samples(x, labels, resized, "; ".join(part for part in (*taken, *unused) if part))


def samples_of(
    x: Any,
    y: Any,
    space: Space,
    resize: Resize | None = None,
    *,
    span: Range | None = None,
    crop: bool = False,
    found: Dataset | None = None,
) -> Samples:
    """The same of an array of samples, and of their labels (N,) if there are any: whatever numpy takes, or tensors."""
    _refuse_for_vectors(space, span, crop)
    arrays = [None if part is None else _held(part) for part in (x, y)]
    samples, labels = (
        None if part is None else _Array(part.dtype, part.shape, partial(np.asarray, part)) for part in arrays
    )
    assert samples is not None
    if labels is not None and not space.classes:
        raise BadInput("the data set has no classes; leave out the labels")
    others = {} if labels is None else {LABELS[0]: labels}
    tensor, classes, unused = _taken(samples, others, SAMPLE, space, resize, crop)
    tensor, resized, taken = _as_stored(tensor, SAMPLE, space, resize, span, crop, found)
    return Samples(tensor, classes, resized, "; ".join(part for part in (*taken, *unused) if part))


SAMPLE = Path("samples")  # what an array of samples is called


def _held(x: Any) -> np.ndarray:
    """What someone gave for an array, as numpy has it. Raises BadInput."""
    try:
        return _numbers(x.detach().cpu()) if isinstance(x, Tensor) else np.asarray(x)
    except (ValueError, TypeError) as error:
        raise BadInput(f"{SAMPLE} are no array of numbers ({' '.join(str(error).split())[:100]})") from None


def _refuse_for_vectors(space: Space, span: Range | None, crop: bool) -> None:
    if not space.is_image and (span or crop):
        raise BadInput(f"--{'range' if span else 'crop'} is for images, and the data set holds vectors; leave it out")


def _taken(
    array: _Array, others: Mapping[str, _Array], path: Path, space: Space, resize: Resize | None, crop: bool
) -> tuple[Tensor, Tensor | None, list[str]]:
    """The numbers of samples, their labels among other arrays, and what is said of those. Raises BadInput."""
    if array.dtype.kind not in "uif":
        held = f"{array.dtype}" if array.dtype.kind != "O" else "Python objects"
        bits = "; write them as uint8 and say --range 0..1" if array.dtype.kind == "b" else ""
        raise BadInput(f"{path} must hold an array of integers or floats, not of {held}{bits}")
    _refuse_size(array, path)
    _arranged(torch.empty(array.shape, device="meta"), path, space, resize, crop)
    labels, unused = _labels_in(others, array.shape[0], space, path)
    return _tensor(_unpacked(array, path)), labels, unused


LARGEST = 4 << 30  # bytes of an array: it is held in memory, and a small file can unpack to any size
MEMBERS = 1000  # arrays of an archive


class _Array(NamedTuple):
    """An array of a file as its head tells it, and how to read it: nothing is unpacked before it was judged."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def ndim(self) -> int:
        return len(self.shape)


@contextmanager
def _heads(path: Path) -> Iterator[dict[str, _Array]]:
    """The arrays of a file by name ("" in an .npy), to be read while it is open.

    What is no array of numbers stands as one of Python objects, which are never loaded: it may be no more than a note.
    """
    if path.suffix.lower() == ".safetensors":
        with safetensors.safe_open(path, "pt") as tensors:
            yield {name: _head_of_tensor(tensors, name) for name in tensors.keys()}  # noqa: SIM118 (it is no dict)
        return
    with open(path, "rb") as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            yield {"": _head_of_npy(lambda: path.open("rb"), path)}
            return
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if not {info.compress_type for info in members} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise _not_an_archive(path)  # what numpy does not write
            if len(members) > MEMBERS:
                raise BadInput(f"{path} holds {len(members):,} arrays, and at most {MEMBERS:,} are looked at")
            names = [info.filename.removesuffix(".npy") for info in members]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise BadInput(
                    f"{path} holds several arrays called {shortened(twice, 80)}; write each under its own name"
                )
            yield {
                name: _head_of_npy(partial(archive.open, info.filename), path)
                for name, info in zip(names, members, strict=True)
            }


def _head_of_npy(opened: Callable[[], IO[bytes]], path: Path) -> _Array:
    try:
        with opened() as file:
            version = np.lib.format.read_magic(file)
            head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = head(file)
    except (ValueError, MemoryError):  # also of a head that is nested too deeply to be parsed
        dtype = np.dtype(object)
    if dtype.hasobject:
        return _Array(np.dtype(object), (), lambda: np.array(None, dtype=object))

    def read() -> np.ndarray:
        with opened() as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            if file.read(1):  # numpy.save into a file that is open already appends
                raise BadInput(
                    f"{path} holds more behind an array; write all samples as one array, with numpy.save(path, x)"
                )
            return array

    return _Array(dtype, shape, read)


def _head_of_tensor(file: Any, name: str) -> _Array:
    head = file.get_slice(name)
    kind = head.get_dtype()
    # numpy knows no floats of fewer than 16 bits and not all of 16: `_numbers` makes them wider
    dtype = TYPES.get(kind, np.dtype(np.float32 if kind.startswith(("F", "BF")) else object))
    return _Array(
        dtype, tuple(head.get_shape()), lambda: _numbers(file.get_tensor(name).clone())
    )  # no view of the file


TYPES = {
    f"{kind.upper()}{8 * size}": np.dtype(f"{kind}{size}") for kind in "iuf" for size in (1, 2, 4, 8)[kind == "f" :]
}
TYPES["BOOL"] = np.dtype(bool)


def _unpacked(array: _Array, path: Path) -> np.ndarray:
    """An array read, where it is not too large."""
    _refuse_size(array, path)
    return array.read()


def _refuse_size(array: _Array, path: Path) -> None:
    size = math.prod(array.shape) * array.dtype.itemsize
    if size > LARGEST:
        raise BadInput(
            f"{path} holds an array of shape {array.shape}, which unpacks to {size / 2**30:,.1f} GiB, and at most "
            f"{LARGEST / 2**30:g} GiB are read; give fewer samples, as 8-bit integers"
        )


LABELS = ("labels", "y")


def _labels_in(others: Mapping[str, _Array], n: int, space: Space, path: Path) -> tuple[Tensor | None, list[str]]:
    """Labels (n,) among the arrays of a file that are not its samples, and what is said of those arrays.

    They are called so, or are the only n integers that can be labels. A data set without classes has no use for them.
    """
    name = next((name for name in LABELS if name in others), None)
    if name is None:
        able = [key for key, array in others.items() if _may_be_labels(array, n, space, path)]
        name = able[0] if len(able) == 1 else None
    said = [] if name is None or name in LABELS or not space.classes else [f"{name} taken as labels"]
    if unused := [key for key in others if key != name or not space.classes]:
        said.append(
            f"not used: {shortened(', '.join(unused), 200)}"
            + ("" if space.classes else ", as the data set has no classes")
        )
    return None if name is None or not space.classes else _checked_labels(others[name], n, space, path), said


def _may_be_labels(array: _Array, n: int, space: Space, path: Path) -> bool:
    if array.dtype.kind not in "ui" or array.shape != (n,) or not n:
        return False
    values = _unpacked(array, path)
    return 0 <= int(values.min()) <= int(values.max()) < space.classes


def _checked_labels(array: _Array, n: int, space: Space, path: Path) -> Tensor:
    """Labels (n,) of the data set's classes."""
    if array.dtype.kind not in "ui" or array.shape != (n,):
        held = f"{array.dtype} {array.shape}" if array.dtype.kind != "O" else "something that is no array of numbers"
        raise BadInput(f"{path}: labels must be {n:,} integers, one for each sample, not {held}")
    labels = _unpacked(array, path)
    if n and not 0 <= int(labels.min()) <= int(labels.max()) < space.classes:
        raise BadInput(
            f"{path}: labels {int(labels.min())} to {int(labels.max())}, but the data set has 0 to {space.classes - 1}"
        )
    return torch.from_numpy(labels.astype(np.int64))


def _not_an_archive(path: Path) -> BadInput:
    return BadInput(
        f"can not read samples from {path}: it is no whole .npz, .npy or .safetensors file of plain numbers; "
        "write one with numpy.savez(path, samples=x)"
    )


def _numbers(tensor: Tensor) -> np.ndarray:
    """A tensor as numpy has it, which knows no floats of fewer than 16 bits and not all of 16."""
    short = tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64)
    return (tensor.float() if short else tensor).numpy()


def _tensor(array: np.ndarray) -> Tensor:
    """Any width and byte order of numbers in one that torch can work with."""
    if array.dtype.kind == "f":
        kind: type[np.generic] = np.float32 if array.dtype.itemsize <= 4 else np.float64
    elif array.dtype == np.uint64:
        array, kind = array.clip(max=2**62), np.int64
    else:
        kind = np.uint8 if array.dtype == np.uint8 else np.int64
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        return torch.from_numpy(np.require(array, kind, ["C", "W"]))


def _only_array(file: Mapping[str, _Array], path: Path) -> tuple[_Array, dict[str, _Array]]:
    """The array with one of the usual names, else the only one that can be samples: labels are flat; and the others."""
    every = dict(file)
    usual = next((n for n in ("samples", "x", "images") if n in every and every[n].ndim > 1), None)  # else a count
    if usual is not None:
        return every.pop(usual), every
    arrays = {name: array for name, array in every.items() if name not in LABELS}
    able = {name: array for name, array in arrays.items() if array.ndim > 1} or arrays
    if not able:
        raise BadInput(f"{path} holds no array of samples; write one with numpy.savez(path, samples=x)")
    if len(able) > 1:
        raise BadInput(
            f"{path} holds {len(able)} arrays, {shortened(', '.join(able), 200)}: which are the samples? name that one "
            "'samples', as in numpy.savez(path, samples=x)"
        )
    return every.pop(next(iter(able))), every


def _as_stored(
    x: Tensor,
    path: Path,
    space: Space,
    resize: Resize | None,
    span: Range | None,
    crop: bool,
    found: Dataset | None,
) -> tuple[Tensor, str, list[str]]:
    """An array as the data is stored, what was done to its size, and how it was read, in words."""
    x, resize, said = _arranged(x, path, space, resize, crop)
    x, taken = _as_integers(x, path, space, span, None if found is None else found.train.x)
    if tuple(x.shape[1:]) == space.shape:
        return x, "", [taken, *said]
    assert resize is not None
    return *resized(x, path, space, resize), [taken, *said]


def _arranged(
    x: Tensor, path: Path, space: Space, resize: Resize | None, crop: bool
) -> tuple[Tensor, Resize | None, list[str]]:
    """An array with its axes in order and cut, how it is to be resized, and what was done, in words.

    Raises BadInput where its shape does not fit. It looks at no value: x may lie on torch's device "meta".
    """
    whole = tuple(x.shape)
    if space.is_image:
        channels = space.shape[0]
        if channels == 1 and x.ndim == 3:
            x = x[:, None]
        elif x.ndim == 4 and x.shape[3] == channels != x.shape[1]:
            x = x.movedim(-1, 1)
    asked = ", ".join(map(str, space.shape))
    refused = f"{path} holds an array of shape {whole}, but samples of the data set have shape (N, {asked})"
    if x.ndim and not len(x):
        raise BadInput(f"{path} holds no sample: an array of shape {whole}")
    if not x.ndim:
        raise BadInput(refused)
    said: list[str] = []
    if tuple(x.shape[1:]) != space.shape:
        if not space.is_image or x.ndim != 4 or x.shape[1] != space.shape[0] or not math.prod(x.shape):
            raise BadInput(refused)
        if crop and x.shape[2] != x.shape[3]:
            x, resize = _square(x), resize or "bicubic"
            said.append("cut to the largest centred square")
        elif crop:
            resize = resize or "bicubic"
        if resize is None:
            raise BadInput(f"{refused}; resize them yourself, or say how with --resize {'|'.join(get_args(Resize))}")
    return x, resize, said


def _square(x: Tensor) -> Tensor:
    """The largest centred square of images (N, C, H, W), cut where a folder of data cuts it."""
    side = min(x.shape[2:])
    top, left = ((length - side) // 2 for length in x.shape[2:])
    return x[:, :, top : top + side, left : left + side]


def resized(x: Tensor, path: Path, space: Space, how: Resize) -> tuple[Tensor, str]:
    """Integers (N, C, h, w) at the data's size, rounded to its levels, and what was done, in words."""
    (height, width), (h, w) = space.shape[1:], x.shape[2:]
    if h * width != w * height:
        raise BadInput(
            f"{path}: {w}×{h} pixels can not become {width}×{height} without distortion; cut them first, or let --crop "
            "cut out the largest centred square"
        )
    smooth: dict[str, Any] = {"align_corners": False, "antialias": True} if how in ("bicubic", "bilinear") else {}
    parts = [F.interpolate(part.float(), (height, width), mode=how, **smooth) for part in x.split(1000)]
    whole = torch.cat([part.round().clamp(0, space.levels - 1).to(torch.uint8) for part in parts])
    return whole, f"{w}×{h} to {width}×{height}, {how}"


def _as_integers(x: Tensor, path: Path, space: Space, span: Range | None, real: Tensor | None) -> tuple[Tensor, str]:
    """Levels of the data, or vectors as float32, and what the numbers were taken for, in words."""
    if x.is_floating_point():
        x = x.float()
        whole = torch.isfinite(x).flatten(1).all(dim=1)
        if not whole.all():
            bad = (~whole).nonzero().flatten()
            raise BadInput(
                f"{path} holds numbers that are not finite, in {len(bad):,} of {len(x):,} samples, the first of them "
                f"{int(bad[0])} (from 0); repair the model or leave those out, and say so"
            )
        return reading.from_floats(x, path, space, span, real) if space.levels else (x, "")
    return reading.from_integers(x, path, space, span, real) if space.levels else (x.float(), "")


def _read_folder(
    path: Path,
    space: Space,
    resize: Resize | None,
    span: Range | None,
    crop: bool,
    found: Dataset | None,
    told: Told = _nobody,
) -> Samples:
    """The images below a folder, by the rule for folders of data: hidden files apart, of every kind, in sub-folders too."""
    if not space.is_image:
        raise BadInput(f"{path} is a folder, but the data set holds vectors; give an .npz, .npy or .safetensors file")
    try:
        listing = images_below(path)
    except BadInput as error:
        neither = f"{path} holds neither a run.json nor PNG files or other images: {error}"
        raise BadInput(f"{neither}; give a run, or save the samples as PNG or .npz") from None
    files = [path / name for name in listing.names]
    size = (space.shape[2], space.shape[1])
    bytes_of, done, cut, grey = dict[tuple[int, ...], list[tuple[int, Tensor]]](), set[str](), 0, 0
    for index, file in enumerate(files):
        if index % 100 == 0:
            told("read images", index, len(files))
        image = read_image(file)
        if crop and image.size != size:
            cut += image.width != image.height
            image = centred_square(image)
            if resize in (None, "bicubic") and image.size != size:
                done.add(f"{image.width}×{image.height} to {size[0]}×{size[1]}, bicubic")
                image = image.resize(size, Image.Resampling.BICUBIC)
        grey += space.shape[0] == 1 and image.mode != "L"
        array = np.array(image.convert("L" if space.shape[0] == 1 else "RGB"))
        pixels = torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())
        if tuple(pixels.shape) != space.shape and resize is None:
            raise BadInput(
                f"{file} is {array.shape[1]}×{array.shape[0]} pixels, but the data set has {space.shape[1:]}; resize it "
                f"yourself, say how with --resize {'|'.join(get_args(Resize))}, or --crop as a folder of data is"
            )
        bytes_of.setdefault(tuple(pixels.shape), []).append((index, pixels))
    every = torch.cat([pixels.flatten() for some in bytes_of.values() for _, pixels in some])
    levels, taken = reading.from_integers(
        every, path, space, span, None if found is None else found.train.x, what="pictures"
    )
    x, first = torch.empty(len(files), *space.shape, dtype=torch.uint8), 0
    for shape, some in bytes_of.items():
        part = levels[first : first + len(some) * math.prod(shape)].view(len(some), *shape)
        first += part.numel()
        if shape != space.shape:
            assert resize is not None
            part, how = resized(part, files[some[0][0]], space, resize)
            done.add(how)
        x[[index for index, _ in some]] = part
    # Pictures of several sizes are told by the first of them in the order of the words.
    sizes = min(done, default="") + (f", and {len(done) - 1} other sizes" if len(done) > 1 else "")
    labels, said = _folder_labels(listing.names, space, found)
    kinds = Counter(file.suffix.lower().removeprefix(".") for file in files)
    if len(kinds) > 1 and LOSSY & kinds.keys():
        said.append("kinds mixed, some of them lossy: " + ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common()))
    said += [f"{cut:,} cut to the largest centred square"] * bool(cut)
    said += [f"{grey:,} in colour read as grey"] * bool(grey)
    return Samples(x, labels, sizes, "; ".join(part for part in (taken, *said, *listing.notes) if part))


LOSSY = frozenset({"jpg", "jpeg", "jpe", "jfif", "webp"})


def _folder_labels(names: Sequence[str], space: Space, found: Dataset | None) -> tuple[Tensor | None, list[str]]:
    """Labels (N,) by the sub-folders of images' names, and what is said of these.

    The folders are those of the first level, or of the second (below train/ and test/), where all are called like the
    data's classes or by their numbers.
    """
    folders = [name.split("/")[:-1] for name in names]
    if not any(folders):
        return None, []
    if not space.classes:
        return None, ["sub-folders read without labels, as the data set has no classes"]
    classes = (found.labels if found else ()) or tuple(map(str, range(space.classes)))

    @cache
    def label(folder: str) -> int | None:
        return label_of(readable(folder), classes)

    for level in (0, 1):
        each = [label(parts[level]) if len(parts) > level else None for parts in folders]
        labels = [number for number in each if number is not None]
        if len(labels) == len(each):
            return torch.tensor(labels), [f"sub-folders taken as labels, of {len(set(labels))} classes"]
    loose = sum(not parts for parts in folders)
    strange = next((parts[0] for parts in folders if parts and label(parts[0]) is None), "")
    why = f"'{readable(strange)}' is no class of the data" if strange else f"{loose:,} images lie in none"
    return None, [f"sub-folders read without labels, as {why}"]
