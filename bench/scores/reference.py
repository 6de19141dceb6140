"""The real data that samples are compared with, and their features."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from bench.data import Dataset
from bench.features import Features, FeatureSpace, cached, named, shipped, spaces_for
from bench.scores.work import OnProgress, silent, tell_of
from paradigms.core.data import Data
from paradigms.core.noise import seed_of

__all__ = ["REFERENCE", "Reference", "forget", "reference_of", "subset"]

REFERENCE = 10_000  # real examples of either split behind a quality number, at most
WIDE = 25  # training examples per feature in a wide space (2,048 features), where a Frechet distance needs more of them

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

    def every_second(self, first: int, n: int) -> Reference:
        """The reference whose held-out examples are every second one of these from `first` on, n of them at most."""

        def part(x: Tensor) -> Tensor:
            return x[first::2][:n]

        features = tuple(
            Features(part(f.values), None if f.logits is None else part(f.logits), f.space)
            for f in self.features["test"]
        )
        return dataclasses.replace(
            self, real={**self.real, "test": part(self.real["test"])}, features={**self.features, "test": features}
        )


def subset(data: Data, n: int, name: str, split: str) -> Data:
    """The first n of a fixed shuffle of a split: the same examples for every run. name: the data set's `key`."""
    if n >= len(data):
        return data
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed_of("subset", name, split)))[:n]
    return dataclasses.replace(data, x=data.x[order], y=None if data.y is None else data.y[order])


def reference_of(
    found: Dataset,
    specs: tuple[str, ...] = (),
    device: torch.device | str = "cpu",
    on_progress: OnProgress = silent,
) -> Reference:
    """The reference of a data set in its own feature spaces, or in those that a user named; kept in this process.

    Features are computed and compared on `device`.
    """
    return _reference(found, specs, torch.device(device), _Listener(on_progress))


@dataclass(frozen=True)
class _Listener:
    """The callback of work whose result is cached. All are equal, because the result does not depend on it."""

    on_progress: OnProgress = field(compare=False)


def forget() -> None:
    """Drops the references that this process keeps: a user's own data may have changed on disk."""
    _reference.cache_clear()


@lru_cache(maxsize=4)
def _reference(found: Dataset, specs: tuple[str, ...], device: torch.device, listener: _Listener) -> Reference:
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
        tell = tell_of(listener.on_progress, f"features of real images, {space.name}, {split}")
        return cached(space, found, split, wide, tell)

    kept = {split: tuple(features(space, split) for space in spaces) for split in parts}
    channels = shipped(found.stacked).on(device) if found.stacked else None
    return Reference(found, spaces, real, labels, kept, channels, device)
