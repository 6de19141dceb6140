"""Metamorphic checks: what makes samples worse in a known way moves every metric that should see it, step by step.

`pytest -s` prints the table: corruption, metric, values from the uncorrupted samples on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product

import pytest
import torch
from helpers import thinned
from torch import Tensor
from torch.nn.functional import avg_pool2d

from bench.data import load
from bench.features import Features, FeatureSpace, random_conv, shipped
from bench.metrics import (
    classification_accuracy_score,
    classifier_score,
    extrapolated_distance,
    label_accuracy,
    likelihood_gap,
    memorisation,
    quality,
    sharpness,
    vector_quality,
)

DATA = load("digits")
TRAIN, TEST = DATA.train.x, DATA.test.x
assert DATA.train.y is not None
assert DATA.test.y is not None
LABELS, TRUTH = DATA.train.y, DATA.test.y
ROWS: list[tuple[str, str, list[float]]] = []


@pytest.fixture(scope="module", autouse=True)
def printed() -> Iterator[None]:
    """The table of moves, with `pytest -s`."""
    yield
    print(f"\n{'corruption':28} {'metric':18} values, from none to most")
    for corruption, metric, values in ROWS:
        print(f"{corruption:28} {metric:18} {'  '.join(f'{v:10.4g}' for v in values)}")


def noise_like(x: Tensor, seed: int = 0) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def whole(x: Tensor) -> Tensor:
    return x.round().clamp(0, 16).to(torch.uint8)


def noisy(level: float) -> Tensor:
    return whole(TRAIN + level * noise_like(TRAIN))


def blurred(level: float) -> Tensor:
    x = TRAIN.float()
    return whole((1 - level) * x + level * avg_pool2d(x, 3, 1, 1, count_include_pad=False))


def dropped(kept: int) -> Tensor:
    """As many samples as ever, of the first `kept` classes."""
    some = TRAIN[kept > LABELS]
    return some[torch.arange(len(TRAIN)) % len(some)]


def repeated(times: int) -> Tensor:
    """Every one of a few samples `times` over."""
    few = TRAIN[:: int(times)]
    return few[torch.arange(len(TRAIN)) % len(few)]


def coarse(levels: int) -> Tensor:
    step = 16 / (levels - 1)
    return whole((TRAIN / step).round() * step)


# corruption -> (what makes it, its levels, metric -> direction in which the metric must go at every step)
SHARED = {"fd": 1, "fd_inf": 1, "kd": 1}
CORRUPTIONS: dict[str, tuple[Callable[..., Tensor], Sequence[float], dict[str, int]]] = {
    "noise": (noisy, (0, 1.5, 3, 6), {**SHARED, "precision": -1, "coverage": -1, "sharpness": 1}),
    "blur": (blurred, (0, 0.3, 0.6, 1), {**SHARED, "coverage": -1, "sharpness": -1}),
    "dropped classes": (dropped, (10, 8, 5, 2), {**SHARED, "recall": -1, "coverage": -1}),
    "repeated samples": (repeated, (1, 2, 4, 8), {**SHARED, "recall": -1, "coverage": -1}),
    "quantisation": (coarse, (17, 5, 3, 2), {**SHARED, "precision": -1, "coverage": -1}),
}
# What only one of the spaces sees. A classifier takes slightly blurred digits for more typical ones: precision rises.
ALSO: dict[tuple[str, str], dict[str, int]] = {
    ("dropped classes", "classifier"): {"label_tv": 1, "label_kl": 1, "label_modes": -1, "classifier_score": -1},
    ("noise", "classifier"): {"classifier_score": -1},
    ("blur", "random-conv"): {"precision": -1},
}
SPACES = {"classifier": shipped("digits"), "random-conv": random_conv((1, 8, 8))}


def featured(space: FeatureSpace, x: Tensor) -> Features:
    return space.features(DATA.space.encode(x))


def moves(corruption: str, found: list[dict[str, float]], directions: dict[str, int]) -> None:
    for metric, direction in directions.items():
        values = [table[metric] for table in found]
        ROWS.append((corruption, metric, values))
        assert all(direction * (b - a) > 0 for a, b in pairwise(values)), f"{metric} under {corruption}: {values}"


@pytest.mark.parametrize(("corruption", "name"), thinned(list(product(CORRUPTIONS, SPACES)), lambda case: case[0]))
def test_worse_samples_score_worse_at_every_step(corruption: str, name: str) -> None:
    make, levels, directions = CORRUPTIONS[corruption]
    space = SPACES[name]
    real, found = featured(space, TEST), []
    for level in levels:
        x = make(level)
        fake = featured(space, x)
        values = [*quality(fake, real), *extrapolated_distance(fake, real), sharpness(x, TEST)]
        values += [classifier_score(fake)] if fake.logits is not None else []
        found.append({v.metric: v.value for v in values})
    moves(f"{corruption}, {name}", found, {**directions, **ALSO.get((corruption, name), {})})


def test_what_a_corruption_leaves_alone_stays() -> None:
    """Fewer classes, or few samples many times over, are no less faithful: precision must not see them."""
    real = featured(SPACES["classifier"], TEST)
    base = {v.metric: v.value for v in quality(featured(SPACES["classifier"], TRAIN), real)}
    for x in (dropped(2), repeated(64)):
        found = {v.metric: v.value for v in quality(featured(SPACES["classifier"], x), real)}
        assert found["precision"] > base["precision"] - 0.05
        assert found["recall"] < base["recall"] - 0.5


def test_copies_of_training_images_are_seen_at_every_step() -> None:
    unseen, held_out = TEST[::2], TEST[1::2]
    real = {name: (featured(space, TRAIN), featured(space, held_out)) for name, space in SPACES.items()}
    found = []
    for copied in (0, 45, 150, 300, 449):
        x = torch.cat([TRAIN[: 2 * copied : 2], unseen[copied:]])
        assert len(x) == 449
        table = {v.metric: v.value for v in memorisation(x, TRAIN, held_out)}
        for name, space in SPACES.items():
            table[f"fld_gap {name}"] = likelihood_gap(featured(space, x), *real[name]).value
        found.append(table)
    gaps = {f"fld_gap {name}": -1 for name in SPACES}
    moves("memorised training images", found, {"nn_ratio": -1, "authenticity": -1, "nn_gap": 1, **gaps})
    assert abs(found[0]["nn_gap"]) < 0.03
    assert all(found[0][gap] > -10 for gap in gaps), "unseen images are no copies"
    assert all(found[1][gap] < -20 for gap in gaps), "a tenth of copies is enough to be seen"


def test_bad_samples_are_not_taken_for_copies() -> None:
    bad = noisy(6)
    table = {v.metric: v.value for v in memorisation(bad, TRAIN, TEST)}
    gap = likelihood_gap(*(featured(SPACES["classifier"], x) for x in (bad, TRAIN, TEST)))
    assert table["nn_ratio"] > 1
    assert table["nn_gap"] < 0.1
    assert gap.value > -20


@pytest.mark.heavy
def test_wrong_labels_are_seen_at_every_step() -> None:
    real, found = featured(SPACES["classifier"], TEST), []
    fake = featured(SPACES["classifier"], TRAIN)
    for share in (0.0, 0.3, 0.6, 0.9):
        wrong = torch.rand(len(LABELS), generator=torch.Generator().manual_seed(0)) < share
        y = torch.where(wrong, (LABELS + 1 + torch.arange(len(LABELS)) % 9) % 10, LABELS)
        values = [classification_accuracy_score(fake, y, real, TRUTH), label_accuracy(fake, y)]
        found.append({v.metric: v.value for v in values})
    moves("wrong labels", found, {"cas": -1, "label_accuracy": -1})
    assert found[0]["cas"] > 0.95


# --------------------------------------------------------------------------------------------------------- vectors

RING = load("ring8")
ALL = {"w2": 1, "sw2": 1, "mmd2": 1, "energy": 1, "c2st": 1}


def wider(level: float) -> Tensor:
    x = RING.train.x[:800]
    return x + level * noise_like(x)


def lost(kept: int) -> Tensor:
    """As many samples as ever, of the first `kept` modes."""
    assert RING.density is not None
    assert RING.density.modes is not None
    x = RING.train.x[:4000]
    return x[torch.cdist(x.double(), RING.density.modes.double()).argmin(1) < kept][:800]


def moved(level: float) -> Tensor:
    return RING.train.x[:800] + level


VECTORS: dict[str, tuple[Callable[..., Tensor], Sequence[float], dict[str, int]]] = {
    "noise, ring8": (wider, (0, 0.3, 0.6, 1.2), {**ALL, "off_support": 1}),
    "lost modes, ring8": (lost, (8, 6, 4, 2), {**ALL, "modes": -1, "mode_tv": 1}),
    # The classifier tells all from the first step on: its modes are 0.1 wide.
    "shift, ring8": (moved, (0, 0.3, 0.6, 1.2), {metric: 1 for metric in ALL if metric != "c2st"}),
}


@pytest.mark.parametrize("corruption", VECTORS)
def test_worse_vectors_score_worse_at_every_step(corruption: str) -> None:
    make, levels, directions = VECTORS[corruption]
    tables = [vector_quality(make(level), RING.test.x[:800], RING.density) for level in levels]
    found = [{v.metric: v.value for v in values} for values in tables]
    moves(corruption, found, directions)
    assert found[0]["c2st"] == pytest.approx(0.5, abs=0.03)
