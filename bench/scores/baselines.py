"""What needs no model, scored as samples are: real against real, training images, a fitted Gaussian, noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import runs
from bench.data import Dataset
from bench.data.names import Name
from bench.progress import Progress
from bench.scores import kept, pictures, quality
from bench.scores.fitted import Gaussian, fit_density, fit_pixels, log_histograms
from bench.scores.kept import Protocol
from bench.scores.likelihood import Examples, divergence, examples_of
from bench.scores.means import mean_row, unit_of
from bench.scores.pools import Pool, pool_size
from bench.scores.reference import Reference, reference_of, subset
from bench.scores.rows import Rows, row_of_data
from bench.scores.work import OnProgress, percent, silent, tell_of
from bench.store import Row, load_rows, locked, manifest, save_rows
from bench.tiers import Tier
from paradigms.core.noise import Noise
from paradigms.core.plans import Plan

__all__ = ["floor", "floor_rows", "has_baselines", "likelihood_rows", "score_baselines"]


class _Stages:
    """Progress over a known number of stages, each with the shares of its metrics."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total = progress, total
        self._step, self._name = 0, ""

    def begin(self, stage: str) -> None:
        """Begins the next stage."""
        self._name = f"baseline {stage}"
        self.progress.update(self._name, self._step, self.total)
        self._step += 1

    def on_progress(self, what: str, done: int, of: int) -> None:
        """Reports the share of a metric in the current stage: an `OnProgress`."""
        self.progress.update(self._name, self._step - 1, self.total, **{what: percent(done, of)})


def score_baselines(name: Name, tier: Tier, folder: Path, progress: Progress, force: bool = False) -> list[Row]:
    """Scores what needs no model, once for each data set and protocol, into `folder`/results.jsonl; returns the rows.

    grid.png and samples.npz there show real test images, to be compared with the models' grids.

    real-train: real data as if it were samples, each split against the other: the floor. train-copies: training images
    as samples, what a model that memorises scores: its distances are the floor's or better, only the nearest
    neighbours tell. gaussian: a Gaussian fitted to the training pixels. uniform: noise, each level equally likely.
    pixel-histograms: independent pixels (likelihood only).
    """
    found = runs.dataset(name)
    key = _key(found, tier)
    if not force and (rows := kept.rows_under(folder, key)) is not None:
        return rows
    manifest(folder)  # raises BadInput before the work where it is damaged
    ref, n = reference_of(found, on_progress=progress.update), pool_size(found, tier)
    base = dataclasses.replace(row_of_data(found), status="baseline", tier=tier.name)
    stages = _Stages(progress, total=5)
    stages.begin("real-train")
    rows = _real(base, ref, n, stages.on_progress)
    stages.begin("train-copies")
    copied = subset(found.train, n, found.key, "copies")
    rows += _as_samples(base, "train-copies", copied.x, copied.y, ref, stages.on_progress)
    stages.begin("gaussian")
    rows += _as_samples(base, "gaussian", _gaussian_samples(found, n), None, ref, stages.on_progress)
    stages.begin("uniform")
    if found.space.levels:
        noise = Noise("uniform", found.key).integers(found.space.levels, n, *found.space.shape).to(torch.uint8)
        rows += _as_samples(base, "uniform", noise, None, ref, stages.on_progress)
    stages.begin("likelihood")
    rows += likelihood_rows(base, found, tier, stages.on_progress)
    shown = subset(found.test, pictures.kept_of(found), found.key, "grid")
    with locked(folder):
        pictures.keep(folder, Pool(Plan("real"), shown.x, shown.y, None), found)
        save_rows(folder, rows, key)
    progress.update("baselines", stages.total, stages.total)
    return rows


def has_baselines(name: Name, tier: Tier, folder: Path) -> bool:
    """Whether `score_baselines` would find its rows ready."""
    return _are_ready(runs.dataset(name), tier, folder)


def _are_ready(found: Dataset, tier: Tier, folder: Path) -> bool:
    return kept.rows_under(folder, _key(found, tier)) is not None


def _key(found: Dataset, tier: Tier) -> str:
    return Protocol(found, tier).key("baselines")


def floor(
    name: Name,
    n: int,
    tier: Tier | None = None,
    folder: Path | None = None,
    specs: Sequence[str] = (),
    on_progress: OnProgress = silent,
) -> list[Row]:
    """What n real training examples score as if they were samples: rows of the recipe "real-train", split "test".

    folder: where `score_baselines` of the tier may have kept them; else they are made. specs: further feature spaces.
    """
    found = runs.dataset(name)
    if tier is not None and folder is not None and _are_ready(found, tier, folder):
        return [row for row in load_rows(folder) if row.recipe == "real-train" and row.split == "test"]
    refs = [reference_of(found, on_progress=on_progress)]
    refs += [reference_of(found, tuple(specs), on_progress=on_progress)] if specs else []
    return floor_rows(refs, n, tier.name if tier else "", on_progress)


def floor_rows(refs: Sequence[Reference], n: int, tier: str = "", on_progress: OnProgress = silent) -> list[Row]:
    """The rows of `floor`, made against references of one data set."""
    found = refs[0].dataset
    base = dataclasses.replace(row_of_data(found), status="baseline", tier=tier, recipe="real-train")
    real = subset(found.train, n, found.key, "floor")
    return [
        row
        for ref in refs
        for row in quality.rows(base, real.x, real.y, ref, ("test",), copies=False, on_progress=on_progress)
    ]


def _as_samples(
    base: Row, recipe: str, x: Tensor, y: Tensor | None, ref: Reference, on_progress: OnProgress
) -> list[Row]:
    """The rows of a baseline's samples x (N, *shape), against both splits."""
    return quality.rows(dataclasses.replace(base, recipe=recipe), x, y, ref, on_progress=on_progress)


def _real(base: Row, ref: Reference, n: int, on_progress: OnProgress) -> list[Row]:
    """The rows of real data as if they were samples: each split against the other."""
    found, real = ref.dataset, dataclasses.replace(base, recipe="real-train")
    seen, unseen = subset(found.train, n, found.key, "floor"), subset(found.test, n, found.key, "floor")
    rows = quality.rows(real, seen.x, seen.y, ref, ("test",), copies=False, on_progress=on_progress)
    rows += quality.rows(real, unseen.x, unseen.y, ref, ("train",), copies=False, on_progress=on_progress)
    if ref.spaces:
        # Half of the held-out examples, which are no copies, with the other half as the held-out ones.
        some, others = (ref.every_second(first, n) for first in (0, 1))
        rows += quality.memorisation(real, some.real["test"], some.features["test"], others, on_progress)
    return rows


def _gaussian_samples(found: Dataset, n: int) -> Tensor:
    """n samples of a Gaussian fitted to the training examples, as the data is stored."""
    space = found.space
    fitted = fit_pixels(space.encode(found.train.x).flatten(1).double())
    return space.decode(fitted.sample(n, Noise("gaussian", found.key)).float().view(n, *space.shape))


def likelihood_rows(base: Row, found: Dataset, tier: Tier, on_progress: OnProgress = silent) -> list[Row]:
    """The negative log-likelihoods of test and training examples under models that need no training, as rows."""
    space, unit = found.space, unit_of(found.space)
    table = Rows(dataclasses.replace(base, metric=unit.metric, unit=unit.name, split="test"))
    train = space.encode(found.train.x).flatten(1).double()
    gaussian: Gaussian | None = None
    with table.having(recipe="gaussian", **_gaussian_columns(found)).part(unit.metric):
        gaussian = fit_density(train, space.levels)
    on_progress("fit", 1, 1)
    histograms: Tensor | None = None
    if space.levels:
        histograms = log_histograms(found.train.x, space.levels, tell_of(on_progress, "histograms"))
    for examples in examples_of(found, tier):
        on_progress(examples.split, 0, 1)
        for columns, value in _densities(examples, gaussian, histograms):
            here = dataclasses.replace(table.base, split=examples.split, n=len(value), **columns)
            row = mean_row(here, value, unit, examples.places)
            table.made.append(row)
            if not space.levels and examples.entropy is not None:
                table.made.append(divergence(row, value, examples))
    if found.density is not None and found.density.entropy is not None:
        truth = dataclasses.replace(base, recipe="real-train", metric="entropy", unit="nats", relation="=")
        table.made.append(dataclasses.replace(truth, value=found.density.entropy))
    return table.made


def _gaussian_columns(found: Dataset) -> dict[str, Any]:
    """The kind of the fitted Gaussian's likelihood: a bound where the data are dequantised for it."""
    kind, relation = ("exact, dequantised", "≤") if found.space.levels else ("exact", "=")
    return {"kind": kind, "relation": relation}


def _densities(
    examples: Examples, gaussian: Gaussian | None, histograms: Tensor | None
) -> list[tuple[dict[str, Any], Tensor]]:
    """For each baseline its columns and the log mass (N,), in nats, of the examples; of vectors the log density."""
    space, part = examples.found.space, examples.part
    x = space.encode(part.x).flatten(1).double()
    made: list[tuple[dict[str, Any], Tensor]] = []
    if histograms is not None:
        exact = {"kind": "exact", "relation": "="}
        uniform = torch.full((len(x),), -space.dim * math.log(space.levels), dtype=torch.float64)
        pixels = histograms.gather(0, part.x.flatten(1).long()).sum(1)
        made = [({"recipe": "uniform", **exact}, uniform), ({"recipe": "pixel-histograms", **exact}, pixels)]
    if gaussian is not None:
        offset = 0.0
        if space.levels:
            u = Noise("likelihood", examples.found.key, examples.split).uniform(*x.shape).double()
            x, offset = x + (u - 0.5) * (2 / space.levels), space.dim * math.log(2 / space.levels)
        columns = {"recipe": "gaussian", **_gaussian_columns(examples.found)}
        made.append((columns, gaussian.log_prob(x) + offset))
    return made
